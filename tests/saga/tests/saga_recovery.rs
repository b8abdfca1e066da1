//! Whichever of an order's four messages is lost, the order ends: order-service republishes its event, and
//! inventory-service its answer. Without recovery it waits for ever.

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::time::Duration;

use saga_tests::{Promises, Replica, Shop, reconciliation, within};
use sqlx::PgPool;
use testkit::eventually;
use uuid::Uuid;

const SOON: [(&str, &str); 2] = [
    ("AGORA_SAGA_RECOVERY_AFTER_SECONDS", "1"),
    ("AGORA_SAGA_RECOVERY_INTERVAL_SECONDS", "1"),
];
/// The time limit of a recovery: its second attempt comes after three seconds, its third one after seven.
const RECOVERED_WITHIN: Duration = Duration::from_secs(15);

async fn open() -> Shop {
    Shop::open(saga_tests::binaries!()).await
}

/// Makes a service reject every message until [`accept`]; `pool` is its database.
async fn refuse(pool: &PgPool) {
    let refusing = "ALTER TABLE inbox ADD CONSTRAINT refused CHECK (false) NOT VALID";
    sqlx::query(refusing).execute(pool).await.unwrap();
}

async fn accept(pool: &PgPool) {
    let accepting = "ALTER TABLE inbox DROP CONSTRAINT refused";
    sqlx::query(accepting).execute(pool).await.unwrap();
}

async fn status(shop: &Shop, order_id: Uuid) -> String {
    sqlx::query_scalar("SELECT status FROM orders WHERE id = $1")
        .bind(order_id)
        .fetch_one(&shop.orders)
        .await
        .unwrap()
}

/// The service that loses messages while its database rejects them.
#[derive(Clone, Copy)]
enum Loser {
    /// `order_events`: `OrderPlaced`, `OrderCancelled`.
    Inventory,
    /// `inventory_events`: `StockReserved`, `StockRejected`, `StockReleased`.
    Orders,
}

impl Loser {
    fn pool(self, shop: &Shop) -> &PgPool {
        match self {
            Self::Inventory => &shop.inventory,
            Self::Orders => &shop.orders,
        }
    }

    fn dead_letters(self) -> &'static str {
        match self {
            Self::Inventory => "order_events.dead",
            Self::Orders => "inventory_events.dead",
        }
    }

    /// Purges the dead letter, and those that recovery adds meanwhile.
    async fn purge(self, shop: &Shop) {
        shop.broker.wait_for_message(self.dead_letters()).await;
        accept(self.pool(shop)).await;
        while shop.broker.take(self.dead_letters()).await.is_some() {}
    }
}

/// An order of a product with this stock: its placement or its cancellation is lost by `loser`. It ends with the second
/// status, or without recovery stays in the first.
async fn ends_although_lost(
    loser: Loser,
    cancelled: bool,
    available: i64,
    [stuck, end]: [&str; 2],
) {
    for arm in ["on", "off"] {
        let shop = open().await;
        let [after, interval] = SOON;
        let switch = ("AGORA_PATTERN_SAGA_RECOVERY", arm);
        let orders: Replica = shop.order_service(&[after, interval, switch]).await;
        let inventory = shop.inventory_service(&[]).await;
        shop.stock_up(1, available).await;
        let at_start = reconciliation::stock_at_start(&shop).await;
        let mut promises = Promises::default();
        if cancelled {
            promises.order(&shop, orders.addr, 1, 2).await;
            let id = promises.made[0].order_id;
            eventually("it is confirmed", async || {
                status(&shop, id).await == "confirmed"
            })
            .await;
        }
        refuse(loser.pool(&shop)).await;
        if cancelled {
            promises.cancel_last(&shop, orders.addr).await;
        } else {
            promises.order(&shop, orders.addr, 1, 2).await;
        }
        loser.purge(&shop).await;
        let id = promises.made[0].order_id;
        let ended = async || status(&shop, id).await == end;
        if arm == "on" {
            eventually("it ends", ended).await;
            reconciliation::reconcile(&shop, &at_start, &promises).await;
            assert!(orders.metric("agora_orders_recovered_total").await >= 1.0);
        } else {
            let limit = RECOVERED_WITHIN / 3;
            within(limit, ended).await.expect_err("nothing recovers it");
            assert_eq!(status(&shop, id).await, stuck);
        }
        drop((orders, inventory));
        shop.close().await;
    }
}

#[tokio::test]
async fn an_order_whose_order_placed_is_lost_is_confirmed() {
    ends_although_lost(Loser::Inventory, false, 10, ["pending", "confirmed"]).await;
}

#[tokio::test]
async fn an_order_whose_stock_reserved_is_lost_is_confirmed() {
    ends_although_lost(Loser::Orders, false, 10, ["pending", "confirmed"]).await;
}

#[tokio::test]
async fn an_order_whose_stock_rejected_is_lost_is_rejected() {
    ends_although_lost(Loser::Orders, false, 1, ["pending", "rejected"]).await;
}

#[tokio::test]
async fn an_order_whose_order_cancelled_is_lost_is_cancelled() {
    ends_although_lost(Loser::Inventory, true, 10, ["cancelling", "cancelled"]).await;
}

#[tokio::test]
async fn an_order_whose_stock_released_is_lost_is_cancelled() {
    ends_although_lost(Loser::Orders, true, 10, ["cancelling", "cancelled"]).await;
}

#[tokio::test]
async fn an_order_whose_both_events_are_lost_is_cancelled_and_reserves_nothing() {
    let shop = open().await;
    let orders = shop.order_service(&SOON).await;
    let inventory = shop.inventory_service(&[]).await;
    let at_start = reconciliation::stock_at_start(&shop).await;
    refuse(&shop.inventory).await;
    let mut promises = Promises::default();
    promises.order(&shop, orders.addr, 1, 2).await;
    shop.broker.wait_for_message("order_events.dead").await;
    promises.cancel_last(&shop, orders.addr).await;
    Loser::Inventory.purge(&shop).await;
    let id = promises.made[0].order_id;
    eventually("it is cancelled", async || {
        status(&shop, id).await == "cancelled"
    })
    .await;
    let moved = "SELECT count(*) FROM stock_movements";
    assert_eq!(Shop::count(&shop.inventory, moved).await, 0);
    let unbalanced = reconciliation::discrepancies(&shop, &at_start, &promises).await;
    // Its OrderPlaced is not in the inbox, and never will be.
    assert!(unbalanced.len() <= 1, "{unbalanced:?}");
    drop((orders, inventory));
    shop.close().await;
}

#[tokio::test]
async fn dead_letters_replayed_after_the_recovery_change_nothing() {
    let shop = open().await;
    let orders = shop.order_service(&SOON).await;
    let inventory = shop.inventory_service(&[]).await;
    let at_start = reconciliation::stock_at_start(&shop).await;
    refuse(&shop.inventory).await;
    let mut promises = Promises::default();
    for _ in 0..5 {
        promises.order(&shop, orders.addr, 1, 2).await;
        promises.order(&shop, orders.addr, 2, 1).await;
        promises.cancel_last(&shop, orders.addr).await;
    }
    eventually("their events are dead", async || {
        shop.broker.depth("order_events.dead").await >= 15
    })
    .await;
    accept(&shop.inventory).await;
    let waiting = "SELECT count(*) FROM orders WHERE status IN ('pending', 'cancelling')";
    eventually("all orders end", async || {
        Shop::count(&shop.orders, waiting).await == 0
    })
    .await;
    let replayed = shop.replay_dead_letters(&[]).await;
    assert!(replayed.success(), "{replayed}");
    reconciliation::reconcile(&shop, &at_start, &promises).await;
    drop((orders, inventory));
    shop.close().await;
}
