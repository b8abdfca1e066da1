//! The traces in memory, within limits; the oldest are evicted first.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use opentelemetry_proto::tonic::{
    common::v1::InstrumentationScope,
    trace::v1::{ResourceSpans, Span},
};
use prost::Message;

use crate::{
    jaeger_json,
    span::{Process, Scope, StoredSpan, TraceId, kind_name},
};

/// The maximum number of listed operations of all services: few if names follow the conventions.
const MAX_OPERATIONS: usize = 10_000;
/// The number of processes and scopes at which unused ones are first searched for.
const MAX_UNUSED: usize = 1_000;
/// The maximum size of all operation and service names together, in bytes: a single one may fill an export.
const MAX_OPERATION_BYTES: usize = 4 * 1024 * 1024;

/// The limits of the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) traces: usize,
    pub(crate) spans_per_trace: usize,
    /// Per trace, as in an answer: its spans with their scopes, and its processes.
    pub(crate) bytes_per_trace: usize,
    /// Of all spans, processes and scopes together, as stored, including overhead.
    pub(crate) bytes: usize,
}

impl Limits {
    pub(crate) const DEFAULT: Self = Self {
        traces: 20_000,
        spans_per_trace: 2_000,
        bytes_per_trace: 4 * 1024 * 1024,
        bytes: 160 * 1024 * 1024,
    };
}

/// A trace as it is kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoredTrace {
    /// In the order of arrival.
    pub(crate) spans: Vec<StoredSpan>,
    /// Counts against [`Limits::bytes_per_trace`], and determines the size of answers.
    pub(crate) bytes: usize,
}

/// Where a trace stands in time, for finding it without parsing it.
#[derive(Debug, Clone)]
pub(crate) struct Summary {
    pub(crate) id: TraceId,
    /// The start of its earliest span, in nanoseconds since 1970.
    pub(crate) start_ns: u64,
}

/// The result of an export.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    /// The reason of the last refusal.
    pub(crate) reason: Option<&'static str>,
}

/// How full the store is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) traces: usize,
    pub(crate) spans: usize,
    pub(crate) bytes: usize,
    /// Since the start.
    pub(crate) evicted_traces: u64,
}

/// Every trace that was received and not yet evicted.
#[derive(Debug)]
pub(crate) struct Store {
    limits: Limits,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    traces: HashMap<TraceId, Trace>,
    /// In the order of their first spans.
    arrivals: VecDeque<TraceId>,
    operations: BTreeMap<String, BTreeSet<(String, &'static str)>>,
    operation_count: usize,
    operation_bytes: usize,
    /// Shared by all their spans.
    processes: HashSet<Arc<Process>>,
    scopes: HashSet<Arc<Scope>>,
    /// The number of both at which unused ones are searched for next.
    sweep_above: usize,
    fill: Fill,
}

#[derive(Debug)]
struct Trace {
    start_ns: u64,
    end_ns: u64,
    kept: StoredTrace,
}

impl Store {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            inner: Mutex::default(),
        }
    }

    /// Stores one export. A span that is already stored, byte for byte, is accepted and not stored again: an exporter
    /// without an answer sends its batch again.
    pub(crate) fn add(&self, batches: Vec<ResourceSpans>) -> Received {
        let mut received = Received::default();
        for batch in batches {
            let process = jaeger_json::process(batch.resource.unwrap_or_default());
            let process = self.lock().share_process(process);
            for scoped in batch.scope_spans {
                let scope = scope_of(scoped.scope.unwrap_or_default());
                let spans: Vec<_> = scoped.spans.into_iter().map(encode).collect();
                self.add_spans(&process, scope, spans, &mut received);
            }
            self.lock().release_process(process);
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
        let scope = inner.share_scope(scope);
        for span in spans {
            let kept = span.and_then(|span| {
                let stored = StoredSpan {
                    process: Arc::clone(process),
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
        inner.release_scope(scope);
    }

    /// A trace; `None` if unknown or evicted.
    pub(crate) fn trace(&self, id: &TraceId) -> Option<StoredTrace> {
        self.lock().traces.get(id).map(|trace| trace.kept.clone())
    }

    /// The traces with a span in this range (nanoseconds since 1970), and with one of `service` if given; the latest start
    /// first.
    pub(crate) fn between(&self, from_ns: u64, to_ns: u64, service: Option<&str>) -> Vec<Summary> {
        let has_service = |trace: &Trace| {
            service.is_none_or(|service| {
                let mut spans = trace.kept.spans.iter();
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

    /// A service's operations, each with its kind in Jaeger's names.
    pub(crate) fn operations(&self, service: &str) -> Vec<(String, &'static str)> {
        let inner = self.lock();
        let operations = inner.operations.get(service);
        operations.into_iter().flatten().cloned().collect()
    }

    pub(crate) fn fill(&self) -> Fill {
        self.lock().fill
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code panics between two changes, so a poisoned lock's content is consistent.
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
            kept: StoredTrace::default(),
        });
        let kept = &mut trace.kept;
        if kept.spans.iter().any(|known| known.bytes == stored.bytes) {
            return Ok(());
        }
        let mut answered = stored.weight() + stored.scope.weight();
        let of_same = |known: &StoredSpan| Arc::ptr_eq(&known.process, &stored.process);
        if !kept.spans.iter().any(of_same) {
            answered += stored.process.weight();
        }
        let refused = if kept.spans.len() >= limits.spans_per_trace {
            Some("its trace has as many spans as are kept of one")
        } else if kept.bytes + answered > limits.bytes_per_trace {
            Some("its trace takes as many bytes as are kept of one")
        } else {
            None
        };
        if let Some(reason) = refused {
            if is_new {
                self.traces.remove(&span.trace_id);
            }
            return Err(reason);
        }
        kept.bytes += answered;
        trace.start_ns = trace.start_ns.min(span.start_ns);
        trace.end_ns = trace.end_ns.max(span.end_ns);
        self.fill.spans += 1;
        self.fill.bytes += stored.weight();
        let service = &stored.process.service;
        let name_bytes = service.len() + span.name.len();
        if self.operation_count < MAX_OPERATIONS
            && self.operation_bytes + name_bytes <= MAX_OPERATION_BYTES
        {
            let known = match self.operations.get_mut(service) {
                Some(known) => known,
                None => self.operations.entry(service.clone()).or_default(),
            };
            let operation = (span.name.clone(), span.kind);
            if known.insert(operation) {
                self.operation_count += 1;
                self.operation_bytes += name_bytes;
            }
        }
        trace.kept.spans.push(stored);
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
                self.fill.evicted_traces += 1;
                for span in trace.kept.spans {
                    self.fill.spans -= 1;
                    self.fill.bytes -= span.weight();
                    let StoredSpan { process, scope, .. } = span;
                    self.release_process(process);
                    self.release_scope(scope);
                }
            }
        }
        self.fill.traces = self.traces.len();
        if self.fill.bytes > limits.bytes
            || self.processes.len() + self.scopes.len() > self.sweep_above
        {
            self.sweep();
        }
    }

    fn share_process(&mut self, process: Process) -> Arc<Process> {
        shared(
            &mut self.processes,
            process,
            Process::weight,
            &mut self.fill,
        )
    }

    fn share_scope(&mut self, scope: Scope) -> Arc<Scope> {
        shared(&mut self.scopes, scope, Scope::weight, &mut self.fill)
    }

    /// Removes a process without spans: a restarted service is another process.
    fn release_process(&mut self, process: Arc<Process>) {
        if Arc::strong_count(&process) == UNUSED && self.processes.remove(&process) {
            self.fill.bytes -= process.weight();
        }
    }

    fn release_scope(&mut self, scope: Arc<Scope>) {
        if Arc::strong_count(&scope) == UNUSED && self.scopes.remove(&scope) {
            self.fill.bytes -= scope.weight();
        }
    }

    /// Removes those that a query still held when their last span was evicted.
    fn sweep(&mut self) {
        let fill = &mut self.fill;
        self.processes.retain(|process| {
            let is_used = Arc::strong_count(process) > 1;
            fill.bytes -= if is_used { 0 } else { process.weight() };
            is_used
        });
        self.scopes.retain(|scope| {
            let is_used = Arc::strong_count(scope) > 1;
            fill.bytes -= if is_used { 0 } else { scope.weight() };
            is_used
        });
        // The more are in use, the more are added before the next search.
        self.sweep_above = MAX_UNUSED.max(2 * (self.processes.len() + self.scopes.len()));
    }
}

/// The reference count of an unused value: its set's, and the caller's.
const UNUSED: usize = 2;

/// A valid span, encoded.
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

fn scope_of(scope: InstrumentationScope) -> Scope {
    Scope {
        name: scope.name,
        version: scope.version,
    }
}

/// The equal value that is already in the set, or this one, which is added.
fn shared<T: Eq + Hash>(
    known: &mut HashSet<Arc<T>>,
    value: T,
    weight: fn(&T) -> usize,
    fill: &mut Fill,
) -> Arc<T> {
    if let Some(same) = known.get(&value) {
        return Arc::clone(same);
    }
    let value = Arc::new(value);
    fill.bytes += weight(&value);
    known.insert(Arc::clone(&value));
    value
}
