//! Logout and password changes: which tokens are revoked, on which replicas, and from when on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::PgPool;
use testkit::{Service, answer, eventually, refused};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use user_service::revocations::EFFECTIVE_WITHIN;
use uuid::Uuid;

use super::{PASSWORD, log_in, log_in_with, open, open_on, sign_up};

const ADA: &str = "ada@example.com";
const NEW_PASSWORD: &str = "another horse battery";

fn with_token(service: &Service, method: &str, path: &str, token: &str) -> reqwest::RequestBuilder {
    service
        .anonymous(method, path)
        .header("Authorization", format!("Bearer {token}"))
}

async fn status(request: reqwest::RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

async fn verified(service: &Service, token: &str) -> u16 {
    status(with_token(service, "GET", "/auth/verify", token)).await
}

async fn log_out(service: &Service, token: &str) {
    let status = status(with_token(service, "POST", "/auth/logout", token)).await;
    assert_eq!(status, 204);
}

fn change(service: &Service, user: Uuid, current: &str, new: &str) -> reqwest::RequestBuilder {
    let body = json!({ "current_password": current, "new_password": new });
    service
        .as_user(user, "PUT", "/users/me/password")
        .json(&body)
}

/// Waits for at most the documented time.
async fn refused_soon(service: &Service, token: &str) {
    let started = Instant::now();
    while verified(service, token).await == 200 {
        assert!(started.elapsed() < EFFECTIVE_WITHIN, "still accepted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn after_logout_that_token_is_refused_and_no_other() {
    let service = open().await;
    sign_up(&service, ADA).await;
    let (one, other) = (log_in(&service, ADA).await, log_in(&service, ADA).await);
    log_out(&service, &one).await;
    refused(
        with_token(&service, "GET", "/auth/verify", &one),
        401,
        "invalid-token",
    )
    .await;
    refused(
        with_token(&service, "POST", "/auth/logout", &one),
        401,
        "invalid-token",
    )
    .await;
    assert_eq!(verified(&service, &other).await, 200);
    assert_eq!(verified(&service, &log_in(&service, ADA).await).await, 200);
    refused(
        service.anonymous("POST", "/auth/logout"),
        401,
        "invalid-token",
    )
    .await;
    assert_eq!(service.metric("agora_revocations_known").await, 1.0);
    let checks = async |outcome: &str| {
        let series = format!("agora_token_checks_total{{outcome=\"{outcome}\"}}");
        service.metric(&series).await
    };
    assert_eq!(
        (checks("revoked").await, checks("absent").await),
        (2.0, 1.0)
    );
    assert_eq!(checks("ok").await, 3.0);
}

#[tokio::test]
async fn a_password_change_revokes_earlier_tokens_and_no_later_ones() {
    let service = open().await;
    let ada = sign_up(&service, ADA).await;
    let eve = sign_up(&service, "eve@example.com").await;
    let eves = log_in(&service, "eve@example.com").await;
    // All within a second: timestamps can't order these tokens.
    let mut password = PASSWORD;
    for new in [NEW_PASSWORD, PASSWORD, NEW_PASSWORD] {
        let before = [(); 2].map(|()| log_in_with(&service, ADA, password));
        let before = futures_util::future::join_all(before).await;
        assert_eq!(status(change(&service, ada, password, new)).await, 204);
        password = new;
        let after = log_in_with(&service, ADA, password).await;
        for token in &before {
            assert_eq!(verified(&service, token).await, 401);
        }
        assert_eq!(verified(&service, &after).await, 200);
    }
    assert_eq!(verified(&service, &eves).await, 200);
    let body = json!({ "email": ADA, "password": PASSWORD });
    refused(
        service.anonymous("POST", "/auth/login").json(&body),
        401,
        "wrong-credentials",
    )
    .await;
    refused(
        change(&service, eve, NEW_PASSWORD, NEW_PASSWORD),
        403,
        "wrong-password",
    )
    .await;
}

#[tokio::test]
async fn a_password_change_requires_the_current_and_a_valid_new_password() {
    let service = open().await;
    let ada = sign_up(&service, ADA).await;
    let token = log_in(&service, ADA).await;
    refused(
        change(&service, ada, "wrong horse battery", NEW_PASSWORD),
        403,
        "wrong-password",
    )
    .await;
    for new in ["short", &"x".repeat(73), "1234\0xyz8"] {
        refused(change(&service, ada, PASSWORD, new), 422, "invalid").await;
    }
    let incomplete = json!({ "new_password": NEW_PASSWORD });
    let request = service.as_user(ada, "PUT", "/users/me/password");
    refused(request.json(&incomplete), 422, "invalid").await;
    refused(
        change(&service, Uuid::now_v7(), PASSWORD, NEW_PASSWORD),
        404,
        "not-found",
    )
    .await;
    let body = json!({ "current_password": PASSWORD, "new_password": NEW_PASSWORD });
    let anonymous = service.anonymous("PUT", "/users/me/password").json(&body);
    refused(anonymous, 401, "no-identity").await;
    assert_eq!(verified(&service, &token).await, 200);
    log_in(&service, ADA).await;
}

#[tokio::test]
async fn of_two_concurrent_password_changes_one_succeeds() {
    let service = open().await;
    let ada = sign_up(&service, ADA).await;
    let changes = ["first horse battery", "second horse battery"]
        .map(async |new| (new, status(change(&service, ada, PASSWORD, new)).await));
    let changes = futures_util::future::join_all(changes).await;
    let (done, not_done): (Vec<_>, Vec<_>) =
        changes.into_iter().partition(|(_, status)| *status == 204);
    // The loser fails either at the comparison or at the update.
    assert!(
        matches!(not_done[..], [(_, 403 | 409)]),
        "{done:?}, {not_done:?}"
    );
    log_in_with(&service, ADA, done[0].0).await;
}

#[tokio::test]
async fn a_revocation_reaches_every_replica_within_the_documented_time() {
    let database = testkit::database().await;
    let (here, there) = (open_on(&database).await, open_on(&database).await);
    let ada = sign_up(&here, ADA).await;
    let tokens = [log_in(&here, ADA).await, log_in(&there, ADA).await];
    for token in &tokens {
        assert_eq!(verified(&there, token).await, 200);
    }
    log_out(&here, &tokens[0]).await;
    refused_soon(&there, &tokens[0]).await;
    assert_eq!(verified(&there, &tokens[1]).await, 200);

    assert_eq!(
        status(change(&here, ada, PASSWORD, NEW_PASSWORD)).await,
        204
    );
    assert_eq!(verified(&here, &tokens[1]).await, 401);
    refused_soon(&there, &tokens[1]).await;
    let after = log_in_with(&there, ADA, NEW_PASSWORD).await;
    assert_eq!(
        (
            verified(&here, &after).await,
            verified(&there, &after).await
        ),
        (200, 200)
    );
}

#[tokio::test]
async fn a_revocation_whose_notification_is_lost_is_found_by_polling() {
    let database = testkit::database().await;
    let service = open_on(&database).await;
    let ada = sign_up(&service, ADA).await;
    let token = log_in(&service, ADA).await;
    let pool = PgPool::connect(&database).await.unwrap();
    // Two transactions that commit in reverse order, the second one visible long before the first.
    let (early, late) = (Uuid::now_v7(), ada);
    let insert = "INSERT INTO revocations (subject, generation, expires_at) VALUES ($1, $2, now() + interval '1 h')";
    let mut first = chassis::database::begin(&testkit::lending_pool(&pool))
        .await
        .unwrap();
    let subject = sqlx::query(insert).bind(late).bind(1_i64);
    subject.execute(&mut *first).await.unwrap();
    let subject = sqlx::query(insert).bind(early).bind(1_i64);
    subject.execute(&pool).await.unwrap();
    eventually("the later transaction is seen", async || {
        service.metric("agora_revocations_known").await == 1.0
    })
    .await;
    assert_eq!(verified(&service, &token).await, 200);
    first.commit().await.unwrap();
    refused_soon(&service, &token).await;
}

#[tokio::test]
async fn a_new_replica_knows_earlier_revocations_from_its_first_answer_on() {
    let database = testkit::database().await;
    let service = open_on(&database).await;
    let ada = sign_up(&service, ADA).await;
    let (one, other) = (log_in(&service, ADA).await, log_in(&service, ADA).await);
    log_out(&service, &one).await;
    assert!(service.stop().await);

    let service = open_on(&database).await;
    assert_eq!(verified(&service, &one).await, 401);
    assert_eq!(verified(&service, &other).await, 200);
    let changed = status(change(&service, ada, PASSWORD, NEW_PASSWORD)).await;
    assert_eq!(changed, 204);
    assert!(service.stop().await);

    let service = open_on(&database).await;
    assert_eq!(verified(&service, &other).await, 401);
}

#[tokio::test]
async fn without_its_database_a_replica_uses_known_revocations_and_makes_none() {
    let database = testkit::database().await;
    let service = open_on(&database).await;
    sign_up(&service, ADA).await;
    let (revoked, good) = (log_in(&service, ADA).await, log_in(&service, ADA).await);
    log_out(&service, &revoked).await;
    testkit::remove_database(&database).await;

    let logged_out = status(with_token(&service, "POST", "/auth/logout", &good)).await;
    assert!(logged_out >= 500, "{logged_out}");
    assert_eq!(verified(&service, &good).await, 200);
    assert_eq!(verified(&service, &revoked).await, 401);
    let body = json!({ "email": ADA, "password": PASSWORD });
    let (logged_in, _) = answer(service.anonymous("POST", "/auth/login").json(&body)).await;
    assert!(logged_in >= 500, "{logged_in}");
}

/// A connection to a database that can be cut: the URL of its proxy, and the switch.
async fn severable(database: &str) -> (String, watch::Sender<bool>) {
    let mut url: reqwest::Url = database.parse().unwrap();
    let to = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432));
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .unwrap();
    let here = listener.local_addr().unwrap();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(here.port())).unwrap();
    let (open, state) = watch::channel(true);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (to, mut state) = (to.clone(), state.clone());
            tokio::spawn(async move {
                let pass = async {
                    let mut server = TcpStream::connect(to).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                };
                // Either side may close it; a cut closes it, or refuses it.
                tokio::select! {
                    _ = pass => {}
                    _ = state.wait_for(|open| !open) => {}
                }
            });
        }
    });
    (url.into(), open)
}

#[tokio::test]
async fn a_replica_that_lost_its_database_catches_up_after_reconnecting() {
    let database = testkit::database().await;
    let (way, open) = severable(&database).await;
    let (here, there) = (open_on(&database).await, open_on(&way).await);
    sign_up(&here, ADA).await;
    let (one, other) = (log_in(&there, ADA).await, log_in(&there, ADA).await);
    open.send_replace(false);
    eventually("the replica reports its lost connection", async || {
        there.ops("/readyz").await.0 == 503
    })
    .await;
    log_out(&here, &one).await;
    refused(
        with_token(&there, "POST", "/auth/logout", &other),
        503,
        "unavailable",
    )
    .await;
    // The cost: a token revoked elsewhere is still accepted.
    assert_eq!(verified(&there, &one).await, 200);

    open.send_replace(true);
    eventually("the replica is ready", async || {
        there.ops("/readyz").await.0 == 200
    })
    .await;
    refused_soon(&there, &one).await;
    assert_eq!(verified(&there, &other).await, 200);
}

#[tokio::test]
async fn the_ops_port_lists_key_ids_and_never_a_key() {
    let service = open().await;
    for (series, value) in [
        ("{kid=\"new\",role=\"signs\"}", 1.0),
        ("{kid=\"old\",role=\"verifies\"}", 1.0),
        ("{kid=\"new\",role=\"verifies\"}", 0.0),
    ] {
        let series = format!("agora_signing_key_info{series}");
        assert_eq!(service.metric(&series).await, value, "{series}");
    }
    let (_, metrics) = service.ops("/metrics").await;
    assert!(!metrics.contains(super::KEY) && !metrics.contains(super::OLD_KEY));
}
