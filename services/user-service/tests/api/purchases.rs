//! Purchases, priced by the real product-service. It is made slow by a lock on its table.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, PgPool};
use testkit::{Service, answer, eventually, refused};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::{open, open_with_prices_from, sign_up};

async fn open_shop() -> (Service, Service) {
    let (users, products, _) = open_shop_with(&[]).await;
    (users, products)
}

/// user-service with more variables, product-service, and the URL of its database.
async fn open_shop_with(more: &[(&str, &str)]) -> (Service, Service, String) {
    let database = testkit::database().await;
    let variables = [("DATABASE_URL", &*database)];
    let (read, start) = (product_service::Config::read, product_service::start);
    let products = Service::start("product-service", &variables, read, start).await;
    let users = open_with_prices_from(&format!("http://{}", products.addr), more).await;
    (users, products, database)
}

/// As long as it is held nobody reads a product.
async fn lock_products(database: &str) -> PgConnection {
    let mut holder = PgConnection::connect(database).await.unwrap();
    for statement in ["BEGIN", "LOCK TABLE products IN ACCESS EXCLUSIVE MODE"] {
        sqlx::query(statement).execute(&mut holder).await.unwrap();
    }
    holder
}

/// A purchase of one piece.
fn buy(service: &Service, user: Uuid, product_id: i64) -> reqwest::RequestBuilder {
    service
        .as_user(user, "POST", &format!("/users/{user}/purchases"))
        .json(&json!({ "product_id": product_id, "quantity": 1 }))
}

async fn state(service: &Service, state: &str) -> bool {
    let series =
        format!(r#"agora_circuit_breaker_state{{target="product-service",state="{state}"}}"#);
    service.metric(&series).await == 1.0
}

#[tokio::test]
async fn a_purchase_costs_what_the_catalogue_says() {
    let (service, _products) = open_shop().await;
    let ada = sign_up(&service, "ada@example.com").await;
    let path = format!("/users/{ada}/purchases");
    // A price in the request is none of the client's business.
    let body = json!({ "product_id": 99, "quantity": 3, "unit_price_cents": 1 });
    let (status, bought) = answer(service.as_user(ada, "POST", &path).json(&body)).await;
    assert_eq!(status, 201);
    assert_eq!(
        (&bought["unit_price_cents"], &bought["total_cents"]),
        (&json!(1999), &json!(5997))
    );
    assert_eq!(bought["stale"], false);
    let mut stored = bought.clone();
    for age in ["price_as_of", "stale"] {
        stored.as_object_mut().unwrap().remove(age).unwrap();
    }
    let (_, list) = answer(service.as_user(ada, "GET", &path)).await;
    assert_eq!(list, json!({ "items": [stored], "next": null }));
}

#[tokio::test]
async fn somebody_elses_purchases_are_forbidden() {
    let (service, _products) = open_shop().await;
    let ada = sign_up(&service, "ada@example.com").await;
    let bob = sign_up(&service, "bob@example.com").await;
    let path = format!("/users/{ada}/purchases");
    let body = json!({ "product_id": 99, "quantity": 1 });
    refused(
        service.as_user(bob, "POST", &path).json(&body),
        403,
        "not-yours",
    )
    .await;
    refused(service.as_user(bob, "GET", &path), 403, "not-yours").await;
    refused(service.anonymous("GET", &path), 401, "no-identity").await;
    refused(
        service.anonymous("POST", &path).json(&body),
        401,
        "no-identity",
    )
    .await;
}

#[tokio::test]
async fn a_user_who_is_gone_buys_nothing() {
    let (service, _products) = open_shop().await;
    let nobody = uuid::Uuid::now_v7();
    let body = json!({ "product_id": 99, "quantity": 1 });
    let request = service.as_user(nobody, "POST", &format!("/users/{nobody}/purchases"));
    refused(request.json(&body), 404, "not-found").await;
}

#[tokio::test]
async fn what_is_not_on_sale_cannot_be_bought() {
    let (service, _products) = open_shop().await;
    let ada = sign_up(&service, "ada@example.com").await;
    refused(buy(&service, ada, 12_345), 422, "unknown-product").await;
    for (product_id, quantity) in [(0, 1), (99, 0), (99, 1001), (99, -1)] {
        let body = json!({ "product_id": product_id, "quantity": quantity });
        refused(buy(&service, ada, 99).json(&body), 422, "invalid").await;
    }
}

#[tokio::test]
async fn without_a_catalogue_purchases_are_unavailable_soon_and_the_rest_works() {
    // One endpoint that refuses, and one that accepts and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute_url = format!("http://{}", mute.local_addr().unwrap());
    for service in [open().await, open_with_prices_from(&mute_url, &[]).await] {
        let ada = sign_up(&service, "ada@example.com").await;
        let path = format!("/users/{ada}/purchases");
        let body = json!({ "product_id": 99, "quantity": 1 });
        let started = Instant::now();
        refused(
            service.as_user(ada, "POST", &path).json(&body),
            503,
            "unavailable",
        )
        .await;
        assert!(started.elapsed() < Duration::from_secs(5));
        assert_eq!(answer(service.as_user(ada, "GET", &path)).await.0, 200);
        assert_eq!(service.ops("/readyz").await.0, 200);
    }
}

/// Short, so that a test needn't wait for long.
const SHORT_TIMEOUTS: [(&str, &str); 4] = [
    ("CATALOG_TIMEOUT_MS", "500"),
    ("CATALOG_BREAKER_FAILURES", "3"),
    ("CATALOG_BREAKER_OPEN_MS", "1000"),
    ("CATALOG_CONCURRENCY", "4"),
];
/// For a machine that is busy.
const SLACK: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_catalogue_that_hangs_is_waited_for_no_longer_than_it_may_and_then_not_asked() {
    let (service, _products, database) = open_shop_with(&SHORT_TIMEOUTS).await;
    let ada = sign_up(&service, "ada@example.com").await;
    let (_, fresh) = answer(buy(&service, ada, 99)).await;
    let lock = lock_products(&database).await;

    // Of 99 a price is known from before; of 98 none is.
    let started = Instant::now();
    let (status, stale) = answer(buy(&service, ada, 99)).await;
    assert_eq!(status, 201, "{stale}");
    assert!(started.elapsed() < Duration::from_millis(500) + SLACK);
    for member in ["unit_price_cents", "price_as_of"] {
        assert_eq!(stale[member], fresh[member], "{member}");
    }
    assert_eq!(
        (&fresh["stale"], &stale["stale"]),
        (&json!(false), &json!(true))
    );
    for _ in 0..2 {
        refused(buy(&service, ada, 98), 503, "unavailable").await;
    }
    assert!(state(&service, "open").await);
    assert_eq!(service.ops("/readyz").await.0, 200);
    let refusals = r#"agora_calls_refused_total{target="product-service",reason="open"}"#;
    let fallbacks = r#"agora_fallbacks_total{target="product-service"}"#;
    let (refused_before, fallbacks_before) = (
        service.metric(refusals).await,
        service.metric(fallbacks).await,
    );
    assert_eq!((refused_before, fallbacks_before), (0.0, 1.0));
    let (_, stale) = answer(buy(&service, ada, 99)).await;
    assert_eq!(stale["stale"], true);
    assert_eq!(service.metric(fallbacks).await, 2.0);

    // A probe finds out by itself; until then the old price stands in.
    drop(lock);
    let recovering = Instant::now();
    eventually("a fresh price", async || {
        let (status, bought): (u16, Value) = answer(buy(&service, ada, 99)).await;
        assert_eq!(status, 201);
        bought["stale"] == false && state(&service, "closed").await
    })
    .await;
    assert!(recovering.elapsed() < Duration::from_secs(3) + SLACK);
}

#[tokio::test]
async fn more_purchases_than_may_ask_at_once_do_not_wait() {
    // Nothing fails before all of them are there.
    let variables = [("CATALOG_TIMEOUT_MS", "3000"), ("CATALOG_CONCURRENCY", "4")];
    let (service, _products, database) = open_shop_with(&variables).await;
    let ada = sign_up(&service, "ada@example.com").await;
    let _lock = lock_products(&database).await;
    let purchases = join_all((0..12).map(async |_| {
        let started = Instant::now();
        refused(buy(&service, ada, 99), 503, "unavailable").await;
        started.elapsed()
    }));
    let took = purchases.await;
    let waited = took.iter().filter(|took| **took >= Duration::from_secs(3));
    assert_eq!(waited.count(), 4, "{took:?}");
    let refusals = r#"agora_calls_refused_total{target="product-service",reason="bulkhead"}"#;
    assert_eq!(service.metric(refusals).await, 8.0);
}

#[tokio::test]
async fn what_is_not_on_sale_opens_no_breaker() {
    let (service, _products, _) = open_shop_with(&SHORT_TIMEOUTS).await;
    let ada = sign_up(&service, "ada@example.com").await;
    for _ in 0..25 {
        refused(buy(&service, ada, 12_345), 422, "unknown-product").await;
    }
    assert!(state(&service, "closed").await);
    assert_eq!(answer(buy(&service, ada, 99)).await.0, 201);
}

#[tokio::test]
async fn a_price_that_is_older_than_it_may_be_does_not_stand_in() {
    let mut variables = SHORT_TIMEOUTS.to_vec();
    variables.push(("CATALOG_MAX_STALE_SECONDS", "0"));
    let (service, _products, database) = open_shop_with(&variables).await;
    let ada = sign_up(&service, "ada@example.com").await;
    assert_eq!(answer(buy(&service, ada, 99)).await.0, 201);
    let _lock = lock_products(&database).await;
    refused(buy(&service, ada, 99), 503, "unavailable").await;
}

#[tokio::test]
async fn a_request_takes_no_longer_than_its_client_waits_and_neither_does_its_statement() {
    let (service, _products, database) = open_shop_with(&[]).await;
    let ada = sign_up(&service, "ada@example.com").await;
    assert_eq!(answer(buy(&service, ada, 99)).await.0, 201);
    let _lock = lock_products(&database).await;
    let hurried = || buy(&service, ada, 99).header("X-Request-Timeout-Ms", "300");
    for _ in 0..12 {
        let started = Instant::now();
        // No old price for somebody who only didn't wait.
        refused(hurried(), 503, "unavailable").await;
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "its own two seconds"
        );
    }
    assert!(
        state(&service, "closed").await,
        "short deadlines open nothing"
    );

    let server = PgPool::connect(&database).await.unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let given_up = Instant::now();
    eventually("no statement waits any more", async || {
        let waiting: i64 = sqlx::query_scalar(waiting)
            .fetch_one(&server)
            .await
            .unwrap();
        waiting == 0
    })
    .await;
    // A service's statements may take five seconds where nobody has less.
    assert!(given_up.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_time_that_cannot_be_read_is_refused() {
    let (service, _products) = open_shop().await;
    let ada = sign_up(&service, "ada@example.com").await;
    for value in ["0", "-5", "soon", "1.5", "600001"] {
        let request = buy(&service, ada, 99).header("X-Request-Timeout-Ms", value);
        refused(request, 400, "malformed").await;
    }
    let request = buy(&service, ada, 99).header("X-Request-Timeout-Ms", "5000");
    assert_eq!(answer(request).await.0, 201);
}

#[tokio::test]
async fn without_a_deadline_a_purchase_waits_as_long_as_its_request_may() {
    let naive = [
        ("AGORA_PATTERN_DEADLINE", "off"),
        ("AGORA_PATTERN_CIRCUIT_BREAKER", "off"),
        ("HTTP_TIMEOUT_MS", "4000"),
    ];
    let (service, _products, database) = open_shop_with(&naive).await;
    let ada = sign_up(&service, "ada@example.com").await;
    assert_eq!(answer(buy(&service, ada, 99)).await.0, 201);
    let _lock = lock_products(&database).await;
    for _ in 0..2 {
        let started = Instant::now();
        refused(buy(&service, ada, 99), 503, "unavailable").await;
        assert!(started.elapsed() >= Duration::from_secs(4));
    }
}

#[tokio::test]
async fn without_a_breaker_everybody_waits_and_fails() {
    let naive = [
        ("AGORA_PATTERN_CIRCUIT_BREAKER", "off"),
        ("CATALOG_TIMEOUT_MS", "300"),
    ];
    let (service, _products, database) = open_shop_with(&naive).await;
    let ada = sign_up(&service, "ada@example.com").await;
    assert_eq!(answer(buy(&service, ada, 99)).await.0, 201);
    let _lock = lock_products(&database).await;
    for _ in 0..12 {
        let started = Instant::now();
        refused(buy(&service, ada, 99), 503, "unavailable").await;
        assert!(started.elapsed() >= Duration::from_millis(300));
    }
}

#[tokio::test]
async fn callers_with_little_time_neither_hide_an_outage_nor_its_end() {
    let (service, _products, database) = open_shop_with(&SHORT_TIMEOUTS).await;
    let ada = sign_up(&service, "ada@example.com").await;
    assert_eq!(answer(buy(&service, ada, 99)).await.0, 201);
    let over = Cell::new(false);
    // Twice as many as may ask at once, again and again; a moment lies between, or they alone keep the machine busy.
    let storm = join_all((0..8).map(async |_| {
        while !over.get() {
            let short = buy(&service, ada, 99).header("X-Request-Timeout-Ms", "300");
            let status = answer(short).await.0;
            assert!(matches!(status, 201 | 503), "{status}");
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    }));
    let outage = async {
        let lock = lock_products(&database).await;
        eventually("a caller with time finds out", async || {
            refused(buy(&service, ada, 98), 503, "unavailable").await;
            state(&service, "open").await
        })
        .await;
        drop(lock);
        eventually("it is over", async || state(&service, "closed").await).await;
        over.set(true);
    };
    tokio::join!(storm, outage);
}

#[tokio::test]
async fn an_old_price_stands_in_where_a_request_has_no_more_time_than_its_call() {
    // A call may take all of that but what it takes to answer, and the request always has a moment less.
    let (service, _products, database) = open_shop_with(&[("HTTP_TIMEOUT_MS", "2000")]).await;
    let ada = sign_up(&service, "ada@example.com").await;
    assert_eq!(answer(buy(&service, ada, 99)).await.0, 201);
    let _lock = lock_products(&database).await;
    // On a busy machine the rest of its time may not be enough for the first of them.
    eventually("a price of a moment ago", async || {
        let (status, bought) = answer(buy(&service, ada, 99)).await;
        status == 201 && bought["stale"] == true
    })
    .await;
}

#[tokio::test]
async fn the_same_key_gives_the_same_purchase_also_while_nobody_knows_a_price() {
    let (service, _products, database) = open_shop_with(&SHORT_TIMEOUTS).await;
    let ada = sign_up(&service, "ada@example.com").await;
    let bob = sign_up(&service, "bob@example.com").await;
    let with_key = |user, product_id, key: &str| {
        buy(&service, user, product_id).header("Idempotency-Key", key.to_owned())
    };
    let first = answer(with_key(ada, 99, "k-1")).await;
    assert_eq!(first.0, 201);
    assert_eq!(answer(with_key(ada, 99, "k-1")).await, first);
    let others = answer(with_key(bob, 99, "k-1")).await;
    assert_ne!(others.1["id"], first.1["id"]);
    refused(with_key(ada, 98, "k-1"), 422, "idempotency-key-reused").await;
    let more = buy(&service, ada, 99).json(&json!({ "product_id": 99, "quantity": 2 }));
    let more = more.header("Idempotency-Key", "k-1");
    refused(more, 422, "idempotency-key-reused").await;
    refused(with_key(ada, 99, &"k".repeat(256)), 422, "invalid").await;
    let doubled = with_key(ada, 99, "k-1").header("Idempotency-Key", "k-2");
    refused(doubled, 422, "invalid").await;
    // Somebody else's purchases stay somebody else's.
    let path = format!("/users/{ada}/purchases");
    let foreign = service.as_user(bob, "POST", &path);
    let foreign = foreign.header("Idempotency-Key", "k-1");
    let body = json!({ "product_id": 99, "quantity": 1 });
    refused(foreign.json(&body), 403, "not-yours").await;

    let _lock = lock_products(&database).await;
    let started = Instant::now();
    assert_eq!(answer(with_key(ada, 99, "k-1")).await, first);
    // An old price is repeated as one, whatever the price is now.
    let stale = answer(with_key(ada, 99, "k-3")).await;
    assert_eq!(stale.1["stale"], true);
    assert_eq!(answer(with_key(ada, 99, "k-3")).await, stale);
    assert!(started.elapsed() < Duration::from_millis(500) + SLACK);
    let (_, list) = answer(service.as_user(ada, "GET", &path)).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_repeated_key_gets_the_first_answer_whatever_the_price_is_by_then() {
    let (service, _products, database) = open_shop_with(&[]).await;
    let ada = sign_up(&service, "ada@example.com").await;
    let with_key = |product_id, key: &'static str| {
        buy(&service, ada, product_id).header("Idempotency-Key", key)
    };
    let first = answer(with_key(99, "k-1")).await;
    assert_eq!(first.0, 201);
    let products = PgPool::connect(&database).await.unwrap();
    sqlx::query(
        "UPDATE products SET price_cents = price_cents + 1, name = 'another' WHERE id = 99",
    )
    .execute(&products)
    .await
    .unwrap();
    assert_eq!(answer(with_key(99, "k-1")).await, first);
    let now = answer(with_key(99, "k-2")).await;
    assert_ne!(now.1["unit_price_cents"], first.1["unit_price_cents"]);

    // What was refused made nothing: the next attempt is the first one.
    refused(with_key(12_345, "k-3"), 422, "unknown-product").await;
    let lock = lock_products(&database).await;
    refused(with_key(98, "k-3"), 503, "unavailable").await;
    drop(lock);
    eventually("a price again", async || {
        answer(with_key(98, "k-3")).await.0 == 201
    })
    .await;
    products.close().await;
}

#[tokio::test]
async fn a_number_without_a_fraction_is_an_integer() {
    let (service, _products) = open_shop().await;
    let ada = sign_up(&service, "ada@example.com").await;
    let post = |body: &'static str| {
        let request = service.as_user(ada, "POST", &format!("/users/{ada}/purchases"));
        request
            .header("content-type", "application/json")
            .body(body)
    };
    let (status, bought) = answer(post(r#"{"product_id":99.0,"quantity":2.0}"#)).await;
    assert_eq!(status, 201, "{bought}");
    assert_eq!(
        (&bought["product_id"], &bought["quantity"]),
        (&json!(99), &json!(2))
    );
    refused(post(r#"{"product_id":99.5,"quantity":1}"#), 422, "invalid").await;
}

#[tokio::test]
async fn a_key_that_many_use_at_once_makes_one_purchase() {
    let (service, _products) = open_shop().await;
    let ada = sign_up(&service, "ada@example.com").await;
    // Then there is a price, however busy the machine is.
    assert_eq!(answer(buy(&service, ada, 99)).await.0, 201);
    let attempts = join_all((0..12).map(|_| {
        let request = buy(&service, ada, 99).header("Idempotency-Key", "storm");
        answer(request)
    }));
    for (status, bought) in attempts.await {
        assert_eq!(status, 201, "{bought}");
    }
    let path = format!("/users/{ada}/purchases");
    let (_, list) = answer(service.as_user(ada, "GET", &path)).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
}
