//! `bench --only comparison`: agora beside the Python shop that it began as, on the same third-party images.
//!
//! One system runs at a time. Each round starts each of them once, in an order that the next round reverses, and has
//! `benches/comparison` send load to it. Left out: the load; and a requirement: the table is for people to judge.

use std::{env, fmt, time::Duration};

use anyhow::Context;
use base::{
    outcome::{self, Exit},
    progress::{Progress, spell},
};
use evaluation::statistics::Spread;
use serde::{Deserialize, Serialize};
use system::{
    Part, binaries, control, engine_setup, files,
    members::{self, Member},
    project::Project,
    python_shop::{Gateway, PythonShop},
    take_down::{is_anything_there, take_down},
    wait,
};

use crate::{
    commands::{
        test,
        up::{self, Consent},
    },
    confirm,
    output::{progress, table},
};

const ROUNDS: usize = 3;
const BENCH: [&str; 6] = [
    "bench",
    "--locked",
    "--package",
    "benches",
    "--bench",
    "comparison",
];
const BUILT_WITHIN: Duration = Duration::from_secs(30 * 60);
/// Three measurements, each with its warm-up, and the last one's orders.
const MEASURED_WITHIN: Duration = Duration::from_secs(20 * 60);
/// How long healthy services may take to become idle: before memory is read and load is sent.
const IDLE_WITHIN: Duration = Duration::from_secs(90);
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// What an idle service may use, in percent of a core: its health checks run inside its container.
const IDLE_PERCENT: f64 = 5.0;
/// The gateway's port of either system.
const GATEWAY_PORT: u16 = 8080;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Plain,
    AgorasGateway,
    Agora,
}

impl Side {
    const ALL: [Self; 3] = [Self::Plain, Self::AgorasGateway, Self::Agora];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "original, plain gateway",
            Self::AgorasGateway => "original, agora's gateway files",
            Self::Agora => "agora, everything on",
        }
    }

    /// `None` where agora runs.
    fn gateway_of_the_shop(self) -> Option<Gateway> {
        match self {
            Self::Plain => Some(Gateway::Plain),
            Self::AgorasGateway => Some(Gateway::Agoras),
            Self::Agora => None,
        }
    }
}

/// One side's measurements in one round.
#[derive(Debug, Clone, Copy, Serialize)]
struct Run {
    #[serde(flatten)]
    loads: Loads,
    /// Of the four services, at rest before the load.
    idle_memory_mib: f64,
}

/// What `benches/comparison` prints.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Loads {
    reads: Load,
    orders: Load,
    users: Load,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Load {
    answers: f64,
    seconds: f64,
    services_cpu_seconds: f64,
    machine_cpu_seconds: f64,
}

/// Each side's run, by [`Side::ALL`].
type Round = [Run; 3];

/// Runs the command.
pub(super) fn run(project: &Project, consent: Consent) -> anyhow::Result<Exit> {
    let rounds = rounds()?;
    let progress = progress();
    engine_setup::provide(project, || confirm::install(consent.yes), &progress)?;
    let agora = project.for_tests();
    let systems = [&agora, &agora.python_shop()];
    for system in systems {
        if is_anything_there(system)? {
            progress.step("removing an earlier system", |_| take_down(system, true))?;
        }
    }
    let measured = measure(&agora, rounds, &progress);
    // Whatever happened, Ctrl-C included.
    let removed = progress.step("removing both systems", |_| {
        let [one, other] = systems.map(|system| take_down(system, true));
        one.and(other)
    });
    let measured = measured?;
    removed?;
    let file = project.outputs().join("bench/comparison.json");
    files::replace(&file, &serde_json::to_vec_pretty(&measured)?)
        .with_context(|| format!("failed to write {}", file.display()))?;
    println!("{}", show(&measured));
    println!("each round: {}", file.display());
    Ok(Exit::Holds)
}

fn rounds() -> anyhow::Result<usize> {
    let Ok(text) = env::var("AGORA_BENCH_ROUNDS") else {
        return Ok(ROUNDS);
    };
    let rounds = text.parse().ok().filter(|rounds| *rounds > 0);
    rounds.ok_or_else(|| {
        outcome::usage(
            format!("AGORA_BENCH_ROUNDS: `{text}` is no number of rounds"),
            "expected a number from 1",
        )
    })
}

fn measure(agora: &Project, rounds: usize, progress: &Progress) -> anyhow::Result<Vec<Round>> {
    // Compiling beside a measurement would disturb it.
    progress.step("load generator", |step| {
        binaries::cargo(agora)
            .args(BENCH)
            .args(["--no-run"])
            .limit(BUILT_WITHIN)
            .logged(&agora.log("cargo-bench"), |line| step.update(line))
    })?;
    test::prepare_env_file(agora)?;
    // For its images, which the Python shop shares.
    up::Options::default().bring_up(agora, progress)?;
    take_down(agora, false)?;
    let shop = progress.step("the Python shop's image", |step| {
        PythonShop::provide(agora, step)
    })?;
    let mut measured = Vec::new();
    for round in 1..=rounds {
        let mut runs = [None; 3];
        for index in order(round) {
            let side = Side::ALL[index];
            let name = format!("round {round} of {rounds}: {}", side.name());
            let (system, members) = match side.gateway_of_the_shop() {
                None => (
                    agora.clone(),
                    up::Options::default().bring_up(agora, progress)?,
                ),
                Some(gateway) => (
                    agora.python_shop(),
                    progress.step("the Python shop", |step| shop.start(gateway, step))?,
                ),
            };
            let run = progress.step(&name, |step| {
                let run = send_load(agora, &members)?;
                step.result(run.to_string());
                anyhow::Ok(run)
            })?;
            take_down(&system, false)?;
            runs[index] = Some(run);
        }
        let [Some(plain), Some(agoras_gateway), Some(agora)] = runs else {
            anyhow::bail!("a side was not measured");
        };
        measured.push([plain, agoras_gateway, agora]);
    }
    Ok(measured)
}

/// Indexes of [`Side::ALL`]: every other round reverses them, so that no side always has the machine as another left it.
fn order(round: usize) -> [usize; 3] {
    if round % 2 == 1 { [0, 1, 2] } else { [2, 1, 0] }
}

fn send_load(agora: &Project, members: &[Member]) -> anyhow::Result<Run> {
    let services = || members.iter().filter(|member| member.service.is_service());
    let idle = wait::until(IDLE_WITHIN, LOOK_INTERVAL, || {
        for service in services() {
            if control::cpu_percent(service)? > IDLE_PERCENT {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })?;
    idle.with_context(|| format!("the services aren't idle within {}", spell(IDLE_WITHIN)))?;
    let mut idle_kib = 0;
    for service in services() {
        let resident = members::resident_kib(service);
        idle_kib += resident.with_context(|| format!("no memory of {}", service.service))?;
    }
    let pids: Vec<String> = services().map(|member| member.pid.to_string()).collect();
    let gateway = members::direct_address(members, Part::Traefik, GATEWAY_PORT)?;
    let printed = binaries::cargo(agora)
        .args(BENCH)
        .env("AGORA_TEST_GATEWAY", gateway)
        .env("AGORA_TEST_SERVICE_PIDS", pids.join(","))
        .limit(MEASURED_WITHIN)
        .read()?;
    Ok(Run {
        loads: parse(&printed)?,
        idle_memory_mib: idle_kib as f64 / 1_024.0,
    })
}

fn parse(printed: &str) -> anyhow::Result<Loads> {
    let line = printed.lines().find(|line| line.starts_with('{'));
    let line = line.with_context(|| format!("the benchmark printed no result: {printed:?}"))?;
    let loads: Loads =
        serde_json::from_str(line).context("failed to read the benchmark's result")?;
    for load in [loads.reads, loads.orders, loads.users] {
        let costs = [
            load.seconds,
            load.services_cpu_seconds,
            load.machine_cpu_seconds,
        ];
        anyhow::ensure!(
            load.answers > 0.0 && costs.iter().all(|cost| *cost > 0.0),
            "a measurement without answers, or too short for the kernel's clock: {line}"
        );
    }
    Ok(loads)
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loads = [self.loads.reads, self.loads.orders, self.loads.users];
        let [reads, orders, users] = loads.map(Load::per_second);
        write!(
            f,
            "{reads:.0} reads, {orders:.0} orders, {users:.0} users a second"
        )?;
        let [reads, orders, users] = loads.map(Load::per_services_cpu);
        write!(
            f,
            "; {reads:.0}, {orders:.0}, {users:.0} per CPU second of the services"
        )
    }
}

impl Load {
    fn per_second(self) -> f64 {
        self.answers / self.seconds
    }

    fn per_services_cpu(self) -> f64 {
        self.answers / self.services_cpu_seconds
    }

    fn per_machine_cpu(self) -> f64 {
        self.answers / self.machine_cpu_seconds
    }
}

/// A row of the table: its name, and its value in a run.
type Row = (&'static str, fn(&Run) -> f64);

const ROWS: [Row; 10] = [
    ("GET /inventory/99, a second", |run| {
        run.loads.reads.per_second()
    }),
    ("POST /orders/, a second", |run| {
        run.loads.orders.per_second()
    }),
    ("GET /users/, a second", |run| run.loads.users.per_second()),
    ("reads per CPU second of the services", |run| {
        run.loads.reads.per_services_cpu()
    }),
    ("orders per CPU second of the services", |run| {
        run.loads.orders.per_services_cpu()
    }),
    ("users per CPU second of the services", |run| {
        run.loads.users.per_services_cpu()
    }),
    ("reads per CPU second of the machine", |run| {
        run.loads.reads.per_machine_cpu()
    }),
    ("orders per CPU second of the machine", |run| {
        run.loads.orders.per_machine_cpu()
    }),
    ("users per CPU second of the machine", |run| {
        run.loads.users.per_machine_cpu()
    }),
    ("idle memory of the four services, MiB", |run| {
        run.idle_memory_mib
    }),
];

/// The table: medians with their ranges; the last column compares within each round.
fn show(rounds: &[Round]) -> String {
    let [plain, agoras_gateway, agora] = Side::ALL.map(Side::name);
    let mut shown = table([
        "median (range)",
        plain,
        agoras_gateway,
        agora,
        "agora : original",
    ]);
    for (name, value) in ROWS {
        let of = |side: Side| Spread::of(rounds.iter().map(|round| value(&round[side as usize])));
        let ratio = Spread::of(rounds.iter().map(|round| {
            value(&round[Side::Agora as usize]) / value(&round[Side::Plain as usize])
        }));
        let [plain, agoras_gateway, agora] = Side::ALL.map(|side| with_range(of(side), 0));
        shown.add_row([
            name.to_owned(),
            plain,
            agoras_gateway,
            agora,
            with_range(ratio, 2),
        ]);
    }
    shown.to_string()
}

fn with_range(spread: Option<Spread>, decimals: usize) -> String {
    spread.map_or_else(
        || "-".to_owned(),
        |Spread {
             median, min, max, ..
         }| { format!("{median:.decimals$} ({min:.decimals$} to {max:.decimals$})") },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = r#"{"orders":{"answers":6000,"machine_cpu_seconds":30.0,"seconds":15.0,"services_cpu_seconds":12.0},
        "reads":{"answers":9000,"machine_cpu_seconds":30.0,"seconds":15.0,"services_cpu_seconds":10.0},
        "users":{"answers":7500,"machine_cpu_seconds":30.0,"seconds":15.0,"services_cpu_seconds":10.0}}"#;

    fn run(printed: &str, idle_memory_mib: f64) -> Run {
        Run {
            loads: parse(&printed.replace('\n', "")).unwrap(),
            idle_memory_mib,
        }
    }

    #[test]
    fn answers_are_divided_by_each_cost() {
        let run = run(PRINTED, 200.0);
        assert_eq!(
            run.to_string(),
            "600 reads, 400 orders, 500 users a second; 900, 500, 750 per CPU second of the services"
        );
        let values = ROWS.map(|(_, value)| value(&run));
        assert_eq!(
            values,
            [
                600.0, 400.0, 500.0, 900.0, 500.0, 750.0, 300.0, 200.0, 250.0, 200.0
            ]
        );
    }

    #[test]
    fn the_result_is_found_among_other_lines_and_one_without_answers_is_refused() {
        let line = PRINTED.replace('\n', "");
        assert!(parse(&format!("running\n{line}\n")).is_ok());
        assert!(parse("running\n").is_err());
        assert!(parse(&line.replace("\"answers\":9000", "\"answers\":0")).is_err());
        assert!(parse(&line.replace("12.0", "0.0")).is_err());
    }

    #[test]
    fn sides_are_compared_within_their_round() {
        let (fast, slow) = (PRINTED, PRINTED.replace("15.0", "30.0"));
        let rounds = [
            [run(fast, 200.0), run(fast, 200.0), run(fast, 50.0)],
            [run(&slow, 200.0), run(&slow, 200.0), run(&slow, 50.0)],
        ];
        let shown = show(&rounds);
        assert!(shown.contains("450 (300 to 600)"), "{shown}");
        assert!(shown.contains("1.00 (1.00 to 1.00)"), "{shown}");
        assert!(shown.contains("0.25 (0.25 to 0.25)"), "{shown}");
    }

    #[test]
    fn each_side_is_once_in_a_round_and_the_next_reverses_them() {
        assert_eq!(order(1), [0, 1, 2]);
        assert_eq!(order(2), [2, 1, 0]);
        assert_eq!(order(3), order(1));
    }
}
