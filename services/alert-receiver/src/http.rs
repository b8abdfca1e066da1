//! The three routes, and errors as RFC 9457 problem documents.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::rejection::QueryRejection,
    extract::{DefaultBodyLimit, Query, Request, State, rejection::BytesRejection},
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use chrono::{DateTime, Utc};
use records::alerts::{HISTORY_PATH, History};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::{history::Record, log, webhook::Notification};

/// The maximum size of a notification.
const BODY_LIMIT_BYTES: usize = 1024 * 1024;
/// The deadline of a request, including its body.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum number of concurrent requests. Each may hold a body of [`BODY_LIMIT_BYTES`], or a copy of the record (5 MiB
/// as JSON): together they fit into the container's memory. Alertmanager sends one notification per alert name.
const CONCURRENT_REQUESTS: usize = 8;
/// The maximum length of a problem's detail, in characters: an unknown name may be a megabyte long.
const SHOWN: usize = 400;

/// The record, for one request at a time.
#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<Record>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Record> {
        // At worst, a request that panicked has left out a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The routes, with an empty record.
pub(crate) fn router() -> Router {
    Router::new()
        .route("/webhook", post(take))
        .route(HISTORY_PATH, get(history))
        .fallback(|| async {
            Problem::new(
                StatusCode::NOT_FOUND,
                "not-found",
                "there is nothing at this path",
            )
        })
        .method_not_allowed_fallback(|| async {
            let detail = "this path doesn't support this method";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .layer(middleware::from_fn(limit_time))
        .layer(middleware::from_fn_with_state(
            Permits::default(),
            limit_concurrency,
        ))
        .with_state(Shared(Arc::new(Mutex::new(Record::new(Utc::now())))))
        // Outside the limits: a health check is no load.
        .merge(Router::new().route("/healthz", get(|| async { "alive\n" })))
}

/// Receives a notification: 204, also when it repeats known changes. 400 for an invalid one, which Alertmanager does not
/// retry: it would be no better.
async fn take(
    State(record): State<Shared>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let notification = Notification::read(&body?).map_err(|wrong| {
        log(
            "warn",
            "a notification was refused",
            json!({ "reason": shown(&wrong) }),
        );
        Problem::new(StatusCode::BAD_REQUEST, "malformed", &wrong)
    })?;
    let missed = notification.truncated_alerts;
    let mut record = record.lock();
    for change in notification.changes(Utc::now()) {
        let (alert, status) = (change.name.clone(), change.status.word());
        if record.add(change) {
            log(
                "info",
                "alert changed",
                json!({ "alert": alert, "status": status }),
            );
        }
    }
    record.add_missed(missed);
    Ok(StatusCode::NO_CONTENT)
}

/// The query parameters of the history.
#[derive(Debug, Deserialize)]
struct Window {
    since: Option<DateTime<Utc>>,
}

/// The history as JSON.
async fn history(
    State(record): State<Shared>,
    window: Result<Query<Window>, QueryRejection>,
) -> Result<Json<History>, Problem> {
    let Query(window) = window.map_err(|rejection| {
        Problem::new(StatusCode::BAD_REQUEST, "malformed", &rejection.body_text())
    })?;
    Ok(Json(record.lock().since(window.since)))
}

/// The permits for concurrent requests.
#[derive(Debug, Clone)]
struct Permits(Arc<Semaphore>);

impl Default for Permits {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CONCURRENT_REQUESTS)))
    }
}

/// No request waits: Alertmanager retries a notification that was refused with 503.
async fn limit_concurrency(
    State(permits): State<Permits>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(_permit) = permits.0.try_acquire() else {
        let detail = format!("{CONCURRENT_REQUESTS} other requests are being answered");
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", &detail).into_response();
    };
    next.run(request).await
}

async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("the request took longer than {} s", TIMEOUT.as_secs());
            Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", &detail).into_response()
        }
    }
}

/// An error; `kind` becomes `type: urn:agora:problem:<kind>`.
struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: String,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, detail: &str) -> Self {
        Self {
            status,
            kind,
            detail: shown(detail),
        }
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let detail = format!("the body is larger than {BODY_LIMIT_BYTES} bytes");
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", &detail)
            }
            _ => Self::new(StatusCode::BAD_REQUEST, "malformed", &rejection.body_text()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = json!({
            "type": format!("urn:agora:problem:{}", self.kind),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = (self.status, Json(document)).into_response();
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        response
    }
}

/// The beginning of a text.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}
