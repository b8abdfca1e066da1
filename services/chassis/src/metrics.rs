//! Metrics for Prometheus: rate, errors and duration of HTTP, gRPC and messages, named by OpenTelemetry's
//! semantic conventions (<https://opentelemetry.io/docs/specs/semconv/>, 1.44; deviations: docs/explanation/telemetry.md).
//!
//! Labels are bounded: routes as templates, methods and outcomes from fixed lists, never an id. Each bucket of a
//! duration points to the last sampled trace that fell into it (an exemplar). Resource usage of the process and its runtime
//! is read at each scrape (`process`).

mod process;

use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::TraceId;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
pub use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};
use shared_events::topology::DeadReason;

use crate::patterns::{Pattern, Switch};
use crate::pool::Pool;

/// Seconds; from a cached read to the request timeout.
const DURATION_BUCKETS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// A service's metrics; clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

struct Families {
    registry: Mutex<Registry>,
    http_requests: Durations<HttpLabels>,
    http_active: Gauge,
    rpc_served: Durations<RpcLabels>,
    rpc_called: Durations<RpcLabels>,
    published: Family<MessageLabels, Counter>,
    processed: Durations<MessageLabels>,
    dead_letters: Family<DeadLabels, Counter>,
    retries: Family<RetryLabels, Counter>,
    inbox_duplicates: Family<QueueLabels, Counter>,
    patterns: Family<PatternLabels, Gauge>,
    calls: CallFamilies,
    sheds: Family<[(&'static str, &'static str); 2], Counter>,
    spans: SpanMetrics,
    pools: process::Pools,
}

/// The outcomes of ended spans; each is counted once.
#[derive(Debug, Clone, Default)]
pub(crate) struct SpanMetrics {
    /// The trace store has confirmed them.
    pub(crate) sent: Counter,
    /// The trace store refused or rejected them, or gave no answer in time.
    pub(crate) failed: Counter,
    /// The queue was full.
    pub(crate) dropped: Counter,
    /// Queued, or being exported.
    pub(crate) queued: Gauge,
}

/// Requests that a route group's concurrency limit rejected; each is counted once.
#[derive(Debug, Clone)]
pub(crate) struct ShedMetrics {
    /// Too many requests were waiting.
    pub(crate) full: Counter,
    /// No slot became free in time.
    pub(crate) waited: Counter,
}

/// The events that wait in the outbox.
#[derive(Clone, Default)]
pub(crate) struct OutboxGauges {
    /// Events that no broker has confirmed yet.
    pub(crate) backlog: Gauge,
    /// Of those, events that the broker rejected too often: they wait for an operator to decide.
    pub(crate) parked: Gauge,
    /// The age of the oldest one that the relay may publish; 0 where there is none.
    pub(crate) oldest_age_seconds: Gauge<f64, AtomicU64>,
}

/// Counts something by its outcome; clones share the counts.
#[derive(Clone)]
pub struct Outcomes(Family<[(&'static str, &'static str); 1], Counter>);

impl Outcomes {
    /// Adds one.
    pub fn count(&self, outcome: &'static str) {
        self.0.get_or_create(&[("outcome", outcome)]).inc();
    }
}

type TracedHistogram = HistogramWithExemplars<ExemplarLabels>;
type Durations<L> = Family<L, TracedHistogram, fn() -> TracedHistogram>;

/// Not labels of the metric: an exemplar belongs to the bucket that it fell into.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExemplarLabels {
    trace_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpLabels {
    http_request_method: &'static str,
    http_route: String,
    http_response_status_code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcLabels {
    /// `package.Service/Method`.
    rpc_method: String,
    rpc_response_status_code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MessageLabels {
    messaging_destination_name: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeadLabels {
    queue: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    queue: String,
    tier: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    queue: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PatternLabels {
    pattern: &'static str,
}

impl Metrics {
    /// An empty set, with the start of the process and the build in it.
    pub fn new(service: &'static str) -> Self {
        let mut registry = Registry::default();

        let started = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        started.set(since_epoch.map_or(0.0, |elapsed| elapsed.as_secs_f64()));
        registry.register(
            "process_start_time_seconds",
            "When the process started",
            started,
        );
        let build = Family::<[(&str, &str); 2], Gauge>::default();
        build
            .get_or_create(&[("service", service), ("version", env!("CARGO_PKG_VERSION"))])
            .set(1);
        registry.register("agora_build_info", "What is running", build);

        let http_active = register(
            &mut registry,
            "http_server_active_requests",
            "HTTP requests being answered now",
        );
        let http_requests = durations(
            &mut registry,
            "http_server_request_duration_seconds",
            "HTTP requests answered",
        );
        let rpc_served = durations(
            &mut registry,
            "rpc_server_call_duration_seconds",
            "gRPC calls answered",
        );
        let rpc_called = durations(
            &mut registry,
            "rpc_client_call_duration_seconds",
            "gRPC calls made",
        );
        let processed = durations(
            &mut registry,
            "messaging_process_duration_seconds",
            "Messages consumed, by what became of them",
        );
        let published = register(
            &mut registry,
            "messaging_client_sent_messages",
            "Messages sent, by the broker's answer",
        );
        let dead_letters = register(
            &mut registry,
            "agora_dead_letters",
            "Messages that this consumer gave up on",
        );
        let retries = register(
            &mut registry,
            "agora_retries",
            "Messages that this consumer put back for a later attempt",
        );
        let inbox_duplicates = register(
            &mut registry,
            "agora_inbox_duplicates",
            "Events that this consumer had applied before",
        );
        let patterns = register(
            &mut registry,
            "agora_pattern_enabled",
            "Whether a pattern is on (1) or off (0)",
        );

        let calls = CallFamilies::register(&mut registry);
        let sheds = register(
            &mut registry,
            "agora_requests_shed",
            "Requests that were refused because there was too much to do, by the reason",
        );

        let by_outcome = Family::<[(&str, &str); 1], Counter>::default();
        let outcome = |name| by_outcome.get_or_create(&[("outcome", name)]).clone();
        let spans = SpanMetrics {
            sent: outcome("sent"),
            failed: outcome("failed"),
            dropped: outcome("dropped"),
            queued: Gauge::default(),
        };
        registry.register(
            "agora_spans",
            "Spans that ended, by what became of them",
            by_outcome,
        );
        registry.register(
            "agora_spans_queued",
            "Spans that wait to be exported, or are on their way",
            spans.queued.clone(),
        );
        let pools = process::Pools::default();
        registry.register_collector(Box::new(process::ProcessCollector));
        registry.register_collector(Box::new(pools.clone()));

        Self(Arc::new(Families {
            registry: Mutex::new(registry),
            http_requests,
            http_active,
            rpc_served,
            rpc_called,
            published,
            processed,
            dead_letters,
            retries,
            inbox_duplicates,
            patterns,
            calls,
            sheds,
            spans,
            pools,
        }))
    }

    pub(crate) fn spans(&self) -> SpanMetrics {
        self.0.spans.clone()
    }

    /// The metrics of calls to one target; all of its series exist from now on, at 0.
    pub(crate) fn calls(&self, target: &'static str) -> CallMetrics {
        CallMetrics::new(target, self.0.calls.clone())
    }

    /// Requests that a route group rejects; both series exist from now on, at 0.
    pub(crate) fn sheds(&self, group: &'static str) -> ShedMetrics {
        let reason = |reason| {
            let labels = [("route_group", group), ("reason", reason)];
            self.0.sheds.get_or_create(&labels).clone()
        };
        ShedMetrics {
            full: reason("full"),
            waited: reason("waited"),
        }
    }

    /// Reports how much of a pool is in use; `name` is its label.
    pub(crate) fn pool(&self, name: &'static str, pool: &Pool) {
        self.0.pools.enter(name, pool);
    }

    /// All metrics, in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.lock()) {
            // Writing to a string can't fail; should an encoder ever, the scrape shows it.
            let _ = writeln!(text, "# {error}");
        }
        text
    }

    /// A gauge of the service's own, for example something that it counts in its database at an interval.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        register(&mut self.lock(), name, help)
    }

    /// A counter of the service's own; `_total` is appended to the name.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        register(&mut self.lock(), name, help)
    }

    /// A counter of the service's own with the label `outcome`; those named here exist from the start, at 0.
    pub fn outcomes(&self, name: &str, help: &str, outcomes: &[&'static str]) -> Outcomes {
        let counts = Outcomes(Family::default());
        for outcome in outcomes {
            counts.0.get_or_create(&[("outcome", *outcome)]).inc_by(0);
        }
        self.lock().register(name, help, counts.0.clone());
        counts
    }

    /// A process's settings: a series of 1 for each set of labels.
    pub fn info<const N: usize>(
        &self,
        name: &str,
        help: &str,
        entries: impl IntoIterator<Item = [(&'static str, String); N]>,
    ) {
        let info = Family::<[(&'static str, String); N], Gauge>::default();
        for labels in entries {
            info.get_or_create(&labels).set(1);
        }
        self.lock().register(name, help, info);
    }

    pub(crate) fn outbox_gauges(&self) -> OutboxGauges {
        let registry = &mut self.lock();
        OutboxGauges {
            backlog: register(
                registry,
                "agora_outbox_backlog",
                "Events that wait to be published",
            ),
            oldest_age_seconds: register(
                registry,
                "agora_outbox_oldest_age_seconds",
                "For how long the oldest of them has waited that isn't held up by a parked one",
            ),
            parked: register(
                registry,
                "agora_outbox_parked",
                "Events that the broker rejected too often, and that wait for an operator to decide",
            ),
        }
    }

    pub(crate) fn pattern(&self, pattern: Pattern, switch: Switch) {
        let labels = PatternLabels {
            pattern: pattern.name(),
        };
        self.0
            .patterns
            .get_or_create(&labels)
            .set(switch.is_on().into());
    }

    pub(crate) fn inbox_duplicate(&self, queue: &str) {
        let labels = QueueLabels {
            queue: queue.to_owned(),
        };
        self.0.inbox_duplicates.get_or_create(&labels).inc();
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0
            .registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn http_active(&self) -> ActiveRequest {
        self.0.http_active.inc();
        ActiveRequest(self.0.http_active.clone())
    }

    pub(crate) fn http_answered(
        &self,
        method: &http::Method,
        route: String,
        status: u16,
        took: Duration,
        trace: Option<TraceId>,
    ) {
        let labels = HttpLabels {
            http_request_method: known_method(method),
            http_route: route,
            http_response_status_code: status,
        };
        observe(&self.0.http_requests, &labels, took, trace);
    }

    pub(crate) fn rpc_served(
        &self,
        method: String,
        code: &'static str,
        took: Duration,
        trace: Option<TraceId>,
    ) {
        let labels = RpcLabels {
            rpc_method: method,
            rpc_response_status_code: code,
        };
        observe(&self.0.rpc_served, &labels, took, trace);
    }

    pub(crate) fn rpc_called(
        &self,
        method: String,
        code: &'static str,
        took: Duration,
        trace: Option<TraceId>,
    ) {
        let labels = RpcLabels {
            rpc_method: method,
            rpc_response_status_code: code,
        };
        observe(&self.0.rpc_called, &labels, took, trace);
    }

    pub(crate) fn published(&self, exchange: &str, outcome: &'static str) {
        self.0
            .published
            .get_or_create(&MessageLabels {
                messaging_destination_name: exchange.to_owned(),
                outcome,
            })
            .inc();
    }

    pub(crate) fn processed(
        &self,
        queue: &str,
        outcome: &'static str,
        took: Duration,
        trace: Option<TraceId>,
    ) {
        let labels = MessageLabels {
            messaging_destination_name: queue.to_owned(),
            outcome,
        };
        observe(&self.0.processed, &labels, took, trace);
    }

    pub(crate) fn dead_letter(&self, queue: &str, reason: DeadReason) {
        self.0
            .dead_letters
            .get_or_create(&DeadLabels {
                queue: queue.to_owned(),
                reason: reason.as_str(),
            })
            .inc();
    }

    pub(crate) fn retried(&self, queue: &str, tier: &'static str) {
        self.0
            .retries
            .get_or_create(&RetryLabels {
                queue: queue.to_owned(),
                tier,
            })
            .inc();
    }
}

/// Registers a metric, and returns it.
fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// Metrics of calls to other services, besides their rate, errors and duration.
#[derive(Clone)]
struct CallFamilies {
    state: Family<[(&'static str, &'static str); 2], Gauge>,
    transitions: Family<[(&'static str, &'static str); 3], Counter>,
    refused: Family<[(&'static str, &'static str); 2], Counter>,
    retries: Family<[(&'static str, &'static str); 2], Counter>,
    fallbacks: Family<[(&'static str, &'static str); 1], Counter>,
    replicas: Family<[(&'static str, &'static str); 2], Gauge>,
}

impl CallFamilies {
    fn register(registry: &mut Registry) -> Self {
        Self {
            state: register(
                registry,
                "agora_circuit_breaker_state",
                "The state that a target's breaker is in (1), and the others (0)",
            ),
            transitions: register(
                registry,
                "agora_circuit_breaker_transitions",
                "Changes of a breaker's state",
            ),
            refused: register(
                registry,
                "agora_calls_refused",
                "Calls that were not made, by the reason",
            ),
            retries: register(
                registry,
                "agora_call_retries",
                "Calls that were made again, or for which there was no budget (refused)",
            ),
            fallbacks: register(
                registry,
                "agora_fallbacks",
                "Answers that were given in a target's place",
            ),
            replicas: register(
                registry,
                "agora_target_replicas",
                "Replicas of a target, by whether they get calls",
            ),
        }
    }
}

/// The states of a circuit breaker, as the label `state` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

impl BreakerState {
    pub(crate) const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The same for one target.
#[derive(Clone)]
pub(crate) struct CallMetrics {
    target: &'static str,
    families: CallFamilies,
}

impl CallMetrics {
    fn new(target: &'static str, families: CallFamilies) -> Self {
        let by_target = ("target", target);
        for reason in ["open", "bulkhead", "budget"] {
            let labels = [by_target, ("reason", reason)];
            drop(families.refused.get_or_create(&labels));
        }
        for outcome in ["succeeded", "failed", "refused"] {
            let labels = [by_target, ("outcome", outcome)];
            drop(families.retries.get_or_create(&labels));
        }
        drop(families.fallbacks.get_or_create(&[by_target]));
        Self { target, families }
    }

    pub(crate) fn target(&self) -> &'static str {
        self.target
    }

    pub(crate) fn breaker_is(&self, current: BreakerState) {
        for state in BreakerState::ALL {
            let labels = [("target", self.target), ("state", state.name())];
            let gauge = self.families.state.get_or_create(&labels);
            gauge.set((state == current).into());
        }
    }

    pub(crate) fn breaker_moved(&self, from: BreakerState, to: BreakerState) {
        self.breaker_is(to);
        let labels = [
            ("target", self.target),
            ("from", from.name()),
            ("to", to.name()),
        ];
        self.families.transitions.get_or_create(&labels).inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        let labels = [("target", self.target), ("reason", reason)];
        self.families.refused.get_or_create(&labels).inc();
    }

    pub(crate) fn retried(&self, outcome: &'static str) {
        let labels = [("target", self.target), ("outcome", outcome)];
        self.families.retries.get_or_create(&labels).inc();
    }

    pub(crate) fn fallback(&self) {
        let labels = [("target", self.target)];
        self.families.fallbacks.get_or_create(&labels).inc();
    }

    pub(crate) fn replicas(&self, known: usize, used: usize) {
        for (state, count) in [("used", used), ("left_out", known - used)] {
            let labels = [("target", self.target), ("state", state)];
            let gauge = self.families.replicas.get_or_create(&labels);
            gauge.set(count.try_into().unwrap_or(i64::MAX));
        }
    }
}

/// Counts a request as active until it is dropped.
pub(crate) struct ActiveRequest(Gauge);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn durations<L>(registry: &mut Registry, name: &str, help: &str) -> Durations<L>
where
    L: EncodeLabelSet + Clone + std::hash::Hash + Eq + std::fmt::Debug + Send + Sync + 'static,
{
    let family =
        Durations::new_with_constructor(|| TracedHistogram::new(DURATION_BUCKETS.into_iter()));
    registry.register(name, help, family.clone());
    family
}

fn observe<L>(family: &Durations<L>, labels: &L, took: Duration, trace: Option<TraceId>)
where
    L: Clone + std::hash::Hash + Eq,
{
    let exemplar = trace.map(|id| ExemplarLabels {
        trace_id: id.to_string(),
    });
    family
        .get_or_create(labels)
        .observe(took.as_secs_f64(), exemplar, Some(SystemTime::now()));
}

/// A client may send any text as a method; the conventions fold unknown ones into `_OTHER`.
pub(crate) fn known_method(method: &http::Method) -> &'static str {
    match *method {
        http::Method::GET => "GET",
        http::Method::POST => "POST",
        http::Method::PUT => "PUT",
        http::Method::PATCH => "PATCH",
        http::Method::DELETE => "DELETE",
        http::Method::HEAD => "HEAD",
        http::Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}
