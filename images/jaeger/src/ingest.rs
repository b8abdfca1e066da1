//! OTLP in: gRPC, and protobuf over HTTP.

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

/// The most that an exporter may send at once, unpacked; the same as an OpenTelemetry Collector's gRPC side.
const MAX_EXPORT_BYTES: usize = 4 * 1024 * 1024;
const PROTOBUF: &str = "application/x-protobuf";

pub(crate) struct Grpc(Arc<State>);

/// The gRPC side, with gzip for those who use it.
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

/// The HTTP side: `POST /v1/traces` with a protobuf body.
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
        let why = format!("only {PROTOBUF} is understood; OTLP in JSON is left out");
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let body = match header(header::CONTENT_ENCODING) {
        None | Some("identity") => body,
        Some("gzip") => unpack(&body)?,
        Some(other) => {
            let why = format!("the encoding {other} isn't understood; use gzip or none");
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
    };
    let request = ExportTraceServiceRequest::decode(body)
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("no OTLP request: {error}")))?;
    let response = take_in(&state, request, Transport::Http);
    Ok(([(header::CONTENT_TYPE, PROTOBUF)], response.encode_to_vec()).into_response())
}

fn unpack(body: &[u8]) -> Result<Bytes, (StatusCode, String)> {
    let mut unpacked = Vec::new();
    GzDecoder::new(body)
        .take(MAX_EXPORT_BYTES as u64 + 1)
        .read_to_end(&mut unpacked)
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("no gzip: {error}")))?;
    if unpacked.len() > MAX_EXPORT_BYTES {
        let why = format!("unpacked more than {MAX_EXPORT_BYTES} bytes");
        return Err((StatusCode::PAYLOAD_TOO_LARGE, why));
    }
    Ok(unpacked.into())
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
