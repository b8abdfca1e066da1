//! The ledger of experiments on real rows: each category is seen red once, by rows that are changed by hand.
//!
//! Left out: the same on made rows, and an order's path hop by hop (the crate `evaluation`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ::system::{project::Project, running::RunningSystem};
use chrono::Utc;
use evaluation::reconciliation;
use records::{
    evaluation::{Configuration, Reconciliation},
    load::{CancellationEntry, LedgerEntry},
};
use serde_json::json;
use shared_events::topology::ORDER_EVENTS;
use support::sources;

use crate::{
    client::{STORY_PRODUCT, TestUser},
    load::RUN_ENDS_WITHIN,
    run::Run,
    system::System,
    wait,
};

const DECIDED_WITHIN: Duration = Duration::from_secs(30);
const BURIED_WITHIN: Duration = Duration::from_secs(10);
/// The order of a dead letter, and of nothing else.
const NO_ORDER: &str = "00000000-0000-7000-8000-000000000001";

/// The rows of these orders from before, put back when this is dropped.
struct Kept<'a> {
    system: &'a System,
    ids: String,
}

impl<'a> Kept<'a> {
    fn new(system: &'a System, orders: &[String]) -> Self {
        let ids = format!("ANY('{{{}}}'::uuid[])", orders.join(","));
        let keep = |table: &str, id: &str| {
            format!(
                "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT * FROM {table} WHERE {id} = {ids}"
            )
        };
        system.query("orders", &keep("orders", "id"));
        system.query("inventory", &keep("stock_movements", "order_id"));
        system.query(
            "inventory",
            "DROP TABLE IF EXISTS kept_stock; CREATE TABLE kept_stock AS SELECT * FROM stock",
        );
        Self { system, ids }
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        let ids = &self.ids;
        let orders = format!(
            "DELETE FROM orders WHERE id = {ids}; INSERT INTO orders SELECT * FROM kept; DROP TABLE kept"
        );
        let inventory = format!(
            "DELETE FROM stock_movements WHERE order_id = {ids};
             INSERT INTO stock_movements OVERRIDING SYSTEM VALUE SELECT * FROM kept; DROP TABLE kept"
        );
        let stock = "UPDATE stock SET available = kept_stock.available, reserved = kept_stock.reserved
                     FROM kept_stock WHERE kept_stock.product_id = stock.product_id; DROP TABLE kept_stock";
        // It has complained already, and the test's last look sees what is missing.
        let _ = self.system.put_back(&[
            ("orders", &orders),
            ("inventory", &inventory),
            ("inventory", stock),
        ]);
    }
}

/// Places an order under a key, and forgets the answer.
fn unanswered(system: &System, user: &TestUser, key: &str) -> LedgerEntry {
    let headers = [
        ("authorization", user.authorization.as_str()),
        ("idempotency-key", key),
    ];
    let path = format!("/orders/?product_id={STORY_PRODUCT}&quantity=1");
    system
        .gateway
        .post(&path, &headers, None)
        .expect_status(202);
    LedgerEntry {
        idempotency_key: Some(key.to_owned()),
        ..entry(user, None)
    }
}

/// What a client was answered.
fn entry(user: &TestUser, order: Option<&String>) -> LedgerEntry {
    LedgerEntry {
        intended_at: Utc::now(),
        at: Utc::now(),
        idempotency_key: None,
        user_id: user.id.clone(),
        product_id: i64::from(STORY_PRODUCT),
        quantity: 1,
        status: order.map(|_| 202),
        order_id: order.cloned(),
        trace_id: None,
        trace_sampled: None,
        latency_ms: 1,
        error: None,
    }
}

#[test]
fn each_category_of_the_ledger_is_found_on_real_rows() {
    let system = System::take_turn();
    let project =
        Project::at(sources::root(), system.project()).with_env_file(system.env_file().to_owned());
    let running = RunningSystem::new(&project).expect("a running system");
    let since = Utc::now();
    let before = reconciliation::stock(&running).expect("the stock");
    let (ada, bob) = (
        TestUser::new(&system.gateway),
        TestUser::new(&system.gateway),
    );
    let orders: Vec<String> = (0..9).map(|_| ada.order(&system.gateway)).collect();
    let [
        ghost,
        doubled,
        oversold,
        held,
        undecided,
        uncancelled,
        of_other_product,
        of_other_quantity,
        of_other_user,
    ] = orders.as_slice()
    else {
        panic!("nine orders");
    };
    let answered: Vec<LedgerEntry> = orders.iter().map(|id| entry(&ada, Some(id))).collect();
    let stored = unanswered(&system, &ada, "the ledger's key");
    let not_stored = LedgerEntry {
        idempotency_key: Some("another key".to_owned()),
        ..stored.clone()
    };
    let ledger = [&answered[..], &[stored, not_stored]].concat();
    let cancellations = [CancellationEntry {
        at: Utc::now(),
        order_id: uncancelled.clone(),
        status: Some(202),
        latency_ms: 1,
        error: None,
    }];
    let reconcile = |ledger: &[LedgerEntry], cancellations: &[CancellationEntry]| {
        let users = BTreeSet::from([ada.id.clone(), bob.id.clone()]);
        let holdings = reconciliation::read(&running, &users, since).expect("the holdings");
        holdings.reconcile(ledger, cancellations, &before, &Configuration::default())
    };
    wait::until("the orders' end", DECIDED_WITHIN, || {
        let found = reconcile(&ledger, &[]);
        match found.undecided.as_slice() {
            [] => Ok(()),
            waiting => Err(format!("{waiting:?} wait")),
        }
    });
    expect_clean(&reconcile(&ledger, &[]));
    // The order of the request without an answer, which is not in this ledger.
    assert_eq!(
        reconcile(&answered, &[]).misanswered,
        ["1 stored that nobody was promised, and 0 requests that may have stored one"]
    );

    let kept = Kept::new(&system, &orders);
    for sql in [
        format!("DELETE FROM orders WHERE id = '{ghost}'"),
        format!("UPDATE orders SET status = 'cancelled' WHERE id = '{held}'"),
        format!("UPDATE orders SET status = 'pending' WHERE id = '{undecided}'"),
        format!("UPDATE orders SET product_id = 98 WHERE id = '{of_other_product}'"),
        format!("UPDATE orders SET quantity = 2 WHERE id = '{of_other_quantity}'"),
        format!(
            "UPDATE orders SET user_id = '{}' WHERE id = '{of_other_user}'",
            bob.id
        ),
    ] {
        system.query("orders", &sql);
    }
    let mut products = before.keys().copied();
    let vanishing = products
        .rfind(|product| *product != i64::from(STORY_PRODUCT))
        .expect("another product");
    for sql in [
        format!(
            "INSERT INTO stock_movements (order_id, product_id, quantity)
             SELECT order_id, product_id, quantity FROM stock_movements WHERE order_id = '{doubled}'"
        ),
        format!("DELETE FROM stock_movements WHERE order_id = '{oversold}'"),
        // The two above would hide one another in the sum.
        format!("UPDATE stock_movements SET quantity = 3 WHERE order_id = '{uncancelled}'"),
        // It would be oversold as well.
        format!("UPDATE stock_movements SET quantity = 2 WHERE order_id = '{of_other_quantity}'"),
        format!("UPDATE stock SET available = available - 1 WHERE product_id = {vanishing}"),
    ] {
        system.query("inventory", &sql);
    }
    // The second one is about no order that anybody could look for.
    let event = json!({ "type": "agora.order.placed.v1", "subject": NO_ORDER });
    for payload in [event.to_string(), "not an event".to_owned()] {
        system.bury(ORDER_EVENTS, &payload, &json!({}));
    }
    let found = wait::until("two dead letters", BURIED_WITHIN, || {
        let found = reconcile(&ledger, &cancellations);
        match found.dead_letters.values().sum::<u64>() {
            2 => Ok(found),
            count => Err(format!("{count} dead letters")),
        }
    });
    let of = |id: &String| [id.clone()];
    assert_eq!(found.undecided, of(undecided));
    assert_eq!(
        found.lost.iter().collect::<BTreeSet<_>>(),
        BTreeSet::from([ghost, undecided])
    );
    assert_eq!(found.doubled, of(doubled));
    assert_eq!(found.oversold, of(oversold));
    assert_eq!(found.held, of(held));
    assert_eq!(found.uncancelled, of(uncancelled));
    assert_eq!(
        (found.indeterminate, found.indeterminate_stored),
        (2, Some(1))
    );
    let made = "event in inventory-service's outbox, event in order-service's outbox, reservation, stock movement";
    assert_eq!(
        found.ghosts,
        [
            format!("{NO_ORDER}: dead letter"),
            format!("{ghost}: {made}")
        ]
    );
    let unread = "none given, of an order that can't be read";
    assert_eq!(
        found.dead_letters,
        BTreeMap::from([("none given".to_owned(), 1), (unread.to_owned(), 1)])
    );
    let misanswered: BTreeSet<&str> = found
        .misanswered
        .iter()
        .filter_map(|one| one.split(':').next())
        .collect();
    assert_eq!(
        misanswered,
        BTreeSet::from([of_other_product, of_other_quantity, of_other_user].map(String::as_str)),
        "{:?}",
        found.misanswered
    );
    let [sum, total] = found.unbalanced.as_slice() else {
        panic!("{:?}", found.unbalanced);
    };
    assert!(sum.contains("its movements add up"), "{sum}");
    assert!(
        total.starts_with(&format!("product {vanishing}: ")),
        "{total}"
    );

    drop(kept);
    wait::until("no dead letter", BURIED_WITHIN, || {
        system.purge_dead_letters();
        match reconcile(&ledger, &[]).dead_letters.is_empty() {
            true => Ok(()),
            false => Err("one is left".to_owned()),
        }
    });
    expect_clean(&reconcile(&ledger, &[]));
}

#[track_caller]
fn expect_clean(found: &Reconciliation) {
    let lists = [
        &found.lost,
        &found.undecided,
        &found.doubled,
        &found.oversold,
        &found.held,
        &found.uncancelled,
        &found.ghosts,
        &found.misanswered,
        &found.unbalanced,
    ];
    assert!(lists.iter().all(|list| list.is_empty()), "{found:?}");
}

/// An order without an end, which gets its status back when this is dropped.
struct Undecided<'a> {
    system: &'a System,
    set: String,
}

impl<'a> Undecided<'a> {
    fn make(system: &'a System, order: &str) -> Self {
        let status = format!("SELECT status FROM orders WHERE id = '{order}'");
        let before = system.query("orders", &status)[0][0].clone();
        let set =
            |status: &str| format!("UPDATE orders SET status = '{status}' WHERE id = '{order}'");
        system.query("orders", &set("pending"));
        Self {
            system,
            set: set(&before),
        }
    }
}

impl Drop for Undecided<'_> {
    fn drop(&mut self) {
        // It has complained already.
        let _ = self.system.put_back(&[("orders", &self.set)]);
    }
}

#[test]
fn verify_ledger_holds_after_a_load_and_fails_when_a_promise_is_not_kept() {
    let system = System::take_turn();
    let load = [
        "load",
        "order",
        "--run-time",
        "3s",
        "--users",
        "3",
        "--format",
        "json",
    ];
    let load = system.start_xtask(&load).end_within(RUN_ENDS_WITHIN);
    let run = Run::of(&load.expect_code(0).json());
    let verify = ["verify-ledger", "--run", &run.id, "--format", "json"];
    let report = system.xtask(&verify).expect_code(0).json();
    assert_eq!(report["outcome"], "holds");
    let order = run.ledger().into_iter().find_map(|entry| entry.order_id);
    let order = order.expect("an order that was promised");

    let undecided = Undecided::make(&system, &order);
    let at_once = [&verify[..], &["--within", "0s"]].concat();
    let report = system.xtask(&at_once).expect_code(1).json();
    for category in ["lost", "undecided"] {
        assert_eq!(report[category], json!([order]), "{category}");
    }
    drop(undecided);
    system.xtask(&verify).expect_code(0);
}
