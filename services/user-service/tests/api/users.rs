//! Reading users.

use serde_json::json;
use testkit::{answer, refused};
use uuid::Uuid;

use super::{open, sign_up};

#[tokio::test]
async fn an_email_address_is_only_shown_to_its_owner() {
    let service = open().await;
    let ada = sign_up(&service, "ada@example.com").await;
    let bob = sign_up(&service, "bob@example.com").await;
    let (_, me) = answer(service.as_user(ada, "GET", "/users/me")).await;
    assert_eq!(
        me,
        json!({ "id": ada, "name": "Ada", "email": "ada@example.com" })
    );
    let (_, other) = answer(service.as_user(bob, "GET", &format!("/users/{ada}"))).await;
    assert_eq!(other, json!({ "id": ada, "name": "Ada" }));
    let (_, list) = answer(service.as_user(bob, "GET", "/users/")).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert!(!list.to_string().contains("example.com"));
}

#[tokio::test]
async fn users_are_listed_in_pages() {
    let service = open().await;
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(sign_up(&service, &format!("user{n}@example.com")).await);
    }
    let (_, first) = answer(service.as_user(ids[0], "GET", "/users/?limit=2")).await;
    assert_eq!(first["next"], json!(ids[1]));
    let path = format!("/users/?limit=2&after={}", ids[1]);
    let (_, second) = answer(service.as_user(ids[0], "GET", &path)).await;
    assert_eq!(
        second,
        json!({ "items": [{ "id": ids[2], "name": "Ada" }], "next": null })
    );
    for query in ["limit=0", "limit=101", "limit=x", "after=1"] {
        let request = service.as_user(ids[0], "GET", &format!("/users/?{query}"));
        refused(request, 422, "invalid").await;
    }
}

#[tokio::test]
async fn absent_users_are_404_and_anonymous_readers_401() {
    let service = open().await;
    let nobody = Uuid::now_v7();
    for path in [
        "/users/me".to_owned(),
        format!("/users/{nobody}"),
        "/users/1".to_owned(),
    ] {
        refused(service.as_user(nobody, "GET", &path), 404, "not-found").await;
    }
    for path in ["/users/", "/users/me", &format!("/users/{nobody}")] {
        refused(service.anonymous("GET", path), 401, "no-identity").await;
    }
}
