//! The rate at which orders are decided, compared with the bare broker and database; the time that each stage takes; and
//! the cost of telemetry.
//!
//! `cargo bench -p saga-tests --bench throughput`, with the `AGORA_TEST_…` variables set; `-- --only PART` runs one part:
//! `whole`, `ceilings`, `stages`, `scaling` or `telemetry`. `AGORA_BENCH_ORDERS` and `AGORA_BENCH_ROUNDS` change the size
//! of a run, `AGORA_BENCH_CONNECTIONS` the number of concurrent requests in the part `telemetry`;
//! `AGORA_BENCH_SERVICES` sets variables of the services, to compare settings:
//! `AMQP_CONCURRENCY=16 OUTBOX_BATCH_SIZE=50`.
//!
//! Every measurement is the median of several interleaved rounds, with the lowest and the highest beside it: other load on
//! the machine affects all of them alike. Left out: the gateway, and latencies; `cargo xtask load` measures what a client
//! sees.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on panics")]

#[macro_use]
extern crate terminal;

mod ceilings;
mod client;
mod host;
mod telemetry;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use saga_tests::{Cable, Replica, Shop};
use sqlx::{AssertSqlSafe, PgPool};

use crate::telemetry::Telemetry;
use benches::usage::Usage;

/// Connections of the client, each with one request at a time.
const CONNECTIONS: usize = 32;
/// Likewise for the cost of telemetry: with more connections the services at times end spans faster than the store accepts
/// them, and dropped spans cost nothing.
const TELEMETRY_CONNECTIONS: usize = 4;
/// Warm-up orders.
const WARM_UP: usize = 300;
/// The pool of each service and of the bare database; the default size.
const POOL: u32 = 10;
/// The deadline of a measurement.
const PATIENCE: Duration = Duration::from_secs(300);

/// Orders (or messages) per second, by measurement, in the order of the table.
#[derive(Default)]
struct Measurements(Vec<(String, Vec<f64>)>);

impl Measurements {
    fn add(&mut self, what: &str, per_second: f64) {
        println!("  {what}: {per_second:.0}/s");
        match self.0.iter_mut().find(|(name, _)| name == what) {
            Some((_, measurements)) => measurements.push(per_second),
            None => self.0.push((what.to_owned(), vec![per_second])),
        }
    }

    fn median(&self, what: &str) -> f64 {
        let measurements = self.0.iter().find(|(name, _)| name == what);
        median(&measurements.unwrap().1)
    }

    fn print(&self) {
        if self.0.is_empty() {
            return;
        }
        println!(
            "\n{:<58} {:>8} {:>8} {:>8}",
            "per second", "median", "lowest", "highest"
        );
        for (what, measurements) in &self.0 {
            let lowest = measurements.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = measurements.iter().copied().fold(0.0, f64::max);
            println!(
                "{what:<58} {:>8.0} {lowest:>8.0} {highest:>8.0}",
                median(measurements)
            );
        }
    }
}

fn median(measurements: &[f64]) -> f64 {
    let mut sorted = measurements.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

const WHOLE: &str = "orders placed to confirmed, all patterns on";
const BROKER: &str = "ceiling broker: 2 messages an order, bare";
const DATABASE: &str = "ceiling database: 2 transactions an order, bare";

/// The parts that `--only` selects.
const PARTS: [&str; 5] = ["whole", "ceilings", "stages", "scaling", "telemetry"];

/// The part given with `--only`; `None` for all.
fn only() -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--only");
    arguments.next()?;
    let part = arguments.next().unwrap_or_default();
    assert!(
        PARTS.contains(&&*part),
        "--only {part:?}: expected one of {PARTS:?}"
    );
    Some(part)
}

fn main() -> ExitCode {
    // `cargo test --benches` also runs benchmarks, to check that they work.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("a measurement: `cargo bench -p saga-tests --bench throughput`");
        return ExitCode::SUCCESS;
    }
    let size = |variable, default| {
        std::env::var(variable).map_or(default, |value| value.parse().expect(variable))
    };
    let (orders, rounds) = (
        size("AGORA_BENCH_ORDERS", 4_000),
        size("AGORA_BENCH_ROUNDS", 3),
    );
    let only = only();
    let wanted = |part| only.as_deref().is_none_or(|only| only == part);
    let mut telemetry = None;
    if wanted("telemetry") {
        telemetry = Telemetry::from_env(size("AGORA_BENCH_CONNECTIONS", TELEMETRY_CONNECTIONS));
        // Before the minutes that the other parts take.
        let missing = format!(
            "{}, the trace store's OTLP address, is not set: `cargo xtask bench` sets it where this machine \
             reaches containers at their own addresses",
            telemetry::STORE
        );
        assert!(telemetry.is_some() || only.is_none(), "{missing}");
        if telemetry.is_none() {
            println!("left out, telemetry: {missing}");
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut measurements = Measurements::default();
        for round in 1..=rounds {
            println!("round {round} of {rounds}: {orders} orders");
            if wanted("whole") {
                measurements.add(WHOLE, whole(orders).await);
            }
            if wanted("ceilings") {
                measurements.add(BROKER, ceilings::broker(orders).await);
                measurements.add(DATABASE, ceilings::database(orders).await);
            }
            if wanted("stages") {
                stages(orders, &mut measurements).await;
            }
            if wanted("scaling") {
                for (replicas, transactions, batch) in
                    [(1, 1, 1), (2, 1, 1), (1, 4, 50), (2, 4, 50)]
                {
                    let rate = drained(orders, replicas, transactions, batch).await;
                    let what = format!(
                        "inventory: {replicas} replicas, {transactions} x {batch} messages"
                    );
                    measurements.add(&what, rate);
                }
            }
            if let Some(telemetry) = &mut telemetry {
                telemetry.round(round, orders).await;
            }
        }
        measurements.print();
        if only.is_none() {
            let ceiling = measurements
                .median(BROKER)
                .min(measurements.median(DATABASE));
            println!(
                "\nratio to the lower ceiling: {:.2}",
                measurements.median(WHOLE) / ceiling
            );
            // Each ceiling is measured alone on the machine; an order needs both.
            let both =
                1.0 / (1.0 / measurements.median(BROKER) + 1.0 / measurements.median(DATABASE));
            println!(
                "ratio to broker and database one after the other, {both:.0}/s: {:.2}",
                measurements.median(WHOLE) / both
            );
        }
    });
    if let Some(telemetry) = telemetry {
        return telemetry.conclude();
    }
    ExitCode::SUCCESS
}

/// The variables of every service: the pool, and those from the environment.
struct Variables(Vec<(String, String)>);

impl Variables {
    fn read() -> Self {
        let mut variables = vec![("DATABASE_MAX_CONNECTIONS".to_owned(), POOL.to_string())];
        let given = std::env::var("AGORA_BENCH_SERVICES").unwrap_or_default();
        variables.extend(given.split_whitespace().map(|pair| {
            let (name, value) = pair
                .split_once('=')
                .expect("AGORA_BENCH_SERVICES=NAME=VALUE …");
            (name.to_owned(), value.to_owned())
        }));
        Self(variables)
    }

    /// With more of them, which take precedence.
    fn and<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let ours = self.0.iter().map(|(name, value)| (&**name, &**value));
        ours.chain(more.iter().copied()).collect()
    }
}

/// End to end, from the first request to the last confirmed order.
async fn whole(orders: usize) -> f64 {
    let shop = Shop::open(saga_tests::binaries!()).await;
    let variables = Variables::read();
    let order_service = shop.order_service(&variables.and(&[])).await;
    let inventory_service = shop.inventory_service(&variables.and(&[])).await;
    let confirmed = "SELECT count(*) FROM orders WHERE status = 'confirmed'";
    client::place(order_service.addr, shop.user, CONNECTIONS, WARM_UP).await;
    reached(&shop.orders, confirmed, WARM_UP).await;

    let (usage, wal) = (Usage::now(), host::wal(&shop.orders).await);
    let started = Instant::now();
    client::place(order_service.addr, shop.user, CONNECTIONS, orders).await;
    let accepted = started.elapsed();
    reached(&shop.orders, confirmed, WARM_UP + orders).await;
    let took = started.elapsed();
    let used = usage.until_now();
    // Sessions report their statistics to the server at their end.
    order_service.stop().await;
    inventory_service.stop().await;
    let wal = host::wal(&shop.orders).await.since(wal);
    let all = (orders + WARM_UP) as f64;
    let commits = host::commits(&shop.orders).await + host::commits(&shop.inventory).await;
    println!(
        "  accepted at {:.0}/s; {:.1} commits and {:.2} WAL syncs an order; processor: {used}",
        orders as f64 / accepted.as_secs_f64(),
        commits as f64 / all,
        wal.syncs as f64 / all,
    );
    shop.close().await;
    orders as f64 / took.as_secs_f64()
}

/// Each stage alone, with the others idle.
async fn stages(orders: usize, measurements: &mut Measurements) {
    let shop = Shop::open(saga_tests::binaries!()).await;
    let variables = Variables::read();
    // Started once each, for tables and queues.
    shop.inventory_service(&[]).await.stop().await;
    let cable = Cable::to(shop.amqp_url()).await;
    let through = cable.url(shop.amqp_url());
    let order_service = shop
        .order_service(&variables.and(&[("AMQP_URL", &through)]))
        .await;
    client::place(order_service.addr, shop.user, CONNECTIONS, WARM_UP).await;
    cable.cut();
    let usage = Usage::now();
    let started = Instant::now();
    client::place(order_service.addr, shop.user, CONNECTIONS, orders).await;
    let rate = orders as f64 / started.elapsed().as_secs_f64();
    println!("  accepting: {}", usage.until_now());
    measurements.add("stage accepting: HTTP to commit, broker away", rate);
    // Its relay may still wait for the broker, which is not measured.
    drop(order_service);

    let all = orders + WARM_UP;
    let variables = variables.and(&[]);
    let published = "SELECT count(*) FROM outbox WHERE published_at IS NOT NULL";
    let usage = Usage::now();
    let (order_service, rate) = tokio::join!(
        shop.order_service(&variables),
        drain_rate(&shop.orders, published, all)
    );
    println!("  relay: {}", usage.until_now());
    measurements.add("stage relay: outbox to broker", rate);
    order_service.stop().await;

    let usage = Usage::now();
    let (inventory_service, rate) = tokio::join!(
        shop.inventory_service(&variables),
        drain_rate(&shop.inventory, "SELECT count(*) FROM inbox", all)
    );
    println!("  inventory: {}", usage.until_now());
    measurements.add(
        "stage inventory: order_events to stock, its relay beside",
        rate,
    );
    reached(&shop.inventory, published, all).await;
    inventory_service.stop().await;

    let usage = Usage::now();
    let confirmed = "SELECT count(*) FROM orders WHERE status = 'confirmed'";
    let (order_service, rate) = tokio::join!(
        shop.order_service(&variables),
        drain_rate(&shop.orders, confirmed, all)
    );
    println!("  outcome: {}", usage.until_now());
    measurements.add("stage outcome: inventory_events to confirmed", rate);
    order_service.stop().await;
    shop.close().await;
}

/// The rate at which replicas of inventory-service drain a queue that is full when they start, each with this many
/// concurrent transactions, and at most this many messages in each.
async fn drained(orders: usize, replicas: usize, transactions: usize, batch: usize) -> f64 {
    let shop = Shop::open(saga_tests::binaries!()).await;
    shop.inventory_service(&[]).await.stop().await;
    ceilings::fill(shop.amqp_url(), orders).await;
    let (variables, transactions, batch) = (
        Variables::read(),
        transactions.to_string(),
        batch.to_string(),
    );
    let variables = variables.and(&[
        ("AMQP_CONCURRENCY", &transactions),
        ("AMQP_BATCH_SIZE", &batch),
    ]);
    let usage = Usage::now();
    let starting = (0..replicas).map(|_| shop.inventory_service(&variables));
    let (running, rate): (Vec<Replica>, f64) = tokio::join!(
        join_all(starting),
        drain_rate(&shop.inventory, "SELECT count(*) FROM inbox", orders)
    );
    println!("  {}", usage.until_now());
    for replica in running {
        replica.stop().await;
    }
    shop.close().await;
    rate
}

/// Waits until a count is reached.
async fn reached(pool: &PgPool, sql: &'static str, count: usize) {
    let started = Instant::now();
    while (Shop::count(pool, sql).await as usize) < count {
        assert!(started.elapsed() < PATIENCE, "not {count}: {sql}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The rate at which a count grows to `all`, without its first fifth, while processes are still starting.
async fn drain_rate(pool: &PgPool, sql: &'static str, all: usize) -> f64 {
    let started = Instant::now();
    let mut first = None;
    loop {
        assert!(started.elapsed() < PATIENCE, "not {all}: {sql}");
        // The service may not have created its tables yet.
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(pool)
            .await
            .unwrap_or(0);
        let count = count as usize;
        let now = Instant::now();
        match first {
            None if count * 5 >= all => first = Some((now, count)),
            Some((then, before)) if count >= all => {
                return (all - before) as f64 / (now - then).as_secs_f64();
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
