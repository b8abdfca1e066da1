//! What `/auth/verify` accepts and refuses.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use testkit::{Service, refused};

use super::{KEY, OLD_KEY, log_in, open, sign_up};

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn claims() -> Value {
    json!({
        "sub": "01938f70-0000-7aaa-8bbb-ccccdddd0003",
        "email": "ada@example.com",
        "iss": "agora",
        "aud": "agora",
        "jti": "01938f70-0000-7aaa-8bbb-ccccdddd0009",
        "gen": 0,
        "iat": now(),
        "exp": now() + 60,
    })
}

/// A token with this header and these claims, signed with this key.
fn token(algorithm: Algorithm, kid: Option<&str>, claims: &Value, key: &[u8]) -> String {
    let header = Header {
        kid: kid.map(str::to_owned),
        ..Header::new(algorithm)
    };
    encode(&header, claims, &EncodingKey::from_secret(key)).unwrap()
}

fn good(claims: &Value) -> String {
    token(
        Algorithm::HS256,
        Some("new"),
        claims,
        &hex::decode(KEY).unwrap(),
    )
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn verify(service: &Service, authorization: &str) -> reqwest::RequestBuilder {
    service
        .anonymous("GET", "/auth/verify")
        .header("Authorization", authorization.to_owned())
}

async fn accepted(service: &Service, authorization: &str) -> (String, String) {
    let answer = verify(service, authorization).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{authorization}");
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    (header("x-user-id"), header("x-user-email"))
}

#[tokio::test]
async fn a_login_token_identifies_its_user() {
    let service = open().await;
    let id = sign_up(&service, "ada@example.com").await;
    let token = log_in(&service, "ada@example.com").await;
    let expected = (id.to_string(), "ada@example.com".to_owned());
    assert_eq!(
        accepted(&service, &format!("Bearer {token}")).await,
        expected
    );
    assert_eq!(
        accepted(&service, &format!("bearer {token}")).await,
        expected
    );
}

#[tokio::test]
async fn a_token_of_the_older_key_is_still_accepted() {
    let service = open().await;
    let old = hex::decode(OLD_KEY).unwrap();
    let token = token(Algorithm::HS256, Some("old"), &claims(), &old);
    accepted(&service, &format!("Bearer {token}")).await;
}

#[tokio::test]
async fn a_forged_expired_or_misdirected_token_is_refused() {
    let service = open().await;
    let key = hex::decode(KEY).unwrap();
    let signed = good(&claims());
    let (body, signature) = signed.rsplit_once('.').unwrap();
    let (header, payload) = body.split_once('.').unwrap();
    let alg_none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"; // {"alg":"none","typ":"JWT"}
    let alg_none_kid = "eyJhbGciOiJub25lIiwia2lkIjoibmV3In0"; // {"alg":"none","kid":"new"}
    let other_payload = good(&with("sub", json!("01938f70-0000-7aaa-8bbb-ccccdddd0004")));
    let other_payload = other_payload.split('.').nth(1).unwrap();
    for (what, token) in [
        ("expired", good(&with("exp", json!(now() - 1)))),
        (
            "another key",
            token(Algorithm::HS256, Some("new"), &claims(), &[7; 32]),
        ),
        (
            "the key under another id",
            token(Algorithm::HS256, Some("old"), &claims(), &key),
        ),
        (
            "an unknown key id",
            token(Algorithm::HS256, Some("../new"), &claims(), &key),
        ),
        ("no key id", token(Algorithm::HS256, None, &claims(), &key)),
        (
            "another algorithm",
            token(Algorithm::HS512, Some("new"), &claims(), &key),
        ),
        ("a wrong audience", good(&with("aud", json!("elsewhere")))),
        ("a wrong issuer", good(&with("iss", json!("somebody")))),
        ("no audience", good(&without("aud"))),
        ("no issuer", good(&without("iss"))),
        ("no expiry", good(&without("exp"))),
        ("no subject", good(&without("sub"))),
        ("no id", good(&without("jti"))),
        ("no generation", good(&without("gen"))),
        (
            "a subject that is no user id",
            good(&with("sub", json!("1"))),
        ),
        ("an expiry in words", good(&with("exp", json!("never")))),
        ("alg none", format!("{alg_none}.{payload}.")),
        (
            "alg none with a key id",
            format!("{alg_none_kid}.{payload}."),
        ),
        (
            "alg none with the signature",
            format!("{alg_none_kid}.{payload}.{signature}"),
        ),
        ("no signature", format!("{header}.{payload}.")),
        ("no third part", format!("{header}.{payload}")),
        (
            "another payload",
            format!("{header}.{other_payload}.{signature}"),
        ),
        ("nonsense", "a.b.c".to_owned()),
        ("nothing", String::new()),
        ("something long", "x".repeat(10_000)),
    ] {
        let request = verify(&service, &format!("Bearer {token}"));
        println!("{what}");
        refused(request, 401, "invalid-token").await;
    }
}

#[tokio::test]
async fn a_token_is_accepted_in_one_bearer_header_and_nowhere_else() {
    let service = open().await;
    let token = good(&claims());
    refused(
        service.anonymous("GET", "/auth/verify"),
        401,
        "invalid-token",
    )
    .await;
    for authorization in [
        token.clone(),
        format!("Basic {token}"),
        format!("Bearer{token}"),
    ] {
        refused(verify(&service, &authorization), 401, "invalid-token").await;
    }
    let twice = verify(&service, &format!("Bearer {token}"))
        .header("Authorization", format!("Bearer {token}"));
    refused(twice, 401, "invalid-token").await;
    let query = service.anonymous("GET", &format!("/auth/verify?access_token={token}"));
    refused(query, 401, "invalid-token").await;
}
