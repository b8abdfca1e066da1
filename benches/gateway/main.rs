//! The throughput of the whole system relative to its gateway's, and the cost of the gateway's auth hop.
//!
//! `cargo xtask bench --only gateway` runs it. A protected GET goes through six gateways in turn: the same image and files,
//! with and without the auth hop, in front of user-service and of trivial-service, which does no work; and with the hop
//! once more, limited to a fixed part of a processor (`compose.bench.yaml`). The GET is `/users/me`: one row by its
//! primary key, the minimum of a protected route of agora. A closed model: a number of connections, each with one request
//! at a time, from one thread. Fails when the throughput ratio is below [`REQUIRED_RATIO`], and when an answer is not the account.
//!
//! `AGORA_BENCH_ROUNDS` (5), `AGORA_BENCH_SECONDS` (6) per arm, and `AGORA_BENCH_CONNECTIONS` (32) change the size of a
//! run. Left out: other machines. Client, gateway, services and database share this machine's processors, so an unlimited
//! gateway doesn't get the time that a service needs: these arms show the cost of the whole, and the limited ones whether
//! anything but the gateway limits the throughput.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on panics")]

#[macro_use]
extern crate terminal;

mod client;

use std::process::ExitCode;
use std::time::Duration;

use benches::usage::Usage;
use client::{Load, TestUser};
use trivial_service::{ACCOUNT, ARMS, Arm, Comparison, REQUIRED_RATIO, Run};

/// The warm-up: connections are opened, and caches filled.
const WARM_UP: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // `cargo test --benches` also runs benchmarks, to check that they work.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("a measurement: `cargo xtask bench --only gateway`");
        return ExitCode::SUCCESS;
    }
    let size = |variable, default| {
        std::env::var(variable).map_or(default, |value| value.parse().expect(variable))
    };
    let (rounds, seconds, connections) = (
        size("AGORA_BENCH_ROUNDS", 5),
        size("AGORA_BENCH_SECONDS", 6),
        size("AGORA_BENCH_CONNECTIONS", 32),
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (comparison, objections) = runtime.block_on(measure(
        rounds,
        Duration::from_secs(seconds as u64),
        connections,
    ));
    println!("\n{}", comparison.describe());
    for objection in &objections {
        eprintln!("the measurements are invalid: {objection}");
    }
    if !comparison.holds() {
        eprintln!("the throughput ratio is below {REQUIRED_RATIO}");
    }
    if comparison.holds() && objections.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// All rounds, and why the measurements are invalid, if they are.
async fn measure(
    rounds: usize,
    duration: Duration,
    connections: usize,
) -> (Comparison, Vec<String>) {
    let addresses = Arm::ALL.map(|arm| (arm, address(arm)));
    let user = TestUser::sign_up(&addresses[Arm::Real as usize].1).await;
    let loads = addresses.map(|(arm, address)| Load {
        request: user.request(arm),
        answer_bytes: ACCOUNT.len(),
        address,
        connections,
    });
    let (mut measured, mut objections) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        let mut turns = Arm::ALL;
        // So that no arm is always the first, on an idle machine.
        turns.rotate_left((round - 1) % Arm::ALL.len());
        let mut runs = [None; ARMS];
        for arm in turns {
            let load = &loads[arm as usize];
            load.run(WARM_UP).await;
            let usage = Usage::now();
            let tally = load.run(duration).await;
            let (used, name) = (usage.until_now(), arm.name());
            let run = tally.measurements(duration);
            println!("  {name}: {:.0}/s; processor: {used}", run.per_second);
            if let Some(unexpected) = tally.unexpected {
                objections.push(format!("round {round}, {name}: {unexpected}"));
            }
            runs[arm as usize] = Some(run);
        }
        measured.push(runs.map(Option::unwrap));
    }
    let measured: Vec<[Run; ARMS]> = measured;
    (Comparison::of(measured).expect("a round"), objections)
}

/// The address of an arm's gateway: `HOST:PORT`.
fn address(arm: Arm) -> String {
    let variable = match arm {
        Arm::Real => "AGORA_TEST_REAL_GATEWAY_URL",
        Arm::Trivial => "AGORA_TEST_TRIVIAL_GATEWAY_URL",
        Arm::RealOpen => "AGORA_TEST_OPEN_GATEWAY_URL",
        Arm::TrivialOpen => "AGORA_TEST_TRIVIAL_OPEN_GATEWAY_URL",
        Arm::RealBounded => "AGORA_TEST_BOUNDED_GATEWAY_URL",
        Arm::TrivialBounded => "AGORA_TEST_TRIVIAL_BOUNDED_GATEWAY_URL",
    };
    let url = std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run `cargo xtask bench --only gateway`")
    });
    url.trim_start_matches("http://").to_owned()
}
