//! Generates load on agora through its gateway and records the results.
//!
//! A run signs its users up, generates load for the run time, and leaves a folder as `records::load` describes it: a summary
//! with an exact count of every request, a timeline, and a ledger of every order and cancellation. There are two models: in
//! the closed one goose drives users that wait for their answers; in the open one actions arrive at a constant rate. Left
//! out: starting the system and reconciling the counts with Prometheus, which is `xtask`'s work.

// Its `println!` and `eprintln!` replace those of the standard library, in every module.
#[macro_use]
extern crate terminal;

use std::convert::Infallible;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use records::load::{
    BEGUN_FILE, LoadModel, READY_FILE, ROUTES_FILE, RunSummary, SUMMARY_FILE, TIMELINE_FILE,
};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

mod actions;
mod closed;
mod gateway;
mod ledger;
mod mix;
mod open;
mod options;
mod pairs;
mod preparation;
mod recorder;
mod routes;
mod share;
mod stop;
mod summary;
mod thresholds;
mod timeline;
mod workers;

use crate::actions::Visitor;
use crate::gateway::Gateway;
use crate::ledger::Ledger;
use crate::open::Arrivals;
use crate::options::Options;
use crate::recorder::{Beginning, Recorder, Tally};
use crate::workers::TALLY_FILE;

const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// How a run ended; clap itself exits with 2 on wrong usage.
enum Outcome {
    Holds,
    ThresholdFailed,
    /// Ctrl-C, or the end of standard input: the measurements are recorded, but cover a shorter run than requested.
    Interrupted,
}

/// The exit code of [`Outcome::Interrupted`].
const EXIT_INTERRUPTED: u8 = 4;

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        ExitCode::from(match outcome {
            Outcome::Holds => 0,
            Outcome::ThresholdFailed => 1,
            Outcome::Interrupted => EXIT_INTERRUPTED,
        })
    }
}

/// The run could not be made, or not be recorded.
const EXIT_NO_RUN: u8 = 3;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::read()).await {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(EXIT_NO_RUN)
        }
    }
}

/// What was counted.
struct Measured {
    tally: Tally,
    /// When the measured part began.
    measured_from: DateTime<Utc>,
    /// After the last answer.
    finished_at: DateTime<Utc>,
    /// Whether it was stopped before its end.
    interrupted: bool,
}

async fn run(options: Options) -> anyhow::Result<Outcome> {
    let run_id = options.run_id.clone().unwrap_or_else(options::new_run_id);
    let seed = options.seed.unwrap_or_else(options::new_seed);
    let stop = stop::on_ctrl_c();
    let begin_at = options
        .while_stdin_open
        .then(|| stop::when_stdin_ends(stop.clone()));
    let ledger = Ledger::create(&options.out_dir)?;
    eprintln!(
        "run {run_id}: {}, {}, seed {seed}, {}",
        options.scenario,
        options.model(),
        options.base_url
    );
    let started_at = Utc::now();
    let Measured {
        tally,
        measured_from,
        finished_at,
        interrupted,
    } = match options.workers {
        1 => run_alone(&options, &run_id, seed, ledger, begin_at, &stop).await?,
        _ => workers::run(&options, &run_id, seed, ledger, &stop).await?,
    };
    if options.share.is_some() {
        write_for_merging(&tally, &options.out_dir)?;
    }
    if tally.measured() == 0 {
        if interrupted {
            eprintln!("interrupted before the first measurement");
            return Ok(Outcome::Interrupted);
        }
        bail!("no measurement: the run ended before its first answer");
    }
    let summary = RunSummary {
        run_id,
        scenario: options.scenario.to_string(),
        seed,
        model: options.model(),
        workers: options.workers,
        started_at,
        measured_from,
        finished_at,
        requests: tally.requests(),
        measured: tally.measured(),
        failed: tally.failed(),
        not_sent: tally.not_sent(),
        requests_per_second: tally.requests_per_second(),
        latency: tally.latency(),
        orders: tally.orders(),
        thresholds: thresholds::judge(&options, &tally),
    };
    write(&summary, &tally, &options.out_dir)
        .with_context(|| format!("failed to write into {}", options.out_dir.display()))?;
    print!(
        "{}",
        summary::Report::new(&summary, &tally, &options.out_dir)
    );

    Ok(if interrupted {
        eprintln!("interrupted: the measurements cover a shorter run than the one asked for");
        Outcome::Interrupted
    } else if summary.thresholds.iter().all(|threshold| threshold.holds) {
        Outcome::Holds
    } else {
        Outcome::ThresholdFailed
    })
}

/// The run, or a worker's part of it, in this process.
async fn run_alone(
    options: &Options,
    run_id: &str,
    seed: u64,
    ledger: Ledger,
    begin_at: Option<oneshot::Receiver<DateTime<Utc>>>,
    stop: &CancellationToken,
) -> anyhow::Result<Measured> {
    let recorder = Arc::new(Recorder::new(ledger, stop.clone()));
    tokio::select! {
        result = prepare_and_measure(options, run_id, seed, &recorder, begin_at, stop) => result?,
        never = show_progress(|| recorder.so_far().to_string()) => match never {},
    }
    Ok(Measured {
        tally: recorder.finish()?,
        measured_from: recorder.beginning().utc,
        finished_at: Utc::now(),
        interrupted: stop.is_cancelled(),
    })
}

/// Both parts of a run.
async fn prepare_and_measure(
    options: &Options,
    run_id: &str,
    seed: u64,
    recorder: &Arc<Recorder>,
    begin_at: Option<oneshot::Receiver<DateTime<Utc>>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let gateway = Gateway::new(options)?;
    let accounts = tokio::select! {
        accounts = preparation::prepare(options, run_id, &gateway, recorder) => accounts?,
        () = stop.cancelled() => return Ok(()),
    };
    if options.begin_when_told {
        touch(&options.out_dir.join(READY_FILE))?;
        // Whoever started this run and is gone says nothing.
        let Some(Ok(begin_at)) = stop
            .run_until_cancelled(begin_at.context("no standard input")?)
            .await
        else {
            return Ok(());
        };
        let beginning = Beginning::at(begin_at);
        recorder.begin(beginning);
        tokio::time::sleep_until(beginning.instant.into()).await;
    }
    let count = accounts.len();
    let groups = options.scenario.groups();
    let visitors = accounts
        .into_iter()
        .enumerate()
        .map(|(index, account)| Visitor {
            account,
            group: groups.map(|groups| groups[index.min(1)]),
            gateway: gateway.clone(),
            recorder: Arc::clone(recorder),
            idempotency_keys: !options.no_idempotency_keys,
        })
        .collect();
    eprintln!("{count} users are signed up, the measured part begins");
    touch(&options.out_dir.join(BEGUN_FILE))?;
    match options.model() {
        LoadModel::Closed { .. } => closed::run(options, seed, visitors, stop).await,
        LoadModel::Open {
            arrivals_per_second,
            max_in_flight,
            ..
        } => {
            let arrivals = Arrivals {
                scenario: options.scenario,
                seed,
                per_second: arrivals_per_second,
                run_time: options.run_time,
                max_in_flight,
                share: options.share(),
            };
            open::run(&arrivals, visitors, recorder, stop).await
        }
    }
}

/// Makes an empty file, which says that the run has come to a point.
fn touch(path: &Path) -> anyhow::Result<()> {
    File::create(path).with_context(|| format!("failed to make {}", path.display()))?;
    Ok(())
}

/// Writes a worker's counts, for the run that it is a part of.
fn write_for_merging(tally: &Tally, out_dir: &Path) -> anyhow::Result<()> {
    let path = out_dir.join(TALLY_FILE);
    let written = File::create(&path)
        .map(BufWriter::new)
        .and_then(|mut file| {
            serde_json::to_writer(&mut file, tally)?;
            file.flush()
        });
    written.with_context(|| format!("failed to write {}", path.display()))
}

/// Writes the seconds, then the summary: a summary means that the run is complete.
fn write(summary: &RunSummary, tally: &Tally, out_dir: &Path) -> anyhow::Result<()> {
    write_lines(&out_dir.join(TIMELINE_FILE), tally.timeline().seconds())?;
    write_lines(&out_dir.join(ROUTES_FILE), tally.routes().seconds())?;
    std::fs::write(
        out_dir.join(SUMMARY_FILE),
        serde_json::to_vec_pretty(summary)?,
    )?;
    Ok(())
}

fn write_lines(path: &Path, values: impl Iterator<Item = impl Serialize>) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for value in values {
        serde_json::to_writer(&mut file, &value)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}

/// A line on stderr now and then, to show that a long run is making progress.
async fn show_progress(so_far: impl Fn() -> String) -> Infallible {
    let started = Instant::now();
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    ticks.tick().await; // the first tick is immediate
    loop {
        ticks.tick().await;
        eprintln!("{:>5} s: {}", started.elapsed().as_secs(), so_far());
    }
}
