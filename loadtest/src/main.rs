//! Puts load on agora through its gateway and writes down what it saw.
//!
//! A run signs its users up, lets goose drive them for the run time, and leaves a folder as
//! `load-record` describes it: a summary with an exact count of every request, a ledger of every
//! order, goose's own report. Left out: starting the system and comparing the counts with
//! Prometheus, which is `xtask`'s work; and an open model, since goose's users wait for their answers.

use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chrono::Utc;
use clap::Parser;
use load_record::{LoadModel, RunSummary, SUMMARY_FILE};

mod attack;
mod gateway;
mod ledger;
mod mix;
mod options;
mod preparation;
mod recorder;
mod summary;
mod thresholds;

use crate::gateway::Gateway;
use crate::ledger::Ledger;
use crate::options::Options;
use crate::recorder::Recorder;

const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// How a run ended; clap itself exits with 2 on wrong usage.
enum Outcome {
    Holds,
    ThresholdFailed,
    /// Ctrl-C: what was measured is written, but it isn't the run that was asked for.
    Interrupted,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        ExitCode::from(match outcome {
            Outcome::Holds => 0,
            Outcome::ThresholdFailed => 1,
            Outcome::Interrupted => 4,
        })
    }
}

/// No run could be made, or not be recorded.
const EXIT_NO_RUN: u8 = 3;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(EXIT_NO_RUN)
        }
    }
}

async fn run(options: Options) -> anyhow::Result<Outcome> {
    let run_id = options.run_id.clone().unwrap_or_else(options::new_run_id);
    let seed = options.seed.unwrap_or_else(options::new_seed);
    let recorder = Arc::new(Recorder::new(Ledger::create(&options.out_dir)?));
    let gateway = Gateway::new(&options.base_url)?;

    eprintln!(
        "run {run_id}: {}, {} users, seed {seed}, {}",
        options.scenario, options.users, options.base_url
    );
    let started_at = Utc::now();
    tokio::select! {
        result = prepare_and_attack(&options, &run_id, seed, &gateway, &recorder) => result?,
        never = show_progress(&recorder) => match never {},
    }

    let tally = recorder.finish()?;
    if tally.measured() == 0 {
        bail!("nothing was measured: the run ended before its first answer");
    }
    let thresholds = thresholds::judge(&options, &tally);
    let summary = RunSummary {
        run_id,
        scenario: options.scenario.to_string(),
        seed,
        model: LoadModel::Closed {
            users: options.users,
            rate_limit: options.rate_limit,
        },
        started_at,
        measured_from: started_at,
        finished_at: Utc::now(),
        requests: tally.requests(),
        measured: tally.measured(),
        failed: tally.failed(),
        not_sent: 0,
        requests_per_second: tally.requests_per_second(),
        latency: tally.latency(),
        orders: tally.orders(),
        thresholds,
    };
    let path = options.out_dir.join(SUMMARY_FILE);
    std::fs::write(&path, serde_json::to_vec_pretty(&summary)?)
        .with_context(|| format!("failed to write {}", path.display()))?;
    print!(
        "{}",
        summary::Report::new(&summary, &tally, &options.out_dir)
    );

    Ok(if goose::is_killswitch_triggered() {
        eprintln!("interrupted: the figures cover a shorter run than the one asked for");
        Outcome::Interrupted
    } else if summary.thresholds.iter().all(|threshold| threshold.holds) {
        Outcome::Holds
    } else {
        Outcome::ThresholdFailed
    })
}

/// Both parts of a run.
async fn prepare_and_attack(
    options: &Options,
    run_id: &str,
    seed: u64,
    gateway: &Gateway,
    recorder: &Arc<Recorder>,
) -> anyhow::Result<()> {
    let accounts = preparation::prepare(options, run_id, gateway, recorder).await?;
    eprintln!(
        "{} users are signed up, the measured part begins",
        accounts.len()
    );
    attack::run(options, seed, gateway, accounts, recorder).await
}

/// A line on stderr now and then, so that a long run is seen to be alive.
async fn show_progress(recorder: &Recorder) -> Infallible {
    let started = Instant::now();
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    ticks.tick().await; // the first comes at once
    loop {
        ticks.tick().await;
        let (requests, failed) = recorder.so_far();
        eprintln!(
            "{:>5} s: {requests} requests, {failed} failed",
            started.elapsed().as_secs()
        );
    }
}
