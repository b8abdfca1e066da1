//! Signing up and logging in.

use serde_json::json;
use testkit::{answer, refused};

use super::{PASSWORD, log_in, open, sign_up};

#[tokio::test]
async fn who_signed_up_can_log_in() {
    let service = open().await;
    let body = json!({ "name": " Ada ", "email": "Ada@Example.com", "password": PASSWORD });
    let (status, user) = answer(service.anonymous("POST", "/auth/signup").json(&body)).await;
    assert_eq!(status, 201);
    assert_eq!(
        (&user["name"], &user["email"]),
        (&json!("Ada"), &json!("ada@example.com"))
    );
    assert!(user.get("password").is_none() && user.get("password_hash").is_none());

    let login = json!({ "email": "ADA@example.com", "password": PASSWORD });
    let (status, token) = answer(service.anonymous("POST", "/auth/login").json(&login)).await;
    assert_eq!(status, 200);
    assert_eq!(
        (&token["token_type"], &token["expires_in"]),
        (&json!("Bearer"), &json!(3600))
    );
}

#[tokio::test]
async fn an_address_is_taken_once_in_whatever_case() {
    let service = open().await;
    sign_up(&service, "ada@example.com").await;
    let body = json!({ "name": "Eve", "email": "ADA@EXAMPLE.COM", "password": PASSWORD });
    refused(
        service.anonymous("POST", "/auth/signup").json(&body),
        409,
        "email-taken",
    )
    .await;
}

#[tokio::test]
async fn impossible_accounts_are_refused() {
    let service = open().await;
    for (name, email, password) in [
        ("", "a@example.com", PASSWORD),
        ("A\nB", "a@example.com", PASSWORD),
        ("Ada", "nowhere", PASSWORD),
        ("Ada", "a@example.com\r\nX-User-Id: 1", PASSWORD),
        ("Ada", "a@example.com", "short"),
        ("Ada", "a@example.com", &"x".repeat(73)),
        ("Ada", "a@example.com", &"ü".repeat(37)),
    ] {
        let body = json!({ "name": name, "email": email, "password": password });
        refused(
            service.anonymous("POST", "/auth/signup").json(&body),
            422,
            "invalid",
        )
        .await;
    }
    let incomplete = json!({ "email": "a@example.com" });
    refused(
        service.anonymous("POST", "/auth/signup").json(&incomplete),
        422,
        "invalid",
    )
    .await;
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_address_are_told_the_same() {
    let service = open().await;
    sign_up(&service, "ada@example.com").await;
    let mut answers = Vec::new();
    for (email, password) in [
        ("ada@example.com", "wrong horse battery"),
        ("eve@example.com", PASSWORD),
        ("not an address", PASSWORD),
        ("ada@example.com", &format!("{PASSWORD}{}", "x".repeat(80))),
        ("ada@example.com", ""),
    ] {
        let body = json!({ "email": email, "password": password });
        let request = service.anonymous("POST", "/auth/login").json(&body);
        answers.push(answer(request).await);
    }
    assert_eq!(answers[0].0, 401);
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test]
async fn logins_at_the_same_time_all_get_their_turn() {
    let service = open().await;
    sign_up(&service, "ada@example.com").await;
    let tokens = (0..20).map(|_| log_in(&service, "ada@example.com"));
    for token in futures_util::future::join_all(tokens).await {
        assert_eq!(token.split('.').count(), 3);
    }
}
