//! Logs as JSON lines, spans over OTLP, and the trace context that travels between services.
//!
//! Source: W3C Trace Context, <https://www.w3.org/TR/trace-context/>. Left out: sampling other than
//! "all, unless the caller said no", and metrics over OTLP (Prometheus scrapes them).

use anyhow::Context as _;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt, TracerProvider};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Metadata};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::ServiceConfig;
use crate::lifecycle::panic_message;

/// What has to be flushed before the process ends.
pub struct Telemetry {
    provider: SdkTracerProvider,
}

/// Starts logging and tracing for the process; inside a runtime, as the exporter needs one.
///
/// # Errors
/// When the OTLP endpoint can't be used, or telemetry was started before.
pub fn start(service: &'static str, config: &ServiceConfig) -> anyhow::Result<Telemetry> {
    let provider = tracer_provider(service, config.otlp_endpoint.as_deref())?;
    // Spans have a filter of their own: a quiet log must not cut traces.
    // Without what nobody asks of them: file and line, threads, idle times.
    let spans = tracing_opentelemetry::layer()
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_tracer(provider.tracer(service))
        .with_filter(LevelFilter::INFO);
    let filter = EnvFilter::try_new(&config.log_level)
        .context("failed to read LOG_LEVEL")?
        .and(filter_fn(is_fit_to_log));
    tracing_subscriber::registry()
        .with(spans)
        .with(log_layer(service).with_filter(filter))
        .try_init()
        .context("failed to start logging")?;
    // A panic is a log line like any other, not text on standard error.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "panic: {}", panic_message(panic.payload()));
    }));
    Ok(Telemetry { provider })
}

/// At its finer levels the AMQP client logs frames, and with them the password, whatever LOG_LEVEL asks for.
fn is_fit_to_log(metadata: &Metadata<'_>) -> bool {
    !metadata.target().starts_with("lapin") || *metadata.level() <= Level::INFO
}

impl Telemetry {
    /// Sends what is still queued; blocks for as long as the exporter's own timeout at the most.
    ///
    /// # Errors
    /// When the exporter did not get rid of its spans.
    pub fn flush(self) -> anyhow::Result<()> {
        self.provider.shutdown().context("failed to flush spans")
    }
}

fn tracer_provider(
    service: &'static str,
    endpoint: Option<&str>,
) -> anyhow::Result<SdkTracerProvider> {
    let resource = Resource::builder().with_service_name(service).build();
    let builder = SdkTracerProvider::builder().with_resource(resource);
    let Some(endpoint) = endpoint else {
        // Ids are made and travel all the same: logs carry them.
        return Ok(builder.build());
    };
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .with_context(|| format!("failed to export spans to {endpoint}"))?;
    Ok(builder.with_batch_exporter(exporter).build())
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
    let context = opentelemetry::Context::current();
    let span = context.span().span_context().clone();
    span.is_valid().then_some(span)
}

/// Makes `span` a child of the context that a caller sent. Before the span is first entered: afterwards
/// its parent is fixed.
pub fn adopt_parent(span: &tracing::Span, carrier: &dyn Extractor) {
    let parent = TraceContextPropagator::new().extract(carrier);
    // Without telemetry (in tests) there is no layer to tell; nothing is lost by that.
    let _ = span.set_parent(parent);
}

/// Writes the current context into what is being sent.
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
