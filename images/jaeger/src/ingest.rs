//! OTLP receivers: gRPC, and protobuf over HTTP.

use std::{io::Read, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State as Shared},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use prost::Message;
use tonic::{Request, codec::CompressionEncoding};

use crate::{State, ops::Transport};

/// The maximum size of an export, decompressed; the same as an OpenTelemetry Collector's gRPC receiver's.
const MAX_EXPORT_BYTES: usize = 4 * 1024 * 1024;
const PROTOBUF: &str = "application/x-protobuf";

pub(crate) struct Grpc(Arc<State>);

/// The gRPC receiver, with optional gzip.
pub(crate) fn grpc(state: Arc<State>) -> TraceServiceServer<Grpc> {
    TraceServiceServer::new(Grpc(state))
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(MAX_EXPORT_BYTES)
}

#[tonic::async_trait]
impl TraceService for Grpc {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let response = take_in(&self.0, request.into_inner(), Transport::Grpc);
        Ok(tonic::Response::new(response))
    }
}

/// The HTTP receiver: `POST /v1/traces` with a protobuf body.
pub(crate) fn http(state: Arc<State>) -> Router {
    Router::new()
        .route("/v1/traces", post(export))
        .layer(DefaultBodyLimit::max(MAX_EXPORT_BYTES))
        .with_state(state)
}

async fn export(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, (StatusCode, String)> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if header(header::CONTENT_TYPE) != Some(PROTOBUF) {
        let why = format!("only {PROTOBUF} is supported; OTLP in JSON is not");
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let body = match header(header::CONTENT_ENCODING) {
        None | Some("identity") => body,
        Some("gzip") => gunzip(&body)?,
        Some(other) => {
            let why = format!("the encoding {other} isn't supported; use gzip or none");
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
    };
    let request = ExportTraceServiceRequest::decode(body).map_err(|error| {
        (
            StatusCode::BAD_REQUEST,
            format!("invalid OTLP request: {error}"),
        )
    })?;
    let response = take_in(&state, request, Transport::Http);
    Ok(([(header::CONTENT_TYPE, PROTOBUF)], response.encode_to_vec()).into_response())
}

fn gunzip(body: &[u8]) -> Result<Bytes, (StatusCode, String)> {
    let mut decompressed = Vec::new();
    GzDecoder::new(body)
        .take(MAX_EXPORT_BYTES as u64 + 1)
        .read_to_end(&mut decompressed)
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("invalid gzip: {error}")))?;
    if decompressed.len() > MAX_EXPORT_BYTES {
        let why = format!("more than {MAX_EXPORT_BYTES} bytes after decompression");
        return Err((StatusCode::PAYLOAD_TOO_LARGE, why));
    }
    Ok(decompressed.into())
}

fn take_in(
    state: &State,
    request: ExportTraceServiceRequest,
    transport: Transport,
) -> ExportTraceServiceResponse {
    let received = state.store.add(request.resource_spans);
    state.metrics.count(transport, &received);
    ExportTraceServiceResponse {
        partial_success: received.reason.map(|reason| ExportTracePartialSuccess {
            rejected_spans: i64::try_from(received.refused).unwrap_or(i64::MAX),
            error_message: reason.to_owned(),
        }),
    }
}
