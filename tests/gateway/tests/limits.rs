//! What is too large, or has no clear end, is refused before a service or the auth service sees it; and what is too much of one
//! user, before a service does.

use crate::{
    ALICE, BOB,
    client::{self, request, request_with_body},
    harness::{Gateway, auth_answer},
    recorder::Recorder,
    traefik::Configuration,
};

const MAX_BODY_BYTES: usize = 65_536;

#[test]
fn a_body_passes_whole_up_to_its_limit() {
    let gateway = Gateway::start();
    for bytes in [0, 1, 1000, MAX_BODY_BYTES] {
        for request in uploads(bytes) {
            assert_eq!(gateway.send(&request), 200, "{bytes} bytes");
            let routed = gateway.routed();
            assert_eq!(routed.len(), 1);
            assert!(
                routed[0].body == body(bytes),
                "{bytes} bytes became {}",
                routed[0].body.len()
            );
        }
    }
}

#[test]
fn a_body_over_its_limit_is_refused() {
    let gateway = Gateway::start();
    for bytes in [MAX_BODY_BYTES + 1, 3 * MAX_BODY_BYTES] {
        for request in uploads(bytes) {
            assert_eq!(gateway.send(&request), 413, "{bytes} bytes");
        }
    }
    gateway.assert_nothing_routed();
    assert!(gateway.auth.take().is_empty());
}

/// A body on a public and on a protected route, its length said first or chunk by chunk.
fn uploads(bytes: usize) -> [Vec<u8>; 4] {
    let body = body(bytes);
    let length = format!("Content-Length: {bytes}");
    let mut chunked = Vec::new();
    for chunk in body.chunks(10_000) {
        chunked.extend([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
    }
    chunked.extend(b"0\r\n\r\n");
    let upload =
        |target, encoding, body| request_with_body("POST", target, &[ALICE, encoding], body);
    [
        upload("/auth/login", &length, &body),
        upload("/orders/", &length, &body),
        upload("/auth/login", "Transfer-Encoding: chunked", &chunked),
        upload("/orders/", "Transfer-Encoding: chunked", &chunked),
    ]
}

fn body(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| b'a' + (n % 26) as u8).collect()
}

#[test]
fn a_head_over_its_limit_is_refused() {
    let gateway = Gateway::start();
    let heads = |bytes: usize| {
        let one = format!("X-Filler: {}", "x".repeat(bytes));
        let many = vec!["X-Filler: x"; bytes / 13].join("\r\n");
        let query = format!("?{}", "x".repeat(bytes));
        ["/auth/login", "/orders/"].map(|path| {
            [
                request("POST", path, &[ALICE, &one]),
                request("POST", path, &[ALICE, &many]),
                request("POST", &format!("{path}{query}"), &[ALICE]),
            ]
        })
    };
    for request in heads(15_000).as_flattened() {
        assert_eq!(gateway.send(request), 200);
    }
    assert_eq!(gateway.routed().len(), 6);
    gateway.auth.take();
    // Go reads up to 4 KiB more than maxHeaderBytes.
    for bytes in [22_000, 100_000] {
        for request in heads(bytes).as_flattened() {
            assert_eq!(gateway.send(request), 431, "{bytes} bytes");
        }
    }
    gateway.assert_nothing_routed();
    assert!(gateway.auth.take().is_empty());
}

/// Two readings of where a request ends would let a second one hide in the body of the first.
#[test]
fn a_body_has_one_length() {
    let gateway = Gateway::start();
    let send = |headers| {
        let body = b"5\r\nhello\r\n0\r\n\r\n";
        gateway.send(&request_with_body("POST", "/auth/login", &[headers], body))
    };
    for (headers, status) in [
        ("Content-Length: 5\r\nContent-Length: 6", 400),
        ("Content-Length: 5, 6", 400),
        ("Content-Length: +5", 400),
        ("Content-Length: -1", 400),
        ("Content-Length: 0x5", 400),
        ("Content-Length: 5\r\nTransfer-Encoding:\x0bchunked", 400),
        ("Transfer-Encoding: xchunked", 501),
        ("Transfer-Encoding: chunked, identity", 501),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            501,
        ),
    ] {
        assert_eq!(send(headers), status, "{headers:?}");
        gateway.assert_nothing_routed();
    }
    for (headers, body) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", "hello"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", "hello"),
        ("Content-Length: 5\r\nTransfer_Encoding: chunked", "5\r\nhe"),
    ] {
        assert_eq!(send(headers), 200, "{headers:?}");
        let routed = gateway.users.take_one();
        assert_eq!(routed.body, body.as_bytes(), "{headers:?}");
        assert_eq!(routed.header("Transfer-Encoding"), None, "{headers:?}");
    }
}

/// How many bytes the gateway allocates for a protected read.
fn allocated_for_a_read(configuration: Configuration) -> u64 {
    const READS: u64 = 50;
    let auth = Recorder::start(auth_answer);
    let gateway = Gateway::start_with_auth(configuration, auth);
    // By HTTP/1.0: in one piece.
    let metrics = b"GET /metrics HTTP/1.0\r\nHost: shop\r\n\r\n";
    let allocated = || {
        let metrics = client::body(gateway.ops, metrics).expect("metrics");
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix("go_memstats_alloc_bytes_total "));
        let value: f64 = value.expect("its own memory").parse().expect("a number");
        value as u64
    };
    let before = allocated();
    for _ in 0..READS {
        assert_eq!(gateway.send(&request("GET", "/users/me", &[ALICE])), 200);
    }
    (allocated() - before) / READS
}

/// Both the read and the question who it is from may be repeated: keeping them for that must not cost more than they are.
#[test]
fn a_request_that_may_be_repeated_costs_no_more_memory_than_its_body_needs() {
    let shipped = allocated_for_a_read(Configuration::of_the_repository());
    assert!(shipped < 512 * 1024, "{shipped} bytes a read");
    let careless = Configuration::of_the_repository()
        .replacing("maxRequestBodyBytes: 1024", "maxRequestBodyBytes: 2097152")
        .replacing("maxRequestBodyBytes: 1\n", "maxRequestBodyBytes: 2097152\n");
    let careless = allocated_for_a_read(careless);
    assert!(
        careless > 3 * 1024 * 1024,
        "the check sees it: {careless} bytes a read"
    );
}

/// So few that no machine is too slow to meet them: one request in ten seconds, and five at once.
fn narrow() -> Configuration {
    Configuration::of_the_repository()
        .replacing("sourceCriterion:", "period: 10s\n        sourceCriterion:")
        .with("AGORA_RATE_LIMIT_AVERAGE", "1")
        .with("AGORA_RATE_LIMIT_BURST", "5")
}

/// The statuses of so many requests of one client.
fn statuses(gateway: &Gateway, count: usize, headers: &[&str]) -> Vec<u16> {
    let ask = || gateway.send(&request("GET", "/inventory/99", headers));
    std::iter::repeat_with(ask).take(count).collect()
}

#[test]
fn a_user_beyond_the_limit_is_refused_and_another_one_is_not() {
    let gateway = Gateway::start_with(narrow());
    // Each route counts by itself.
    for (method, target) in [
        ("GET", "/inventory/99"),
        ("GET", "/users/me"),
        ("PUT", "/users/me/password"),
        ("POST", "/auth/logout"),
        ("POST", "/orders/"),
    ] {
        let ask = |who| request(method, target, &[who, "Content-Length: 0"]);
        for _ in 0..5 {
            assert_eq!(gateway.send(&ask(ALICE)), 200, "{target}");
        }
        let refused = client::head(gateway.web, &ask(ALICE)).expect("an answer");
        assert!(refused.starts_with("HTTP/1.1 429 "), "{target}: {refused}");
        for header in [
            "Retry-After: ",
            "Content-Security-Policy: default-src 'none'",
        ] {
            assert!(refused.contains(header), "{target}: {refused}");
        }
        assert_eq!(gateway.send(&ask(BOB)), 200, "{target}");
        assert_eq!(gateway.routed().len(), 5 + 1, "{target}");
    }
    // The public ones have other limits.
    for _ in 0..8 {
        let login = request("POST", "/auth/login", &[ALICE, "Content-Length: 0"]);
        assert_eq!(gateway.send(&login), 200);
    }
}

#[test]
fn nobody_escapes_the_limit_by_another_name_nor_uses_up_anothers() {
    let gateway = Gateway::start_with(narrow());
    for n in 0..8 {
        let name = format!("X-User-Id: somebody-{n}");
        let expected = if n < 5 { 200 } else { 429 };
        assert_eq!(statuses(&gateway, 1, &[ALICE, &name]), [expected]);
    }
    assert_eq!(statuses(&gateway, 6, &[ALICE, "X-User-Id: bob"]), [429; 6]);
    assert_eq!(statuses(&gateway, 5, &[BOB]), [200; 5]);
    // Without a token it is a 401, however often.
    assert_eq!(statuses(&gateway, 8, &["X-User-Id: alice"]), [401; 8]);

    let by_any_name =
        narrow().replacing("requestHeaderName: X-User-Id", "requestHeaderName: X-Name");
    let gateway = Gateway::start_with(by_any_name);
    for n in 0..8 {
        let name = format!("X-Name: somebody-{n}");
        assert_eq!(
            statuses(&gateway, 1, &[ALICE, &name]),
            [200],
            "the check sees it"
        );
    }
}

#[test]
fn switched_off_nobody_is_refused() {
    let off = narrow().with("AGORA_PATTERN_RATE_LIMIT", "off");
    let gateway = Gateway::start_with(off);
    assert_eq!(statuses(&gateway, 12, &[ALICE]), [200; 12]);
}

#[test]
fn as_shipped_a_user_has_many_requests_a_second() {
    let gateway = Gateway::start();
    assert_eq!(statuses(&gateway, 300, &[ALICE]), [200; 300]);
}
