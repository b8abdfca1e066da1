//! `capacity`: what a rate of orders takes, from the measured costs of an order. `measure` finds these on the running system, and compares
//! what they predict with rates that they were not fitted to.
//!
//! Left out: the measurement and the arithmetic (`evaluation::capacity`).

use base::outcome::{self, Exit};
use evaluation::capacity::{self, Check, Costs, Machine, PRECISION, Plan, UTILIZATION, measure};
use serde::Serialize;
use system::project::Project;

use crate::output::{Format, print_json, progress, table};

/// A large machine that every cloud rents out.
const CORES: u32 = 32;
/// What a network volume writes without being paid for separately (Amazon EBS gp3's baseline).
const DISK_MEGABYTES: f64 = 125.0;

/// Options of `capacity`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    /// Orders a second
    #[arg(long, value_name = "PER_SECOND", required = true, value_parser = positive)]
    orders: Option<f64>,
    /// The cores of the largest machine for the database or the broker
    #[arg(long, value_name = "N", default_value_t = CORES, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    cores: u32,
    /// What the database's disk writes, in megabytes a second
    #[arg(long, value_name = "MEGABYTES", default_value_t = DISK_MEGABYTES, value_parser = positive)]
    disk: f64,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What else can be done.
#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Measure what an order costs on the running system, and whether that predicts other rates
    Measure {
        /// Repeats an earlier measurement's load
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 1e9 => Ok(number),
        _ => Err("expected a number above 0, up to 1e9".to_owned()),
    }
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    match (&options.command, options.orders) {
        (Some(Command::Measure { seed }), _) => {
            let costs = measure::measure(project, *seed, &progress())?;
            measured(project, &costs, format)
        }
        (None, Some(orders)) => {
            let costs = capacity::read(project)?;
            let machine = Machine {
                cores: options.cores,
                disk_megabytes: options.disk,
            };
            planned(&costs, &capacity::plan(&costs, orders, machine)?, format)
        }
        (None, None) => Err(outcome::usage("no rate is given", "`--orders 1000`")),
    }
}

/// The result of `measure` as JSON.
#[derive(Debug, Serialize)]
struct Measured<'a> {
    outcome: Exit,
    costs: &'a Costs,
    checks: Vec<Check>,
}

fn measured(project: &Project, costs: &Costs, format: Format) -> anyhow::Result<Exit> {
    let checks = capacity::check(costs)?;
    let exit = match checks.iter().all(Check::holds) {
        true => Exit::Holds,
        false => Exit::Failed,
    };
    if format == Format::Json {
        print_json(&Measured {
            outcome: exit,
            costs,
            checks,
        })?;
        return Ok(exit);
    }
    let mut rows = table(["part", "ms of a core an order", "at rest, ms a second"]);
    let mut parts: Vec<_> = costs.parts.iter().collect();
    parts.sort_by(|a, b| b.1.ms_per_order.total_cmp(&a.1.ms_per_order));
    for (part, cost) in parts {
        rows.add_row([
            part.clone(),
            format!("{:.2}", cost.ms_per_order),
            format!("{:.1}", cost.idle_ms_per_second),
        ]);
    }
    println!("{rows}");
    println!(
        "at {:.0} orders a second; {:.0} bytes of the database's log an order",
        costs.orders_per_second, costs.wal_bytes_per_order
    );
    print_checks(&checks);
    println!("kept in {}", capacity::file(project).display());
    println!("Next: `cargo xtask capacity --orders 1000` says what that takes.");
    Ok(exit)
}

fn print_checks(checks: &[Check]) {
    for check in checks {
        println!(
            "{} predicted for {} of order-service, held to {}/1000 of a core each: {:.0} orders a second; measured: {:.0} ({:+.0} %)",
            if check.holds() { "✓" } else { "✗" },
            check.held.replicas,
            check.held.millicores,
            check.predicted,
            check.held.orders_per_second,
            (check.ratio - 1.0) * 100.0,
        );
    }
}

/// The result of a plan as JSON.
#[derive(Debug, Serialize)]
struct Planned<'a> {
    outcome: Exit,
    costs: &'a Costs,
    checks: Vec<Check>,
    plan: &'a Plan,
}

fn planned(costs: &Costs, plan: &Plan, format: Format) -> anyhow::Result<Exit> {
    let checks = capacity::check(costs)?;
    if format == Format::Json {
        print_json(&Planned {
            outcome: Exit::Holds,
            costs,
            checks,
            plan,
        })?;
        return Ok(Exit::Holds);
    }
    println!("{} orders a second take", plan.orders_per_second);
    let mut rows = table(["part", "cores", "replicas of a core"]);
    for need in &plan.parts {
        rows.add_row([
            need.part.to_string(),
            format!("{:.1}", need.cores),
            need.replicas
                .map_or_else(|| "one".to_owned(), |count| count.to_string()),
        ]);
    }
    rows.add_row([
        "together".to_owned(),
        format!("{:.1}", plan.cores),
        String::new(),
    ]);
    println!("{rows}");
    println!(
        "of each core {:.0} % are used; {:.1} megabytes a second of the database's log, {} database connections",
        UTILIZATION * 100.0,
        plan.wal_megabytes,
        plan.connections
    );
    println!("\nWhat ends growth, in this order:");
    let mut rows = table(["orders a second", "limit", "because", "then"]);
    for limit in &plan.limits {
        let is_met = limit.orders_per_second < plan.orders_per_second;
        rows.add_row([
            format!(
                "{:.0}{}",
                limit.orders_per_second,
                if is_met { " ✗" } else { "" }
            ),
            limit.what.clone(),
            limit.because.clone(),
            limit.then.to_owned(),
        ]);
    }
    println!("{rows}");
    println!(
        "✗: met below {} orders a second. From the measurement of {} at {} orders a second on {} cores ({}), whose predictions are {}:",
        plan.orders_per_second,
        costs.measured_at.format("%F"),
        costs.orders_per_second.round(),
        costs.cores,
        costs.agora,
        if checks.iter().all(Check::holds) {
            format!("within {:.0} %", PRECISION * 100.0)
        } else {
            format!("NOT within {:.0} %", PRECISION * 100.0)
        }
    );
    print_checks(&checks);
    Ok(Exit::Holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_that_can_be() {
        assert_eq!(positive("0.5"), Ok(0.5));
        for refused in ["0", "-1", "nan", "inf", "1e10", "many"] {
            assert!(positive(refused).is_err(), "{refused}");
        }
    }
}
