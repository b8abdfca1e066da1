//! `load`: puts load on the running system through its gateway and records the run.
//!
//! The load generator is a program of its own, `loadtest`. Around its run this command makes sure that
//! Prometheus has scraped everything before the first request and after the last one, so that
//! `verify-metrics` can compare exact counts.
//!
//! Left out: the load (`loadtest`), and the comparison (`verify-metrics`).

use std::{fs, time::Duration};

use base::{
    outcome::{Exit, unavailable},
    progress::Step,
};
use records::{
    load::{REPORT_FILE, SUMMARY_FILE},
    scenario::Scenario,
};
use system::{
    Part, binaries, health,
    load_runs::{RunFolder, Window},
    members::{self, Member},
    process::Call,
    project::{self, Project},
    prometheus::{Moment, Prometheus},
    wait,
};

use crate::{
    commands::verify_metrics,
    output::{Format, one_of, print_stderr, print_stdout, progress},
};

/// The longest run that `loadtest` takes is a day; preparation and the last requests come on top.
const LIMIT: Duration = Duration::from_secs(25 * 60 * 60);

/// How long messages from before may take until they are processed and that is scraped.
const AT_REST_WITHIN: Duration = Duration::from_secs(20);

/// Options of `load`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// What the users do
    #[arg(
        default_value = "checkout",
        value_parser = one_of(&Scenario::ALL, Scenario::name, Scenario::explanation)
    )]
    pub(crate) scenario: Scenario,
    /// Concurrent users; in the open model the accounts in whose names actions arrive [default: 10]
    #[arg(long)]
    users: Option<String>,
    /// How long, e.g. 30s, 5m, 1h [default: 30s]
    #[arg(long)]
    pub(crate) run_time: Option<String>,
    /// The most requests a second over all users [default: no limit]
    #[arg(long, value_name = "REQ_PER_S")]
    rate_limit: Option<String>,
    /// The open model: actions a second that arrive whether the system keeps up or not; latency counts from when they
    /// were due [default: the closed model]
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "rate_limit")]
    arrivals: Option<String>,
    /// The most actions under way at once in the open model; arrivals beyond them are not sent, and count as failed
    /// [default: 500]
    #[arg(long, value_name = "N", requires = "arrivals")]
    max_in_flight: Option<String>,
    /// The number of processes that generate the load, 1 to 16; their records become one [default: 1]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Repeats an earlier run's choices [default: random, printed]
    #[arg(long)]
    seed: Option<String>,
    /// Threshold: the 95th percentile of the response time, in milliseconds
    #[arg(long, value_name = "MS")]
    max_p95_ms: Option<String>,
    /// Threshold: the part of the requests that may fail, 0 to 1 [default: 0]
    #[arg(long, value_name = "FRACTION")]
    max_error_rate: Option<String>,
}

impl Options {
    /// A checkout run of this length, all else as usual.
    pub(crate) fn checkout(run_time: &str) -> Self {
        Self {
            scenario: Scenario::Checkout,
            users: None,
            run_time: Some(run_time.to_owned()),
            rate_limit: None,
            arrivals: None,
            max_in_flight: None,
            workers: None,
            seed: None,
            max_p95_ms: None,
            max_error_rate: None,
        }
    }

    /// The options for `loadtest`, which checks their values.
    fn passed_on(&self) -> Vec<String> {
        let options = [
            ("--users", &self.users),
            ("--run-time", &self.run_time),
            ("--rate-limit", &self.rate_limit),
            ("--arrivals", &self.arrivals),
            ("--max-in-flight", &self.max_in_flight),
            ("--workers", &self.workers),
            ("--seed", &self.seed),
            ("--max-p95-ms", &self.max_p95_ms),
            ("--max-error-rate", &self.max_error_rate),
        ];
        let given = options
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)));
        [self.scenario.to_string()]
            .into_iter()
            .chain(given)
            .collect()
    }
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    let mut members = members::running(project)?;
    health::ask(&mut members)?;
    require_healthy(&members)?;
    let gateway = members::published_by(&members, Part::Traefik)?;
    let prometheus = Prometheus::new(&members)?;
    let progress = progress();
    let binaries = progress.step("load generator", |step| binaries::build(project, step))?;
    let id = project::new_run_id()?;
    let run = RunFolder::new(project, &id);
    fs::create_dir_all(&run.path)?;

    let from = progress.step("metrics before the run", |step| begin(&prometheus, step))?;
    let loadtest = Call::new(&binaries.loadtest)
        .args(options.passed_on())
        .args([
            "--base-url",
            &format!("http://{gateway}"),
            "--run-id",
            &run.id,
            "--out-dir",
        ])
        .args([&run.path])
        .limit(LIMIT)
        .ended_by_sigint()
        // When this process is killed, the load ends with it.
        .args(["--while-stdin-open"])
        .while_we_live();
    // With JSON standard output is for the result alone.
    let on_stdout = match format {
        Format::Json => print_stderr,
        Format::Text => print_stdout,
    };
    // Whoever has stopped reading has ended the run, and isn't told so.
    let on_stderr = |line: &str| {
        if terminal::stdout() != terminal::Stdout::Closed {
            print_stderr(line);
        }
    };
    let exit = Exit::from_code(loadtest.run_by_line(on_stdout, on_stderr)?);
    if !run.path.join(SUMMARY_FILE).is_file() {
        anyhow::ensure!(
            exit != Exit::Holds,
            "the load generator succeeded and left no {SUMMARY_FILE} in {}",
            run.path.display()
        );
        return Ok(exit);
    }
    let to = progress.step("metrics after the run", |_| {
        // Found anew: what was killed meanwhile may have another address.
        Prometheus::new(&members::running(project)?)?.wait_for_fresh_scrapes()
    })?;
    run.complete(
        project,
        &Window {
            project: project.name.clone(),
            from,
            to,
        },
    )?;
    match format {
        Format::Json => print!("{}", fs::read_to_string(run.path.join(SUMMARY_FILE))?),
        Format::Text => {
            let report = run.path.join(REPORT_FILE);
            // goose's; the open model has none, and of several workers each has its own.
            if report.is_file() {
                println!("report: {}", report.display());
            }
        }
    }
    Ok(exit)
}

/// A moment just before the run at which no message is under way, or the last one before the limit: other clients are
/// no reason not to start the load. `verify-metrics` notices them.
fn begin(prometheus: &Prometheus, step: &Step) -> anyhow::Result<Moment> {
    let mut last = prometheus.wait_for_fresh_scrapes()?;
    let at_rest = wait::until(AT_REST_WITHIN, Duration::ZERO, || {
        if verify_metrics::is_at_rest(prometheus, last)? {
            return Ok(Some(last));
        }
        step.update("messages are on their way");
        last = prometheus.wait_for_fresh_scrapes()?;
        Ok(None)
    })?;
    if at_rest.is_none() {
        step.result("messages of others are on their way");
    }
    Ok(at_rest.unwrap_or(last))
}

fn require_healthy(members: &[Member]) -> anyhow::Result<()> {
    let mut required = members.iter().filter(|one| !one.service.is_optional());
    match required.find(|member| !member.is_healthy()) {
        None => Ok(()),
        Some(sick) => Err(unavailable(
            format!(
                "{} is {}: a run now would measure that",
                sick.service,
                sick.condition()
            ),
            "`cargo xtask up` starts what is stopped; `cargo xtask status` shows everything",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_given_options_are_passed_on() {
        let options = Options::checkout("30s");
        assert_eq!(options.passed_on(), ["checkout", "--run-time=30s"]);
    }

    #[test]
    fn the_open_model_is_passed_on() {
        let options = Options {
            arrivals: Some("50".to_owned()),
            max_in_flight: Some("100".to_owned()),
            ..Options::checkout("30s")
        };
        assert_eq!(
            options.passed_on(),
            [
                "checkout",
                "--run-time=30s",
                "--arrivals=50",
                "--max-in-flight=100"
            ]
        );
    }
}
