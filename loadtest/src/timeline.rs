//! The measurements per second, in memory.

use std::time::Duration;

use records::load::{LatencySummary, TimelineSecond};
use serde::{Deserialize, Serialize};

/// Every second of the measured part until the last answer.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Timeline {
    seconds: Vec<Second>,
    last_answered: Duration,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Second {
    /// Four bytes per request: an hour at a thousand per second is 14 MB.
    latencies_us: Vec<u32>,
    failed: u64,
    not_sent: u64,
}

impl Timeline {
    /// Counts a request scheduled at `offset` from the beginning whose answer, or its absence, came after `latency`.
    pub(crate) fn count(&mut self, offset: Duration, latency: Duration, failed: bool) {
        let answered = offset + latency;
        self.last_answered = self.last_answered.max(answered);
        self.second(answered);
        let second = self.second(offset);
        second
            .latencies_us
            .push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
        second.failed += u64::from(failed);
    }

    /// Counts an arrival scheduled at `offset` from the beginning that was not sent because the concurrency limit was reached.
    pub(crate) fn count_not_sent(&mut self, offset: Duration) {
        self.second(offset).not_sent += 1;
    }

    /// Adds another worker's measurements: both count from the same beginning.
    pub(crate) fn add(&mut self, other: Self) {
        self.last_answered = self.last_answered.max(other.last_answered);
        if self.seconds.len() < other.seconds.len() {
            self.seconds
                .resize_with(other.seconds.len(), Second::default);
        }
        for (second, other) in self.seconds.iter_mut().zip(other.seconds) {
            second.latencies_us.extend(other.latencies_us);
            second.failed += other.failed;
            second.not_sent += other.not_sent;
        }
    }

    /// The second of `offset`; created with all seconds before it if missing.
    fn second(&mut self, offset: Duration) -> &mut Second {
        // A run ends after a day, a request after ten seconds: this fits anywhere.
        let index = offset.as_secs() as usize;
        if index >= self.seconds.len() {
            self.seconds.resize_with(index + 1, Second::default);
        }
        &mut self.seconds[index]
    }

    pub(crate) fn sent(&self) -> usize {
        self.seconds.iter().map(|s| s.latencies_us.len()).sum()
    }

    pub(crate) fn not_sent(&self) -> u64 {
        self.seconds.iter().map(|s| s.not_sent).sum()
    }

    /// Requests per second from the beginning to the last answer.
    pub(crate) fn requests_per_second(&self) -> f64 {
        if self.last_answered.is_zero() {
            return 0.0;
        }
        self.sent() as f64 / self.last_answered.as_secs_f64()
    }

    /// The latency of all requests together.
    pub(crate) fn latency(&self) -> LatencySummary {
        let all = sorted(self.seconds.iter().flat_map(|s| &s.latencies_us).copied());
        let percentile_ms = |fraction| percentile_ms(&all, fraction).unwrap_or_default();
        LatencySummary {
            p50_ms: percentile_ms(0.50),
            p95_ms: percentile_ms(0.95),
            p99_ms: percentile_ms(0.99),
            max_ms: percentile_ms(1.0),
        }
    }

    /// The record's form.
    pub(crate) fn seconds(&self) -> impl Iterator<Item = TimelineSecond> {
        (0..).zip(&self.seconds).map(|(number, second)| {
            let latencies_us = sorted(second.latencies_us.iter().copied());
            let sent = latencies_us.len() as u64;
            TimelineSecond {
                second: number,
                sent,
                succeeded: sent - second.failed,
                failed: second.failed,
                not_sent: second.not_sent,
                p50_ms: percentile_ms(&latencies_us, 0.50),
                p99_ms: percentile_ms(&latencies_us, 0.99),
                max_ms: percentile_ms(&latencies_us, 1.0),
            }
        })
    }
}

pub(crate) fn sorted(latencies_us: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut sorted: Vec<_> = latencies_us.collect();
    sorted.sort_unstable();
    sorted
}

/// The nearest-rank percentile: the smallest value that at least `fraction` of all values don't exceed.
pub(crate) fn percentile_ms(sorted_us: &[u32], fraction: f64) -> Option<f64> {
    let rank = (fraction * sorted_us.len() as f64).ceil() as usize;
    let us = sorted_us.get(rank.saturating_sub(1))?;
    Some(f64::from(*us) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn percentiles_are_measured_values() {
        let hundred: Vec<u32> = (1..=100).map(|ms| ms * 1000).collect();
        assert_eq!(percentile_ms(&hundred, 0.50), Some(50.0));
        assert_eq!(percentile_ms(&hundred, 0.95), Some(95.0));
        assert_eq!(percentile_ms(&hundred, 0.99), Some(99.0));
        assert_eq!(percentile_ms(&hundred, 1.0), Some(100.0));
        assert_eq!(percentile_ms(&[1500], 0.50), Some(1.5));
        assert_eq!(percentile_ms(&[], 0.95), None);
    }

    #[test]
    fn a_request_belongs_to_the_second_for_which_it_was_scheduled() {
        let mut timeline = Timeline::default();
        timeline.count(ms(999), ms(1500), true);
        timeline.count(ms(1000), ms(20), false);
        timeline.count(ms(1001), ms(10), false);

        let seconds: Vec<_> = timeline.seconds().collect();
        assert_eq!((seconds[0].sent, seconds[0].failed), (1, 1));
        assert_eq!(seconds[0].max_ms, Some(1500.0));
        assert_eq!((seconds[1].sent, seconds[1].succeeded), (2, 2));
        assert_eq!(
            (seconds[1].p50_ms, seconds[1].p99_ms),
            (Some(10.0), Some(20.0))
        );
    }

    #[test]
    fn the_timeline_has_every_second_until_the_last_answer() {
        let mut timeline = Timeline::default();
        timeline.count(ms(3500), ms(2000), false);
        timeline.count(ms(100), ms(1), false);
        timeline.count_not_sent(ms(4000));

        let seconds: Vec<_> = timeline.seconds().collect();
        let numbers: Vec<_> = seconds.iter().map(|s| s.second).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
        let sent: Vec<_> = seconds.iter().map(|s| s.sent).collect();
        assert_eq!(sent, [1, 0, 0, 1, 0, 0]);
        assert_eq!(seconds[4].not_sent, 1);
        assert_eq!((seconds[5].p50_ms, seconds[5].max_ms), (None, None));
        assert_eq!((timeline.sent(), timeline.not_sent()), (2, 1));
    }

    #[test]
    fn a_run_without_answers_has_no_rate() {
        assert_eq!(Timeline::default().requests_per_second(), 0.0);
    }
}
