//! A span as it is kept in memory, with who sent it and what that takes.
//!
//! A span is kept as the protobuf message that it came as, which takes a third of what its parsed form does, and is
//! parsed when it is read. Left out: traces and limits ([`crate::store`]), and JSON ([`crate::jaeger_json`]).

use std::{mem, sync::Arc};

use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use prost::Message;
use serde_json::Value;

/// 16 bytes, not all zero.
pub(crate) type TraceId = [u8; 16];

/// Who sent spans: a resource in Jaeger's terms.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) service: String,
    /// Its other attributes, as Jaeger's tags.
    pub(crate) tags: Vec<Value>,
}

impl Process {
    pub(crate) fn weight(&self) -> usize {
        mem::size_of::<Self>() + self.service.len() + self.tags.iter().map(weight_of).sum::<usize>()
    }
}

/// What a JSON value takes, roughly: an object's entries stand in a tree.
fn weight_of(value: &Value) -> usize {
    mem::size_of::<Value>()
        + match value {
            Value::String(text) => text.len(),
            Value::Array(values) => values.iter().map(weight_of).sum(),
            Value::Object(entries) => entries
                .iter()
                .map(|(key, value)| mem::size_of::<String>() + key.len() + weight_of(value))
                .sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

/// A span as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct StoredSpan {
    pub(crate) process: Arc<Process>,
    pub(crate) scope: Arc<Scope>,
    /// A protobuf message.
    pub(crate) bytes: Arc<[u8]>,
}

impl StoredSpan {
    /// The span, parsed. `None` can't happen: the bytes were made from one.
    pub(crate) fn parse(&self) -> Option<Span> {
        Span::decode(&*self.bytes).ok()
    }

    pub(crate) fn weight(&self) -> usize {
        self.bytes.len() + 2 * mem::size_of::<usize>() + mem::size_of::<Self>()
    }
}

/// The library that made a span.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl Scope {
    pub(crate) fn weight(&self) -> usize {
        mem::size_of::<Self>() + self.name.len() + self.version.len()
    }
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
