//! Jaeger's query API as used by its UI 2.14: `/api`. Every other path is the UI.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    extract::{Path, Query, State as Shared},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use crate::{
    State,
    search::{self, MAX_ANSWER_BYTES, TooLarge, Traces, Wanted},
    span::TraceId,
};

const DEFAULT_LIMIT: usize = 100;
/// The maximum number of traces in one answer.
const MAX_LIMIT: usize = 1_500;
/// The maximum of concurrent queries for many traces; others wait for a permit, at most [`MAX_WAIT`].
pub(crate) const MAX_QUERIES: usize = 2;
const MAX_WAIT: Duration = Duration::from_secs(10);
/// The default lookback of a search.
const DEFAULT_LOOKBACK: Duration = Duration::from_secs(2 * 24 * 3600);

/// A request's parameters, in order; some may be repeated.
type Parameters = Vec<(String, String)>;

/// An error answer.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = json!({"code": self.0.as_u16(), "msg": self.1});
        let body = json!({
            "data": null, "total": 0, "limit": 0, "offset": 0, "errors": [error],
        });
        (self.0, Json(body)).into_response()
    }
}

impl From<TooLarge> for Refusal {
    fn from(_: TooLarge) -> Self {
        let why = format!(
            "the answer would hold more than {MAX_ANSWER_BYTES} bytes of spans: request fewer traces, or a shorter time range"
        );
        Self(StatusCode::PAYLOAD_TOO_LARGE, why)
    }
}

fn bad(why: impl Into<String>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, why.into())
}

/// The API and the UI.
pub(crate) fn router(state: Arc<State>) -> Router {
    let api = Router::new()
        .route("/services", get(services))
        .route("/services/{service}/operations", get(operation_names))
        .route("/operations", get(operations))
        .route("/traces", get(traces))
        .route("/traces/{id}", get(trace))
        .route("/dependencies", get(dependencies))
        .fallback(async |uri: Uri| {
            let why = format!("this stand-in for Jaeger doesn't have {}", uri.path());
            Refusal(StatusCode::NOT_FOUND, why)
        });
    Router::new()
        .nest("/api", api)
        .fallback(async |Shared(state): Shared<Arc<State>>, uri: Uri| state.ui.answer(&uri).await)
        .with_state(state)
}

fn listed(data: Vec<Value>) -> Json<Value> {
    let total = data.len();
    answer(data, total, Vec::new())
}

fn answer(data: Vec<Value>, total: usize, errors: Vec<Value>) -> Json<Value> {
    let errors = if errors.is_empty() {
        Value::Null
    } else {
        errors.into()
    };
    Json(json!({"data": data, "total": total, "limit": 0, "offset": 0, "errors": errors}))
}

async fn services(Shared(state): Shared<Arc<State>>) -> Json<Value> {
    listed(
        state
            .store
            .services()
            .into_iter()
            .map(Value::from)
            .collect(),
    )
}

async fn operation_names(
    Shared(state): Shared<Arc<State>>,
    Path(service): Path<String>,
) -> Json<Value> {
    let mut names: Vec<String> = state
        .store
        .operations(&service)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    // Already sorted; an operation of several kinds is one name.
    names.dedup();
    listed(names.into_iter().map(Value::from).collect())
}

async fn operations(
    Shared(state): Shared<Arc<State>>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, Refusal> {
    let service = required(&parameters, "service")?;
    let kind = parameter(&parameters, "spanKind");
    let found = state
        .store
        .operations(service)
        .into_iter()
        .filter(|(_, of)| kind.is_none_or(|kind| kind == *of))
        .map(|(name, kind)| json!({"name": name, "spanKind": kind}));
    Ok(listed(found.collect()))
}

async fn trace(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let id = trace_id(&id)?;
    let trace = state.store.trace(&id).ok_or_else(not_found)?;
    in_background(&state, move || {
        let mut found = Traces::default();
        found.add(&id, &trace)?;
        Ok(answer(found.json, 0, Vec::new()))
    })
    .await
}

fn not_found() -> Refusal {
    Refusal(StatusCode::NOT_FOUND, "trace not found".to_owned())
}

async fn traces(
    Shared(state): Shared<Arc<State>>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, Refusal> {
    let ids: Vec<TraceId> = all(&parameters, "traceID")
        .map(trace_id)
        .collect::<Result<_, _>>()?;
    if ids.is_empty() {
        let wanted = wanted(&parameters)?;
        let shared = Arc::clone(&state);
        return in_background(&state, move || {
            Ok(listed(search::find(&shared.store, &wanted)?.json))
        })
        .await;
    }
    if ids.len() > MAX_LIMIT {
        return Err(bad(format!(
            "at most {MAX_LIMIT} parameters 'traceID' at once"
        )));
    }
    let shared = Arc::clone(&state);
    in_background(&state, move || {
        let mut found = Traces::default();
        let mut errors = Vec::new();
        for id in ids {
            match shared.store.trace(&id) {
                Some(trace) => found.add(&id, &trace)?,
                None => errors.push(json!({
                    "code": 404, "msg": "trace not found", "traceID": hex::encode(id),
                })),
            }
        }
        let total = found.json.len();
        Ok(answer(found.json, total, errors))
    })
    .await
}

async fn dependencies(
    Shared(state): Shared<Arc<State>>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, Refusal> {
    let end_ms: u64 = number(&parameters, "endTs")?
        .ok_or_else(|| bad("parameter 'endTs' is required, in milliseconds since 1970"))?;
    let lookback_ms: u64 = number(&parameters, "lookback")?.unwrap_or(24 * 3_600_000);
    let to_ns = end_ms.saturating_mul(1_000_000);
    let from_ns = to_ns.saturating_sub(lookback_ms.saturating_mul(1_000_000));
    let shared = Arc::clone(&state);
    in_background(&state, move || {
        Ok(listed(search::dependencies(&shared.store, from_ns, to_ns)))
    })
    .await
}

/// Parsing thousands of spans takes time and memory: the number of concurrent queries is limited.
async fn in_background(
    state: &State,
    work: impl FnOnce() -> Result<Json<Value>, TooLarge> + Send + 'static,
) -> Result<Json<Value>, Refusal> {
    let permit = tokio::time::timeout(MAX_WAIT, state.queries.acquire()).await;
    let Ok(Ok(_permit)) = permit else {
        let why = format!("{MAX_QUERIES} other queries are being answered");
        return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, why));
    };
    let worked = tokio::task::spawn_blocking(work).await.map_err(|error| {
        eprintln!("jaeger: a query failed: {error}");
        let why = "the query failed; see the log".to_owned();
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, why)
    })?;
    Ok(worked?)
}

fn wanted(parameters: &Parameters) -> Result<Wanted, Refusal> {
    let now_us = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        });
    let lookback = match parameter(parameters, "lookback") {
        // The UI's value when it sets the start itself.
        None | Some("custom") => DEFAULT_LOOKBACK,
        Some(text) => duration("lookback", text)?,
    };
    let end_us = number(parameters, "end")?.unwrap_or(now_us);
    let start_us =
        number(parameters, "start")?.unwrap_or_else(|| end_us.saturating_sub(micros(lookback)));
    let limit = number(parameters, "limit")?.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(bad(format!(
            "parameter 'limit' is {limit}; expected 1 to {MAX_LIMIT}"
        )));
    }
    let bound = |name: &str, default: u64| -> Result<u64, Refusal> {
        match parameter(parameters, name) {
            Some(text) => Ok(micros(duration(name, text)?)),
            None => Ok(default),
        }
    };
    let (min_duration_us, max_duration_us) =
        (bound("minDuration", 0)?, bound("maxDuration", u64::MAX)?);
    if min_duration_us > max_duration_us {
        return Err(bad(
            "parameter 'maxDuration' should be greater than 'minDuration'",
        ));
    }
    Ok(Wanted {
        service: required(parameters, "service")?.to_owned(),
        operation: parameter(parameters, "operation").map(str::to_owned),
        tags: tags(parameters)?,
        from_ns: start_us.saturating_mul(1_000),
        to_ns: end_us.saturating_mul(1_000),
        min_duration_us,
        max_duration_us,
        limit,
    })
}

/// `tags` is a JSON object of strings; `tag=key:value` may be repeated.
fn tags(parameters: &Parameters) -> Result<BTreeMap<String, String>, Refusal> {
    let mut tags = BTreeMap::new();
    for pair in all(parameters, "tag") {
        let (key, value) = pair.split_once(':').ok_or_else(|| {
            bad(format!(
                "malformed 'tag' parameter, expecting key:value, received: {pair}"
            ))
        })?;
        tags.insert(key.to_owned(), value.to_owned());
    }
    for object in all(parameters, "tags") {
        let more: BTreeMap<String, String> = serde_json::from_str(object).map_err(|error| {
            bad(format!(
                "malformed 'tags' parameter, expecting a JSON object of strings: {error}"
            ))
        })?;
        tags.extend(more);
    }
    Ok(tags)
}

/// Up to 32 hexadecimal digits, with or without leading zeros.
fn trace_id(text: &str) -> Result<TraceId, Refusal> {
    let malformed = || {
        bad(format!(
            "malformed trace id {text:?}: expected up to 32 hexadecimal digits"
        ))
    };
    if text.is_empty() || text.len() > 32 {
        return Err(malformed());
    }
    let mut id = TraceId::default();
    hex::decode_to_slice(format!("{text:0>32}"), &mut id).map_err(|_| malformed())?;
    Ok(id)
}

/// A number and one unit, `1.5s` or `100ms`; Go's sums (`1m30s`) are left out.
fn duration(name: &str, text: &str) -> Result<Duration, Refusal> {
    const UNITS: [(&str, f64); 7] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3_600.0),
    ];
    let malformed = || {
        bad(format!(
            "parameter '{name}' is {text:?}; expected a duration, such as 1.5s or 100ms"
        ))
    };
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or_else(malformed)?;
    let (number, unit) = text.split_at(split);
    let unit_s = UNITS
        .iter()
        .find(|(known, _)| *known == unit)
        .map(|(_, seconds)| *seconds);
    // The UI's lookback also uses days, besides Go's units.
    let unit_s = unit_s
        .or((unit == "d").then_some(86_400.0))
        .ok_or_else(malformed)?;
    let number: f64 = number.parse().map_err(|_| malformed())?;
    Duration::try_from_secs_f64(number * unit_s).map_err(|_| malformed())
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn all<'a>(parameters: &'a Parameters, name: &'a str) -> impl Iterator<Item = &'a str> {
    parameters
        .iter()
        .filter(move |(key, value)| key == name && !value.is_empty())
        .map(|(_, value)| value.as_str())
}

fn parameter<'a>(parameters: &'a Parameters, name: &'a str) -> Option<&'a str> {
    all(parameters, name).next()
}

fn required<'a>(parameters: &'a Parameters, name: &'a str) -> Result<&'a str, Refusal> {
    parameter(parameters, name).ok_or_else(|| bad(format!("parameter '{name}' is required")))
}

fn number<T: std::str::FromStr>(parameters: &Parameters, name: &str) -> Result<Option<T>, Refusal> {
    match parameter(parameters, name) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            bad(format!(
                "parameter '{name}' is {text:?}; expected a whole number"
            ))
        }),
    }
}
