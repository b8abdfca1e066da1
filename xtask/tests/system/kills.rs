//! Parts are killed under load and started again: everything comes back by itself, and every order that was
//! promised is accounted for. With a pattern off one of these kills shows what the pattern is for.

use std::time::Duration;

use crate::{
    load::RUN_ENDS_WITHIN,
    program::{EXIT_INTERRUPTED, Ended},
    reconciliation::{promised, reconcile, settle_by_hand, undecided},
    run::Run,
    system::System,
    wait,
};

/// Half a minute of it a load may take until it starts, and as long again on a busy machine.
pub(crate) const UNDER_WAY_WITHIN: Duration = Duration::from_secs(120);
const OUTAGE: Duration = Duration::from_secs(3);
/// So many orders are placed before the kill.
const ORDERS_BEFORE: u64 = 50;

#[test]
fn a_kill_of_the_database_under_load_loses_no_promised_order() {
    let verdict = kill_under_load("postgres", Clients::Suffer);
    let verdict = verdict.expect_code(0).stdout;
    assert!(verdict.contains("agree"), "{verdict}");
}

#[test]
fn a_kill_of_the_broker_under_load_loses_no_promised_order_and_no_client_notices() {
    let verdict = kill_under_load("rabbitmq", Clients::NoticeNothing);
    let verdict = verdict.expect_code(0).stdout;
    assert!(verdict.contains("agree"), "{verdict}");
}

#[test]
fn a_kill_of_user_service_under_load_loses_no_promised_order() {
    let verdict = kill_under_load("user-service", Clients::Suffer);
    let verdict = verdict.expect_code(4).stdout;
    assert!(
        verdict.contains("user-service restarted during the run"),
        "{verdict}"
    );
}

/// Whether an outage is seen from outside.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Clients {
    Suffer,
    NoticeNothing,
}

/// Returns what `verify-metrics` says of the run.
fn kill_under_load(victim: &str, clients: Clients) -> Ended {
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
    let suffered = summary.failed > 0;
    assert_eq!(suffered, clients == Clients::Suffer, "{summary:?}");
    assert!(summary.orders.accepted >= ORDERS_BEFORE, "{summary:?}");
    reconcile(&system, &run.ledger());
    system
        .xtask(&["verify-ledger", "--run", &run.id])
        .expect_code(0);
    system.xtask(&["verify-dlq"]).expect_code(0);
    system.xtask(&["verify-metrics", "--run", &run.id])
}

pub(crate) fn placed_orders(system: &System) -> u64 {
    let rows = system.query("orders", "SELECT count(*) FROM orders");
    rows[0][0].parse().expect("a count")
}

/// All that an order depends on, in the order in which they are killed.
const VICTIMS: [&str; 4] = ["rabbitmq", "postgres", "order-service", "inventory-service"];
/// So many orders are placed between one kill and the next.
const ORDERS_BETWEEN: u64 = 150;
/// Longer than two statements may take: whoever wants the table meanwhile fails, together with others and then alone,
/// and may try again.
const TABLE_LOCKED_SECONDS: u32 = 12;
/// An order under way moves on within a second; what waits in a retry tier is waited for before.
const UNCHANGED_FOR: Duration = Duration::from_secs(8);
const UNCHANGED_WITHIN: Duration = Duration::from_secs(120);

#[test]
fn two_thousand_orders_outlive_a_kill_of_everything_they_depend_on() {
    let system = System::take_turn();
    let run = kill_each(&system, &VICTIMS, 2_500);
    let accepted = promised(&run.ledger()).len();
    assert!(accepted >= 2_000, "only {accepted} orders were accepted");
    reconcile(&system, &run.ledger());
    system.xtask(&["verify-dlq"]).expect_code(0);
    println!("{accepted} orders accepted, all decided, none doubled, 0 dead letters");
}

#[test]
fn without_the_outbox_a_kill_of_the_broker_loses_orders() {
    let system = System::take_turn();
    let naive = system.without("OUTBOX");
    let run = kill_each(&system, &["rabbitmq"], 0);
    let lost = undecided_for_good(&system);
    println!(
        "outbox off: of {} accepted orders, {lost} are never decided",
        promised(&run.ledger()).len()
    );
    drop(naive);
    settle_by_hand(&system);
    assert!(lost > 0);
}

#[test]
fn without_retries_a_locked_table_and_a_kill_fill_the_dead_letter_queue() {
    let system = System::take_turn();
    let naive = system.without("RETRY");
    kill_each(&system, &["postgres"], 0);
    undecided_for_good(&system);
    let verdict = system
        .xtask(&["verify-dlq", "--format", "json"])
        .expect_code(1)
        .json();
    println!(
        "retry off: {} dead letters: {}",
        verdict["total"], verdict["reasons"]
    );
    drop(naive);
    // They are orders like any other: sent again, they are decided.
    system.xtask(&["dlq", "replay", "--all"]).expect_code(0);
    reconcile(&system, &[]);
}

/// How many orders are left when nothing moves any more.
fn undecided_for_good(system: &System) -> u64 {
    system.xtask(&["verify-dlq", "--settled"]);
    wait::until("orders to stand still", UNCHANGED_WITHIN, || {
        let before = undecided(system);
        wait::pause(UNCHANGED_FOR);
        match undecided(system) {
            after if after == before => Ok(after),
            after => Err(format!("{before} undecided orders became {after}")),
        }
    })
}

/// Puts load on the system, locks a table for longer than anybody waits, kills each of the victims once, and goes on
/// until there were so many orders; what the load generator saw.
fn kill_each(system: &System, victims: &[&str], orders: u64) -> Run {
    let before = placed_orders(system);
    let load = system.start_xtask(&[
        "load",
        "checkout",
        "--run-time",
        // Ended when everything was seen, however long that takes.
        "10m",
        "--users",
        "10",
        // Requests fail, of course; what was promised is what counts.
        "--max-error-rate",
        "1",
    ]);
    // How quickly orders come is no subject of these tests, only that they go on coming.
    let wait_for = |orders| {
        let mut placed = placed_orders(system);
        while placed < orders {
            placed = wait::until("another order of the run", UNDER_WAY_WITHIN, || {
                load.expect_running();
                match placed_orders(system) {
                    now if now > placed => Ok(now),
                    _ => Err(format!("{placed} of {orders} so far")),
                }
            });
        }
    };
    wait_for(before + ORDERS_BETWEEN);
    let lock = "BEGIN; LOCK TABLE stock IN ACCESS EXCLUSIVE MODE";
    let lock = format!("{lock}; SELECT pg_sleep({TABLE_LOCKED_SECONDS}); COMMIT");
    system.query("inventory", &lock);
    for victim in victims {
        wait_for(placed_orders(system) + ORDERS_BETWEEN);
        let outage = system.kill(victim);
        wait::pause(OUTAGE);
        load.expect_running();
        drop(outage);
        system.wait_until_healthy();
    }
    wait_for(before + orders);
    let ended = load.interrupt(RUN_ENDS_WITHIN);
    Run::named_by(&ended.expect_code(EXIT_INTERRUPTED))
}
