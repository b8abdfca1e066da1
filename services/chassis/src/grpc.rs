//! gRPC: serving with a span, metrics and the caller's deadline around each call, and calling with the trace context and a
//! deadline. Left out: protection against a target that doesn't answer ([`crate::outbound`]), which
//! of its replicas is called ([`crate::replicas`]), and observing health checks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use opentelemetry::propagation::Injector;
use tonic::metadata::{MetadataKey, MetadataMap};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use crate::deadline;
use crate::lifecycle::{Lifecycle, listen};
use crate::metrics::Metrics;
use crate::telemetry::{self, Headers};

/// A caller that sets no deadline gets this one.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Polled by clients, for no request: neither traced nor counted.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// The conventions' name for an unknown method: callers can't create labels.
const UNKNOWN_METHOD: &str = "_OTHER";
/// Calls at the same time on one connection.
const MAX_CONCURRENT_CALLS: u32 = 256;

/// Serves `routes` until the service drains; returns the address once it listens.
///
/// # Errors
/// When the address is taken.
pub async fn serve(
    lifecycle: &Lifecycle,
    addr: SocketAddr,
    routes: Routes,
) -> anyhow::Result<SocketAddr> {
    let (listener, addr) = listen(addr).await?;
    let observed = routes
        .into_axum_router()
        .layer(from_fn_with_state(lifecycle.metrics().clone(), observe));
    let draining = lifecycle.draining();
    lifecycle.spawn_worker("grpc", async move {
        Server::builder()
            .max_concurrent_streams(MAX_CONCURRENT_CALLS)
            .add_routes(Routes::from(observed))
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), draining.cancelled_owned())
            .await
            .context("failed to serve gRPC")
    });
    Ok(addr)
}

async fn observe(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    if request.uri().path().starts_with(HEALTH) {
        return next.run(request).await;
    }
    // `package.Service/Method`, as the conventions have it.
    let method = request.uri().path().trim_start_matches('/').to_owned();
    let span = call_span("server", &method);
    telemetry::adopt_parent(&span, &Headers(request.headers()));
    let started = Instant::now();
    let limit = deadline::of_call(request.headers(), CALL_TIMEOUT);
    let response = deadline::within(limit, next.run(request))
        .instrument(span.clone())
        .await
        .unwrap_or_else(|_| Status::deadline_exceeded("not done in time").into_http());
    // An error is in the headers; success comes in the trailers, after the message.
    let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
    record(&span, code, is_servers_fault(code));
    let method = match code {
        Code::Unimplemented => UNKNOWN_METHOD.to_owned(),
        _ => method,
    };
    let trace = telemetry::sampled_trace(&span);
    metrics.rpc_served(method, code_name(code), started.elapsed(), trace);
    response
}

fn call_span(kind: &'static str, method: &str) -> Span {
    info_span!(
        "call",
        otel.name = method,
        otel.kind = kind,
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = Empty,
        error.r#type = Empty,
    )
}

fn record(span: &Span, code: Code, failed: bool) {
    let name = code_name(code);
    span.record("rpc.response.status_code", name);
    if failed {
        telemetry::fail(span, name);
    }
}

/// By the conventions a server has not failed if its client asked for something that doesn't exist, or gave up.
fn is_servers_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// As gRPC's own documents and the conventions write it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Makes one call: with the current trace context, metrics, and a deadline that is sent to the server; without a `timeout`
/// it takes as long as it takes.
///
/// # Errors
/// The call's status; `DeadlineExceeded` when no answer came in time.
pub async fn call<T, R>(
    metrics: &Metrics,
    (service, method): (&'static str, &'static str),
    timeout: Option<Duration>,
    message: T,
    send: impl AsyncFnOnce(tonic::Request<T>) -> Result<tonic::Response<R>, Status>,
) -> Result<R, Status> {
    let method = format!("{service}/{method}");
    let span = call_span("client", &method);
    let started = Instant::now();
    let result = async {
        let mut request = tonic::Request::new(message);
        telemetry::inject(&mut Metadata(request.metadata_mut()));
        let Some(timeout) = timeout else {
            return send(request).await;
        };
        request.set_timeout(timeout);
        // The server enforces the deadline as well; this one holds if the server doesn't answer at all.
        tokio::time::timeout(timeout, send(request))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
    }
    .instrument(span.clone())
    .await;
    let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
    record(&span, code, code != Code::Ok);
    let trace = telemetry::sampled_trace(&span);
    metrics.rpc_called(method, code_name(code), started.elapsed(), trace);
    result.map(tonic::Response::into_inner)
}

/// gRPC metadata as a carrier of the trace context.
struct Metadata<'a>(&'a mut MetadataMap);

impl Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) = (MetadataKey::from_bytes(key.as_bytes()), value.parse()) {
            self.0.insert(key, value);
        }
    }
}
