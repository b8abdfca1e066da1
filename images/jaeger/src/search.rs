//! Finding traces by the properties of their spans, as in Jaeger's memory storage.

use std::collections::{BTreeMap, HashMap};

use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};

use crate::{
    jaeger_json,
    span::{StoredSpan, TraceId},
    store::{Limits, Store, StoredTrace},
};

/// The maximum size of the stored traces of one answer: as JSON they take about twenty times as much while the answer is
/// built.
pub(crate) const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;
// Every single trace fits into an answer.
const _: () = assert!(Limits::DEFAULT.bytes_per_trace <= MAX_ANSWER_BYTES);

/// A search: traces with at least one span that meets every condition.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) service: String,
    pub(crate) operation: Option<String>,
    /// In the span, its process or one of its events; compared as text.
    pub(crate) tags: BTreeMap<String, String>,
    /// The span's start is in this range of nanoseconds since 1970.
    pub(crate) from_ns: u64,
    pub(crate) to_ns: u64,
    pub(crate) min_duration_us: u64,
    pub(crate) max_duration_us: u64,
    /// The maximum number of traces.
    pub(crate) limit: usize,
}

/// The traces, latest first; an error if they exceed the limit of an answer.
pub(crate) fn find(store: &Store, wanted: &Wanted) -> Result<Traces, TooLarge> {
    let mut found = Traces::default();
    for summary in store.between(wanted.from_ns, wanted.to_ns, Some(&wanted.service)) {
        if found.json.len() == wanted.limit {
            break;
        }
        // Evicted meanwhile.
        let Some(trace) = store.trace(&summary.id) else {
            continue;
        };
        if trace.spans.iter().any(|span| wanted.matches(span)) {
            found.add(&summary.id, &trace)?;
        }
    }
    Ok(found)
}

/// The traces of one answer.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    /// In Jaeger's JSON.
    pub(crate) json: Vec<Value>,
    bytes: usize,
}

/// The answer would exceed [`MAX_ANSWER_BYTES`].
#[derive(Debug)]
pub(crate) struct TooLarge;

impl Traces {
    pub(crate) fn add(&mut self, id: &TraceId, trace: &StoredTrace) -> Result<(), TooLarge> {
        self.bytes += trace.bytes;
        if self.bytes > MAX_ANSWER_BYTES {
            return Err(TooLarge);
        }
        self.json.push(jaeger_json::trace(id, &trace.spans));
        Ok(())
    }
}

impl Wanted {
    fn matches(&self, stored: &StoredSpan) -> bool {
        let lacks = |(key, value): (&String, &String)| lacks(stored, key, value);
        if stored.process.service != self.service || self.tags.iter().any(lacks) {
            return false;
        }
        let Some(span) = stored.parse() else {
            return false;
        };
        let duration_us = jaeger_json::duration_us(&span);
        (self.from_ns..=self.to_ns).contains(&span.start_time_unix_nano)
            && (self.min_duration_us..=self.max_duration_us).contains(&duration_us)
            && self
                .operation
                .as_ref()
                .is_none_or(|name| *name == span.name)
            && (self.tags.is_empty() || self.has_tags(&span, stored))
    }

    fn has_tags(&self, span: &Span, stored: &StoredSpan) -> bool {
        let mut all = jaeger_json::tags(span, &stored.scope);
        all.extend(stored.process.tags.iter().cloned());
        all.extend(jaeger_json::event_tags(span));
        self.tags.iter().all(|(key, value)| {
            all.iter()
                .any(|tag| tag["key"] == key.as_str() && text_of(&tag["value"]) == *value)
        })
    }
}

/// Whether a span certainly has no attribute with this value, seen without parsing it: a string stands in a protobuf message as
/// it is. A search reads every span of its time, and parsing takes most of that.
fn lacks(span: &StoredSpan, key: &str, value: &str) -> bool {
    let elsewhere = jaeger_json::is_made_of_other_fields(key)
        || span.process.tags.iter().any(|tag| tag["key"] == key);
    let stands_in = |text: &str| {
        let mut parts = span.bytes.windows(text.len());
        parts.any(|part| part == text.as_bytes())
    };
    !elsewhere && is_string_alone(value) && !stands_in(value)
}

/// Whether a value shown as text was a string: no number, no truth value, no bytes in hexadecimal digits, no list or map.
fn is_string_alone(value: &str) -> bool {
    !(value.parse::<f64>().is_ok()
        || matches!(value, "true" | "false")
        || value.starts_with(['[', '{'])
        || value.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn text_of(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// The number of calls between services within a time range (nanoseconds since 1970): spans whose parent is another
/// service's.
pub(crate) fn dependencies(store: &Store, from_ns: u64, to_ns: u64) -> Vec<Value> {
    let mut calls: BTreeMap<(String, String), u64> = BTreeMap::new();
    for summary in store.between(from_ns, to_ns, None) {
        count_calls(store, &summary.id, &mut calls);
    }
    calls
        .into_iter()
        .map(|((parent, child), count)| {
            json!({"parent": parent, "child": child, "callCount": count})
        })
        .collect()
}

fn count_calls(store: &Store, id: &TraceId, calls: &mut BTreeMap<(String, String), u64>) {
    let stored = store.trace(id).unwrap_or_default();
    let parsed: Vec<(&str, Span)> = stored
        .spans
        .iter()
        .filter_map(|one| Some((one.process.service.as_str(), one.parse()?)))
        .collect();
    let services: HashMap<&[u8], &str> = parsed
        .iter()
        .map(|(service, span)| (span.span_id.as_slice(), *service))
        .collect();
    for (child, span) in &parsed {
        match services.get(span.parent_span_id.as_slice()) {
            Some(parent) if parent != child => {
                let call = ((*parent).to_owned(), (*child).to_owned());
                *calls.entry(call).or_default() += 1;
            }
            _ => {}
        }
    }
}
