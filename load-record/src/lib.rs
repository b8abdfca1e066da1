//! What a load run says about itself: the contract between `loadtest`, which writes it, and `xtask`,
//! which reads it.
//!
//! A run leaves a folder: [`SUMMARY_FILE`] holds one [`RunSummary`], [`LEDGER_FILE`] one [`LedgerEntry`] a
//! line, [`REPORT_FILE`] goose's own HTML report. This crate is serde only; it reads and writes no file.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// One [`RunSummary`] as JSON.
pub const SUMMARY_FILE: &str = "summary.json";
/// One [`LedgerEntry`] as JSON a line, in the order in which the answers came.
pub const LEDGER_FILE: &str = "ledger.jsonl";
/// goose's HTML report.
pub const REPORT_FILE: &str = "report.html";

/// One load run, as its generator saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSummary {
    /// Names the run and its folder.
    pub run_id: String,
    /// `browse`, `checkout`, `mixed` or `login`.
    pub scenario: String,
    /// Reproduces the request mix.
    pub seed: u64,
    /// Concurrent users.
    pub users: usize,
    /// Requests a second over all users; `None` is unlimited.
    pub rate_limit: Option<usize>,
    /// Before the first request of the preparation (sign-up of the users).
    pub started_at: DateTime<Utc>,
    /// After the last answer.
    pub finished_at: DateTime<Utc>,
    /// Every request that left the generator, preparation included, counted by route and answer.
    pub requests: Vec<RequestCount>,
    /// Requests of the measured part (without preparation).
    pub measured: usize,
    /// Of these, the ones that got no answer or another one than the scenario expects.
    pub failed: usize,
    /// Requests of the measured part per second.
    pub requests_per_second: f64,
    /// Latency of the measured part.
    pub latency: LatencySummary,
    /// Orders tried and accepted, as the ledger has them.
    pub orders: OrderCount,
    /// What the run was held against; empty when nothing was asked.
    pub thresholds: Vec<ThresholdOutcome>,
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

/// Response times in milliseconds, measured part, failed requests included.
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
    /// When the answer, or its absence, was noticed.
    pub at: DateTime<Utc>,
    /// The `Idempotency-Key` sent.
    pub idempotency_key: String,
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
    /// Time to the answer, in milliseconds.
    pub latency_ms: u64,
    /// Why there was no usable answer.
    pub error: Option<String>,
}
