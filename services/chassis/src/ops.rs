//! The port that the gateway doesn't route: alive, ready, figures, and which patterns are on.
//!
//! It opens first and closes last, so that a service that waits for its database, or drains, says so.

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::lifecycle::Lifecycle;
use crate::readiness::Status;

pub(crate) fn router(lifecycle: Lifecycle) -> Router {
    Router::new()
        .route(
            "/healthz",
            get(|| async { axum::Json(serde_json::json!({ "status": "alive" })) }),
        )
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/patterns", get(patterns))
        .with_state(lifecycle)
}

async fn readyz(State(lifecycle): State<Lifecycle>) -> impl IntoResponse {
    let report = lifecycle.readiness().report();
    let status = match report.status {
        Status::Ready => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, axum::Json(report))
}

async fn metrics(State(lifecycle): State<Lifecycle>) -> impl IntoResponse {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, OPENMETRICS)], lifecycle.metrics().encode())
}

async fn patterns(State(lifecycle): State<Lifecycle>) -> impl IntoResponse {
    axum::Json(serde_json::json!({
        "service": lifecycle.service(),
        "patterns": lifecycle.patterns(),
    }))
}
