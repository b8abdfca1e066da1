//! Converts OTLP to Jaeger's JSON: parent and links become references; kind, status and scope become tags.
//!
//! As in Jaeger's own translation: <https://opentelemetry.io/docs/specs/otel/trace/sdk_exporters/jaeger/>.

use std::collections::HashMap;

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{Span, status::StatusCode},
};
use serde_json::{Value, json};

use crate::span::{Process, Scope, StoredSpan, TraceId, kind_name};

/// Jaeger's name for a service without one.
const NO_NAME: &str = "OTLPResourceNoServiceName";
/// JavaScript's largest safe integer; Jaeger writes larger ones as text.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;
/// The W3C flags inside OTLP's.
const TRACE_FLAGS: u32 = 0xff;

/// A resource: its service's name, and tags for its other attributes.
pub(crate) fn process(resource: Resource) -> Process {
    let mut service = None;
    let mut tags = Vec::new();
    for attribute in resource.attributes {
        if attribute.key == "service.name" {
            service = Some(text(attribute.value));
        } else {
            tags.push(tag(attribute));
        }
    }
    Process {
        service: service
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| NO_NAME.to_owned()),
        tags,
    }
}

/// A trace: its spans by start time, and their processes.
pub(crate) fn trace(id: &TraceId, stored: &[StoredSpan]) -> Value {
    let mut ids: HashMap<&Process, String> = HashMap::new();
    let mut processes = serde_json::Map::new();
    let mut spans: Vec<(u64, Value)> = Vec::with_capacity(stored.len());
    for one in stored {
        let Some(parsed) = one.parse() else { continue };
        let next = format!("p{}", ids.len() + 1);
        let process = ids.entry(&one.process).or_insert_with(|| {
            let value = json!({"serviceName": one.process.service, "tags": one.process.tags});
            processes.insert(next.clone(), value);
            next
        });
        spans.push((
            parsed.start_time_unix_nano,
            span(parsed, &one.scope, process),
        ));
    }
    spans.sort_by_key(|(start, _)| *start);
    json!({
        "traceID": hex::encode(id),
        "spans": spans.into_iter().map(|(_, span)| span).collect::<Vec<_>>(),
        "processes": processes,
        "warnings": null,
    })
}

fn span(span: Span, scope: &Scope, process: &str) -> Value {
    let reference = |kind: &str, trace: &[u8], span: &[u8]| json!({"refType": kind, "traceID": hex::encode(trace), "spanID": hex::encode(span)});
    let mut references = Vec::new();
    if is_id(&span.parent_span_id) {
        references.push(reference("CHILD_OF", &span.trace_id, &span.parent_span_id));
    }
    for link in &span.links {
        references.push(reference("FOLLOWS_FROM", &link.trace_id, &link.span_id));
    }
    let events = span.events.iter().map(|event| {
        let name = (!event.name.is_empty()).then(|| string_tag("event", &event.name));
        let attributes = event.attributes.iter().cloned().map(tag);
        json!({
            "timestamp": event.time_unix_nano / 1_000,
            "fields": name.into_iter().chain(attributes).collect::<Vec<_>>(),
        })
    });
    json!({
        "traceID": hex::encode(&span.trace_id),
        "spanID": hex::encode(&span.span_id),
        "flags": span.flags & TRACE_FLAGS,
        "operationName": span.name,
        "references": references,
        "startTime": span.start_time_unix_nano / 1_000,
        "duration": duration_us(&span),
        "tags": tags(&span, scope),
        "logs": events.collect::<Vec<_>>(),
        "processID": process,
        "warnings": null,
    })
}

/// A span's tags: its attributes, and OTLP's other fields.
pub(crate) fn tags(span: &Span, scope: &Scope) -> Vec<Value> {
    let mut tags: Vec<Value> = span.attributes.iter().cloned().map(tag).collect();
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            tags.push(string_tag(key, value));
        }
    };
    add("otel.scope.name", &scope.name);
    add("otel.scope.version", &scope.version);
    add("span.kind", kind_name(span.kind()));
    add("w3c.tracestate", &span.trace_state);
    if let Some(status) = &span.status {
        add("otel.status_description", &status.message);
        match status.code() {
            StatusCode::Unset => {}
            StatusCode::Ok => add("otel.status_code", "OK"),
            StatusCode::Error => {
                add("otel.status_code", "ERROR");
                tags.push(json!({"key": "error", "type": "bool", "value": true}));
            }
        }
    }
    tags
}

/// Whether a tag may come from a field that is no attribute.
pub(crate) fn is_made_of_other_fields(key: &str) -> bool {
    key.starts_with("otel.") || ["span.kind", "w3c.tracestate", "error"].contains(&key)
}

/// The tags of a span's events.
pub(crate) fn event_tags(span: &Span) -> impl Iterator<Item = Value> {
    span.events
        .iter()
        .flat_map(|event| event.attributes.iter().cloned().map(tag))
}

/// Microseconds; 0 if the end is before the start.
pub(crate) fn duration_us(span: &Span) -> u64 {
    let duration_ns = span
        .end_time_unix_nano
        .saturating_sub(span.start_time_unix_nano);
    duration_ns / 1_000
}

/// Whether bytes are a span id: OTLP has none or zeros without a parent.
pub(crate) fn is_id(id: &[u8]) -> bool {
    id.iter().any(|byte| *byte != 0)
}

fn string_tag(key: &str, value: &str) -> Value {
    json!({"key": key, "type": "string", "value": value})
}

fn tag(attribute: KeyValue) -> Value {
    let key = attribute.key;
    match attribute.value.and_then(|value| value.value) {
        Some(any_value::Value::BoolValue(value)) => {
            json!({"key": key, "type": "bool", "value": value})
        }
        Some(any_value::Value::IntValue(value)) if value.unsigned_abs() > MAX_SAFE_INTEGER => {
            json!({"key": key, "type": "int64", "value": value.to_string()})
        }
        Some(any_value::Value::IntValue(value)) => {
            json!({"key": key, "type": "int64", "value": value})
        }
        Some(any_value::Value::DoubleValue(value)) if value.is_finite() => {
            json!({"key": key, "type": "float64", "value": value})
        }
        other => string_tag(
            &key,
            &text(other.map(|value| AnyValue { value: Some(value) })),
        ),
    }
}

/// A value as text: a string unchanged, other types as JSON.
fn text(value: Option<AnyValue>) -> String {
    match plain(value) {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn plain(value: Option<AnyValue>) -> Value {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(value)) => value.into(),
        Some(any_value::Value::BoolValue(value)) => value.into(),
        Some(any_value::Value::IntValue(value)) => value.into(),
        Some(any_value::Value::DoubleValue(value)) if value.is_finite() => value.into(),
        Some(any_value::Value::DoubleValue(value)) => value.to_string().into(),
        Some(any_value::Value::BytesValue(value)) => hex::encode(value).into(),
        Some(any_value::Value::ArrayValue(array)) => array
            .values
            .into_iter()
            .map(|value| plain(Some(value)))
            .collect(),
        Some(any_value::Value::KvlistValue(list)) => list
            .values
            .into_iter()
            .map(|pair| (pair.key, plain(pair.value)))
            .collect(),
        // An index into a table that only profiles have.
        Some(any_value::Value::StringValueStrindex(_)) | None => Value::Null,
    }
}
