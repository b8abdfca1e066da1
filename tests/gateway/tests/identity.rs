//! A service sees the identity that the auth service named, or none, whatever a client sends.

use crate::{
    ALICE, NOBODY,
    client::{request, request_with_body},
    forgeries::{FORGERIES, HOP_BY_HOP, MALFORMED},
    harness::Gateway,
    recorder::Request,
    traefik::Configuration,
};

/// A kind of request, and the identity that the service behind has to see.
struct Route {
    method: &'static str,
    target: &'static str,
    token: &'static str,
    identity: &'static [&'static str],
}

impl Route {
    /// Sends such a request with more headers and gives the status of the answer.
    fn send(&self, gateway: &Gateway, headers: &str) -> u16 {
        gateway.send(&request(self.method, self.target, &[headers, self.token]))
    }
}

const ROUTES: [Route; 7] = [
    of_alice("/users/me"),
    of_alice("/orders/"),
    of_alice("/inventory/99"),
    Route {
        method: "POST",
        ..of_alice("/auth/logout")
    },
    of_nobody("GET", "/orders/", NOBODY),
    of_nobody("POST", "/auth/signup", ALICE),
    of_nobody("POST", "/auth/login", ALICE),
];

const fn of_alice(target: &'static str) -> Route {
    Route {
        method: "GET",
        target,
        token: ALICE,
        identity: &["x-user-email: alice@example.org", "x-user-id: alice"],
    }
}

const fn of_nobody(method: &'static str, target: &'static str, token: &'static str) -> Route {
    Route {
        method,
        target,
        token,
        identity: &[],
    }
}

/// What keeps a client's identity headers away, as texts of the configuration with and without it.
const DEFENCES: [(&str, &str); 3] = [
    ("aliasHeadersStrategy: delete", "aliasHeadersStrategy: keep"),
    ("        - no-client-identity@file\n", ""),
    (
        "authResponseHeaders:\n          - X-User-Id\n          - X-User-Email\n",
        "authResponseHeaders: []\n",
    ),
];

#[test]
fn a_service_sees_the_identity_that_the_auth_service_named_and_no_other() {
    let gateway = Gateway::start();
    for route in &ROUTES {
        for attempts in [&["Accept: */*"], FORGERIES, HOP_BY_HOP] {
            let violations = violations(&gateway, route, attempts);
            assert!(violations.is_empty(), "{}: {violations:?}", route.target);
        }
    }
}

#[test]
fn an_identity_header_that_is_no_http_is_refused() {
    let gateway = Gateway::start();
    for route in &ROUTES {
        for attempt in MALFORMED {
            let status = route.send(&gateway, attempt);
            assert_eq!(status, 400, "{}: {attempt:?}", route.target);
        }
    }
    gateway.assert_nothing_routed();
    assert!(gateway.auth.take().is_empty());
}

#[test]
fn a_trailer_is_no_identity() {
    let gateway = Gateway::start();
    let headers = ["Transfer-Encoding: chunked", "Trailer: X-User-Id"];
    let body = b"5\r\nhello\r\n0\r\nX-User-Id: forged\r\n\r\n";
    let login = request_with_body("POST", "/auth/login", &headers, body);
    assert_eq!(gateway.send(&login), 200);
    let routed = gateway.users.take_one();
    assert_eq!(routed.body, b"hello");
    assert_eq!(identity(&routed), [""; 0]);
    assert_eq!(routed.header("Trailer"), None);
}

#[test]
fn without_the_defences_every_forgery_arrives() {
    let mut configuration = Configuration::of_the_repository();
    for (with, without) in DEFENCES {
        configuration = configuration.replacing(with, without);
    }
    let gateway = Gateway::start_with(configuration);
    for route in &ROUTES {
        let violations = violations(&gateway, route, FORGERIES);
        assert_eq!(violations, FORGERIES, "{}", route.target);
    }
}

#[test]
fn no_defence_makes_another_one_superfluous() {
    for (with, without) in DEFENCES {
        let configuration = Configuration::of_the_repository().replacing(with, without);
        let gateway = Gateway::start_with(configuration);
        let noticed = |route| !violations(&gateway, route, FORGERIES).is_empty();
        assert!(ROUTES.iter().any(noticed), "{with}");
    }
}

/// The attempts with which a request did not pass with exactly the route's identity, or the auth service
/// was told one.
fn violations<'a>(gateway: &Gateway, route: &Route, attempts: &[&'a str]) -> Vec<&'a str> {
    let holds = |attempt: &str| {
        let status = route.send(gateway, attempt);
        let (asked, routed) = (gateway.auth.take(), gateway.routed());
        status == 200
            && routed.len() == 1
            && identity(&routed[0]) == route.identity
            && asked.iter().all(|request| identity(request).is_empty())
    };
    let attempts = attempts.iter().copied();
    attempts.filter(|attempt| !holds(attempt)).collect()
}

/// The identity headers as the most careless service would read them, to which all characters but letters
/// and digits are the same.
fn identity(request: &Request) -> Vec<String> {
    let mut identity: Vec<_> = request
        .headers()
        .map(|(name, value)| {
            let name = name.to_ascii_lowercase();
            let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            format!("{name}: {value}")
        })
        .filter(|header| header.starts_with("x-user-id:") || header.starts_with("x-user-email:"))
        .collect();
    identity.sort();
    identity
}
