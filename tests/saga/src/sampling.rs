//! How much is traced by a caller's decision, and whether the spans that the services exported agree with it.
//!
//! For the benchmark, whose measurements are invalid otherwise. Left out: which spans they are;
//! `cargo xtask verify-traces` checks that.

use testkit::series;
use uuid::Uuid;

/// The spans that every decided order has, whatever was handled in batches: the request, and the send and process spans of
/// its two events.
const LEAST_AN_ORDER: u64 = 5;

/// How many of a caller's traces are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// None.
    Off,
    /// Every tenth.
    Tenth,
    /// All.
    Full,
}

impl Sampling {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Off, Self::Tenth, Self::Full];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Tenth => "sampled at 10 %",
            Self::Full => "full",
        }
    }

    /// The `traceparent` of the request with this number, counted from 0; each is a trace of its own.
    pub fn traceparent(self, number: usize) -> String {
        let sampled = match self {
            Self::Off => false,
            Self::Tenth => number.is_multiple_of(10),
            Self::Full => true,
        };
        // A version 4 UUID is never all zeros, and neither is its first half, which contains the version.
        let id = Uuid::new_v4();
        let (span, _) = id.as_u64_pair();
        format!("00-{}-{span:016x}-{:02x}", id.simple(), u8::from(sampled))
    }

    /// How many of that many requests are sampled.
    fn sampled(self, orders: u64) -> u64 {
        match self {
            Self::Off => 0,
            Self::Tenth => orders.div_ceil(10),
            Self::Full => orders,
        }
    }

    /// Why the spans of that many orders don't match this sampling, if they don't.
    pub fn objection(self, orders: usize, spans: Spans) -> Option<String> {
        let (orders, sent) = (orders as u64, spans.sent);
        let least = LEAST_AN_ORDER * self.sampled(orders);
        if spans.lost() > 0 {
            return Some(format!(
                "{} spans were lost: {} dropped, {} not accepted by the store",
                spans.lost(),
                spans.dropped,
                spans.failed
            ));
        }
        if sent < least {
            return Some(format!(
                "{sent} spans of {orders} orders were sent, of at least {least}"
            ));
        }
        match self {
            Self::Off if sent > 0 => {
                Some(format!("{sent} spans were sent, and none was requested"))
            }
            Self::Tenth if sent >= LEAST_AN_ORDER * orders => Some(format!(
                "{sent} spans of {orders} orders were sent, as many as for all of them"
            )),
            _ => None,
        }
    }
}

/// The spans that ended, by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spans {
    /// The trace store confirmed them.
    pub sent: u64,
    /// The trace store refused them, or did not answer.
    pub failed: u64,
    /// The export queue was full.
    pub dropped: u64,
    /// Still queued, or being sent.
    pub queued: u64,
}

impl Spans {
    /// Reads a service's `/metrics`; `None` when a count is missing.
    pub fn read(metrics: &str) -> Option<Self> {
        let count = |name: &str| series(metrics, name).map(|value| value as u64);
        let ended = |outcome| count(&format!("agora_spans_total{{outcome=\"{outcome}\"}}"));
        Some(Self {
            sent: ended("sent")?,
            failed: ended("failed")?,
            dropped: ended("dropped")?,
            queued: count("agora_spans_queued")?,
        })
    }

    /// Adds another service's.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            failed: self.failed + other.failed,
            dropped: self.dropped + other.dropped,
            queued: self.queued + other.queued,
        }
    }

    /// The outcomes since then; spans queued now count as queued.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            sent: self.sent - before.sent,
            failed: self.failed - before.failed,
            dropped: self.dropped - before.dropped,
            queued: self.queued,
        }
    }

    /// Those that no store will ever receive.
    pub fn lost(self) -> u64 {
        self.failed + self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(sent: u64, failed: u64, dropped: u64) -> Spans {
        Spans {
            sent,
            failed,
            dropped,
            queued: 0,
        }
    }

    #[test]
    fn requests_are_sampled_at_the_stated_rate_and_no_two_share_a_trace() {
        for sampling in Sampling::ALL {
            let all: Vec<_> = (0..25).map(|number| sampling.traceparent(number)).collect();
            let flagged = all.iter().filter(|one| one.ends_with("-01")).count();
            assert_eq!(flagged as u64, sampling.sampled(25), "{all:?}");
            for one in &all {
                let lengths: Vec<_> = one.split('-').map(str::len).collect();
                assert_eq!(lengths, [2, 32, 16, 2], "{one}");
                let others = all.iter().filter(|other| other[..35] == one[..35]);
                assert_eq!(others.count(), 1, "{one}");
            }
        }
    }

    #[test]
    fn spans_that_match_the_sampling_are_accepted() {
        for (sampling, sent) in [
            (Sampling::Off, 0),
            (Sampling::Tenth, 3 * 9),
            (Sampling::Full, 25 * 9),
        ] {
            assert_eq!(sampling.objection(25, spans(sent, 0, 0)), None);
        }
    }

    #[test]
    fn unrequested_missing_and_lost_spans_are_objections() {
        for (sampling, spans, expected) in [
            (Sampling::Off, spans(1, 0, 0), "none was requested"),
            (Sampling::Tenth, spans(0, 0, 0), "of at least 15"),
            (Sampling::Tenth, spans(25 * 5, 0, 0), "as for all of them"),
            (Sampling::Full, spans(0, 0, 0), "of at least 125"),
            (Sampling::Full, spans(25 * 9, 0, 1), "1 dropped"),
            (Sampling::Full, spans(25 * 9, 2, 0), "2 not accepted"),
            (Sampling::Off, spans(0, 0, 1), "1 dropped"),
        ] {
            let objection = sampling.objection(25, spans).unwrap_or_default();
            assert!(objection.contains(expected), "{objection:?}: {expected}");
        }
    }

    #[test]
    fn a_missing_count_is_not_read_as_zero() {
        let text = "agora_spans_total{outcome=\"sent\"} 7\nagora_spans_total{outcome=\"failed\"} 2\n\
                    agora_spans_total{outcome=\"dropped\"} 1\nagora_spans_queued 3\n# EOF\n";
        let read = Spans::read(text).unwrap();
        assert_eq!((read.lost(), read.queued), (3, 3));
        let later = Spans { sent: 9, ..read };
        assert_eq!(
            later.since(read),
            spans(2, 0, 0).and(Spans {
                queued: 3,
                ..spans(0, 0, 0)
            })
        );
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert_eq!(Spans::read(&text.replace(line, "")), None, "{line}");
        }
    }
}
