//! The effect of each pattern: the same run with its switch on and off. A switch without an effect is a defect, so each
//! test checks both arms against their claims, and prints the measurements (`--nocapture`).

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use futures_util::future::join_all;
use saga_tests::{Cable, Promises, Replica, Shop, reconciliation, within};
use shared_events::{
    Event, EventData, OrderCancelled, OrderId, OrderPlaced, ProductId, Quantity, UserId,
};
use sqlx::PgPool;
use testkit::eventually;
use uuid::Uuid;

const ARMS: [&str; 2] = ["on", "off"];

async fn open() -> Shop {
    Shop::open(saga_tests::binaries!()).await
}

fn order(product_id: i64, quantity: i64) -> OrderPlaced {
    OrderPlaced {
        order_id: OrderId::generate(),
        user_id: UserId::generate(),
        product_id: ProductId::try_from(product_id).unwrap(),
        quantity: Quantity::try_from(quantity).unwrap(),
    }
}

/// `OrderPlaced` events of one piece each.
fn placed(count: usize, product_id: i64) -> Vec<Event> {
    (0..count)
        .map(|_| Event::new("order-service", &order(product_id, 1)))
        .collect()
}

async fn publish(shop: &Shop, event: &Event) {
    shop.broker
        .publish("order_events", event.routing_key(), &event.encode())
        .await;
}

/// How many messages of a queue had this outcome.
async fn processed(replica: &Replica, queue: &str, outcome: &str) -> f64 {
    let series = format!(
        "messaging_process_duration_seconds_count{{messaging_destination_name=\"{queue}\",outcome=\"{outcome}\"}}"
    );
    replica.metric(&series).await
}

async fn published(replica: &Replica, exchange: &str, outcome: &str) -> f64 {
    let series = format!(
        "messaging_client_sent_messages_total{{messaging_destination_name=\"{exchange}\",outcome=\"{outcome}\"}}"
    );
    replica.metric(&series).await
}

async fn reserved(shop: &Shop, product_id: i64) -> i64 {
    sqlx::query_scalar("SELECT reserved FROM stock WHERE product_id = $1")
        .bind(product_id)
        .fetch_one(&shop.inventory)
        .await
        .unwrap()
}

async fn status(shop: &Shop, order_id: Uuid) -> String {
    sqlx::query_scalar("SELECT status FROM orders WHERE id = $1")
        .bind(order_id)
        .fetch_one(&shop.orders)
        .await
        .unwrap()
}

/// How many of these orders have this status.
async fn with_status(shop: &Shop, orders: &[Uuid], wanted: &str) -> usize {
    let mut found = 0;
    for order in orders {
        found += usize::from(status(shop, *order).await == wanted);
    }
    found
}

/// Places that many orders one after another.
async fn place(shop: &Shop, at: SocketAddr, count: usize) -> Vec<Uuid> {
    let mut placed = Vec::new();
    for _ in 0..count {
        placed.push(shop.place(at, 1, 1).await.expect("an answer"));
    }
    placed
}

#[tokio::test]
async fn without_the_outbox_a_crash_after_the_commit_leaves_an_order_pending_for_ever() {
    for (arm, point) in [
        ("on", "outbox.before_publish"),
        ("off", "direct.before_publish"),
    ] {
        let shop = open().await;
        let switch = ("AGORA_PATTERN_OUTBOX", arm);
        let mut orders = shop
            .order_service(&[switch, ("AGORA_CRASH_AT", point)])
            .await;
        let inventory = shop.inventory_service(&[]).await;
        let mut promises = Promises::default();
        while orders.exited().is_none() && promises.made.len() < 200 {
            promises.order(&shop, orders.addr, 1, 1).await;
        }
        assert_eq!(
            orders.ended().await.signal(),
            Some(9),
            "{point} was reached"
        );
        let orders = shop.order_service(&[switch]).await;
        // Later orders are decided: events published before theirs have been handled, too.
        let later = place(&shop, orders.addr, 5).await;
        eventually("later orders are confirmed", async || {
            with_status(&shop, &later, "confirmed").await == later.len()
        })
        .await;
        let pending = async || {
            Shop::count(
                &shop.orders,
                "SELECT count(*) FROM orders WHERE status = 'pending'",
            )
            .await
        };
        if arm == "on" {
            eventually("none is pending", async || pending().await == 0).await;
        }
        let left = pending().await;
        println!("outbox {arm}: {left} orders pending for ever after a crash at {point}");
        assert_eq!(left, i64::from(arm == "off"));
        let events = "SELECT count(*) FROM inbox";
        let stored = Shop::count(&shop.orders, "SELECT count(*) FROM orders").await;
        assert_eq!(Shop::count(&shop.inventory, events).await, stored - left);
        drop((orders, inventory));
        shop.close().await;
    }
}

#[tokio::test]
async fn without_the_outbox_orders_accepted_during_an_outage_of_the_broker_stay_pending_for_ever() {
    const CUT_OFF: usize = 6;
    for arm in ARMS {
        let shop = open().await;
        let cable = Cable::to(shop.amqp_url()).await;
        let through = cable.url(shop.amqp_url());
        let variables = [
            ("AGORA_PATTERN_OUTBOX", arm),
            ("AMQP_URL", &*through),
            ("AMQP_PUBLISH_TIMEOUT_MS", "300"),
        ];
        let orders = shop.order_service(&variables).await;
        let inventory = shop.inventory_service(&[]).await;
        cable.cut();
        eventually("the broker is unreachable", async || {
            !orders.is_ready().await
        })
        .await;
        let promised = place(&shop, orders.addr, CUT_OFF).await;
        cable.repair();
        eventually("the broker is reachable", async || orders.is_ready().await).await;
        let later = place(&shop, orders.addr, 5).await;
        eventually("later orders are confirmed", async || {
            with_status(&shop, &later, "confirmed").await == later.len()
        })
        .await;
        if arm == "on" {
            eventually("so are the earlier ones", async || {
                with_status(&shop, &promised, "confirmed").await == CUT_OFF
            })
            .await;
        }
        let pending = with_status(&shop, &promised, "pending").await;
        println!(
            "outbox {arm}: {pending} of {CUT_OFF} orders accepted during the broker's outage pending for ever"
        );
        assert_eq!(pending, if arm == "on" { 0 } else { CUT_OFF });
        // A restart doesn't find them either.
        orders.stop().await;
        let orders = shop.order_service(&variables).await;
        let later = place(&shop, orders.addr, 5).await;
        eventually("later orders are confirmed", async || {
            with_status(&shop, &later, "confirmed").await == later.len()
        })
        .await;
        assert_eq!(with_status(&shop, &promised, "pending").await, pending);
        drop((orders, inventory));
        shop.close().await;
    }
}

#[tokio::test]
async fn without_the_inbox_an_order_delivered_twice_takes_stock_twice() {
    const ORDERS: usize = 20;
    for arm in ARMS {
        let shop = open().await;
        let inventory = shop
            .inventory_service(&[("AGORA_PATTERN_INBOX", arm)])
            .await;
        let events = placed(ORDERS, 7);
        for event in events.iter().chain(&events) {
            publish(&shop, event).await;
        }
        eventually("all deliveries are handled", async || {
            let applied = processed(&inventory, "order_events", "applied").await;
            let duplicate = processed(&inventory, "order_events", "duplicate").await;
            applied + duplicate == (2 * ORDERS) as f64
        })
        .await;
        let taken = reserved(&shop, 7).await;
        println!("inbox {arm}: {ORDERS} orders delivered twice took {taken} pieces");
        let times = if arm == "on" { 1 } else { 2 };
        assert_eq!(taken, (times * ORDERS) as i64);
        let duplicates = r#"agora_inbox_duplicates_total{queue="order_events"}"#;
        let caught = if arm == "on" { ORDERS as f64 } else { 0.0 };
        assert_eq!(inventory.metric(duplicates).await, caught);
        assert_eq!(shop.broker.depth("order_events.dead").await, 0);
        inventory.stop().await;
        shop.close().await;
    }
}

#[tokio::test]
async fn without_retries_transient_failures_make_dead_letters() {
    const ORDERS: usize = 12;
    const DISTURBED: u32 = 4;
    for arm in ARMS {
        let shop = open().await;
        // One message at a time: a failure of a batch can't be attributed to a message.
        let variables = [("AGORA_PATTERN_RETRY", arm), ("AMQP_BATCH_SIZE", "1")];
        let inventory = shop.inventory_service(&variables).await;
        Shop::fail_next_deliveries(&shop.inventory, DISTURBED).await;
        for event in placed(ORDERS, 8) {
            publish(&shop, &event).await;
        }
        let dead = async || shop.broker.depth("order_events.dead").await;
        eventually("each order is applied or dead", async || {
            reserved(&shop, 8).await + i64::from(dead().await) == ORDERS as i64
        })
        .await;
        let (applied, dead) = (reserved(&shop, 8).await, dead().await);
        println!(
            "retry {arm}: of {ORDERS} orders during transient failures {applied} applied, {dead} dead"
        );
        assert_eq!(dead, if arm == "on" { 0 } else { DISTURBED });
        let retries = r#"agora_retries_total{queue="order_events",tier="1s"}"#;
        let retried = if arm == "on" {
            f64::from(DISTURBED)
        } else {
            0.0
        };
        assert_eq!(inventory.metric(retries).await, retried);
        inventory.stop().await;
        shop.close().await;
    }
}

#[tokio::test]
async fn a_failed_batch_is_handled_one_by_one_and_only_invalid_messages_are_dead() {
    const GOOD: usize = 40;
    let shop = open().await;
    // The queue must exist.
    shop.inventory_service(&[]).await.stop().await;
    let mut orders = placed(GOOD, 8);
    let again = orders[3].clone();
    orders.push(again);
    for (number, event) in orders.iter().enumerate() {
        if number % 10 == 4 {
            let key = "order.placed.v1";
            shop.broker.publish("order_events", key, b"poison").await;
        }
        publish(&shop, event).await;
    }
    // All messages are queued before it starts: they arrive in batches. The first batches fail once more, transiently.
    Shop::fail_next_deliveries(&shop.inventory, 2).await;
    let inventory = shop
        .inventory_service(&[("AMQP_BATCH_SIZE", "15"), ("AMQP_CONCURRENCY", "2")])
        .await;
    eventually("every delivery has its outcome", async || {
        let applied = processed(&inventory, "order_events", "applied").await;
        let duplicate = processed(&inventory, "order_events", "duplicate").await;
        let dead = shop.broker.depth("order_events.dead").await;
        (applied, duplicate, dead) == (GOOD as f64, 1.0, 4)
    })
    .await;
    assert_eq!(reserved(&shop, 8).await, GOOD as i64);
    let outcomes = "SELECT count(*) FROM outbox";
    assert_eq!(Shop::count(&shop.inventory, outcomes).await, GOOD as i64);
    inventory.stop().await;
    shop.close().await;
}

#[tokio::test]
async fn without_the_dead_letter_queue_as_many_poison_messages_as_slots_stop_all_orders() {
    const GOOD: usize = 20;
    for (slots, arm) in [(1, "on"), (1, "off"), (8, "on"), (8, "off")] {
        let shop = open().await;
        let concurrency = slots.to_string();
        let variables = [
            ("AGORA_PATTERN_DEAD_LETTER", arm),
            ("AMQP_CONCURRENCY", &*concurrency),
            // Otherwise valid messages in a batch with poison messages are handled before those.
            ("AMQP_BATCH_SIZE", "1"),
        ];
        let inventory = shop.inventory_service(&variables).await;
        for _ in 0..slots {
            shop.broker
                .publish("order_events", "order.placed.v1", b"poison")
                .await;
        }
        for event in placed(GOOD, 9) {
            publish(&shop, &event).await;
        }
        // Normally this takes a moment; each poison message has failed several times by then.
        let all_good = async || reserved(&shop, 9).await == GOOD as i64;
        let handled = within(Duration::from_secs(5), all_good).await;
        let good = reserved(&shop, 9).await;
        let dead = shop.broker.depth("order_events.dead").await as usize;
        println!(
            "dead_letter {arm}: {good} of {GOOD} orders behind {slots} poison messages handled ({handled:?}), {dead} dead"
        );
        if arm == "on" {
            eventually("the poison messages are dead", async || {
                shop.broker.depth("order_events.dead").await as usize == slots
            })
            .await;
            assert_eq!(good, GOOD as i64);
        } else {
            assert_eq!((good, dead), (0, 0));
            let stuck = processed(&inventory, "order_events", "stuck").await;
            assert!(stuck >= slots as f64, "{stuck} times");
        }
        drop(inventory);
        shop.close().await;
    }
}

#[tokio::test]
async fn without_confirms_an_unroutable_event_counts_as_published() {
    const LOST: usize = 5;
    for arm in ARMS {
        let shop = open().await;
        let orders = shop.order_service(&[("AGORA_PATTERN_CONFIRMS", arm)]).await;
        shop.broker
            .unbind("order_events", "order_events", "#")
            .await;
        let promised = place(&shop, orders.addr, LOST).await;
        let unpublished = async || {
            Shop::count(
                &shop.orders,
                "SELECT count(*) FROM outbox WHERE published_at IS NULL",
            )
            .await
        };
        if arm == "on" {
            eventually("the broker's return is counted", async || {
                published(&orders, "order_events", "unroutable").await >= 1.0
            })
            .await;
            assert_eq!(unpublished().await, LOST as i64);
        } else {
            eventually("all count as published", async || unpublished().await == 0).await;
        }
        shop.broker.bind("order_events", "order_events", "#").await;
        let inventory = shop.inventory_service(&[]).await;
        let later = place(&shop, orders.addr, 3).await;
        eventually("later orders are confirmed", async || {
            with_status(&shop, &later, "confirmed").await == later.len()
        })
        .await;
        if arm == "on" {
            eventually("so are the earlier ones", async || {
                with_status(&shop, &promised, "confirmed").await == LOST
            })
            .await;
        }
        let pending = with_status(&shop, &promised, "pending").await;
        println!("confirms {arm}: {pending} of {LOST} orders lost while no queue was bound");
        assert_eq!(pending, if arm == "on" { 0 } else { LOST });
        assert_eq!(unpublished().await, 0);
        drop((orders, inventory));
        shop.close().await;
    }
}

/// The replicas that a gateway would balance over: the ready ones, in turn, without retries.
async fn ready_ones(replicas: &[Replica]) -> Vec<SocketAddr> {
    let mut ready = Vec::new();
    for replica in replicas {
        if replica.is_ready().await {
            ready.push(replica.addr);
        }
    }
    ready
}

#[tokio::test]
async fn without_graceful_shutdown_a_rolling_restart_breaks_the_requests_in_flight() {
    const IN_FLIGHT: usize = 6;
    for arm in ARMS {
        let shop = open().await;
        let variables = [("AGORA_PATTERN_GRACEFUL_SHUTDOWN", arm)];
        let mut replicas = Vec::new();
        for _ in 0..2 {
            replicas.push(shop.order_service(&variables).await);
        }
        let (mut answered, mut failed) = (0, 0);
        for _ in 0..replicas.len() {
            // While this lock is held no order can be stored: the requests are in flight.
            let mut lock = chassis::database::begin(&testkit::lending_pool(&shop.orders))
                .await
                .unwrap();
            sqlx::query("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
                .execute(&mut *lock)
                .await
                .unwrap();
            let mut ready = ready_ones(&replicas).await;
            assert_eq!(ready.len(), replicas.len());
            let turns = ready.iter().cycle().take(IN_FLIGHT);
            let requests = join_all(turns.map(|at| shop.place(*at, 1, 1)));
            let restart = async {
                eventually("the requests are in flight", async || {
                    waiting_orders(&shop.inventory, &shop.orders).await == IN_FLIGHT as i64
                })
                .await;
                let mut old = replicas.remove(0);
                old.terminate();
                // No longer ready, in both arms: the gateway sends it no more requests.
                eventually("it is not ready", async || !old.is_ready().await).await;
                if arm == "off" {
                    assert_eq!(old.ended().await.code(), Some(143));
                }
                lock.rollback().await.unwrap();
                ready = ready_ones(&replicas).await;
                for at in &ready {
                    assert!(
                        shop.place(*at, 1, 1).await.is_some(),
                        "the other one serves"
                    );
                }
                if arm == "on" {
                    assert_eq!(old.ended().await.code(), Some(0));
                }
                replicas.push(shop.order_service(&variables).await);
            };
            let (answers, ()) = tokio::join!(requests, restart);
            answered += answers.iter().flatten().count();
            failed += answers.iter().filter(|answer| answer.is_none()).count();
        }
        println!(
            "graceful_shutdown {arm}: {answered} requests in flight answered, {failed} broken, in the restart of both replicas"
        );
        let broken = if arm == "on" { 0 } else { IN_FLIGHT };
        assert_eq!((answered, failed), (2 * IN_FLIGHT - broken, broken));
        drop(replicas);
        shop.close().await;
    }
}

/// How many orders wait for a lock; read over a separate connection, because the services' own may wait, too.
async fn waiting_orders(beside: &PgPool, orders: &PgPool) -> i64 {
    let options = orders.connect_options();
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = $1 AND wait_event_type = 'Lock' AND query LIKE '%INSERT INTO orders%'",
    )
    .bind(options.get_database())
    .fetch_one(beside)
    .await
    .unwrap()
}

#[tokio::test]
async fn two_relays_publish_each_event_once_and_each_orders_events_in_order() {
    const ORDERS: usize = 150;
    let shop = open().await;
    let replicas = [shop.order_service(&[]).await, shop.order_service(&[]).await];
    // No service consumes: published messages stay in the queue.
    let mut promises = Promises::default();
    for batch in 0..ORDERS / 10 {
        let both = |number: usize| replicas[(batch + number) % 2].addr;
        let ids = join_all((0..10).map(|number| shop.place(both(number), 1, 1))).await;
        let cancels = ids
            .iter()
            .enumerate()
            .map(|(number, id)| shop.cancel(both(number + 1), id.unwrap()));
        assert_eq!(join_all(cancels).await, [Some(true); 10]);
        promises
            .made
            .extend(ids.into_iter().map(|id| saga_tests::Promise {
                order_id: id.unwrap(),
                cancelled: true,
            }));
    }
    eventually("everything is published", async || {
        Shop::count(
            &shop.orders,
            "SELECT count(*) FROM outbox WHERE published_at IS NULL",
        )
        .await
            == 0
    })
    .await;
    let mut events: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut ids, mut taken) = (BTreeSet::new(), 0);
    while let Some((payload, _)) = shop.broker.take("order_events").await {
        let event = Event::decode(&payload).unwrap();
        taken += 1;
        ids.insert(event.id);
        events
            .entry(event.subject)
            .or_default()
            .push(event.event_type);
    }
    let shares = [
        published(&replicas[0], "order_events", "confirmed").await,
        published(&replicas[1], "order_events", "confirmed").await,
    ];
    println!(
        "two relays: {taken} messages for {} events, shared {shares:?}",
        ids.len()
    );
    assert_eq!((taken, ids.len()), (2 * ORDERS, 2 * ORDERS));
    for (order, events) in &events {
        assert_eq!(
            events,
            &[OrderPlaced::TYPE, OrderCancelled::TYPE],
            "{order}"
        );
    }
    assert_eq!(events.len(), ORDERS);
    assert_eq!(shares[0] + shares[1], (2 * ORDERS) as f64);
    for replica in replicas {
        replica.stop().await;
    }
    shop.close().await;
}

#[tokio::test]
async fn with_all_patterns_on_two_replicas_of_each_service_reconcile() {
    let shop = open().await;
    let orders = [shop.order_service(&[]).await, shop.order_service(&[]).await];
    let inventory = [
        shop.inventory_service(&[]).await,
        shop.inventory_service(&[]).await,
    ];
    let at_start = reconciliation::stock_at_start(&shop).await;
    let mut promises = Promises::default();
    for number in 0..60 {
        let at = orders[number % 2].addr;
        promises.order(&shop, at, 1 + number as i64 % 3, 2).await;
        if number % 4 == 0 {
            promises
                .cancel_last(&shop, orders[(number + 1) % 2].addr)
                .await;
        }
    }
    reconciliation::reconcile(&shop, &at_start, &promises).await;
    let mut duplicates = 0.0;
    for (replica, queue) in inventory
        .iter()
        .map(|replica| (replica, "order_events"))
        .chain(orders.iter().map(|replica| (replica, "inventory_events")))
    {
        let series = format!("agora_inbox_duplicates_total{{queue=\"{queue}\"}}");
        duplicates += replica.metric(&series).await;
    }
    println!(
        "two replicas of each: {} orders, {duplicates} duplicates",
        promises.made.len()
    );
    assert_eq!(duplicates, 0.0);
    for replica in orders.into_iter().chain(inventory) {
        replica.stop().await;
    }
    shop.close().await;
}

#[tokio::test]
async fn without_the_saga_orders_are_confirmed_that_have_no_stock_and_cancelled_ones_keep_theirs() {
    for arm in ["on", "off"] {
        let shop = open().await;
        let orders = shop.order_service(&[("AGORA_PATTERN_SAGA", arm)]).await;
        // The table exists once the service has started.
        let inventory = shop.inventory_service(&[]).await;
        shop.stock_up(7, 3).await;
        let mut placed = Vec::new();
        for _ in 0..5 {
            placed.push(shop.place(orders.addr, 7, 1).await.expect("an answer"));
        }
        let seen = async || {
            processed(&inventory, "order_events", "applied").await >= 5.0
                && with_status(&shop, &placed, "pending").await == 0
        };
        eventually("all orders are decided", seen).await;
        let confirmed = with_status(&shop, &placed, "confirmed").await;
        assert_eq!(confirmed, if arm == "on" { 3 } else { 5 });
        for order in &placed {
            shop.cancel(orders.addr, *order).await;
        }
        let cancelled = async || with_status(&shop, &placed, "cancelling").await == 0;
        eventually("all cancellations are stored", cancelled).await;
        let held = reserved(&shop, 7).await;
        assert_eq!(held, if arm == "on" { 0 } else { 3 });
        println!(
            "saga {arm}: {confirmed} of 5 orders confirmed, 3 pieces in stock; all cancelled, {held} pieces still held"
        );
        orders.stop().await;
        inventory.stop().await;
        shop.close().await;
    }
}
