//! What a load run says about itself: the contract between `loadtest`, which writes it, and `xtask`,
//! which reads it.
//!
//! A run leaves a folder: [`SUMMARY_FILE`] holds one [`RunSummary`], [`TIMELINE_FILE`] one [`TimelineSecond`]
//! and [`ROUTES_FILE`] one [`RouteSecond`] a line, [`LEDGER_FILE`] one [`LedgerEntry`] and [`CANCELLATIONS_FILE`] one
//! [`CancellationEntry`] a line; [`BEGUN_FILE`] is there once the measured part has begun. A run of the closed model has goose's own HTML report in [`REPORT_FILE`] as well. This crate is serde only; it
//! reads and writes no file.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// One [`RunSummary`] as JSON.
pub const SUMMARY_FILE: &str = "summary.json";
/// One [`LedgerEntry`] as JSON a line, in the order in which the answers came.
pub const LEDGER_FILE: &str = "ledger.jsonl";
/// One [`TimelineSecond`] as JSON a line, in order, every second there.
pub const TIMELINE_FILE: &str = "timeline.jsonl";
/// One [`RouteSecond`] as JSON a line, by route, group and second.
pub const ROUTES_FILE: &str = "routes.jsonl";
/// Empty; made when the measured part begins.
pub const BEGUN_FILE: &str = "begun";
/// One [`CancellationEntry`] as JSON a line, in the order in which the answers came. Always there, perhaps empty.
pub const CANCELLATIONS_FILE: &str = "cancellations.jsonl";
/// goose's HTML report; closed model only.
pub const REPORT_FILE: &str = "report.html";

/// One load run, as its generator saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSummary {
    /// Names the run and its folder.
    pub run_id: String,
    /// As it is typed: `browse`, `checkout`, `order` …
    pub scenario: String,
    /// Reproduces the request mix.
    pub seed: u64,
    /// How requests came to be sent.
    pub model: LoadModel,
    /// Before the first request of the preparation (sign-up of the users).
    pub started_at: DateTime<Utc>,
    /// When the measured part began: second 0 of the timeline starts here.
    pub measured_from: DateTime<Utc>,
    /// After the last answer.
    pub finished_at: DateTime<Utc>,
    /// Every request that left the generator, preparation included, counted by route and answer.
    pub requests: Vec<RequestCount>,
    /// Requests of the measured part (without preparation).
    pub measured: usize,
    /// Of these, the ones that got no answer or another one than the scenario expects.
    pub failed: usize,
    /// Arrivals of the open model that found its bound reached and were not sent. Not part of `measured`; against
    /// the error rate they count as failed.
    pub not_sent: u64,
    /// Requests of the measured part per second.
    pub requests_per_second: f64,
    /// Latency of the measured part.
    pub latency: LatencySummary,
    /// Orders tried and accepted, as the ledger has them.
    pub orders: OrderCount,
    /// What the run was held against; empty when nothing was asked.
    pub thresholds: Vec<ThresholdOutcome>,
}

/// How requests come to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LoadModel {
    /// Each user waits for its answer before it goes on: a slow system is asked less, and its stalls are hidden.
    Closed {
        /// Concurrent users.
        users: usize,
        /// Requests a second over all users; `None` is unlimited.
        rate_limit: Option<usize>,
    },
    /// Actions arrive at a constant rate, whether the system keeps up or not.
    Open {
        /// Arrivals a second; an arrival is one action of the scenario, of one request or more.
        arrivals_per_second: usize,
        /// The most actions under way at once; an arrival beyond them is not sent.
        max_in_flight: usize,
        /// Accounts in whose names they arrive, one after the other.
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

/// One second of the measured part. A request belongs to the second in which it was intended (open model; an
/// action's later requests: sent) or sent (closed model), whenever its answer came.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimelineSecond {
    /// Whole seconds from [`RunSummary::measured_from`] to this one's beginning. Counts from 0 without a gap, until
    /// the second of the last answer or of the last arrival that was not sent, whichever is later.
    pub second: u32,
    /// Requests of this second.
    pub sent: u64,
    /// Of these, the ones that got an answer that the scenario expects.
    pub succeeded: u64,
    /// Of these, the others.
    pub failed: u64,
    /// Arrivals of this second that were not sent; not part of `sent`. 0 in the closed model.
    pub not_sent: u64,
    /// Median latency of this second's requests, in milliseconds, failed ones included; `None` where there are none.
    pub p50_ms: Option<f64>,
    /// 99th percentile, likewise.
    pub p99_ms: Option<f64>,
    /// Longest, likewise.
    pub max_ms: Option<f64>,
}

/// What one group of users saw on one route in one second of the measured part. A request belongs to a second as in
/// [`TimelineSecond`]; a second without a request is not there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSecond {
    /// As [`TimelineSecond::second`].
    pub second: u32,
    /// As [`RequestCount::method`].
    pub method: String,
    /// As [`RequestCount::route`].
    pub route: String,
    /// Whose requests these are, where the scenario tells its users apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// How often each answer came, by its status; `none` where none came.
    pub answers: BTreeMap<String, u64>,
    /// Of these, the ones that the scenario expects.
    pub succeeded: u64,
    /// Of these, the ones whose answer is marked as made from old data: purchases at a stale price.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stale: u64,
    /// Median latency, in milliseconds, failed requests included.
    pub p50_ms: Option<f64>,
    /// 99th percentile, likewise.
    pub p99_ms: Option<f64>,
    /// Longest, likewise.
    pub max_ms: Option<f64>,
    /// 99th percentile of the ones that succeeded; `None` where none did.
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

/// How often one answer was seen on one route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestCount {
    /// The HTTP method, upper case.
    pub method: String,
    /// The route's template, e.g. `/orders/{id}`: the same string as the service's `http_route` label.
    pub route: String,
    /// The HTTP status; `None` where no answer came.
    pub status: Option<u16>,
    /// How often.
    pub count: u64,
}

/// Response times in milliseconds, measured part, failed requests included. From sending to the end of the
/// answer; for the first request of an action of the open model from the time at which it was meant to be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencySummary {
    /// Median.
    pub p50_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Longest.
    pub max_ms: f64,
}

/// Orders of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderCount {
    /// Sent.
    pub tried: u64,
    /// Promised by a 2xx with an order id.
    pub accepted: u64,
}

/// One threshold and how it came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThresholdOutcome {
    /// The option that asked for it, e.g. `max-p95-ms`.
    pub name: String,
    /// The most that was allowed.
    pub limit: f64,
    /// What was measured.
    pub actual: f64,
    /// Whether `actual` is at most `limit`.
    pub holds: bool,
}

/// One order that was tried: what was asked and what was answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerEntry {
    /// When it was meant to be sent (open model), or was sent (closed model).
    pub intended_at: DateTime<Utc>,
    /// When the answer, or its absence, was noticed.
    pub at: DateTime<Utc>,
    /// The `Idempotency-Key` sent; `None` in a run that sends none.
    pub idempotency_key: Option<String>,
    /// The user's id.
    pub user_id: String,
    /// What was ordered.
    pub product_id: i64,
    /// How many.
    pub quantity: u32,
    /// The HTTP status; `None` where no answer came.
    pub status: Option<u16>,
    /// The promise: the order's id in a 2xx answer.
    pub order_id: Option<String>,
    /// The trace that the answer names in its `traceresponse` header, as 32 hexadecimal digits; `None` where it names
    /// none that can be read, and in runs from before it was kept.
    #[serde(default)]
    pub trace_id: Option<String>,
    /// Whether that trace was recorded; `None` where there is no `trace_id`.
    #[serde(default)]
    pub trace_sampled: Option<bool>,
    /// Time from `intended_at` to the answer, in milliseconds.
    pub latency_ms: u64,
    /// Why there was no usable answer.
    pub error: Option<String>,
}

/// What an answer's `traceresponse` header says of its trace.
/// Source: W3C Trace Context level 2, <https://www.w3.org/TR/trace-context-2/#traceresponse-header>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceResponse {
    /// 32 hexadecimal digits, lower case, not all of them 0.
    pub trace_id: String,
    /// Whether whoever answered recorded the trace.
    pub sampled: bool,
}

impl TraceResponse {
    /// Reads `00-<32 hex trace id>-<16 hex span id>-<2 hex flags>`; `None` for anything else.
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

/// One cancellation that was tried, by the order's owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancellationEntry {
    /// When the answer, or its absence, was noticed.
    pub at: DateTime<Utc>,
    /// The order.
    pub order_id: String,
    /// The HTTP status; `None` where no answer came. 202 is the promise that the order will end cancelled, 409 says
    /// that it was rejected before.
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
    fn an_answer_names_its_trace_and_whether_it_was_recorded() {
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
    fn a_malformed_header_names_no_trace() {
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
    fn a_ledger_from_before_traces_were_kept_can_still_be_read() {
        let line = r#"{"intended_at":"2026-11-25T18:29:41Z","at":"2026-11-25T18:29:41Z","idempotency_key":null,
            "user_id":"u","product_id":1,"quantity":1,"status":202,"order_id":"o","latency_ms":3,"error":null}"#;
        let entry: LedgerEntry = serde_json::from_str(line).unwrap();
        assert_eq!((entry.trace_id, entry.trace_sampled), (None, None));
    }
}
