//! order-service from outside: real PostgreSQL, real RabbitMQ, one of each for every test.

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod cancelled;
mod process;
mod recovery;
mod traces;

use std::collections::BTreeMap;

use chassis::patterns::Pattern;
use order_service::{Config, start};
use serde_json::{Value, json};
use shared_events::topology::headers;
use shared_events::{
    Event, OrderId, OrderPlaced, ProductId, Quantity, RejectReason, StockRejected, StockReleased,
    StockReserved,
};
use sqlx::PgPool;
use testkit::{BrokerClient, Service, answer, eventually, header_text, refused, shape};
use uuid::Uuid;

const GOLDEN: &str = include_str!("../../../../shared-events/tests/golden/order_placed.v1.json");

struct Shop {
    service: Service,
    broker: BrokerClient,
    broker_url: String,
    pool: PgPool,
}

impl Shop {
    async fn open() -> Self {
        Self::open_with(&[]).await
    }

    async fn open_with(more: &[(&str, &str)]) -> Self {
        let (database, broker) = (testkit::database().await, testkit::virtual_host().await);
        Self::open_on(&database, broker, more).await
    }

    async fn open_on(database: &str, broker_url: String, more: &[(&str, &str)]) -> Self {
        let mut variables = vec![("DATABASE_URL", database), ("AMQP_URL", &*broker_url)];
        variables.extend(more);
        let service = Service::start("order-service", &variables, Config::read, start).await;
        Self {
            service,
            broker: BrokerClient::connect(&broker_url).await,
            broker_url,
            pool: PgPool::connect(database).await.unwrap(),
        }
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    async fn place(&self, user: Uuid, path: &str) -> String {
        let (status, body) = answer(self.service.as_user(user, "POST", path)).await;
        assert_eq!(
            (status, &body["status"]),
            (202, &json!("pending")),
            "{body}"
        );
        body["order_id"].as_str().unwrap().to_owned()
    }

    /// Publishes an event as inventory-service would.
    async fn publish_outcome(&self, event: &Event) {
        self.broker
            .publish("inventory_events", event.routing_key(), &event.encode())
            .await;
    }

    async fn wait_for_status(&self, user: Uuid, id: &str, status: &str) -> Value {
        let path = format!("/orders/{id}");
        let read = || answer(self.service.as_user(user, "GET", &path));
        eventually(&format!("order {id} is {status}"), async || {
            read().await.1["status"] == status
        })
        .await;
        read().await.1
    }

    async fn announced(&self) -> (Event, Value) {
        let (payload, _) = self.broker.wait_for_message("order_events").await;
        let raw = serde_json::from_slice(&payload).unwrap();
        (Event::decode(&payload).unwrap(), raw)
    }
}

const APPLIED: &str = r#"messaging_process_duration_seconds_count{messaging_destination_name="inventory_events",outcome="applied"}"#;

fn order_id(id: &str) -> OrderId {
    OrderId(id.parse().unwrap())
}

fn product() -> ProductId {
    ProductId::try_from(99).unwrap()
}

fn one() -> Quantity {
    Quantity::try_from(1).unwrap()
}

fn reserved(id: &str) -> Event {
    let data = StockReserved {
        order_id: order_id(id),
        product_id: product(),
        quantity: one(),
    };
    Event::new("inventory-service", &data)
}

fn refusal(id: &str) -> Event {
    let data = StockRejected {
        order_id: order_id(id),
        product_id: product(),
        quantity: one(),
        reason: RejectReason::OutOfStock,
    };
    Event::new("inventory-service", &data)
}

fn released(id: &str) -> Event {
    let data = StockReleased {
        order_id: order_id(id),
        product_id: product(),
        released: 1,
    };
    Event::new("inventory-service", &data)
}

#[tokio::test]
async fn orders_beyond_capacity_are_refused_early_and_leave_nothing_behind() {
    let narrow = [("HTTP_MAX_IN_FLIGHT", "1"), ("HTTP_MAX_WAIT_MS", "200")];
    let shop = Shop::open_with(&narrow).await;
    let user = Uuid::now_v7();
    let mut lock = chassis::database::begin(&testkit::lending_pool(&shop.pool))
        .await
        .unwrap();
    sqlx::query("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let path = "/orders/?product_id=99";
    let accepted = tokio::spawn(answer(shop.service.as_user(user, "POST", path)));
    eventually("the first is in flight", async || {
        shop.service.metric("http_server_active_requests").await >= 1.0
    })
    .await;
    refused(shop.service.as_user(user, "POST", path), 503, "overloaded").await;
    lock.rollback().await.unwrap();
    assert_eq!(accepted.await.unwrap().0, 202);
    assert_eq!(shop.count("SELECT count(*) FROM orders").await, 1);
    shop.announced().await;
}

#[tokio::test]
async fn an_accepted_order_is_published_in_the_documented_format() {
    let shop = Shop::open().await;
    let user = Uuid::now_v7();
    let id = shop.place(user, "/orders/?product_id=99&quantity=2").await;
    let (event, raw) = shop.announced().await;
    let placed: OrderPlaced = event.data().unwrap();
    assert_eq!(placed.order_id.to_string(), id);
    assert_eq!(placed.user_id.0, user);
    assert_eq!((placed.product_id.get(), placed.quantity.get()), (99, 2));
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    assert_eq!(shape(&raw), shape(&golden));
    assert_eq!(
        (&raw["type"], &raw["source"]),
        (&golden["type"], &golden["source"])
    );
}

#[tokio::test]
async fn an_order_is_in_the_query_or_in_the_body_not_in_both() {
    let shop = Shop::open().await;
    let user = Uuid::now_v7();
    let post = |path: &str| shop.service.as_user(user, "POST", path);
    shop.place(user, "/orders?product_id=99").await;
    let body = json!({ "product_id": 99, "quantity": 3 });
    assert_eq!(answer(post("/orders/").json(&body)).await.0, 202);
    assert_eq!(
        answer(post("/orders/").json(&json!({ "product_id": 99 })))
            .await
            .0,
        202
    );
    refused(post("/orders/?product_id=99").json(&body), 422, "invalid").await;
    refused(post("/orders/"), 422, "invalid").await;
}

#[tokio::test]
async fn invalid_orders_are_refused_and_publish_nothing() {
    let shop = Shop::open().await;
    let user = Uuid::now_v7();
    let post = |path: &str| shop.service.as_user(user, "POST", path);
    for path in [
        "/orders/?product_id=0",
        "/orders/?product_id=-5",
        "/orders/?product_id=ninety",
        "/orders/?product_id=99&quantity=0",
        "/orders/?product_id=99&quantity=1001",
        "/orders/?product_id=99999999999999999999",
        "/orders/?product_id=99&qty=5",
    ] {
        refused(post(path), 422, "invalid").await;
    }
    for body in [
        "[]",
        "[99]",
        "[99, 1]",
        r#"{"product_id":99,"price":1}"#,
        r#"{"product_id":"99"}"#,
    ] {
        let request = post("/orders/")
            .header("content-type", "application/json")
            .body(body);
        refused(request, 422, "invalid").await;
    }
    for body in ["", "{", "\u{0}"] {
        let request = post("/orders/")
            .header("content-type", "application/json")
            .body(body);
        refused(request, 400, "malformed").await;
    }
    let form = post("/orders/")
        .header("content-type", "text/plain")
        .body("product_id=99");
    refused(form, 415, "unsupported-media-type").await;
    let long = format!(r#"{{"product_id":99,"note":"{}"}}"#, "x".repeat(70_000));
    let request = post("/orders/")
        .header("content-type", "application/json")
        .body(long);
    refused(request, 413, "too-large").await;
    assert_eq!(shop.broker.depth("order_events").await, 0);
}

#[tokio::test]
async fn a_repeated_key_returns_the_same_order_and_publishes_one_event() {
    let shop = Shop::open().await;
    let (ada, bob) = (Uuid::now_v7(), Uuid::now_v7());
    let post = |user, path: &str, key: &str| {
        shop.service
            .as_user(user, "POST", path)
            .header("Idempotency-Key", key.to_owned())
    };
    let first = answer(post(ada, "/orders/?product_id=99", "k-1")).await;
    assert_eq!(first.0, 202);
    for _ in 0..3 {
        assert_eq!(
            answer(post(ada, "/orders/?product_id=99", "k-1")).await,
            first
        );
    }
    let reused = post(ada, "/orders/?product_id=98", "k-1");
    refused(reused, 422, "idempotency-key-reused").await;
    let other = answer(post(bob, "/orders/?product_id=99", "k-1")).await;
    assert_ne!(other.1["order_id"], first.1["order_id"]);
    refused(
        post(ada, "/orders/?product_id=99", &"k".repeat(256)),
        422,
        "invalid",
    )
    .await;
    let doubled = post(ada, "/orders/?product_id=99", "k-1").header("Idempotency-Key", "k-2");
    refused(doubled, 422, "invalid").await;
    let announced = [
        shop.announced().await.0.subject,
        shop.announced().await.0.subject,
    ];
    assert_eq!(
        announced.map(Value::from),
        [first.1, other.1].map(|order| order["order_id"].clone())
    );
    assert_eq!(shop.broker.depth("order_events").await, 0);
}

#[tokio::test]
async fn a_repeated_key_gets_the_first_answer_after_the_order_was_decided() {
    let shop = Shop::open().await;
    let user = Uuid::now_v7();
    let post = |path: &str, key: &str| {
        let request = shop.service.as_user(user, "POST", path);
        answer(request.header("Idempotency-Key", key.to_owned()))
    };
    let path = "/orders/?product_id=99";
    let first = post(path, "confirmed").await;
    assert_eq!(
        (first.0, &first.1["status"]),
        (202, &json!("pending")),
        "{}",
        first.1
    );
    let id = first.1["order_id"].as_str().unwrap();
    shop.publish_outcome(&reserved(id)).await;
    shop.wait_for_status(user, id, "confirmed").await;
    assert_eq!(post(path, "confirmed").await, first);
    let cancel = format!("/orders/{id}/cancel");
    assert_eq!(
        answer(shop.service.as_user(user, "POST", &cancel)).await.0,
        202
    );
    assert_eq!(post(path, "confirmed").await, first);
    shop.publish_outcome(&released(id)).await;
    shop.wait_for_status(user, id, "cancelled").await;
    assert_eq!(post(path, "confirmed").await, first);

    let first = post(path, "rejected").await;
    let id = first.1["order_id"].as_str().unwrap();
    shop.publish_outcome(&refusal(id)).await;
    shop.wait_for_status(user, id, "rejected").await;
    assert_eq!(post(path, "rejected").await, first);

    // A refused request stored nothing: the next attempt is the first one.
    assert_eq!(post("/orders/?product_id=0", "refused").await.0, 422);
    assert_eq!(post(path, "refused").await.0, 202);
}

#[tokio::test]
async fn a_number_without_a_fraction_is_accepted_as_an_integer() {
    let shop = Shop::open().await;
    let user = Uuid::now_v7();
    let post = |body: &'static str| {
        let request = shop.service.as_user(user, "POST", "/orders/");
        request
            .header("content-type", "application/json")
            .body(body)
    };
    let (status, order) = answer(post(r#"{"product_id":99.0,"quantity":2e0}"#)).await;
    assert_eq!(status, 202, "{order}");
    let placed: OrderPlaced = shop.announced().await.0.data().unwrap();
    assert_eq!((placed.product_id.get(), placed.quantity.get()), (99, 2));
    for body in [
        r#"{"product_id":99.5}"#,
        r#"{"product_id":99,"quantity":1.5}"#,
    ] {
        refused(post(body), 422, "invalid").await;
    }
}

#[tokio::test]
async fn concurrent_requests_with_one_key_place_one_order() {
    let shop = Shop::open().await;
    let user = Uuid::now_v7();
    let attempts = (0..20).map(|_| {
        let request = shop
            .service
            .as_user(user, "POST", "/orders/?product_id=99")
            .header("Idempotency-Key", "storm");
        tokio::spawn(answer(request))
    });
    let mut ids = std::collections::HashSet::new();
    for attempt in attempts.collect::<Vec<_>>() {
        let (status, body) = attempt.await.unwrap();
        assert_eq!(status, 202);
        ids.insert(body["order_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 1);
    let (event, _) = shop.announced().await;
    assert!(ids.contains(&event.subject));
    assert_eq!(shop.broker.depth("order_events").await, 0);
}

#[tokio::test]
async fn an_order_is_only_visible_to_its_owner() {
    let shop = Shop::open().await;
    let (ada, bob) = (Uuid::now_v7(), Uuid::now_v7());
    let id = shop.place(ada, "/orders/?product_id=99").await;
    let path = format!("/orders/{id}");
    let (status, order) = answer(shop.service.as_user(ada, "GET", &path)).await;
    assert_eq!(
        (status, &order["order_id"], &order["quantity"]),
        (200, &json!(id), &json!(1))
    );
    refused(shop.service.as_user(bob, "GET", &path), 404, "not-found").await;
    let (_, list) = answer(shop.service.as_user(bob, "GET", "/orders/")).await;
    assert_eq!(list, json!({ "items": [], "next": null }));
}

#[tokio::test]
async fn orders_are_listed_newest_first_in_pages() {
    let shop = Shop::open().await;
    let user = Uuid::now_v7();
    let mut placed = Vec::new();
    for product in 1..=5 {
        placed.push(
            shop.place(user, &format!("/orders/?product_id={product}"))
                .await,
        );
    }
    placed.reverse();
    let mut seen = Vec::new();
    let mut path = "/orders/?limit=2".to_owned();
    for _ in 0..3 {
        let (_, page) = answer(shop.service.as_user(user, "GET", &path)).await;
        for order in page["items"].as_array().unwrap() {
            seen.push(order["order_id"].as_str().unwrap().to_owned());
        }
        path = format!(
            "/orders/?limit=2&after={}",
            page["next"].as_str().unwrap_or_default()
        );
    }
    assert_eq!(seen, placed);
    refused(
        shop.service.as_user(user, "GET", "/orders/?limit=1000"),
        422,
        "invalid",
    )
    .await;
}

#[tokio::test]
async fn requests_without_identity_headers_are_refused() {
    let shop = Shop::open().await;
    let id = Uuid::now_v7();
    for (method, path) in [
        ("POST", "/orders/?product_id=99".to_owned()),
        ("GET", "/orders/".to_owned()),
        ("GET", format!("/orders/{id}")),
    ] {
        refused(shop.service.anonymous(method, &path), 401, "no-identity").await;
        let only_id = shop
            .service
            .anonymous(method, &path)
            .header("X-User-Id", id.to_string());
        refused(only_id, 401, "no-identity").await;
        let twice = shop
            .service
            .as_user(id, method, &path)
            .header("X-User-Id", id.to_string());
        refused(twice, 401, "no-identity").await;
        let alias = shop
            .service
            .anonymous(method, &path)
            .header("X_User_Id", id.to_string())
            .header("X-User-Email", "a@b.example");
        refused(alias, 401, "no-identity").await;
    }
}

#[tokio::test]
async fn requests_are_counted_per_route_and_never_per_id() {
    let shop = Shop::open().await;
    let user = Uuid::now_v7();
    let id = shop.place(user, "/orders/?product_id=99").await;
    answer(shop.service.as_user(user, "GET", &format!("/orders/{id}"))).await;
    shop.service
        .as_user(user, "GET", "/no/such/path")
        .send()
        .await
        .unwrap();
    let count = |method: &str, route: &str, status: u16| {
        let series = format!(
            r#"http_server_request_duration_seconds_count{{http_request_method="{method}",http_route="{route}",http_response_status_code="{status}"}}"#
        );
        let service = &shop.service;
        async move { service.metric(&series).await }
    };
    assert_eq!(count("POST", "/orders/", 202).await, 1.0);
    assert_eq!(count("GET", "/orders/{id}", 200).await, 1.0);
    assert_eq!(count("GET", "unmatched", 404).await, 1.0);
    let published = r#"messaging_client_sent_messages_total{messaging_destination_name="order_events",outcome="confirmed"}"#;
    eventually("its event is counted", async || {
        shop.service.metric(published).await == 1.0
    })
    .await;
    let (_, text) = shop.service.ops("/metrics").await;
    assert!(!text.contains(&id));
}

#[tokio::test]
async fn an_unroutable_order_event_waits_until_a_queue_is_bound() {
    let shop = Shop::open_with(&[("OUTBOX_POLL_INTERVAL_MS", "100")]).await;
    let user = Uuid::now_v7();
    shop.broker
        .unbind("order_events", "order_events", "#")
        .await;
    let id = shop.place(user, "/orders/?product_id=99").await;
    let unroutable = r#"messaging_client_sent_messages_total{messaging_destination_name="order_events",outcome="unroutable"}"#;
    eventually("the broker returns the unroutable event", async || {
        shop.service.metric(unroutable).await >= 1.0
    })
    .await;
    eventually("the event waits in the outbox", async || {
        shop.service.metric("agora_outbox_backlog").await == 1.0
            && shop.service.metric("agora_outbox_oldest_age_seconds").await > 0.0
    })
    .await;
    shop.broker.bind("order_events", "order_events", "#").await;
    assert_eq!(shop.announced().await.0.subject, id);
    eventually("nothing waits", async || {
        shop.service.metric("agora_outbox_backlog").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn an_order_gets_the_outcome_of_inventory_service() {
    let shop = Shop::open().await;
    let user = Uuid::now_v7();
    let (confirmed, rejected) = (
        shop.place(user, "/orders/?product_id=1").await,
        shop.place(user, "/orders/?product_id=2").await,
    );
    shop.publish_outcome(&reserved(&confirmed)).await;
    shop.publish_outcome(&refusal(&rejected)).await;
    shop.wait_for_status(user, &confirmed, "confirmed").await;
    let order = shop.wait_for_status(user, &rejected, "rejected").await;
    assert_eq!(order["reason"], "out_of_stock");

    // Stale, duplicate and contradicting outcomes change nothing.
    for event in [
        reserved(&rejected),
        refusal(&confirmed),
        reserved(&confirmed),
        released(&confirmed),
    ] {
        shop.publish_outcome(&event).await;
    }
    eventually("all are handled", async || {
        shop.service.metric(APPLIED).await == 6.0
    })
    .await;
    shop.wait_for_status(user, &confirmed, "confirmed").await;
    shop.wait_for_status(user, &rejected, "rejected").await;
    assert_eq!(shop.broker.depth("inventory_events.dead").await, 0);
}

#[tokio::test]
async fn an_outcome_of_an_unknown_order_is_dead_lettered_and_a_duplicate_ignored() {
    let shop = Shop::open().await;
    shop.publish_outcome(&reserved(&Uuid::now_v7().to_string()))
        .await;
    let (_, table) = shop.broker.wait_for_message("inventory_events.dead").await;
    assert_eq!(
        header_text(&table, headers::REASON).as_deref(),
        Some("rejected")
    );

    let user = Uuid::now_v7();
    let id = shop.place(user, "/orders/?product_id=1").await;
    let event = reserved(&id);
    shop.publish_outcome(&event).await;
    shop.publish_outcome(&event).await;
    eventually("the second is recognised", async || {
        let duplicates = r#"agora_inbox_duplicates_total{queue="inventory_events"}"#;
        shop.service.metric(duplicates).await == 1.0
    })
    .await;
    shop.wait_for_status(user, &id, "confirmed").await;
}

impl Shop {
    /// Publishes an outcome, waits until this many were handled, and deletes their ids, as pruning does after a week.
    async fn publish_outcome_and_forget(&self, event: &Event, applied: f64) {
        self.publish_outcome(event).await;
        eventually("it is handled", async || {
            self.service.metric(APPLIED).await == applied
        })
        .await;
        sqlx::query("DELETE FROM inbox")
            .execute(&self.pool)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn an_outcome_repeated_after_the_inbox_window_changes_nothing() {
    let shop = Shop::open().await;
    let user = Uuid::now_v7();
    let mut applied = 0.0;
    let confirmed = shop.place(user, "/orders/?product_id=99").await;
    let rejected = shop.place(user, "/orders/?product_id=99").await;
    let cancelled = shop.place(user, "/orders/?product_id=99").await;
    let path = format!("/orders/{cancelled}/cancel");
    assert_eq!(
        answer(shop.service.as_user(user, "POST", &path)).await.0,
        202
    );
    for (id, status, outcome) in [
        (&confirmed, "confirmed", reserved(&confirmed)),
        (&rejected, "rejected", refusal(&rejected)),
        (&cancelled, "cancelled", released(&cancelled)),
    ] {
        applied += 1.0;
        shop.publish_outcome_and_forget(&outcome, applied).await;
        let before = shop.wait_for_status(user, id, status).await;
        let events = shop.count("SELECT count(*) FROM outbox").await;
        // The same event again, and each of the others, stale.
        for late in [outcome, reserved(id), refusal(id), released(id)] {
            applied += 1.0;
            shop.publish_outcome_and_forget(&late, applied).await;
            assert_eq!(shop.wait_for_status(user, id, status).await, before);
        }
        assert_eq!(shop.count("SELECT count(*) FROM outbox").await, events);
    }
    assert_eq!(shop.broker.depth("inventory_events.dead").await, 0);
}

#[tokio::test]
async fn a_cancellation_is_published_once_and_ends_when_the_stock_is_released() {
    let shop = Shop::open().await;
    let (ada, bob) = (Uuid::now_v7(), Uuid::now_v7());
    let id = shop.place(ada, "/orders/?product_id=99&quantity=2").await;
    let cancel = |user| {
        let path = format!("/orders/{id}/cancel");
        shop.service.as_user(user, "POST", &path)
    };
    refused(cancel(bob), 404, "not-found").await;
    for _ in 0..3 {
        let expected = json!({ "order_id": id, "status": "cancelling" });
        assert_eq!(answer(cancel(ada)).await, (202, expected));
    }
    assert_eq!(shop.announced().await.0.event_type, "agora.order.placed.v1");
    let (cancelled, raw) = shop.announced().await;
    let golden: Value = serde_json::from_str(include_str!(
        "../../../../shared-events/tests/golden/order_cancelled.v1.json"
    ))
    .unwrap();
    assert_eq!(shape(&raw), shape(&golden));
    assert_eq!(cancelled.subject, id);

    // Outcomes that were in flight when the order was cancelled.
    shop.publish_outcome(&reserved(&id)).await;
    shop.publish_outcome(&released(&id)).await;
    shop.wait_for_status(ada, &id, "cancelled").await;
    assert_eq!(answer(cancel(ada)).await.1["status"], "cancelled");
    assert_eq!(shop.broker.depth("order_events").await, 0);

    let rejected = shop.place(ada, "/orders/?product_id=99").await;
    shop.publish_outcome(&refusal(&rejected)).await;
    shop.wait_for_status(ada, &rejected, "rejected").await;
    let path = format!("/orders/{rejected}/cancel");
    refused(
        shop.service.as_user(ada, "POST", &path),
        409,
        "order-rejected",
    )
    .await;
}

#[tokio::test]
async fn an_order_that_waits_too_long_is_counted_as_stuck() {
    let shop = Shop::open_with(&[("ORDER_STUCK_AFTER_SECONDS", "1")]).await;
    let user = Uuid::now_v7();
    let id = shop.place(user, "/orders/?product_id=99").await;
    eventually("it is counted", async || {
        shop.service.metric("agora_orders_stuck").await == 1.0
    })
    .await;
    shop.publish_outcome(&reserved(&id)).await;
    eventually("it is not any more", async || {
        shop.service.metric("agora_orders_stuck").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn the_ops_port_lists_the_patterns() {
    let shop = Shop::open_with(&[
        ("AGORA_PATTERN_OUTBOX", "off"),
        ("AGORA_PATTERN_RETRY", "off"),
    ])
    .await;
    let (status, body) = shop.service.ops("/patterns").await;
    let found: Value = serde_json::from_str(&body).unwrap();
    // Those of a whole process are none of a service that a test runs.
    let of_the_process = [Pattern::GracefulShutdown, Pattern::AsyncExport];
    let read = Pattern::ALL.iter().filter(|pattern| {
        pattern.read_by().contains(&"order-service") && !of_the_process.contains(pattern)
    });
    let position = |pattern: &Pattern| match pattern {
        Pattern::Outbox | Pattern::Retry => "off",
        _ => "on",
    };
    let patterns: BTreeMap<_, _> = read.map(|it| (it.name(), position(it))).collect();
    let expected = json!({ "service": "order-service", "patterns": patterns });
    assert_eq!((status, found), (200, expected));
    let enabled = |name| format!(r#"agora_pattern_enabled{{pattern="{name}"}}"#);
    assert_eq!(shop.service.metric(&enabled("inbox")).await, 1.0);
    assert_eq!(shop.service.metric(&enabled("outbox")).await, 0.0);

    // The naive version also publishes, as long as nothing fails.
    let id = shop.place(Uuid::now_v7(), "/orders/?product_id=99").await;
    assert_eq!(shop.announced().await.0.subject, id);
}

#[tokio::test]
async fn at_the_queues_length_limit_orders_are_accepted_and_wait_in_the_outbox() {
    let shop = Shop::open_with(&[("OUTBOX_POLL_INTERVAL_MS", "100")]).await;
    testkit::bound_queue(&shop.broker_url, "order_events", 3).await;
    let user = Uuid::now_v7();
    let refused = r#"messaging_client_sent_messages_total{messaging_destination_name="order_events",outcome="refused"}"#;
    let placed = tokio::sync::Mutex::new(std::collections::BTreeSet::new());
    // The broker applies its bound with a delay.
    eventually("the broker refuses some", async || {
        let id = shop.place(user, "/orders/?product_id=99").await;
        placed.lock().await.insert(id);
        shop.service.metric(refused).await > 0.0
            && shop.service.metric("agora_outbox_backlog").await > 0.0
    })
    .await;
    let placed = placed.into_inner();
    // Consuming makes room; refused events are published again by themselves, perhaps twice.
    let announced = tokio::sync::Mutex::new(std::collections::BTreeSet::new());
    eventually("all are published and nothing waits", async || {
        let mut announced = announced.lock().await;
        while let Some((payload, _)) = shop.broker.take("order_events").await {
            announced.insert(Event::decode(&payload).unwrap().subject);
        }
        let waiting = "SELECT count(*) FROM outbox WHERE published_at IS NULL";
        *announced == placed && shop.count(waiting).await == 0
    })
    .await;
}

/// More than the broker accepts: `max_message_size`.
const TOO_LARGE_BYTES: usize = 2_000_000;

impl Shop {
    /// Inserts an event into the outbox; returns its id.
    async fn store(&self, subject: &str, routing_key: &str, payload: &str) -> Uuid {
        sqlx::query_scalar(
            "INSERT INTO outbox (event_id, subject, event_type, routing_key, payload)
             VALUES (gen_random_uuid(), $1, 'agora.test.v1', $2, $3) RETURNING event_id",
        )
        .bind(subject)
        .bind(routing_key)
        .bind(payload)
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    /// The number of rejections, the broker's error, and whether the event is parked.
    async fn rejection(&self, event_id: Uuid) -> (i32, Option<String>, bool) {
        sqlx::query_as(
            "SELECT rejections, rejected_because, parked_at IS NOT NULL FROM outbox WHERE event_id = $1",
        )
        .bind(event_id)
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    async fn bodies(&self, count: usize) -> Vec<String> {
        let mut bodies = Vec::new();
        for _ in 0..count {
            let (payload, _) = self.broker.wait_for_message("order_events").await;
            bodies.push(String::from_utf8(payload).unwrap());
        }
        bodies
    }
}

#[tokio::test]
async fn an_event_that_the_broker_rejects_is_parked_and_blocks_only_its_own_subject() {
    let variables = [
        ("OUTBOX_POLL_INTERVAL_MS", "100"),
        ("OUTBOX_MAX_REJECTIONS", "2"),
    ];
    let shop = Shop::open_with(&variables).await;
    let consumer = async || testkit::connections(&shop.broker_url, "order-service consumer").await;
    eventually("the consumer is seen", async || consumer().await.len() == 1).await;
    let consumer_before = consumer().await;

    // One is too large for the broker, one has a routing key that AMQP can't encode; each with a later event behind it.
    let large = shop
        .store("large", "test.v1", &"x".repeat(TOO_LARGE_BYTES))
        .await;
    shop.store("large", "test.v1", "after the large one").await;
    let long = shop.store("long", &"k".repeat(256), "long").await;
    shop.store("long", "test.v1", "after the long one").await;
    shop.store("other", "test.v1", "other").await;
    let id = shop.place(Uuid::now_v7(), "/orders/?product_id=99").await;

    eventually("both are parked", async || {
        shop.service.metric("agora_outbox_parked").await == 2.0
    })
    .await;
    for (event, reason) in [(large, "PRECONDITION"), (long, "255 bytes")] {
        let (tries, error, parked) = shop.rejection(event).await;
        assert_eq!((tries, parked), (2, true));
        let error = error.unwrap();
        assert!(error.contains(reason), "{error}");
    }
    let waiting = "SELECT count(*) FROM outbox WHERE published_at IS NULL";
    eventually("the others went on", async || {
        shop.count(waiting).await == 4
    })
    .await;
    // Perhaps more than once: the broker closed the channel that they were published on.
    let mut seen = std::collections::BTreeSet::new();
    while let Some((payload, _)) = shop.broker.take("order_events").await {
        seen.insert(String::from_utf8(payload).unwrap());
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.contains("other"), "{seen:?}");
    assert!(seen.iter().any(|body| body.contains(&id)), "{seen:?}");
    // Parked events, and those behind them, don't count as waiting for the relay.
    eventually("no event waits for the relay", async || {
        shop.service.metric("agora_outbox_oldest_age_seconds").await == 0.0
            && shop.service.metric("agora_outbox_backlog").await == 4.0
    })
    .await;
    // The consumer was not affected.
    assert_eq!(consumer().await, consumer_before);
    shop.publish_outcome(&reserved(&id)).await;
    eventually("the consumer continues", async || {
        shop.service.metric(APPLIED).await == 1.0
    })
    .await;

    // Repaired and retried, it is published before the events behind it; the other one is dropped.
    let repair =
        "UPDATE outbox SET payload = 'repaired', rejections = 0, retry_at = NULL, parked_at = NULL
                  WHERE subject = 'large' AND parked_at IS NOT NULL";
    sqlx::query(repair).execute(&shop.pool).await.unwrap();
    assert_eq!(shop.bodies(2).await, ["repaired", "after the large one"]);
    let dropped = "DELETE FROM outbox WHERE subject = 'long' AND parked_at IS NOT NULL";
    sqlx::query(dropped).execute(&shop.pool).await.unwrap();
    assert_eq!(shop.bodies(1).await, ["after the long one"]);
    eventually("nothing waits", async || {
        shop.count(waiting).await == 0 && shop.service.metric("agora_outbox_parked").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_delays_no_event() {
    let shop = Shop::open_with(&[("OUTBOX_POLL_INTERVAL_MS", "100")]).await;
    // Stored and rejected an hour ahead.
    let ahead = "INSERT INTO outbox (event_id, subject, event_type, routing_key, payload, created_at, rejections, retry_at)
                 VALUES (gen_random_uuid(), 'one', 'agora.test.v1', 'test.v1', $1,
                         now() + interval '1 hour', 1, now() + interval '1 hour 1 second')";
    sqlx::query(ahead)
        .bind("rejected")
        .execute(&shop.pool)
        .await
        .unwrap();
    shop.store("one", "test.v1", "behind it").await;
    assert_eq!(shop.bodies(2).await, ["rejected", "behind it"]);
}

#[tokio::test]
async fn a_full_broker_or_a_missing_queue_parks_no_event() {
    let variables = [
        ("OUTBOX_POLL_INTERVAL_MS", "100"),
        ("OUTBOX_MAX_REJECTIONS", "1"),
    ];
    let shop = Shop::open_with(&variables).await;
    let sent = |outcome: &str| {
        format!(
            r#"messaging_client_sent_messages_total{{messaging_destination_name="order_events",outcome="{outcome}"}}"#
        )
    };
    let user = Uuid::now_v7();
    shop.broker
        .unbind("order_events", "order_events", "#")
        .await;
    shop.place(user, "/orders/?product_id=99").await;
    eventually("the broker returns it, several times", async || {
        shop.service.metric(&sent("unroutable")).await >= 3.0
    })
    .await;
    shop.broker.bind("order_events", "order_events", "#").await;
    testkit::bound_queue(&shop.broker_url, "order_events", 3).await;
    eventually("the broker refuses some, several times", async || {
        shop.place(user, "/orders/?product_id=99").await;
        shop.service.metric(&sent("refused")).await >= 3.0
    })
    .await;
    let rejected = "SELECT count(*) FROM outbox WHERE rejections > 0 OR parked_at IS NOT NULL";
    assert_eq!(shop.count(rejected).await, 0);
}

#[tokio::test]
async fn old_rows_are_pruned_and_waiting_ones_never() {
    let (database, broker) = (testkit::database().await, testkit::virtual_host().await);
    let shop = Shop::open_on(&database, broker.clone(), &[]).await;
    shop.place(Uuid::now_v7(), "/orders/?product_id=99").await;
    shop.announced().await;
    assert!(shop.service.stop().await);
    for sql in [
        "INSERT INTO inbox (event_id, received_at)
         SELECT gen_random_uuid(), now() - make_interval(days => days) FROM generate_series(0, 9) AS days",
        "INSERT INTO outbox (event_id, subject, event_type, routing_key, payload, created_at, published_at)
         SELECT gen_random_uuid(), 'old', 'agora.old.v1', 'old.v1', '{}', now() - interval '2 hours',
                CASE WHEN number > 2 THEN now() END
         FROM generate_series(1, 10) AS number",
    ] {
        let pool = PgPool::connect(&database).await.unwrap();
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    let more = [("OUTBOX_RETENTION_MINUTES", "60")];
    let shop = Shop::open_on(&database, broker, &more).await;
    eventually("ids beyond the window are pruned", async || {
        shop.count("SELECT count(*) FROM inbox").await == 7
    })
    .await;
    // The two waiting ones were published before they were pruned; today's order stays.
    for _ in 0..2 {
        shop.broker.wait_for_message("order_events").await;
    }
    eventually(
        "published rows beyond the retention are pruned",
        async || shop.count("SELECT count(*) FROM outbox").await == 1,
    )
    .await;
}

#[tokio::test]
async fn the_served_document_equals_the_one_in_the_repository() {
    let shop = Shop::open().await;
    testkit::document_is_the_repositorys(&shop.service, "order-service").await;
}
