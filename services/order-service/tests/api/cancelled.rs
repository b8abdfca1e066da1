//! Requests and the relay, dropped at each of their awaits.

use std::sync::Arc;

use chassis::environment::Env;
use chassis::lifecycle::Lifecycle;
use chassis::outbox::Relay;
use chassis::{broker, database};
use chrono::{DateTime, Utc};
use order_service::{Config, compose};
use serde_json::{Value, json};
use shared_events::topology::{ALL, ORDER_EVENTS};
use shared_events::{Event, OrderCancelled, OrderId};
use testkit::BrokerClient;
use testkit::cancellation::{Composed, Observer, drop_at_each_await, request_of, soon};
use tokio::sync::Notify;
use uuid::Uuid;

use super::{one, product};

/// The publisher's two, and the test's.
const CHANNELS: usize = 3;
const EVENTS: &str = "order_events";
const STORE: &str = "INSERT INTO outbox (event_id, subject, event_type, routing_key, payload) VALUES ($1, $2, $3, $4, $5)";

/// Orders of this user that stand so, for requests that need a new one each.
async fn orders(service: &Composed, user: Uuid, status: &str) -> std::vec::IntoIter<Uuid> {
    let reason = (status == "rejected").then_some("out_of_stock");
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "INSERT INTO orders (id, user_id, product_id, quantity, status, reason)
         SELECT gen_random_uuid(), $1, 99, 1, $2, $3 FROM generate_series(1, 200) RETURNING id",
    )
    .bind(user)
    .bind(status)
    .bind(reason)
    .fetch_all(service.observer().database())
    .await
    .unwrap();
    ids.into_iter()
}

#[tokio::test]
async fn a_request_that_is_dropped_leaves_nothing_behind() {
    let (database, broker) = (testkit::database().await, testkit::virtual_host().await);
    let variables = [("DATABASE_URL", &*database), ("AMQP_URL", &*broker)];
    let service = Composed::new("order-service", &variables, Config::read, compose).await;
    let user = Uuid::now_v7();
    let request = |method: &str, path: &str, body: &Value| request_of(user, method, path, body);
    let with_key = |key: &str| {
        let mut request = request("POST", "/orders/?product_id=99", &Value::Null);
        request
            .headers_mut()
            .insert("Idempotency-Key", key.parse().unwrap());
        request
    };

    let dropped = service.drop_at_each_await("an order", async || {
        request(
            "POST",
            "/orders/",
            &json!({ "product_id": 99, "quantity": 2 }),
        )
    });
    assert_eq!(dropped.await, 202);
    let dropped = service.drop_at_each_await("an order with a key", async || {
        with_key(&Uuid::now_v7().to_string())
    });
    assert_eq!(dropped.await, 202);
    assert_eq!(service.answer(with_key("once")).await.status(), 202);
    let dropped = service.drop_at_each_await("an order once more", async || with_key("once"));
    assert_eq!(dropped.await, 202);
    for (status, expected) in [("pending", 202), ("cancelled", 202), ("rejected", 409)] {
        let mut orders = orders(&service, user, status).await;
        let what = format!("the cancellation of a {status} order");
        let dropped = service.drop_at_each_await(&what, async || {
            let path = format!("/orders/{}/cancel", orders.next().unwrap());
            request("POST", &path, &Value::Null)
        });
        assert_eq!(dropped.await, expected);
    }
    let id = orders(&service, user, "pending").await.next().unwrap();
    for path in [
        "/orders/",
        &format!("/orders/{id}"),
        "/openapi/order-service.json",
    ] {
        let dropped = service.drop_at_each_await(path, async || request("GET", path, &Value::Null));
        assert_eq!(dropped.await, 200);
    }

    // What was committed, its request dropped or not, is whole.
    let placed: Vec<(Uuid, DateTime<Utc>, bool)> = sqlx::query_as(
        "SELECT id, placed_at, EXISTS (SELECT FROM outbox WHERE subject = orders.id::text)
         FROM orders WHERE uuid_extract_version(id) = 7",
    )
    .fetch_all(service.observer().database())
    .await
    .unwrap();
    assert!(placed.len() > 2, "{placed:?}");
    for (id, placed_at, told) in placed {
        assert!(told, "{id} is an order that nobody is told of");
        assert_eq!(OrderId(id).generated_at(), Some(placed_at));
    }
    service.stop().await;
}

#[tokio::test]
async fn a_relay_that_is_dropped_leaves_nothing_behind_and_publishes_what_it_had_begun() {
    let (database_url, broker_url) = (testkit::database().await, testkit::virtual_host().await);
    let variables = [("DATABASE_URL", &*database_url), ("AMQP_URL", &*broker_url)];
    let config = Config::read(&Env::from_pairs(variables)).unwrap();
    let lifecycle = Lifecycle::new("order-service");
    let connected = database::connect(&lifecycle, &config.database, &sqlx::migrate!()).await;
    let database = connected.unwrap();
    let broker = broker::connect(&lifecycle, config.broker, &ALL).await;
    let publisher = broker.unwrap().publisher(ORDER_EVENTS);
    let wake_up = Arc::new(Notify::new());
    let relay = Relay::new(&lifecycle, &config.outbox, &database, publisher, wake_up);
    let observer = Observer::new(&database_url, &lifecycle).await;
    let client = BrokerClient::connect(&broker_url).await;

    let unpublished = async || {
        let sql = "SELECT count(*) FROM outbox WHERE published_at IS NULL";
        observer.count(sql).await
    };
    let (polls, _) = drop_at_each_await(
        "the relay",
        async || {
            // Of one order each, so that the batch has more than one.
            while unpublished().await < 3 {
                let order_id = OrderId::generate();
                let data = OrderCancelled {
                    order_id,
                    product_id: product(),
                    quantity: one(),
                };
                let event = Event::new("order-service", &data);
                sqlx::query(STORE)
                    .bind(event.id)
                    .bind(&*event.subject)
                    .bind(&*event.event_type)
                    .bind(event.routing_key())
                    .bind(String::from_utf8(event.encode()).unwrap())
                    .execute(observer.database())
                    .await
                    .unwrap();
            }
        },
        async |()| relay.run().await,
        async || soon(|| "published".to_owned(), async || unpublished().await == 0).await,
        async |when: &str| observer.clean(when).await,
    )
    .await;
    eprintln!("the relay: published after {polls} polls");

    soon(
        || "a channel is left".to_owned(),
        async || testkit::open_channels(&broker_url).await == CHANNELS,
    )
    .await;
    // Each at least once, and none that isn't marked.
    assert_eq!(unpublished().await, 0);
    let mut published = Vec::new();
    while let Some((payload, _)) = client.take(EVENTS).await {
        published.push(Event::decode(&payload).unwrap().id);
    }
    let stored: Vec<Uuid> = sqlx::query_scalar("SELECT event_id FROM outbox")
        .fetch_all(observer.database())
        .await
        .unwrap();
    assert!(stored.len() >= 3);
    assert!(stored.iter().all(|id| published.contains(id)));
    assert!(lifecycle.stop(testkit::PATIENCE).await);
}
