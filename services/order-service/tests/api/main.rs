//! order-service from outside: real PostgreSQL, real RabbitMQ, one of each for every test.

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod process;

use order_service::{Config, start};
use serde_json::{Value, json};
use shared_events::{Event, OrderPlaced};
use testkit::{BrokerClient, Service, answer, refused};
use uuid::Uuid;

const GOLDEN: &str = include_str!("../../../../shared-events/tests/golden/order_placed.v1.json");

struct Shop {
    service: Service,
    broker: BrokerClient,
}

impl Shop {
    async fn open() -> Self {
        Self::open_with(&[]).await
    }

    async fn open_with(more: &[(&str, &str)]) -> Self {
        let (database, broker) = (testkit::database().await, testkit::virtual_host().await);
        let mut variables = vec![("DATABASE_URL", &*database), ("AMQP_URL", &*broker)];
        variables.extend(more);
        let service = Service::start("order-service", &variables, Config::read, start).await;
        let broker = BrokerClient::connect(&broker).await;
        Self { service, broker }
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

    async fn announced(&self) -> (Event, Value) {
        let (payload, _) = self.broker.wait_for_message("order_events").await;
        let raw = serde_json::from_slice(&payload).unwrap();
        (Event::decode(&payload).unwrap(), raw)
    }
}

/// The names of an object's members, sorted, all the way down.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect(),
        _ => Value::Null,
    }
}

#[tokio::test]
async fn an_accepted_order_is_announced_in_the_agreed_form() {
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
async fn an_order_is_given_in_the_query_or_in_the_body_not_in_both() {
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
async fn impossible_orders_are_refused_and_announce_nothing() {
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
async fn the_same_key_gives_the_same_order_and_one_event() {
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
    assert_eq!(shop.broker.depth("order_events").await, 2);
}

#[tokio::test]
async fn a_key_that_many_use_at_once_makes_one_order() {
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
    // Racing attempts may announce it more than once: always as the same event.
    let mut events = std::collections::HashSet::new();
    while let Some((payload, _)) = shop.broker.take("order_events").await {
        events.insert(Event::decode(&payload).unwrap().id);
    }
    assert_eq!(events.len(), 1);
}

#[tokio::test]
async fn an_order_is_its_owners_alone() {
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
async fn without_the_gateways_identity_nothing_is_answered() {
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
async fn requests_are_counted_by_route_and_never_by_id() {
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
    let published = r#"messaging_client_published_messages_total{messaging_destination_name="order_events",outcome="confirmed"}"#;
    assert_eq!(shop.service.metric(published).await, 1.0);
    let (_, text) = shop.service.ops("/metrics").await;
    assert!(!text.contains(&id));
}

#[tokio::test]
async fn an_order_that_no_queue_takes_is_not_accepted_and_its_key_can_be_used_again() {
    let shop = Shop::open_with(&[("AMQP_PUBLISH_TIMEOUT_MS", "2000")]).await;
    let user = Uuid::now_v7();
    let order = || {
        shop.service
            .as_user(user, "POST", "/orders/?product_id=99")
            .header("Idempotency-Key", "again")
    };
    shop.broker
        .unbind("order_events", "order_events", "#")
        .await;
    refused(order(), 503, "unavailable").await;
    let unroutable = r#"messaging_client_published_messages_total{messaging_destination_name="order_events",outcome="unroutable"}"#;
    assert_eq!(shop.service.metric(unroutable).await, 1.0);
    shop.broker.bind("order_events", "order_events", "#").await;
    assert_eq!(answer(order()).await.0, 202);
    shop.announced().await;
}
