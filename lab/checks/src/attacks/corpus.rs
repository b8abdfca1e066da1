//! The attacks, by family.
//!
//! Each has to be refused for a reason of its own. Sources: RFC 7519 and 8725 (tokens), RFC 9110 and 9112 (HTTP),
//! PortSwigger's and James Kettle's work on request smuggling, and the gateway's own advisories on header aliases and
//! hop-by-hop headers (CVE-2024-45410, CVE-2026-29054, CVE-2026-39858).

use super::{
    Attack, Cast, Family,
    tokens::{base64url, signed, unsigned},
};

/// An identity without an account: it must not reach a service, and it can't be mistaken for the victim's.
const FORGED_EMAIL: &str = "forged@example.org";
/// Where a token is needed, and the answer shows whose it was.
const PROTECTED: &str = "/users/me";

const UNAUTHORIZED: &[u16] = &[400, 401];
const UNAUTHORIZED_OR_TOO_LARGE: &[u16] = &[400, 401, 431];
/// With the attacker's own token: their own account, or a refusal.
const OWN_OR_REFUSED: &[u16] = &[200, 400, 401];
const NOT_THERE: &[u16] = &[400, 401, 403, 404, 405];
const NO_METHOD: &[u16] = &[400, 401, 403, 404, 405, 415, 422];
const TOO_LARGE: &[u16] = &[400, 413, 414, 431];
const NO_HTTP: &[u16] = &[400, 401, 404, 405, 408, 411, 415, 422];
/// RFC 9110 asks for a 5xx, from the gateway's own parser: nothing behind it broke.
const NOT_IMPLEMENTED: &[u16] = &[400, 404, 405, 501];
const UNKNOWN_VERSION: &[u16] = &[400, 505];

/// Every attack of `cast.attacker` on `cast.victim`, by family.
pub fn corpus(cast: &Cast) -> Vec<Attack> {
    [
        tokens(cast),
        identity(cast),
        paths(cast),
        methods(cast),
        malformed(cast),
        smuggling(cast),
    ]
    .concat()
}

fn attack(
    family: Family,
    tries: impl Into<String>,
    allowed: &'static [u16],
    bytes: Vec<u8>,
) -> Attack {
    Attack {
        family,
        tries: tries.into(),
        bytes,
        allowed,
        answers: 1,
    }
}

/// A request after whose answer the connection may go. A header may be several lines, or nothing that HTTP allows.
fn request(method: &str, target: &str, headers: &[&str]) -> Vec<u8> {
    kept(method, target, &[headers, &["Connection: close"]].concat())
}

/// A request without a `Connection` header.
fn kept(method: &str, target: &str, headers: &[&str]) -> Vec<u8> {
    let headers: String = headers.iter().map(|lines| format!("{lines}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nHost: shop\r\n{headers}\r\n").into_bytes()
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

fn claims(sub: &str, iss: &str, aud: &str, exp: &str) -> String {
    format!(
        r#"{{"sub":"{sub}","email":"{FORGED_EMAIL}","iss":"{iss}","aud":"{aud}","iat":1700000000,"exp":{exp}}}"#
    )
}

/// An `exp` in the year 2100, in seconds since 1970.
const LATE: &str = "4102444800";
/// An `exp` in the year 2023, in seconds since 1970.
const PAST: &str = "1700000001";

fn tokens(cast: &Cast) -> Vec<Attack> {
    let victim = claims(&cast.victim.id, "agora", "agora", LATE);
    let own = cast.attacker.token.as_str();
    let mut parts = own.split('.');
    let mut part = || parts.next().unwrap_or_default();
    let (own_header, own_claims, own_signature) = (part(), part(), part());
    let of_victim = base64url(victim.as_bytes());
    let header = |alg: &str| format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#);
    let with_kid = |kid: &str| format!(r#"{{"alg":"HS256","typ":"JWT","kid":"{kid}"}}"#);
    let none = |alg: &str| bearer(&format!("{}.", unsigned(&header(alg), &victim)));

    let mut tries: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, headers: String| tries.push((name.to_owned(), headers));
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        add(&format!("alg {alg:?}, no signature"), none(alg));
    }
    add(
        "alg none with another token's signature",
        bearer(&format!(
            "{}.{own_signature}",
            unsigned(&header("none"), &victim)
        )),
    );
    add(
        "the victim's claims under the attacker's header and signature",
        bearer(&format!("{own_header}.{of_victim}.{own_signature}")),
    );
    add(
        "the right header, no signature",
        bearer(&format!("{own_header}.{of_victim}.")),
    );
    add(
        "two parts only",
        bearer(&format!("{own_header}.{of_victim}")),
    );
    add(
        "a fourth part",
        bearer(&format!(
            "{own_header}.{own_claims}.{own_signature}.{of_victim}"
        )),
    );
    for key in ["", "secret", "changeme", "agora", "your-256-bit-secret"] {
        add(
            &format!("signed with the guessed key {key:?}"),
            bearer(&signed(&with_kid("1"), &victim, key.as_bytes())),
        );
    }
    add(
        "HS256 with a public key as the secret (RS/HS confusion)",
        bearer(&signed(
            &header("HS256"),
            &victim,
            b"-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJB\n-----END PUBLIC KEY-----\n",
        )),
    );
    for alg in ["RS256", "ES256", "EdDSA", "HS512", "PS256"] {
        add(
            &format!("alg {alg} with a HS256 signature"),
            bearer(&signed(&header(alg), &victim, b"secret")),
        );
    }
    for kid in [
        "../../../../dev/null",
        "/proc/sys/kernel/randomize_va_space",
        "' UNION SELECT '' --",
        "http://attacker.example/keys",
        "",
    ] {
        add(
            &format!("kid {kid:?} with an empty key"),
            bearer(&signed(&with_kid(kid), &victim, b"")),
        );
    }
    let embedded = r#"{"alg":"HS256","typ":"JWT","jwk":{"kty":"oct","k":"c2VjcmV0"}}"#;
    add(
        "a key that the token brings along (jwk)",
        bearer(&signed(embedded, &victim, b"secret")),
    );
    let fetched = r#"{"alg":"RS256","typ":"JWT","jku":"http://attacker.example/jwks.json"}"#;
    add(
        "a key to be fetched (jku)",
        bearer(&signed(fetched, &victim, b"secret")),
    );
    let critical = r#"{"alg":"HS256","typ":"JWT","crit":["b64"],"b64":false}"#;
    add(
        "an unknown critical extension",
        bearer(&signed(critical, &victim, b"secret")),
    );
    for (name, claims) in [
        ("expired", claims(&cast.victim.id, "agora", "agora", PAST)),
        (
            "of another issuer",
            claims(&cast.victim.id, "evil", "agora", LATE),
        ),
        (
            "for another audience",
            claims(&cast.victim.id, "agora", "evil", LATE),
        ),
        (
            "with an exp that is a text",
            claims(&cast.victim.id, "agora", "agora", "\"never\""),
        ),
        ("with no claims", "{}".to_owned()),
        ("whose claims are no object", "[]".to_owned()),
    ] {
        let claims = base64url(claims.as_bytes());
        add(
            &format!("a token {name}, with a real signature of another one"),
            bearer(&format!("{own_header}.{claims}.{own_signature}")),
        );
    }
    add("an empty Authorization", "Authorization:".to_owned());
    add(
        "a scheme without a token",
        "Authorization: Bearer".to_owned(),
    );
    add("a token without a scheme", format!("Authorization: {own}"));
    add("another scheme", format!("Authorization: Basic {own}"));
    add(
        "two Authorization headers, the forged one first",
        format!("{}\r\n{}", none("none"), bearer(own)),
    );
    add(
        "two Authorization headers, the forged one last",
        format!("{}\r\n{}", bearer(own), none("none")),
    );
    add(
        "two tokens in one header",
        bearer(&format!("{own}, Bearer {own}")),
    );
    add(
        "a lower-case scheme with a forged token",
        format!(
            "authorization: bearer {}.",
            unsigned(&header("none"), &victim)
        ),
    );
    add(
        "the token as a cookie",
        format!("Cookie: Authorization={own}; token={own}"),
    );
    add(
        "in Proxy-Authorization",
        format!("Proxy-Authorization: Bearer {own}"),
    );
    add(
        "in X-Authorization",
        format!("X-Authorization: Bearer {own}"),
    );
    add("base64 with padding", bearer(&format!("{own}==")));
    add("a token of dots", bearer("..."));
    add("a NUL at its end", format!("Authorization: Bearer {own}\0"));
    let tries = tries.into_iter().map(|(name, headers)| {
        attack(
            Family::Tokens,
            name,
            UNAUTHORIZED,
            request("GET", PROTECTED, &[&headers]),
        )
    });
    let long = bearer(&"e".repeat(100_000));
    let others = format!("/users/{}/purchases", cast.victim.id);
    let own = bearer(own);
    tries
        .chain([
            attack(
                Family::Tokens,
                "a token of 100 kB",
                UNAUTHORIZED_OR_TOO_LARGE,
                request("GET", PROTECTED, &[&long]),
            ),
            attack(
                Family::Tokens,
                "a token in the query",
                UNAUTHORIZED,
                request(
                    "GET",
                    &format!("{PROTECTED}?access_token={}", cast.attacker.token),
                    &[],
                ),
            ),
            attack(
                Family::Tokens,
                "the attacker's token for what is the victim's",
                &[401, 403],
                request("GET", &others, &[&own]),
            ),
        ])
        .collect()
}

fn identity(cast: &Cast) -> Vec<Attack> {
    let id = cast.victim.id.as_str();
    let email = FORGED_EMAIL;
    let disguises = [
        ("plain", format!("X-User-Id: {id}\r\nX-User-Email: {email}")),
        (
            "in lower case",
            format!("x-user-id: {id}\r\nx-user-email: {email}"),
        ),
        (
            "in upper case",
            format!("X-USER-ID: {id}\r\nX-USER-EMAIL: {email}"),
        ),
        (
            "with underscores",
            format!("X_User_Id: {id}\r\nX_User_Email: {email}"),
        ),
        (
            "with dots",
            format!("X.User.Id: {id}\r\nX.User.Email: {email}"),
        ),
        ("mixed", format!("X-User_Id: {id}\r\nX_User-Email: {email}")),
        (
            "with plus signs",
            format!("X+User+Id: {id}\r\nX+User+Email: {email}"),
        ),
        ("the id alone", format!("X-User-Id: {id}")),
        (
            "twice",
            format!("X-User-Id: {id}\r\nX-User-Id: {id}\r\nX-User-Email: {email}"),
        ),
        (
            "dashes and underscores",
            format!(
                "X-User-Id: {id}\r\nX_User_Id: {id}\r\nX-User-Email: {email}\r\nX_User_Email: {email}"
            ),
        ),
        (
            "after a tab",
            format!("X-User-Id:\t{id}\t\r\nX-User-Email:\t{email}"),
        ),
        (
            "folded",
            format!("X-User-Id:\r\n {id}\r\nX-User-Email:\r\n\t{email}"),
        ),
        (
            "a list",
            format!("X-User-Id: {id}, {id}\r\nX-User-Email: {email}"),
        ),
        (
            "hop by hop",
            format!(
                "X-User-Id: {id}\r\nX-User-Email: {email}\r\nConnection: X-User-Id, X-User-Email"
            ),
        ),
        (
            "hop by hop by another name",
            format!(
                "X_User_Id: {id}\r\nX_User_Email: {email}\r\nConnection: X_User_Id, X_User_Email"
            ),
        ),
        (
            "in Keep-Alive and TE",
            format!(
                "X-User-Id: {id}\r\nX-User-Email: {email}\r\nKeep-Alive: X-User-Id\r\nTE: X-User-Email"
            ),
        ),
        (
            "as a trailer",
            format!("Trailer: X-User-Id\r\nX-User-Id: {id}\r\nX-User-Email: {email}"),
        ),
        (
            "as somebody before us would say it",
            format!(
                "X-Forwarded-User: {id}\r\nX-Forwarded-Email: {email}\r\nX-Remote-User: {id}\r\nRemote-User: {id}"
            ),
        ),
        (
            "as if from the gateway itself",
            format!(
                "X-User-Id: {id}\r\nX-User-Email: {email}\r\nX-Forwarded-For: 127.0.0.1\r\nX-Real-Ip: 127.0.0.1"
            ),
        ),
        (
            "in Forwarded",
            format!(
                "Forwarded: for=127.0.0.1;by=127.0.0.1\r\nX-User-Id: {id}\r\nX-User-Email: {email}"
            ),
        ),
        (
            "with what ForwardAuth says",
            format!(
                "X-Forwarded-Uri: /auth/login\r\nX-Forwarded-Method: POST\r\nX-User-Id: {id}\r\nX-User-Email: {email}"
            ),
        ),
        (
            "before the token's own",
            format!("X-User-Id: {id}\r\nX-User-Email: {email}\r\nConnection: Authorization"),
        ),
        (
            "a space before the colon",
            format!("X-User-Id : {id}\r\nX-User-Email : {email}"),
        ),
        (
            "a space before the name",
            format!("X-A: a\r\n X-User-Id: {id}"),
        ),
        (
            "a NUL in the name",
            format!("X-User-Id\0: {id}\r\nX-User-Email: {email}"),
        ),
        (
            "a vertical tab after the name",
            format!("X-User-Id\x0b: {id}"),
        ),
        (
            "a bare CR between",
            format!("X-A: a\rX-User-Id: {id}\r\nX-User-Email: {email}"),
        ),
        (
            "a bare LF between",
            format!("X-A: a\nX-User-Id: {id}\nX-User-Email: {email}"),
        ),
        (
            "no ASCII",
            format!("X-User-\u{130}d: {id}\r\nX-User-Email: {email}"),
        ),
    ];
    let own = bearer(&cast.attacker.token);
    let with_and_without = disguises.iter().flat_map(|(name, headers)| {
        [
            attack(
                Family::Identity,
                format!("the victim's identity {name}, no token"),
                UNAUTHORIZED,
                kept("GET", PROTECTED, &[headers]),
            ),
            attack(
                Family::Identity,
                format!("the victim's identity {name}, over the attacker's token"),
                OWN_OR_REFUSED,
                kept("GET", PROTECTED, &[headers, &own]),
            ),
        ]
    });
    with_and_without.collect()
}

fn paths(cast: &Cast) -> Vec<Attack> {
    let own = bearer(&cast.attacker.token);
    let auth_verify = [
        "/auth/verify",
        "/auth/verify/",
        "/auth/verify?x=/users/",
        "/auth/verify#/users/",
        "/auth/verify;/users/",
        "/auth/verify%00",
        "/AUTH/VERIFY",
        "/%61uth/verify",
        "/auth%2fverify",
        "/auth%5cverify",
        "/auth\\verify",
        "//auth/verify",
        "/auth//verify",
        "/./auth/./verify",
        "/auth/login/../verify",
        "/auth/login/%2e%2e/verify",
        "/auth/login/..%2fverify",
        "/users/../auth/verify",
        "/users/%2e%2e/auth/verify",
        "/users/..%2fauth%2fverify",
        "/users/..\\auth\\verify",
        "/users/..;/auth/verify",
        "/users/..%3b/auth/verify",
        "/users/%252e%252e/auth/verify",
        "http://user-service:8000/auth/verify",
        "http://127.0.0.1:8083/auth/verify",
        "user-service:8000/auth/verify",
    ];
    let elsewhere = [
        "/metrics",
        "/users/../metrics",
        "/readyz",
        "/patterns",
        "/ping",
        "/api/rawdata",
        "/dashboard/",
        "/debug/pprof/",
        "http://127.0.0.1:8082/metrics",
        "http://prometheus:9090/api/v1/targets",
        "/product-service/",
    ];
    let not_there = auth_verify.iter().chain(&elsewhere).map(|target| {
        attack(
            Family::Paths,
            format!("{target}, with a token"),
            NOT_THERE,
            request("GET", target, &[&own]),
        )
    });
    // A check on the path as it is written, and a service that reads it otherwise.
    let around = [
        "//users/me",
        "/users//me",
        "/./users/./me",
        "/auth/login/../../users/me",
        "/auth/login/%2e%2e/%2e%2e/users/me",
        "/auth/login/..;/..;/users/me",
        "/auth/login%2f..%2f..%2fusers%2fme",
        "/USERS/me",
        "/%75sers/me",
        "/users%2fme",
        "/users/me?/auth/login",
        "/users/me#/auth/login",
        "/users/me;/auth/login",
        "/users/me%00/auth/login",
        "/users/me/",
        "/users/me/.",
        "\\users\\me",
        "http://shop/users/me",
        "http://user-service:8000/users/me",
        "http:///users/me",
    ];
    let identity = format!(
        "X-User-Id: {}\r\nX-User-Email: {FORGED_EMAIL}",
        cast.victim.id
    );
    let around = around.iter().map(|target| {
        attack(
            Family::Paths,
            format!("{target}, without a token"),
            NOT_THERE,
            request("GET", target, &[&identity]),
        )
    });
    let rewritten = [
        "X-Original-Url: /users/me",
        "X-Rewrite-Url: /users/me",
        "X-Forwarded-Uri: /users/me",
        "X-Forwarded-Prefix: /users/me",
        "X-Forwarded-Path: /auth/verify",
        "Host: user-service:8000",
        "X-Forwarded-Host: user-service:8000",
    ];
    let rewritten = rewritten.iter().map(|header| {
        attack(
            Family::Paths,
            format!("a public path with {header:?}"),
            &[400, 401, 404, 405, 415, 422],
            request(
                "POST",
                "/auth/login",
                &[header, &identity, "Content-Length: 0"],
            ),
        )
    });
    not_there.chain(around).chain(rewritten).collect()
}

fn methods(cast: &Cast) -> Vec<Attack> {
    let identity = format!(
        "X-User-Id: {}\r\nX-User-Email: {FORGED_EMAIL}",
        cast.victim.id
    );
    let own = bearer(&cast.attacker.token);
    let methods = [
        "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "get", "GET\t", "PROPFIND", "DEBUG",
        "LOCK",
    ];
    let methods = methods.iter().map(|method| {
        attack(
            Family::Methods,
            format!("{method:?} where GET needs a token"),
            NO_METHOD,
            request(method, PROTECTED, &[&identity]),
        )
    });
    let connect = attack(
        Family::Methods,
        "CONNECT where GET needs a token",
        NOT_IMPLEMENTED,
        request("CONNECT", PROTECTED, &[&identity]),
    );
    let preflight = attack(
        Family::Methods,
        "a CORS preflight, which some let pass",
        NO_METHOD,
        request(
            "OPTIONS",
            PROTECTED,
            &[
                &identity,
                "Origin: http://attacker.example",
                "Access-Control-Request-Method: GET",
                "Access-Control-Request-Headers: Authorization",
            ],
        ),
    );
    let overrides = [
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "_method",
    ];
    let overrides = overrides.iter().flat_map(|name| {
        let (get, post) = (format!("{name}: GET"), format!("{name}: POST"));
        [
            attack(
                Family::Methods,
                format!("GET called POST by {name} on a path for POST"),
                NO_METHOD,
                request("GET", "/auth/login", &[&post, &own]),
            ),
            attack(
                Family::Methods,
                format!("OPTIONS called GET by {name}"),
                NO_METHOD,
                request("OPTIONS", PROTECTED, &[&get, &identity]),
            ),
        ]
    });
    let upgrade = [
        (
            "a WebSocket's upgrade",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ),
        (
            "an upgrade to HTTP/2 without TLS",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        ),
    ];
    let upgrade = upgrade.iter().map(|(name, headers)| {
        attack(
            Family::Methods,
            format!("{name}, without a token"),
            UNAUTHORIZED,
            kept("GET", PROTECTED, &[headers, &identity]),
        )
    });
    methods
        .chain([connect, preflight])
        .chain(overrides)
        .chain(upgrade)
        .collect()
}

fn malformed(cast: &Cast) -> Vec<Attack> {
    let own = bearer(&cast.attacker.token);
    let one = |name: &str, allowed, bytes| attack(Family::Malformed, name, allowed, bytes);
    let raw = |text: &str| text.as_bytes().to_vec();
    let body = |length: usize, target: &str| {
        let length_line = format!("Content-Length: {length}");
        let json = "Content-Type: application/json";
        let head = request("POST", target, &[&own, &length_line, json]);
        [head, vec![b'x'; length]].concat()
    };
    let chunked = || {
        let head = request("POST", "/orders/", &[&own, "Transfer-Encoding: chunked"]);
        let chunk = [b"4000\r\n", &[b'x'; 0x4000][..], b"\r\n"].concat();
        [head, chunk.repeat(6), b"0\r\n\r\n".to_vec()].concat()
    };
    let header = |line: &str| request("GET", PROTECTED, &[line, &own]);
    vec![
        one(
            "a header of 100 kB",
            TOO_LARGE,
            header(&format!("X-Filler: {}", "x".repeat(100_000))),
        ),
        one(
            "five thousand headers",
            TOO_LARGE,
            header(&vec!["X-Filler: x"; 5_000].join("\r\n")),
        ),
        one(
            "a path of 100 kB",
            TOO_LARGE,
            request(
                "GET",
                &format!("{PROTECTED}?{}", "x".repeat(100_000)),
                &[&own],
            ),
        ),
        one(
            "a method of 100 kB",
            TOO_LARGE,
            request(&"G".repeat(100_000), PROTECTED, &[&own]),
        ),
        one(
            "a body of 1 MB on a protected path",
            TOO_LARGE,
            body(1_000_000, "/orders/"),
        ),
        one(
            "a body of 1 MB on a public path",
            TOO_LARGE,
            body(1_000_000, "/auth/login"),
        ),
        one("100 kB in chunks", TOO_LARGE, chunked()),
        one("a header without a colon", NO_HTTP, header("X-User-Id")),
        one("a header without a name", NO_HTTP, header(": forged")),
        one("a NUL in a value", NO_HTTP, header("X-A: a\0b")),
        one(
            "a NUL in the path",
            NO_HTTP,
            request("GET", "/users/\0me", &[&own]),
        ),
        one(
            "a space in the path",
            NO_HTTP,
            request("GET", "/users/ me", &[&own]),
        ),
        one(
            "a bare CR in the request line",
            NO_HTTP,
            request("GET", "/users/\rme", &[&own]),
        ),
        one(
            "no Host",
            NO_HTTP,
            raw(&format!("GET {PROTECTED} HTTP/1.1\r\n{own}\r\n\r\n")),
        ),
        one("two Hosts", NO_HTTP, header("Host: other")),
        one(
            "a Host with a path",
            NO_HTTP,
            raw(&format!(
                "GET {PROTECTED} HTTP/1.1\r\nHost: shop/users\r\n{own}\r\n\r\n"
            )),
        ),
        one(
            "no version",
            NO_HTTP,
            raw(&format!("GET {PROTECTED}\r\nHost: shop\r\n{own}\r\n\r\n")),
        ),
        one(
            "an unknown version",
            UNKNOWN_VERSION,
            raw(&format!(
                "GET {PROTECTED} HTTP/9.9\r\nHost: shop\r\n{own}\r\n\r\n"
            )),
        ),
        one(
            "another protocol (TLS)",
            NO_HTTP,
            [
                &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
                &[b'x'; 600],
            ]
            .concat(),
        ),
        one(
            "a target that is no path",
            NO_HTTP,
            request("GET", "users/me", &[&own]),
        ),
        one(
            "broken percent signs",
            NO_HTTP,
            request("GET", "/users/%zz", &[&own]),
        ),
        one(
            "no UTF-8 in the path",
            &[400, 401, 404, 405, 422],
            request("GET", "/users/%ff%fe", &[&own]),
        ),
        one(
            "no UTF-8 in a JSON body",
            NO_HTTP,
            [
                request(
                    "POST",
                    "/auth/login",
                    &["Content-Length: 4", "Content-Type: application/json"],
                ),
                b"\xff\xfe\xfd\xfc".to_vec(),
            ]
            .concat(),
        ),
        one(
            "JSON that never ends its brackets",
            NO_HTTP,
            [
                request(
                    "POST",
                    "/auth/login",
                    &["Content-Length: 60000", "Content-Type: application/json"],
                ),
                vec![b'['; 60_000],
            ]
            .concat(),
        ),
    ]
}

fn smuggling(cast: &Cast) -> Vec<Attack> {
    let hidden = format!(
        "GET {PROTECTED} HTTP/1.1\r\nHost: shop\r\nX-User-Id: {}\r\nX-User-Email: {FORGED_EMAIL}\r\nConnection: close\r\n\r\n",
        cast.victim.id
    );
    let outer = |headers: &str, body: &str| {
        let head = kept("POST", "/auth/login", &[headers]);
        [head.as_slice(), body.as_bytes()].concat()
    };
    let ended = format!("0\r\n\r\n{hidden}");
    let length = format!("Content-Length: {}", ended.len());
    let chunk = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    let one = |name: &str, answers, allowed, bytes| Attack {
        answers,
        ..attack(Family::Smuggling, name, allowed, bytes)
    };
    let obfuscated = [
        ("Transfer-Encoding: xchunked", "another coding's name"),
        ("Transfer-Encoding : chunked", "a space before the colon"),
        ("Transfer-Encoding: \x0bchunked", "a vertical tab"),
        ("Transfer-Encoding: chunked\x0c", "a form feed"),
        ("Transfer-Encoding: \"chunked\"", "quotes"),
        ("Transfer-Encoding: chunked, identity", "two codings"),
        ("Transfer-Encoding: identity, chunked", "identity first"),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "two headers",
        ),
        (
            "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
            "an unknown one first",
        ),
        ("X-A: a\nTransfer-Encoding : chunked", "after a bare LF"),
        ("Transfer-Encoding:chunk\r\n ed", "folded in two"),
    ];
    let obfuscated = obfuscated.iter().map(|(headers, name)| {
        one(
            &format!("Transfer-Encoding with {name}, beside a length"),
            1,
            REFUSED_FRAMING,
            outer(&format!("{length}\r\n{headers}"), &ended),
        )
    });
    // RFC 9112, section 6.3: chunked wins. What follows it is a request of its own, and is asked for a token.
    let both = [
        ("CL.TE", format!("{length}\r\nTransfer-Encoding: chunked")),
        ("TE.CL", format!("Transfer-Encoding: chunked\r\n{length}")),
        (
            "CL.TE, in upper case",
            format!("{length}\r\nTRANSFER-ENCODING: CHUNKED"),
        ),
        (
            "CL.TE after a tab",
            format!("{length}\r\nTransfer-Encoding:\tchunked\t"),
        ),
        (
            "CL.TE, folded",
            format!("{length}\r\nTransfer-Encoding:\r\n chunked"),
        ),
    ];
    let both = both
        .iter()
        .map(|(name, headers)| one(name, 2, REFUSED_FRAMING, outer(headers, &ended)));
    let lengths = [
        ("two lengths", format!("Content-Length: 0\r\n{length}")),
        (
            "two lengths, the longer first",
            format!("{length}\r\nContent-Length: 0"),
        ),
        (
            "two lengths in one header",
            format!("Content-Length: 0, {}", ended.len()),
        ),
        (
            "a length with a sign",
            format!("Content-Length: +{}", ended.len()),
        ),
        ("a negative length", "Content-Length: -1".to_owned()),
        (
            "a length in hex",
            format!("Content-Length: 0x{:x}", ended.len()),
        ),
        (
            "a length with a space in it",
            "Content-Length: 1 0".to_owned(),
        ),
        (
            "a length beyond 64 bits",
            "Content-Length: 18446744073709551616".to_owned(),
        ),
        (
            "a length before a bare CR",
            format!("Content-Length: 0\rX-A: a\r\n{length}"),
        ),
        ("an empty length", "Content-Length:".to_owned()),
    ];
    let lengths = lengths
        .iter()
        .map(|(name, headers)| one(name, 1, REFUSED_FRAMING, outer(headers, &ended)));
    let te = "Transfer-Encoding: chunked";
    let chunks = [
        ("a chunk that hides a request", chunk.clone()),
        (
            "a chunk extension with a bare LF",
            format!("2;a=\nxx\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()),
        ),
        (
            "a bare LF after a chunk's size",
            format!("{:x}\n{hidden}\r\n0\r\n\r\n", hidden.len()),
        ),
        ("a chunk's size with a sign", format!("+{chunk}")),
        ("a chunk's size in the form 0x", format!("0x{chunk}")),
        (
            "a chunk's size beyond 64 bits",
            format!("fffffffffffffffff\r\n{hidden}"),
        ),
        ("a negative chunk", format!("-1\r\n{hidden}")),
        (
            "a chunk with more than its size",
            format!("1\r\nxyz\r\n{ended}"),
        ),
    ];
    let chunks = chunks
        .iter()
        .map(|(name, body)| one(name, 1, BROKEN_CHUNKS, outer(te, body)));
    let get = kept(
        "GET",
        "/nowhere",
        &[&format!("Content-Length: {}", hidden.len())],
    );
    let others = [
        one(
            "a request as the body of a GET",
            1,
            NO_HTTP,
            [get, hidden.clone().into_bytes()].concat(),
        ),
        one(
            "a request after one without a length (CL.0)",
            2,
            REFUSED_FRAMING,
            outer("X-A: a", &hidden),
        ),
        one(
            "a length under another name (underscore)",
            2,
            REFUSED_FRAMING,
            outer(&format!("Content_Length: {}", hidden.len()), &hidden),
        ),
        one(
            "chunked under another name (underscore)",
            1,
            REFUSED_FRAMING,
            outer(&format!("Transfer_Encoding: chunked\r\n{length}"), &ended),
        ),
        one(
            "the length as a header that ends here",
            1,
            REFUSED_FRAMING,
            outer(&format!("{length}\r\nConnection: Content-Length"), &ended),
        ),
        one(
            "a body promised and asked for (Expect)",
            2,
            REFUSED_FRAMING,
            outer(&format!("{length}\r\nExpect: 100-continue"), &ended),
        ),
    ];
    // Whatever the others left on connections that are shared shows up in somebody else's answer.
    let own = bearer(&cast.attacker.token);
    let after = (1..=4).map(|number| {
        one(
            &format!("the attacker's own request after all of that, {number} of 4"),
            1,
            &[200],
            request("GET", PROTECTED, &[&own]),
        )
    });
    obfuscated
        .chain(both)
        .chain(lengths)
        .chain(chunks)
        .chain(others)
        .chain(after)
        .collect()
}

/// Refused as no HTTP, as a log-in that isn't one, or because a hidden request has no token; 501 is what RFC 9112 asks
/// for an unknown coding.
const REFUSED_FRAMING: &[u16] = &[400, 401, 408, 411, 413, 415, 422, 501];
/// The gateway reads a body before it passes it on, and answers 500 when it can't (Traefik's `buffering`, which takes
/// it for its own fault): no service sees any of it, but it is counted as a server error. It should be a 400.
const BROKEN_CHUNKS: &[u16] = &[400, 401, 408, 413, 415, 422, 500];
