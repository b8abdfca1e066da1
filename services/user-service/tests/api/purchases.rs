//! Purchases, priced by the real product-service.

use serde_json::json;
use std::time::{Duration, Instant};
use testkit::{Service, answer, refused};
use tokio::net::TcpListener;

use super::{open, open_with_prices_from, sign_up};

async fn open_shop() -> (Service, Service) {
    let database = testkit::database().await;
    let variables = [("DATABASE_URL", &*database)];
    let (read, start) = (product_service::Config::read, product_service::start);
    let products = Service::start("product-service", &variables, read, start).await;
    let users = open_with_prices_from(&format!("http://{}", products.addr)).await;
    (users, products)
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
    let (_, list) = answer(service.as_user(ada, "GET", &path)).await;
    assert_eq!(list, json!({ "items": [bought], "next": null }));
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
    let buy = |body| {
        service
            .as_user(ada, "POST", &format!("/users/{ada}/purchases"))
            .json(&body)
    };
    let unknown = json!({ "product_id": 12345, "quantity": 1 });
    refused(buy(unknown), 422, "unknown-product").await;
    for (product_id, quantity) in [(0, 1), (99, 0), (99, 1001), (99, -1)] {
        let body = json!({ "product_id": product_id, "quantity": quantity });
        refused(buy(body), 422, "invalid").await;
    }
}

#[tokio::test]
async fn without_a_catalogue_purchases_are_unavailable_soon_and_the_rest_works() {
    // One endpoint that refuses, and one that accepts and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute_url = format!("http://{}", mute.local_addr().unwrap());
    for service in [open().await, open_with_prices_from(&mute_url).await] {
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
