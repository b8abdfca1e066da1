//! Serving HTTP: one set of layers around a service's routes.
//!
//! From the outside in: the last answer of a connection → span and metrics → panics become 500 → time limit → body limit → a
//! slot of the route group ([`crate::admission`]) → routes. Requests without a route get a problem document as well.

use std::any::Any;
use std::net::SocketAddr;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::header::CONNECTION;
use http::{HeaderName, HeaderValue};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::field::Empty;
use tracing::{Instrument, error, info_span, warn};
use utoipa_axum::router::OpenApiRouter;

use crate::admission::RouteGroup;
use crate::config::HttpConfig;
use crate::connections;
use crate::deadline;
use crate::lifecycle::{Lifecycle, listen, panic_message};
use crate::metrics::{Metrics, known_method};
use crate::openapi;
use crate::patterns::Pattern;
use crate::problem::{Problem, method_not_allowed, no_such_route};
use crate::telemetry::{self, Headers};

/// The route label of a request that no route matched: clients can't create labels. Its span has no route.
const UNMATCHED: &str = "unmatched";
const TRACE_RESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// A service's routes with all their layers, ready to be served.
pub struct App {
    router: Router,
    config: HttpConfig,
    lifecycle: Lifecycle,
}

/// Wraps the route groups, and their OpenAPI document, in the layers. `about` is the document's description of the service.
pub fn compose(
    lifecycle: &Lifecycle,
    config: HttpConfig,
    about: &str,
    groups: impl IntoIterator<Item = RouteGroup>,
) -> App {
    lifecycle.enter_pattern(Pattern::LoadShedding, config.load_shedding);
    let routes = groups
        .into_iter()
        .fold(OpenApiRouter::new(), |routes, group| {
            routes.merge(group.routes(&config, lifecycle.metrics()))
        });
    let router = openapi::documented(lifecycle.service(), about, routes)
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(config.max_body_bytes))
        .layer(from_fn_with_state(config.timeout, limit_time))
        .layer(CatchPanicLayer::custom(answer_panic))
        .layer(from_fn_with_state(lifecycle.metrics().clone(), observe))
        .layer(from_fn_with_state(
            lifecycle.draining(),
            close_when_draining,
        ));
    App {
        router,
        config,
        lifecycle: lifecycle.clone(),
    }
}

impl App {
    /// Serves until the service drains; returns the address once it listens.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn serve(self) -> anyhow::Result<SocketAddr> {
        let (listener, addr) = listen(self.config.addr).await?;
        let draining = self.lifecycle.draining();
        self.lifecycle.spawn_worker("http", async move {
            let max_connections = self.config.max_connections;
            connections::serve(listener, self.router, max_connections, draining).await;
            Ok(())
        });
        Ok(addr)
    }

    /// The routes with their layers, for a test that needs no connection.
    pub fn router(&self) -> Router {
        self.router.clone()
    }
}

/// While the service drains, an answer is the last one on its connection.
async fn close_when_draining(
    State(draining): State<CancellationToken>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    if draining.is_cancelled() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

async fn observe(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map(|path| path.as_str().to_owned());
    let method = request.method().clone();
    let span = info_span!(
        "request",
        otel.name = span_name(&method, route.as_deref()),
        otel.kind = "server",
        http.request.method = known_method(&method),
        http.route = route,
        url.scheme = "http",
        url.path = shortened(request.uri().path()),
        http.response.status_code = Empty,
        otel.status_code = Empty,
        error.r#type = Empty,
    );
    telemetry::adopt_parent(&span, &Headers(request.headers()));
    let _active = metrics.http_active();
    let started = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        telemetry::fail(&span, status.as_str());
    }
    if let Some(trace) = telemetry::trace_response(&span) {
        response.headers_mut().insert(TRACE_RESPONSE, trace);
    }
    let trace = telemetry::sampled_trace(&span);
    let route = route.unwrap_or_else(|| UNMATCHED.to_owned());
    metrics.http_answered(&method, route, status.as_u16(), started.elapsed(), trace);
    response
}

/// By the conventions a request that no route matched is named by its method alone, `HTTP` if that is unknown too.
fn span_name(method: &http::Method, route: Option<&str>) -> String {
    let method = match known_method(method) {
        "_OTHER" => "HTTP",
        known => known,
    };
    match route {
        Some(route) => format!("{method} {route}"),
        None => method.to_owned(),
    }
}

/// The beginning of a path: a client must not make spans as large as it likes.
fn shortened(path: &str) -> &str {
    const MAX_BYTES: usize = 256;
    // A path is ASCII: other characters are refused before, or escaped.
    path.get(..MAX_BYTES).unwrap_or(path)
}

/// The handler is dropped at the limit, the service's or the client's: a statement that it had not sent to the database has
/// no effect; one that the database has is still executed, and so is a commit; any other transaction is rolled back.
async fn limit_time(
    State(limit): State<std::time::Duration>,
    request: Request,
    next: Next,
) -> Response {
    let limit = match deadline::of_request(request.headers(), limit) {
        Ok(limit) => limit,
        Err(malformed) => return malformed.into_response(),
    };
    match deadline::within(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let limit_ms = limit.as_millis() as u64;
            warn!(limit_ms, "request took too long");
            Problem::unavailable(format!("not done within {limit_ms} ms")).into_response()
        }
    }
}

fn answer_panic(panic: Box<dyn Any + Send>) -> Response {
    error!(panic = panic_message(&*panic), "a handler panicked");
    Problem::internal().into_response()
}
