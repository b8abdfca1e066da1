//! A protected request passes when the auth service lets it, and only what the services need goes on.

use crate::{
    ALICE, VERBOSE,
    client::request,
    harness::Gateway,
    recorder::{Recorder, Request},
    traefik::Configuration,
};

const PROTECTED: [&str; 3] = ["/users/me", "/orders/", "/inventory/99"];

/// What clients may say about where a request came from.
const FORWARDED: &[&str] = &[
    "X-Forwarded-For: forged",
    "x-forwarded-for: forged",
    "X-Forwarded-Host: forged",
    "X-Forwarded-Method: forged",
    "X-Forwarded-Port: forged",
    "X-Forwarded-Prefix: /forged",
    "X-Forwarded-Proto: forged",
    "X-Forwarded-Tls-Client-Cert: forged",
    "X-Forwarded-Uri: /forged",
    "X-Real-Ip: forged",
];

#[test]
fn a_request_that_the_auth_service_refuses_goes_no_further() {
    let gateway = Gateway::start();
    for target in PROTECTED {
        for headers in [
            &[][..],
            &["Authorization: Bearer mallory"],
            &["Authorization: alice"],
            &["Authorization:"],
            &["X-User-Id: alice"],
            // A header that is declared to end at the gateway is none that the auth service sees.
            &[ALICE, "Connection: Authorization"],
        ] {
            let status = get(&gateway, target, headers);
            assert_eq!(status, 401, "{target} {headers:?}");
        }
    }
    gateway.assert_nothing_routed();
}

#[test]
fn an_answer_of_the_auth_service_beyond_its_limit_lets_nobody_pass() {
    let gateway = Gateway::start();
    for target in PROTECTED {
        assert_eq!(get(&gateway, target, &[VERBOSE]), 401, "{target}");
    }
    gateway.assert_nothing_routed();

    let patient = Configuration::of_the_repository()
        .replacing("maxResponseBodySize: 4096", "maxResponseBodySize: 65536");
    let gateway = Gateway::start_with(patient);
    assert_eq!(get(&gateway, PROTECTED[0], &[VERBOSE]), 200);
}

#[test]
fn without_the_auth_service_nothing_protected_passes() {
    let gateway = Gateway::start_with_auth(Configuration::of_the_repository(), Recorder::absent());
    for target in PROTECTED {
        assert_eq!(get(&gateway, target, &[ALICE]), 502, "{target}");
    }
    gateway.assert_nothing_routed();
    assert_eq!(gateway.send(&request("POST", "/auth/login", &[])), 200);
}

#[test]
fn a_token_stays_between_the_gateway_and_the_auth_service() {
    let tokens: [&[&str]; 3] = [
        &[ALICE],
        &["authorization:Bearer alice"],
        &[ALICE, "AUTHORIZATION: Bearer mallory"],
    ];
    let careless =
        Configuration::of_the_repository().replacing("Authorization: \"\"", "X-Other: \"\"");
    for (gateway, arrives) in [
        (Gateway::start(), false),
        (Gateway::start_with(careless), true),
    ] {
        for target in PROTECTED {
            for headers in tokens {
                assert_eq!(get(&gateway, target, headers), 200, "{target} {headers:?}");
                let [routed] = gateway.routed().try_into().expect("not one request");
                assert_eq!(routed.head.contains("Bearer"), arrives, "{}", routed.head);
            }
        }
    }
}

#[test]
fn the_token_to_revoke_goes_to_who_made_it_once_it_was_found_good() {
    let gateway = Gateway::start();
    let log_out = |headers: &[&str]| gateway.send(&request("POST", "/auth/logout", headers));
    for headers in [&[][..], &["Authorization: Bearer mallory"]] {
        assert_eq!(log_out(headers), 401, "{headers:?}");
    }
    gateway.assert_nothing_routed();
    assert_eq!(log_out(&[ALICE]), 200);
    let routed = gateway.users.take_one();
    assert_eq!(routed.header("Authorization"), Some("Bearer alice"));
    gateway.assert_nothing_routed();
}

#[test]
fn what_a_client_says_about_its_origin_is_replaced() {
    let gateway = Gateway::start();
    // The gateway's own would be lost by the last one, if it obeyed.
    let lost = &["Connection: X-Forwarded-For, X-Forwarded-Uri"];
    for header in FORWARDED.iter().chain(lost) {
        let (asked, routed) = forwarded(&gateway, header);
        for request in [&asked, &routed] {
            assert!(!request.head.contains("forged"), "{}", request.head);
            assert_eq!(request.header("X-Forwarded-For"), Some("127.0.0.1"));
            assert_eq!(request.header("X-Forwarded-Host"), Some("shop"));
        }
        assert_eq!(asked.header("X-Forwarded-Method"), Some("GET"));
        assert_eq!(asked.header("X-Forwarded-Uri"), Some("/users/me?page=1"));
    }

    let trusting =
        Configuration::of_the_repository().replacing("insecure: false", "insecure: true");
    let gateway = Gateway::start_with(trusting);
    for header in FORWARDED {
        let (_, routed) = forwarded(&gateway, header);
        assert!(routed.head.contains("forged"), "{header}: {}", routed.head);
    }
}

/// What the auth service and user-service see of a request with this header.
fn forwarded(gateway: &Gateway, header: &str) -> (Request, Request) {
    let status = get(gateway, "/users/me?page=1", &[ALICE, header]);
    assert_eq!(status, 200, "{header}");
    (gateway.auth.take_one(), gateway.users.take_one())
}

fn get(gateway: &Gateway, target: &str, headers: &[&str]) -> u16 {
    gateway.send(&request("GET", target, headers))
}
