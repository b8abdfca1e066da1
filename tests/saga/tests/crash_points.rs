//! Wherever a process is killed, the ledgers reconcile after it was restarted.
//!
//! Each test arms one crash point of one service (`AGORA_CRASH_AT`), places orders until the process dies there by
//! SIGKILL, restarts it and places more; then every order must end, and every event must be applied exactly once. A crash
//! point that is never reached fails its test. To repeat all tests, with PostgreSQL and RabbitMQ up
//! (`cargo xtask test --keep`) and the three `AGORA_TEST_…` variables set:
//!
//! ```text
//! for i in $(seq 10); do cargo test -p saga-tests --test crash_points || break; done
//! ```

use std::os::unix::process::ExitStatusExt;

use saga_tests::{Promises, Replica, Shop, reconciliation};
use testkit::eventually;

/// The minimum number of orders of a run; more are placed until the process dies.
const ORDERS: usize = 32;
/// After this many orders a process that is still alive won't die.
const ORDERS_AT_MOST: usize = 600;
/// A product with too little stock for all orders.
const SCARCE: i64 = 5;

#[derive(Clone, Copy, PartialEq)]
enum Victim {
    Orders,
    Inventory,
}

/// Whether the crash certainly caused a second delivery that only the inbox caught.
#[derive(Clone, Copy, PartialEq)]
enum Duplicate {
    Certain,
    Possible,
}

struct System {
    orders: Replica,
    inventory: Replica,
}

impl System {
    async fn start(shop: &Shop, victim: Victim, armed: &str) -> Self {
        let armed = [("AGORA_CRASH_AT", armed), batches(armed)];
        let unless = |other| if victim == other { &armed[..] } else { &[] };
        Self {
            orders: shop.order_service(unless(Victim::Orders)).await,
            inventory: shop.inventory_service(unless(Victim::Inventory)).await,
        }
    }

    fn victim(&mut self, victim: Victim) -> &mut Replica {
        match victim {
            Victim::Orders => &mut self.orders,
            Victim::Inventory => &mut self.inventory,
        }
    }

    async fn restart(&mut self, shop: &Shop, victim: Victim, armed: &str) {
        let unarmed = [batches(armed)];
        match victim {
            Victim::Orders => self.orders = shop.order_service(&unarmed).await,
            Victim::Inventory => self.inventory = shop.inventory_service(&unarmed).await,
        }
    }
}

/// Where failures are counted, each message is handled alone: a failure of a batch causes no retry.
fn batches(armed: &str) -> (&'static str, &'static str) {
    let retried = armed.starts_with("consumer.before_retry_ack");
    ("AMQP_BATCH_SIZE", if retried { "1" } else { "" })
}

/// Orders of all kinds: confirmed, rejected for lack of stock or of the product, cancelled at once.
async fn order_once(shop: &Shop, system: &System, promises: &mut Promises, number: usize) {
    let product = match number % 8 {
        3 => 12_345,
        5 => SCARCE,
        other => 1 + other as i64,
    };
    let quantity = 1 + number as u32 % 3;
    promises
        .order(shop, system.orders.addr, product, quantity)
        .await;
    if number % 3 == 1 {
        promises.cancel_last(shop, system.orders.addr).await;
    }
}

async fn ledgers_reconcile_after_a_crash(victim: Victim, armed: &str, duplicate: Duplicate) {
    let shop = Shop::open(saga_tests::binaries!()).await;
    let mut system = System::start(&shop, victim, armed).await;
    if armed.starts_with("consumer.before_retry_ack") {
        let pool = match victim {
            Victim::Orders => &shop.orders,
            Victim::Inventory => &shop.inventory,
        };
        // More than the armed process can handle, so that the restarted one has to retry, too.
        Shop::fail_next_deliveries(pool, 2).await;
    }
    shop.stock_up(SCARCE, 3).await;
    let at_start = reconciliation::stock_at_start(&shop).await;
    let mut promises = Promises::default();

    let mut number = 0;
    while system.victim(victim).exited().is_none() && number < ORDERS_AT_MOST {
        order_once(&shop, &system, &mut promises, number).await;
        number += 1;
    }
    let status = system.victim(victim).ended().await;
    assert_eq!(status.signal(), Some(9), "{armed} was reached: {status}");
    system.restart(&shop, victim, armed).await;
    // Unanswered requests are not retried: a client may give up.
    let unanswered = promises.unanswered;
    for number in number..ORDERS.max(number + 8) {
        order_once(&shop, &system, &mut promises, number).await;
    }
    assert_eq!(
        promises.unanswered, unanswered,
        "the restarted process answers"
    );

    if duplicate == Duplicate::Certain {
        let (replica, queue) = consumer_of_duplicate(&system, victim, armed);
        let series = format!("agora_inbox_duplicates_total{{queue=\"{queue}\"}}");
        eventually("the inbox has recognised the duplicates", async || {
            replica.metric(&series).await >= 1.0
        })
        .await;
    }
    reconciliation::reconcile(&shop, &at_start, &promises).await;
    system.orders.stop().await;
    system.inventory.stop().await;
    // Again after the shutdown: nothing was still in flight when they reconciled.
    reconciliation::reconcile(&shop, &at_start, &promises).await;
    shop.close().await;
}

/// The consumer of the second delivery: the other service for what the victim published, the victim for what it consumed.
fn consumer_of_duplicate<'a>(
    system: &'a System,
    victim: Victim,
    armed: &str,
) -> (&'a Replica, &'static str) {
    let published = armed.starts_with("outbox.");
    if (victim == Victim::Orders) == published {
        (&system.inventory, "order_events")
    } else {
        (&system.orders, "inventory_events")
    }
}

#[tokio::test]
async fn order_service_killed_before_it_publishes() {
    ledgers_reconcile_after_a_crash(
        Victim::Orders,
        "outbox.before_publish:3",
        Duplicate::Possible,
    )
    .await;
}

#[tokio::test]
async fn order_service_killed_before_the_broker_confirms() {
    ledgers_reconcile_after_a_crash(
        Victim::Orders,
        "publish.before_confirm:3",
        Duplicate::Possible,
    )
    .await;
}

#[tokio::test]
async fn order_service_killed_before_it_marks_confirmed_events() {
    ledgers_reconcile_after_a_crash(Victim::Orders, "outbox.before_mark:3", Duplicate::Certain)
        .await;
}

#[tokio::test]
async fn inventory_service_killed_before_it_publishes() {
    ledgers_reconcile_after_a_crash(
        Victim::Inventory,
        "outbox.before_publish:3",
        Duplicate::Possible,
    )
    .await;
}

#[tokio::test]
async fn inventory_service_killed_before_the_broker_confirms() {
    ledgers_reconcile_after_a_crash(
        Victim::Inventory,
        "publish.before_confirm:3",
        Duplicate::Possible,
    )
    .await;
}

#[tokio::test]
async fn inventory_service_killed_before_it_marks_confirmed_events() {
    ledgers_reconcile_after_a_crash(
        Victim::Inventory,
        "outbox.before_mark:3",
        Duplicate::Certain,
    )
    .await;
}

#[tokio::test]
async fn order_service_killed_between_commit_and_acknowledgement() {
    ledgers_reconcile_after_a_crash(Victim::Orders, "consumer.before_ack:3", Duplicate::Certain)
        .await;
}

#[tokio::test]
async fn inventory_service_killed_between_commit_and_acknowledgement() {
    ledgers_reconcile_after_a_crash(
        Victim::Inventory,
        "consumer.before_ack:3",
        Duplicate::Certain,
    )
    .await;
}

/// A committed batch whose one acknowledgement is never sent is delivered again as a whole.
#[tokio::test]
async fn inventory_service_killed_before_it_acknowledges_a_batch() {
    let shop = Shop::open(saga_tests::binaries!()).await;
    let orders = shop.order_service(&[]).await;
    let armed = [
        ("AGORA_CRASH_AT", "consumer.before_ack:10"),
        ("AMQP_CONCURRENCY", "1"),
    ];
    let mut inventory = shop.inventory_service(&armed).await;
    let at_start = reconciliation::stock_at_start(&shop).await;
    // The first order is handled alone and waits; the others are queued behind it.
    let mut lock = chassis::database::begin(&testkit::lending_pool(&shop.inventory))
        .await
        .expect("a transaction");
    sqlx::query("LOCK TABLE stock IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .expect("a lock");
    let mut promises = Promises::default();
    for _ in 0..ORDERS {
        promises.order(&shop, orders.addr, 1, 1).await;
    }
    eventually("all orders are published", async || {
        let waiting = "SELECT count(*) FROM outbox WHERE published_at IS NULL";
        Shop::count(&shop.orders, waiting).await == 0
    })
    .await;
    lock.rollback().await.expect("the lock is released");
    let status = inventory.ended().await;
    assert_eq!(status.signal(), Some(9), "the point was reached: {status}");

    let inventory = shop.inventory_service(&[]).await;
    let duplicates = "agora_inbox_duplicates_total{queue=\"order_events\"}";
    // A batch of one would have caused one duplicate.
    eventually("the inbox has recognised the duplicates", async || {
        inventory.metric(duplicates).await >= 10.0
    })
    .await;
    reconciliation::reconcile(&shop, &at_start, &promises).await;
    orders.stop().await;
    inventory.stop().await;
    reconciliation::reconcile(&shop, &at_start, &promises).await;
    shop.close().await;
}

#[tokio::test]
async fn order_service_killed_between_a_retry_and_its_acknowledgement() {
    ledgers_reconcile_after_a_crash(
        Victim::Orders,
        "consumer.before_retry_ack",
        Duplicate::Certain,
    )
    .await;
}

#[tokio::test]
async fn inventory_service_killed_between_a_retry_and_its_acknowledgement() {
    ledgers_reconcile_after_a_crash(
        Victim::Inventory,
        "consumer.before_retry_ack",
        Duplicate::Certain,
    )
    .await;
}

#[tokio::test]
async fn a_replay_killed_between_confirm_and_acknowledgement() {
    let shop = Shop::open(saga_tests::binaries!()).await;
    let orders = shop.order_service(&[]).await;
    // Without retries a transient failure makes dead letters of good orders.
    let no_retries = [("AGORA_PATTERN_RETRY", "off"), ("AMQP_BATCH_SIZE", "1")];
    let inventory = shop.inventory_service(&no_retries).await;
    Shop::fail_next_deliveries(&shop.inventory, 5).await;
    let at_start = reconciliation::stock_at_start(&shop).await;
    let mut promises = Promises::default();
    for _ in 0..ORDERS {
        promises.order(&shop, orders.addr, 1, 1).await;
    }
    eventually("five orders are dead letters", async || {
        shop.broker.depth("order_events.dead").await == 5
    })
    .await;
    let killed = shop
        .replay_dead_letters(&[("AGORA_CRASH_AT", "dead_letters.before_ack:3")])
        .await;
    assert_eq!(killed.signal(), Some(9), "the point was reached: {killed}");
    let finished = shop.replay_dead_letters(&[]).await;
    assert!(finished.success(), "{finished}");
    let duplicates = "agora_inbox_duplicates_total{queue=\"order_events\"}";
    eventually("the inbox has recognised the duplicates", async || {
        inventory.metric(duplicates).await >= 1.0
    })
    .await;
    reconciliation::reconcile(&shop, &at_start, &promises).await;
    orders.stop().await;
    inventory.stop().await;
    reconciliation::reconcile(&shop, &at_start, &promises).await;
    shop.close().await;
}
