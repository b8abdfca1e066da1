//! The circuit breaker: calls to a target that keeps failing are not made for a while.
//!
//! *Closed*, calls are made, and the last [`WINDOW`] outcomes are remembered; when too many of them failed it *opens*.
//! *Open*, no call is made for a stated time. Then it is *half open*: one call at a time is let through, until
//! [`PROBES`] in a row succeeded (closed again, with nothing remembered) or one failed (open again). After Michael
//! Nygard, "Release It!", and <https://martinfowler.com/bliki/CircuitBreaker.html>.
//!
//! A call with a *short deadline* gives the target less time than it may take. Its success counts; its timeout doesn't. So
//! that it can't take the place of a probe whose failure would count, it has a place of its own beside the probe's.
//!
//! Own code, as recloser 1.4 doesn't expose its state, lets any number of calls through when half open, takes the
//! late answer of an old call for a probe's, and has a clock that a test can't move. Left out: what counts as a failure,
//! which the caller decides ([`crate::outbound`]).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::metrics::{BreakerState, CallMetrics};

/// How many outcomes are remembered.
const WINDOW: u32 = 20;
/// How many probes must succeed, one after the other.
const PROBES: u32 = 3;

/// One target's breaker.
pub(crate) struct Breaker {
    /// It opens when this many of the last [`WINDOW`] calls failed.
    failures: u32,
    open_for: Duration,
    /// A call that ended without an outcome after this time has failed.
    failure_timeout: Duration,
    metrics: CallMetrics,
    inner: Mutex<Inner>,
}

struct Inner {
    phase: Phase,
    /// Grows with every transition: the outcome of a call from before one is stale, and ignored.
    generation: u64,
}

enum Phase {
    /// A bit for each outcome, the last one the lowest; 1 is a failure.
    Closed {
        outcomes: u32,
    },
    Open {
        until: Instant,
    },
    HalfOpen {
        /// The probes in flight.
        probing: Probing,
        succeeded: u32,
    },
}

/// The places of a half-open breaker that are taken.
#[derive(Default)]
struct Probing {
    full_time: bool,
    short_deadline: bool,
}

impl Probing {
    fn place(&mut self, short_deadline: bool) -> &mut bool {
        if short_deadline {
            &mut self.short_deadline
        } else {
            &mut self.full_time
        }
    }
}

impl Phase {
    fn state(&self) -> BreakerState {
        match self {
            Self::Closed { .. } => BreakerState::Closed,
            Self::Open { .. } => BreakerState::Open,
            Self::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }
}

/// Permission to make one call. Dropped without an outcome, as when the caller gave up, it counts as a failure only if the
/// call had its full time: callers with short deadlines must not open the breaker for all others.
pub(crate) struct Permit {
    breaker: Arc<Breaker>,
    generation: u64,
    began: Instant,
    short_deadline: bool,
    failed: Option<bool>,
}

impl Permit {
    /// The target answered, with whatever status.
    pub(crate) fn succeeded(mut self) {
        self.failed = Some(false);
    }

    /// The target did not do its work.
    pub(crate) fn failed(mut self) {
        self.failed = Some(true);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let failed = self
            .failed
            .or_else(|| (self.began.elapsed() >= self.breaker.failure_timeout).then_some(true));
        self.breaker
            .record(self.generation, self.short_deadline, failed);
    }
}

impl Breaker {
    /// Closed.
    pub(crate) fn new(
        failures: u32,
        open_for: Duration,
        failure_timeout: Duration,
        metrics: CallMetrics,
    ) -> Self {
        metrics.breaker_is(BreakerState::Closed);
        Self {
            failures,
            open_for,
            failure_timeout,
            metrics,
            inner: Mutex::new(Inner {
                phase: Phase::Closed { outcomes: 0 },
                generation: 0,
            }),
        }
    }

    /// Permits a call that may take `time`, `None` without a limit; `None` while the breaker is open, or half open with
    /// another call of that kind in flight.
    pub(crate) fn admit(self: &Arc<Self>, time: Option<Duration>) -> Option<Permit> {
        let short_deadline = self.is_short_deadline(time);
        let mut inner = self.lock();
        let now = Instant::now();
        if let Phase::Open { until } = inner.phase {
            if now < until {
                return None;
            }
            let half_open = Phase::HalfOpen {
                probing: Probing::default(),
                succeeded: 0,
            };
            self.enter(&mut inner, half_open);
        }
        if let Phase::HalfOpen { probing, .. } = &mut inner.phase
            && std::mem::replace(probing.place(short_deadline), true)
        {
            return None;
        }
        Some(Permit {
            breaker: Arc::clone(self),
            generation: inner.generation,
            began: now,
            short_deadline,
            failed: None,
        })
    }

    /// Whether a call with this much time ends before the target had its full time.
    pub(crate) fn is_short_deadline(&self, time: Option<Duration>) -> bool {
        time.is_some_and(|time| time < self.failure_timeout)
    }

    /// `failed` is `None` when the call shows nothing about the target's health.
    fn record(&self, generation: u64, short_deadline: bool, failed: Option<bool>) {
        let mut inner = self.lock();
        if inner.generation != generation {
            return;
        }
        let opened = || Phase::Open {
            until: Instant::now() + self.open_for,
        };
        let next = match (&mut inner.phase, failed) {
            (Phase::Closed { outcomes }, Some(failed)) => {
                *outcomes = ((*outcomes << 1) | u32::from(failed)) & ((1 << WINDOW) - 1);
                (outcomes.count_ones() >= self.failures).then(opened)
            }
            (Phase::HalfOpen { .. }, Some(true)) => Some(opened()),
            (Phase::HalfOpen { probing, succeeded }, failed) => {
                *probing.place(short_deadline) = false;
                *succeeded += u32::from(failed.is_some());
                (*succeeded >= PROBES).then_some(Phase::Closed { outcomes: 0 })
            }
            (Phase::Closed { .. }, None) | (Phase::Open { .. }, _) => None,
        };
        if let Some(next) = next {
            self.enter(&mut inner, next);
        }
    }

    fn enter(&self, inner: &mut Inner, phase: Phase) {
        let (from, to) = (inner.phase.state(), phase.state());
        inner.phase = phase;
        inner.generation += 1;
        self.metrics.breaker_moved(from, to);
        let target = self.metrics.target();
        match to {
            BreakerState::Open => warn!(target_service = target, "circuit breaker opened"),
            BreakerState::HalfOpen => info!(target_service = target, "circuit breaker probes"),
            BreakerState::Closed => info!(target_service = target, "circuit breaker closed"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    const OPEN_FOR: Duration = Duration::from_secs(1);
    const FAILURE_TIMEOUT: Duration = Duration::from_secs(2);

    fn breaker(failures: u32) -> (Arc<Breaker>, Metrics) {
        let metrics = Metrics::new("test");
        let calls = metrics.calls("shop");
        let breaker = Breaker::new(failures, OPEN_FOR, FAILURE_TIMEOUT, calls);
        (Arc::new(breaker), metrics)
    }

    fn state(breaker: &Breaker) -> BreakerState {
        breaker.lock().phase.state()
    }

    fn fail(breaker: &Arc<Breaker>, times: u32) {
        for _ in 0..times {
            breaker.admit(None).unwrap().failed();
        }
    }

    async fn half_open(breaker: &Arc<Breaker>) -> Permit {
        tokio::time::advance(OPEN_FOR).await;
        let probe = breaker.admit(None).unwrap();
        assert_eq!(state(breaker), BreakerState::HalfOpen);
        probe
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_at_the_failure_that_is_too_many_and_not_before() {
        let (breaker, _) = breaker(3);
        fail(&breaker, 2);
        assert_eq!(state(&breaker), BreakerState::Closed);
        fail(&breaker, 1);
        assert_eq!(state(&breaker), BreakerState::Open);
        assert!(breaker.admit(None).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_that_lie_further_back_than_the_window_are_forgotten() {
        let (breaker, _) = breaker(2);
        for _ in 0..5 {
            fail(&breaker, 1);
            for _ in 1..WINDOW {
                breaker.admit(None).unwrap().succeeded();
            }
        }
        assert_eq!(state(&breaker), BreakerState::Closed);
        fail(&breaker, 1);
        breaker.admit(None).unwrap().succeeded();
        fail(&breaker, 1);
        assert_eq!(state(&breaker), BreakerState::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn half_open_lets_one_call_through_at_a_time_and_closes_after_enough_of_them() {
        let (breaker, metrics) = breaker(1);
        fail(&breaker, 1);
        let mut probe = half_open(&breaker).await;
        for _ in 1..PROBES {
            assert!(
                breaker.admit(None).is_none(),
                "a second call beside the probe"
            );
            probe.succeeded();
            assert_eq!(state(&breaker), BreakerState::HalfOpen);
            probe = breaker.admit(None).unwrap();
        }
        probe.succeeded();
        assert_eq!(state(&breaker), BreakerState::Closed);

        let text = metrics.encode();
        for line in [
            r#"agora_circuit_breaker_state{target="shop",state="closed"} 1"#,
            r#"agora_circuit_breaker_state{target="shop",state="open"} 0"#,
            r#"agora_circuit_breaker_state{target="shop",state="half_open"} 0"#,
            r#"agora_circuit_breaker_transitions_total{target="shop",from="closed",to="open"} 1"#,
            r#"agora_circuit_breaker_transitions_total{target="shop",from="open",to="half_open"} 1"#,
            r#"agora_circuit_breaker_transitions_total{target="shop",from="half_open",to="closed"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_fails_opens_it_for_as_long_again() {
        let (breaker, _) = breaker(1);
        fail(&breaker, 1);
        half_open(&breaker).await.failed();
        assert_eq!(state(&breaker), BreakerState::Open);
        tokio::time::advance(OPEN_FOR - Duration::from_millis(1)).await;
        assert!(breaker.admit(None).is_none());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(breaker.admit(None).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_was_given_up_makes_room_for_the_next() {
        let (breaker, _) = breaker(1);
        fail(&breaker, 1);
        drop(half_open(&breaker).await);
        assert_eq!(state(&breaker), BreakerState::HalfOpen);
        assert!(breaker.admit(None).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_given_up_early_opens_nothing_and_one_that_had_its_time_does() {
        let (breaker, _) = breaker(1);
        let short = breaker.admit(None).unwrap();
        tokio::time::advance(FAILURE_TIMEOUT / 2).await;
        drop(short);
        assert_eq!(state(&breaker), BreakerState::Closed);
        let full = breaker.admit(None).unwrap();
        tokio::time::advance(FAILURE_TIMEOUT).await;
        drop(full);
        assert_eq!(state(&breaker), BreakerState::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_with_a_short_deadline_takes_no_probes_place_and_can_close_the_breaker() {
        const SHORT: Option<Duration> = Some(Duration::from_millis(200));
        let (breaker, _) = breaker(1);
        fail(&breaker, 1);
        tokio::time::advance(OPEN_FOR).await;
        let short = breaker.admit(SHORT).unwrap();
        assert!(breaker.admit(SHORT).is_none(), "one of them at a time");
        let probe = breaker.admit(None).unwrap();
        assert!(breaker.admit(None).is_none());
        drop(short);
        assert_eq!(state(&breaker), BreakerState::HalfOpen);
        assert!(
            breaker.admit(None).is_none(),
            "the probe is still in flight"
        );
        probe.failed();
        assert_eq!(state(&breaker), BreakerState::Open);

        // Calls with short deadlines alone can close it, too.
        tokio::time::advance(OPEN_FOR).await;
        for _ in 0..PROBES {
            breaker.admit(SHORT).unwrap().succeeded();
        }
        assert_eq!(state(&breaker), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn the_late_answer_of_an_old_call_is_no_probe() {
        let (breaker, _) = breaker(1);
        let (late_success, late_failure) =
            (breaker.admit(None).unwrap(), breaker.admit(None).unwrap());
        fail(&breaker, 1);
        let probe = half_open(&breaker).await;
        late_failure.failed();
        late_success.succeeded();
        assert_eq!(state(&breaker), BreakerState::HalfOpen);
        assert!(
            breaker.admit(None).is_none(),
            "the probe is still in flight"
        );
        probe.failed();
        assert_eq!(state(&breaker), BreakerState::Open);
    }
}
