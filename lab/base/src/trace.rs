//! A trace as plain values in OpenTelemetry's terms: parent, links and kind.
//!
//! Left out: durations, status and events within a span: nothing here judges them.

use std::collections::BTreeMap;

/// Everything stored under one trace id.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Ordered by their start; a span that was exported twice may be here twice.
    pub spans: Vec<Span>,
}

/// One step of a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The service that recorded it: the resource's `service.name`.
    pub service: String,
    /// The span's name, e.g. `POST /orders/`.
    pub name: String,
    /// 16 hexadecimal digits.
    pub id: String,
    /// The id of the span that caused it, in the same trace, whether or not that one is stored; `None` for a root.
    pub parent: Option<String>,
    /// Span links, mostly to spans of other traces.
    pub links: Vec<Link>,
    /// The span's kind.
    pub kind: Kind,
    /// When it began, in microseconds since 1970 by its service's clock.
    pub start_us: u64,
    /// The attributes; numbers and booleans as JSON writes them.
    pub tags: BTreeMap<String, String>,
}

/// A reference to a span that isn't the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
}

/// OpenTelemetry's span kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An operation within a service; also where no kind is recorded.
    Internal,
    /// Answers a request.
    Server,
    /// Makes a request.
    Client,
    /// Sends a message.
    Producer,
    /// Processes a message.
    Consumer,
}

impl Trace {
    /// The span with this id.
    pub fn span(&self, id: &str) -> Option<&Span> {
        self.spans.iter().find(|span| span.id == id)
    }
}

impl Span {
    /// An attribute's value; empty where there is none.
    pub fn tag(&self, name: &str) -> &str {
        self.tags.get(name).map_or("", String::as_str)
    }
}
