//! `verify-ledger`: reconciles a load run's ledger, what its clients were promised, with databases and queues, in both
//! directions.
//!
//! Left out: how that is done (`evaluation::reconciliation`), and whether the stock is what it was before, which only
//! `evaluate` has looked at.

use std::{collections::BTreeSet, time::Duration};

use base::{durations, outcome::Exit};
use evaluation::reconciliation::{self, Stock};
use records::evaluation::Reconciliation;
use serde::Serialize;
use system::{load_runs::RunFolder, project::Project, running::RunningSystem, wait};
use terminal::one_line;

use crate::output::{Format, print_json, progress, table};

/// How often it is looked whether all orders have ended: each look reads all of the run's.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How many orders of each category are named.
const EXAMPLES: usize = 3;

/// Options of `verify-ledger`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exit codes: 0 every promise was kept, once, and nothing was made of an order that nobody placed; 1 it wasn't; 3 the \
                        system isn't up or there is no such run; 4 the run has no promise to be judged by."
)]
pub(crate) struct Options {
    /// The run to verify [default: the last one]
    #[arg(long, value_name = "RUN_ID")]
    run: Option<String>,
    /// How long orders that are under way may take until they end
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = durations::parse)]
    within: Duration,
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    run_id: String,
    #[serde(flatten)]
    reconciliation: Reconciliation,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    let system = RunningSystem::new(project)?;
    let run = RunFolder::find(project, options.run.as_deref())?;
    run.window_on(project)?;
    let since = run.summary()?.started_at;
    let ledger = run.ledger()?;
    let cancellations = run.cancellations()?;
    let users: BTreeSet<String> = ledger.iter().map(|entry| entry.user_id.clone()).collect();
    let configuration = system.configuration()?;
    let reconciliation = progress().step("ledger", |step| {
        let mut last = None;
        wait::until(options.within, LOOK_INTERVAL, || {
            let holdings = reconciliation::read(&system, &users, since)?;
            // Of the stock before the run nothing is known.
            let found = holdings.reconcile(&ledger, &cancellations, &Stock::new(), &configuration);
            let under_way = found.undecided.len();
            step.update(&format!("{under_way} orders are under way"));
            last = Some(found);
            Ok((under_way == 0).then_some(()))
        })?;
        // Asked at least once.
        anyhow::Ok(last.unwrap_or_default())
    })?;
    let report = Report {
        outcome: judge(&reconciliation),
        run_id: run.id,
        reconciliation,
    };
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => print_text(&report),
    }
    Ok(report.outcome)
}

/// The verdict. Pure. A dead letter isn't one: what it cost, a category has.
fn judge(found: &Reconciliation) -> Exit {
    match found.promised {
        _ if !found.balances() => Exit::Failed,
        0 => Exit::Inconclusive,
        _ => Exit::Holds,
    }
}

fn print_text(report: &Report) {
    let found = &report.reconciliation;
    println!(
        "run {}: {} orders promised, {} stored without a promise, {} requests without an answer that counts, {} cancellations promised",
        report.run_id, found.promised, found.unpromised, found.indeterminate, found.cancellations
    );
    let statuses = found.statuses.iter();
    let statuses: Vec<String> = statuses.map(|(name, n)| format!("{n} {name}")).collect();
    println!("orders: {}", statuses.join(", "));
    for (reason, count) in &found.dead_letters {
        println!("dead letters since: {count} {}", one_line(reason));
    }
    let mut rows = table(["orders that are", "how many", "the first"]);
    for (category, some) in found.wrong() {
        let first: Vec<_> = some.iter().take(EXAMPLES).map(|it| one_line(it)).collect();
        rows.add_row([
            category.name.to_owned(),
            some.len().to_string(),
            first.join("; "),
        ]);
    }
    println!("{rows}");
    println!(
        "{}",
        match report.outcome {
            Exit::Holds => "The ledger balances.",
            Exit::Inconclusive => "No order was promised: nothing can be judged.",
            _ =>
                "The ledger doesn't balance. docs/explanation/verdicts.md explains the categories.",
        }
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_category_fails_it_and_a_run_without_a_promise_decides_nothing() {
        let balanced = Reconciliation {
            promised: 3,
            ..Reconciliation::default()
        };
        assert_eq!(judge(&balanced), Exit::Holds);
        assert_eq!(judge(&Reconciliation::default()), Exit::Inconclusive);
        let one = || vec!["one".to_owned()];
        let broken: [fn(&mut Reconciliation) -> &mut Vec<String>; 9] = [
            |it| &mut it.lost,
            |it| &mut it.undecided,
            |it| &mut it.doubled,
            |it| &mut it.ghosts,
            |it| &mut it.oversold,
            |it| &mut it.held,
            |it| &mut it.uncancelled,
            |it| &mut it.misanswered,
            |it| &mut it.unbalanced,
        ];
        for category in broken {
            let mut found = balanced.clone();
            *category(&mut found) = one();
            assert_eq!(judge(&found), Exit::Failed, "{found:?}");
        }
    }
}
