//! What isn't a route of the shop isn't there, however it is spelled.

use crate::{
    ALICE,
    client::{self, request},
    harness::Gateway,
    traefik::Configuration,
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
    "/api",
    "/api/",
    "/api/rawdata",
    "/api/overview",
    "/api/http/routers",
    "/api/version",
    "/users/../api/rawdata",
    "/docs/../api/rawdata",
    "//api/rawdata",
    "/%61pi/rawdata",
    "http://127.0.0.1:8081/api/rawdata",
    "/dashboard",
    "/dashboard/",
    "/users/../dashboard/",
    "/debug/pprof/",
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

/// The gateway's own API, which only the dashboard's entry point has.
const API: [&str; 5] = [
    "/api/rawdata",
    "/api/overview",
    "/api/http/routers",
    "/api/version",
    "/dashboard/",
];

#[test]
fn the_dashboard_has_an_entry_point_of_its_own_where_it_can_only_be_read() {
    let gateway = Gateway::start();
    let send = |method: &str, target: &str| {
        client::send(gateway.dashboard, &request(method, target, &[ALICE])).unwrap()
    };
    for target in API {
        assert_eq!(send("GET", target), 200, "{target}");
        for method in ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"] {
            assert_eq!(send(method, target), 404, "{method} {target}");
        }
    }
    // To the page.
    assert!(matches!(send("GET", "/"), 301 | 302));
    // Nothing of the shop, of the auth service, or of how the gateway is operated.
    for target in [
        "/users/",
        "/auth/login",
        "/auth/verify",
        "/docs/",
        "/ping",
        "/metrics",
        "/debug/pprof/",
        "/debug/vars",
    ] {
        for method in ["GET", "POST"] {
            assert_eq!(send(method, target), 404, "{method} {target}");
        }
    }
    gateway.assert_nothing_routed();
    assert!(gateway.auth.take().is_empty());
}

/// What of the gateway's API answers at the entry points that aren't for it.
fn exposed(gateway: &Gateway) -> Vec<String> {
    let entry_points = [
        ("web", gateway.web),
        ("ops", gateway.ops),
        ("auth", gateway.inner),
    ];
    let mut exposed = Vec::new();
    for (name, address) in entry_points {
        for target in API {
            for host in ["shop", "localhost", "127.0.0.1:8081", "traefik"] {
                let get = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{ALICE}\r\n\r\n");
                let status = client::send(address, get.as_bytes()).expect("an answer");
                if status != 404 {
                    exposed.push(format!("{name}: {target} for {host}: {status}"));
                }
            }
        }
    }
    exposed
}

#[test]
fn the_gateways_api_answers_at_no_other_entry_point() {
    assert_eq!(exposed(&Gateway::start()), Vec::<String>::new());
    // Seen where it is.
    let open = Configuration::of_the_repository()
        .replacing("entryPoints: [dashboard]", "entryPoints: [dashboard, web]");
    let exposed = exposed(&Gateway::start_with(open));
    assert_eq!(exposed.len(), API.len() * 4, "{exposed:?}");
    assert!(exposed.iter().all(|found| found.starts_with("web: ")));
}

#[test]
fn the_first_page_is_read_by_anybody_and_nothing_else_done_to_it() {
    let gateway = Gateway::start();
    for method in ["GET", "HEAD"] {
        assert_eq!(gateway.send(&request(method, "/", &[])), 200, "{method}");
        let routed = gateway.users.take_one();
        assert!(routed.head.starts_with(&format!("{method} / HTTP/1.1")));
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        assert_eq!(
            gateway.send(&request(method, "/", &[ALICE])),
            404,
            "{method}"
        );
    }
    gateway.assert_nothing_routed();
    assert!(gateway.auth.take().is_empty());
}
