//! `outbox`: events that a service's relay has parked because the broker rejects them. `parked` lists them, `retry` has
//! them published again, `drop` removes them.
//!
//! All three use the services' databases, whose rows the relays poll. Later events of the same subject wait behind a
//! parked one; after `retry` they follow it in their order, after `drop` they are published without it. Left out: dead
//! letters, see `dlq`.

use base::{
    outcome::{self, Exit},
    uuids,
};
use clap::Subcommand;
use serde::Serialize;
use system::{
    parked_events::{self, Change, Entry, Events},
    project::Project,
    running::RunningSystem,
};
use terminal::one_line;

use crate::output::{Format, print_json, table};

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

/// The result of `parked` as JSON.
#[derive(Debug, Serialize)]
struct List {
    /// How many events are parked, whether or not they are listed.
    parked: u64,
    events: Vec<Entry>,
}

fn parked(system: &RunningSystem<'_>, format: Format) -> anyhow::Result<Exit> {
    let (parked, events) = parked_events::list(system)?;
    let list = List { parked, events };
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
            service.to_string(),
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
    let which = match options.all {
        true => Events::All,
        false => Events::Ids(options.events.clone()),
    };
    let events = parked_events::change(system, change, &which)?;
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
    let done = match change {
        Change::Retry => "to be published again",
        Change::Drop => "dropped",
    };
    println!("{} events {done}", changed.events.len());
    if changed.missing.is_empty() {
        return Ok(Exit::Holds);
    }
    Err(outcome::failed(
        format!("not parked: {}", changed.missing.join(", ")),
        "`cargo xtask outbox parked` shows their ids",
    ))
}
