//! Several processes that generate one load: each is this program with a part of the run ([`crate::share`]).
//!
//! All are started, sign their users up, and begin at one moment that they are told. Each leaves a run's folder in that of
//! the run; what they measured and recorded becomes one record, counted as if one process had sent everything. A worker
//! that ends before its time makes the run incomplete: there is no summary then.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use records::load::{BEGUN_FILE, CANCELLATIONS_FILE, CancellationEntry, LEDGER_FILE, LedgerEntry};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;
use crate::options::Options;
use crate::recorder::Tally;
use crate::share::Share;
use crate::{EXIT_INTERRUPTED, Measured, PROGRESS_INTERVAL, touch};

/// What a worker measured, to be added to what the others did.
pub(crate) const TALLY_FILE: &str = "tally.json";
/// Empty; created by a worker whose users are signed up.
pub(crate) const READY_FILE: &str = "ready";
/// Its output.
const LOG_FILE: &str = "loadtest.log";

/// How often the workers are looked at.
const TICK: Duration = Duration::from_millis(20);
/// From the moment at which the workers are told to the one at which they begin.
const AHEAD: Duration = Duration::from_millis(200);
/// How long a worker that is asked to end may take: its last requests.
const ENDED_WITHIN: Duration = Duration::from_secs(15);

/// Makes the run. The workers' orders and cancellations are appended to `ledger`. After a stop, the measurements cover a
/// shorter run, possibly an empty one.
pub(crate) async fn run(
    options: &Options,
    run_id: &str,
    seed: u64,
    mut ledger: Ledger,
    stop: &CancellationToken,
) -> anyhow::Result<Measured> {
    let start = |share| Worker::start(options, share, run_id, seed);
    let mut workers: Vec<Worker> = Share::all(options.workers)
        .map(start)
        .collect::<Result<_, _>>()?;
    let measured_from = match generate(options, &mut workers, stop).await {
        Ok(measured_from) => measured_from,
        Err(error) => {
            end(&mut workers).await;
            let folder = options.out_dir.display();
            return Err(error.context(format!(
                "the run is incomplete: what its workers recorded is in {folder}"
            )));
        }
    };
    let mut tally = Tally::default();
    for worker in &workers {
        match worker.tally()? {
            Some(other) => tally.add(other),
            // It had measured nothing yet.
            None if stop.is_cancelled() => {}
            None => bail!("worker {} left no {TALLY_FILE}", worker.share),
        }
    }
    join_ledgers(&workers, &mut ledger)?;
    tally.set_orders(ledger.finish()?);
    Ok(Measured {
        tally,
        measured_from,
    })
}

/// Lets all begin at one moment, and waits for the end of each. Returns when they began.
async fn generate(
    options: &Options,
    workers: &mut [Worker],
    stop: &CancellationToken,
) -> anyhow::Result<DateTime<Utc>> {
    // Each request of a preparation has its limit, and so has each worker's.
    while !stop.is_cancelled() && !workers.iter().all(Worker::is_ready) {
        for worker in &mut *workers {
            worker.expect_running()?;
        }
        tokio::time::sleep(TICK).await;
    }
    let begin_at = Utc::now() + AHEAD;
    if !stop.is_cancelled() {
        for worker in &mut *workers {
            worker.tell(begin_at)?;
        }
        touch(&options.out_dir.join(BEGUN_FILE))?;
        eprintln!(
            "{} workers begin; their output is in {}/*/{LOG_FILE}",
            workers.len(),
            options.out_dir.display()
        );
    }
    let started = Instant::now();
    let mut shown = started;
    loop {
        if stop.is_cancelled() {
            end(workers).await;
        }
        let mut under_way = 0;
        for worker in &mut *workers {
            under_way += usize::from(worker.is_under_way(stop.is_cancelled())?);
        }
        if under_way == 0 {
            return Ok(begin_at);
        }
        if shown.elapsed() >= PROGRESS_INTERVAL {
            shown = Instant::now();
            let seconds = started.elapsed().as_secs();
            eprintln!("{seconds:>5} s: {under_way} workers under way");
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Asks those that still run to end, and waits for that; past the limit they are killed.
async fn end(workers: &mut [Worker]) {
    for worker in &mut *workers {
        drop(worker.child.stdin.take());
    }
    let deadline = Instant::now() + ENDED_WITHIN;
    for worker in workers {
        while matches!(worker.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            tokio::time::sleep(TICK).await;
        }
        worker.kill();
    }
}

/// One entry of an order's or a cancellation's file.
trait Entry: DeserializeOwned {
    const FILE: &str;
    fn at(&self) -> DateTime<Utc>;
}

impl Entry for LedgerEntry {
    const FILE: &str = LEDGER_FILE;
    fn at(&self) -> DateTime<Utc> {
        self.at
    }
}

impl Entry for CancellationEntry {
    const FILE: &str = CANCELLATIONS_FILE;
    fn at(&self) -> DateTime<Utc> {
        self.at
    }
}

/// Appends what the workers recorded, in the order of the answers.
fn join_ledgers(workers: &[Worker], ledger: &mut Ledger) -> anyhow::Result<()> {
    let mut known = HashSet::new();
    for order in joined::<LedgerEntry>(workers)? {
        if let Some(id) = &order.order_id
            && !known.insert(id.clone())
        {
            bail!("two answers promise the order {id}");
        }
        // Its error is `finish`'s.
        ledger.append_order(&order);
    }
    for cancellation in joined::<CancellationEntry>(workers)? {
        ledger.append_cancellation(&cancellation);
    }
    Ok(())
}

fn joined<E: Entry>(workers: &[Worker]) -> anyhow::Result<Vec<E>> {
    let mut all: Vec<E> = Vec::new();
    for worker in workers {
        let path = worker.folder.join(E::FILE);
        // A worker that was stopped early enough has none.
        if path.is_file() {
            all.extend(read_lines::<E>(&path)?);
        }
    }
    all.sort_by_key(Entry::at);
    Ok(all)
}

fn read_lines<E: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<E>> {
    let read = || format!("failed to read {}", path.display());
    let lines = BufReader::new(File::open(path).with_context(read)?).lines();
    lines
        .map(|line| serde_json::from_str(&line?).map_err(anyhow::Error::from))
        .collect::<Result<_, _>>()
        .with_context(read)
}

/// A process that generates a part of the load. Dropped, it is killed.
struct Worker {
    share: Share,
    folder: PathBuf,
    child: Child,
}

impl Worker {
    fn start(options: &Options, share: Share, run_id: &str, seed: u64) -> anyhow::Result<Self> {
        let folder = options.out_dir.join(format!("worker-{}", share.number()));
        fs::create_dir_all(&folder)
            .with_context(|| format!("failed to make the folder {}", folder.display()))?;
        let log = File::create(folder.join(LOG_FILE))?;
        let given = [
            ("--rate-limit", options.rate_limit),
            ("--arrivals", options.arrivals),
            (
                "--max-in-flight",
                options.arrivals.map(|_| options.max_in_flight),
            ),
        ];
        let given = given
            .into_iter()
            .filter_map(|(option, value)| Some(format!("{option}={}", value?)));
        let child = Command::new(std::env::current_exe()?)
            .arg(options.scenario.name())
            .arg(format!("--base-url={}", options.base_url))
            .arg(format!("--run-id={run_id}"))
            .arg(format!("--seed={seed}"))
            .arg(format!("--users={}", options.users))
            .arg(format!("--run-time={}s", options.run_time.as_secs()))
            .args(given)
            .args(
                options
                    .no_idempotency_keys
                    .then_some("--no-idempotency-keys"),
            )
            // The thresholds are those of the whole run.
            .arg("--max-error-rate=1")
            .arg(format!("--share={share}"))
            .arg("--while-stdin-open")
            .arg("--out-dir")
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C on the terminal is for this process, which ends its workers.
            .process_group(0)
            .spawn()
            .context("failed to start a worker")?;
        Ok(Self {
            share,
            folder,
            child,
        })
    }

    fn is_ready(&self) -> bool {
        self.folder.join(READY_FILE).is_file()
    }

    fn expect_running(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(self.ended_early(status)),
        }
    }

    /// Whether it still runs. It may end by itself at the end of its run, and before that when it is asked to.
    fn is_under_way(&mut self, asked_to_end: bool) -> anyhow::Result<bool> {
        match self.child.try_wait()? {
            None => Ok(true),
            Some(status) if status.success() => Ok(false),
            Some(status) if asked_to_end && status.code() == Some(EXIT_INTERRUPTED.into()) => {
                Ok(false)
            }
            Some(status) => Err(self.ended_early(status)),
        }
    }

    fn tell(&mut self, begin_at: DateTime<Utc>) -> anyhow::Result<()> {
        let moment = begin_at.to_rfc3339_opts(SecondsFormat::Nanos, true);
        let mut stdin = self.child.stdin.as_ref();
        let told = stdin.as_mut().map(|stdin| writeln!(stdin, "{moment}"));
        told.context("it was asked to end")?
            .with_context(|| format!("worker {} can't be told when to begin", self.share))
    }

    fn ended_early(&self, status: ExitStatus) -> anyhow::Error {
        let log = fs::read_to_string(self.folder.join(LOG_FILE)).unwrap_or_default();
        let last = log.trim_end().lines().next_back().unwrap_or_default();
        anyhow::anyhow!("worker {} ended early ({status}): {last}", self.share)
    }

    fn tally(&self) -> anyhow::Result<Option<Tally>> {
        let path = self.folder.join(TALLY_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let tally = File::open(&path)
            .map_err(anyhow::Error::from)
            .and_then(|file| Ok(serde_json::from_reader(BufReader::new(file))?));
        tally.with_context(|| format!("failed to read {}", path.display()))
    }

    fn kill(&mut self) {
        // One that has ended is just as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}
