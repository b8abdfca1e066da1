//! Runs the binary against a small shop in this process, which counts the requests.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use records::load::{
    CANCELLATIONS_FILE, CancellationEntry, LEDGER_FILE, LedgerEntry, LoadModel, REPORT_FILE,
    ROUTES_FILE, RouteSecond, RunSummary, SUMMARY_FILE, TIMELINE_FILE, TimelineSecond,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Much longer than any run here.
const DEADLINE: Duration = Duration::from_secs(60);

/// All but `greedy`, which the closed model doesn't have.
const SCENARIOS: [&str; 10] = [
    "browse",
    "checkout",
    "mixed",
    "login",
    "order",
    "change-of-mind",
    "purchase",
    "protected",
    "edge",
    "session",
];

/// The arguments that choose each model.
const CLOSED: &[&str] = &[];
const OPEN: &[&str] = &["--arrivals", "50"];
const WORKERS: &[&str] = &["--arrivals", "50", "--workers", "5"];

#[test]
fn every_request_of_a_closed_run_is_counted_exactly_once() {
    every_request_is_counted_exactly_once(CLOSED, true);
}

#[test]
fn every_request_of_an_open_run_is_counted_exactly_once() {
    every_request_is_counted_exactly_once(OPEN, false);
}

#[test]
fn every_request_of_a_run_of_workers_is_counted_exactly_once() {
    every_request_is_counted_exactly_once(WORKERS, false);
}

fn every_request_is_counted_exactly_once(model: &[&str], has_a_report: bool) {
    for scenario in SCENARIOS {
        let shop = Shop::open(Behaviour::Normal);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let output = finish(
            loadtest(scenario, &shop.url(), dir.path())
                .args(["--run-time", "1s"])
                .args(model),
        );

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
        let by_route: u64 = routes(dir.path()).iter().map(RouteSecond::sent).sum();
        assert_eq!(by_route, summary.measured as u64, "{scenario}");
        assert_eq!(dir.path().join(REPORT_FILE).is_file(), has_a_report);
    }
}

#[test]
fn a_greedy_users_requests_are_counted_separately() {
    let shop = Shop::open(Behaviour::Normal);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = ["--run-time", "2s"];
    finish(
        loadtest("greedy", &shop.url(), dir.path())
            .args(run)
            .args(OPEN),
    );
    let sent = |group| {
        let routes = routes(dir.path());
        let of_group = routes
            .iter()
            .filter(|second| second.group.as_deref() == Some(group));
        of_group.map(RouteSecond::sent).sum::<u64>()
    };
    assert_eq!((sent("greedy"), sent("others")), (80, 20));
}

#[test]
fn the_ledger_has_each_accepted_order() {
    let shop = Shop::open(Behaviour::Normal);
    let dir = tempfile::tempdir().expect("a temporary folder");
    finish(loadtest("checkout", &shop.url(), dir.path()).args(["--run-time", "1s"]));

    let summary = summary(dir.path());
    let ledger = ledger(dir.path());
    let accepted = accepted(&shop);
    assert_eq!(promised(&ledger), accepted);
    assert_eq!(summary.orders.accepted, accepted.len() as u64);
    assert_eq!(summary.orders.tried, ledger.len() as u64);

    let sent = ledger
        .iter()
        .map(|entry| entry.idempotency_key.clone().expect("a key"));
    let mut keys: Vec<_> = sent.collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), ledger.len(), "each order has a key of its own");
    assert_eq!(keys, shop.keys());
}

#[test]
fn the_ledger_has_the_trace_of_each_order_with_a_valid_header() {
    let shop = Shop::open(Behaviour::Normal);
    let dir = tempfile::tempdir().expect("a temporary folder");
    finish(loadtest("order", &shop.url(), dir.path()).args(["--run-time", "1s"]));

    let ledger = ledger(dir.path());
    assert!(ledger.len() > 10, "only {} orders", ledger.len());
    for entry in ledger {
        let order_id = entry.order_id.expect("every order is accepted");
        let (_, number) = order_id.split_once('-').expect("a numbered order");
        let number: u64 = number.parse().expect("a numbered order");
        let expected = match number % 4 {
            0 => (Some(format!("{:032x}", number + 1)), Some(true)),
            1 => (Some(format!("{:032x}", number + 1)), Some(false)),
            _ => (None, None),
        };
        assert_eq!(
            (entry.trace_id, entry.trace_sampled),
            expected,
            "{order_id}"
        );
    }
}

#[test]
fn without_idempotency_keys_none_is_sent() {
    let shop = Shop::open(Behaviour::Normal);
    let dir = tempfile::tempdir().expect("a temporary folder");
    finish(loadtest("order", &shop.url(), dir.path()).args([
        "--run-time",
        "1s",
        "--no-idempotency-keys",
    ]));

    assert!(!shop.accepted().is_empty());
    assert!(shop.keys().is_empty());
    let ledger = ledger(dir.path());
    assert_eq!(ledger.len(), shop.accepted().len());
    assert!(ledger.iter().all(|entry| entry.idempotency_key.is_none()));
}

#[test]
fn each_cancellation_is_recorded() {
    let shop = Shop::open(Behaviour::Normal);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = finish(
        loadtest("change-of-mind", &shop.url(), dir.path())
            .args(["--run-time", "2s"])
            .args(OPEN),
    );

    // The shop refuses some with 409, which is no failure.
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let mut on_record: Vec<_> = cancellations(dir.path())
        .into_iter()
        .map(|entry| (entry.order_id, entry.status.expect("an answer")))
        .collect();
    on_record.sort();
    assert_eq!(on_record, shop.cancellations());
    for status in [202, 409] {
        assert!(on_record.iter().any(|(_, s)| *s == status), "no {status}");
    }
    let product: BTreeMap<_, _> = ledger(dir.path())
        .into_iter()
        .filter_map(|entry| Some((entry.order_id?, entry.product_id)))
        .collect();
    assert!(product.values().any(|id| *id > 1_000_000));
    for (order_id, _) in &on_record {
        assert!((1..=98).contains(&product[order_id]), "{order_id}");
    }
}

#[test]
fn an_open_run_keeps_its_rate_through_a_stall_and_shows_it() {
    let shop = Shop::open(Behaviour::Stalls);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = finish(
        loadtest("order", &shop.url(), dir.path())
            .args(["--run-time", "3s"])
            .args(OPEN),
    );

    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let summary = summary(dir.path());
    assert!(matches!(summary.model, LoadModel::Open { .. }));
    assert_eq!((summary.measured, summary.not_sent), (150, 0));
    let ledger = ledger(dir.path());
    // 50 arrive per second, evenly; 35 of those in the stall wait for at least 300 ms.
    let stalled = slow(&ledger);
    assert!(stalled >= 25, "{stalled} of 150 stalled");
    let arrived = shop.received.orders_while_stalled.load(Ordering::Relaxed);
    assert!(arrived >= 25, "{arrived} arrived during the stall");
    assert!(summary.latency.p95_ms > 500.0, "{:?}", summary.latency);
    let worst = timeline(dir.path())
        .into_iter()
        .filter_map(|s| s.max_ms)
        .fold(0.0, f64::max);
    assert!(worst > 700.0, "{worst} ms in the worst second");
    for entry in &ledger {
        let answered_after = (entry.at - entry.intended_at).num_milliseconds();
        assert_eq!(u64::try_from(answered_after), Ok(entry.latency_ms));
    }
}

#[test]
fn a_closed_run_hides_the_same_stall() {
    let shop = Shop::open(Behaviour::Stalls);
    let dir = tempfile::tempdir().expect("a temporary folder");
    finish(loadtest("order", &shop.url(), dir.path()).args(["--run-time", "3s"]));

    // One for each of five users, among hundreds.
    let summary = summary(dir.path());
    let stalled = slow(&ledger(dir.path()));
    assert!((1..=15).contains(&stalled), "{stalled} stalled");
    assert!(summary.latency.p95_ms < 300.0, "{:?}", summary.latency);
}

#[test]
fn an_open_run_keeps_its_concurrency_limit_and_counts_unsent_arrivals() {
    let shop = Shop::open(Behaviour::Stalls);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = finish(loadtest("order", &shop.url(), dir.path()).args([
        "--run-time",
        "2s",
        "--arrivals",
        "100",
        "--max-in-flight",
        "3",
    ]));

    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let at_once = shop.received.most_at_once.load(Ordering::Relaxed);
    assert!(at_once <= 3, "{at_once} at once");
    let summary = summary(dir.path());
    assert_eq!(counted(&summary), shop.counted());
    assert_eq!(summary.measured as u64 + summary.not_sent, 200);
    // One second's arrivals except those that wait.
    assert!(summary.not_sent > 50, "{} not sent", summary.not_sent);
    assert_eq!(summary.failed, 0);
    assert_eq!(summary.thresholds[0].name, "max-error-rate");
    assert_eq!(
        summary.thresholds[0].actual,
        summary.not_sent as f64 / 200.0
    );
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("not sent"), "{stdout}");
}

#[test]
fn a_seed_reproduces_an_open_run() {
    let shop = Shop::open(Behaviour::Normal);
    let orders = || {
        let dir = tempfile::tempdir().expect("a temporary folder");
        finish(
            loadtest("order", &shop.url(), dir.path())
                .args(["--run-time", "1s"])
                .args(OPEN),
        );
        let mut ledger = ledger(dir.path());
        ledger.sort_by_key(|entry| entry.intended_at);
        let orders = ledger.into_iter().map(|e| (e.product_id, e.quantity));
        orders.collect::<Vec<_>>()
    };
    let first = orders();
    assert_eq!(first.len(), 50);
    assert_eq!(first, orders());
}

#[test]
fn the_timeline_has_every_second_and_sums_up_to_the_summary() {
    for model in [CLOSED, OPEN, &["--arrivals", "200", "--max-in-flight", "1"]] {
        let shop = Shop::open(Behaviour::EveryFifthOrderFails);
        let dir = tempfile::tempdir().expect("a temporary folder");
        finish(
            loadtest("checkout", &shop.url(), dir.path())
                .args(["--run-time", "2s", "--max-error-rate", "1"])
                .args(model),
        );

        let summary = summary(dir.path());
        let timeline = timeline(dir.path());
        let numbers: Vec<_> = timeline.iter().map(|s| s.second as usize).collect();
        assert_eq!(
            numbers,
            (0..timeline.len()).collect::<Vec<_>>(),
            "{model:?}"
        );
        assert!((2..=10).contains(&timeline.len()), "{model:?}");
        let sum = |of: fn(&TimelineSecond) -> u64| timeline.iter().map(of).sum::<u64>();
        assert_eq!(sum(|s| s.sent), summary.measured as u64, "{model:?}");
        assert_eq!(sum(|s| s.failed), summary.failed as u64, "{model:?}");
        assert_eq!(sum(|s| s.not_sent), summary.not_sent, "{model:?}");
        assert!(summary.failed > 0, "{model:?}");
        for second in &timeline {
            assert_eq!(second.succeeded + second.failed, second.sent, "{model:?}");
            assert_eq!(second.p99_ms.is_some(), second.sent > 0, "{model:?}");
        }
        let longest = timeline.iter().filter_map(|s| s.max_ms).fold(0.0, f64::max);
        assert_eq!(longest, summary.latency.max_ms, "{model:?}");
        let last = summary.measured_from + Duration::from_secs(timeline.len() as u64);
        assert!(ledger(dir.path()).iter().all(|entry| entry.at < last));
    }
}

#[test]
fn users_are_signed_up_once_a_busy_system_takes_them() {
    let shop = Shop::open(Behaviour::BusyAtFirst);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = finish(loadtest("checkout", &shop.url(), dir.path()).args(["--run-time", "1s"]));

    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let summary = summary(dir.path());
    // The refused ones are in the counts, as the system counted them too, and none of the run's own failed.
    assert_eq!(counted(&summary), shop.counted());
    assert_eq!(
        shop.counted()[&("POST /auth/signup".to_owned(), Some(503))],
        2
    );
    assert_eq!(summary.failed, 0);
}

#[test]
fn a_sign_up_that_may_have_been_stored_is_not_repeated() {
    let shop = Shop::open(Behaviour::LosesAnAnswer);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = finish(loadtest("checkout", &shop.url(), dir.path()).args(["--run-time", "1s"]));

    assert_ne!(output.status.code(), Some(0));
    let said = stderr(&output);
    assert!(said.contains("urn:agora:problem:unavailable"), "{said}");
    // It would say that the address is taken, and blame the run's id.
    let repeated = ("POST /auth/signup".to_owned(), Some(409));
    assert!(!shop.counted().contains_key(&repeated), "{said}");
    assert!(!said.contains("--run-id was used before"), "{said}");
}

#[test]
fn failures_are_counted_and_break_a_threshold() {
    let shop = Shop::open(Behaviour::EveryFifthOrderFails);
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
fn a_gateway_that_closes_connections_causes_requests_without_an_answer() {
    let shop = Shop::open(Behaviour::HangsUpOnStock);
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
    for model in [CLOSED, OPEN, WORKERS] {
        ends_early(model, |child| {
            signal("-INT", &child.id().to_string());
        });
    }
}

#[test]
fn a_run_ends_with_its_standard_input_as_interrupted() {
    for model in [CLOSED, OPEN, WORKERS] {
        ends_early(&[model, &["--while-stdin-open"]].concat(), |child| {
            drop(child.stdin.take());
        });
    }
}

#[test]
fn a_run_whose_parent_is_gone_before_it_begins_is_interrupted() {
    for model in [CLOSED, OPEN, WORKERS] {
        let shop = Shop::open(Behaviour::Normal);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let output = finish(
            loadtest("order", &shop.url(), dir.path())
                .args(["--run-time", "10m", "--while-stdin-open"])
                .args(model)
                .stdin(Stdio::null()),
        );
        assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    }
}

#[test]
fn a_run_continues_and_counts_when_its_output_has_no_reader() {
    let shop = Shop::open(Behaviour::Normal);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let no_reader = || {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        writer
    };
    let mut run = loadtest("browse", &shop.url(), dir.path());
    // In the closed model goose itself writes a line, and panics.
    run.args(["--run-time", "1s"])
        .args(OPEN)
        .env("JUNK", OsStr::from_bytes(b"\xff"))
        .stdout(no_reader())
        .stderr(no_reader());
    let output = output_of(run.spawn().expect("loadtest starts"));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(counted(&summary(dir.path())), shop.counted());
}

/// Starts a long run, ends it with `end`, and checks what it recorded.
fn ends_early(args: &[&str], end: impl FnOnce(&mut Child)) {
    let shop = Shop::open(Behaviour::Normal);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut child = start(
        loadtest("checkout", &shop.url(), dir.path())
            .args(["--run-time", "10m"])
            .args(args)
            .stdin(Stdio::piped()),
    );
    wait_until("orders arrive", || shop.accepted().len() > 20);
    end(&mut child);
    let output = output_of(child);

    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let summary = summary(dir.path());
    assert_eq!(counted(&summary), shop.counted());
    assert_eq!(summary.orders.accepted, shop.accepted().len() as u64);
    assert!(!timeline(dir.path()).is_empty());
}

#[test]
fn the_rate_limit_is_kept() {
    let shop = Shop::open(Behaviour::Normal);
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
fn where_one_address_refuses_connections_another_one_gets_them() {
    for model in [CLOSED, OPEN, WORKERS] {
        let shop = Shop::open(Behaviour::Normal);
        let other = shop.url().replace("http://", "--other-address=");
        let dir = tempfile::tempdir().expect("a temporary folder");
        // Nobody listens on port 1.
        let mut run = loadtest("order", "http://127.0.0.1:1", dir.path());
        let output = finish(run.arg(other).args(["--run-time", "1s"]).args(model));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let summary = summary(dir.path());
        assert_eq!(counted(&summary), shop.counted());
        assert!(summary.failed == 0 && summary.measured > 0);
    }
}

/// The number of arrivals is that of one worker, each order is there once, and no worker's measurements are missing.
#[test]
fn workers_together_make_one_run() {
    for (model, arrivals) in [(OPEN, Some(100)), (CLOSED, None)] {
        let shop = Shop::open(Behaviour::EveryFifthOrderFails);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let output = finish(
            loadtest("order", &shop.url(), dir.path())
                .args([
                    "--run-time",
                    "2s",
                    "--workers",
                    "5",
                    "--max-error-rate",
                    "1",
                ])
                .args(model),
        );
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let summary = summary(dir.path());
        assert_eq!(summary.workers, 5);
        assert_eq!(counted(&summary), shop.counted());
        let count = |route: &str| {
            let of_route = summary.requests.iter().filter(|it| it.route == route);
            of_route.map(|it| it.count).sum::<u64>()
        };
        assert_eq!(count("/auth/signup"), 5);
        let measured = summary.measured as u64;
        assert_eq!(count("/orders/"), measured);
        assert!(arrivals.is_none_or(|arrivals| arrivals == measured));
        assert!(summary.failed > 0);

        let ledger = ledger(dir.path());
        assert!(ledger.is_sorted_by_key(|entry| entry.at));
        assert_eq!(ledger.len() as u64, measured);
        assert_eq!(summary.orders.tried, measured);
        assert_eq!(promised(&ledger), accepted(&shop));

        let seconds: u64 = timeline(dir.path()).iter().map(|second| second.sent).sum();
        let by_route: u64 = routes(dir.path()).iter().map(RouteSecond::sent).sum();
        assert_eq!((seconds, by_route), (measured, measured));
    }
}

/// The others' sign-ups are counted, too.
#[test]
fn workers_that_had_sent_nothing_yet_are_part_of_an_interrupted_run() {
    let shop = Shop::open(Behaviour::Normal);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = start(loadtest("order", &shop.url(), dir.path()).args([
        "--run-time",
        "60s",
        "--workers",
        "5",
        "--arrivals",
        "5",
    ]));
    // The second is due 200 ms later.
    wait_until("the first order arrives", || !shop.accepted().is_empty());
    signal("-INT", &run.id().to_string());
    let output = output_of(run);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let summary = summary(dir.path());
    assert!(summary.measured < 5, "{}", summary.measured);
    assert_eq!(counted(&summary), shop.counted());
}

#[test]
fn a_run_is_incomplete_without_one_of_its_workers() {
    let shop = Shop::open(Behaviour::Normal);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = start(loadtest("order", &shop.url(), dir.path()).args([
        "--run-time",
        "60s",
        "--workers",
        "2",
    ]));
    let ledger = dir.path().join("worker-1").join(LEDGER_FILE);
    wait_until("worker 1 has answers", || {
        fs::read_to_string(&ledger).is_ok_and(|ledger| ledger.lines().count() > 10)
    });
    signal("-KILL", &workers_of(&run)[1]);
    let output = output_of(run);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("the run is incomplete"), "{said}");
    assert!(
        said.contains("worker 2/2 ended early (signal: 9 (SIGKILL))"),
        "{said}"
    );
    assert!(!dir.path().join(SUMMARY_FILE).exists());
    // The other one was asked to end, and got its answers.
    assert!(dir.path().join("worker-1").join(SUMMARY_FILE).is_file());
}

#[test]
fn workers_end_with_the_process_that_started_them() {
    let shop = Shop::open(Behaviour::Normal);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut run = start(loadtest("order", &shop.url(), dir.path()).args([
        "--run-time",
        "60s",
        "--workers",
        "2",
    ]));
    wait_until("the workers have begun", || {
        (1..=2).all(|worker| dir.path().join(format!("worker-{worker}/begun")).is_file())
    });
    let workers = workers_of(&run);
    run.kill().expect("it can be killed");
    run.wait().expect("it ends");
    wait_until("no worker is left", || {
        // One that nobody looks after any more may stay as a zombie.
        let is_alive = |pid: &String| {
            let status = fs::read_to_string(Path::new("/proc").join(pid).join("status"));
            status.is_ok_and(|status| !status.contains("\nState:\tZ"))
        };
        !workers.iter().any(is_alive)
    });
}

/// The process ids of a run's workers, by their parts.
fn workers_of(run: &Child) -> Vec<String> {
    let mut workers: Vec<(String, String)> = Vec::new();
    // Of any thread of the run.
    let threads = fs::read_dir(format!("/proc/{}/task", run.id())).expect("its threads");
    for thread in threads {
        let children = thread.expect("a thread").path().join("children");
        let children = fs::read_to_string(children).unwrap_or_default();
        for pid in children.split_whitespace() {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("a process");
            let share = line.split('\0').find(|arg| arg.starts_with("--share="));
            workers.push((share.expect("a worker").to_owned(), pid.to_owned()));
        }
    }
    workers.sort();
    workers.into_iter().map(|(_, pid)| pid).collect()
}

fn signal(signal: &str, pid: &str) {
    let sent = Command::new("kill").args([signal, pid]).status();
    assert!(sent.expect("`kill` runs").success());
}

#[test]
fn a_folder_with_a_run_is_refused() {
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
fn wrong_usage_has_its_own_exit_code() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output =
        finish(loadtest("browse", "http://127.0.0.1:9", dir.path()).args(["--users", "0"]));

    assert_eq!(output.status.code(), Some(2));
    // Names have addresses of their own.
    let mut run = loadtest("browse", "http://localhost:9", dir.path());
    let output = finish(run.arg("--other-address=127.0.0.1:9"));
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("--base-url"), "{said}");
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
    serde_json::from_slice(&json).expect("as records::load describes it")
}

fn ledger(dir: &Path) -> Vec<LedgerEntry> {
    json_lines(&dir.join(LEDGER_FILE))
}

fn cancellations(dir: &Path) -> Vec<CancellationEntry> {
    json_lines(&dir.join(CANCELLATIONS_FILE))
}

fn timeline(dir: &Path) -> Vec<TimelineSecond> {
    json_lines(&dir.join(TIMELINE_FILE))
}

fn routes(dir: &Path) -> Vec<RouteSecond> {
    json_lines(&dir.join(ROUTES_FILE))
}

fn json_lines<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let lines = fs::read_to_string(path).expect("a file of the run");
    lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("an entry"))
        .collect()
}

/// The orders of a ledger, by their ids.
fn promised(ledger: &[LedgerEntry]) -> Vec<String> {
    let mut ids: Vec<_> = ledger.iter().filter_map(|it| it.order_id.clone()).collect();
    ids.sort();
    ids
}

/// The orders that the shop took, likewise.
fn accepted(shop: &Shop) -> Vec<String> {
    let mut ids = shop.accepted();
    ids.sort();
    ids
}

/// Orders delayed by a stall, not by a busy machine.
fn slow(ledger: &[LedgerEntry]) -> usize {
    ledger.iter().filter(|entry| entry.latency_ms > 300).count()
}

/// The number of answers by route and status.
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
enum Behaviour {
    Normal,
    EveryFifthOrderFails,
    HangsUpOnStock,
    /// The first two sign-ups are refused.
    BusyAtFirst,
    /// The first account is stored, and the service loses its database before the answer.
    LosesAnAnswer,
    /// Orders of the second that begins half a second after the first one are answered at its end.
    Stalls,
}

/// When orders stall, relative to the first one.
const STALL: std::ops::Range<Duration> = Duration::from_millis(500)..Duration::from_millis(1500);

/// The gateway and the services, as loadtest sees them.
struct Shop {
    address: SocketAddr,
    received: Arc<Received>,
}

/// What the shop received and answered.
#[derive(Default)]
struct Received {
    counts: Mutex<Counts>,
    /// The product and the quantity of each accepted order.
    orders: Mutex<BTreeMap<String, (i64, u32)>>,
    orders_tried: AtomicU64,
    sign_ups_tried: AtomicU64,
    /// The address whose sign-up got no answer although it was stored.
    lost_sign_up: OnceLock<Value>,
    /// The keys of orders.
    keys: Mutex<Vec<String>>,
    /// The order and the answer of each cancellation.
    cancellations: Mutex<Vec<(String, u16)>>,
    first_order: OnceLock<Instant>,
    orders_while_stalled: AtomicU64,
    orders_at_once: AtomicU64,
    most_at_once: AtomicU64,
}

struct Request {
    method: String,
    path: String,
    query: String,
    token: String,
    idempotency_key: Option<String>,
    body: Value,
}

impl Shop {
    fn open(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let received = Arc::new(Received::default());
        let shared = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let received = Arc::clone(&shared);
                thread::spawn(move || serve(stream, behaviour, &received));
            }
        });
        Self { address, received }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn counted(&self) -> Counts {
        self.received.counts.lock().expect("no panic").clone()
    }

    fn accepted(&self) -> Vec<String> {
        self.received
            .orders
            .lock()
            .expect("no panic")
            .keys()
            .cloned()
            .collect()
    }

    fn keys(&self) -> Vec<String> {
        let mut keys = self.received.keys.lock().expect("no panic").clone();
        keys.sort();
        keys
    }

    fn cancellations(&self) -> Vec<(String, u16)> {
        let mut cancellations = self
            .received
            .cancellations
            .lock()
            .expect("no panic")
            .clone();
        cancellations.sort();
        cancellations
    }
}

impl Received {
    /// Returns when the shop can accept the order.
    fn wait_for_the_stall_to_end(&self) {
        let open_for = self.first_order.get_or_init(Instant::now).elapsed();
        if STALL.contains(&open_for) {
            self.orders_while_stalled.fetch_add(1, Ordering::Relaxed);
            pause(STALL.end - open_for);
        }
    }
}

/// Serves one connection, request after request, until either side closes it.
fn serve(mut stream: TcpStream, behaviour: Behaviour, received: &Received) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    while let Some(request) = read_request(&mut reader) {
        let (route, status, body) = answer(&request, behaviour, received);
        let counted = (format!("{} {route}", request.method), status);
        *received
            .counts
            .lock()
            .expect("no panic")
            .entry(counted)
            .or_default() += 1;
        let Some(status) = status else { return };
        // Slow enough that some requests are in flight when a run ends.
        pause(Duration::from_millis(5));
        let trace = traceresponse(&body);
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status} -\r\n{trace}content-length: {}\r\n\r\n",
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

/// The header lines with an order's trace: a sampled one, an unsampled one, a malformed one, two.
fn traceresponse(body: &Value) -> String {
    let order_id = body["order_id"].as_str().unwrap_or_default();
    let Some(Ok(number)) = order_id.strip_prefix("order-").map(str::parse::<u64>) else {
        return String::new();
    };
    let line = |flags: &str| {
        format!(
            "traceresponse: 00-{:032x}-00f067aa0ba902b7-{flags}\r\n",
            number + 1
        )
    };
    match number % 4 {
        0 => line("01"),
        1 => line("00"),
        2 => line("1"),
        _ => line("01").repeat(2),
    }
}

/// The route's template, the status (`None` closes the connection) and the body. A user's token is its id.
fn answer(
    request: &Request,
    behaviour: Behaviour,
    received: &Received,
) -> (&'static str, Option<u16>, Value) {
    let segments: Vec<_> = request.path.split('/').skip(1).collect();
    match (request.method.as_str(), segments.as_slice()) {
        ("POST", ["auth", "signup"]) => {
            let (name, email) = (&request.body["name"], &request.body["email"]);
            let number = received.sign_ups_tried.fetch_add(1, Ordering::Relaxed);
            if behaviour == Behaviour::BusyAtFirst && number < 2 {
                let problem = json!({ "type": "urn:agora:problem:overloaded", "status": 503 });
                return ("/auth/signup", Some(503), problem);
            }
            if behaviour == Behaviour::LosesAnAnswer {
                if number == 0 {
                    received.lost_sign_up.get_or_init(|| email.clone());
                    let problem = json!({ "type": "urn:agora:problem:unavailable", "status": 503 });
                    return ("/auth/signup", Some(503), problem);
                }
                if received.lost_sign_up.get() == Some(email) {
                    let problem = json!({ "type": "urn:agora:problem:email-taken", "status": 409 });
                    return ("/auth/signup", Some(409), problem);
                }
            }
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
            (
                "/users/{id}/purchases",
                Some(status),
                json!({ "stale": false }),
            )
        }
        ("POST", ["orders", ""]) => {
            let number = received.orders_tried.fetch_add(1, Ordering::Relaxed);
            let at_once = received.orders_at_once.fetch_add(1, Ordering::Relaxed) + 1;
            received.most_at_once.fetch_max(at_once, Ordering::Relaxed);
            if behaviour == Behaviour::Stalls {
                received.wait_for_the_stall_to_end();
            }
            received.orders_at_once.fetch_sub(1, Ordering::Relaxed);
            let key = request.idempotency_key.clone();
            received.keys.lock().expect("no panic").extend(key);
            if behaviour == Behaviour::EveryFifthOrderFails && number % 5 == 4 {
                let problem = json!({ "type": "urn:agora:problem:unavailable", "status": 503 });
                return ("/orders/", Some(503), problem);
            }
            let asked_for = request
                .query
                .strip_prefix("product_id=")
                .and_then(|rest| rest.split_once("&quantity="));
            let (product, quantity) = asked_for.expect("a product and a quantity");
            let order = (
                product.parse().expect("a product"),
                quantity.parse().expect("a quantity"),
            );
            let order_id = format!("order-{number}");
            received
                .orders
                .lock()
                .expect("no panic")
                .insert(order_id.clone(), order);
            (
                "/orders/",
                Some(202),
                json!({ "order_id": order_id, "status": "placed" }),
            )
        }
        ("POST", ["orders", id, "cancel"]) => {
            let (product_id, _) = received.orders.lock().expect("no panic")[*id];
            let sold_out = product_id % 3 == 0;
            let (status, body) = if sold_out {
                let problem = "urn:agora:problem:order-rejected";
                (409, json!({ "type": problem, "status": 409 }))
            } else {
                (202, json!({ "order_id": id, "status": "cancelling" }))
            };
            let cancellation = ((*id).to_owned(), status);
            let mut cancellations = received.cancellations.lock().expect("no panic");
            cancellations.push(cancellation);
            ("/orders/{id}/cancel", Some(status), body)
        }
        ("GET", ["orders", id]) => {
            let (product_id, quantity) = received.orders.lock().expect("no panic")[*id];
            let body = json!({ "order_id": id, "product_id": product_id, "quantity": quantity });
            ("/orders/{id}", Some(200), body)
        }
        ("GET", ["inventory", id]) => {
            let status = (behaviour != Behaviour::HangsUpOnStock).then_some(200);
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
    let mut idempotency_key = None;
    loop {
        let line = read_line(reader)?;
        match line.split_once(": ") {
            None => break,
            Some(("authorization", value)) => {
                token = value.trim_start_matches("Bearer ").to_owned()
            }
            Some(("idempotency-key", value)) => idempotency_key = Some(value.to_owned()),
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
        idempotency_key,
        body,
    })
}

/// A line without its end; `None` at the end of the connection.
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
