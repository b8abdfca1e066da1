//! Spans over OTLP/gRPC with `opentelemetry-otlp`, and how many of them the store rejects.
//!
//! The crate's exporter returns `Ok` for a partial success and has the number of rejected spans only in an event
//! (opentelemetry-otlp 0.33.1, `src/exporter/tonic/trace.rs`, lines 117 to 128, with its feature `internal-logs`; the caller's
//! result is `Ok(())`, line 134): every span would count as sent. A `tracing` layer that exists only for the export call reads
//! that event; it depends on no log level, and belongs to exactly the batch of the call. Left out: TLS, as the store is in the
//! same network, compression, and retries: a batch that is tried again keeps the next one waiting, and may be stored twice.
//! Source: <https://opentelemetry.io/docs/specs/otlp/#partial-success>.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tonic::transport::Endpoint;
use tracing::field::{Field, Visit};
use tracing::instrument::WithSubscriber;
use tracing::{Dispatch, Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Context, SubscriberExt};

use super::export::{Exporter, Rejected};

/// Exports to one store, over one connection that is made when it is first needed.
pub(super) struct OtlpExporter {
    exporter: SpanExporter,
    rejected: RejectedSpans,
    /// The subscriber of the export call. It sees that one event and nothing else: spans about exporting spans would never
    /// end.
    listener: Dispatch,
}

impl OtlpExporter {
    /// Inside a runtime; it connects at the first export. `timeout` is for a whole export.
    ///
    /// # Errors
    /// When the endpoint can't be used.
    pub(super) fn new(
        endpoint: &str,
        timeout: Duration,
        resource: &Resource,
    ) -> anyhow::Result<Self> {
        // The crate's own channel has no bound for connecting.
        let channel = Endpoint::from_shared(endpoint.to_owned())
            .with_context(|| format!("failed to export spans to {endpoint}"))?
            .timeout(timeout)
            .connect_timeout(timeout)
            .connect_lazy();
        let mut exporter = SpanExporter::builder()
            .with_tonic()
            .with_channel(channel)
            .with_timeout(timeout)
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .context("failed to build the exporter of spans")?;
        exporter.set_resource(resource);
        let rejected = RejectedSpans::default();
        let layer = rejected.clone().with_filter(filter_fn(is_partial_success));
        Ok(Self {
            exporter,
            rejected,
            listener: Dispatch::new(tracing_subscriber::registry().with(layer)),
        })
    }
}

impl Exporter for OtlpExporter {
    async fn export(&self, batch: Vec<SpanData>) -> Result<Rejected, String> {
        // One export at a time: the value read afterwards was written by this call.
        self.rejected.take();
        let export = self.exporter.export(batch);
        export
            .with_subscriber(self.listener.clone())
            .await
            .map_err(|error| error.to_string())?;
        Ok(self.rejected.take())
    }
}

fn is_partial_success(metadata: &Metadata<'_>) -> bool {
    metadata.target() == "opentelemetry-otlp"
        && metadata.name() == "TonicTracesClient.PartialSuccess"
}

/// The spans that the last partial success rejected.
#[derive(Debug, Clone, Default)]
struct RejectedSpans(Arc<Mutex<Rejected>>);

impl RejectedSpans {
    fn take(&self) -> Rejected {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Rejected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for RejectedSpans {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        event.record(&mut *self.lock());
    }
}

impl Visit for Rejected {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == "rejected_spans" {
            // A store may also add a warning to a full success: then none is rejected.
            self.spans = value.try_into().unwrap_or(0);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "error_message" {
            value.clone_into(&mut self.reason);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
        TraceService, TraceServiceServer,
    };
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    };
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use prometheus_client::metrics::counter::Counter;
    use tonic::transport::server::TcpIncoming;
    use tonic::{Request, Response, Status};
    use tracing::level_filters::LevelFilter;

    use super::super::export;
    use super::*;
    use crate::lifecycle::Lifecycle;

    /// The store's answer to each request in turn: how many spans it rejects, and why; or that it is unavailable.
    struct Store(Mutex<std::vec::IntoIter<Answer>>);

    type Answer = Option<(i64, &'static str)>;

    #[tonic::async_trait]
    impl TraceService for Store {
        async fn export(
            &self,
            _: Request<ExportTraceServiceRequest>,
        ) -> Result<Response<ExportTraceServiceResponse>, Status> {
            let next = self.0.lock().unwrap().next();
            let (rejected_spans, error_message) = next
                .expect("no more requests than answers")
                .ok_or_else(|| Status::unavailable("full"))?;
            Ok(Response::new(ExportTraceServiceResponse {
                partial_success: Some(ExportTracePartialSuccess {
                    rejected_spans,
                    error_message: error_message.to_owned(),
                }),
            }))
        }
    }

    async fn exporter(answers: Vec<Answer>) -> OtlpExporter {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let store = Store(Mutex::new(answers.into_iter()));
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(store))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(server);
        let resource = Resource::builder().build();
        OtlpExporter::new(&endpoint, Duration::from_secs(5), &resource).unwrap()
    }

    #[tokio::test]
    async fn each_batch_has_the_rejected_spans_of_its_own_answer() {
        let answers = [
            (3, "too many"),
            (0, ""),
            (0, "slow down"),
            (-1, ""),
            (1, ""),
        ];
        let exporter = exporter(answers.map(Some).to_vec()).await;
        for (spans, reason) in answers {
            let rejected = exporter.export(Vec::new()).await.unwrap();
            assert_eq!(rejected.spans, spans.max(0) as u64, "{reason:?}");
            assert_eq!(rejected.reason, reason);
        }
    }

    /// The specification calls this status retryable, and the crate would retry.
    #[tokio::test]
    async fn a_batch_that_fails_is_not_retried() {
        let exporter = exporter(vec![None, Some((1, "too many"))]).await;
        let error = exporter.export(Vec::new()).await.unwrap_err();
        assert!(error.contains("Unavailable"), "{error}");
        // The next answer is still there.
        assert_eq!(exporter.export(Vec::new()).await.unwrap().spans, 1);
    }

    #[tokio::test]
    async fn rejected_spans_are_read_whatever_the_log_level_is() {
        let exporter = exporter(vec![Some((2, "too many"))]).await;
        let silent = tracing_subscriber::registry().with(LevelFilter::OFF);
        let rejected = exporter.export(Vec::new()).with_subscriber(silent).await;
        assert_eq!(rejected.unwrap().spans, 2);
    }

    #[tokio::test]
    async fn of_a_batch_that_the_store_takes_in_part_each_span_is_counted_once() {
        let lifecycle = Lifecycle::new("test");
        let metrics = lifecycle.metrics().spans();
        let exporter = exporter(vec![Some((3, "too many"))]).await;
        let (processor, export) = export::start(exporter, &lifecycle);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .build();
        for _ in 0..7 {
            drop(provider.tracer("test").start("span"));
        }
        assert!(export.flush().await);
        let counts = [&metrics.sent, &metrics.failed, &metrics.dropped].map(Counter::get);
        assert_eq!(counts, [4, 3, 0]);
    }
}
