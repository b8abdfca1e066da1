//! Accounting for orders: what was promised to a client against the order, its events, its reservation and
//! the stock, read from the databases as they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use records::load::LedgerEntry;

use crate::{client::TestUser, system::System, wait};

/// What each product starts with.
const INITIAL_STOCK: u32 = 1_000_000;
/// The retry tiers take 31 s, one after the other; a backlog and reconnecting come on top.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);

/// Reconnecting takes at most five seconds.
const DECIDED_WITHIN: Duration = Duration::from_secs(30);

/// Product and quantity, by order id.
type Orders = BTreeMap<String, (i64, u32)>;

/// Panics unless every order that is stored, and so every one that somebody was promised, came to an end and
/// took its stock exactly once or, where it was rejected or cancelled, not at all.
#[track_caller]
pub(crate) fn reconcile(system: &System, ledger: &[LedgerEntry]) {
    let promised = promised(ledger);
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
    wait::until(
        "the end of all orders",
        SETTLED_WITHIN,
        || match undecided(system) {
            0 => Ok(()),
            count => Err(format!("{count} are not decided")),
        },
    );
    for database in ["orders", "inventory"] {
        wait::until("an empty outbox", SETTLED_WITHIN, || {
            let waiting = count(
                system,
                database,
                "SELECT count(*) FROM outbox WHERE published_at IS NULL",
            );
            if waiting == 0 {
                Ok(())
            } else {
                Err(format!("{waiting} events wait in {database}"))
            }
        });
    }

    let confirmed = "SELECT id, product_id, quantity FROM orders WHERE status = 'confirmed'";
    let confirmed = orders(system, "orders", confirmed);
    let moved = "SELECT order_id, product_id, sum(quantity) FROM stock_movements
                 GROUP BY order_id, product_id HAVING sum(quantity) <> 0";
    let moved = orders(system, "inventory", moved);
    assert_eq!(
        missing(&confirmed, &moved),
        [""; 0],
        "confirmed, and the stock moved is another"
    );
    assert_eq!(
        missing(&moved, &confirmed),
        [""; 0],
        "stock moved for what isn't confirmed"
    );
    assert_eq!(doubled(system), 0, "orders that took stock more than once");

    let wrong_stock = system.query(
        "inventory",
        &format!(
            "SELECT product_id, available, stock.reserved, coalesce(moved.quantity, 0)
             FROM stock LEFT JOIN (SELECT product_id, sum(quantity) AS quantity FROM stock_movements
                                   GROUP BY product_id) AS moved USING (product_id)
             WHERE available + stock.reserved <> {INITIAL_STOCK}
                OR stock.reserved <> coalesce(moved.quantity, 0)"
        ),
    );
    assert!(
        wrong_stock.is_empty(),
        "product, available, reserved, sum of its movements: {wrong_stock:?}"
    );
}

/// Places an order of a new test user, and waits until it is confirmed.
#[track_caller]
pub(crate) fn an_order_is_confirmed(system: &System) {
    let order = TestUser::new(&system.gateway).order(&system.gateway);
    let sql = format!("SELECT status FROM orders WHERE id = '{order}'");
    wait::until(
        "the order to be confirmed",
        DECIDED_WITHIN,
        || match system.query("orders", &sql) {
            rows if rows == [["confirmed"]] => Ok(()),
            rows => Err(format!("{rows:?}")),
        },
    );
}

/// The orders that clients were promised.
pub(crate) fn promised(ledger: &[LedgerEntry]) -> Orders {
    let promise = |entry: &LedgerEntry| {
        let id = entry.order_id.clone()?;
        Some((id, (entry.product_id, entry.quantity)))
    };
    ledger.iter().filter_map(promise).collect()
}

/// How many orders have not come to an end.
#[track_caller]
pub(crate) fn undecided(system: &System) -> u64 {
    let sql = "SELECT count(*) FROM orders WHERE status IN ('pending', 'cancelling')";
    count(system, "orders", sql)
}

/// How many orders took stock more than once.
#[track_caller]
pub(crate) fn doubled(system: &System) -> u64 {
    let sql = "SELECT count(*) FROM (SELECT order_id FROM stock_movements WHERE quantity > 0
               GROUP BY order_id HAVING count(*) > 1) AS doubled";
    count(system, "inventory", sql)
}

/// Decides what will never be decided, so that the next test finds consistent data: confirms orders whose
/// stock is reserved, and forgets those that inventory never heard of.
#[track_caller]
pub(crate) fn settle_by_hand(system: &System) {
    let ids = |rows: Vec<Vec<String>>| {
        let ids: Vec<String> = rows.iter().map(|row| format!("'{}'", row[0])).collect();
        format!("ARRAY[{}]::uuid[]", ids.join(","))
    };
    let pending = ids(system.query("orders", "SELECT id FROM orders WHERE status = 'pending'"));
    let reserved = format!(
        "SELECT order_id FROM reservations WHERE outcome = 'reserved' AND order_id = ANY({pending})"
    );
    let reserved = ids(system.query("inventory", &reserved));
    for sql in [
        format!(
            "UPDATE orders SET status = 'confirmed' WHERE status = 'pending' AND id = ANY({reserved})"
        ),
        "DELETE FROM orders WHERE status IN ('pending', 'cancelling')".to_owned(),
    ] {
        system.query("orders", &sql);
    }
}

#[track_caller]
fn count(system: &System, database: &str, sql: &str) -> u64 {
    system.query(database, sql)[0][0].parse().expect("a count")
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
