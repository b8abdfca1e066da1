//! Who somebody is: decided by the token, at the gateway, and by nothing that a client can write.

use std::time::Duration;

use serde_json::json;

use crate::{
    client::{Client, Headers, PASSWORD, TestUser, text},
    system::System,
    wait,
};

/// How long a revoked token may still be good.
const REVOKED_WITHIN: Duration = Duration::from_secs(2);

/// `{"alg":"none","typ":"JWT"}` in base64url.
const NO_ALGORITHM: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
/// `{"alg":"HS256","typ":"JWT","kid":"stranger"}` in base64url.
const STRANGERS_KEY: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InN0cmFuZ2VyIn0";

#[test]
fn a_request_without_a_token_of_ours_is_refused() {
    let system = System::take_turn();
    let (ada, eve) = (
        TestUser::new(&system.gateway),
        TestUser::new(&system.gateway),
    );
    let [header, payload, signature] = parts(&ada.token);
    let [_, _, eves_signature] = parts(&eve.token);
    let forgeries = [
        (
            "another's signature",
            format!("Bearer {header}.{payload}.{eves_signature}"),
        ),
        ("no signature", format!("Bearer {header}.{payload}.")),
        ("a part missing", format!("Bearer {header}.{payload}")),
        ("alg none", format!("Bearer {NO_ALGORITHM}.{payload}.")),
        (
            "alg none, signed",
            format!("Bearer {NO_ALGORITHM}.{payload}.{signature}"),
        ),
        (
            "a stranger's key",
            format!("Bearer {STRANGERS_KEY}.{payload}.{signature}"),
        ),
        ("another scheme", format!("Basic {}", ada.token)),
        ("no scheme", ada.token.clone()),
        ("nothing", "Bearer ".to_owned()),
    ];
    for path in ["/users/", "/users/me", "/orders/", "/inventory/99"] {
        assert_eq!(
            system.gateway.get(path, &[]).status,
            401,
            "{path} without a token"
        );
        for (forgery, authorization) in &forgeries {
            let answer = system
                .gateway
                .get(path, &[("authorization", authorization)]);
            assert_eq!(answer.status, 401, "{path} with {forgery}: {}", answer.body);
            assert_eq!(
                answer.content_type, "application/problem+json",
                "{path} with {forgery}"
            );
        }
        let answer = system
            .gateway
            .get(path, &[("authorization", &ada.authorization)]);
        assert_eq!(answer.status, 200, "{path} with a token: {}", answer.body);
    }
}

#[test]
fn an_identity_that_a_client_claims_never_reaches_a_service() {
    let system = System::take_turn();
    let (ada, eve) = (
        TestUser::new(&system.gateway),
        TestUser::new(&system.gateway),
    );
    let order = eve.order(&system.gateway);
    let claims: [(&str, Headers<'_>); 7] = [
        (
            "plain",
            &[("X-User-Id", &eve.id), ("X-User-Email", "eve@example.org")],
        ),
        ("in lower case", &[("x-user-id", &eve.id)]),
        ("with underscores", &[("X_User_Id", &eve.id)]),
        ("with dots", &[("X.User.Id", &eve.id)]),
        ("mixed", &[("X-User_Id", &eve.id)]),
        ("twice", &[("X-User-Id", &eve.id), ("X-User-Id", &eve.id)]),
        (
            "hop by hop",
            &[
                ("X-User-Id", &eve.id),
                ("Connection", "X-User-Id, X-User-Email"),
            ],
        ),
    ];
    for (claim, headers) in claims {
        let answer = system.gateway.get("/users/me", headers);
        assert_eq!(
            answer.status, 401,
            "{claim}, without a token: {}",
            answer.body
        );

        let with_token = [headers, &[("authorization", &ada.authorization)]].concat();
        let me = system
            .gateway
            .get("/users/me", &with_token)
            .expect_status(200)
            .json();
        assert_eq!(text(&me, "id"), ada.id, "{claim}");
        let answer = system.gateway.get(&format!("/orders/{order}"), &with_token);
        assert_eq!(
            answer.status, 404,
            "{claim}, another's order: {}",
            answer.body
        );
    }
}

#[test]
fn what_is_not_routed_cannot_be_reached_from_outside() {
    let system = System::take_turn();
    let ada = TestUser::new(&system.gateway);
    let authorization = [("authorization", ada.authorization.as_str())];
    for path in [
        "/auth/verify",
        "/auth/login/../verify",
        "/metrics",
        "/readyz",
        "/healthz",
        "/api/rawdata",
    ] {
        let answer = system.gateway.get(path, &authorization);
        assert_eq!(answer.status, 404, "{path}: {}", answer.body);
    }
}

#[test]
fn who_logs_out_or_changes_the_password_leaves_no_token_behind() {
    let system = System::take_turn();
    let gateway = &system.gateway;
    let (ada, eve) = (TestUser::new(gateway), TestUser::new(gateway));
    let other = ada.log_in_again(gateway, PASSWORD);
    let tokens = [("authorization", &*ada.authorization)];
    gateway
        .post("/auth/logout", &tokens, None)
        .expect_status(204);
    assert_refused_soon(gateway, &ada.authorization);
    assert_eq!(read_me(gateway, &other), 200, "another token");

    let new = "another horse battery staple";
    let change = json!({ "current_password": PASSWORD, "new_password": new });
    gateway
        .put("/users/me/password", &[("authorization", &other)], &change)
        .expect_status(204);
    assert_refused_soon(gateway, &other);
    let after = ada.log_in_again(gateway, new);
    assert_eq!(
        read_me(gateway, &after),
        200,
        "a token from after the change"
    );
    assert_eq!(read_me(gateway, &eve.authorization), 200, "another user");
}

#[track_caller]
fn assert_refused_soon(gateway: &Client, authorization: &str) {
    wait::until(
        "the token to be refused",
        REVOKED_WITHIN,
        || match read_me(gateway, authorization) {
            401 => Ok(()),
            status => Err(format!("{status}")),
        },
    );
}

#[track_caller]
fn read_me(gateway: &Client, authorization: &str) -> u16 {
    let headers = [("authorization", authorization)];
    gateway.get("/users/me", &headers).status
}

/// Header, payload and signature.
fn parts(token: &str) -> [&str; 3] {
    let parts: Vec<&str> = token.split('.').collect();
    parts.try_into().expect("a token has three parts")
}
