//! While a part is away: readiness tells the truth, orders are refused in time, and xtask says what is the
//! matter.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    client::{Person, text},
    system::System,
    wait,
};

/// Health checks come every two seconds, and three have to fail.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);
/// The services' own limit for a request is 10 s.
const ANSWERED_WITHIN: Duration = Duration::from_secs(11);

#[test]
fn while_the_database_is_away_orders_are_refused_in_time() {
    let everybody = [
        "user-service",
        "product-service",
        "order-service",
        "inventory-service",
    ];
    refuses_orders_without("postgres", &everybody);
}

#[test]
fn while_the_broker_is_away_orders_are_refused_in_time() {
    refuses_orders_without("rabbitmq", &["order-service", "inventory-service"]);
}

#[test]
fn verify_dlq_without_a_broker_is_no_verdict() {
    let system = System::take_turn();
    let outage = system.kill("rabbitmq");
    let refused = system.xtask(&["verify-dlq"]).expect_code(3).stderr;
    assert!(
        refused.contains("rabbitmq") && refused.contains("next: "),
        "{refused}"
    );
    drop(outage);
}

fn refuses_orders_without(part: &str, dependents: &[&str]) {
    let system = System::take_turn();
    let ada = Person::new(&system.gateway);
    let before = ada.available(&system.gateway);
    let outage = system.kill(part);
    refuses_an_order_in_time(&system, &ada);

    let suffering: BTreeSet<String> = dependents
        .iter()
        .chain([&part])
        .map(|name| (*name).to_owned())
        .collect();
    wait::until("status to name who suffers", NOTICED_WITHIN, || {
        let status = system.xtask(&["status", "--format", "json"]);
        if status.code == Some(1) && unhealthy(&status.json()) == suffering {
            Ok(())
        } else {
            Err(status.account())
        }
    });
    refuses_an_order_in_time(&system, &ada);
    commands_name_the_cause(&system);

    drop(outage);
    system.wait_until_healthy();
    ada.order(&system.gateway);
    ada.wait_for_stock(&system.gateway, before - 1);
}

#[track_caller]
fn refuses_an_order_in_time(system: &System, person: &Person) {
    let asked = Instant::now();
    let refused = person.try_to_order(&system.gateway).expect_status(503);
    assert!(
        asked.elapsed() < ANSWERED_WITHIN,
        "after {:?}",
        asked.elapsed()
    );
    assert_eq!(refused.content_type, "application/problem+json");
    assert_eq!(refused.json()["type"], "urn:agora:problem:unavailable");
}

fn unhealthy(status: &Value) -> BTreeSet<String> {
    let services = status["services"].as_array().expect("`services` is a list");
    let unhealthy = services
        .iter()
        .filter(|service| service["healthy"] == false);
    unhealthy.map(|service| text(service, "service")).collect()
}

#[track_caller]
fn commands_name_the_cause(system: &System) {
    let refused = system.xtask(&["load", "checkout"]).expect_code(3).stderr;
    assert!(refused.contains("next: `cargo xtask up`"), "{refused}");
    let story = system
        .xtask(&["smoke", "--format", "json"])
        .expect_code(1)
        .json();
    assert_eq!(story["outcome"], "failed");
    assert!(text(&story["failure"], "cause").contains("503"), "{story}");
    assert_ne!(text(&story["failure"], "log"), "", "{story}");
}
