//! Runs the binary against a small shop made here, which counts what reaches it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use load_record::{LEDGER_FILE, LedgerEntry, REPORT_FILE, RunSummary, SUMMARY_FILE};
use serde_json::{Value, json};

/// Longer than any run here by far.
const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn every_request_is_counted_exactly_once() {
    for scenario in ["browse", "checkout", "mixed", "login"] {
        let shop = Shop::open(Weather::Good);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let output = finish(loadtest(scenario, &shop.url(), dir.path()).args(["--run-time", "1s"]));

        assert_eq!(
            output.status.code(),
            Some(0),
            "{scenario}: {}",
            stderr(&output)
        );
        let summary = summary(dir.path());
        assert_eq!(counted(&summary), shop.counted(), "{scenario}");
        assert_eq!(
            summary.failed,
            0,
            "{scenario}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        assert!(
            summary.measured > 20,
            "{scenario}: only {} requests",
            summary.measured
        );
        assert!(dir.path().join(REPORT_FILE).is_file());
    }
}

#[test]
fn the_ledger_holds_each_accepted_order() {
    let shop = Shop::open(Weather::Good);
    let dir = tempfile::tempdir().expect("a temporary folder");
    finish(loadtest("checkout", &shop.url(), dir.path()).args(["--run-time", "1s"]));

    let summary = summary(dir.path());
    let ledger = ledger(dir.path());
    let mut promised: Vec<_> = ledger
        .iter()
        .filter_map(|entry| entry.order_id.clone())
        .collect();
    let mut accepted = shop.accepted();
    promised.sort();
    accepted.sort();
    assert_eq!(promised, accepted);
    assert_eq!(summary.orders.accepted, accepted.len() as u64);
    assert_eq!(summary.orders.tried, ledger.len() as u64);

    let mut keys: Vec<_> = ledger.iter().map(|entry| &entry.idempotency_key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), ledger.len(), "each order has a key of its own");
}

#[test]
fn failures_are_counted_and_break_a_threshold() {
    let shop = Shop::open(Weather::EveryFifthOrderFails);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = finish(loadtest("checkout", &shop.url(), dir.path()).args([
        "--run-time",
        "1s",
        "--max-p95-ms",
        "60000",
    ]));

    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let summary = summary(dir.path());
    assert_eq!(counted(&summary), shop.counted());
    let refused = shop.counted()[&("POST /orders/".to_owned(), Some(503))];
    assert!(refused > 0);
    assert_eq!(summary.failed as u64, refused);
    let verdicts: Vec<_> = summary
        .thresholds
        .iter()
        .map(|t| (t.name.as_str(), t.holds))
        .collect();
    assert_eq!(verdicts, [("max-p95-ms", true), ("max-error-rate", false)]);
    let entry = ledger(dir.path())
        .into_iter()
        .find(|entry| entry.status == Some(503));
    let error = entry
        .and_then(|entry| entry.error)
        .expect("the ledger has the refused orders");
    assert!(error.contains("urn:agora:problem:unavailable"), "{error}");
}

#[test]
fn a_gateway_that_stops_answering_is_seen_as_requests_without_answer() {
    let shop = Shop::open(Weather::HangsUpOnStock);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = finish(loadtest("checkout", &shop.url(), dir.path()).args([
        "--run-time",
        "1s",
        "--max-error-rate",
        "1",
    ]));

    assert_eq!(
        output.status.code(),
        Some(0),
        "every request was allowed to fail"
    );
    let summary = summary(dir.path());
    assert_eq!(counted(&summary), shop.counted());
    let unanswered = shop.counted()[&("GET /inventory/{product_id}".to_owned(), None)];
    assert_eq!(summary.failed as u64, unanswered);
}

#[test]
fn an_interrupted_run_is_inconclusive_and_its_counts_are_exact() {
    let shop = Shop::open(Weather::Good);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let child = start(loadtest("checkout", &shop.url(), dir.path()).args(["--run-time", "10m"]));
    wait_until("orders arrive", || shop.accepted().len() > 20);
    let interrupted = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupted.expect("kill runs").success());
    let output = output_of(child);

    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let summary = summary(dir.path());
    assert_eq!(counted(&summary), shop.counted());
    assert_eq!(summary.orders.accepted, shop.accepted().len() as u64);
}

#[test]
fn the_rate_limit_is_kept() {
    let shop = Shop::open(Weather::Good);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = finish(loadtest("browse", &shop.url(), dir.path()).args([
        "--run-time",
        "2s",
        "--rate-limit",
        "20",
    ]));

    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let summary = summary(dir.path());
    assert_eq!(counted(&summary), shop.counted());
    assert!(
        (20..=80).contains(&summary.measured),
        "{} in two to three seconds",
        summary.measured
    );
}

#[test]
fn a_missing_gateway_names_the_next_step() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", nobody.local_addr().expect("an address"));
    drop(nobody);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = finish(&mut loadtest("browse", &url, dir.path()));

    assert_eq!(output.status.code(), Some(3));
    assert!(
        stderr(&output).contains("cargo xtask up"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_folder_that_holds_a_run_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join(LEDGER_FILE), "").expect("a ledger");
    let output = finish(&mut loadtest("browse", "http://127.0.0.1:9", dir.path()));

    assert_eq!(output.status.code(), Some(3));
    assert!(
        stderr(&output).contains("choose a new --out-dir"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn wrong_usage_is_told_apart() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output =
        finish(loadtest("browse", "http://127.0.0.1:9", dir.path()).args(["--users", "0"]));

    assert_eq!(output.status.code(), Some(2));
}

fn loadtest(scenario: &str, url: &str, out_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command
        .args([
            scenario,
            "--base-url",
            url,
            "--users",
            "5",
            "--seed",
            "7",
            "--out-dir",
        ])
        .arg(out_dir);
    command
}

fn start(command: &mut Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("loadtest starts")
}

fn finish(command: &mut Command) -> Output {
    output_of(start(command))
}

fn output_of(mut child: Child) -> Output {
    wait_until("loadtest ends", || {
        child.try_wait().expect("a state").is_some()
    });
    child.wait_with_output().expect("its output")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "waited too long until {what}");
        pause(Duration::from_millis(10));
    }
}

fn summary(dir: &Path) -> RunSummary {
    let json = fs::read(dir.join(SUMMARY_FILE)).expect("a summary");
    serde_json::from_slice(&json).expect("as load-record describes it")
}

fn ledger(dir: &Path) -> Vec<LedgerEntry> {
    let lines = fs::read_to_string(dir.join(LEDGER_FILE)).expect("a ledger");
    lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("an entry"))
        .collect()
}

/// How often each route gave each answer.
type Counts = BTreeMap<(String, Option<u16>), u64>;

fn counted(summary: &RunSummary) -> Counts {
    summary
        .requests
        .iter()
        .map(|r| ((format!("{} {}", r.method, r.route), r.status), r.count))
        .collect()
}

/// How the shop behaves.
#[derive(Clone, Copy, PartialEq)]
enum Weather {
    Good,
    EveryFifthOrderFails,
    HangsUpOnStock,
}

/// A gateway and all services behind it, as far as loadtest can tell.
struct Shop {
    address: SocketAddr,
    books: Arc<Books>,
}

/// What the shop did.
#[derive(Default)]
struct Books {
    counts: Mutex<Counts>,
    /// The product of each accepted order.
    orders: Mutex<BTreeMap<String, i64>>,
    orders_tried: AtomicU64,
}

struct Request {
    method: String,
    path: String,
    query: String,
    token: String,
    body: Value,
}

impl Shop {
    fn open(weather: Weather) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let books = Arc::new(Books::default());
        let shared = Arc::clone(&books);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let books = Arc::clone(&shared);
                thread::spawn(move || serve(stream, weather, &books));
            }
        });
        Self { address, books }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn counted(&self) -> Counts {
        self.books.counts.lock().expect("no panic").clone()
    }

    fn accepted(&self) -> Vec<String> {
        self.books
            .orders
            .lock()
            .expect("no panic")
            .keys()
            .cloned()
            .collect()
    }
}

/// Serves one connection, request after request, until either side closes it.
fn serve(mut stream: TcpStream, weather: Weather, books: &Books) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    while let Some(request) = read_request(&mut reader) {
        let (route, status, body) = answer(&request, weather, books);
        let counted = (format!("{} {route}", request.method), status);
        *books
            .counts
            .lock()
            .expect("no panic")
            .entry(counted)
            .or_default() += 1;
        let Some(status) = status else { return };
        // Slow enough that requests are under way whenever a run ends.
        pause(Duration::from_millis(5));
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status} -\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if stream
            .write_all(format!("{head}{body}").as_bytes())
            .is_err()
        {
            return;
        }
    }
}

/// The route's template, the status (`None` hangs up) and the body. A user's token is its id.
fn answer(
    request: &Request,
    weather: Weather,
    books: &Books,
) -> (&'static str, Option<u16>, Value) {
    let segments: Vec<_> = request.path.split('/').skip(1).collect();
    match (request.method.as_str(), segments.as_slice()) {
        ("POST", ["auth", "signup"]) => {
            let (name, email) = (&request.body["name"], &request.body["email"]);
            (
                "/auth/signup",
                Some(201),
                json!({ "id": email, "name": name, "email": email }),
            )
        }
        ("POST", ["auth", "login"]) => {
            let token = &request.body["email"];
            let body = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3600 });
            ("/auth/login", Some(200), body)
        }
        ("GET", ["users", ""]) => ("/users/", Some(200), json!({ "items": [], "next": null })),
        ("GET", ["users", "me"]) => ("/users/me", Some(200), json!({ "id": request.token })),
        ("POST", ["users", id, "purchases"]) => {
            let status = if *id == request.token { 201 } else { 403 };
            ("/users/{id}/purchases", Some(status), json!({}))
        }
        ("POST", ["orders", ""]) => {
            let number = books.orders_tried.fetch_add(1, Ordering::Relaxed);
            if weather == Weather::EveryFifthOrderFails && number % 5 == 4 {
                let problem = json!({ "type": "urn:agora:problem:unavailable", "status": 503 });
                return ("/orders/", Some(503), problem);
            }
            let product = request
                .query
                .strip_prefix("product_id=")
                .and_then(|rest| rest.strip_suffix("&quantity=1"));
            let product = product
                .and_then(|id| id.parse().ok())
                .expect("a product and one piece");
            let order_id = format!("order-{number}");
            books
                .orders
                .lock()
                .expect("no panic")
                .insert(order_id.clone(), product);
            (
                "/orders/",
                Some(202),
                json!({ "order_id": order_id, "status": "placed" }),
            )
        }
        ("GET", ["orders", id]) => {
            let product_id = books.orders.lock().expect("no panic")[*id];
            let body = json!({ "order_id": id, "product_id": product_id, "quantity": 1 });
            ("/orders/{id}", Some(200), body)
        }
        ("GET", ["inventory", id]) => {
            let status = (weather != Weather::HangsUpOnStock).then_some(200);
            let product_id: i64 = id.parse().expect("a product");
            let body = json!({ "product_id": product_id, "available": 1, "reserved": 0 });
            ("/inventory/{product_id}", status, body)
        }
        other => panic!("no such route: {other:?}"),
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let request_line = read_line(reader)?;
    let mut words = request_line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));

    let (mut token, mut content_length) = (String::new(), 0);
    loop {
        let line = read_line(reader)?;
        match line.split_once(": ") {
            None => break,
            Some(("authorization", value)) => {
                token = value.trim_start_matches("Bearer ").to_owned()
            }
            Some(("content-length", value)) => content_length = value.parse().expect("a length"),
            Some(_) => {}
        }
    }
    let mut body = vec![0; content_length];
    reader.read_exact(&mut body).ok()?;
    let body = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&body).expect("JSON")
    };
    Some(Request {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        token,
        body,
    })
}

/// A line without its end; `None` where the connection ended.
fn read_line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    match reader.read_line(&mut line) {
        Ok(length) if length > 0 => Some(line.trim_end().to_owned()),
        _ => None,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the shop's service time, and the interval of a bounded wait"
)]
fn pause(duration: Duration) {
    thread::sleep(duration);
}
