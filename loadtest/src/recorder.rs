//! Counts every request of a run once, preparation included, and collects the data of the summary.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use chrono::{DateTime, Utc};
use records::load::{CancellationEntry, LatencySummary, LedgerEntry, OrderCount, RequestCount};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::gateway::{Answer, Route};
use crate::ledger::Ledger;
use crate::pairs;
use crate::routes::{Group, Routes};
use crate::timeline::Timeline;

/// Shared by all users of a run.
#[derive(Debug)]
pub(crate) struct Recorder {
    beginning: OnceLock<Beginning>,
    tally: Mutex<Tally>,
    ledger: Mutex<Ledger>,
    stop: CancellationToken,
}

/// When the measured part began, on both clocks: a monotonic one for measuring, and a date for the record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beginning {
    pub(crate) instant: Instant,
    pub(crate) utc: DateTime<Utc>,
}

impl Beginning {
    /// A moment that is near.
    pub(crate) fn at(utc: DateTime<Utc>) -> Self {
        let (instant, now) = (Instant::now(), Utc::now());
        let instant = match (utc - now).to_std() {
            Ok(ahead) => instant + ahead,
            // Late by what the machine took: what was due meanwhile is sent at once.
            Err(_) => instant - (now - utc).to_std().unwrap_or_default(),
        };
        Self { instant, utc }
    }

    /// The date of a moment of the measured part.
    pub(crate) fn date(&self, moment: Instant) -> DateTime<Utc> {
        self.utc + moment.duration_since(self.instant)
    }
}

/// The progress of a run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Preparation included.
    pub(crate) requests: u64,
    pub(crate) failed: usize,
    pub(crate) not_sent: u64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests, {} failed", self.requests, self.failed)?;
        match self.not_sent {
            0 => Ok(()),
            count => write!(f, ", {count} not sent"),
        }
    }
}

impl Recorder {
    /// An error of the ledger ends the run through `stop`: its counts would be wrong.
    pub(crate) fn new(ledger: Ledger, stop: CancellationToken) -> Self {
        Self {
            beginning: OnceLock::new(),
            tally: Mutex::default(),
            ledger: Mutex::new(ledger),
            stop,
        }
    }

    /// Begins the measured part at a moment that was agreed with others.
    pub(crate) fn begin(&self, beginning: Beginning) {
        self.beginning.get_or_init(|| beginning);
    }

    /// When the measured part began; the first call begins it.
    pub(crate) fn beginning(&self) -> Beginning {
        *self.beginning.get_or_init(|| Beginning {
            instant: Instant::now(),
            utc: Utc::now(),
        })
    }

    /// Counts a request of the preparation.
    pub(crate) fn count_preparation(&self, route: Route, status: Option<u16>) {
        lock(&self.tally).count(route, status);
    }

    /// Counts a request of the measured part.
    pub(crate) fn count_measured<T>(&self, route: Route, group: Group, answer: &Answer<T>) {
        let offset = answer.since.duration_since(self.beginning().instant);
        let mut tally = lock(&self.tally);
        tally.count(route, answer.status);
        let failed = answer.outcome.is_err();
        tally.timeline.count(offset, answer.latency, failed);
        let came = (answer.status, answer.latency);
        tally.routes.count((route, group), offset, came, failed);
        if let Err(reason) = &answer.outcome {
            *tally.failures.entry((route, reason.clone())).or_default() += 1;
        }
    }

    /// Counts a stale answer to a request of the measured part that was counted before.
    pub(crate) fn count_stale(&self, whose: (Route, Group), since: Instant) {
        let offset = since.duration_since(self.beginning().instant);
        lock(&self.tally).routes.count_stale(whose, offset);
    }

    /// Counts an action scheduled for `intended` that was not sent because the concurrency limit was reached.
    pub(crate) fn count_not_sent(&self, intended: Instant) {
        let offset = intended.duration_since(self.beginning().instant);
        lock(&self.tally).timeline.count_not_sent(offset);
    }

    /// Records an order.
    pub(crate) fn record_order(&self, entry: &LedgerEntry) {
        if !lock(&self.ledger).append_order(entry) {
            self.stop.cancel();
        }
    }

    /// Records a cancellation.
    pub(crate) fn record_cancellation(&self, entry: &CancellationEntry) {
        if !lock(&self.ledger).append_cancellation(entry) {
            self.stop.cancel();
        }
    }

    pub(crate) fn so_far(&self) -> Progress {
        let tally = lock(&self.tally);
        Progress {
            requests: tally.requests.values().sum(),
            failed: tally.failed(),
            not_sent: tally.not_sent(),
        }
    }

    /// The final counts, once the last user has ended.
    pub(crate) fn finish(&self) -> anyhow::Result<Tally> {
        let orders = lock(&self.ledger).finish()?;
        let mut tally = std::mem::take(&mut *lock(&self.tally));
        tally.orders = orders;
        Ok(tally)
    }
}

/// Each change is complete, so a panic elsewhere leaves no inconsistent state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The counts.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    #[serde(with = "pairs")]
    requests: BTreeMap<(Route, Option<u16>), u64>,
    #[serde(with = "pairs")]
    failures: BTreeMap<(Route, String), usize>,
    timeline: Timeline,
    routes: Routes,
    orders: OrderCount,
}

impl Tally {
    /// Adds another worker's counts.
    pub(crate) fn add(&mut self, other: Self) {
        for (answer, count) in other.requests {
            *self.requests.entry(answer).or_default() += count;
        }
        for (failure, count) in other.failures {
            *self.failures.entry(failure).or_default() += count;
        }
        self.timeline.add(other.timeline);
        self.routes.add(other.routes);
        self.orders.tried += other.orders.tried;
        self.orders.accepted += other.orders.accepted;
    }

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

    /// The reasons of failed requests with their counts, the most frequent first.
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
        self.timeline.sent()
    }

    pub(crate) fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    pub(crate) fn not_sent(&self) -> u64 {
        self.timeline.not_sent()
    }

    /// The fraction of intended requests that failed or were not sent. Requires at least one measured request.
    pub(crate) fn error_rate(&self) -> f64 {
        let not_sent = self.not_sent() as f64;
        (self.failed() as f64 + not_sent) / (self.measured() as f64 + not_sent)
    }

    pub(crate) fn orders(&self) -> OrderCount {
        self.orders
    }

    pub(crate) fn requests_per_second(&self) -> f64 {
        self.timeline.requests_per_second()
    }

    pub(crate) fn latency(&self) -> LatencySummary {
        self.timeline.latency()
    }

    pub(crate) fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    pub(crate) fn routes(&self) -> &Routes {
        &self.routes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn recorder() -> (tempfile::TempDir, Recorder) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let ledger = Ledger::create(dir.path()).expect("a new ledger");
        (dir, Recorder::new(ledger, CancellationToken::new()))
    }

    fn answer(recorder: &Recorder, status: Option<u16>, failure: Option<&str>) -> Answer<()> {
        Answer {
            since: recorder.beginning().instant,
            status,
            latency: Duration::from_millis(1),
            trace: None,
            outcome: failure.map_or(Ok(()), |reason| Err(reason.to_owned())),
        }
    }

    #[test]
    fn every_request_is_counted_once_by_route_and_status() {
        let (_dir, recorder) = recorder();
        recorder.count_preparation(Route::LOG_IN, Some(200));
        for (status, failure) in [
            (Some(200), None),
            (Some(503), Some("503")),
            (None, Some("no answer")),
        ] {
            recorder.count_measured(Route::LOG_IN, None, &answer(&recorder, status, failure));
        }

        let tally = recorder.finish().expect("a whole ledger");
        let counts: Vec<_> = tally
            .requests()
            .iter()
            .map(|r| (r.status, r.count))
            .collect();
        assert_eq!(counts, [(None, 1), (Some(200), 2), (Some(503), 1)]);
        assert_eq!((tally.measured(), tally.failed()), (3, 2));
    }

    /// What two workers wrote, added, is what one would have written who had sent it all.
    #[test]
    fn the_counts_of_workers_add_up_to_those_of_one() {
        let fill = |recorder: &Recorder, from: u16, to: u16| {
            for number in from..to {
                let failed = number % 3 == 0;
                let answer = Answer {
                    since: recorder.beginning().instant
                        + Duration::from_millis(700) * u32::from(number),
                    latency: Duration::from_millis(u64::from(number) * 7 % 100),
                    ..answer(recorder, Some(200 + number % 2), failed.then_some("broken"))
                };
                let group = (number % 2 == 0).then_some("greedy");
                recorder.count_measured(Route::READ_ME, group, &answer);
                recorder.count_stale((Route::READ_ME, group), answer.since);
                recorder.count_not_sent(answer.since);
            }
            recorder.count_preparation(Route::LOG_IN, None);
            recorder.finish().expect("a whole ledger")
        };
        let json = |tally: &Tally| serde_json::to_string(tally).expect("JSON");
        let ((_a, first), (_b, second), (_c, one)) = (recorder(), recorder(), recorder());
        let mut sum = fill(&first, 0, 5);
        let other = json(&fill(&second, 5, 12));
        sum.add(serde_json::from_str(&other).expect("it reads what it wrote"));
        let mut all = fill(&one, 0, 12);
        all.count(Route::LOG_IN, None);
        assert_eq!(json(&sum), json(&all));
        assert_eq!(sum.measured(), 12);
    }

    #[test]
    fn the_most_frequent_failure_comes_first() {
        let (_dir, recorder) = recorder();
        for reason in ["rare", "often", "often"] {
            let answer = answer(&recorder, Some(500), Some(reason));
            recorder.count_measured(Route::READ_ME, None, &answer);
        }
        let tally = recorder.finish().expect("a whole ledger");
        let reasons: Vec<_> = tally.failures().iter().map(|f| (f.1, f.2)).collect();
        assert_eq!(reasons, [("often", 2), ("rare", 1)]);
    }

    #[test]
    fn unsent_arrivals_count_as_failed_in_the_error_rate_only() {
        let (_dir, recorder) = recorder();
        for failure in [None, Some("503")] {
            let answer = answer(&recorder, Some(200), failure);
            recorder.count_measured(Route::READ_ME, None, &answer);
        }
        for _ in 0..2 {
            recorder.count_not_sent(recorder.beginning().instant);
        }
        let tally = recorder.finish().expect("a whole ledger");
        assert_eq!(
            (tally.measured(), tally.failed(), tally.not_sent()),
            (2, 1, 2)
        );
        assert_eq!(tally.error_rate(), 0.75);
    }
}
