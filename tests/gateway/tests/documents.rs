//! The API's documents and the gateway's routes agree: what a document has is routed to the service whose document it is,
//! for whom the document says, and no route leads to nothing that is in a document.
//!
//! The documents are the repository's (`docs/openapi`); the services' tests hold them against what they serve.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    ALICE,
    client::{self, request},
    harness::Gateway,
    recorder::{Recorder, Request},
    traefik::Configuration,
};

const DOCUMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi");
const SERVICES: [&str; 3] = ["user-service", "order-service", "inventory-service"];
/// How long the gateway's counters may be behind.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);

/// Something that a document says can be asked of a service.
struct Operation {
    service: &'static str,
    method: String,
    path: String,
    /// With a token only.
    by_token: bool,
}

impl Operation {
    /// What anybody may read, with its body and without.
    fn readings(service: &'static str, path: &str) -> [Self; 2] {
        ["GET", "HEAD"].map(|method| Self {
            service,
            method: method.to_owned(),
            path: path.to_owned(),
            by_token: false,
        })
    }
}

/// All that the documents have, the documents themselves with the pages to browse them, and the page that leads there.
fn operations() -> Vec<Operation> {
    let mut operations = Vec::new();
    for path in ["/", "/docs", "/docs/"] {
        operations.extend(Operation::readings("user-service", path));
    }
    for service in SERVICES {
        operations.extend(Operation::readings(
            service,
            &format!("/openapi/{service}.json"),
        ));
        operations.extend(documented(service));
    }
    operations
}

fn documented(service: &'static str) -> Vec<Operation> {
    let file = Path::new(DOCUMENTS).join(format!("{service}.json"));
    let text = fs::read_to_string(&file).expect("a document of each service");
    let document: Value = serde_json::from_str(&text).expect("a JSON document");
    let by_token = |operation: &Value| {
        let security = operation.get("security").or(document.get("security"));
        security
            .and_then(Value::as_array)
            .is_some_and(|schemes| !schemes.is_empty() && !schemes.contains(&serde_json::json!({})))
    };
    let mut operations = Vec::new();
    let paths = document["paths"].as_object().expect("paths");
    for (path, item) in paths {
        for (method, operation) in item.as_object().expect("operations") {
            operations.push(Operation {
                service,
                method: method.to_uppercase(),
                path: filled_in(path),
                by_token: by_token(operation),
            });
        }
    }
    assert!(!operations.is_empty(), "{service}");
    operations
}

/// A path with something in place of its parameters.
fn filled_in(path: &str) -> String {
    let segments = path.split('/').map(|segment| match segment {
        parameter if parameter.starts_with('{') => "1",
        segment => segment,
    });
    segments.collect::<Vec<_>>().join("/")
}

/// What is not as the documents say; empty when all is.
fn disagreements(gateway: &Gateway) -> Vec<String> {
    let mut found = Vec::new();
    for operation in operations() {
        let Operation { method, path, .. } = &operation;
        let mut asks = |headers: &[&str], expected: Option<&str>| {
            let status = gateway.send(&request(method, path, headers));
            let reached = reached(gateway, path);
            if reached.iter().map(String::as_str).ne(expected) {
                let who = if headers.is_empty() {
                    "nobody"
                } else {
                    "a user"
                };
                let expected = expected.unwrap_or("no service");
                found.push(format!(
                    "{method} {path} as {who}: {status} from {reached:?}, expected {expected}"
                ));
            }
        };
        asks(&[], (!operation.by_token).then_some(operation.service));
        asks(&[ALICE], Some(operation.service));
        let asked = gateway.auth.take();
        if asked.is_empty() == operation.by_token {
            let word = if asked.is_empty() { "not" } else { "" };
            found.push(format!("{method} {path}: the token is {word} checked"));
        }
    }
    let unused = routers_without_requests(gateway);
    found.extend(unused.map(|router| format!("the router `{router}` leads to no documented path")));
    found
}

/// The services that a request for this path came to since they were last looked at.
fn reached(gateway: &Gateway, path: &str) -> Vec<String> {
    let recorders: [(&str, &Recorder); 3] = [
        ("user-service", &gateway.users),
        ("order-service", &gateway.orders),
        ("inventory-service", &gateway.inventory),
    ];
    let mut reached = Vec::new();
    for (service, recorder) in recorders {
        let same = |request: &Request| request.head.split(' ').nth(1) == Some(path);
        reached.extend(recorder.take().iter().map(|request| match same(request) {
            true => service.to_owned(),
            false => format!("{service}, by another path"),
        }));
    }
    reached
}

/// The routers that the gateway has counted no request for, but for the one that no client reaches, the one that takes
/// what no other does, and the dashboard's, at an entry point of its own.
#[expect(clippy::disallowed_methods, reason = "a bounded wait for a condition")]
fn routers_without_requests(gateway: &Gateway) -> impl Iterator<Item = String> {
    let deadline = Instant::now() + COUNTED_WITHIN;
    loop {
        let mut unused = gateway.routers.clone();
        for without_a_service in ["verify", "nothing", "dashboard"] {
            assert!(unused.remove(without_a_service), "{unused:?}");
        }
        let metrics = read(gateway.ops, "/metrics");
        unused.retain(|router| !metrics.contains(&format!("router=\"{router}@file\"")));
        if unused.is_empty() || Instant::now() > deadline {
            return unused.into_iter();
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The body of an answer, and its head before it.
fn read(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    client::bound(&stream).expect("a socket");
    let request = request("GET", path, &["Connection: close"]);
    stream.write_all(&request).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn documents_and_routes_agree() {
    let found = disagreements(&Gateway::start());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_document_can_be_read_and_nothing_else_done_to_it() {
    let gateway = Gateway::start();
    for path in SERVICES.map(|service| format!("/openapi/{service}.json")) {
        for method in ["POST", "PUT", "DELETE"] {
            assert_eq!(
                gateway.send(&request(method, &path, &[])),
                404,
                "{method} {path}"
            );
        }
    }
    for path in [
        "/openapi",
        "/openapi/",
        "/openapi/product-service.json",
        "/docsx",
    ] {
        assert_eq!(gateway.send(&request("GET", path, &[])), 404, "{path}");
    }
    gateway.assert_nothing_routed();
}

#[test]
fn a_route_that_is_not_as_documented_is_found() {
    const INVENTORY: &str = "rule: PathPrefix(`/inventory/`)";
    const TO_INVENTORY: &str = "middlewares: [protected]
      service: inventory-service";
    const SIGNUP: &str = "rule: Method(`POST`) && Path(`/auth/signup`)
      middlewares: [api, retry-once]";
    for (what, old, new, expected) in [
        (
            "no route any more",
            INVENTORY,
            "rule: PathPrefix(`/stock/`)",
            "GET /inventory/1 as a user: 404",
        ),
        (
            "to another service",
            TO_INVENTORY,
            "middlewares: [protected]
      service: order-service",
            "expected inventory-service",
        ),
        (
            "for anybody",
            TO_INVENTORY,
            "middlewares: [api, retry-once]
      service: inventory-service",
            "GET /inventory/1 as nobody: 200",
        ),
        (
            "for users alone",
            SIGNUP,
            "rule: Method(`POST`) && Path(`/auth/signup`)
      middlewares: [protected]",
            "POST /auth/signup as nobody: 401",
        ),
        (
            "to what is in no document",
            "    orders:
",
            "    elsewhere:
      rule: Path(`/elsewhere`)
      middlewares: [protected]
      service: order-service
    orders:
",
            "the router `elsewhere` leads to no documented path",
        ),
    ] {
        let changed = Configuration::of_the_repository().replacing(old, new);
        let found = disagreements(&Gateway::start_with(changed));
        assert!(
            found.iter().any(|found| found.contains(expected)),
            "{what}: {found:?}"
        );
    }
}
