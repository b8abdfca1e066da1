//! Health as in Jaeger's `healthcheckv2` extension, and metrics with the OpenTelemetry Collector's names.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{Router, extract::State as Shared, http::header, response::IntoResponse, routing::get};

use crate::{State, store::Received};

/// The protocol of received spans.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Transport {
    Grpc,
    Http,
}

/// Spans received since the start, accepted and refused, by [`Transport`].
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    accepted: [AtomicU64; 2],
    refused: [AtomicU64; 2],
}

impl Metrics {
    pub(crate) fn count(&self, transport: Transport, received: &Received) {
        let of = transport as usize;
        self.accepted[of].fetch_add(received.accepted, Ordering::Relaxed);
        self.refused[of].fetch_add(received.refused, Ordering::Relaxed);
    }
}

/// `/status`: a server that answers is healthy.
pub(crate) fn health() -> Router {
    let status = async || axum::Json(serde_json::json!({"status": "StatusOK", "healthy": true}));
    Router::new()
        .route("/status", get(status))
        .route("/", get(status))
}

/// `/metrics` for Prometheus.
pub(crate) fn metrics(state: Arc<State>) -> Router {
    Router::new()
        .route("/metrics", get(exposition))
        .with_state(state)
}

async fn exposition(Shared(state): Shared<Arc<State>>) -> impl IntoResponse {
    let fill = state.store.fill();
    let mut text = String::new();
    for (name, help, counts) in [
        (
            "otelcol_receiver_accepted_spans_total",
            "Accepted spans.",
            &state.metrics.accepted,
        ),
        (
            "otelcol_receiver_refused_spans_total",
            "Refused spans.",
            &state.metrics.refused,
        ),
    ] {
        head(&mut text, name, "counter", help);
        for (transport, count) in ["grpc", "http"].into_iter().zip(counts) {
            let count = count.load(Ordering::Relaxed);
            let labels = format!("receiver=\"otlp\",transport=\"{transport}\"");
            line(&mut text, &format!("{name}{{{labels}}} {count}"));
        }
    }
    let mut one = |name: &str, kind: &str, help: &str, value: u64| {
        head(&mut text, name, kind, help);
        line(&mut text, &format!("{name} {value}"));
    };
    one(
        "jaeger_stand_in_traces",
        "gauge",
        "Traces in memory.",
        fill.traces as u64,
    );
    one(
        "jaeger_stand_in_spans",
        "gauge",
        "Spans in memory.",
        fill.spans as u64,
    );
    one(
        "jaeger_stand_in_bytes",
        "gauge",
        "Bytes of the spans in memory.",
        fill.bytes as u64,
    );
    one(
        "jaeger_stand_in_evicted_traces_total",
        "counter",
        "Traces evicted for newer ones.",
        fill.evicted_traces,
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    line(text, &format!("# HELP {name} {help}"));
    line(text, &format!("# TYPE {name} {kind}"));
}

fn line(text: &mut String, line: &str) {
    // Writing into a String can't fail.
    let _ = writeln!(text, "{line}");
}
