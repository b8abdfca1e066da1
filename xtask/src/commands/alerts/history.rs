//! `alerts --history`: which alerts fired and were resolved, by the notifications that the receiver recorded.
//!
//! `xtask/schemas/alert-history.schema.json` is the schema of its JSON. Left out: a verdict.

use std::{collections::BTreeMap, time::Duration};

use base::{outcome::Exit, progress::spell};
use chrono::{DateTime, Local, SubsecRound, TimeDelta, Utc};
use records::alerts::{Change, History, Status};
use serde::Serialize;
use system::{alert_history::AlertReceiver, members, project::Project};

use crate::output::{Format, print_json, table};

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    /// Always `holds`: the history was read.
    outcome: Exit,
    /// The earliest notification that was asked for; `None` for all of them.
    since: Option<DateTime<Utc>>,
    /// How many changes the receiver doesn't have.
    dropped: u64,
    /// When the receiver started: earlier notifications are lost.
    recording_since: DateTime<Utc>,
    /// The changes, the oldest first.
    changes: Vec<Entry>,
}

/// An alert that started to fire, or was resolved.
#[derive(Debug, PartialEq, Serialize)]
struct Entry {
    /// When the receiver was notified.
    received_at: DateTime<Utc>,
    status: Status,
    name: String,
    severity: String,
    /// When it started to fire.
    starts_at: DateTime<Utc>,
    /// When it was resolved; `None` while it fires.
    ends_at: Option<DateTime<Utc>>,
    /// How long it fired, or has fired until now, in seconds; `None` where a later entry says it.
    seconds: Option<f64>,
    /// The annotation `summary`: a sentence with its values.
    summary: String,
    /// The annotation `runbook`: the section of the documentation that says what to do.
    runbook: String,
    /// All labels, which tell alerts of one name apart.
    labels: BTreeMap<String, String>,
}

/// Shows the notifications of this time, or all that are known.
pub(super) fn run(
    project: &Project,
    format: Format,
    for_the_last: Option<Duration>,
) -> anyhow::Result<Exit> {
    let now = Utc::now();
    let since = for_the_last.map(|time| {
        let time = TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX);
        now.checked_sub_signed(time).unwrap_or(DateTime::UNIX_EPOCH)
    });
    let receiver = AlertReceiver::new(&members::running(project)?)?;
    let report = Report::of(receiver.history(since)?, since, now);
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => report.print(),
    }
    Ok(report.outcome)
}

impl Report {
    fn of(history: History, since: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Self {
        let resolved_later = |(number, change): (usize, &Change)| {
            let mut later = history.alerts[number + 1..].iter();
            later.any(|other| other.status == Status::Resolved && other.is_of_the_same(change))
        };
        let over: Vec<bool> = history
            .alerts
            .iter()
            .enumerate()
            .map(resolved_later)
            .collect();
        let changes = history.alerts.into_iter().zip(over);
        Self {
            outcome: Exit::Holds,
            since,
            dropped: history.dropped,
            recording_since: history.recording_since,
            changes: changes
                .map(|(change, over)| Entry::of(change, over, now))
                .collect(),
        }
    }

    fn print(&self) {
        if self.changes.is_empty() {
            println!("No alert fired or resolved.");
        } else {
            let mut rows = table([
                "time",
                "alert",
                "severity",
                "state",
                "for",
                "summary",
                "what to do",
            ]);
            for entry in &self.changes {
                rows.add_row([
                    &entry.time(),
                    &entry.name,
                    &entry.severity,
                    entry.status.word(),
                    &entry.lasted(),
                    &entry.summary,
                    &entry.runbook,
                ]);
            }
            println!("{rows}");
        }
        if self.dropped > 0 {
            println!("{} older changes are not kept any more.", self.dropped);
        }
        println!("{}", self.beginning());
    }

    /// Since when the history is complete.
    fn beginning(&self) -> String {
        let began = local(self.recording_since);
        match self.since {
            Some(since) if self.recording_since <= since => format!("Recorded since {began}."),
            _ => format!("Recorded since {began}: nothing is known of before."),
        }
    }
}

impl Entry {
    fn of(change: Change, resolved_later: bool, now: DateTime<Utc>) -> Self {
        let end = change.ends_at.or((!resolved_later).then_some(now));
        let mut annotations = change.annotations;
        let mut annotation = |name| annotations.remove(name).unwrap_or_default();
        Self {
            received_at: change.received_at,
            status: change.status,
            name: change.name,
            severity: change.severity,
            starts_at: change.starts_at,
            ends_at: change.ends_at,
            seconds: end.map(|end| (end - change.starts_at).as_seconds_f64().max(0.0)),
            summary: annotation("summary"),
            runbook: annotation("runbook"),
            labels: change.labels,
        }
    }

    /// When it happened, by this machine's clock.
    fn time(&self) -> String {
        local(self.ends_at.unwrap_or(self.starts_at))
    }

    fn lasted(&self) -> String {
        let so_far = match self.status {
            Status::Firing => " so far",
            Status::Resolved => "",
        };
        self.seconds.map_or_else(String::new, |seconds| {
            let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            format!("{}{so_far}", spell(time))
        })
    }
}

fn local(time: DateTime<Utc>) -> String {
    let time = time.with_timezone(&Local).round_subsecs(0);
    time.format("%F %T").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use support::schema::violations;

    const NOW: &str = "2026-11-25T08:10:00Z";

    fn change(status: Status, job: &str, starts_at: &str, ends_at: Option<&str>) -> Change {
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Change {
            received_at: ends_at.unwrap_or(starts_at).parse().unwrap(),
            status,
            name: "TargetDown".to_owned(),
            severity: "critical".to_owned(),
            labels: [label("alertname", "TargetDown"), label("job", job)].into(),
            annotations: [
                label("summary", "no metrics"),
                label("runbook", "docs/runbook.md#targetdown"),
            ]
            .into(),
            starts_at: starts_at.parse().unwrap(),
            ends_at: ends_at.map(|time| time.parse().unwrap()),
        }
    }

    /// traefik's came and went, came again and stays; rabbitmq's began before all that is known.
    fn report() -> Report {
        let (eight, five_past) = ("2026-11-25T08:00:00Z", "2026-11-25T08:05:00Z");
        let nine = "2026-11-25T08:09:00Z";
        let history = History {
            alerts: vec![
                change(Status::Firing, "traefik", eight, None),
                change(Status::Resolved, "traefik", eight, Some(five_past)),
                change(Status::Resolved, "rabbitmq", eight, Some(nine)),
                change(Status::Firing, "traefik", nine, None),
            ],
            dropped: 2,
            recording_since: eight.parse().unwrap(),
        };
        Report::of(history, Some(eight.parse().unwrap()), NOW.parse().unwrap())
    }

    #[test]
    fn each_alert_has_the_time_that_it_fired() {
        let report = report();
        let shown: Vec<(&str, Option<f64>, String)> = report
            .changes
            .iter()
            .map(|entry| (entry.status.word(), entry.seconds, entry.lasted()))
            .collect();
        assert_eq!(
            shown,
            [
                ("firing", None, String::new()),
                ("resolved", Some(300.0), "5 min 00 s".to_owned()),
                ("resolved", Some(540.0), "9 min 00 s".to_owned()),
                ("firing", Some(60.0), "1 min 00 s so far".to_owned()),
            ]
        );
        assert_eq!(report.changes[0].runbook, "docs/runbook.md#targetdown");
    }

    #[test]
    fn a_receiver_that_started_anew_is_told_from_a_quiet_one() {
        let mut report = report();
        report.changes.clear();
        let (quiet, anew) = (report.beginning(), "nothing is known of before");
        assert!(!quiet.contains(anew), "{quiet}");
        report.recording_since += TimeDelta::seconds(1);
        assert!(report.beginning().contains(anew));
        // All that is known was asked for.
        report.since = None;
        assert!(report.beginning().contains(anew));
    }

    #[test]
    fn a_history_fails_nothing() {
        assert_eq!(report().outcome, Exit::Holds);
    }

    #[test]
    fn the_json_is_as_its_schema_says_and_the_schema_can_refuse() {
        let schema = include_str!("../../../schemas/alert-history.schema.json");
        let schema = serde_json::from_str(schema).unwrap();
        let document = serde_json::to_value(report()).unwrap();
        assert_eq!(violations(&schema, &document), Vec::<String>::new());
        for (pointer, tampered) in [
            ("/outcome", serde_json::json!("failed")),
            ("/since", serde_json::json!("yesterday")),
            ("/dropped", serde_json::json!(-1)),
            ("/recording_since", serde_json::json!("ever")),
            ("/changes/0/status", serde_json::json!("pending")),
            ("/changes/0/starts_at", serde_json::json!("early")),
            ("/changes/1/ends_at", serde_json::json!("later")),
            ("/changes/1/seconds", serde_json::json!(-0.5)),
            ("/changes/0/labels", serde_json::json!({ "job": 1 })),
        ] {
            let mut wrong = document.clone();
            *wrong.pointer_mut(pointer).unwrap() = tampered;
            assert_eq!(violations(&schema, &wrong).len(), 1, "{pointer}");
        }
    }
}
