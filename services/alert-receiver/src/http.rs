//! The three routes, and refusals as RFC 9457 problem documents.

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

/// The most that a notification may weigh.
const BODY_LIMIT_BYTES: usize = 1024 * 1024;
/// The most that a request may take, its body included.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);
/// Requests that are answered at once. Each may hold a body of [`BODY_LIMIT_BYTES`], or a copy of the record (5 MiB as JSON):
/// together they fit into the container's memory. Alertmanager sends a notification for each name of an alert.
const CONCURRENT_REQUESTS: usize = 8;
/// How much of what is wrong a refusal repeats, in characters: a name that isn't known may be a megabyte long.
const SHOWN: usize = 400;

/// The record, for one request at a time.
#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<Record>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Record> {
        // A request that panicked left a change out at the worst.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that is answered, with an empty record.
pub(crate) fn router() -> Router {
    Router::new()
        .route("/webhook", post(take))
        .route(HISTORY_PATH, get(tell))
        .fallback(|| async {
            Problem::new(
                StatusCode::NOT_FOUND,
                "not-found",
                "there is nothing at this path",
            )
        })
        .method_not_allowed_fallback(|| async {
            let detail = "this path doesn't answer to this method";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .layer(middleware::from_fn(in_time))
        .layer(middleware::from_fn_with_state(Turns::default(), in_turn))
        .with_state(Shared(Arc::new(Mutex::new(Record::new(Utc::now())))))
        // Outside of all that: whoever asks whether the process lives is no load.
        .merge(Router::new().route("/healthz", get(|| async { "alive\n" })))
}

/// Takes a notification: 204, also where all of it is known. 400 for what can't be read: Alertmanager doesn't send
/// it again then, as it would be no better.
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
                "an alert changed",
                json!({ "alert": alert, "status": status }),
            );
        }
    }
    record.add_missed(missed);
    Ok(StatusCode::NO_CONTENT)
}

/// What may be asked for.
#[derive(Debug, Deserialize)]
struct Window {
    since: Option<DateTime<Utc>>,
}

/// The history as JSON.
async fn tell(
    State(record): State<Shared>,
    window: Result<Query<Window>, QueryRejection>,
) -> Result<Json<History>, Problem> {
    let Query(window) = window.map_err(|rejection| {
        Problem::new(StatusCode::BAD_REQUEST, "malformed", &rejection.body_text())
    })?;
    Ok(Json(record.lock().since(window.since)))
}

/// What requests have to have while they are answered.
#[derive(Debug, Clone)]
struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CONCURRENT_REQUESTS)))
    }
}

/// Nobody waits: Alertmanager sends a notification that was refused with 503 again.
async fn in_turn(State(turns): State<Turns>, request: Request, next: Next) -> Response {
    let Ok(_turn) = turns.0.try_acquire() else {
        let detail = format!("{CONCURRENT_REQUESTS} other requests are being answered");
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", &detail).into_response();
    };
    next.run(request).await
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("the request took longer than {} s", TIMEOUT.as_secs());
            Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", &detail).into_response()
        }
    }
}

/// A refusal; `kind` becomes `type: urn:agora:problem:<kind>`.
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

/// Its beginning.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}
