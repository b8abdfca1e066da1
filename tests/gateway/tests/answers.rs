//! How a browser is to take an answer: said of every one, whoever gave it, the gateway's own errors included.
//!
//! Left out: what Go's server answers by itself (400, 431, `OPTIONS *`). Nothing can be added to that; it is plain text,
//! the same for everybody.

use std::fs;

use crate::{
    ALICE,
    client::{self, request, request_with_body},
    harness::{Gateway, auth_answer},
    recorder::{Recorder, Request, answer},
    traefik::Configuration,
};

const EVERY_ANSWER: [(&str, &str); 3] = [
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
];
const OF_THE_API: [(&str, &str); 2] = [
    (
        "Content-Security-Policy",
        "default-src 'none'; frame-ancestors 'none'",
    ),
    ("Cache-Control", "no-store"),
];
/// What an answer has none of: who made it, and leave for pages from elsewhere.
const NOWHERE: [&str; 3] = ["Server", "X-Powered-By", "Access-Control-"];

/// A service that knows no better.
fn talkative(_: &Request) -> String {
    let headers = [
        "Server: nginx/1.0",
        "X-Powered-By: a framework",
        "Cache-Control: public",
        "X-Content-Type-Options: sniff",
    ];
    answer("200 OK", &headers, "{}")
}

/// A gateway before services of that kind, of which order-service isn't there.
fn before_talkative_services(configuration: Configuration) -> Gateway {
    let services = [
        Recorder::start(talkative),
        Recorder::absent(),
        Recorder::start(talkative),
    ];
    Gateway::start_before(configuration, Recorder::start(auth_answer), services)
}

/// One of each kind of answer: its status, and a request that gets it.
fn one_of_each() -> Vec<(u16, Vec<u8>)> {
    let large = vec![b'a'; 100_000];
    let length = format!("Content-Length: {}", large.len());
    let from_elsewhere = "Origin: https://elsewhere.example";
    vec![
        // by a service
        (200, request("POST", "/auth/login", &[from_elsewhere])),
        (200, request("GET", "/users/me", &[ALICE, from_elsewhere])),
        (200, request("GET", "/inventory/99", &[ALICE])),
        // by the auth service
        (401, request("GET", "/users/me", &[])),
        (401, request("POST", "/auth/logout", &[])),
        // by the gateway
        (404, request("POST", "/", &[])),
        (404, request("GET", "/elsewhere", &[])),
        (404, request("GET", "/nothing/here", &[ALICE])),
        (404, request("OPTIONS", "/auth/login", &[from_elsewhere])),
        (
            413,
            request_with_body("POST", "/auth/login", &[&length], &large),
        ),
        (
            413,
            request_with_body("POST", "/orders/", &[ALICE, &length], &large),
        ),
        (502, request("GET", "/orders/", &[ALICE])),
    ]
}

/// What is wrong with the heads of the answers, in words.
fn defects(gateway: &Gateway) -> Vec<String> {
    let mut defects = Vec::new();
    for (status, request) in one_of_each() {
        let head = client::head(gateway.web, &request).expect("an answer");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        let headers: Vec<(&str, &str)> = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name, value.trim()))
            .collect();
        for (name, expected) in EVERY_ANSWER.into_iter().chain(OF_THE_API) {
            let values: Vec<&str> = headers
                .iter()
                .filter(|(other, _)| other.eq_ignore_ascii_case(name))
                .map(|(_, value)| *value)
                .collect();
            if values != [expected] {
                defects.push(format!("{status}: {name} is {values:?}"));
            }
        }
        for (name, value) in headers {
            if NOWHERE.iter().any(|prefix| name.starts_with(prefix)) {
                defects.push(format!("{status}: {name} is {value:?}"));
            }
        }
    }
    defects
}

#[test]
fn every_answer_says_how_it_is_to_be_taken_and_none_who_made_it() {
    let gateway = before_talkative_services(Configuration::of_the_repository());
    assert_eq!(defects(&gateway), Vec::<String>::new());
}

#[test]
fn without_its_middlewares_none_does() {
    let silent = Configuration::of_the_repository()
        .replacing("        - every-answer@file\n", "")
        .replacing("          - api-answer\n", "")
        .replacing("[api-answer, not-found]", "[not-found]");
    let defects = defects(&before_talkative_services(silent));
    for (status, _) in one_of_each() {
        for (name, _) in EVERY_ANSWER.into_iter().chain(OF_THE_API) {
            let defect = format!("{status}: {name} is");
            assert!(
                defects.iter().any(|found| found.starts_with(&defect)),
                "{defect}"
            );
        }
    }
    for name in ["Server", "X-Powered-By"] {
        let defect = format!("200: {name} is");
        assert!(
            defects.iter().any(|found| found.starts_with(&defect)),
            "{defect}"
        );
    }
}

#[test]
fn a_route_without_the_catch_all_is_answered_by_traefik_itself_and_says_nothing() {
    let without = Configuration::of_the_repository().replacing("PathRegexp(`.*`)", "Path(`/x`)");
    let defects = defects(&before_talkative_services(without));
    assert!(defects.iter().all(|defect| defect.starts_with("404: ")));
    assert!(!defects.is_empty());
}

#[test]
fn every_route_of_the_api_begins_with_what_all_of_them_need() {
    let routes = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../observability/traefik/dynamic/agora.yaml"
    );
    let routes = fs::read_to_string(routes).unwrap();
    let careless = careless_routers(&routes);
    assert!(careless.is_empty(), "{careless:?}");
    // The check itself sees what it looks for.
    let forgetful = routes
        .replace("middlewares: [protected]", "middlewares: [retry-once]")
        .replace("      middlewares: [api, retry-once]\n", "");
    assert_eq!(
        careless_routers(&forgetful),
        [
            "signup",
            "login",
            "users",
            "orders",
            "inventory",
            "openapi-user-service",
            "openapi-order-service",
            "openapi-inventory-service"
        ]
    );
}

/// The routers that anybody can reach and that don't begin with one of these.
fn careless_routers(configuration: &str) -> Vec<&str> {
    const BEGINNINGS: [&str; 4] = ["api", "api-answer", "protected", "page"];
    let (_, routers) = configuration.split_once("  routers:\n").expect("routers");
    let (routers, _) = routers
        .split_once("\n  middlewares:\n")
        .expect("middlewares");
    let lines = routers.lines().filter(|line| !line.trim().starts_with('#'));
    let mut careless: Vec<&str> = Vec::new();
    let mut name = "";
    for line in lines {
        let text = line.trim();
        let settles = |first: &str| BEGINNINGS.contains(&first);
        if !line.starts_with("     ") {
            name = text.trim_end_matches(':');
            careless.push(name);
        } else if ["entryPoints: [auth]", "entryPoints: [dashboard]"].contains(&text)
            || text
                .strip_prefix("middlewares: [")
                .and_then(|list| list.split([',', ']']).next())
                .is_some_and(settles)
        {
            careless.retain(|other| *other != name);
        }
    }
    careless
}
