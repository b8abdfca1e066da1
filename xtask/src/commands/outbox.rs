//! `outbox`: events that a service's relay has parked because the broker rejects them. `parked` lists them, `retry` has
//! them published again, `drop` removes them.
//!
//! All three use the services' databases, whose rows the relays poll. Later events of the same subject wait behind a
//! parked one; after `retry` they follow it in their order, after `drop` they are published without it. Left out: dead
//! letters, see `dlq`.

use anyhow::Context;
use base::{
    outcome::{self, Exit},
    uuids,
};
use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use system::{project::Project, running::RunningSystem};
use terminal::one_line;

use crate::output::{Format, print_json, table};

/// The services with an outbox, and their databases.
const OUTBOXES: [(&str, &str); 2] = [
    ("order-service", "orders"),
    ("inventory-service", "inventory"),
];
/// The most events of a service that are listed; all are counted.
const LISTED: usize = 100;
const PARKED: &str = "parked_at IS NOT NULL AND published_at IS NULL";

/// What can be done with parked events.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Options {
    /// List parked events with the broker's error, and how many events wait behind each
    Parked,
    /// Have parked events published again, once the cause is gone
    Retry(ChangeOptions),
    /// Remove parked events: later events of their subjects go on. With saga recovery on, an order that still waits for what
    /// a dropped event said has it said again: repair the cause first, or switch it off
    Drop(ChangeOptions),
}

/// Options of `outbox retry` and `outbox drop`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ChangeOptions {
    /// The events' ids, as `outbox parked` shows them
    #[arg(value_name = "EVENT", value_parser = uuids::parse, required_unless_present = "all")]
    events: Vec<String>,
    /// Every parked event
    #[arg(long, conflicts_with = "events")]
    all: bool,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    let system = RunningSystem::new(project)?;
    match options {
        Options::Parked => parked(&system, format),
        Options::Retry(options) => change(&system, Change::Retry, options, format),
        Options::Drop(options) => change(&system, Change::Drop, options, format),
    }
}

/// An event that the broker rejected too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ParkedEvent {
    event_id: String,
    subject: String,
    event_type: String,
    payload_bytes: u64,
    /// How often the broker rejected it.
    rejections: u32,
    /// The broker's error.
    error: Option<String>,
    parked_at: DateTime<Utc>,
    /// Later events of the same subject, which wait for this one.
    waiting_behind: u64,
}

#[derive(Debug, Serialize)]
struct Entry {
    service: &'static str,
    #[serde(flatten)]
    event: ParkedEvent,
}

/// The result of `parked` as JSON.
#[derive(Debug, Serialize)]
struct List {
    /// How many events are parked, whether or not they are listed.
    parked: u64,
    events: Vec<Entry>,
}

fn parked(system: &RunningSystem<'_>, format: Format) -> anyhow::Result<Exit> {
    let mut list = List {
        parked: 0,
        events: Vec::new(),
    };
    let count = format!("SELECT count(*) FROM outbox WHERE {PARKED}");
    // An object a row: JSON escapes what would look like the end of a column or of a line.
    let sql = format!(
        "SELECT json_build_object('event_id', event_id, 'subject', subject, 'event_type', event_type,
                'payload_bytes', octet_length(payload), 'rejections', rejections, 'error', rejected_because,
                'parked_at', parked_at,
                'waiting_behind', (SELECT count(*) FROM outbox AS later
                                   WHERE later.subject = outbox.subject AND later.published_at IS NULL
                                     AND later.position > outbox.position))
         FROM outbox WHERE {PARKED} ORDER BY position LIMIT {LISTED}"
    );
    for (service, database) in OUTBOXES {
        list.parked += system.number(database, &count)?;
        let rows = system.psql(database, &sql)?.read()?;
        for row in rows.lines() {
            let event = serde_json::from_str(row).context("failed to read a parked event")?;
            list.events.push(Entry { service, event });
        }
    }
    if format == Format::Json {
        print_json(&list)?;
        return Ok(Exit::Holds);
    }
    let mut rows = table([
        "service",
        "event",
        "type",
        "subject",
        "bytes",
        "tries",
        "parked at",
        "behind it",
        "error",
    ]);
    for Entry { service, event } in &list.events {
        let error = event.error.as_deref().unwrap_or("-");
        rows.add_row([
            (*service).to_owned(),
            event.event_id.clone(),
            one_line(&event.event_type).into_owned(),
            one_line(&event.subject).into_owned(),
            event.payload_bytes.to_string(),
            event.rejections.to_string(),
            event.parked_at.format("%F %T").to_string(),
            event.waiting_behind.to_string(),
            one_line(error).into_owned(),
        ]);
    }
    println!("{rows}");
    println!("{} shown of {} parked", list.events.len(), list.parked);
    Ok(Exit::Holds)
}

/// What is done to parked events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Change {
    Retry,
    Drop,
}

impl Change {
    /// The statement for the events that meet a condition; it returns their ids.
    fn sql(self, condition: &str) -> String {
        match self {
            Self::Retry => format!(
                "UPDATE outbox SET parked_at = NULL, rejections = 0, retry_at = NULL
                 WHERE {PARKED} AND {condition} RETURNING event_id"
            ),
            Self::Drop => {
                format!("DELETE FROM outbox WHERE {PARKED} AND {condition} RETURNING event_id")
            }
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Retry => "to be published again",
            Self::Drop => "dropped",
        }
    }
}

/// The result of `retry` and `drop` as JSON.
#[derive(Debug, Serialize)]
struct Changed {
    outcome: Exit,
    change: Change,
    events: Vec<String>,
    /// The ids that were given and aren't parked.
    missing: Vec<String>,
}

fn change(
    system: &RunningSystem<'_>,
    change: Change,
    options: &ChangeOptions,
    format: Format,
) -> anyhow::Result<Exit> {
    let sql = change.sql(&condition(&options.events));
    let mut events: Vec<String> = Vec::new();
    for (_, database) in OUTBOXES {
        let changed = system.query(database, &sql)?;
        events.extend(changed.into_iter().flatten());
    }
    let missing: Vec<String> = options
        .events
        .iter()
        .filter(|event| !events.contains(event))
        .cloned()
        .collect();
    let changed = Changed {
        outcome: if missing.is_empty() {
            Exit::Holds
        } else {
            Exit::Failed
        },
        change,
        events,
        missing,
    };
    if format == Format::Json {
        print_json(&changed)?;
        return Ok(changed.outcome);
    }
    for event in &changed.events {
        println!("{event}");
    }
    println!("{} events {}", changed.events.len(), change.done());
    if changed.missing.is_empty() {
        return Ok(Exit::Holds);
    }
    Err(outcome::failed(
        format!("not parked: {}", changed.missing.join(", ")),
        "`cargo xtask outbox parked` shows their ids",
    ))
}

/// The condition for these ids. Without any id it is every event: then clap has required `--all`.
fn condition(events: &[String]) -> String {
    if events.is_empty() {
        return "true".to_owned();
    }
    format!("event_id = ANY('{{{}}}'::uuid[])", events.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parked_events_are_changed() {
        let sql = Change::Drop.sql(&condition(&["a".to_owned(), "b".to_owned()]));
        assert!(sql.contains("event_id = ANY('{a,b}'::uuid[])"), "{sql}");
        // Never an event that isn't parked.
        for change in [Change::Retry, Change::Drop] {
            assert!(change.sql("true").contains(PARKED));
        }
    }
}
