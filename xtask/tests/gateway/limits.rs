//! What is too large, or has no clear end, is refused before a service or the auth service sees it.

use crate::{
    ALICE,
    client::{request, request_with_body},
    harness::Gateway,
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
