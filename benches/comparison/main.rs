//! One system of the comparison: what its gateway answers a second, and the processor time that the answers cost.
//!
//! `cargo xtask bench --only comparison` runs it for each system in each round, and reads the JSON that it prints. A closed
//! model: a number of connections, each with one request at a time, from one thread; the test users take turns. An order
//! costs until its stock is taken: both systems take it after they answered. Fails when more than one in a hundred answers
//! has another status than expected; those aren't counted.
//!
//! `AGORA_BENCH_SECONDS` (15) per measurement and `AGORA_BENCH_CONNECTIONS` (32) change the size of a run. Left out:
//! starting the systems, and the evaluation; the command does both.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on panics")]

#[macro_use]
extern crate terminal;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use benches::client::{Connection, PATIENCE, post};
use benches::usage::CpuSeconds;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const USERS: usize = 16;
/// The warm-up: connections are opened, and caches filled.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long accepted orders may take until their stock is taken.
const TAKEN_WITHIN: Duration = Duration::from_secs(180);
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How many answers with another status than expected invalidate a measurement.
const MOST_UNEXPECTED: f64 = 0.01;
const STOCK: &str = "GET /inventory/99";
const PASSWORD: &str = "correct horse";

fn main() -> ExitCode {
    // `cargo test --benches` also runs benchmarks, to check that they work.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("a measurement: `cargo xtask bench --only comparison`");
        return ExitCode::SUCCESS;
    }
    let variable = |name: &str| {
        std::env::var(name)
            .unwrap_or_else(|_| panic!("{name}: run `cargo xtask bench --only comparison`"))
    };
    let size =
        |name: &str, default| std::env::var(name).map_or(default, |size| size.parse().expect(name));
    let pids = variable("AGORA_TEST_SERVICE_PIDS");
    let system = System {
        gateway: variable("AGORA_TEST_GATEWAY"),
        pids: pids
            .split(',')
            .map(|pid| pid.parse().expect("a pid"))
            .collect(),
        connections: size("AGORA_BENCH_CONNECTIONS", 32),
        duration: Duration::from_secs(size("AGORA_BENCH_SECONDS", 15) as u64),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    match runtime.block_on(system.measure()) {
        Ok(measured) => {
            println!("{measured}");
            ExitCode::SUCCESS
        }
        Err(objection) => {
            eprintln!("the measurement is invalid: {objection}");
            ExitCode::FAILURE
        }
    }
}

struct System {
    /// `HOST:PORT`.
    gateway: String,
    /// The services' processes.
    pids: Vec<u32>,
    connections: usize,
    duration: Duration,
}

/// Answers by whether they had the expected status.
#[derive(Default)]
struct Tally {
    expected: usize,
    unexpected: usize,
    /// The first unexpected one.
    example: Option<String>,
}

impl System {
    async fn measure(&self) -> Result<Value, String> {
        let mut tokens = Vec::new();
        for number in 0..USERS {
            tokens.push(self.log_in(number).await);
        }
        // Orders come last: whatever they leave to do disturbs no other measurement.
        let reads = self.answers(STOCK, 200, &tokens).await?;
        let users = self.answers("GET /users/", 200, &tokens).await?;
        let orders = self
            .answers("POST /orders/?product_id=99", 202, &tokens)
            .await?;
        Ok(json!({ "reads": reads, "orders": orders, "users": users }))
    }

    /// The token of a test user, who may be there from an earlier round.
    async fn log_in(&self, number: usize) -> String {
        let email = format!("comparison-{number:02}@agora.example");
        let account = json!({ "name": "Ada", "email": email, "password": PASSWORD }).to_string();
        let mut connection = Connection::open(&self.gateway).await;
        let length = format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            account.len()
        );
        let sign_up = request("POST /auth/signup", &length) + &account;
        let (status, _) = connection.ask(&sign_up).await;
        assert!(is(&status, 201) || is(&status, 409), "signing up: {status}");
        let credentials = json!({ "email": email, "password": PASSWORD });
        let answer = post(&self.gateway, "/auth/login", &credentials).await;
        answer["access_token"].as_str().expect("a token").to_owned()
    }

    /// Keeps all connections busy with this request.
    async fn answers(&self, route: &str, status: u16, tokens: &[String]) -> Result<Value, String> {
        let requests: Vec<String> = tokens
            .iter()
            .map(|token| {
                request(
                    route,
                    &format!("Authorization: Bearer {token}\r\nContent-Length: 0\r\n"),
                )
            })
            .collect();
        let is_order = route.starts_with("POST");
        let warm_up = self.load(&requests, status, WARM_UP).await;
        if is_order {
            // The warm-up's orders are counted from the stock that is there when all are done.
            self.settled(&tokens[0]).await;
        }
        let stock = self.stock(&tokens[0]).await;
        let before =
            CpuSeconds::now(&self.pids).ok_or("the services' processes aren't on this machine")?;
        let tally = self.load(&requests, status, self.duration).await;
        if is_order {
            self.taken(&tokens[0], stock - tally.expected as i64)
                .await?;
        }
        let used = CpuSeconds::now(&self.pids)
            .ok_or("a service ended")?
            .since(before);
        let answers = tally.expected + tally.unexpected;
        if tally.unexpected as f64 > MOST_UNEXPECTED * answers as f64 {
            let example = tally.example.or(warm_up.example).unwrap_or_default();
            return Err(format!(
                "{route}: {} of {answers} answers are like `{example}`",
                tally.unexpected
            ));
        }
        Ok(json!({
            "answers": tally.expected,
            "seconds": self.duration.as_secs_f64(),
            "services_cpu_seconds": used.processes,
            "machine_cpu_seconds": used.machine,
        }))
    }

    async fn load(&self, requests: &[String], status: u16, duration: Duration) -> Tally {
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(Connection::open(&self.gateway).await);
        }
        let until = Instant::now() + duration;
        let mut tasks = JoinSet::new();
        for (connection, request) in connections.into_iter().zip(requests.iter().cycle()) {
            tasks.spawn(in_sequence(connection, request.clone(), status, until));
        }
        let mut all = Tally::default();
        for tally in tasks.join_all().await {
            all.expected += tally.expected;
            all.unexpected += tally.unexpected;
            all.example = all.example.or(tally.example);
        }
        all
    }

    /// The pieces of the ordered product that are left.
    async fn stock(&self, token: &str) -> i64 {
        let mut connection = Connection::open(&self.gateway).await;
        let request = request(STOCK, &format!("Authorization: Bearer {token}\r\n"));
        let (status, body) = connection.ask(&request).await;
        assert!(is(&status, 200), "{STOCK}: {status}");
        let stock: Value = serde_json::from_slice(body).expect("JSON");
        stock["available"].as_i64().expect("a number")
    }

    /// Waits until the stock has been the same for a while.
    async fn settled(&self, token: &str) {
        let (mut last, mut since) = (self.stock(token).await, Instant::now());
        while since.elapsed() < WARM_UP {
            sleep(LOOK_INTERVAL).await;
            let now = self.stock(token).await;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }

    /// Waits until no more than this is left.
    async fn taken(&self, token: &str, left: i64) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let stock = self.stock(token).await;
            if stock <= left {
                return Ok(());
            }
            if began.elapsed() > TAKEN_WITHIN {
                return Err(format!(
                    "{} orders took no stock within {TAKEN_WITHIN:?}",
                    stock - left
                ));
            }
            sleep(LOOK_INTERVAL).await;
        }
    }
}

async fn in_sequence(
    mut connection: Connection,
    request: String,
    status: u16,
    until: Instant,
) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < until {
        let (line, body) = timeout(PATIENCE, connection.ask(&request))
            .await
            .unwrap_or_else(|_| panic!("no answer within {PATIENCE:?}"));
        if is(&line, status) {
            tally.expected += 1;
        } else {
            tally.unexpected += 1;
            let body = String::from_utf8_lossy(body);
            tally
                .example
                .get_or_insert_with(|| format!("{} {body}", line.trim_end()));
        }
    }
    tally
}

fn request(route: &str, headers: &str) -> String {
    format!("{route} HTTP/1.1\r\nHost: agora\r\n{headers}\r\n")
}

/// Whether a status line has this status.
fn is(line: &str, status: u16) -> bool {
    line.split(' ').nth(1) == Some(status.to_string().as_str())
}
