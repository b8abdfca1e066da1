//! The cost of traces: decided orders per second of the services' processor time, while none of the orders is traced,
//! every tenth, and all of them.
//!
//! The services honour the caller's decision, so these arms differ in one flag of each request and in nothing else. The
//! traces go to the system's own trace store. The processor time is that of order-service and inventory-service, user and
//! system, until the store has the last span. Left out: the cost of the gateway and the store (the store runs on the same
//! machine, which the orders per second show), and the cost that exists without traces as well: ids are generated and
//! propagated, because log lines carry them.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use saga_tests::{Replica, Sampling, Shop, Spans};
use testkit::series;

use crate::{PATIENCE, Variables, WARM_UP, client, median, reached};
use benches::usage::Usage;

/// The trace store's OTLP/gRPC endpoint.
pub(crate) const STORE: &str = "AGORA_TEST_OTLP_URL";
/// How often the services' span queues are polled.
const POLL: Duration = Duration::from_millis(100);
/// No span ends or is sent for this long: twice the time for which spans are collected before they are sent.
const QUIET: Duration = Duration::from_secs(1);

/// The part's measurements.
pub(crate) struct Telemetry {
    store: String,
    connections: usize,
    /// A round each: off, a tenth, full.
    rounds: Vec<[Run; 3]>,
    /// Why the measurements are invalid.
    objections: Vec<String>,
}

/// The result of one arm in one round.
#[derive(Clone, Copy)]
struct Run {
    per_cpu_second: f64,
    per_second: f64,
    spans_an_order: f64,
}

/// Sums over both services.
struct Reading {
    cpu_seconds: f64,
    spans: Spans,
}

impl Telemetry {
    /// Nothing measured yet; `None` without a trace store. The client will have this many concurrent requests.
    pub(crate) fn from_env(connections: usize) -> Option<Self> {
        Some(Self {
            store: std::env::var(STORE).ok()?,
            connections,
            rounds: Vec::new(),
            objections: Vec::new(),
        })
    }

    /// Runs each arm once; over three rounds, each is the first once.
    pub(crate) async fn round(&mut self, round: usize, orders: usize) {
        let mut turns = [0, 1, 2];
        turns.rotate_left((round - 1) % 3);
        let mut runs = [None; 3];
        for arm in turns {
            let sampling = Sampling::ALL[arm];
            let (run, spans) = self.measure(sampling, orders).await;
            println!(
                "  telemetry {}: {:.0} orders per CPU second, {:.0}/s; spans: {} sent, {} failed, {} dropped",
                sampling.name(),
                run.per_cpu_second,
                run.per_second,
                spans.sent,
                spans.failed,
                spans.dropped,
            );
            if let Some(objection) = sampling.objection(orders, spans) {
                let objection = format!("round {round}, {}: {objection}", sampling.name());
                println!("  {objection}");
                self.objections.push(objection);
            }
            runs[arm] = Some(run);
        }
        self.rounds.push(runs.map(Option::unwrap));
    }

    /// Runs orders end to end in a new shop: no arm inherits another's state.
    async fn measure(&self, sampling: Sampling, orders: usize) -> (Run, Spans) {
        let shop = Shop::open(saga_tests::binaries!()).await;
        let variables = Variables::read();
        let variables = variables.and(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &self.store)]);
        let order_service = shop.order_service(&variables).await;
        let inventory_service = shop.inventory_service(&variables).await;
        let services = [&order_service, &inventory_service];
        let place = async |orders| {
            let header = |number| format!("traceparent: {}\r\n", sampling.traceparent(number));
            let placing = client::place_traced(
                order_service.addr,
                shop.user,
                self.connections,
                orders,
                header,
            );
            tokio::time::timeout(PATIENCE, placing)
                .await
                .unwrap_or_else(|_| panic!("{orders} orders are not accepted within {PATIENCE:?}"));
        };
        let confirmed = "SELECT count(*) FROM orders WHERE status = 'confirmed'";
        place(WARM_UP).await;
        reached(&shop.orders, confirmed, WARM_UP).await;
        settled(services).await;

        let before = Reading::now(services).await;
        let (usage, started) = (Usage::now(), Instant::now());
        place(orders).await;
        reached(&shop.orders, confirmed, WARM_UP + orders).await;
        let took = started.elapsed();
        let used = usage.until_now();
        let after = settled(services).await;
        println!("  processor: {used}");

        order_service.stop().await;
        inventory_service.stop().await;
        shop.close().await;
        let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
        assert!(
            cpu_seconds > 0.0,
            "{orders} orders took less processor time than the system can measure: more of them are needed \
             (AGORA_BENCH_ORDERS)"
        );
        let spans = after.spans.since(before.spans);
        let run = Run {
            per_cpu_second: orders as f64 / cpu_seconds,
            per_second: orders as f64 / took.as_secs_f64(),
            spans_an_order: spans.sent as f64 / orders as f64,
        };
        (run, spans)
    }

    /// Prints the table; fails when an arm didn't do what its name states.
    pub(crate) fn conclude(&self) -> ExitCode {
        println!(
            "\n{:<16} {:>26} {:>24} {:>9} {:>12}",
            "traces", "orders per CPU second", "ratio to off", "spans", "orders"
        );
        println!(
            "{:<16} {:>26} {:>24} {:>9} {:>12}",
            "", "median (range)", "in the same round", "an order", "a second"
        );
        for (arm, sampling) in Sampling::ALL.into_iter().enumerate() {
            let of = |metric: fn(&Run) -> f64| -> Vec<f64> {
                self.rounds.iter().map(|runs| metric(&runs[arm])).collect()
            };
            // Other load on the machine affects both sides of such a ratio.
            let ratios: Vec<f64> = self
                .rounds
                .iter()
                .map(|runs| runs[arm].per_cpu_second / runs[0].per_cpu_second)
                .collect();
            println!(
                "{:<16} {:>26} {:>24} {:>9.2} {:>12.0}",
                sampling.name(),
                with_range(&of(|run| run.per_cpu_second), 0),
                with_range(&ratios, 3),
                median(&of(|run| run.spans_an_order)),
                median(&of(|run| run.per_second)),
            );
        }
        if self.objections.is_empty() {
            return ExitCode::SUCCESS;
        }
        eprintln!("\nthe measurements of telemetry are invalid:");
        for objection in &self.objections {
            eprintln!("- {objection}");
        }
        eprintln!(
            "next: where spans were lost, AGORA_BENCH_CONNECTIONS=2 asks for less at once; where their number is \
             wrong, `cargo xtask test -- -p order-service traces` shows whether a caller's decision is kept to"
        );
        ExitCode::FAILURE
    }
}

fn with_range(values: &[f64], decimals: usize) -> String {
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(0.0, f64::max);
    let median = median(values);
    format!("{median:.decimals$} ({lowest:.decimals$} to {highest:.decimals$})")
}

/// Waits until the services have no more spans. Returns the first reading for which that was so: the time for making sure
/// is not part of the measurement.
async fn settled(services: [&Replica; 2]) -> Reading {
    let started = Instant::now();
    let (mut last, mut since) = (Reading::now(services).await, Instant::now());
    while last.spans.queued > 0 || since.elapsed() < QUIET {
        assert!(
            started.elapsed() < testkit::PATIENCE,
            "after {:?} spans still end or wait, {:?}: is the trace store healthy?",
            testkit::PATIENCE,
            last.spans
        );
        tokio::time::sleep(POLL).await;
        let now = Reading::now(services).await;
        if now.spans != last.spans {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

impl Reading {
    async fn now(services: [&Replica; 2]) -> Self {
        let [one, other] = services;
        let (one, other) = tokio::join!(Self::of(one), Self::of(other));
        Self {
            cpu_seconds: one.cpu_seconds + other.cpu_seconds,
            spans: one.spans.and(other.spans),
        }
    }

    async fn of(service: &Replica) -> Self {
        let metrics = service.metrics().await;
        Self {
            cpu_seconds: series(&metrics, "process_cpu_seconds_total")
                .expect("/metrics has the processor time: on Linux, from /proc"),
            spans: Spans::read(&metrics).expect("/metrics has the span counts"),
        }
    }
}
