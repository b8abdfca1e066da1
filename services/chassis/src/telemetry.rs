//! Logs as JSON lines, spans over OTLP, and the trace context that travels between services.
//!
//! Whether a trace is sampled is decided where it begins, usually in the gateway, and kept by all services
//! (`OTEL_TRACES_SAMPLER` decides for those that begin here). Source: W3C Trace Context, <https://www.w3.org/TR/trace-context/>. Left out:
//! metrics over OTLP (Prometheus scrapes them).

mod export;
mod messages;
mod otlp;
mod statement;

use anyhow::Context as _;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt, TraceId, TraceState, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

pub(crate) use self::messages::{Message, message_span};
use self::otlp::OtlpExporter;
pub use self::statement::Statement;
use crate::config::ServiceConfig;
use crate::lifecycle::{Lifecycle, panic_message};
use crate::patterns::Switch;

/// The exporter, which has to be flushed before the process ends.
pub struct Telemetry {
    /// `None` without an endpoint for spans.
    export: Option<export::Export>,
}

/// Starts logging and tracing for the process; inside a runtime, as the exporter needs one.
///
/// # Errors
/// When the OTLP endpoint can't be used, or telemetry was started before.
pub fn start(config: &ServiceConfig, lifecycle: &Lifecycle) -> anyhow::Result<Telemetry> {
    let service = lifecycle.service();
    let (provider, export) = tracer_provider(config, lifecycle)?;
    // Spans have a filter of their own: the log level must not cut traces. They are without attributes that aren't used:
    // file and line, threads, idle times.
    let spans = tracing_opentelemetry::layer()
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_tracer(provider.tracer(service))
        .with_filter(filter_fn(is_fit_to_trace));
    let filter = EnvFilter::try_new(&config.log_level)
        .context("failed to read LOG_LEVEL")?
        .and(filter_fn(is_fit_to_log));
    tracing_subscriber::registry()
        .with(spans)
        .with(log_layer(service).with_filter(filter))
        .try_init()
        .context("failed to start logging")?;
    // A panic is logged as JSON like everything else, not as text on standard error.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "panic: {}", panic_message(panic.payload()));
    }));
    Ok(Telemetry { export })
}

/// At its finer levels the AMQP client logs frames, and with them the password, so these are cut off whatever LOG_LEVEL is;
/// and it logs messages that the broker returns, bodies included, as a warning.
///
/// OpenTelemetry's crates log while they hold the current context (opentelemetry 0.33.1, `src/context.rs`, line 655): a line
/// of theirs with a trace's id in it would panic. Lost spans are in `export`'s lines and counts.
///
/// A line has only a span's ids, not its attributes, so that the log doesn't store these again.
fn is_fit_to_log(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let may_have_secrets = target.starts_with("lapin")
        && (*metadata.level() > Level::INFO || target.starts_with("lapin::returned_messages"));
    metadata.is_event() && !may_have_secrets && !target.starts_with("opentelemetry")
}

/// The services' own spans, and no log lines: an error's text may quote a row or a message, and the line has the span's id.
/// The AMQP client has a span for the life of a connection, which belongs to no trace.
fn is_fit_to_trace(metadata: &Metadata<'_>) -> bool {
    metadata.is_span()
        && *metadata.level() <= Level::INFO
        && !metadata.target().starts_with("lapin")
}

impl Telemetry {
    /// Sends the queued spans, within a few seconds; returns whether all of them were sent or refused in that time.
    pub async fn flush(self) -> bool {
        match self.export {
            Some(export) => export.flush().await,
            None => true,
        }
    }
}

fn tracer_provider(
    config: &ServiceConfig,
    lifecycle: &Lifecycle,
) -> anyhow::Result<(SdkTracerProvider, Option<export::Export>)> {
    let resource = Resource::builder()
        .with_service_name(lifecycle.service())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let builder = SdkTracerProvider::builder()
        .with_sampler(config.traces_sampler.clone())
        .with_resource(resource.clone());
    let Some(endpoint) = &config.otlp_endpoint else {
        // Ids are still made and propagated: logs have them.
        return Ok((builder.build(), None));
    };
    let exporter = || OtlpExporter::new(endpoint, export::EXPORT_TIMEOUT, &resource);
    Ok(match config.async_export {
        Switch::On => {
            let (processor, export) = export::start(exporter()?, lifecycle);
            let provider = builder.with_span_processor(processor).build();
            (provider, Some(export))
        }
        Switch::Off => {
            let processor = export::start_waiting(exporter, lifecycle)?;
            (builder.with_span_processor(processor).build(), None)
        }
    })
}

fn log_layer<S>(service: &'static str) -> json_subscriber::JsonLayer<S>
where
    S: tracing::Subscriber + for<'lookup> tracing_subscriber::registry::LookupSpan<'lookup>,
{
    let mut layer = json_subscriber::JsonLayer::stdout();
    layer.with_timer("timestamp", tracing_subscriber::fmt::time::SystemTime);
    layer.with_level("level");
    layer.with_target("target");
    layer.add_static_field("service", service.into());
    layer.with_flattened_event();
    layer.add_dynamic_field("trace_id", |_, _| current_trace_id());
    layer.add_dynamic_field("span_id", |_, _| {
        current_span().map(|span| span.span_id().to_string())
    });
    layer
}

/// The id of the trace that the caller runs in, as 32 hex digits.
pub fn current_trace_id() -> Option<String> {
    current_span().map(|span| span.trace_id().to_string())
}

fn current_span() -> Option<SpanContext> {
    let context = Context::current();
    let span = context.span().span_context().clone();
    span.is_valid().then_some(span)
}

/// The id of the trace that `span` belongs to, if it is sampled.
pub(crate) fn sampled_trace(span: &Span) -> Option<TraceId> {
    let context = span_context(span);
    context.is_sampled().then(|| context.trace_id())
}

/// The trace that an answer was made in, so that its client can look it up: the header
/// `traceresponse`, <https://www.w3.org/TR/trace-context-2/#traceresponse-header>.
pub(crate) fn trace_response(span: &Span) -> Option<http::HeaderValue> {
    let context = span_context(span);
    if !context.is_valid() {
        return None;
    }
    let (trace, id, flags) = (
        context.trace_id(),
        context.span_id(),
        context.trace_flags().to_u8(),
    );
    http::HeaderValue::try_from(format!("00-{trace}-{id}-{flags:02x}")).ok()
}

fn span_context(span: &Span) -> SpanContext {
    span.context().span().span_context().clone()
}

/// Marks a span as failed; `kind` is of a bounded set, never text from outside. The span needs the fields
/// `otel.status_code` and `error.type`.
pub(crate) fn fail(span: &Span, kind: &str) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", kind);
}

/// Makes `span` a child of the context that a caller sent. Call it before the span is first entered: afterwards its parent
/// is fixed.
pub fn adopt_parent(span: &tracing::Span, carrier: &dyn Extractor) {
    let parent = without_state(TraceContextPropagator::new().extract(carrier));
    // Without telemetry (in tests) there is no layer, and this fails, which changes nothing.
    let _ = span.set_parent(parent);
}

/// No service reads `tracestate`, and with it a client could make every span of its trace as large as it likes.
fn without_state(parent: Context) -> Context {
    let span = parent.span().span_context().clone();
    if !span.is_valid() {
        return parent;
    }
    parent.with_remote_span_context(SpanContext::new(
        span.trace_id(),
        span.span_id(),
        span.trace_flags(),
        true,
        TraceState::default(),
    ))
}

/// Writes the current context into a carrier.
pub fn inject(carrier: &mut dyn Injector) {
    TraceContextPropagator::new().inject_context(&tracing::Span::current().context(), carrier);
}

/// HTTP headers, read as a carrier.
pub struct Headers<'a>(pub &'a http::HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_of_opentelemetry_about_its_context_is_no_panic() {
        let filter = EnvFilter::new("trace").and(filter_fn(is_fit_to_log));
        let subscriber = tracing_subscriber::registry().with(log_layer("test").with_filter(filter));
        tracing::subscriber::with_default(subscriber, || {
            // One more than there may be: it warns while the contexts are borrowed.
            let contexts = 0..=u16::MAX;
            let attached: Vec<_> = contexts.map(|_| Context::new().attach()).collect();
            drop(attached);
        });
    }
}
