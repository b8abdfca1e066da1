//! The record of a load run: the contract between `loadtest`, which writes it, and the laboratory, which reads it.
//!
//! A run leaves a folder: [`SUMMARY_FILE`] holds one [`RunSummary`], [`TIMELINE_FILE`] one [`TimelineSecond`] per line,
//! [`ROUTES_FILE`] one [`RouteSecond`], [`LEDGER_FILE`] one [`LedgerEntry`] and [`CANCELLATIONS_FILE`] one
//! [`CancellationEntry`] per line; [`BEGUN_FILE`] exists once the measured part has begun. A run of the closed model
//! also has goose's own HTML report in [`REPORT_FILE`]. A run of several workers has such a folder for each of them,
//! `worker-1` and so on, in which the reports are.
//!
//! Left out: I/O.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// One [`RunSummary`] as JSON.
pub const SUMMARY_FILE: &str = "summary.json";
/// One [`LedgerEntry`] as JSON per line, in the order of the answers.
pub const LEDGER_FILE: &str = "ledger.jsonl";
/// One [`TimelineSecond`] as JSON per line, in order, without gaps.
pub const TIMELINE_FILE: &str = "timeline.jsonl";
/// One [`RouteSecond`] as JSON per line, by route, group and second.
pub const ROUTES_FILE: &str = "routes.jsonl";
/// Empty; created when the measured part begins.
pub const BEGUN_FILE: &str = "begun";
/// What a request may take, in milliseconds: the two seconds of the longest deadline between services, and a second for a busy
/// machine.
pub const LATE_MS: u32 = 3_000;
/// Empty; created once the users are signed up, by a run that begins when it is told to.
pub const READY_FILE: &str = "ready";
/// One [`CancellationEntry`] as JSON per line, in the order of the answers. Always present, possibly empty.
pub const CANCELLATIONS_FILE: &str = "cancellations.jsonl";
/// The `type` of the problem document with which a service that has too much to do refuses a request (503), before any
/// work of it was begun. A 503 with another type may follow a commit.
pub const OVERLOADED: &str = "urn:agora:problem:overloaded";
/// goose's HTML report; closed model only.
pub const REPORT_FILE: &str = "report.html";

/// One load run, as measured by its generator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSummary {
    /// The run's id, and the name of its folder.
    pub run_id: String,
    /// The scenario as given on the command line: `browse`, `checkout`, `order` …
    pub scenario: String,
    /// Reproduces the request mix.
    pub seed: u64,
    /// How requests were generated.
    pub model: LoadModel,
    /// The number of processes that generated it together.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub workers: usize,
    /// Before the first request of the preparation (sign-up of the users).
    pub started_at: DateTime<Utc>,
    /// When the measured part began: second 0 of the timeline starts here.
    pub measured_from: DateTime<Utc>,
    /// After the last answer.
    pub finished_at: DateTime<Utc>,
    /// Every request that the generator sent, preparation included, counted by route and answer.
    pub requests: Vec<RequestCount>,
    /// Requests of the measured part (without preparation).
    pub measured: usize,
    /// How many of them got no answer or an unexpected one.
    pub failed: usize,
    /// Arrivals of the open model that were not sent because the concurrency limit was reached. Not part of `measured`;
    /// they count as failed in the error rate.
    pub not_sent: u64,
    /// Requests per second in the measured part.
    pub requests_per_second: f64,
    /// Latency of the measured part.
    pub latency: LatencySummary,
    /// Orders sent and accepted, as in the ledger.
    pub orders: OrderCount,
    /// The thresholds of the run; empty without any.
    pub thresholds: Vec<ThresholdOutcome>,
}

fn one() -> usize {
    1
}

fn is_one(count: &usize) -> bool {
    *count == 1
}

/// How requests are generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LoadModel {
    /// Each user waits for its answer before it continues: a slow system gets less load, and its stalls are hidden.
    Closed {
        /// Concurrent users.
        users: usize,
        /// The maximum of requests per second over all users; `None` is unlimited.
        rate_limit: Option<usize>,
    },
    /// Actions arrive at a constant rate, whether the system keeps up or not.
    Open {
        /// Arrivals per second; an arrival is one action of the scenario, with one or more requests.
        arrivals_per_second: usize,
        /// The maximum of concurrent actions; arrivals beyond it are not sent.
        max_in_flight: usize,
        /// The accounts that arrivals use in turn.
        users: usize,
    },
}

impl fmt::Display for LoadModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed {
                users,
                rate_limit: None,
            } => write!(f, "closed model, {users} users"),
            Self::Closed {
                users,
                rate_limit: Some(most),
            } => {
                write!(
                    f,
                    "closed model, {users} users, at most {most} requests a second"
                )
            }
            Self::Open {
                arrivals_per_second,
                max_in_flight,
                users,
            } => write!(
                f,
                "open model, {arrivals_per_second} arrivals a second, at most {max_in_flight} in flight, \
                 {users} users"
            ),
        }
    }
}

/// One second of the measured part. A request belongs to the second in which it was scheduled (open model; later
/// requests of an action: sent) or sent (closed model), whenever its answer arrived.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimelineSecond {
    /// Whole seconds from [`RunSummary::measured_from`] to the start of this one. Counts from 0 without gaps, to the
    /// second of the last answer or of the last arrival that was not sent, whichever is later.
    pub second: u32,
    /// Requests of this second.
    pub sent: u64,
    /// How many of them got an expected answer.
    pub succeeded: u64,
    /// How many of them did not.
    pub failed: u64,
    /// Arrivals of this second that were not sent; not part of `sent`. 0 in the closed model.
    pub not_sent: u64,
    /// Median latency of this second's requests, in milliseconds, including failed ones; `None` without requests.
    pub p50_ms: Option<f64>,
    /// 99th percentile, likewise.
    pub p99_ms: Option<f64>,
    /// Maximum, likewise.
    pub max_ms: Option<f64>,
}

/// The requests of one group of users on one route in one second of the measured part. A request belongs to a second as
/// in [`TimelineSecond`]; seconds without a request are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSecond {
    /// As [`TimelineSecond::second`].
    pub second: u32,
    /// As [`RequestCount::method`].
    pub method: String,
    /// As [`RequestCount::route`].
    pub route: String,
    /// The group of users, where the scenario distinguishes groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The number of answers by status; `none` without an answer.
    pub answers: BTreeMap<String, u64>,
    /// How many of them are expected.
    pub succeeded: u64,
    /// How many of them are marked as stale: purchases at a stale price.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stale: u64,
    /// How many of them came after more than [`LATE_MS`]; `None` in a record from before they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<u64>,
    /// Median latency, in milliseconds, including failed requests.
    pub p50_ms: Option<f64>,
    /// 99th percentile, likewise.
    pub p99_ms: Option<f64>,
    /// Maximum, likewise.
    pub max_ms: Option<f64>,
    /// 99th percentile of the successful requests; `None` without any.
    pub succeeded_p99_ms: Option<f64>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl RouteSecond {
    /// Requests of this second.
    pub fn sent(&self) -> u64 {
        self.answers.values().sum()
    }
}

/// The number of answers with one status on one route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestCount {
    /// The HTTP method, upper case.
    pub method: String,
    /// The route's template, e.g. `/orders/{id}`: the same string as the service's `http_route` label.
    pub route: String,
    /// The HTTP status; `None` without an answer.
    pub status: Option<u16>,
    /// The number of answers.
    pub count: u64,
}

/// Response times of the measured part in milliseconds, including failed requests. From sending to the end of the
/// answer; for the first request of an action of the open model from its scheduled time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencySummary {
    /// Median.
    pub p50_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Maximum.
    pub max_ms: f64,
}

/// Orders of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderCount {
    /// Sent.
    pub tried: u64,
    /// Accepted by a 2xx with an order id.
    pub accepted: u64,
}

/// One threshold and its outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThresholdOutcome {
    /// The option that set it, e.g. `max-p95-ms`.
    pub name: String,
    /// The limit.
    pub limit: f64,
    /// The measured value.
    pub actual: f64,
    /// Whether `actual` is at most `limit`.
    pub holds: bool,
}

/// One order: the request and its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerEntry {
    /// When it was scheduled (open model), or sent (closed model).
    pub intended_at: DateTime<Utc>,
    /// When the answer, or its absence, was noticed.
    pub at: DateTime<Utc>,
    /// The `Idempotency-Key`; `None` in a run without keys.
    pub idempotency_key: Option<String>,
    /// The user's id.
    pub user_id: String,
    /// The product.
    pub product_id: i64,
    /// The quantity.
    pub quantity: u32,
    /// The HTTP status; `None` without an answer.
    pub status: Option<u16>,
    /// The order's id in a 2xx answer: a promise.
    pub order_id: Option<String>,
    /// The trace of the answer's `traceresponse` header, as 32 hexadecimal digits; `None` without a valid one, and in
    /// runs from before it was recorded.
    #[serde(default)]
    pub trace_id: Option<String>,
    /// Whether that trace was sampled; `None` without a `trace_id`.
    #[serde(default)]
    pub trace_sampled: Option<bool>,
    /// Time from `intended_at` to the answer, in milliseconds.
    pub latency_ms: u64,
    /// Why there was no usable answer, with the `type` of its problem document.
    pub error: Option<String>,
}

impl LedgerEntry {
    /// Whether its order may be stored although no id of one came back: there was no answer, none that could be read, or one
    /// that can follow a commit. Two kinds are given before it: a 4xx, and the 503 of a service that is [`OVERLOADED`].
    pub fn is_indeterminate(&self) -> bool {
        let refused_unbegun = match self.status {
            Some(400..=499) => true,
            Some(503) => self
                .error
                .as_ref()
                .is_some_and(|error| error.contains(OVERLOADED)),
            _ => false,
        };
        self.order_id.is_none() && !refused_unbegun
    }
}

/// The content of an answer's `traceresponse` header.
/// Source: W3C Trace Context level 2, <https://www.w3.org/TR/trace-context-2/#traceresponse-header>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceResponse {
    /// 32 hexadecimal digits, lower case, not all 0.
    pub trace_id: String,
    /// Whether the answering service sampled the trace.
    pub sampled: bool,
}

impl TraceResponse {
    /// Parses `00-<32 hex trace id>-<16 hex span id>-<2 hex flags>`; `None` for anything else.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next()?;
            let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            (part.len() == digits && part.bytes().all(is_hex)).then_some(part)
        };
        let (version, trace_id, span_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let is_nought = |id: &str| id.bytes().all(|byte| byte == b'0');
        if parts.next().is_some() || version != "00" || is_nought(trace_id) || is_nought(span_id) {
            return None;
        }
        Some(Self {
            trace_id: trace_id.to_owned(),
            sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
        })
    }
}

/// One cancellation, sent by the order's owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancellationEntry {
    /// When the answer, or its absence, was noticed.
    pub at: DateTime<Utc>,
    /// The order.
    pub order_id: String,
    /// The HTTP status; `None` without an answer. 202 is the promise that the order will be cancelled, 409 means that
    /// it was rejected before.
    pub status: Option<u16>,
    /// Time from sending to the answer, in milliseconds.
    pub latency_ms: u64,
    /// Why there was no usable answer.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn an_order_may_be_stored_after_any_answer_that_can_follow_a_commit() {
        let entry =
            |status: Option<u16>, error: Option<&str>, order_id: Option<&str>| LedgerEntry {
                intended_at: DateTime::UNIX_EPOCH,
                at: DateTime::UNIX_EPOCH,
                idempotency_key: None,
                user_id: String::new(),
                product_id: 1,
                quantity: 1,
                status,
                order_id: order_id.map(str::to_owned),
                trace_id: None,
                trace_sampled: None,
                latency_ms: 1,
                error: error.map(str::to_owned),
            };
        for (status, error) in [
            (None, "no answer: timed out"),
            (Some(202), "202 with a broken body: unexpected end"),
            (Some(202), "202 with an unexpected body: missing field"),
            (Some(500), "500 (urn:agora:problem:internal), expected 202"),
            (Some(502), "502, expected 202"),
            // The database was lost between its commit and its answer.
            (
                Some(503),
                "503 (urn:agora:problem:unavailable), expected 202",
            ),
            (Some(503), "503, expected 202"),
            (Some(504), "504, expected 202"),
        ] {
            assert!(
                entry(status, Some(error), None).is_indeterminate(),
                "{error}"
            );
        }
        for (status, error) in [
            (401, "401 (urn:agora:problem:unauthenticated), expected 202"),
            (422, "422 (urn:agora:problem:invalid), expected 202"),
            (429, "429 (urn:agora:problem:too-many), expected 202"),
            (503, "503 (urn:agora:problem:overloaded), expected 202"),
        ] {
            let entry = entry(Some(status), Some(error), None);
            assert!(!entry.is_indeterminate(), "{error}");
        }
        assert!(!entry(Some(202), None, Some("o")).is_indeterminate());
    }

    #[test]
    fn an_answers_trace_and_sampled_flag_are_parsed() {
        for (flags, sampled) in [("01", true), ("03", true), ("00", false), ("02", false)] {
            let read = TraceResponse::parse(&format!("00-{TRACE_ID}-b7ad6b7169203331-{flags}"));
            assert_eq!(
                read,
                Some(TraceResponse {
                    trace_id: TRACE_ID.to_owned(),
                    sampled
                })
            );
        }
    }

    #[test]
    fn a_malformed_header_has_no_trace() {
        for header in [
            "",
            "00",
            TRACE_ID,
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c8031é-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-+1",
        ] {
            assert_eq!(TraceResponse::parse(header), None, "{header:?}");
        }
    }

    #[test]
    fn a_ledger_without_traces_can_still_be_read() {
        let line = r#"{"intended_at":"2026-11-25T18:29:41Z","at":"2026-11-25T18:29:41Z","idempotency_key":null,
            "user_id":"u","product_id":1,"quantity":1,"status":202,"order_id":"o","latency_ms":3,"error":null}"#;
        let entry: LedgerEntry = serde_json::from_str(line).unwrap();
        assert_eq!((entry.trace_id, entry.trace_sampled), (None, None));
    }
}
