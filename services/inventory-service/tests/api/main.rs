//! inventory-service from outside: real PostgreSQL, real RabbitMQ, one of each for every test.

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod cancelled;

use inventory_service::{Config, start};
use serde_json::{Value, json};
use shared_events::topology::{DELIVERY_LIMIT, DeadReason, MAX_EVENT_BYTES, headers};
use shared_events::{
    Event, OrderCancelled, OrderId, OrderPlaced, ProductId, Quantity, RejectReason, StockRejected,
    StockReleased, StockReserved, UserId,
};
use sqlx::PgPool;
use testkit::{BrokerClient, Service, answer, eventually, header_text, refused, shape};
use uuid::Uuid;

/// The wire format as first published: a golden file, not produced by this code.
const GOLDEN: &str = include_str!("../../../../shared-events/tests/golden/order_placed.v1.json");

struct Shop {
    service: Service,
    broker: BrokerClient,
    broker_url: String,
    pool: PgPool,
}

impl Shop {
    async fn open() -> Self {
        let (database, broker) = (testkit::database().await, testkit::virtual_host().await);
        let variables = [("DATABASE_URL", &*database), ("AMQP_URL", &*broker)];
        let service = Service::start("inventory-service", &variables, Config::read, start).await;
        Self {
            service,
            broker: BrokerClient::connect(&broker).await,
            broker_url: broker,
            pool: PgPool::connect(&database).await.unwrap(),
        }
    }

    async fn publish(&self, payload: &[u8]) {
        self.broker
            .publish("order_events", "order.placed.v1", payload)
            .await;
    }

    async fn stock(&self, product_id: i64) -> (i64, i64) {
        sqlx::query_as("SELECT available, reserved FROM stock WHERE product_id = $1")
            .bind(product_id)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    async fn outcome(&self, order: &OrderPlaced) -> Option<(String, Option<String>)> {
        sqlx::query_as("SELECT outcome, reason FROM reservations WHERE order_id = $1")
            .bind(order.order_id.0)
            .fetch_optional(&self.pool)
            .await
            .unwrap()
    }

    /// The next event that the service published, decoded and as JSON.
    async fn published(&self) -> (Event, Value) {
        let (payload, _) = self.broker.wait_for_message("inventory_events").await;
        let raw = serde_json::from_slice(&payload).unwrap();
        (Event::decode(&payload).unwrap(), raw)
    }

    async fn cancel(&self, order: &OrderPlaced) {
        let data = OrderCancelled {
            order_id: order.order_id,
            product_id: order.product_id,
            quantity: order.quantity,
        };
        self.publish(&Event::new("order-service", &data).encode())
            .await;
    }

    async fn movements(&self, order: &OrderPlaced) -> Vec<i32> {
        sqlx::query_scalar("SELECT quantity FROM stock_movements WHERE order_id = $1 ORDER BY id")
            .bind(order.order_id.0)
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }

    async fn settled(&self, order: &OrderPlaced) -> (String, Option<String>) {
        eventually("the order is settled", async || {
            self.outcome(order).await.is_some()
        })
        .await;
        self.outcome(order).await.unwrap()
    }
}

fn golden(name: &str) -> Value {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared-events/tests/golden"
    );
    let text = std::fs::read_to_string(format!("{folder}/{name}.v1.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn order(product_id: i64, quantity: i64) -> OrderPlaced {
    OrderPlaced {
        order_id: OrderId::generate(),
        user_id: UserId::generate(),
        product_id: ProductId::try_from(product_id).unwrap(),
        quantity: Quantity::try_from(quantity).unwrap(),
    }
}

fn event(order: &OrderPlaced) -> Event {
    Event::new("order-service", order)
}

#[tokio::test]
async fn an_order_in_the_first_wire_format_reserves_stock() {
    let shop = Shop::open().await;
    let (available, reserved) = shop.stock(99).await;
    shop.publish(GOLDEN.as_bytes()).await;
    let order = Event::decode(GOLDEN.as_bytes()).unwrap().data().unwrap();
    assert_eq!(shop.settled(&order).await, ("reserved".to_owned(), None));
    assert_eq!(shop.stock(99).await, (available - 2, reserved + 2));

    let user = Uuid::now_v7();
    let seen = answer(shop.service.as_user(user, "GET", "/inventory/99")).await;
    let expected =
        json!({ "product_id": 99, "available": available - 2, "reserved": reserved + 2 });
    assert_eq!(seen, (200, expected));
}

#[tokio::test]
async fn a_redelivered_order_reserves_stock_once() {
    let shop = Shop::open().await;
    let order = order(7, 3);
    let (available, _) = shop.stock(7).await;
    let payload = event(&order).encode();
    for _ in 0..5 {
        shop.publish(&payload).await;
    }
    let applied = r#"messaging_process_duration_seconds_count{messaging_destination_name="order_events",outcome="applied"}"#;
    let duplicate = applied.replace("applied", "duplicate");
    eventually("all five are handled", async || {
        shop.service.metric(applied).await == 1.0 && shop.service.metric(&duplicate).await == 4.0
    })
    .await;
    assert_eq!(shop.stock(7).await.0, available - 3);
    assert_eq!(shop.broker.depth("order_events.dead").await, 0);
}

impl Shop {
    /// Waits until this many messages were handled, and deletes their ids, as pruning does after a week.
    async fn forget_after(&self, applied: f64) {
        let series = r#"messaging_process_duration_seconds_count{messaging_destination_name="order_events",outcome="applied"}"#;
        eventually("it is handled", async || {
            self.service.metric(series).await == applied
        })
        .await;
        sqlx::query("DELETE FROM inbox")
            .execute(&self.pool)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn an_order_repeated_after_the_inbox_window_reserves_stock_once() {
    let shop = Shop::open().await;
    let (good, bad) = (order(7, 3), order(12_345, 1));
    let (available, reserved) = shop.stock(7).await;
    let (placed, hopeless) = (event(&good).encode(), event(&bad).encode());
    let cancelled = Event::new(
        "order-service",
        &OrderCancelled {
            order_id: good.order_id,
            product_id: good.product_id,
            quantity: good.quantity,
        },
    )
    .encode();
    let mut applied = 0.0;
    for payload in [&placed, &placed, &hopeless, &hopeless] {
        shop.publish(payload).await;
        applied += 1.0;
        shop.forget_after(applied).await;
    }
    assert_eq!(shop.stock(7).await, (available - 3, reserved + 3));
    assert_eq!(shop.movements(&good).await, [3]);
    assert_eq!(shop.outcome(&bad).await.unwrap().0, "rejected");
    for payload in [&cancelled, &cancelled, &placed] {
        shop.publish(payload).await;
        applied += 1.0;
        shop.forget_after(applied).await;
    }
    assert_eq!(shop.stock(7).await, (available, reserved));
    assert_eq!(shop.movements(&good).await, [3, -3]);
    assert_eq!(shop.broker.depth("order_events.dead").await, 0);
}

#[tokio::test]
async fn a_dead_letter_has_the_times_of_its_first_failure_and_its_death() {
    let shop = Shop::open().await;
    let first = "2026-11-01T10:00:00.000Z";
    for (given, kept) in [(first, true), ("yesterday", false)] {
        let given = testkit::text_headers(&[
            (headers::FIRST_FAILED_AT, given),
            (headers::FAILED_AT, given),
        ]);
        shop.broker
            .publish_with("order_events", "order.strange", b"not json", given)
            .await;
        let (_, table) = shop.broker.wait_for_message("order_events.dead").await;
        let died = header_text(&table, headers::FAILED_AT).unwrap();
        let failed_first = header_text(&table, headers::FIRST_FAILED_AT).unwrap();
        assert_ne!(died, first);
        assert_eq!(failed_first, if kept { first } else { &died });
    }
}

#[tokio::test]
async fn a_repeated_event_is_answered_again_and_reserves_nothing() {
    let shop = Shop::open().await;
    sqlx::query("UPDATE stock SET available = 2 WHERE product_id = 5")
        .execute(&shop.pool)
        .await
        .unwrap();
    let cancelled = |order: &OrderPlaced| {
        let data = OrderCancelled {
            order_id: order.order_id,
            product_id: order.product_id,
            quantity: order.quantity,
        };
        Event::new("order-service", &data)
    };
    let (taken, refused, unknown, given_back, never_seen) = (
        order(7, 3),
        order(5, 3),
        order(12_345, 1),
        order(8, 2),
        order(9, 1),
    );
    let mut answers = Vec::new();
    let events = [
        event(&taken),
        event(&refused),
        event(&unknown),
        event(&given_back),
        cancelled(&given_back),
        cancelled(&never_seen),
        // Rejected before: nothing to release.
        cancelled(&refused),
    ];
    for event in &events {
        shop.publish(&event.encode()).await;
        answers.push(shop.published().await.0);
    }
    let movements = "SELECT count(*) FROM stock_movements";
    let moved: i64 = sqlx::query_scalar(movements)
        .fetch_one(&shop.pool)
        .await
        .unwrap();
    // The answer was lost in transit but is in the outbox: the same event. A cancelled order is not confirmed again.
    for (event, answer) in events.iter().zip(&answers) {
        if event.id != events[3].id {
            shop.publish(&event.encode()).await;
            assert_eq!(shop.published().await.0, *answer);
        }
    }
    shop.publish(&events[3].encode()).await;
    // Pruned from the outbox: a new event with the same content.
    sqlx::query("DELETE FROM outbox WHERE published_at IS NOT NULL")
        .execute(&shop.pool)
        .await
        .unwrap();
    for (event, answer) in events.iter().zip(&answers) {
        if event.id != events[3].id {
            shop.publish(&event.encode()).await;
            let (again, _) = shop.published().await;
            let content = |event: &Event| {
                let mut raw: Value = serde_json::from_slice(&event.encode()).unwrap();
                (raw["type"].take(), raw["data"].take())
            };
            assert_eq!(content(&again), content(answer));
        }
    }
    let after: i64 = sqlx::query_scalar(movements)
        .fetch_one(&shop.pool)
        .await
        .unwrap();
    assert_eq!(after, moved);
    assert_eq!(shop.broker.depth("inventory_events").await, 0);
    assert_eq!(shop.broker.depth("order_events.dead").await, 0);
}

#[tokio::test]
async fn too_little_stock_and_an_unknown_product_are_outcomes_not_failures() {
    let shop = Shop::open().await;
    sqlx::query("UPDATE stock SET available = 2 WHERE product_id = 5")
        .execute(&shop.pool)
        .await
        .unwrap();
    let (greedy, modest, unknown) = (order(5, 3), order(5, 2), order(12_345, 1));
    shop.publish(&event(&greedy).encode()).await;
    assert_eq!(
        shop.settled(&greedy).await,
        ("rejected".to_owned(), Some("out_of_stock".to_owned()))
    );
    shop.publish(&event(&modest).encode()).await;
    assert_eq!(shop.settled(&modest).await.0, "reserved");
    shop.publish(&event(&unknown).encode()).await;
    assert_eq!(
        shop.settled(&unknown).await.1.as_deref(),
        Some("unknown_product")
    );
    assert_eq!(shop.stock(5).await, (0, 2));
    assert_eq!(shop.broker.depth("order_events.dead").await, 0);
}

#[tokio::test]
async fn an_undecodable_message_is_dead_lettered_with_its_reason_and_others_are_processed() {
    let shop = Shop::open().await;
    let with = |pointer: &str, value: Value| {
        let mut event: Value = serde_json::from_str(GOLDEN).unwrap();
        *event.pointer_mut(pointer).unwrap() = value;
        event.to_string().into_bytes()
    };
    let cases = [
        (b"not json".to_vec(), DeadReason::Unreadable),
        (Vec::new(), DeadReason::Unreadable),
        (vec![0xff, 0xfe, 0x00], DeadReason::Unreadable),
        (with("/data/quantity", json!(-1)), DeadReason::Unreadable),
        (with("/specversion", json!("0.3")), DeadReason::Unreadable),
        (
            with("/type", json!("agora.order.placed.v2")),
            DeadReason::UnknownType,
        ),
        (
            with("/subject", json!("x".repeat(MAX_EVENT_BYTES))),
            DeadReason::Oversized,
        ),
    ];
    for (payload, reason) in cases {
        shop.broker
            .publish("order_events", "order.strange", &payload)
            .await;
        let (body, table) = shop.broker.wait_for_message("order_events.dead").await;
        assert_eq!(body, payload);
        let text = |name| header_text(&table, name);
        assert_eq!(text(headers::REASON).as_deref(), Some(reason.as_str()));
        assert_eq!(text(headers::ROUTING_KEY).as_deref(), Some("order.strange"));
        assert_eq!(text(headers::ATTEMPTS).as_deref(), Some("1"));
        assert_eq!(
            text(headers::CONSUMER).as_deref(),
            Some("inventory-service")
        );
        assert!(text(headers::ERROR).is_some_and(|error| !error.is_empty()));
        assert!(text(headers::FAILED_AT).is_some());
        let counted =
            format!(r#"agora_dead_letters_total{{queue="order_events",reason="{reason}"}}"#);
        assert!(shop.service.metric(&counted).await >= 1.0, "{counted}");
    }
    let good = order(1, 1);
    shop.publish(&event(&good).encode()).await;
    assert_eq!(shop.settled(&good).await.0, "reserved");
}

#[tokio::test]
async fn a_transient_failure_is_retried_later_and_loses_nothing() {
    let shop = Shop::open().await;
    // A lock that outlasts the statement timeout: the database is up, the row isn't available.
    let mut holder = chassis::database::begin(&testkit::lending_pool(&shop.pool))
        .await
        .unwrap();
    sqlx::query("SELECT FROM stock WHERE product_id = 8 FOR UPDATE")
        .execute(&mut *holder)
        .await
        .unwrap();
    let order = order(8, 4);
    let (available, _) = shop.stock(8).await;
    shop.publish(&event(&order).encode()).await;
    let retried = r#"agora_retries_total{queue="order_events",tier="1s"}"#;
    eventually("it is requeued once", async || {
        shop.service.metric(retried).await == 1.0
    })
    .await;
    assert_eq!(shop.outcome(&order).await, None);
    holder.rollback().await.unwrap();
    assert_eq!(shop.settled(&order).await.0, "reserved");
    assert_eq!(shop.stock(8).await.0, available - 4);
    assert_eq!(shop.broker.depth("order_events.dead").await, 0);
}

#[tokio::test]
async fn an_order_that_fails_permanently_is_dead_lettered_and_changes_nothing() {
    let shop = Shop::open().await;
    let forbidden = "ALTER TABLE stock ADD CONSTRAINT nine_is_not_for_sale CHECK (product_id <> 9 OR reserved = 0)";
    sqlx::query(forbidden).execute(&shop.pool).await.unwrap();
    let order = order(9, 1);
    let before = shop.stock(9).await;
    shop.publish(&event(&order).encode()).await;
    let (_, table) = shop.broker.wait_for_message("order_events.dead").await;
    assert_eq!(
        header_text(&table, headers::REASON).as_deref(),
        Some("rejected")
    );
    assert_eq!(shop.stock(9).await, before);
    assert_eq!(shop.outcome(&order).await, None);
    assert_eq!(shop.broker.depth("inventory_events").await, 0);
}

#[tokio::test]
async fn outcomes_are_published_in_the_documented_format() {
    let shop = Shop::open().await;
    let (good, bad) = (order(1, 2), order(12_345, 1));
    shop.publish(&event(&good).encode()).await;
    let (published, raw) = shop.published().await;
    assert_eq!(shape(&raw), shape(&golden("stock_reserved")));
    let reserved: StockReserved = published.data().unwrap();
    assert_eq!(
        (reserved.order_id, reserved.quantity),
        (good.order_id, good.quantity)
    );

    shop.publish(&event(&bad).encode()).await;
    let (published, raw) = shop.published().await;
    assert_eq!(shape(&raw), shape(&golden("stock_rejected")));
    let rejected: StockRejected = published.data().unwrap();
    assert_eq!(
        (rejected.order_id, rejected.reason),
        (bad.order_id, RejectReason::UnknownProduct)
    );

    shop.cancel(&good).await;
    let (published, raw) = shop.published().await;
    assert_eq!(shape(&raw), shape(&golden("stock_released")));
    let released: StockReleased = published.data().unwrap();
    assert_eq!((released.order_id, released.released), (good.order_id, 2));
}

#[tokio::test]
async fn a_cancelled_order_releases_its_stock_once() {
    let shop = Shop::open().await;
    let order = order(6, 4);
    let before = shop.stock(6).await;
    shop.publish(&event(&order).encode()).await;
    shop.settled(&order).await;
    // With different ids, unlike a client's two attempts.
    shop.cancel(&order).await;
    shop.cancel(&order).await;
    let mut released = Vec::new();
    shop.published().await;
    for _ in 0..2 {
        released.push(
            shop.published()
                .await
                .0
                .data::<StockReleased>()
                .unwrap()
                .released,
        );
    }
    assert_eq!(released, [4, 0]);
    assert_eq!(shop.stock(6).await, before);
    assert_eq!(shop.movements(&order).await, [4, -4]);
}

#[tokio::test]
async fn a_cancellation_that_overtakes_its_order_prevents_the_reservation() {
    let shop = Shop::open().await;
    let order = order(6, 4);
    let before = shop.stock(6).await;
    shop.cancel(&order).await;
    let released: StockReleased = shop.published().await.0.data().unwrap();
    assert_eq!(released.released, 0);
    shop.publish(&event(&order).encode()).await;
    let applied = r#"messaging_process_duration_seconds_count{messaging_destination_name="order_events",outcome="applied"}"#;
    eventually("both are handled", async || {
        shop.service.metric(applied).await == 2.0
    })
    .await;
    assert_eq!(shop.outcome(&order).await.unwrap().0, "cancelled");
    assert_eq!(shop.stock(6).await, before);
    assert!(shop.movements(&order).await.is_empty());
    assert_eq!(shop.broker.depth("inventory_events").await, 0);
    let overtaken = shop.service.metric("agora_orders_overtaken_total").await;
    assert_eq!(overtaken, 1.0);
}

#[tokio::test]
async fn stock_requires_an_identity_and_unknown_products_are_404() {
    let shop = Shop::open().await;
    let user = Uuid::now_v7();
    refused(
        shop.service.anonymous("GET", "/inventory/99"),
        401,
        "no-identity",
    )
    .await;
    refused(
        shop.service.as_user(user, "GET", "/inventory/101"),
        404,
        "not-found",
    )
    .await;
    refused(
        shop.service.as_user(user, "GET", "/inventory/-1"),
        404,
        "not-found",
    )
    .await;
    refused(
        shop.service.as_user(user, "GET", "/inventory/99x"),
        404,
        "not-found",
    )
    .await;
    refused(
        shop.service.as_user(user, "DELETE", "/inventory/99"),
        405,
        "method-not-allowed",
    )
    .await;
}

#[tokio::test]
async fn a_draining_service_requeues_its_messages() {
    let shop = Shop::open().await;
    let orders: Vec<_> = (0..300).map(|_| order(3, 1)).collect();
    for order in &orders {
        shop.publish(&event(order).encode()).await;
    }
    assert!(shop.service.stop().await, "drained in time");
    let settled: i64 = sqlx::query_scalar("SELECT count(*) FROM reservations")
        .fetch_one(&shop.pool)
        .await
        .unwrap();
    let left = async || i64::from(shop.broker.depth("order_events").await);
    eventually("handled and remaining messages add up", async || {
        settled + left().await == 300
    })
    .await;
}

#[tokio::test]
async fn headers_too_large_for_a_reason_do_not_prevent_dead_lettering() {
    let shop = Shop::open().await;
    for bytes in [10_000, 20_000, 32_000] {
        let bulk = testkit::text_headers(&[("x-bulk", &"x".repeat(bytes))]);
        shop.broker
            .publish_with("order_events", "order.placed.v1", b"not json", bulk)
            .await;
        let (_, table) = shop.broker.wait_for_message("order_events.dead").await;
        assert_eq!(
            header_text(&table, headers::REASON).as_deref(),
            Some("unreadable")
        );
    }
    // Once each: the connection was not lost over them.
    let dead = r#"agora_dead_letters_total{queue="order_events",reason="unreadable"}"#;
    assert_eq!(shop.service.metric(dead).await, 3.0);
}

#[tokio::test]
async fn a_senders_properties_cannot_lose_its_dead_letter_or_crash_the_consumer() {
    let shop = Shop::open().await;
    let mut table = testkit::text_headers(&[(headers::ROUTING_KEY, &"k".repeat(300))]);
    table.insert("CC".into(), testkit::text_list(&["order_events"]));
    shop.broker
        .publish_expiring("order_events", "order.odd", b"not json", table, "500")
        .await;
    let dead = r#"agora_dead_letters_total{queue="order_events",reason="unreadable"}"#;
    eventually("it is dead", async || {
        shop.service.metric(dead).await >= 1.0
    })
    .await;
    // For longer than its own expiration.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let (_, kept) = shop.broker.wait_for_message("order_events.dead").await;
    assert_eq!(
        header_text(&kept, headers::ROUTING_KEY).as_deref(),
        Some("order.odd")
    );
    assert_eq!(header_text(&kept, "CC"), None);
    assert_eq!(shop.service.metric(dead).await, 1.0);
}

#[tokio::test]
async fn a_deleted_queue_is_detected_and_declared_again() {
    let shop = Shop::open().await;
    eventually("it is ready", async || {
        shop.service.ops("/readyz").await.0 == 200
    })
    .await;
    shop.broker.delete_queue("order_events").await;
    let order = order(4, 1);
    eventually("it consumes again", async || {
        shop.broker
            .try_publish("order_events", "order.placed.v1", &event(&order).encode())
            .await
    })
    .await;
    assert_eq!(shop.settled(&order).await.0, "reserved");
    eventually("it is ready again", async || {
        shop.service.ops("/readyz").await.0 == 200
    })
    .await;
}

#[tokio::test]
async fn a_message_that_crashes_its_consumers_is_dead_lettered_after_the_brokers_delivery_limit() {
    let Shop {
        service,
        broker,
        broker_url,
        ..
    } = Shop::open().await;
    assert!(service.stop().await);
    broker
        .publish("order_events", "order.deadly", b"deadly")
        .await;
    let mut deaths = 0;
    while broker.depth("order_events.dead").await == 0 {
        let victim = BrokerClient::connect(&broker_url).await;
        deaths += i64::from(victim.take_and_die("order_events").await);
        assert!(deaths <= DELIVERY_LIMIT + 1, "it is redelivered for ever");
    }
    assert!(
        deaths >= DELIVERY_LIMIT,
        "dead-lettered after {deaths} deliveries"
    );
    let (body, table) = broker.wait_for_message("order_events.dead").await;
    assert_eq!(body, b"deadly");
    assert_eq!(
        header_text(&table, "x-last-death-reason").as_deref(),
        Some("delivery_limit")
    );
}

#[tokio::test]
async fn a_full_dead_letter_queue_delays_its_consumer_and_loses_nothing() {
    let shop = Shop::open().await;
    testkit::bound_queue(&shop.broker_url, "order_events.dead", 1).await;
    let messages: std::collections::BTreeSet<_> = (0..3)
        .map(|number| format!("not an event: {number}").into_bytes())
        .collect();
    for message in &messages {
        shop.publish(message).await;
    }
    let mut dead = std::collections::BTreeSet::new();
    while dead != messages {
        dead.insert(shop.broker.wait_for_message("order_events.dead").await.0);
    }
    let good = order(1, 1);
    shop.publish(&event(&good).encode()).await;
    assert_eq!(shop.settled(&good).await.0, "reserved");
}

#[tokio::test]
async fn the_served_document_equals_the_one_in_the_repository() {
    let shop = Shop::open().await;
    testkit::document_is_the_repositorys(&shop.service, "inventory-service").await;
}
