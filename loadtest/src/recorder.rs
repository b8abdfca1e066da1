//! Counts every request of a run once, preparation included, and keeps what the summary is made of.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use load_record::{LatencySummary, LedgerEntry, OrderCount, RequestCount};

use crate::gateway::Route;
use crate::ledger::Ledger;

/// Shared by all users of a run.
#[derive(Debug)]
pub(crate) struct Recorder {
    tally: Mutex<Tally>,
    ledger: Mutex<Ledger>,
}

impl Recorder {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self {
            tally: Mutex::default(),
            ledger: Mutex::new(ledger),
        }
    }

    /// A request of the preparation was answered, or not.
    pub(crate) fn count_preparation(&self, route: Route, status: Option<u16>) {
        lock(&self.tally).count(route, status);
    }

    /// A request of the measured part was answered, or not; `failure` says why it failed.
    pub(crate) fn count_measured(
        &self,
        route: Route,
        status: Option<u16>,
        latency: Duration,
        failure: Option<&str>,
    ) {
        let mut tally = lock(&self.tally);
        tally.count(route, status);
        tally
            .latencies_us
            .push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
        let answered = Instant::now();
        tally.first_sent.get_or_insert(answered - latency);
        tally.last_answered = Some(answered);
        if let Some(reason) = failure {
            *tally
                .failures
                .entry((route, reason.to_owned()))
                .or_default() += 1;
        }
    }

    /// An order was tried. An order that can't be recorded ends the run: its counts would be wrong.
    pub(crate) fn record_order(&self, entry: &LedgerEntry) {
        if !lock(&self.ledger).append(entry) {
            goose::trigger_killswitch("the ledger can't be written");
        }
    }

    /// Requests until now, preparation included, and those that failed.
    pub(crate) fn so_far(&self) -> (u64, usize) {
        let tally = lock(&self.tally);
        (tally.requests.values().sum(), tally.failed())
    }

    /// Everything, once the last user has ended.
    pub(crate) fn finish(&self) -> anyhow::Result<Tally> {
        let orders = lock(&self.ledger).finish()?;
        let mut tally = std::mem::take(&mut *lock(&self.tally));
        tally.orders = orders;
        tally.latencies_us.sort_unstable();
        Ok(tally)
    }
}

/// Each change is a whole one, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    requests: BTreeMap<(Route, Option<u16>), u64>,
    failures: BTreeMap<(Route, String), usize>,
    /// Four bytes a request: an hour at a thousand a second is 14 MB. Sorted once finished.
    latencies_us: Vec<u32>,
    first_sent: Option<Instant>,
    last_answered: Option<Instant>,
    orders: OrderCount,
}

impl Tally {
    fn count(&mut self, route: Route, status: Option<u16>) {
        *self.requests.entry((route, status)).or_default() += 1;
    }

    pub(crate) fn requests(&self) -> Vec<RequestCount> {
        self.requests
            .iter()
            .map(|(&(route, status), &count)| RequestCount {
                method: route.method.as_str().to_owned(),
                route: route.template.to_owned(),
                status,
                count,
            })
            .collect()
    }

    /// Why requests failed and how often, the most frequent first.
    pub(crate) fn failures(&self) -> Vec<(Route, &str, usize)> {
        let mut failures: Vec<_> = self
            .failures
            .iter()
            .map(|((route, reason), &count)| (*route, reason.as_str(), count))
            .collect();
        failures.sort_by_key(|&(_, _, count)| std::cmp::Reverse(count));
        failures
    }

    pub(crate) fn measured(&self) -> usize {
        self.latencies_us.len()
    }

    pub(crate) fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    pub(crate) fn orders(&self) -> OrderCount {
        self.orders
    }

    /// From the first request to the last answer: goose takes a while to start and to wind down.
    pub(crate) fn requests_per_second(&self) -> f64 {
        match (self.first_sent, self.last_answered) {
            (Some(first), Some(last)) => {
                self.measured() as f64 / last.duration_since(first).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    pub(crate) fn latency(&self) -> LatencySummary {
        LatencySummary {
            p50_ms: percentile_ms(&self.latencies_us, 0.50),
            p95_ms: percentile_ms(&self.latencies_us, 0.95),
            p99_ms: percentile_ms(&self.latencies_us, 0.99),
            max_ms: percentile_ms(&self.latencies_us, 1.0),
        }
    }
}

/// The nearest-rank percentile: the least value that at least `fraction` of all values don't exceed.
fn percentile_ms(sorted_us: &[u32], fraction: f64) -> f64 {
    let rank = (fraction * sorted_us.len() as f64).ceil() as usize;
    sorted_us
        .get(rank.saturating_sub(1))
        .map_or(0.0, |&us| f64::from(us) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder() -> (tempfile::TempDir, Recorder) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let ledger = Ledger::create(dir.path()).expect("a new ledger");
        (dir, Recorder::new(ledger))
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<u32> = (1..=100).map(|ms| ms * 1000).collect();
        assert_eq!(percentile_ms(&hundred, 0.50), 50.0);
        assert_eq!(percentile_ms(&hundred, 0.95), 95.0);
        assert_eq!(percentile_ms(&hundred, 0.99), 99.0);
        assert_eq!(percentile_ms(&hundred, 1.0), 100.0);
        assert_eq!(percentile_ms(&[1500], 0.50), 1.5);
        assert_eq!(percentile_ms(&[], 0.95), 0.0);
    }

    #[test]
    fn every_request_is_counted_once_by_route_and_status() {
        let (_dir, recorder) = recorder();
        let quick = Duration::from_millis(1);
        recorder.count_preparation(Route::LOG_IN, Some(200));
        recorder.count_measured(Route::LOG_IN, Some(200), quick, None);
        recorder.count_measured(Route::LOG_IN, Some(503), quick, Some("503"));
        recorder.count_measured(Route::LOG_IN, None, quick, Some("no answer"));

        let tally = recorder.finish().expect("a whole ledger");
        let counts: Vec<_> = tally
            .requests()
            .iter()
            .map(|r| (r.status, r.count))
            .collect();
        assert_eq!(counts, [(None, 1), (Some(200), 2), (Some(503), 1)]);
        assert_eq!((tally.measured(), tally.failed()), (3, 2));
    }

    #[test]
    fn the_most_frequent_failure_comes_first() {
        let (_dir, recorder) = recorder();
        for reason in ["rare", "often", "often"] {
            recorder.count_measured(Route::READ_ME, Some(500), Duration::ZERO, Some(reason));
        }
        let tally = recorder.finish().expect("a whole ledger");
        let reasons: Vec<_> = tally.failures().iter().map(|f| (f.1, f.2)).collect();
        assert_eq!(reasons, [("often", 2), ("rare", 1)]);
    }

    #[test]
    fn a_run_without_answers_has_no_rate() {
        assert_eq!(Tally::default().requests_per_second(), 0.0);
    }
}
