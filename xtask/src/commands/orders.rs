//! `orders`: stuck orders, which wait for longer than they may. `stuck` lists them, what each waits for and since when;
//! `repair` has order-service publish their events again, also with the pattern `saga_recovery` off, and waits until
//! they end.
//!
//! Both use order-service's database. `repair` sets a flag there, which order-service reads with its next sweep, as it
//! alone publishes its events. Left out: dead letters, see `dlq`.

use std::time::{Duration, Instant};

use base::{durations, outcome::Exit, progress::spell, uuids};
use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde::Serialize;
use system::{
    project::Project,
    running::RunningSystem,
    stuck_orders::{self, LISTED, WaitingOrder, Which, waiting},
    wait,
};

use crate::output::{Format, print_json, progress, table};

const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// What can be done with orders that wait.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Options {
    /// List orders that wait for longer than they may, what each waits for, and since when
    #[command(after_help = "Exit codes: 0 none is stuck, 1 one is, 3 the system isn't up.")]
    Stuck(StuckOptions),
    /// Have the events of stuck orders published again now, and wait until the orders end
    #[command(
        after_help = "Each is published under the id that it had, so that nothing is applied twice, and inventory-service \
                            repeats an answer that was lost. It works with AGORA_PATTERN_SAGA_RECOVERY=off, too, and gives \
                            an order that was given up its attempts back.\n\
                            Exit codes: 0 all have ended (or none was stuck), 1 one hasn't, 3 the system isn't up."
    )]
    Repair(RepairOptions),
}

/// Options of `orders stuck`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct StuckOptions {
    /// Waiting for longer than this: 10s, 5m
    #[arg(long, value_name = "TIME", value_parser = durations::parse, default_value = "60s")]
    older_than: Duration,
}

/// Options of `orders repair`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RepairOptions {
    /// These orders, however long they have waited [default: all that are stuck]
    #[arg(value_name = "ORDER", value_parser = uuids::parse)]
    orders: Vec<String>,
    /// Waiting for longer than this: 10s, 5m
    #[arg(long, value_name = "TIME", value_parser = durations::parse, default_value = "60s", conflicts_with = "orders")]
    older_than: Duration,
    /// How long to wait until they have ended: 0s doesn't wait, and judges nothing
    #[arg(long, value_name = "TIME", value_parser = durations::parse, default_value = "60s")]
    wait: Duration,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    let system = RunningSystem::new(project)?;
    match options {
        Options::Stuck(options) => stuck(&system, *options, format),
        Options::Repair(options) => repair(&system, options, format),
    }
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    /// How many are stuck.
    stuck: u64,
    /// How many had their event published again, and have ended. Only of `repair`.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<usize>,
    /// The longest waiting first, at most a hundred.
    orders: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    #[serde(flatten)]
    order: WaitingOrder,
    waits_for: &'static str,
}

fn stuck(
    system: &RunningSystem<'_>,
    options: StuckOptions,
    format: Format,
) -> anyhow::Result<Exit> {
    let (count, orders) = waiting(system, &Which::OlderThan(options.older_than))?;
    let report = Report {
        outcome: if count == 0 {
            Exit::Holds
        } else {
            Exit::Failed
        },
        stuck: count,
        ended: None,
        orders: entries(orders),
    };
    if format == Format::Json {
        print_json(&report)?;
        return Ok(report.outcome);
    }
    print_orders(&report.orders);
    println!(
        "{}: {count} orders have waited for longer than {}",
        report.outcome.word(),
        spell(options.older_than)
    );
    for next_step in next_steps(&report.orders) {
        println!("{next_step}");
    }
    Ok(report.outcome)
}

fn repair(
    system: &RunningSystem<'_>,
    options: &RepairOptions,
    format: Format,
) -> anyhow::Result<Exit> {
    let which = match options.orders.as_slice() {
        [] => Which::OlderThan(options.older_than),
        ids => Which::Ids(ids.to_vec()),
    };
    let requested = stuck_orders::request_recovery(system, &which)?;
    let ours = Which::Ids(requested.clone());
    let progress = progress();
    let (left, orders) = progress.step("repair", |step| {
        let started = Instant::now();
        let mut left = waiting(system, &ours)?;
        wait::until(options.wait, LOOK_INTERVAL, || {
            left = waiting(system, &ours)?;
            step.update(&format!("{} of {} wait", left.0, requested.len()));
            Ok((left.0 == 0).then_some(()))
        })?;
        step.result(format!(
            "{} orders asked for, {} wait after {}",
            requested.len(),
            left.0,
            spell(started.elapsed())
        ));
        Ok(left)
    })?;
    let judged = options.wait > Duration::ZERO;
    let report = Report {
        outcome: if judged && left > 0 {
            Exit::Failed
        } else {
            Exit::Holds
        },
        stuck: left,
        ended: Some(requested.len() - usize::try_from(left)?),
        orders: entries(orders),
    };
    if format == Format::Json {
        print_json(&report)?;
        return Ok(report.outcome);
    }
    print_orders(&report.orders);
    println!(
        "{}: of {} orders {} have ended, {left} wait",
        report.outcome.word(),
        requested.len(),
        requested.len() - usize::try_from(left)?,
    );
    if report.outcome == Exit::Failed {
        println!(
            "Their messages fail again, the broker rejects their events, or nobody handles them: see `cargo xtask dlq list`, \
             `cargo xtask outbox parked` and `cargo xtask alerts`."
        );
    }
    Ok(report.outcome)
}

fn entries(orders: Vec<WaitingOrder>) -> Vec<Entry> {
    let orders = orders.into_iter();
    orders
        .map(|order| Entry {
            waits_for: order.waits_for(),
            order,
        })
        .collect()
}

/// What helps the orders that wait.
fn next_steps(orders: &[Entry]) -> Vec<&'static str> {
    let any = |of: fn(&WaitingOrder) -> bool| orders.iter().any(|entry| of(&entry.order));
    let steps = [
        (
            any(|order| !order.unpublished),
            "`cargo xtask orders repair` has the events of those that wait for an answer published again.",
        ),
        (
            any(|order| order.parked),
            "`cargo xtask outbox parked` shows why the broker rejects a parked event.",
        ),
        (
            any(|order| order.unpublished && !order.parked),
            "An event that waits to be published needs the broker: `cargo xtask status`, `cargo xtask logs order-service`.",
        ),
    ];
    let steps = steps.into_iter().filter(|(helps, _)| *helps);
    steps.map(|(_, step)| step).collect()
}

fn print_orders(orders: &[Entry]) {
    if orders.is_empty() {
        return;
    }
    let mut rows = table([
        "order",
        "status",
        "waits for",
        "since",
        "published again",
        "last",
    ]);
    for Entry { order, waits_for } in orders {
        let time = |time: DateTime<Utc>| time.format("%F %T").to_string();
        rows.add_row([
            order.order_id.clone(),
            order.status.to_string(),
            (*waits_for).to_owned(),
            time(order.since),
            order.recoveries.to_string(),
            order.recovered_at.map_or_else(|| "-".to_owned(), time),
        ]);
    }
    println!("{rows}");
    if orders.len() == LISTED {
        println!("The first {LISTED} are listed.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_postgresql_writes_it() {
        let order: WaitingOrder = serde_json::from_str(
            r#"{"order_id":"01","status":"cancelling","since":"2026-11-28T20:00:00.123456+00:00","recoveries":2,
                "recovered_at":null,"recovery_requested":false,"unpublished":false}"#,
        )
        .unwrap();
        assert_eq!(order.waits_for(), "StockReleased");
        let parked = WaitingOrder {
            unpublished: true,
            parked: true,
            ..order.clone()
        };
        assert_eq!(parked.waits_for(), "its parked event");
        let steps = |orders: Vec<WaitingOrder>| next_steps(&entries(orders)).join(" ");
        assert!(steps(vec![parked.clone()]).starts_with("`cargo xtask outbox parked`"));
        assert!(steps(vec![order.clone()]).starts_with("`cargo xtask orders repair`"));
        assert!(steps(vec![order.clone(), parked]).contains("outbox parked"));
        assert_eq!(steps(Vec::new()), "");
        let entry = serde_json::to_value(entries(vec![order]).remove(0)).unwrap();
        assert_eq!(entry["status"], "cancelling");
        assert_eq!(entry["waits_for"], "StockReleased");
    }
}
