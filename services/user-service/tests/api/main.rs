//! user-service from outside: real PostgreSQL, and the real product-service for prices.

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod accounts;
mod balancing;
mod cancelled;
mod documents;
mod overload;
mod purchases;
mod revocation;
mod throttling;
mod tokens;
mod users;

use serde_json::{Value, json};
use testkit::{Service, answer};
use user_service::{Config, start};
use uuid::Uuid;

/// Signs; the second key still verifies.
const KEY: &str = "0101010101010101010101010101010101010101010101010101010101010101";
const OLD_KEY: &str = "0202020202020202020202020202020202020202020202020202020202020202";

const PASSWORD: &str = "correct horse battery";

/// A user-service whose prices come from this URL, with further variables.
async fn open_with_prices_from(product_service: &str, further: &[(&str, &str)]) -> Service {
    let database = testkit::database().await;
    let variables = [&[("PRODUCT_SERVICE_URL", product_service)], further].concat();
    open_with(&database, &variables).await
}

/// A user-service on this database, as one replica of several, with further variables.
async fn open_with(database: &str, further: &[(&str, &str)]) -> Service {
    let keys = format!("new:{KEY},old:{OLD_KEY}");
    let variables = [
        ("DATABASE_URL", database),
        ("JWT_KEYS", &keys),
        ("PRODUCT_SERVICE_URL", "http://127.0.0.1:9"),
        // The lowest cost that bcrypt accepts: these tests don't measure hashing.
        ("BCRYPT_COST", "4"),
    ];
    let variables = [&variables, further].concat();
    Service::start("user-service", &variables, Config::read, start).await
}

/// A user-service without a product-service.
async fn open() -> Service {
    open_on(&testkit::database().await).await
}

/// The same, on this database.
async fn open_on(database: &str) -> Service {
    open_with(database, &[]).await
}

async fn sign_up(service: &Service, email: &str) -> Uuid {
    let body = json!({ "name": "Ada", "email": email, "password": PASSWORD });
    let (status, user) = answer(service.anonymous("POST", "/auth/signup").json(&body)).await;
    assert_eq!(status, 201, "{user}");
    user["id"].as_str().unwrap().parse().unwrap()
}

async fn log_in(service: &Service, email: &str) -> String {
    log_in_with(service, email, PASSWORD).await
}

async fn log_in_with(service: &Service, email: &str, password: &str) -> String {
    let body = json!({ "email": email, "password": password });
    let (status, token): (u16, Value) =
        answer(service.anonymous("POST", "/auth/login").json(&body)).await;
    assert_eq!(status, 200, "{token}");
    token["access_token"].as_str().unwrap().to_owned()
}
