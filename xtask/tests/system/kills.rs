//! A part is killed under load and started again: everything comes back by itself, and every order that was
//! promised is accounted for.

use std::time::Duration;

use crate::{
    load::{RUN_ENDS_WITHIN, Run},
    program::Ended,
    reconciliation::reconcile,
    system::System,
    wait,
};

const UNDER_WAY_WITHIN: Duration = Duration::from_secs(60);
const OUTAGE: Duration = Duration::from_secs(3);
/// So many orders are placed before the kill.
const ORDERS_BEFORE: u64 = 50;

#[test]
fn a_kill_of_the_database_under_load_loses_no_promised_order() {
    let verdict = kill_under_load("postgres");
    let verdict = verdict.expect_code(0).stdout;
    assert!(verdict.contains("agree"), "{verdict}");
}

#[test]
fn a_kill_of_the_broker_under_load_loses_no_promised_order() {
    let verdict = kill_under_load("rabbitmq");
    let verdict = verdict.expect_code(0).stdout;
    assert!(verdict.contains("agree"), "{verdict}");
}

#[test]
fn a_kill_of_order_service_under_load_loses_no_promised_order() {
    let verdict = kill_under_load("order-service");
    let verdict = verdict.expect_code(4).stdout;
    assert!(
        verdict.contains("order-service restarted during the run"),
        "{verdict}"
    );
}

#[test]
fn a_kill_of_inventory_service_under_load_loses_no_promised_order() {
    let verdict = kill_under_load("inventory-service");
    let verdict = verdict.expect_code(4).stdout;
    assert!(
        verdict.contains("inventory-service restarted during the run"),
        "{verdict}"
    );
}

#[test]
fn a_kill_of_user_service_under_load_loses_no_promised_order() {
    let verdict = kill_under_load("user-service");
    let verdict = verdict.expect_code(4).stdout;
    assert!(
        verdict.contains("user-service restarted during the run"),
        "{verdict}"
    );
}

/// Returns what `verify-metrics` says of the run.
fn kill_under_load(victim: &str) -> Ended {
    let system = System::take_turn();
    let before = placed_orders(&system);
    let load = system.start_xtask(&[
        "load",
        "checkout",
        "--run-time",
        "15s",
        "--users",
        "5",
        "--rate-limit",
        "200",
        // Requests fail, of course; what was promised is what counts.
        "--max-error-rate",
        "1",
        "--format",
        "json",
    ]);
    wait::until("orders of the run", UNDER_WAY_WITHIN, || {
        let placed = placed_orders(&system) - before;
        if placed >= ORDERS_BEFORE {
            return Ok(());
        }
        load.expect_running();
        Err(format!("{placed} so far"))
    });
    let outage = system.kill(victim);
    wait::pause(OUTAGE);
    load.expect_running();
    drop(outage);

    let run = Run::of(&load.end_within(RUN_ENDS_WITHIN).expect_code(0).json());
    system.wait_until_healthy();
    let summary = run.summary();
    assert!(summary.failed > 0, "nobody noticed the outage: {summary:?}");
    assert!(summary.orders.accepted >= ORDERS_BEFORE, "{summary:?}");
    reconcile(&system, &run.ledger());
    system.xtask(&["verify-dlq"]).expect_code(0);
    system.xtask(&["verify-metrics", "--run", &run.id])
}

fn placed_orders(system: &System) -> u64 {
    let rows = system.query("orders", "SELECT count(*) FROM orders");
    rows[0][0].parse().expect("a count")
}
