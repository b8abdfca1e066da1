//! Sign-up and login.

use serde_json::json;
use sqlx::PgPool;
use testkit::{answer, refused};

use super::{PASSWORD, log_in, log_in_with, open, open_on, open_with, sign_up};

#[tokio::test]
async fn a_new_user_can_log_in() {
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
async fn an_address_is_unique_regardless_of_case() {
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
async fn invalid_accounts_are_refused() {
    let service = open().await;
    for (name, email, password) in [
        ("", "a@example.com", PASSWORD),
        ("A\nB", "a@example.com", PASSWORD),
        ("\u{200b}", "a@example.com", PASSWORD),
        ("\u{3164}", "a@example.com", PASSWORD),
        ("Ada\u{202e}evE", "a@example.com", PASSWORD),
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
async fn a_wrong_password_and_an_unknown_address_get_the_same_answer() {
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
async fn concurrent_logins_all_succeed() {
    let service = open().await;
    sign_up(&service, "ada@example.com").await;
    let tokens = (0..20).map(|_| log_in(&service, "ada@example.com"));
    for token in futures_util::future::join_all(tokens).await {
        assert_eq!(token.split('.').count(), 3);
    }
}

#[tokio::test]
async fn the_minimum_password_length_is_configurable_and_in_the_document() {
    let database = testkit::database().await;
    for (setting, shortest) in [("", "hunter2"), ("12", "twelve chars")] {
        let service = open_with(&database, &[("PASSWORD_MIN_LENGTH", setting)]).await;
        let length = shortest.len();
        let sign_up = |password: &str| {
            let email = format!("ada{length}@example.com");
            let body = json!({ "name": "Ada", "email": email, "password": password });
            service.anonymous("POST", "/auth/signup").json(&body)
        };
        let (status, problem) = answer(sign_up(&shortest[1..])).await;
        let expected = format!("a password has at least {length} characters");
        assert_eq!((status, &problem["detail"]), (422, &json!(expected)));
        let (status, user) = answer(sign_up(shortest)).await;
        assert_eq!(status, 201, "{user}");
        let id = user["id"].as_str().unwrap().parse().unwrap();
        let change = |new: &str| {
            let body = json!({ "current_password": shortest, "new_password": new });
            let request = service.as_user(id, "PUT", "/users/me/password");
            request.json(&body)
        };
        refused(change(&shortest[1..]), 422, "invalid").await;

        let path = chassis::openapi::path("user-service");
        let (_, document) = answer(service.anonymous("GET", &path)).await;
        for field in [
            "SignUp/properties/password",
            "ChangePassword/properties/new_password",
        ] {
            let bound = format!("/components/schemas/{field}/minLength");
            assert_eq!(document.pointer(&bound), Some(&json!(length)), "{field}");
        }
    }
}

#[tokio::test]
async fn a_password_is_the_same_from_every_keyboard() {
    let database = testkit::database().await;
    let service = open_on(&database).await;
    let (composed, decomposed) = ("caf\u{e9} au lait", "cafe\u{301}\u{a0}au lait");
    for (email, chosen, typed) in [
        ("a@example.com", composed, decomposed),
        ("b@example.com", decomposed, composed),
    ] {
        let body = json!({ "name": "Ada", "email": email, "password": chosen });
        let (status, user) = answer(service.anonymous("POST", "/auth/signup").json(&body)).await;
        assert_eq!(status, 201, "{user}");
        log_in_with(&service, email, chosen).await;
        log_in_with(&service, email, typed).await;
    }
    // All hashes are of the same text, however it was typed.
    let pool = PgPool::connect(&database).await.unwrap();
    let hashes: Vec<String> = sqlx::query_scalar("SELECT password_hash FROM users")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(hashes.len(), 2);
    for hash in hashes {
        assert!(bcrypt::verify(composed, &hash).unwrap());
    }
}

#[tokio::test]
async fn a_hash_made_before_normalisation_verifies_until_the_password_changes() {
    let database = testkit::database().await;
    let service = open_on(&database).await;
    let id = sign_up(&service, "ada@example.com").await;
    let typed = "cafe\u{301}\u{a0}au lait";
    let pool = PgPool::connect(&database).await.unwrap();
    sqlx::query("UPDATE users SET password_hash = $1")
        .bind(bcrypt::non_truncating_hash(typed, 4).unwrap())
        .execute(&pool)
        .await
        .unwrap();
    log_in_with(&service, "ada@example.com", typed).await;
    let body = json!({ "current_password": typed, "new_password": typed });
    let change = service.as_user(id, "PUT", "/users/me/password");
    let changed = change.json(&body).send().await.unwrap();
    assert_eq!(changed.status().as_u16(), 204);
    for password in [typed, "caf\u{e9} au lait"] {
        log_in_with(&service, "ada@example.com", password).await;
    }
}
