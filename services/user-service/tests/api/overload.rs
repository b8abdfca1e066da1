//! More requests than the service can handle, in one route group and in the others.

use futures_util::future::join_all;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use testkit::{Service, answer, eventually, refused};
use uuid::Uuid;

use super::{PASSWORD, log_in, open_with, sign_up};

const ADA: &str = "ada@example.com";
/// Two requests in flight per route group; sixteen may wait.
const NARROW: [(&str, &str); 2] = [("HTTP_MAX_IN_FLIGHT", "2"), ("HTTP_MAX_WAIT_MS", "1000")];
const WAITING: usize = 16;

/// Blocks every query of this table until it is dropped.
async fn lock(database: &str, table: &str) -> PgConnection {
    let mut lock = PgConnection::connect(database).await.unwrap();
    let sql = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&mut lock)
        .await
        .unwrap();
    lock
}

async fn sheds(service: &Service, group: &str, reason: &str) -> f64 {
    let series =
        format!("agora_requests_shed_total{{route_group=\"{group}\",reason=\"{reason}\"}}");
    service.metric(&series).await
}

/// A running request for one's own account, in a task of its own.
fn read(service: &Service, user: Uuid) -> tokio::task::JoinHandle<(u16, serde_json::Value)> {
    tokio::spawn(answer(service.as_user(user, "GET", "/users/me")))
}

async fn in_flight(service: &Service, count: f64) {
    eventually("the requests are in flight", async || {
        service.metric("http_server_active_requests").await >= count
    })
    .await;
}

#[tokio::test]
async fn at_its_limit_a_route_group_refuses_early_and_completes_accepted_requests() {
    let database = testkit::database().await;
    let service = open_with(&database, &NARROW).await;
    let ada = sign_up(&service, ADA).await;
    let token = log_in(&service, ADA).await;
    let lock = lock(&database, "users").await;
    let accepted = [read(&service, ada), read(&service, ada)];
    in_flight(&service, 2.0).await;

    let further = (0..WAITING + 5).map(|_| service.as_user(ada, "GET", "/users/me").send());
    for answer in join_all(further).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "1");
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(problem["type"], "urn:agora:problem:overloaded");
    }
    let (full, waited) = (
        sheds(&service, "users", "full").await,
        sheds(&service, "users", "waited").await,
    );
    assert_eq!((full, waited), (5.0, WAITING as f64));

    // The other route groups have limits of their own.
    let verify = service.anonymous("GET", "/auth/verify").bearer_auth(token);
    assert_eq!(verify.send().await.unwrap().status(), 200);
    for group in ["verify", "passwords", "purchases"] {
        assert_eq!(sheds(&service, group, "full").await, 0.0, "{group}");
    }
    lock.close().await.unwrap();
    for read in accepted {
        let (status, user) = read.await.unwrap();
        assert_eq!(
            (status, user["id"].as_str()),
            (200, Some(&*ada.to_string()))
        );
    }
    assert_eq!(
        answer(service.as_user(ada, "GET", "/users/me")).await.0,
        200
    );
}

#[tokio::test]
async fn a_request_with_a_short_deadline_waits_no_longer_than_that() {
    let database = testkit::database().await;
    let service = open_with(
        &database,
        &[("HTTP_MAX_IN_FLIGHT", "1"), ("HTTP_MAX_WAIT_MS", "60000")],
    )
    .await;
    let ada = sign_up(&service, ADA).await;
    let lock = lock(&database, "users").await;
    let accepted = read(&service, ada);
    in_flight(&service, 1.0).await;
    let short = service
        .as_user(ada, "GET", "/users/me")
        .header("X-Request-Timeout-Ms", "300");
    refused(short, 503, "overloaded").await;
    assert_eq!(sheds(&service, "users", "waited").await, 1.0);
    lock.close().await.unwrap();
    assert_eq!(accepted.await.unwrap().0, 200);
}

#[tokio::test]
async fn with_the_pattern_off_every_request_is_accepted() {
    let database = testkit::database().await;
    let off = [
        ("HTTP_MAX_IN_FLIGHT", "1"),
        ("HTTP_MAX_WAIT_MS", "0"),
        ("AGORA_PATTERN_LOAD_SHEDDING", "off"),
    ];
    let service = open_with(&database, &off).await;
    let ada = sign_up(&service, ADA).await;
    let lock = lock(&database, "users").await;
    // With the pattern on, all but the first would be refused at once.
    let all: Vec<_> = (0..5).map(|_| read(&service, ada)).collect();
    in_flight(&service, 5.0).await;
    lock.close().await.unwrap();
    for read in all {
        assert_eq!(read.await.unwrap().0, 200);
    }
    let (_, patterns) = service.ops("/patterns").await;
    assert!(patterns.contains(r#""load_shedding":"off""#), "{patterns}");
}

#[tokio::test]
async fn tokens_are_checked_while_all_hash_permits_are_taken() {
    let database = testkit::database().await;
    let slow = [("BCRYPT_COST", "13"), ("BCRYPT_CONCURRENCY", "1")];
    let service = open_with(&database, &slow).await;
    sign_up(&service, ADA).await;
    let token = log_in(&service, ADA).await;
    let logins: Vec<_> = (0..5).map(|n| guess(&service, n)).collect();
    // One hashes and at least one waits; a slow machine may refuse the others at once.
    in_flight(&service, 2.0).await;
    for _ in 0..10 {
        let verify = service.anonymous("GET", "/auth/verify").bearer_auth(&token);
        assert_eq!(verify.send().await.unwrap().status(), 200);
    }
    assert!(
        logins.iter().any(|login| !login.is_finished()),
        "the hashes finished too early to tell"
    );
    for login in logins {
        let (status, problem) = login.await.unwrap();
        // On a busy machine the estimated wait may exceed the limit.
        assert!(matches!(status, 401 | 503), "{problem}");
    }
}

/// A running login with a wrong password, in a task of its own.
fn guess(service: &Service, n: usize) -> tokio::task::JoinHandle<(u16, serde_json::Value)> {
    let body = json!({ "email": format!("nobody{n}@example.com"), "password": PASSWORD });
    tokio::spawn(answer(service.anonymous("POST", "/auth/login").json(&body)))
}
