//! Whatever becomes of a service or of the auth service, the client has an answer within a bound; and what is sent a
//! second time for that is never an order.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    ALICE,
    client::{self, request, request_with_body},
    harness::{Gateway, auth_answer},
    recorder::{BROKEN_OFF, Recorder, Request, answer},
    traefik::Configuration,
};

/// For what fails at once.
const AT_ONCE: Duration = Duration::from_millis(1_000);
/// How long the auth service is waited for, a second attempt included.
const AUTH_LIMIT: Duration = Duration::from_millis(3_000);
/// How long a service that hangs is waited for.
const SERVICE_LIMIT: Duration = Duration::from_millis(12_000);
/// Services give up after ten seconds: the gateway must not before.
const SERVICE_PATIENCE: Duration = Duration::from_millis(10_500);

const PROTECTED: [(&str, &str); 4] = [
    ("GET", "/users/me"),
    ("GET", "/inventory/99"),
    ("GET", "/orders/"),
    ("POST", "/orders/"),
];

fn service() -> Recorder {
    Recorder::start(|_| answer("200 OK", &[], ""))
}

/// Sends a request of Alice's; status and time.
fn timed(gateway: &Gateway, method: &str, target: &str) -> (u16, Duration) {
    let begun = Instant::now();
    let body = b"{}";
    let status = gateway.send(&match method {
        "GET" => request(method, target, &[ALICE]),
        _ => request_with_body(method, target, &[ALICE, "Content-Length: 2"], body),
    });
    (status, begun.elapsed())
}

/// All of them at once, as each may wait for its limit.
fn all(gateway: &Gateway, requests: &[(&str, &str)]) -> Vec<(String, u16, Duration)> {
    // Recorders are not shared between threads; addresses are.
    let web = gateway.web;
    thread::scope(|scope| {
        let threads: Vec<_> = requests
            .iter()
            .map(|(method, target)| {
                scope.spawn(move || {
                    let begun = Instant::now();
                    let length = "Content-Length: 0";
                    let status = client::send(web, &request(method, target, &[ALICE, length]));
                    let status = status.expect("no answer");
                    (format!("{method} {target}"), status, begun.elapsed())
                })
            })
            .collect();
        let results = threads.into_iter().map(thread::ScopedJoinHandle::join);
        results.map(|result| result.expect("a thread")).collect()
    })
}

#[test]
fn an_auth_service_that_hangs_costs_a_client_three_seconds_at_most() {
    let gateway = Gateway::start_with_auth(Configuration::of_the_repository(), Recorder::hanging());
    for (what, status, took) in all(&gateway, &PROTECTED) {
        assert_eq!(status, 504, "{what}");
        assert!(took < AUTH_LIMIT, "{what} took {took:?}");
    }
    gateway.assert_nothing_routed();
    let (status, _) = timed(&gateway, "POST", "/auth/login");
    assert_eq!(status, 200);
}

#[test]
fn an_auth_service_that_is_gone_is_a_502_at_once() {
    let gateway = Gateway::start_with_auth(Configuration::of_the_repository(), Recorder::absent());
    for (what, status, took) in all(&gateway, &PROTECTED) {
        assert_eq!(status, 502, "{what}");
        assert!(took < AT_ONCE, "{what} took {took:?}");
    }
    gateway.assert_nothing_routed();
}

#[test]
fn an_auth_service_that_dies_while_it_is_asked_is_asked_once_more() {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    fn dies_first(request: &Request) -> String {
        // The wait for the routes asks without a token.
        if request.header("Authorization").is_some() && ASKED.fetch_add(1, Ordering::Relaxed) == 0 {
            return BROKEN_OFF.to_owned();
        }
        auth_answer(request)
    }
    let auth = Recorder::start(dies_first);
    let gateway = Gateway::start_with_auth(Configuration::of_the_repository(), auth);
    let (status, _) = timed(&gateway, "POST", "/orders/");
    assert_eq!(status, 200);
    assert_eq!(gateway.auth.take().len(), 2);
    assert_eq!(gateway.routed().len(), 1);
}

#[test]
fn a_service_that_hangs_is_a_504_after_it_should_have_given_up_itself() {
    let gateway = Gateway::start_before(
        Configuration::of_the_repository(),
        Recorder::start(auth_answer),
        [
            Recorder::hanging(),
            Recorder::hanging(),
            Recorder::hanging(),
        ],
    );
    let public = [("POST", "/auth/login"), ("POST", "/auth/signup")];
    for (what, status, took) in all(&gateway, &[&PROTECTED[..], &public].concat()) {
        assert_eq!(status, 504, "{what}");
        assert!(took < SERVICE_LIMIT, "{what} took {took:?}");
        assert!(took > SERVICE_PATIENCE, "{what} took only {took:?}");
    }
}

#[test]
fn a_service_that_is_gone_is_a_502_at_once() {
    let gateway = Gateway::start_before(
        Configuration::of_the_repository(),
        Recorder::start(auth_answer),
        [Recorder::absent(), Recorder::absent(), Recorder::absent()],
    );
    let public = [("POST", "/auth/login"), ("POST", "/auth/signup")];
    for (what, status, took) in all(&gateway, &[&PROTECTED[..], &public].concat()) {
        assert_eq!(status, 502, "{what}");
        assert!(took < AT_ONCE, "{what} took {took:?}");
    }
}

/// Sends a request to an order-service that dies of each; the status, and how often it arrived.
fn dying(configuration: Configuration, method: &str) -> (u16, usize) {
    let gateway = Gateway::start_before(
        configuration,
        Recorder::start(auth_answer),
        [
            service(),
            Recorder::start(|_| BROKEN_OFF.to_owned()),
            service(),
        ],
    );
    let (status, _) = timed(&gateway, method, "/orders/");
    (status, gateway.orders.take().len())
}

#[test]
fn a_read_that_a_service_died_of_is_sent_once_more_and_an_order_never() {
    let shipped = Configuration::of_the_repository;
    assert_eq!(dying(shipped(), "GET"), (502, 2));
    assert_eq!(dying(shipped(), "POST"), (502, 1));
    assert_eq!(dying(shipped(), "PATCH"), (502, 1));

    let careless = || {
        shipped().replacing(
            "timeout: 2s\n        status:",
            "timeout: 2s\n        retryNonIdempotentMethod: true\n        status:",
        )
    };
    assert_eq!(dying(careless(), "POST"), (502, 2), "the check sees it");
}

#[test]
fn a_change_of_password_is_sent_once() {
    let sent = |configuration| {
        let dies = Recorder::start(|_| BROKEN_OFF.to_owned());
        let auth = Recorder::start(auth_answer);
        let gateway = Gateway::start_before(configuration, auth, [dies, service(), service()]);
        let password = ["Content-Length: 0", ALICE];
        let status = gateway.send(&request("PUT", "/users/me/password", &password));
        (status, gateway.users.take().len())
    };
    let shipped = Configuration::of_the_repository;
    assert_eq!(sent(shipped()), (502, 1));
    let shadowed = shipped().replacing("priority: 100", "priority: 1");
    assert_eq!(sent(shadowed), (502, 2), "the check sees it");
}

#[test]
fn a_read_reaches_the_replica_that_lives() {
    static READS: AtomicU32 = AtomicU32::new(0);
    fn every_other_one(request: &Request) -> String {
        if request.header("X-User-Id").is_some()
            && READS.fetch_add(1, Ordering::Relaxed).is_multiple_of(2)
        {
            return BROKEN_OFF.to_owned();
        }
        answer("200 OK", &[], "")
    }
    let gateway = Gateway::start_before(
        Configuration::of_the_repository(),
        Recorder::start(auth_answer),
        [service(), service(), Recorder::start(every_other_one)],
    );
    for _ in 0..5 {
        let (status, took) = timed(&gateway, "GET", "/inventory/99");
        assert_eq!(status, 200);
        assert!(took < AT_ONCE, "{took:?}");
    }
    assert_eq!(gateway.inventory.take().len(), 10);
}

#[test]
fn the_entry_point_for_the_auth_service_has_that_one_route() {
    let gateway = Gateway::start();
    // As ForwardAuth asks: over HTTP/2, whatever the certificate.
    let status = |target: &str| {
        let answer = Command::new("curl")
            .args(["--silent", "--insecure", "--http2", "--output", "/dev/null"])
            .args(["--write-out", "%{http_version} %{http_code}"])
            .args(["--header", ALICE])
            .arg(format!("https://{}{target}", gateway.inner))
            .output()
            .unwrap();
        String::from_utf8(answer.stdout).unwrap()
    };
    assert_eq!(status("/auth/verify"), "2 200");
    let asked = gateway.auth.take_one();
    assert_eq!(asked.header("X-User-Id"), None);
    for target in ["/users/me", "/orders/", "/auth/login", "/metrics", "/ping"] {
        assert_eq!(status(target), "2 404", "{target}");
    }
    let plain = client::send(gateway.inner, &request("GET", "/auth/verify", &[ALICE]));
    assert_eq!(plain.expect("no answer"), 404);
    gateway.assert_nothing_routed();
    assert!(gateway.inner.ip().is_loopback());
}
