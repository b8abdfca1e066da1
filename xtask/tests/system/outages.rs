//! While a part is away: readiness tells the truth, orders are refused in time, and xtask says what is the
//! matter.

use std::time::{Duration, Instant};

use crate::{client::Person, system::System, wait};

/// Health checks come every two seconds, and three have to fail.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);
/// The services' own limit for a request is 10 s.
const ANSWERED_WITHIN: Duration = Duration::from_secs(11);

#[test]
fn while_the_database_is_away_orders_are_refused_in_time() {
    refuses_orders_without(
        "postgres",
        &[
            "user-service",
            "product-service",
            "order-service",
            "inventory-service",
        ],
    );
}

#[test]
fn while_the_broker_is_away_orders_are_refused_in_time() {
    refuses_orders_without("rabbitmq", &["order-service", "inventory-service"]);
}

fn refuses_orders_without(part: &str, dependent: &[&str]) {
    let system = System::take_turn();
    let ada = Person::new(&system.gateway);
    let before = ada.available(&system.gateway);
    let outage = system.kill(part);

    for moment in ["at once", "a little later"] {
        let asked = Instant::now();
        let refused = ada.try_to_order(&system.gateway);
        assert_eq!(refused.status, 503, "{moment}: {}", refused.body);
        assert!(
            asked.elapsed() < ANSWERED_WITHIN,
            "{moment}: after {:?}",
            asked.elapsed()
        );
        assert_eq!(refused.content_type, "application/problem+json");
        assert_eq!(refused.json()["type"], "urn:agora:problem:unavailable");
    }
    let mut sick: Vec<&str> = dependent.to_vec();
    sick.push(part);
    wait::until("status to name who suffers", NOTICED_WITHIN, || {
        let status = system.xtask(&["status", "--format", "json"]);
        let report = status.json();
        let services = report["services"].as_array().expect("`services` is a list");
        let unhealthy = |service: &&serde_json::Value| service["healthy"] == false;
        let mut named: Vec<&str> = services
            .iter()
            .filter(unhealthy)
            .filter_map(|service| service["service"].as_str())
            .collect();
        named.sort_unstable();
        sick.sort_unstable();
        if status.code == Some(1) && named == sick {
            Ok(())
        } else {
            Err(status.account())
        }
    });
    let refused = system.xtask(&["load", "checkout"]).expect_code(3).stderr;
    assert!(refused.contains("next: `cargo xtask up`"), "{refused}");
    let story = system
        .xtask(&["smoke", "--format", "json"])
        .expect_code(1)
        .json();
    assert_eq!(story["outcome"], "failed");
    assert!(
        story["failure"]["cause"]
            .as_str()
            .is_some_and(|cause| cause.contains("503")),
        "{story}"
    );
    assert!(
        story["failure"]["log"]
            .as_str()
            .is_some_and(|log| !log.is_empty()),
        "{story}"
    );

    drop(outage);
    system.wait_until_healthy();
    ada.order(&system.gateway);
    ada.wait_for_stock(&system.gateway, before - 1);
}
