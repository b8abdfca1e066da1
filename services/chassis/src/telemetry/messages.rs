//! The trace of a message: whether its context travels with it, and how a consumer uses it.
//!
//! By default the consumer's span is a *child* of the producer's: one order is one trace. OpenTelemetry's conventions prefer
//! *links*, because a span of a batch can't have many parents; here each message of a batch has a span of its own. A link is
//! right where messages wait for days or fan out widely, and can be configured (`AGORA_TRACE_RELATION`). With the pattern
//! `trace_propagation` off no context is sent.
//! Source: <https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/>.

use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::config::MessageTraces;
use crate::telemetry;

/// The headers that carry the context.
const CONTEXT_HEADERS: [&str; 2] = ["traceparent", "tracestate"];

impl MessageTraces {
    /// Writes the current context into a message's headers, replacing any other.
    pub(crate) fn inject(self, headers: &mut FieldTable) {
        if CONTEXT_HEADERS
            .iter()
            .any(|name| headers.contains_key(name))
        {
            let kept = headers.inner().iter();
            *headers = kept
                .filter(|(name, _)| !CONTEXT_HEADERS.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect::<std::collections::BTreeMap<_, _>>()
                .into();
        }
        if self != Self::Separate {
            telemetry::inject(&mut Headers(headers));
        }
    }

    /// Relates a consumer's span, before it is entered, to the producer's.
    pub(crate) fn extract(self, span: &Span, headers: &mut FieldTable) {
        match self {
            Self::Parent => telemetry::adopt_parent(span, &Headers(headers)),
            Self::Link => {
                let sender = TraceContextPropagator::new().extract(&Headers(headers));
                let sender = sender.span().span_context().clone();
                if sender.is_valid() {
                    span.add_link(sender);
                }
            }
            Self::Separate => {}
        }
    }
}

/// The attributes of a message's span.
pub(crate) struct Message<'a> {
    /// The exchange that it is sent to, or the queue that it was taken from.
    pub(crate) destination: &'a str,
    pub(crate) routing_key: &'a str,
    /// The event's id, where the message has one.
    pub(crate) id: Option<&'a str>,
}

/// The span of an operation on a message: `send`, `process`, `retry`, `dead_letter`. The conventions have only `send` for the
/// last two.
pub(crate) fn message_span(operation: &'static str, message: &Message<'_>) -> Span {
    let (kind, operation_type) = match operation {
        "process" => ("consumer", "process"),
        _ => ("producer", "send"),
    };
    info_span!(
        "message",
        otel.name = format!("{operation} {}", message.destination),
        otel.kind = kind,
        otel.status_code = tracing::field::Empty,
        messaging.system = "rabbitmq",
        messaging.operation.name = operation,
        messaging.operation.r#type = operation_type,
        messaging.destination.name = message.destination,
        messaging.rabbitmq.destination.routing_key = message.routing_key,
        messaging.message.id = message.id,
        error.r#type = tracing::field::Empty,
    )
}

/// AMQP headers as a carrier of the trace context.
struct Headers<'a>(&'a mut FieldTable);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        if !value.is_empty() {
            let value = AMQPValue::LongString(value.into());
            self.0.insert(key.into(), value);
        }
    }
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match self.0.inner().get(key)? {
            AMQPValue::LongString(value) => long_str(value),
            AMQPValue::ShortString(value) => Some(value.as_str()),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        self.0.inner().keys().map(ShortString::as_str).collect()
    }
}

fn long_str(value: &LongString) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_that_is_in_the_headers_is_not_forwarded() {
        let mut headers = FieldTable::default();
        headers.insert("kept".into(), AMQPValue::LongString("yes".into()));
        headers.insert("traceparent".into(), AMQPValue::LongString("old".into()));
        MessageTraces::Separate.inject(&mut headers);
        let names: Vec<_> = headers.inner().keys().map(ShortString::as_str).collect();
        assert_eq!(names, ["kept"]);
    }
}
