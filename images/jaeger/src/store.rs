//! The traces in memory, within limits; the oldest go first.
//!
//! A span is kept as the protobuf message that it came as, which takes a third of what its parsed form does, and is
//! parsed when somebody asks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    hash::Hash,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use opentelemetry_proto::tonic::{
    common::v1::InstrumentationScope,
    trace::v1::{ResourceSpans, Span, span::SpanKind},
};
use prost::Message;
use serde_json::Value;

use crate::jaeger_json;

/// How many operations are listed, of all services together: names are few where they follow the conventions.
const MAX_OPERATIONS: usize = 10_000;
/// How many processes and scopes there are before those without spans are looked for.
const MAX_UNUSED: usize = 1_000;

/// What is kept at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) traces: usize,
    pub(crate) spans_per_trace: usize,
    /// Of all spans together, as they are kept, with what keeping one takes.
    pub(crate) bytes: usize,
}

impl Limits {
    pub(crate) const DEFAULT: Self = Self {
        traces: 20_000,
        spans_per_trace: 2_000,
        bytes: 160 * 1024 * 1024,
    };
}

/// 16 bytes, not all zero.
pub(crate) type TraceId = [u8; 16];

/// Who sent spans: a resource in Jaeger's terms.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) service: String,
    /// Its other attributes, as Jaeger's tags.
    pub(crate) tags: Vec<Value>,
}

/// A span as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct StoredSpan {
    pub(crate) process: Arc<Process>,
    pub(crate) scope: Arc<Scope>,
    /// A protobuf message.
    bytes: Arc<[u8]>,
}

/// The library that made a span.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl StoredSpan {
    /// The span, parsed. `None` can't happen: the bytes were made from one.
    pub(crate) fn parse(&self) -> Option<Span> {
        Span::decode(&*self.bytes).ok()
    }

    fn weight(&self) -> usize {
        self.bytes.len() + 2 * mem::size_of::<usize>() + mem::size_of::<Self>()
    }
}

/// Where a trace stands in time, for finding it without parsing it.
#[derive(Debug, Clone)]
pub(crate) struct Summary {
    pub(crate) id: TraceId,
    /// Nanoseconds since 1970 of its earliest span's start.
    pub(crate) start_ns: u64,
}

/// What an export came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    /// Why the last refused one was.
    pub(crate) reason: Option<&'static str>,
}

/// How full it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) traces: usize,
    pub(crate) spans: usize,
    pub(crate) bytes: usize,
    /// Ever since it started.
    pub(crate) evicted_traces: u64,
}

/// Everything that was received and not yet evicted.
#[derive(Debug)]
pub(crate) struct Store {
    limits: Limits,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    traces: HashMap<TraceId, Trace>,
    /// In the order in which their first spans came.
    arrivals: VecDeque<TraceId>,
    operations: BTreeMap<String, BTreeSet<(String, &'static str)>>,
    operation_count: usize,
    /// Shared by all their spans.
    processes: HashSet<Arc<Process>>,
    scopes: HashSet<Arc<Scope>>,
    fill: Fill,
}

#[derive(Debug)]
struct Trace {
    start_ns: u64,
    end_ns: u64,
    spans: Vec<StoredSpan>,
}

impl Store {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            inner: Mutex::default(),
        }
    }

    /// Takes in what one exporter sent at once. A span that is here already, byte for byte, is accepted and not kept
    /// again: an exporter that got no answer sends its batch a second time.
    pub(crate) fn add(&self, batches: Vec<ResourceSpans>) -> Received {
        let mut received = Received::default();
        for batch in batches {
            let process = Arc::new(jaeger_json::process(batch.resource.unwrap_or_default()));
            for scoped in batch.scope_spans {
                let scope = scope_of(scoped.scope.unwrap_or_default());
                let spans: Vec<_> = scoped.spans.into_iter().map(encode).collect();
                self.add_spans(&process, scope, spans, &mut received);
            }
        }
        received
    }

    fn add_spans(
        &self,
        process: &Arc<Process>,
        scope: Scope,
        spans: Vec<Result<Encoded, &'static str>>,
        received: &mut Received,
    ) {
        let mut inner = self.lock();
        let process = shared(&mut inner.processes, Arc::clone(process));
        let scope = shared(&mut inner.scopes, Arc::new(scope));
        for span in spans {
            let kept = span.and_then(|span| {
                let stored = StoredSpan {
                    process: Arc::clone(&process),
                    scope: Arc::clone(&scope),
                    bytes: span.bytes.clone(),
                };
                inner.keep(&span, stored, self.limits)
            });
            match kept {
                Ok(()) => received.accepted += 1,
                Err(reason) => {
                    received.refused += 1;
                    received.reason = Some(reason);
                }
            }
        }
    }

    /// A trace's spans as they came; `None` for one that is unknown or evicted.
    pub(crate) fn trace(&self, id: &TraceId) -> Option<Vec<StoredSpan>> {
        self.lock().traces.get(id).map(|trace| trace.spans.clone())
    }

    /// The traces with a span between these moments (nanoseconds since 1970), and with one of `service` where that is
    /// given; the latest start first.
    pub(crate) fn between(&self, from_ns: u64, to_ns: u64, service: Option<&str>) -> Vec<Summary> {
        let has_service = |trace: &Trace| {
            service.is_none_or(|service| {
                let mut spans = trace.spans.iter();
                spans.any(|span| span.process.service == service)
            })
        };
        let mut found: Vec<Summary> = self
            .lock()
            .traces
            .iter()
            .filter(|(_, trace)| trace.start_ns <= to_ns && trace.end_ns >= from_ns)
            .filter(|(_, trace)| has_service(trace))
            .map(|(id, trace)| Summary {
                id: *id,
                start_ns: trace.start_ns,
            })
            .collect();
        found.sort_by_key(|summary| std::cmp::Reverse((summary.start_ns, summary.id)));
        found
    }

    /// Every service that sent a span since the start, by name.
    pub(crate) fn services(&self) -> Vec<String> {
        self.lock().operations.keys().cloned().collect()
    }

    /// A service's operations, each with its kind as Jaeger names it.
    pub(crate) fn operations(&self, service: &str) -> Vec<(String, &'static str)> {
        let inner = self.lock();
        let operations = inner.operations.get(service);
        operations.into_iter().flatten().cloned().collect()
    }

    pub(crate) fn fill(&self) -> Fill {
        self.lock().fill
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing between two changes panics, so what a poisoned lock holds is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn keep(
        &mut self,
        span: &Encoded,
        stored: StoredSpan,
        limits: Limits,
    ) -> Result<(), &'static str> {
        let is_new = !self.traces.contains_key(&span.trace_id);
        let trace = self.traces.entry(span.trace_id).or_insert_with(|| Trace {
            start_ns: u64::MAX,
            end_ns: 0,
            spans: Vec::new(),
        });
        if trace.spans.iter().any(|known| known.bytes == stored.bytes) {
            return Ok(());
        }
        if trace.spans.len() >= limits.spans_per_trace {
            return Err("its trace has as many spans as are kept of one");
        }
        trace.start_ns = trace.start_ns.min(span.start_ns);
        trace.end_ns = trace.end_ns.max(span.end_ns);
        self.fill.spans += 1;
        self.fill.bytes += stored.weight();
        let service = &stored.process.service;
        if self.operation_count < MAX_OPERATIONS {
            let known = match self.operations.get_mut(service) {
                Some(known) => known,
                None => self.operations.entry(service.clone()).or_default(),
            };
            let operation = (span.name.clone(), span.kind);
            self.operation_count += usize::from(known.insert(operation));
        }
        trace.spans.push(stored);
        if is_new {
            self.arrivals.push_back(span.trace_id);
        }
        self.evict(limits);
        Ok(())
    }

    fn evict(&mut self, limits: Limits) {
        while self.traces.len() > limits.traces || self.fill.bytes > limits.bytes {
            let Some(oldest) = self.arrivals.pop_front() else {
                break;
            };
            if let Some(trace) = self.traces.remove(&oldest) {
                self.fill.spans -= trace.spans.len();
                self.fill.bytes -= trace.spans.iter().map(StoredSpan::weight).sum::<usize>();
                self.fill.evicted_traces += 1;
            }
        }
        self.fill.traces = self.traces.len();
        // A service that starts again is another process: those that no span names any more go.
        if self.processes.len() + self.scopes.len() > MAX_UNUSED {
            self.processes
                .retain(|process| Arc::strong_count(process) > 1);
            self.scopes.retain(|scope| Arc::strong_count(scope) > 1);
        }
    }
}

/// A span that can be kept.
struct Encoded {
    trace_id: TraceId,
    start_ns: u64,
    end_ns: u64,
    name: String,
    kind: &'static str,
    bytes: Arc<[u8]>,
}

fn encode(span: Span) -> Result<Encoded, &'static str> {
    let trace_id = TraceId::try_from(span.trace_id.as_slice())
        .ok()
        .filter(|id| *id != [0; 16])
        .ok_or("a trace id is 16 bytes that aren't all zero")?;
    if span.span_id.len() != 8 || span.span_id.iter().all(|byte| *byte == 0) {
        return Err("a span id is 8 bytes that aren't all zero");
    }
    if !matches!(span.parent_span_id.len(), 0 | 8) {
        return Err("a parent's span id is 8 bytes, or none");
    }
    Ok(Encoded {
        trace_id,
        start_ns: span.start_time_unix_nano,
        end_ns: span.end_time_unix_nano,
        kind: kind_name(span.kind()),
        bytes: span.encode_to_vec().into(),
        name: span.name,
    })
}

/// As Jaeger writes it; empty where none is given.
pub(crate) fn kind_name(kind: SpanKind) -> &'static str {
    match kind {
        SpanKind::Unspecified => "",
        SpanKind::Internal => "internal",
        SpanKind::Server => "server",
        SpanKind::Client => "client",
        SpanKind::Producer => "producer",
        SpanKind::Consumer => "consumer",
    }
}

fn scope_of(scope: InstrumentationScope) -> Scope {
    Scope {
        name: scope.name,
        version: scope.version,
    }
}

/// The equal value that is here already, or this one from now on.
fn shared<T: Eq + Hash>(known: &mut HashSet<Arc<T>>, value: Arc<T>) -> Arc<T> {
    if let Some(same) = known.get(&value) {
        return Arc::clone(same);
    }
    known.insert(Arc::clone(&value));
    value
}
