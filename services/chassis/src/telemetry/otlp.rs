//! Spans over OTLP/gRPC, and how many of them the store keeps.
//!
//! The SDK's own exporter writes a store's partial success to the log and tells nobody of it
//! (<https://github.com/open-telemetry/opentelemetry-rust/issues/865>): every span would count as sent. Left out: TLS, as the
//! store is in the same network, compression, and trying again: a batch that is tried again keeps the next one waiting,
//! and may be stored twice. Source: <https://opentelemetry.io/docs/specs/otlp/#partial-success>.

use std::time::Duration;

use anyhow::Context as _;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use tonic::transport::{Channel, Endpoint};

use super::export::{Exporter, Rejected};

/// Exports to one store, over one connection that is made when it is first needed.
pub(super) struct OtlpExporter {
    client: TraceServiceClient<Channel>,
    resource: ResourceAttributesWithSchema,
}

impl OtlpExporter {
    /// Inside a runtime; connects to nobody yet. `timeout` is for a whole export.
    ///
    /// # Errors
    /// When the endpoint can't be used.
    pub(super) fn new(
        endpoint: &str,
        timeout: Duration,
        resource: &Resource,
    ) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(endpoint.to_owned())
            .with_context(|| format!("failed to export spans to {endpoint}"))?
            .timeout(timeout)
            .connect_timeout(timeout)
            .connect_lazy();
        Ok(Self {
            client: TraceServiceClient::new(channel),
            resource: resource.into(),
        })
    }
}

impl Exporter for OtlpExporter {
    async fn export(&self, batch: Vec<SpanData>) -> Result<Rejected, String> {
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let request = ExportTraceServiceRequest { resource_spans };
        let answer = self.client.clone().export(request).await;
        let answer =
            answer.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
        let rejected = answer.into_inner().partial_success.unwrap_or_default();
        Ok(Rejected {
            // A store may also warn of what it took: that is none rejected.
            spans: rejected.rejected_spans.try_into().unwrap_or(0),
            reason: rejected.error_message,
        })
    }
}
