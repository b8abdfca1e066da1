//! The summary on a terminal.

use std::fmt;
use std::path::Path;

use records::load::{
    CANCELLATIONS_FILE, LEDGER_FILE, LoadModel, REPORT_FILE, RunSummary, SUMMARY_FILE,
    TIMELINE_FILE,
};

use crate::recorder::Tally;

/// The maximum number of failure reasons shown.
const SHOWN_FAILURES: usize = 5;

/// Shows a summary, and the reasons of failures, which the summary's file doesn't contain.
pub(crate) struct Report<'a> {
    summary: &'a RunSummary,
    tally: &'a Tally,
    out_dir: &'a Path,
}

impl<'a> Report<'a> {
    pub(crate) fn new(summary: &'a RunSummary, tally: &'a Tally, out_dir: &'a Path) -> Self {
        Self {
            summary,
            tally,
            out_dir,
        }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            summary,
            tally,
            out_dir,
        } = self;
        writeln!(
            f,
            "\n{}, {}{}, run {}, seed {}\n",
            summary.scenario,
            summary.model,
            match summary.workers {
                1 => String::new(),
                workers => format!(", {workers} workers"),
            },
            summary.run_id,
            summary.seed
        )?;

        writeln!(
            f,
            "  {:<32} {:>9} {:>9}",
            "requests, preparation included", "status", "count"
        )?;
        for request in &summary.requests {
            let route = format!("{} {}", request.method, request.route);
            let status = request
                .status
                .map_or("no answer".to_owned(), |status| status.to_string());
            writeln!(f, "  {route:<32} {status:>9} {:>9}", request.count)?;
        }

        let latency = &summary.latency;
        writeln!(
            f,
            "\n  measured    {} requests, {} failed, {:.1} per second",
            summary.measured, summary.failed, summary.requests_per_second
        )?;
        if summary.not_sent > 0 {
            writeln!(
                f,
                "  not sent    {} arrivals, beyond the concurrency limit",
                summary.not_sent
            )?;
        }
        writeln!(
            f,
            "  latency     p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.max_ms
        )?;
        writeln!(
            f,
            "  orders      {} sent, {} accepted",
            summary.orders.tried, summary.orders.accepted
        )?;
        for (route, reason, count) in tally.failures().iter().take(SHOWN_FAILURES) {
            let (method, template) = (route.method.as_str(), route.template);
            writeln!(f, "  failure     {count} x {method} {template}: {reason}")?;
        }
        for threshold in &summary.thresholds {
            let verdict = if threshold.holds { "holds" } else { "FAILED" };
            writeln!(
                f,
                "  threshold   {} {}: {}, {verdict}",
                threshold.name,
                threshold.limit,
                (threshold.actual * 10_000.0).round() / 10_000.0
            )?;
        }
        write!(
            f,
            "  files       in {}: {SUMMARY_FILE}, {TIMELINE_FILE}, {LEDGER_FILE}, {CANCELLATIONS_FILE}",
            out_dir.display()
        )?;
        match (summary.model, summary.workers) {
            (LoadModel::Open { .. }, _) => writeln!(f),
            (LoadModel::Closed { .. }, 1) => writeln!(f, ", {REPORT_FILE}"),
            (LoadModel::Closed { .. }, _) => writeln!(f, ", worker-*/{REPORT_FILE}"),
        }
    }
}
