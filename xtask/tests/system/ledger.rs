//! The ledger of experiments on real rows: each category is seen red once, by rows that are changed by hand.
//!
//! Left out: the same on made rows, and an order's path hop by hop (the crate `evaluation`).

use std::{collections::BTreeSet, time::Duration};

use ::system::{project::Project, running::RunningSystem};
use chrono::Utc;
use evaluation::reconciliation;
use records::{
    evaluation::{Configuration, Reconciliation},
    load::{CancellationEntry, LedgerEntry},
};
use support::sources;

use crate::{
    client::{Person, STORY_PRODUCT},
    system::System,
    wait,
};

const DECIDED_WITHIN: Duration = Duration::from_secs(30);

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
        // It has complained already, and the test's last look sees what is missing.
        let _ = self
            .system
            .put_back(&[("orders", &orders), ("inventory", &inventory)]);
    }
}

/// What a client was answered.
fn entry(user: &Person, order: Option<&String>) -> LedgerEntry {
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
    let ada = Person::new(&system.gateway);
    let orders: Vec<String> = (0..7).map(|_| ada.order(&system.gateway)).collect();
    let [
        ghost,
        doubled,
        oversold,
        held,
        undecided,
        misanswered,
        uncancelled,
    ] = orders.as_slice()
    else {
        panic!("seven orders");
    };
    let mut ledger: Vec<LedgerEntry> = orders.iter().map(|id| entry(&ada, Some(id))).collect();
    ledger.push(entry(&ada, None));
    let cancellations = [CancellationEntry {
        at: Utc::now(),
        order_id: uncancelled.clone(),
        status: Some(202),
        latency_ms: 1,
        error: None,
    }];
    let reconcile = |ledger: &[LedgerEntry], cancellations: &[CancellationEntry]| {
        let users = BTreeSet::from([ada.id.clone()]);
        let holdings = reconciliation::read(&running, &users, since).expect("the holdings");
        holdings.reconcile(ledger, cancellations, &before, &Configuration::default())
    };
    wait::until("the orders' end", DECIDED_WITHIN, || {
        let found = reconcile(&ledger[..7], &[]);
        match found.undecided.as_slice() {
            [] => Ok(()),
            waiting => Err(format!("{waiting:?} wait")),
        }
    });
    expect_clean(&reconcile(&ledger[..7], &[]));

    let kept = Kept::new(&system, &orders);
    for sql in [
        format!("DELETE FROM orders WHERE id = '{ghost}'"),
        format!("UPDATE orders SET status = 'cancelled' WHERE id = '{held}'"),
        format!("UPDATE orders SET status = 'pending' WHERE id = '{undecided}'"),
        format!("UPDATE orders SET product_id = 98 WHERE id = '{misanswered}'"),
    ] {
        system.query("orders", &sql);
    }
    for sql in [
        format!(
            "INSERT INTO stock_movements (order_id, product_id, quantity)
             SELECT order_id, product_id, quantity FROM stock_movements WHERE order_id = '{doubled}'"
        ),
        format!("DELETE FROM stock_movements WHERE order_id = '{oversold}'"),
        // The two above would hide one another in the sum.
        format!("UPDATE stock_movements SET quantity = 3 WHERE order_id = '{uncancelled}'"),
    ] {
        system.query("inventory", &sql);
    }
    let found = reconcile(&ledger, &cancellations);
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
    assert_eq!((found.indeterminate, found.indeterminate_stored), (1, None));
    let made = "event in inventory-service's outbox, event in order-service's outbox, reservation, stock movement";
    assert_eq!(found.ghosts, [format!("{ghost}: {made}")]);
    assert_eq!(found.misanswered.len(), 1, "{:?}", found.misanswered);
    assert!(found.misanswered[0].starts_with(misanswered.as_str()));
    assert_eq!(found.unbalanced.len(), 1, "{:?}", found.unbalanced);

    drop(kept);
    expect_clean(&reconcile(&ledger[..7], &[]));
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
