//! Several processes that generate one load: each is this program with a part of the run ([`crate::share`]).
//!
//! All are started, sign their users up, and begin at one moment that they are told. Each leaves a run's folder in that of
//! the run; what they measured and recorded becomes one record, counted as if one process had sent everything. A worker
//! that ends before its time makes the run incomplete: there is no summary then.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use chrono::{DateTime, SecondsFormat, Utc};
use records::load::{
    BEGUN_FILE, CANCELLATIONS_FILE, CancellationEntry, LEDGER_FILE, LedgerEntry, READY_FILE,
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;
use crate::options::Options;
use crate::recorder::Tally;
use crate::share::Share;
use crate::{EXIT_INTERRUPTED, Measured, show_progress, touch};

/// What a worker measured, to be added to what the others did.
pub(crate) const TALLY_FILE: &str = "tally.json";
/// Its output.
const LOG_FILE: &str = "loadtest.log";

/// How often the workers are looked at.
const TICK: Duration = Duration::from_millis(20);
/// From the moment at which the workers are told to the one at which they begin.
const AHEAD: Duration = Duration::from_millis(200);
/// How long a worker that is asked to end may take. xtask, which may have asked, waits for 15 s.
const ENDED_WITHIN: Duration = Duration::from_secs(12);
/// How long a worker may take after its run time: its last action, and its record.
const BESIDES_RUN_TIME: Duration = Duration::from_secs(90);
/// How much of a worker's output an error repeats.
const LOG_LINES: usize = 5;

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
    let made = make(options, &mut workers, &mut ledger, stop).await;
    if made.is_err() {
        ask_to_end(&mut workers);
        // The first error is the one to tell.
        let _ = wait_for_ends(&mut workers).await;
    }
    made.with_context(|| {
        let folder = options.out_dir.display();
        format!("the run is incomplete (what its workers recorded is in {folder}/worker-*): make another one")
    })
}

async fn make(
    options: &Options,
    workers: &mut [Worker],
    ledger: &mut Ledger,
    stop: &CancellationToken,
) -> anyhow::Result<Measured> {
    // How many workers, and in which state they are.
    let progress = Cell::new((0, "ready"));
    let shown = || {
        let (count, state) = progress.get();
        format!("{count} workers are {state}")
    };
    let begun = tokio::select! {
        begun = generate(options, workers, stop, &progress) => begun?,
        never = show_progress(shown) => match never {},
    };
    let (finished_at, interrupted) = (Utc::now(), stop.is_cancelled());
    let (tally, measured_from) = match begun {
        Some(begun) => (merge(workers, ledger)?, begun),
        // What they had prepared by then is no run.
        None => (Tally::default(), finished_at),
    };
    Ok(Measured {
        tally,
        measured_from,
        finished_at,
        interrupted,
    })
}

/// Lets all begin at one moment, and waits for the end of each. Returns when they began; `None` when the run was stopped
/// before that.
async fn generate(
    options: &Options,
    workers: &mut [Worker],
    stop: &CancellationToken,
    progress: &Cell<(usize, &str)>,
) -> anyhow::Result<Option<DateTime<Utc>>> {
    loop {
        if stop.is_cancelled() {
            ask_to_end(workers);
            return wait_for_ends(workers).await.map(|()| None);
        }
        for worker in &mut *workers {
            worker.expect_running()?;
        }
        let ready = workers.iter().filter(|worker| worker.is_ready()).count();
        if ready == workers.len() {
            break;
        }
        progress.set((ready, "ready"));
        // Each request of a preparation has its limit, and so has each worker's.
        tokio::time::sleep(TICK).await;
    }
    let begin_at = Utc::now() + AHEAD;
    for worker in &mut *workers {
        worker.tell(begin_at).await?;
    }
    eprintln!(
        "{} workers begin; their output is in {}/*/{LOG_FILE}",
        workers.len(),
        options.out_dir.display()
    );
    tokio::time::sleep(AHEAD).await;
    touch(&options.out_dir.join(BEGUN_FILE))?;
    let over_by = Instant::now() + options.run_time + BESIDES_RUN_TIME;
    loop {
        if stop.is_cancelled() {
            ask_to_end(workers);
            return wait_for_ends(workers).await.map(|()| Some(begin_at));
        }
        let mut under_way = 0;
        for worker in &mut *workers {
            under_way += usize::from(worker.is_under_way(false)?);
        }
        if under_way == 0 {
            return Ok(Some(begin_at));
        }
        if Instant::now() > over_by {
            bail!("{under_way} workers did not end with their run time");
        }
        progress.set((under_way, "under way"));
        tokio::time::sleep(TICK).await;
    }
}

/// Asks those that still run to end: each finishes what it has sent.
fn ask_to_end(workers: &mut [Worker]) {
    for worker in workers {
        drop(worker.child.stdin.take());
    }
}

/// Waits until all that were asked have ended; the first that didn't end as asked is the error.
async fn wait_for_ends(workers: &mut [Worker]) -> anyhow::Result<()> {
    let deadline = Instant::now() + ENDED_WITHIN;
    let mut failed = None;
    for worker in workers {
        let ended = loop {
            match worker.is_under_way(true) {
                Ok(true) if Instant::now() < deadline => tokio::time::sleep(TICK).await,
                Ok(true) => {
                    let seconds = ENDED_WITHIN.as_secs();
                    break Err(anyhow!(
                        "worker {} did not end within {seconds} s: its last answers are not in its record",
                        worker.share
                    ));
                }
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        failed = failed.or(ended.err());
    }
    failed.map_or(Ok(()), Err)
}

/// What the workers counted together; their orders and cancellations are appended to `ledger`.
fn merge(workers: &[Worker], ledger: &mut Ledger) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for worker in workers {
        tally.add(worker.tally()?);
    }
    // An error in writing is `finish`'s.
    for order in joined::<LedgerEntry>(workers)? {
        ledger.append_order(&order);
    }
    for cancellation in joined::<CancellationEntry>(workers)? {
        ledger.append_cancellation(&cancellation);
    }
    let (counted, recorded) = (tally.orders(), ledger.finish()?);
    ensure!(
        counted == recorded,
        "the workers counted {counted:?}, and recorded {recorded:?}"
    );
    Ok(tally)
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

/// What all workers recorded, in the order of the answers; in memory, as those who read a run's ledger have it.
fn joined<E: Entry>(workers: &[Worker]) -> anyhow::Result<Vec<E>> {
    let mut all: Vec<E> = Vec::new();
    for worker in workers {
        let path = worker.folder.join(E::FILE);
        let read = || format!("failed to read {}", path.display());
        let file = BufReader::new(File::open(&path).with_context(read)?);
        for entry in serde_json::Deserializer::from_reader(file).into_iter() {
            all.push(entry.with_context(read)?);
        }
    }
    all.sort_by_key(Entry::at);
    Ok(all)
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
        // All of them by name, so that a new one isn't forgotten. The thresholds are those of the whole run.
        let Options {
            scenario,
            base_url,
            other_address,
            out_dir: _,
            run_id: _,
            users,
            run_time,
            rate_limit,
            arrivals,
            max_in_flight,
            seed: _,
            max_p95_ms: _,
            max_error_rate: _,
            no_idempotency_keys,
            workers: _,
            share: _,
            begin_when_told: _,
            while_stdin_open: _,
        } = options;
        let given = [
            ("--rate-limit", *rate_limit),
            ("--arrivals", *arrivals),
            ("--max-in-flight", arrivals.map(|_| *max_in_flight)),
        ];
        let given = given
            .into_iter()
            .filter_map(|(option, value)| Some(format!("{option}={}", value?)));
        let child = Command::new(std::env::current_exe()?)
            .arg(scenario.name())
            .arg(format!("--base-url={base_url}"))
            .args(
                other_address
                    .iter()
                    .map(|it| format!("--other-address={it}")),
            )
            .arg(format!("--run-id={run_id}"))
            .arg(format!("--seed={seed}"))
            .arg(format!("--users={users}"))
            .arg(format!("--run-time={}s", run_time.as_secs()))
            .args(given)
            .args(no_idempotency_keys.then_some("--no-idempotency-keys"))
            .arg("--max-error-rate=1")
            .arg(format!("--share={share}"))
            .arg("--begin-when-told")
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

    async fn tell(&mut self, begin_at: DateTime<Utc>) -> anyhow::Result<()> {
        let moment = begin_at.to_rfc3339_opts(SecondsFormat::Nanos, true);
        let mut stdin = self.child.stdin.as_ref();
        let Some(Err(error)) = stdin.as_mut().map(|stdin| writeln!(stdin, "{moment}")) else {
            return Ok(());
        };
        // Its end of the pipe closes when it ends, which shows a moment later.
        tokio::time::sleep(AHEAD).await;
        self.expect_running()?;
        Err(error).with_context(|| format!("worker {} can't be told when to begin", self.share))
    }

    fn ended_early(&self, status: ExitStatus) -> anyhow::Error {
        let log = fs::read_to_string(self.folder.join(LOG_FILE)).unwrap_or_default();
        let lines: Vec<&str> = log.trim_end().lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
        anyhow!(
            "worker {} ended early ({status}), after:\n  {last}",
            self.share
        )
    }

    fn tally(&self) -> anyhow::Result<Tally> {
        let path = self.folder.join(TALLY_FILE);
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
