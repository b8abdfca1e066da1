//! While a part is away: readiness tells the truth, orders are refused in time or kept for later, and xtask
//! says what is the matter.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    client::{TestUser, text},
    reconciliation::undecided,
    system::System,
    wait,
};

/// A service notices within two seconds that its database or broker is away.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);
/// Reconnecting takes at most five seconds.
const DECIDED_WITHIN: Duration = Duration::from_secs(30);
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
    during_an_outage("postgres", &everybody, |system, ada| {
        refuses_an_order_in_time(system, ada);
        commands_name_the_cause(system);
        0
    });
}

#[test]
fn while_the_broker_is_away_orders_are_taken_and_decided_afterwards() {
    during_an_outage(
        "rabbitmq",
        &["order-service", "inventory-service"],
        |system, ada| {
            // The order and its event are rows of one database: the broker is needed later.
            ada.try_to_order(&system.gateway).expect_status(202);
            assert!(undecided(system) > 0);
            1
        },
    );
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

/// Takes a part away, waits until `status` names who suffers, and does what is to be seen then: `orders` says
/// how many were accepted. Afterwards everything goes on, and those orders are decided.
fn during_an_outage(part: &str, dependents: &[&str], orders: impl Fn(&System, &TestUser) -> i64) {
    let system = System::take_turn();
    let ada = TestUser::new(&system.gateway);
    let before = ada.available(&system.gateway);
    let outage = system.kill(part);
    let at_once = orders(&system, &ada);

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
    let later = orders(&system, &ada);

    drop(outage);
    system.wait_until_healthy();
    ada.order(&system.gateway);
    ada.wait_for_stock(&system.gateway, before - at_once - later - 1);
    wait::until(
        "the end of all orders",
        DECIDED_WITHIN,
        || match undecided(&system) {
            0 => Ok(()),
            count => Err(format!("{count} are not decided")),
        },
    );
}

#[track_caller]
fn refuses_an_order_in_time(system: &System, user: &TestUser) {
    let asked = Instant::now();
    let refused = user.try_to_order(&system.gateway).expect_status(503);
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
