//! What isn't a route of the shop isn't there, however it is spelled.

use crate::{
    ALICE,
    client::{self, request},
    harness::Gateway,
};

/// Ways to ask for the auth service's own path.
const AUTH_VERIFY: &[&str] = &[
    "/auth/verify",
    "/auth/verify/",
    "/auth/verify?x=/users/",
    "/auth/verify#/users/",
    "/auth/verify;/users/",
    "/auth/verify%00",
    "/auth/verify%20",
    // another spelling
    "/AUTH/VERIFY",
    "/%61uth/verify",
    "/auth%2fverify",
    "/auth%5Cverify",
    "/auth\\verify",
    // empty segments
    "//auth/verify",
    "///auth/verify",
    "/auth//verify",
    // dot segments, from public and protected routes
    "/./auth/./verify",
    "/auth/login/../verify",
    "/auth/login/%2e%2e/verify",
    "/auth/login/..%2fverify",
    "/users/../auth/verify",
    "/users/..//auth/verify",
    "/users/../../../auth/verify",
    "/users/%2e%2e/auth/verify",
    "/users/.%2E/auth/verify",
    "/users/..%2fauth%2fverify",
    "/users/..%5cauth%5cverify",
    "/users/..\\auth\\verify",
    "/users/..%3b/auth/verify",
    "/users/%252e%252e/auth/verify",
    "/orders/../users/../auth/verify",
    // absolute form
    "http://user-service:8000/auth/verify",
    "http://shop/users/../auth/verify",
];

/// How the services and the gateway itself are operated, and neighbours of the routes.
const ELSEWHERE: &[&str] = &[
    "/healthz",
    "/readyz",
    "/metrics",
    "/users/../healthz",
    "/orders/../readyz",
    "/inventory/../metrics",
    "/ping",
    "/api/rawdata",
    "/dashboard/",
    "/debug/pprof/",
    "/",
    "*",
    "/auth",
    "/auth/signup/",
    "/auth/logins",
    "/auth/logout/",
    "/usersx",
    "/Users/",
    "/orders-",
    "/inventory",
    "/product-service/",
];

#[test]
fn the_auth_service_cannot_be_asked_from_outside() {
    assert_nothing_at(AUTH_VERIFY);
}

#[test]
fn only_the_shop_is_routed() {
    assert_nothing_at(ELSEWHERE);
}

fn assert_nothing_at(targets: &[&str]) {
    let gateway = Gateway::start();
    for target in targets {
        for method in ["GET", "POST"] {
            let status = gateway.send(&request(method, target, &[ALICE]));
            assert!(matches!(status, 400 | 404), "{method} {target}: {status}");
        }
    }
    gateway.assert_nothing_routed();
    assert!(gateway.auth.take().is_empty());
}

#[test]
fn accounts_are_made_entered_and_left_with_post_alone() {
    let gateway = Gateway::start();
    for target in ["/auth/signup", "/auth/login", "/auth/logout"] {
        for method in [
            "GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post",
        ] {
            let request = request(method, target, &["X-HTTP-Method-Override: POST"]);
            assert_eq!(gateway.send(&request), 404, "{method} {target}");
        }
    }
    gateway.assert_nothing_routed();
    for target in ["/auth/signup", "/auth/login"] {
        assert_eq!(gateway.send(&request("POST", target, &[])), 200, "{target}");
    }
}

#[test]
fn a_service_sees_the_path_by_which_the_gateway_chose_it() {
    let gateway = Gateway::start();
    for (target, path, service) in [
        ("/users", "/users", &gateway.users),
        ("/users//me", "/users/me", &gateway.users),
        ("/orders/../users/./me", "/users/me", &gateway.users),
        // A dot segment for some servers, for ours a name.
        ("/users/..;/orders/", "/users/..;/orders/", &gateway.users),
        ("/users/../orders/", "/orders/", &gateway.orders),
        ("/orders/%31", "/orders/1", &gateway.orders),
        (
            "/users/%2e%2e/inventory/99",
            "/inventory/99",
            &gateway.inventory,
        ),
    ] {
        assert_eq!(
            gateway.send(&request("GET", target, &[ALICE])),
            200,
            "{target}"
        );
        let asked = gateway.auth.take_one();
        assert_eq!(asked.header("X-Forwarded-Uri"), Some(path), "{target}");
        let routed = service.take_one();
        assert!(
            routed.head.starts_with(&format!("GET {path} HTTP/1.1\r\n")),
            "{}",
            routed.head
        );
        gateway.assert_nothing_routed();
    }
}

#[test]
fn operation_has_an_entry_point_of_its_own_without_routes() {
    let gateway = Gateway::start();
    for (target, status) in [
        ("/ping", 200),
        ("/metrics", 200),
        ("/users/", 404),
        ("/orders/", 404),
        ("/inventory/99", 404),
        ("/auth/verify", 404),
        ("/api/rawdata", 404),
        ("/debug/pprof/", 404),
    ] {
        let answered = client::send(gateway.ops, &request("GET", target, &[ALICE])).unwrap();
        assert_eq!(answered, status, "{target}");
    }
    gateway.assert_nothing_routed();
}
