//! Password guessing: how it is throttled, and its cost.

use futures_util::future::join_all;
use serde_json::json;
use sqlx::PgPool;
use testkit::{Service, answer, refused};

use super::{PASSWORD, log_in, log_in_with, open, open_on, sign_up};

const ADA: &str = "ada@example.com";
const WRONG: &str = "wrong horse battery";
/// Consecutive failures until the address is blocked.
const LIMIT: usize = 5;

fn attempt(service: &Service, email: &str, password: &str) -> reqwest::RequestBuilder {
    let body = json!({ "email": email, "password": password });
    service.anonymous("POST", "/auth/login").json(&body)
}

async fn status(service: &Service, email: &str, password: &str) -> u16 {
    answer(attempt(service, email, password)).await.0
}

/// The status, and the seconds of `Retry-After`.
async fn wait_of(service: &Service, email: &str, password: &str) -> (u16, Option<u64>) {
    let answer = attempt(service, email, password).send().await.unwrap();
    let wait = answer.headers().get("retry-after");
    let seconds = wait.map(|seconds| seconds.to_str().unwrap().parse().unwrap());
    (answer.status().as_u16(), seconds)
}

/// Advances time for all counted attempts.
async fn later(database: &str, seconds: i32) {
    let pool = PgPool::connect(database).await.unwrap();
    sqlx::query(
        "UPDATE login_attempts SET failed_at = failed_at - make_interval(secs => $1),
             blocked_until = blocked_until - make_interval(secs => $1)",
    )
    .bind(f64::from(seconds))
    .execute(&pool)
    .await
    .unwrap();
    pool.close().await;
}

#[tokio::test]
async fn too_many_failures_block_an_address_with_or_without_an_account() {
    let service = open().await;
    sign_up(&service, ADA).await;
    let mut answered = Vec::new();
    for email in [ADA, "nobody@example.com", "no address"] {
        for _ in 0..LIMIT {
            refused(attempt(&service, email, WRONG), 401, "wrong-credentials").await;
        }
        // The right password gets the same refusal, which reveals nothing.
        for password in [WRONG, PASSWORD] {
            let request = attempt(&service, email, password);
            refused(request, 429, "too-many-attempts").await;
            let (status, seconds) = wait_of(&service, email, password).await;
            assert!(
                matches!((status, seconds), (429, Some(20..=30))),
                "{seconds:?}"
            );
        }
        let (_, mut problem) = answer(attempt(&service, email, PASSWORD)).await;
        let detail = problem["detail"].take().as_str().unwrap().to_owned();
        let words: String = detail.chars().filter(|c| !c.is_ascii_digit()).collect();
        answered.push((problem, words));
    }
    answered.dedup();
    assert_eq!(answered.len(), 1, "{answered:?}");
    // Other addresses are not blocked, and another spelling of the same address is.
    sign_up(&service, "eve@example.com").await;
    log_in(&service, "eve@example.com").await;
    assert_eq!(status(&service, " ADA@example.com", PASSWORD).await, 429);
    let logins = async |outcome: &str| {
        let series = format!("agora_logins_total{{outcome=\"{outcome}\"}}");
        service.metric(&series).await
    };
    assert_eq!((logins("ok").await, logins("wrong").await), (1.0, 15.0));
    assert_eq!(logins("throttled").await, 16.0);
}

#[tokio::test]
async fn a_refused_attempt_computes_no_hash() {
    let database = testkit::database().await;
    let slow = super::open_with(&database, &[("BCRYPT_COST", "12")]).await;
    for _ in 0..LIMIT {
        assert_eq!(status(&slow, ADA, WRONG).await, 401);
    }
    let hashed = std::time::Instant::now();
    assert_eq!(status(&slow, "eve@example.com", WRONG).await, 401);
    let hash = hashed.elapsed();
    let started = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(status(&slow, ADA, WRONG).await, 429);
    }
    assert!(
        started.elapsed() < 10 * hash,
        "{:?}, {hash:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn waits_grow_to_fifteen_minutes_and_no_further() {
    let database = testkit::database().await;
    let service = open_on(&database).await;
    sign_up(&service, ADA).await;
    for _ in 1..LIMIT {
        assert_eq!(status(&service, ADA, WRONG).await, 401);
    }
    let mut waits = Vec::new();
    for _ in 0..7 {
        assert_eq!(status(&service, ADA, WRONG).await, 401);
        let (refused, seconds) = wait_of(&service, ADA, PASSWORD).await;
        assert_eq!(refused, 429);
        let seconds = seconds.unwrap();
        waits.push(seconds.next_multiple_of(30));
        later(&database, seconds as i32 + 1).await;
    }
    assert_eq!(waits, [30, 60, 120, 240, 480, 900, 900]);
    // The owner gets in once the wait is over, and the count is reset.
    log_in(&service, ADA).await;
    for _ in 1..LIMIT {
        assert_eq!(status(&service, ADA, WRONG).await, 401);
    }
    log_in(&service, ADA).await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_blocks_nobody() {
    let database = testkit::database().await;
    let service = open_on(&database).await;
    sign_up(&service, ADA).await;
    let block = async || {
        for _ in 0..LIMIT {
            assert_eq!(status(&service, ADA, WRONG).await, 401);
        }
        assert_eq!(status(&service, ADA, PASSWORD).await, 429);
    };
    block().await;
    later(&database, -3600).await;
    log_in(&service, ADA).await;
    // Guesses are counted from the first one again, and by the clock as it is now.
    block().await;
    later(&database, -3600).await;
    assert_eq!(status(&service, ADA, WRONG).await, 401);
    let (refused, seconds) = wait_of(&service, ADA, PASSWORD).await;
    assert!(
        matches!((refused, seconds), (429, Some(..=60))),
        "{seconds:?}"
    );
}

#[tokio::test]
async fn failures_expire_after_fifteen_minutes() {
    let database = testkit::database().await;
    let service = open_on(&database).await;
    sign_up(&service, ADA).await;
    for _ in 0..3 {
        for _ in 1..LIMIT {
            assert_eq!(status(&service, ADA, WRONG).await, 401);
        }
        later(&database, 901).await;
    }
    log_in(&service, ADA).await;
    assert_eq!(status(&service, "eve@example.com", WRONG).await, 401);
    let pool = PgPool::connect(&database).await.unwrap();
    let attempts = user_service::attempts::Attempts::new(testkit::lending_pool(&pool));
    let rows = async || {
        let rows = sqlx::query_scalar("SELECT count(*) FROM login_attempts");
        let rows: i64 = rows.fetch_one(&pool).await.unwrap();
        rows
    };
    attempts.prune().await.unwrap();
    assert_eq!(rows().await, 1);
    later(&database, 901).await;
    attempts.prune().await.unwrap();
    assert_eq!(rows().await, 0);
}

#[tokio::test]
async fn concurrent_guesses_get_no_more_answers_than_sequential_ones() {
    let database = testkit::database().await;
    let replicas = [open_on(&database).await, open_on(&database).await];
    sign_up(&replicas[0], ADA).await;
    let guesses = (0..50).map(async |n| {
        // A busy machine answers some with 503, which reveals nothing: a guesser would retry.
        for _ in 0..20 {
            let answered = status(&replicas[n % 2], ADA, WRONG).await;
            if answered != 503 {
                return answered;
            }
        }
        panic!("too busy for any answer");
    });
    let answers = join_all(guesses).await;
    let answered = |status| answers.iter().filter(|answer| **answer == status).count();
    assert_eq!(
        (answered(401), answered(429)),
        (LIMIT, 50 - LIMIT),
        "{answers:?}"
    );
}

#[tokio::test]
async fn a_guess_is_counted_even_if_its_client_disconnects() {
    let database = testkit::database().await;
    let service = super::open_with(&database, &[("BCRYPT_COST", "12")]).await;
    for (address, hang_up) in [(ADA, false), ("eve@example.com", true)] {
        let started = std::time::Instant::now();
        assert_eq!(status(&service, "nobody@example.com", WRONG).await, 401);
        // The time until the hash begins is short compared with the hash: this deadline passes while it is computed. An
        // attempt that is still waiting for its permit computes none.
        let time = started.elapsed() * 3 / 5;
        testkit::eventually("the guesses are counted", async || {
            let guess = attempt(&service, address, WRONG);
            let answered = if hang_up {
                guess.timeout(time).send().await
            } else {
                guess
                    .header("X-Request-Timeout-Ms", time.as_millis() as u64)
                    .send()
                    .await
            };
            let answered = answered.map(|answer| answer.status().as_u16()).ok();
            assert_ne!(answered, Some(200));
            answered == Some(429)
        })
        .await;
    }
}

#[tokio::test]
async fn right_passwords_are_never_throttled() {
    let service = open().await;
    sign_up(&service, ADA).await;
    for _ in 0..3 {
        let answers = join_all((0..20).map(|_| status(&service, ADA, PASSWORD))).await;
        assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    }
}

#[tokio::test]
async fn password_changes_with_a_stolen_token_are_throttled() {
    let service = open().await;
    let ada = sign_up(&service, ADA).await;
    let change = |current: &str| {
        let body = json!({ "current_password": current, "new_password": "another horse battery" });
        service
            .as_user(ada, "PUT", "/users/me/password")
            .json(&body)
    };
    for _ in 0..LIMIT {
        refused(change(WRONG), 403, "wrong-password").await;
    }
    refused(change(PASSWORD), 429, "too-many-attempts").await;
    assert_eq!(
        status(&service, ADA, PASSWORD).await,
        200,
        "a thief doesn't block the owner's login"
    );
}

#[tokio::test]
async fn guesses_at_the_login_do_not_block_a_password_change() {
    let service = open().await;
    let ada = sign_up(&service, ADA).await;
    for _ in 0..LIMIT {
        status(&service, ADA, WRONG).await;
    }
    assert_eq!(status(&service, ADA, PASSWORD).await, 429);
    let body = json!({ "current_password": PASSWORD, "new_password": "another horse battery" });
    let change = service
        .as_user(ada, "PUT", "/users/me/password")
        .json(&body);
    assert_eq!(change.send().await.unwrap().status(), 204);
}

#[tokio::test]
async fn a_login_ignores_unknown_fields_and_refuses_invalid_or_oversized_bodies() {
    let service = open().await;
    sign_up(&service, ADA).await;
    let body = json!({ "email": ADA, "password": PASSWORD, "role": "admin", "id": 1 });
    let (status, _) = answer(service.anonymous("POST", "/auth/login").json(&body)).await;
    assert_eq!(status, 200);
    let long = "x".repeat(60_000);
    for (email, password) in [(ADA, &*long), (&*long, PASSWORD)] {
        refused(attempt(&service, email, password), 401, "wrong-credentials").await;
    }
    let longer = "x".repeat(70_000);
    refused(attempt(&service, ADA, &longer), 413, "too-large").await;
    for body in [
        json!({ "email": ADA }),
        json!({ "email": ADA, "password": 1 }),
    ] {
        refused(
            service.anonymous("POST", "/auth/login").json(&body),
            422,
            "invalid",
        )
        .await;
    }
    log_in_with(&service, ADA, PASSWORD).await;
}
