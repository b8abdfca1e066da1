//! The load of an arm: `loadtest` as a child that ends with this process, and the record that it writes.
//!
//! Left out: which load ([`crate::experiment`]) and building `loadtest` (`system::binaries`).

use std::{
    fs::{self, File},
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, anyhow};
use chrono::Utc;
use records::{
    evaluation::LoadEvidence,
    load::{
        BEGUN_FILE, CANCELLATIONS_FILE, CancellationEntry, LEDGER_FILE, LedgerEntry, READY_FILE,
        ROUTES_FILE, SUMMARY_FILE, TIMELINE_FILE,
    },
};
use serde::de::DeserializeOwned;
use system::{process::tail, wait};

use super::experiment::{LoadPlan, Model};

/// How long a run takes after its measured part: the last requests, and its record.
const BESIDES_RUN_TIME: Duration = Duration::from_secs(60);
/// The limit until the users are signed up, and until the measured part begins then.
const READY_WITHIN: Duration = Duration::from_secs(45);
/// The limit until a run has ended that was asked to.
const ENDED_WITHIN: Duration = Duration::from_secs(15);
const TICK: Duration = Duration::from_millis(50);
/// The load generator's exit code when it was interrupted, or asked to end before its time.
const ENDED_AS_ASKED: i32 = 4;
/// How much of the load generator's output an error repeats.
const LOG_LINES: usize = 10;

/// A running load. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Load {
    child: Child,
    folder: PathBuf,
    limit: Duration,
    asked_to_end: bool,
}

/// The record of a load: its evidence, and the ledger to reconcile.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) evidence: LoadEvidence,
    pub(crate) orders: Vec<LedgerEntry>,
    pub(crate) cancellations: Vec<CancellationEntry>,
}

impl Load {
    /// Starts a load against the gateway at these addresses, the first as long as it accepts connections, whose users are signed up while other things are done: see
    /// [`Load::begin`]. `folder` must not hold another one's files.
    pub(crate) fn start(
        loadtest: &Path,
        plan: &LoadPlan,
        addresses: &[String],
        run_id: &str,
        seed: u64,
        folder: PathBuf,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder)?;
        let log = File::create(folder.join("loadtest.log"))?;
        let model = match plan.model {
            Model::Closed { users } => vec![format!("--users={users}")],
            Model::Open {
                arrivals_per_second,
            } => vec![
                format!("--users={}", plan.open_users()),
                format!("--arrivals={arrivals_per_second}"),
            ],
        };
        let (first, others) = addresses.split_first().context("no address")?;
        let others = others.iter();
        let others = others.map(|address| format!("--other-address={address}"));
        let keys = (!plan.idempotency_keys).then_some("--no-idempotency-keys");
        let child = Command::new(loadtest)
            .arg(plan.scenario.name())
            .args(model)
            .args(keys)
            .arg(format!("--run-time={}s", plan.run_time.as_secs()))
            .arg(format!("--seed={seed}"))
            .arg(format!("--base-url=http://{first}"))
            .args(others)
            .arg(format!("--run-id={run_id}"))
            // Requests may fail here: the experiment judges that.
            .arg("--max-error-rate=1")
            // This end is ours: when this process is killed, the load ends with it.
            .arg("--while-stdin-open")
            .arg("--begin-when-told")
            .arg("--out-dir")
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C on the terminal is for this process; it ends the load in its own order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("failed to start {}", loadtest.display()))?;
        Ok(Self {
            child,
            folder,
            limit: plan.run_time + BESIDES_RUN_TIME,
            asked_to_end: false,
        })
    }

    /// Asks it to end before its time: requests that are under way get their answers.
    pub(crate) fn end_early(&mut self) {
        self.asked_to_end = true;
        drop(self.child.stdin.take());
    }

    /// Waits until the users are signed up, and begins the measured part.
    pub(crate) fn begin(&mut self) -> anyhow::Result<()> {
        self.wait_for(READY_FILE, "the load's users were not signed up")?;
        let stdin = self.child.stdin.as_mut().context("no standard input")?;
        // Where its end of the pipe is closed, it has ended, and its log says why.
        let _ = writeln!(stdin, "{}", Utc::now().to_rfc3339());
        self.wait_for(BEGUN_FILE, "the load did not begin")
    }

    /// Itself, or another one where it has ended before it began.
    pub(crate) fn or_again(
        mut self,
        start: impl FnOnce() -> anyhow::Result<Self>,
    ) -> anyhow::Result<Self> {
        match self.child.try_wait()? {
            None => Ok(self),
            Some(_) => start(),
        }
    }

    fn wait_for(&mut self, file: &str, late: &str) -> anyhow::Result<()> {
        let file = self.folder.join(file);
        let there = wait::until(READY_WITHIN, TICK, || {
            if file.exists() {
                return Ok(Some(()));
            }
            match self.child.try_wait()? {
                Some(status) => Err(self.ended_early(status)),
                None => Ok(None),
            }
        })?;
        there.ok_or_else(|| anyhow!("{late} within {} s", READY_WITHIN.as_secs()))
    }

    /// Waits for its end, and reads what it left.
    pub(crate) fn finish(mut self) -> anyhow::Result<Ledger> {
        let limit = self.limit;
        let status = wait::until(limit, TICK, || Ok(self.child.try_wait()?))?
            .ok_or_else(|| anyhow!("the load did not end within {} s", limit.as_secs()))?;
        let as_asked = self.asked_to_end && status.code() == Some(ENDED_AS_ASKED);
        if !(status.success() || as_asked) {
            return Err(self.ended_early(status));
        }
        let summary = self.folder.join(SUMMARY_FILE);
        let summary = fs::read_to_string(&summary)
            .with_context(|| format!("failed to read {}", summary.display()))?;
        Ok(Ledger {
            evidence: LoadEvidence {
                summary: serde_json::from_str(&summary)?,
                timeline: read_lines(&self.folder.join(TIMELINE_FILE))?,
                routes: read_lines(&self.folder.join(ROUTES_FILE))?,
            },
            orders: read_lines(&self.folder.join(LEDGER_FILE))?,
            cancellations: read_lines(&self.folder.join(CANCELLATIONS_FILE))?,
        })
    }

    fn ended_early(&self, status: ExitStatus) -> anyhow::Error {
        let log = fs::read_to_string(self.folder.join("loadtest.log")).unwrap_or_default();
        anyhow!(
            "the load ended early ({status}): {}",
            tail(log.trim(), LOG_LINES)
        )
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Closed, it tells the load to end.
        drop(self.child.stdin.take());
        let ended = wait::until(ENDED_WITHIN, TICK, || Ok(self.child.try_wait()?));
        if !matches!(ended, Ok(Some(_))) {
            // After Ctrl-C there is no time to wait: everything that it knows is on disk already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn read_lines<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let line = |line| {
        serde_json::from_str(line)
            .with_context(|| format!("failed to understand {}", path.display()))
    };
    text.lines().map(line).collect()
}
