//! Errors as RFC 9457 problem documents, with a stable `type`.
//!
//! Extractors are wrapped here too, so that axum's own refusals (of a broken body, a bad query) have the same form as a
//! handler's.

use std::fmt;
use std::marker::PhantomData;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request};
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::telemetry;

/// An error for a client. `kind` becomes `type: urn:agora:problem:<kind>` and never changes its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    retry_after_seconds: Option<u64>,
}

/// A problem document (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Document<'a> {
    /// What is wrong; never changes its meaning.
    #[schema(pattern = "^urn:agora:problem:[a-z-]+$")]
    r#type: String,
    /// The status in words.
    title: &'static str,
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong with this request, for people.
    detail: &'a str,
    /// The trace that the request was served in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9a-f]{32}$", nullable = false)]
    trace_id: Option<String>,
}

/// The content type of problem documents.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// How long a client should wait before it retries, by default.
const RETRY_AFTER_SECONDS: u64 = 1;

impl Problem {
    /// A problem with a kind of the service's own. A 429 and a 503 have a `Retry-After`: a second by default.
    pub fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        let is_temporary = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        Self {
            status,
            kind,
            detail: detail.into(),
            retry_after_seconds: is_temporary.then_some(RETRY_AFTER_SECONDS),
        }
    }

    /// 429, with the seconds until a retry: this caller sent too many requests.
    pub fn too_many(
        kind: &'static str,
        detail: impl Into<String>,
        retry_after_seconds: u64,
    ) -> Self {
        Self {
            retry_after_seconds: Some(retry_after_seconds),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, kind, detail)
        }
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// 404: it doesn't exist, or not for this caller.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    /// 400: unreadable.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    /// 422: readable, but not allowed.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
    }

    /// 503: a dependency is unreachable; a retry may succeed.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
    }

    /// 503: too many requests for the service. No work was begun.
    pub fn overloaded(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail)
    }

    /// 500: a fault of the service; the details are in the log only.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "something went wrong on our side",
        )
    }
}

/// The `type` of a kind.
pub(crate) fn type_of(kind: &str) -> String {
    format!("urn:agora:problem:{kind}")
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = Document {
            r#type: type_of(self.kind),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            trace_id: telemetry::current_trace_id(),
        };
        let mut response = (self.status, axum::Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// A database error. One that may be over soon, as a lost connection or a full disk, is a 503; any other is a fault of the
/// service. Either is logged.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        if crate::failure::is_transient(&error) {
            tracing::warn!(%error, "database unavailable");
            return Self::unavailable("the database is unavailable");
        }
        tracing::error!(%error, "database query failed");
        Self::internal()
    }
}

/// A JSON body: an object. Optional where a request may have none.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = <axum::Json<Object<T>> as FromRequest<S>>::from_request(request, state);
        let axum::Json(Object(body)) = body.await?;
        Ok(Self(body))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> OptionalFromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        let body = <axum::Json<Object<T>> as OptionalFromRequest<S>>::from_request(request, state);
        let body = body.await?;
        Ok(body.map(|axum::Json(Object(body))| Self(body)))
    }
}

/// A JSON object. serde alone reads a struct from an array too, and names it in its errors.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Map(PhantomData)).map(Self)
    }
}

/// The query string.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub struct Query<T>(pub T);

/// Parameters in the path. A value that doesn't parse names nothing that exists: 404.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub struct Path<T>(pub T);

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Self::new(rejection.status(), "too-large", "the body is too large")
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::new(
                rejection.status(),
                "unsupported-media-type",
                "the body must be application/json",
            ),
            // Not JSON, or the body ended early.
            StatusCode::BAD_REQUEST => Self::malformed(for_clients(&rejection.body_text())),
            _ => Self::invalid(for_clients(&rejection.body_text())),
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(for_clients(&rejection.body_text()))
    }
}

/// An extractor's error without its words about types of ours; what follows names field and value.
fn for_clients(error: &str) -> String {
    const WORDS: [(&str, &str); 3] = [
        (
            "Failed to deserialize the JSON body into the target type: ",
            "the body can't be used: ",
        ),
        (
            "Failed to parse the request body as JSON: ",
            "the body is not JSON: ",
        ),
        (
            "Failed to deserialize query string: ",
            "the query can't be used: ",
        ),
    ];
    let known = WORDS.iter().find_map(|(words, ours)| {
        let what = error.strip_prefix(words)?;
        Some(format!("{ours}{what}"))
    });
    known.unwrap_or_else(|| error.to_owned())
}

impl From<PathRejection> for Problem {
    fn from(_: PathRejection) -> Self {
        Self::not_found("there is nothing at this path")
    }
}

pub(crate) async fn no_such_route() -> Problem {
    Problem::not_found("there is nothing at this path")
}

pub(crate) async fn method_not_allowed() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "this path doesn't answer to this method",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_an_object_and_errors_name_no_type_of_ours() {
        #[derive(Debug, serde::Deserialize)]
        struct Purchase {
            #[expect(dead_code, reason = "only read")]
            quantity: u8,
        }
        let read = async |body: &'static str| {
            let request = http::Request::builder()
                .header(CONTENT_TYPE, "application/json")
                .body(axum::body::Body::from(body))
                .unwrap();
            let body = <Json<Purchase> as FromRequest<()>>::from_request(request, &()).await;
            body.map(|_| ()).map_err(|problem| problem.detail)
        };
        assert_eq!(read(r#"{"quantity":1}"#).await, Ok(()));
        for (body, expected) in [
            (
                "[1]",
                "the body can't be used: invalid type: sequence, expected an object at line 1 column 0",
            ),
            (
                "5",
                "the body can't be used: invalid type: integer `5`, expected an object at line 1 column 1",
            ),
            (
                r#"{"quantity":300}"#,
                "the body can't be used: quantity: invalid value: integer `300`, expected u8 at line 1 column 15",
            ),
        ] {
            assert_eq!(read(body).await, Err(expected.to_owned()), "{body}");
        }
        let broken = read("{").await.unwrap_err();
        assert!(broken.starts_with("the body is not JSON: "), "{broken}");
    }

    #[test]
    fn a_temporary_problem_has_a_retry_after() {
        let wait = |problem: Problem| {
            let response = problem.into_response();
            let wait = response.headers().get(RETRY_AFTER);
            wait.map(|wait| wait.to_str().unwrap_or_default().to_owned())
        };
        let one = Some("1".to_owned());
        assert_eq!(wait(Problem::unavailable("")), one);
        assert_eq!(wait(Problem::overloaded("")), one);
        let own = Problem::new(StatusCode::TOO_MANY_REQUESTS, "own", "");
        assert_eq!(wait(own), one);
        assert_eq!(
            wait(Problem::too_many("own", "", 30)),
            Some("30".to_owned())
        );
        assert_eq!(wait(Problem::internal()), None);
        assert_eq!(wait(Problem::not_found("")), None);
    }
}
