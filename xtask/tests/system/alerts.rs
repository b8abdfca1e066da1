//! Alerts in the running system: each comes when there is a reason, and goes with it. What a rule says is tested by
//! `promtool`; here it is seen that the figures it asks for are there.

use std::time::Duration;

use serde_json::Value;
use shared_events::topology::ORDER_EVENTS;

use crate::{client::Person, system::System, wait};

/// The longest `for` of these alerts is 30 s; figures are scraped and rules evaluated every 5 s, and RabbitMQ's own
/// are 5 s old.
const FIRES_WITHIN: Duration = Duration::from_secs(60);
const CLEARS_WITHIN: Duration = Duration::from_secs(45);

/// The names of the alerts that are firing.
fn firing(system: &System) -> Vec<String> {
    let report = system.xtask(&["alerts", "--format", "json"]).json();
    let alerts = report["alerts"].as_array().expect("a list");
    let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
    firing
        .filter_map(|alert| alert["name"].as_str().map(str::to_owned))
        .collect()
}

#[track_caller]
fn fire(system: &System, expected: &[&str]) {
    wait::until("the alerts to fire", FIRES_WITHIN, || {
        let firing = firing(system);
        let all = expected.iter().all(|name| firing.iter().any(|f| f == name));
        all.then_some(()).ok_or(format!("{firing:?}"))
    });
    system.xtask(&["alerts"]).expect_code(1);
}

#[track_caller]
fn clear(system: &System, expected: &[&str]) {
    wait::until("the alerts to clear", CLEARS_WITHIN, || {
        let firing = firing(system);
        let none = expected.iter().all(|name| firing.iter().all(|f| f != name));
        none.then_some(()).ok_or(format!("{firing:?}"))
    });
}

#[test]
fn a_dead_letter_raises_an_alert_until_it_is_gone() {
    let system = System::take_turn();
    clear(&system, &["DeadLettersPresent"]);
    system.publish(ORDER_EVENTS, "order.placed.v1", "not an event");
    fire(&system, &["DeadLettersPresent"]);
    let report = system.xtask(&["alerts", "--format", "json"]).json();
    let alerts: &Vec<Value> = report["alerts"].as_array().expect("a list");
    let letters = alerts.iter().find(|a| a["name"] == "DeadLettersPresent");
    let letters = letters.expect("it is still firing");
    assert_eq!(letters["summary"], "dead letters in order_events.dead: 1");
    assert_eq!(letters["runbook"], "docs/runbook.md#deadletterspresent");
    system.purge_dead_letters();
    clear(&system, &["DeadLettersPresent"]);
}

#[test]
fn a_consumer_that_is_away_raises_alerts_until_it_is_back() {
    let system = System::take_turn();
    let expected = ["NobodyConsumes", "TargetDown"];
    clear(&system, &expected);
    let outage = system.kill("inventory-service");
    fire(&system, &expected);
    drop(outage);
    clear(&system, &expected);
}

#[test]
fn an_event_that_nobody_takes_raises_an_alert_until_it_is_published() {
    let system = System::take_turn();
    clear(&system, &["OutboxStalled"]);
    let ada = Person::new(&system.gateway);
    let outage = system.kill("rabbitmq");
    ada.try_to_order(&system.gateway).expect_status(202);
    fire(&system, &["OutboxStalled"]);
    drop(outage);
    clear(&system, &["OutboxStalled"]);
}
