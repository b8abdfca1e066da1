//! Samples of an arm while it runs: how many orders have no end yet, and how many events are not published.
//!
//! Left out: everything else that waits, such as messages in queues.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use records::evaluation::Sample;
use system::{running::RunningSystem, wait};

/// The pause between two samples; taking one needs a tenth of a second more.
const INTERVAL: Duration = Duration::from_millis(400);
/// How often it is looked whether the sampler was stopped.
const TICK: Duration = Duration::from_millis(50);
/// Nothing runs for longer than this; a sampler that nobody stops ends by itself.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// Takes samples until it is stopped.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    taken: Mutex<Vec<Sample>>,
    stopped: AtomicBool,
}

impl Sampler {
    /// Takes samples until [`Sampler::stop`]. One that fails, because the database is down, is left out.
    pub(crate) fn run(&self, system: &RunningSystem<'_>, since: DateTime<Utc>) {
        let mut last: Option<Instant> = None;
        let _ = wait::until(LIMIT, TICK, || {
            if self.stopped.load(Ordering::Relaxed) {
                return Ok(Some(()));
            }
            if last.is_none_or(|last| last.elapsed() >= INTERVAL) {
                if let Ok(sample) = take(system, since) {
                    self.lock().push(sample);
                }
                last = Some(Instant::now());
            }
            Ok(None)
        });
    }

    /// Ends [`Sampler::run`] after the current sample.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// The samples so far.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Sample>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes one sample, from both databases.
fn take(system: &RunningSystem<'_>, since: DateTime<Utc>) -> anyhow::Result<Sample> {
    let orders = format!(
        "SELECT count(*) FILTER (WHERE status NOT IN ('pending', 'cancelling')),
                count(*) FILTER (WHERE status IN ('pending', 'cancelling'))
         FROM orders WHERE placed_at >= '{}'",
        since.to_rfc3339()
    );
    let unpublished = "SELECT count(*) FROM outbox WHERE published_at IS NULL";
    // Before the query: a later time would claim to include what happened meanwhile.
    let at = Utc::now();
    let [orders, ours, theirs] = system.query_all([
        ("orders", &orders),
        ("orders", unpublished),
        ("inventory", unpublished),
    ])?;
    let number = |rows: &[Vec<String>], column: usize| -> anyhow::Result<u64> {
        let value = rows.first().and_then(|row| row.get(column));
        let value = value.and_then(|text| text.parse().ok());
        value.ok_or_else(|| anyhow::anyhow!("the databases answered {rows:?}"))
    };
    Ok(Sample {
        at,
        decided: number(&orders, 0)?,
        undecided: number(&orders, 1)?,
        unpublished: number(&ours, 0)? + number(&theirs, 0)?,
    })
}
