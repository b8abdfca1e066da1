//! Reconciles the two services' ledgers with each other and with the promises to clients.
//!
//! Every stored order, promised or not, must end; every event must be applied, exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use shared_events::topology;
use sqlx::PgPool;
use testkit::PATIENCE;
use uuid::Uuid;

use crate::{Promises, Shop};

/// The initial stock per product.
pub type Stock = BTreeMap<i64, i64>;

/// The stock before the first order.
pub async fn stock_at_start(shop: &Shop) -> Stock {
    let rows: Vec<(i64, i64)> =
        rows(&shop.inventory, "SELECT product_id, available FROM stock").await;
    rows.into_iter().collect()
}

/// Waits until every order is decided, every event applied and the ledgers reconcile.
///
/// # Panics
/// When they don't within [`PATIENCE`]; with every discrepancy.
pub async fn reconcile(shop: &Shop, at_start: &Stock, promises: &Promises) {
    let started = Instant::now();
    loop {
        let wrong = discrepancies(shop, at_start, promises).await;
        if wrong.is_empty() {
            return;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "the ledgers don't reconcile within {PATIENCE:?}:\n{}",
            wrong.join("\n")
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The discrepancies at this moment. There may be some while messages or requests are in flight.
pub async fn discrepancies(shop: &Shop, at_start: &Stock, promises: &Promises) -> Vec<String> {
    let mut wrong = Vec::new();
    let orders = orders(shop).await;
    check_promises(promises, &orders, &mut wrong);
    check_orders(shop, &orders, &mut wrong).await;
    check_stock(shop, at_start, &orders, &mut wrong).await;
    check_events("order", &shop.orders, &shop.inventory, &mut wrong).await;
    check_events("inventory", &shop.inventory, &shop.orders, &mut wrong).await;
    for topology in topology::ALL {
        let queue = topology.dead_letter_queue();
        let depth = shop.broker.depth(&queue).await;
        if depth > 0 {
            wrong.push(format!("{queue} has {depth} messages"));
        }
    }
    wrong
}

#[derive(sqlx::FromRow)]
struct Order {
    id: Uuid,
    product_id: i64,
    quantity: i32,
    status: String,
}

async fn orders(shop: &Shop) -> BTreeMap<Uuid, Order> {
    let rows: Vec<Order> = sqlx::query_as("SELECT id, product_id, quantity, status FROM orders")
        .fetch_all(&shop.orders)
        .await
        .expect("the orders");
    rows.into_iter().map(|order| (order.id, order)).collect()
}

fn check_promises(promises: &Promises, orders: &BTreeMap<Uuid, Order>, wrong: &mut Vec<String>) {
    for promise in &promises.made {
        let id = promise.order_id;
        match orders.get(&id) {
            None => wrong.push(format!("order {id} was promised and isn't stored")),
            Some(order) if promise.cancelled && order.status != "cancelled" => wrong.push(format!(
                "order {id} was promised to be cancelled and is {}",
                order.status
            )),
            Some(_) => {}
        }
    }
    let most = promises.made.len() + promises.unanswered;
    if orders.len() > most {
        wrong.push(format!("{} orders for {most} requests", orders.len()));
    }
}

/// Compares each order with inventory-service's reservation.
async fn check_orders(shop: &Shop, orders: &BTreeMap<Uuid, Order>, wrong: &mut Vec<String>) {
    let reservations: Vec<(Uuid, String)> = rows(
        &shop.inventory,
        "SELECT order_id, outcome FROM reservations",
    )
    .await;
    let reservations: BTreeMap<_, _> = reservations.into_iter().collect();
    for id in reservations.keys().filter(|id| !orders.contains_key(id)) {
        wrong.push(format!("order {id} is known to inventory only"));
    }
    let movements: Vec<(Uuid, i32)> = rows(
        &shop.inventory,
        "SELECT order_id, quantity FROM stock_movements",
    )
    .await;
    let mut moved: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
    for (id, quantity) in movements {
        moved.entry(id).or_default().push(quantity);
    }
    for (id, order) in orders {
        let outcome = reservations.get(id).map_or("absent", String::as_str);
        let agreed: &[&str] = match order.status.as_str() {
            "confirmed" => &["reserved"],
            "rejected" => &["rejected"],
            // Released, or never reserved: the order was rejected, or cancelled before inventory saw it.
            "cancelled" => &["released", "cancelled", "rejected"],
            _ => &[],
        };
        if !agreed.contains(&outcome) {
            let status = &order.status;
            wrong.push(format!("order {id} is {status}, its reservation {outcome}"));
        }
        let taken = order.quantity;
        let agreed: &[i32] = match outcome {
            "reserved" => &[taken],
            "released" => &[taken, -taken],
            _ => &[],
        };
        let mut found = moved.remove(id).unwrap_or_default();
        found.sort_by_key(|quantity| -quantity);
        if found != agreed {
            wrong.push(format!("order {id}, {outcome}: stock moved by {found:?}"));
        }
    }
    for (id, found) in moved {
        wrong.push(format!("stock moved by {found:?} for unknown order {id}"));
    }
}

async fn check_stock(
    shop: &Shop,
    at_start: &Stock,
    orders: &BTreeMap<Uuid, Order>,
    wrong: &mut Vec<String>,
) {
    let mut confirmed: BTreeMap<i64, i64> = BTreeMap::new();
    for order in orders.values().filter(|order| order.status == "confirmed") {
        *confirmed.entry(order.product_id).or_default() += i64::from(order.quantity);
    }
    let stock: Vec<(i64, i64, i64)> = rows(
        &shop.inventory,
        "SELECT product_id, available, reserved FROM stock",
    )
    .await;
    for (product, available, reserved) in stock {
        let sold = confirmed.get(&product).copied().unwrap_or(0);
        if reserved != sold {
            wrong.push(format!(
                "product {product}: {reserved} reserved, {sold} confirmed"
            ));
        }
        let start = at_start.get(&product).copied();
        if start != Some(available + reserved) {
            wrong.push(format!(
                "product {product}: {available} + {reserved} is not {start:?}"
            ));
        }
    }
}

/// Compares the events that one service published with those that the other applied.
async fn check_events(from: &str, published: &PgPool, applied: &PgPool, wrong: &mut Vec<String>) {
    let published: Vec<(Uuid, bool)> = rows(
        published,
        "SELECT event_id, published_at IS NOT NULL FROM outbox",
    )
    .await;
    let unpublished = published
        .iter()
        .filter(|(_, is_published)| !is_published)
        .count();
    if unpublished > 0 {
        wrong.push(format!(
            "{unpublished} events of {from}-service unpublished"
        ));
    }
    let published: BTreeSet<Uuid> = published.into_iter().map(|(id, _)| id).collect();
    let applied: Vec<(Uuid,)> = rows(applied, "SELECT event_id FROM inbox").await;
    let applied: BTreeSet<Uuid> = applied.into_iter().map(|(id,)| id).collect();
    let (missed, invented) = (
        published.difference(&applied).count(),
        applied.difference(&published).count(),
    );
    if missed + invented > 0 {
        wrong.push(format!(
            "events of {from}-service: {missed} not applied, {invented} applied that were never published"
        ));
    }
}

async fn rows<T>(pool: &PgPool, sql: &'static str) -> Vec<T>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
{
    sqlx::query_as(sql).fetch_all(pool).await.expect("the rows")
}
