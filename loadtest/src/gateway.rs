//! HTTP to the gateway: the routes, their expected answers, and one function that sends requests.
//!
//! Nothing here follows redirects, retries or uses a proxy: each request is exactly one on the wire, otherwise the counts of
//! a run couldn't be reconciled with the system's own.

use std::error::Error;
use std::time::{Duration, Instant};

use anyhow::Context;
use records::load::{OVERLOADED, TraceResponse};
use reqwest::{Client, RequestBuilder, Response};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::options::Options;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Half of the gateway's idle timeout: never send into a connection that it is closing.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The name by which the gateway is called where it has several addresses.
const NAME: &str = "gateway";

/// A route of the public API. Its template equals the services' `http_route` label.
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
    const ALL: [Self; 9] = [
        Self::SIGN_UP,
        Self::LOG_IN,
        Self::LIST_USERS,
        Self::READ_ME,
        Self::PURCHASE,
        Self::PLACE_ORDER,
        Self::CANCEL_ORDER,
        Self::READ_ORDER,
        Self::READ_STOCK,
    ];
    pub(crate) const SIGN_UP: Self = Self::post("/auth/signup", &[201]);
    pub(crate) const LOG_IN: Self = Self::post("/auth/login", &[200]);
    pub(crate) const LIST_USERS: Self = Self::get("/users/");
    pub(crate) const READ_ME: Self = Self::get("/users/me");
    pub(crate) const PURCHASE: Self = Self::post("/users/{id}/purchases", &[201]);
    pub(crate) const PLACE_ORDER: Self = Self::post("/orders/", &[202]);
    /// 409: the order was rejected before.
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

/// Method and template.
impl Serialize for Route {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.method.as_str(), self.template).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Route {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (method, template) = <(String, String)>::deserialize(deserializer)?;
        let mut all = Self::ALL.into_iter();
        all.find(|route| (route.method.as_str(), route.template) == (&*method, &*template))
            .ok_or_else(|| D::Error::custom(format!("there is no route {method} {template}")))
    }
}

/// The entry point of the system.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    client: Client,
    base_url: String,
}

impl Gateway {
    /// The gateway of these options. With several addresses each new connection is made to the first that accepts it.
    pub(crate) fn new(options: &Options) -> anyhow::Result<Self> {
        let addresses = options.addresses();
        let base_url = if addresses.is_empty() {
            options.base_url.as_str().trim_end_matches('/').to_owned()
        } else {
            // Without a port: each address has its own.
            format!("http://{NAME}")
        };
        let mut client = Client::builder();
        if !addresses.is_empty() {
            client = client.resolve_to_addrs(NAME, &addresses);
        }
        let client = client
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build()
            .context("failed to set up the HTTP client")?;
        Ok(Self { client, base_url })
    }

    /// A request to `path`, which is `route` with its parameters filled in.
    pub(crate) fn request(&self, route: Route, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.base_url);
        match route.method {
            Method::Get => self.client.get(url),
            Method::Post => self.client.post(url),
        }
    }
}

/// The result of one request.
pub(crate) struct Answer<T> {
    /// `None` without an answer.
    pub(crate) status: Option<u16>,
    /// The start of its latency.
    pub(crate) since: Instant,
    /// Until the end of the body.
    pub(crate) latency: Duration,
    /// Its trace, if the header is valid.
    pub(crate) trace: Option<TraceResponse>,
    /// The body of the expected answer, or why there is none.
    pub(crate) outcome: Result<T, String>,
}

/// What a service answers that is too busy, or has lost what it needs.
pub(crate) const UNAVAILABLE: u16 = 503;

impl<T> Answer<T> {
    /// Whether the service was too busy, and has not begun what was asked for.
    pub(crate) fn is_overloaded(&self) -> bool {
        let reason = self.outcome.as_ref().err();
        self.status == Some(UNAVAILABLE) && reason.is_some_and(|reason| reason.contains(OVERLOADED))
    }
}

/// Sends one request and reads its answer to the end. The answer is usable when its status is one of the route's, its body
/// is a `T`, and `matches` accepts that.
pub(crate) async fn exchange<T: DeserializeOwned>(
    route: Route,
    request: RequestBuilder,
    since: Instant,
    matches: impl FnOnce(&T) -> bool,
) -> Answer<T> {
    let (status, trace, outcome) = match request.send().await {
        Ok(response) => (
            Some(response.status().as_u16()),
            trace_of(&response),
            read(route, response, matches).await,
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

/// Two such headers are ambiguous.
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
    matches: impl FnOnce(&T) -> bool,
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
    if !matches(&value) {
        return Err(format!("{status} with the answer to a different request"));
    }
    Ok(value)
}

/// The part of an RFC 9457 problem document that is the same for all failures of one type.
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
