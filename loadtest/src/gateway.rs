//! HTTP towards the gateway: the routes, what each is expected to answer, and one way to ask.
//!
//! Nothing here follows redirects, retries or uses a proxy: each request that leaves is exactly one
//! on the wire, or the counts of a run couldn't be held against the system's own.

use std::error::Error;
use std::time::{Duration, Instant};

use anyhow::Context;
use records::load::TraceResponse;
use reqwest::{Client, RequestBuilder, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Half of what the gateway waits before it closes an idle connection: never send into one that it closes.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A route of the public API. Its template is the services' `http_route` label, letter by letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) template: &'static str,
    pub(crate) method: Method,
    /// Any other status is a failed request.
    pub(crate) expected_statuses: &'static [u16],
}

/// The methods that the scenarios use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Method {
    Get,
    Post,
}

impl Method {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

impl Route {
    pub(crate) const SIGN_UP: Self = Self::post("/auth/signup", &[201]);
    pub(crate) const LOG_IN: Self = Self::post("/auth/login", &[200]);
    pub(crate) const LIST_USERS: Self = Self::get("/users/");
    pub(crate) const READ_ME: Self = Self::get("/users/me");
    pub(crate) const PURCHASE: Self = Self::post("/users/{id}/purchases", &[201]);
    pub(crate) const PLACE_ORDER: Self = Self::post("/orders/", &[202]);
    /// 409: it was rejected before.
    pub(crate) const CANCEL_ORDER: Self = Self::post("/orders/{id}/cancel", &[202, 409]);
    pub(crate) const READ_ORDER: Self = Self::get("/orders/{id}");
    pub(crate) const READ_STOCK: Self = Self::get("/inventory/{product_id}");

    const fn get(template: &'static str) -> Self {
        Self {
            template,
            method: Method::Get,
            expected_statuses: &[200],
        }
    }

    const fn post(template: &'static str, expected_statuses: &'static [u16]) -> Self {
        Self {
            template,
            method: Method::Post,
            expected_statuses,
        }
    }
}

/// The way in.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    client: Client,
    base_url: String,
}

impl Gateway {
    pub(crate) fn new(base_url: &Url) -> anyhow::Result<Self> {
        let client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build()
            .context("failed to set up the HTTP client")?;
        Ok(Self {
            client,
            base_url: base_url.as_str().trim_end_matches('/').to_owned(),
        })
    }

    /// A request to `path`, which is `route` with its blanks filled in.
    pub(crate) fn request(&self, route: Route, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.base_url);
        match route.method {
            Method::Get => self.client.get(url),
            Method::Post => self.client.post(url),
        }
    }
}

/// What came of one request.
pub(crate) struct Answer<T> {
    /// `None` where no answer came.
    pub(crate) status: Option<u16>,
    /// From when its latency counts.
    pub(crate) since: Instant,
    /// Until the end of the body.
    pub(crate) latency: Duration,
    /// Its trace, where it names one that can be read.
    pub(crate) trace: Option<TraceResponse>,
    /// The body of the expected answer, or why there is none.
    pub(crate) outcome: Result<T, String>,
}

/// Sends one request and reads its answer to the end. The answer is usable when its status is one of the
/// route's, its body is a `T`, and `answers_the_question` says so of that.
pub(crate) async fn exchange<T: DeserializeOwned>(
    route: Route,
    request: RequestBuilder,
    since: Instant,
    answers_the_question: impl FnOnce(&T) -> bool,
) -> Answer<T> {
    let (status, trace, outcome) = match request.send().await {
        Ok(response) => (
            Some(response.status().as_u16()),
            trace_of(&response),
            read(route, response, answers_the_question).await,
        ),
        Err(error) => (None, None, Err(format!("no answer: {}", cause(&error)))),
    };
    Answer {
        since,
        status,
        latency: since.elapsed(),
        trace,
        outcome,
    }
}

/// Of two such headers nobody knows which one is right.
fn trace_of(response: &Response) -> Option<TraceResponse> {
    let mut headers = response.headers().get_all("traceresponse").iter();
    match (headers.next(), headers.next()) {
        (Some(header), None) => TraceResponse::parse(header.to_str().ok()?),
        _ => None,
    }
}

async fn read<T: DeserializeOwned>(
    route: Route,
    response: Response,
    answers_the_question: impl FnOnce(&T) -> bool,
) -> Result<T, String> {
    let status = response.status().as_u16();
    // Read in any case: an unread body would cost the connection.
    let body = response
        .bytes()
        .await
        .map_err(|error| format!("{status} with a broken body: {}", cause(&error)))?;
    if !route.expected_statuses.contains(&status) {
        let problem = serde_json::from_slice(&body)
            .map(|Problem { kind }| format!(" ({kind})"))
            .unwrap_or_default();
        let expected: Vec<_> = route.expected_statuses.iter().map(u16::to_string).collect();
        return Err(format!(
            "{status}{problem}, expected {}",
            expected.join(" or ")
        ));
    }
    let value = serde_json::from_slice(&body)
        .map_err(|error| format!("{status} with an unexpected body: {error}"))?;
    if !answers_the_question(&value) {
        return Err(format!("{status} with the answer to another question"));
    }
    Ok(value)
}

/// The part of an RFC 9457 problem document that is the same for each failure of a kind.
#[derive(Deserialize)]
struct Problem {
    #[serde(rename = "type")]
    kind: String,
}

/// The innermost error: reqwest's own text is only `error sending request for url (…)`.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
