//! A trace as plain values of OpenTelemetry's terms: parent, links and kind.
//!
//! Left out: durations, status and events within a span: nothing here judges them.

use std::collections::BTreeMap;

/// Everything stored under one trace id.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// 32 hexadecimal digits.
    pub id: String,
    /// By their start; a span that was sent twice may be here twice.
    pub spans: Vec<Span>,
}

/// One step of a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Who did it: the resource's `service.name`.
    pub service: String,
    /// What was done.
    pub name: String,
    /// 16 hexadecimal digits.
    pub id: String,
    /// The id of the span that caused it, in the same trace, whether or not that one is stored; `None` for a root.
    pub parent: Option<String>,
    /// Other spans that it names, mostly of other traces.
    pub links: Vec<Link>,
    /// Which side it is.
    pub kind: Kind,
    /// Microseconds since 1970, by the clock of who did it.
    pub start_us: u64,
    /// The attributes; numbers and booleans as JSON writes them.
    pub tags: BTreeMap<String, String>,
}

/// A span that another one names without being its child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
}

/// Which side of a call or a message a span stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Neither; also where none is given.
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
