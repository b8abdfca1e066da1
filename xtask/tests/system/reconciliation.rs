//! Accounting for orders: what was promised to a client against the order, its reservation and the stock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use load_record::LedgerEntry;

use crate::{system::System, wait};

/// What each product starts with.
const INITIAL_STOCK: u32 = 1_000_000;
/// The retry tiers take 31 s, one after the other.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// Product and quantity, by order id.
type Orders = BTreeMap<String, (i64, u32)>;

/// Panics unless every order that somebody was promised, or that the broker confirmed, exists and took its
/// stock exactly once.
#[track_caller]
pub(crate) fn reconcile(system: &System, ledger: &[LedgerEntry]) {
    let promised: Orders = ledger
        .iter()
        .filter_map(|entry| Some((entry.order_id.clone()?, (entry.product_id, entry.quantity))))
        .collect();
    let stored = orders(
        system,
        "orders",
        "SELECT id, product_id, quantity FROM orders",
    );
    assert_eq!(
        missing(&promised, &stored),
        [""; 0],
        "promised, and not stored as promised"
    );

    // Those of earlier runs, and those whose answer got lost.
    let confirmed = "SELECT id, product_id, quantity FROM orders WHERE announced_at IS NOT NULL";
    let mut owed = orders(system, "orders", confirmed);
    owed.extend(promised);
    let reserved = wait::until("the reservations of all orders", SETTLED_WITHIN, || {
        let reserved =
            "SELECT order_id, product_id, quantity FROM reservations WHERE outcome = 'reserved'";
        let reserved = orders(system, "inventory", reserved);
        match missing(&owed, &reserved).as_slice() {
            [] => Ok(reserved),
            orders => Err(format!("{} without one: {orders:?}", orders.len())),
        }
    });
    // Orders that were refused with a 503 may have a reservation; one that nobody placed may not.
    assert_eq!(
        missing(&reserved, &stored),
        [""; 0],
        "reserved, and never ordered"
    );

    // A reservation is a row of its order's own, so an order that took its stock twice shows in the stock.
    let wrong_stock = system.query(
        "inventory",
        &format!(
            "SELECT product_id, available, stock.reserved, coalesce(taken.quantity, 0)
             FROM stock LEFT JOIN (SELECT product_id, sum(quantity) AS quantity FROM reservations
                                   WHERE outcome = 'reserved' GROUP BY product_id) AS taken USING (product_id)
             WHERE available + stock.reserved <> {INITIAL_STOCK}
                OR stock.reserved <> coalesce(taken.quantity, 0)"
        ),
    );
    assert!(
        wrong_stock.is_empty(),
        "product, available, reserved, sum of its reservations: {wrong_stock:?}"
    );
}

#[track_caller]
fn orders(system: &System, database: &str, sql: &str) -> Orders {
    let number = |text: &String| text.parse::<i64>().expect("a number");
    let rows = system.query(database, sql);
    rows.iter()
        .map(|row| match row.as_slice() {
            [id, product, quantity] => (id.clone(), (number(product), number(quantity) as u32)),
            other => panic!("expected id, product and quantity, found {other:?}"),
        })
        .collect()
}

/// The ids of `some` that `all` doesn't have, or has with another content.
fn missing<'a>(some: &'a Orders, all: &Orders) -> Vec<&'a str> {
    let differs = |(id, content): &(&String, &(i64, u32))| all.get(*id) != Some(*content);
    let ids: BTreeSet<&str> = some
        .iter()
        .filter(differs)
        .map(|(id, _)| id.as_str())
        .collect();
    ids.into_iter().collect()
}
