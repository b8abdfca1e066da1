//! Calls to another service, and the protection against one that is slow, broken or unreachable.
//!
//! | part | what it does |
//! |---|---|
//! | deadline | a call ends when its own time is up, or the request's ([`crate::deadline`]) |
//! | bulkhead | a limit of concurrent calls; one more is refused at once, as a queue would only be another wait. Calls with short deadlines may use half of the slots: the others find room, and their outcomes count |
//! | breaker | calls to a target that keeps failing are refused for a while (`breaker`) |
//! | retries | of idempotent calls that ended as `Unavailable` (never begun, or cut off with their connection), with a jittered backoff, for as long as there is a budget: retries may add a tenth to the calls of the last ten seconds, and ten more |
//!
//! Timeouts are not retried: the time is used up, and a slow target gets no faster by more work. The caller decides what to
//! use in place of an answer. Without any of the parts a call is made, and takes as long as it takes.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::retry::budget::{Budget, TpsBudget};

use crate::breaker::Breaker;
use crate::deadline;
use crate::metrics::{CallMetrics, Metrics};

/// How often a call is tried again.
const MAX_RETRIES: usize = 2;
const MIN_RETRY_DELAY: Duration = Duration::from_millis(25);
const MAX_RETRY_DELAY: Duration = Duration::from_millis(200);
/// The budget of retries: over this window, this number a second, and this share of the calls.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);
const BUDGET_PER_SECOND: u32 = 1;
const BUDGET_SHARE: f32 = 0.1;
/// This share of the time that a call may take is all of it: a request that has the same limit always has a moment less left.
const ENOUGH: f64 = 0.9;

/// A client of one target; clones share its state.
#[derive(Clone)]
pub struct Outbound {
    metrics: CallMetrics,
    timeout: Option<Duration>,
    guard: Option<Arc<Guard>>,
}

struct Guard {
    bulkhead: Semaphore,
    /// The slots of it that calls with short deadlines may use.
    short_deadline: Semaphore,
    breaker: Arc<Breaker>,
    budget: TpsBudget,
}

/// When calls to a target are refused.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Calls at the same time.
    pub concurrency: usize,
    /// The breaker opens when this many of the last 20 calls failed.
    pub failures: u32,
    /// How long it stays open before it lets a probe through.
    pub open_for: Duration,
    /// A call without an answer after this time has failed. One that ended earlier shows nothing about the target.
    pub failure_timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No call was made.
    #[error("not asked: {0}")]
    Refused(Refusal),
    /// The request's deadline left less time than such a call may take, and it passed; or too many such calls are in flight.
    #[error("the request's time was used up")]
    OutOfTime,
    /// The call's last status.
    #[error("{0}")]
    Failed(Status),
}

/// Why no call was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The target keeps failing.
    #[error("the circuit breaker is open")]
    Open,
    /// As many calls as may are in flight.
    #[error("too many calls are in flight")]
    Bulkhead,
}

impl Refusal {
    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Bulkhead => "bulkhead",
        }
    }
}

/// The time that one call has.
#[derive(Clone, Copy)]
struct Time {
    /// `None`: as long as it takes.
    until: Option<Instant>,
    /// Clearly less than a call may take, as the request's deadline is near.
    is_short: bool,
}

impl Time {
    fn left(self) -> Option<Duration> {
        let until = self.until?;
        Some(until.saturating_duration_since(Instant::now()))
    }
}

impl Outbound {
    /// Calls without any protection.
    pub fn new(target: &'static str, metrics: &Metrics) -> Self {
        Self {
            metrics: metrics.calls(target),
            timeout: None,
            guard: None,
        }
    }

    /// Adds a deadline: a call, with all its attempts, takes this long at most, or as long as its request may.
    pub fn within(self, timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            ..self
        }
    }

    /// Adds a bulkhead, a breaker, and retries.
    pub fn guarded(self, limits: Limits) -> Self {
        let breaker = Breaker::new(
            limits.failures,
            limits.open_for,
            // A moment passes between the call's beginning and its deadline being set.
            limits.failure_timeout.mul_f64(ENOUGH),
            self.metrics.clone(),
        );
        Self {
            guard: Some(Arc::new(Guard {
                bulkhead: Semaphore::new(limits.concurrency),
                short_deadline: Semaphore::new(limits.concurrency / 2),
                breaker: Arc::new(breaker),
                budget: TpsBudget::new(BUDGET_WINDOW, BUDGET_PER_SECOND, BUDGET_SHARE),
            })),
            ..self
        }
    }

    /// Counts an answer that was used in the target's place.
    pub fn fell_back(&self) {
        self.metrics.fallback();
    }

    /// Makes an idempotent call. `attempt` gets the time that it has, `None` without a limit.
    ///
    /// # Errors
    /// [`CallError`]: the last attempt's.
    pub async fn idempotent<R, F>(
        &self,
        attempt: impl Fn(Option<Duration>) -> F,
    ) -> Result<R, CallError>
    where
        F: Future<Output = Result<R, Status>>,
    {
        let given = self.timeout.map(deadline::for_call);
        let time = Time {
            until: given.map(|given| Instant::now() + given),
            is_short: given < self.timeout.map(|timeout| timeout.mul_f64(ENOUGH)),
        };
        let Some(guard) = &self.guard else {
            let left = self.time_left(time)?;
            return attempt(left).await.map_err(|status| failed(status, time));
        };
        guard.budget.deposit();
        let mut result = self.guarded_attempt(guard, time, &attempt).await;
        for delay in retry_delays() {
            if !result.as_ref().is_err_and(may_be_tried_again)
                || time.left().is_some_and(|left| left <= delay)
            {
                break;
            }
            if !guard.budget.withdraw() {
                self.metrics.retried("refused");
                break;
            }
            tokio::time::sleep(delay).await;
            if time.left() == Some(Duration::ZERO) {
                // Too late for another attempt: the result of the last one stands.
                self.metrics.retried("failed");
                break;
            }
            result = self.guarded_attempt(guard, time, &attempt).await;
            let answered = match &result {
                Ok(_) => true,
                Err(CallError::Failed(status)) => has_failed(status.code()) == Some(false),
                Err(_) => false,
            };
            let outcome = if answered { "succeeded" } else { "failed" };
            self.metrics.retried(outcome);
        }
        result
    }

    async fn guarded_attempt<R, F>(
        &self,
        guard: &Guard,
        time: Time,
        attempt: &impl Fn(Option<Duration>) -> F,
    ) -> Result<R, CallError>
    where
        F: Future<Output = Result<R, Status>>,
    {
        let left = self.time_left(time)?;
        let permit = guard
            .breaker
            .admit(left)
            .ok_or_else(|| self.refuse(Refusal::Open))?;
        let is_short = guard.breaker.is_short_deadline(left);
        let short_slot = is_short
            .then(|| guard.short_deadline.try_acquire())
            .transpose();
        let Ok(_short_slot) = short_slot else {
            // The target may be healthy: it is the request that leaves too little time.
            self.metrics.refused(Refusal::Bulkhead.name());
            return Err(CallError::OutOfTime);
        };
        let full = |_| self.refuse(Refusal::Bulkhead);
        let _slot = guard.bulkhead.try_acquire().map_err(full)?;
        let result = attempt(left).await;
        match result
            .as_ref()
            .map_or_else(|status| has_failed(status.code()), |_| Some(false))
        {
            Some(true) => permit.failed(),
            Some(false) => permit.succeeded(),
            // It counts if it had its full time.
            None => drop(permit),
        }
        result.map_err(|status| failed(status, time))
    }

    /// The time that is left; an error if there is none.
    fn time_left(&self, time: Time) -> Result<Option<Duration>, CallError> {
        let left = time.left();
        if left == Some(Duration::ZERO) {
            self.metrics.refused("budget");
            return Err(CallError::OutOfTime);
        }
        Ok(left)
    }

    fn refuse(&self, refusal: Refusal) -> CallError {
        self.metrics.refused(refusal.name());
        CallError::Refused(refusal)
    }
}

fn retry_delays() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(MIN_RETRY_DELAY)
        .with_max_delay(MAX_RETRY_DELAY)
        .with_max_times(MAX_RETRIES)
        .with_jitter()
        .build()
}

fn failed(status: Status, time: Time) -> CallError {
    match status.code() {
        // tonic's client enforces the deadline as well, and reports it as cancelled.
        Code::DeadlineExceeded | Code::Cancelled if time.is_short => CallError::OutOfTime,
        _ => CallError::Failed(status),
    }
}

/// The target was not reached, turned the call away before it did anything, or lost the connection meanwhile, also by a
/// keepalive without an answer ([`crate::replicas`]); such a call may have been processed, and is idempotent.
fn may_be_tried_again(error: &CallError) -> bool {
    matches!(error, CallError::Failed(status) if status.code() == Code::Unavailable)
}

/// Whether a status means that the target failed; `None` if that depends on the time that it had.
fn has_failed(code: Code) -> Option<bool> {
    match code {
        Code::Unavailable
        | Code::Internal
        | Code::Unknown
        | Code::DataLoss
        | Code::ResourceExhausted
        | Code::Unimplemented => Some(true),
        Code::DeadlineExceeded | Code::Cancelled => None,
        // The caller's fault, or none at all: not found is an answer.
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const FAILURE_TIMEOUT: Duration = Duration::from_secs(2);
    const LIMITS: Limits = Limits {
        concurrency: 2,
        failures: 3,
        open_for: Duration::from_secs(1),
        failure_timeout: FAILURE_TIMEOUT,
    };
    /// More than are remembered.
    const NEVER_OPENS: u32 = 21;

    fn outbound(limits: Limits) -> (Outbound, Metrics) {
        let metrics = Metrics::new("test");
        let outbound = Outbound::new("shop", &metrics)
            .within(FAILURE_TIMEOUT)
            .guarded(limits);
        (outbound, metrics)
    }

    fn counted(metrics: &Metrics, series: &str) -> u32 {
        let text = metrics.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}"))
            .trim()
            .parse()
            .unwrap()
    }

    /// Hangs until the deadline.
    async fn hang(left: Option<Duration>) -> Result<(), Status> {
        match left {
            Some(left) => tokio::time::sleep(left).await,
            None => std::future::pending().await,
        }
        Err(Status::deadline_exceeded("no answer in time"))
    }

    async fn answer(code: Code) -> Result<(), Status> {
        Err(Status::new(code, "as the test says"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_hangs_is_called_until_the_breaker_opens() {
        let (outbound, metrics) = outbound(LIMITS);
        for _ in 0..3 {
            let began = Instant::now();
            let error = outbound.idempotent(hang).await.unwrap_err();
            assert!(matches!(error, CallError::Failed(_)), "{error}");
            assert_eq!(began.elapsed(), FAILURE_TIMEOUT);
        }
        let began = Instant::now();
        let error = outbound.idempotent(hang).await.unwrap_err();
        assert!(
            matches!(error, CallError::Refused(Refusal::Open)),
            "{error}"
        );
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(
            counted(
                &metrics,
                r#"agora_calls_refused_total{target="shop",reason="open"}"#
            ),
            1
        );

        // Recovered: three probes later it is as before.
        tokio::time::advance(LIMITS.open_for).await;
        for _ in 0..3 {
            outbound.idempotent(async |_| Ok(())).await.unwrap();
        }
        let closed = r#"agora_circuit_breaker_state{target="shop",state="closed"}"#;
        assert_eq!(counted(&metrics, closed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn not_found_opens_nothing_and_is_not_retried() {
        let (outbound, _) = outbound(LIMITS);
        let calls = AtomicU32::new(0);
        for _ in 0..50 {
            let error = outbound
                .idempotent(|_| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    answer(Code::NotFound)
                })
                .await;
            assert!(
                matches!(error, Err(CallError::Failed(status)) if status.code() == Code::NotFound)
            );
        }
        assert_eq!(calls.into_inner(), 50);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_the_target_never_began_is_tried_again() {
        let (outbound, metrics) = outbound(LIMITS);
        let calls = AtomicU32::new(0);
        let answered = outbound.idempotent(|_| {
            let earlier = calls.fetch_add(1, Ordering::Relaxed);
            async move {
                match earlier {
                    0 | 1 => Err(Status::unavailable("away")),
                    _ => Ok(7),
                }
            }
        });
        assert_eq!(answered.await.unwrap(), 7);
        let retries = |outcome| {
            counted(
                &metrics,
                &format!(r#"agora_call_retries_total{{target="shop",outcome="{outcome}"}}"#),
            )
        };
        assert_eq!((retries("failed"), retries("succeeded")), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn retries_end_with_their_budget() {
        let limits = Limits {
            failures: NEVER_OPENS,
            ..LIMITS
        };
        let (outbound, metrics) = outbound(limits);
        let calls = AtomicU32::new(0);
        let call = || {
            outbound.idempotent(|_| {
                calls.fetch_add(1, Ordering::Relaxed);
                answer(Code::Unavailable)
            })
        };
        const CALLS: u32 = 400;
        let began = Instant::now();
        for _ in 0..CALLS {
            call().await.unwrap_err();
        }
        // Ten at first, one for each ten calls, and one for each second that went by, of which the backoff makes some.
        let retries = calls.load(Ordering::Relaxed) - CALLS;
        let allowed = 10 + CALLS / 10 + began.elapsed().as_secs() as u32 + 1;
        assert!(retries > 10 && retries <= allowed, "{retries} of {allowed}");
        let refused = r#"agora_call_retries_total{target="shop",outcome="refused"}"#;
        assert!(counted(&metrics, refused) > CALLS / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_that_would_come_too_late_is_not_made() {
        let (outbound, _) = outbound(LIMITS);
        let calls = AtomicU32::new(0);
        let call = outbound.idempotent(|left| {
            calls.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(left.unwrap() - Duration::from_millis(1)).await;
                Err::<(), _>(Status::unavailable("away"))
            }
        });
        call.await.unwrap_err();
        assert_eq!(calls.into_inner(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_call_more_than_may_be_under_way_is_refused_at_once() {
        let (outbound, metrics) = outbound(LIMITS);
        let began = Instant::now();
        let hanging = || outbound.idempotent(hang);
        let third = async {
            tokio::task::yield_now().await;
            let error = hanging().await.unwrap_err();
            assert!(
                matches!(error, CallError::Refused(Refusal::Bulkhead)),
                "{error}"
            );
            assert_eq!(began.elapsed(), Duration::ZERO);
        };
        let (first, second, ()) = tokio::join!(hanging(), hanging(), third);
        assert!(first.is_err() && second.is_err());
        let refused = r#"agora_calls_refused_total{target="shop",reason="bulkhead"}"#;
        assert_eq!(counted(&metrics, refused), 1);
        outbound.idempotent(async |_| Ok(())).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_with_a_short_deadline_passes_it_on_and_opens_nothing() {
        let (outbound, metrics) = outbound(LIMITS);
        for _ in 0..10 {
            let began = Instant::now();
            let short = deadline::within(Duration::from_millis(250), outbound.idempotent(hang));
            let error = short.await.expect("in time to answer").unwrap_err();
            assert!(matches!(error, CallError::OutOfTime), "{error}");
            assert_eq!(began.elapsed(), Duration::from_millis(200));
        }
        let spent = deadline::within(deadline::ANSWER_RESERVE, outbound.idempotent(hang));
        assert!(matches!(spent.await, Ok(Err(CallError::OutOfTime))));
        let budget = r#"agora_calls_refused_total{target="shop",reason="budget"}"#;
        assert_eq!(counted(&metrics, budget), 1);
        outbound.idempotent(async |_| Ok(())).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn calls_with_short_deadlines_leave_room_for_those_whose_outcomes_count() {
        let limits = Limits {
            concurrency: 4,
            ..LIMITS
        };
        let (outbound, metrics) = outbound(limits);
        let short = || async {
            let call = outbound.idempotent(hang);
            deadline::within(Duration::from_millis(250), call).await
        };
        // As many as would fill it, and again as soon as they have given up.
        let storm = async {
            for _ in 0..40 {
                let calls = [short(), short(), short(), short()];
                for refused in futures_util::future::join_all(calls).await {
                    // Never as by a full bulkhead: that would count against a target that may be healthy.
                    let as_full = matches!(refused, Ok(Err(CallError::Refused(Refusal::Bulkhead))));
                    assert!(!as_full, "{refused:?}");
                }
            }
        };
        let full = async {
            for _ in 0..3 {
                let error = outbound.idempotent(hang).await.unwrap_err();
                assert!(matches!(error, CallError::Failed(_)), "{error}");
            }
        };
        tokio::join!(storm, full);
        let refused = r#"agora_calls_refused_total{target="shop",reason="bulkhead"}"#;
        assert!(counted(&metrics, refused) > 0);
        let opened =
            r#"agora_circuit_breaker_transitions_total{target="shop",from="closed",to="open"}"#;
        assert_eq!(counted(&metrics, opened), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_with_the_same_limit_as_its_call_has_no_short_deadline() {
        let (outbound, _) = outbound(LIMITS);
        let request = FAILURE_TIMEOUT + deadline::ANSWER_RESERVE;
        for _ in 0..3 {
            let call = async {
                // The work before the call.
                tokio::time::sleep(Duration::from_millis(5)).await;
                outbound.idempotent(hang).await
            };
            let error = deadline::within(request, call).await.unwrap().unwrap_err();
            assert!(matches!(error, CallError::Failed(_)), "{error}");
        }
        let error = outbound.idempotent(hang).await.unwrap_err();
        assert!(
            matches!(error, CallError::Refused(Refusal::Open)),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_deadline_a_call_takes_as_long_as_it_takes() {
        let outbound = Outbound::new("shop", &Metrics::new("test"));
        let call = outbound.idempotent(|left| async move {
            assert_eq!(left, None);
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok::<_, Status>(())
        });
        let began = Instant::now();
        call.await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(60));
    }
}
