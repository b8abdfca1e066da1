//! The port that the gateway doesn't route: liveness, readiness, metrics, and which patterns are on.
//!
//! It opens first and closes last, so that a service that waits for its database, or drains, reports that.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::lifecycle::{Lifecycle, listen};
use crate::readiness::Status;

/// Opens the ops port.
///
/// # Errors
/// When the address is taken.
pub async fn serve(lifecycle: &Lifecycle, addr: SocketAddr) -> anyhow::Result<SocketAddr> {
    let (listener, addr) = listen(addr).await?;
    let closing = lifecycle.closing();
    let router = router(lifecycle.clone());
    lifecycle.spawn_watcher("ops", async move {
        axum::serve(listener, router)
            .with_graceful_shutdown(closing.cancelled_owned())
            .await
            .context("failed to serve the ops port")
    });
    Ok(addr)
}

fn router(lifecycle: Lifecycle) -> Router {
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
    let patterns: BTreeMap<_, _> = lifecycle
        .patterns()
        .into_iter()
        .map(|(pattern, switch)| (pattern.name(), switch.name()))
        .collect();
    axum::Json(serde_json::json!({
        "service": lifecycle.service(),
        "patterns": patterns,
    }))
}
