//! `alerts`: which alerts are firing or about to, worst first, each with where it is explained. Read from Prometheus,
//! which evaluates the rules. Left out: notifications ([`history`]).

mod history;

use std::time::Duration;

use base::{durations, outcome::Exit, progress::spell};
use chrono::{DateTime, Utc};
use serde::Serialize;
use system::{
    members,
    project::Project,
    prometheus::{Alert, AlertState, Prometheus},
};

use crate::output::{Format, print_json, table};

/// Options of `alerts`.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(
    after_help = "Exit codes: 0 none is firing, 1 one is, 3 the system isn't up. \
                  A history judges nothing: 0, or 3 when it can't be read."
)]
pub(crate) struct Options {
    /// Show which alerts fired and resolved, oldest first
    #[arg(long)]
    history: bool,
    /// Only notifications of this period: 10m, 1h; without it, the last thousand
    #[arg(long, value_name = "TIME", value_parser = durations::parse, requires = "history")]
    since: Option<Duration>,
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    /// `failed` when an alert is firing.
    outcome: Exit,
    /// The alerts, firing ones first.
    alerts: Vec<Entry>,
}

/// An alert that fires or is pending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Entry {
    name: String,
    state: AlertState,
    severity: String,
    /// The annotation `summary`: a sentence with its values.
    summary: String,
    /// The annotation `runbook`: the section of the documentation that says what to do.
    runbook: String,
    /// Since when its condition holds.
    since: DateTime<Utc>,
}

impl From<Alert> for Entry {
    fn from(mut alert: Alert) -> Self {
        let mut label = |name| alert.labels.remove(name).unwrap_or_default();
        let (name, severity) = (label("alertname"), label("severity"));
        let mut annotation = |name| alert.annotations.remove(name).unwrap_or_default();
        Self {
            name,
            state: alert.state,
            severity,
            summary: annotation("summary"),
            runbook: annotation("runbook"),
            since: alert.active_at,
        }
    }
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: Options, format: Format) -> anyhow::Result<Exit> {
    if options.history {
        return history::run(project, format, options.since);
    }
    let prometheus = Prometheus::new(&members::running(project)?)?;
    let report = Report::of(prometheus.alerts()?);
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => report.print(),
    }
    Ok(report.outcome)
}

impl Report {
    fn of(alerts: Vec<Alert>) -> Self {
        let mut alerts: Vec<Entry> = alerts.into_iter().map(Entry::from).collect();
        // By state, then `critical` before `warning`.
        alerts
            .sort_by(|a, b| (a.state, &a.severity, &a.name).cmp(&(b.state, &b.severity, &b.name)));
        let firing = alerts.iter().any(|alert| alert.state == AlertState::Firing);
        Self {
            outcome: if firing { Exit::Failed } else { Exit::Holds },
            alerts,
        }
    }

    fn print(&self) {
        if self.alerts.is_empty() {
            println!("No alert is firing, and none is about to.");
            return;
        }
        let mut rows = table(["alert", "state", "severity", "for", "summary", "what to do"]);
        for alert in &self.alerts {
            let age = (Utc::now() - alert.since).to_std().unwrap_or_default();
            rows.add_row([
                &alert.name,
                alert.state.word(),
                &alert.severity,
                &spell(age),
                &alert.summary,
                &alert.runbook,
            ]);
        }
        println!("{rows}");
        let firing = |alert: &&Entry| alert.state == AlertState::Firing;
        let count = self.alerts.iter().filter(firing).count();
        let alerts = if count == 1 { "alert is" } else { "alerts are" };
        println!("{}: {count} {alerts} firing", self.outcome.word());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(json: &str) -> Alert {
        serde_json::from_str(json).unwrap()
    }

    fn pending() -> Alert {
        alert(
            r#"{"labels":{"alertname":"TargetDown","severity":"critical","job":"traefik"},
                "annotations":{"summary":"traefik gives no metrics","runbook":"docs/runbook.md#targetdown"},
                "state":"pending","activeAt":"2026-11-25T17:00:00.5Z","value":"0e+00"}"#,
        )
    }

    fn firing(name: &str, severity: &str) -> Alert {
        alert(&format!(
            r#"{{"labels":{{"alertname":"{name}","severity":"{severity}"}},"annotations":{{}},"state":"firing",
                "activeAt":"2026-11-25T17:00:00Z","value":"1e+00"}}"#
        ))
    }

    #[test]
    fn firing_alerts_come_first_the_critical_ones_before_all() {
        let report = Report::of(vec![
            pending(),
            firing("DeadLettersPresent", "warning"),
            firing("OrdersStuck", "critical"),
        ]);
        let names: Vec<&str> = report.alerts.iter().map(|alert| &*alert.name).collect();
        assert_eq!(names, ["OrdersStuck", "DeadLettersPresent", "TargetDown"]);
        assert_eq!(report.outcome, Exit::Failed);
    }

    #[test]
    fn an_alert_that_is_only_pending_fails_nothing() {
        let report = Report::of(vec![pending()]);
        assert_eq!(report.outcome, Exit::Holds);
        assert_eq!(report.alerts[0].summary, "traefik gives no metrics");
        assert_eq!(report.alerts[0].runbook, "docs/runbook.md#targetdown");
    }
}
