//! The orchestrator: `cargo xtask <command>`.
//!
//! Reads the command line and turns results into exit codes; each command is a module in `commands/`. Only this crate
//! knows clap and the terminal. Left out: the work itself, which is in `lab/`.

// Its `println!` and `eprintln!` take the place of those of the standard library, in every module.
#[macro_use]
extern crate terminal;

mod commands;
mod confirm;
mod output;
#[cfg(test)]
mod reference;

use std::process::ExitCode;

use base::{
    outcome::{self, Exit, Failure},
    progress,
};
use clap::{CommandFactory, Parser, Subcommand};
use serde_json::json;
use system::{
    interrupt::{self, Interrupted},
    project::Project,
};
use terminal::Stdout;

use crate::{
    commands::{
        alerts, attack, bench, check, completions, demo, dlq, doctor, down, evaluate, fault, heal,
        keys, load, logs, orders, outbox, rollout, scale, smoke, status, test, up, verify_api,
        verify_dashboards, verify_dlq, verify_metrics, verify_traces,
    },
    output::Format,
};

/// agora's orchestrator: starts the system, puts load on it, and checks it
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    after_help = "Exit codes: 0 holds, 1 a check failed, 2 wrong usage, 3 the system isn't up or a tool is missing, \
                  4 inconclusive; 130 after Ctrl-C, 129 when the terminal was closed, 141 when nobody reads the output."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The result's form; progress goes to standard error either way
    #[arg(long, value_enum, default_value_t, global = true)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The main job from nothing: up, smoke, a short load, every check, one experiment
    Demo(demo::Options),
    /// Build what changed, start everything, wait until all is healthy
    Up(up::Options),
    /// Stop everything
    Down(down::Options),
    /// Show services, their health and memory
    Status,
    /// Show the logs of services, or of one trace
    Logs(logs::Options),
    /// Check prerequisites
    Doctor,
    /// Run the smoke test through the gateway
    Smoke,
    /// Put load on the running system
    Load(load::Options),
    /// Replace a service's containers one by one without interrupting it
    Rollout(rollout::Options),
    /// Scale a service without interrupting it
    Scale(scale::Options),
    /// List and rotate the keys that sign tokens
    #[command(subcommand)]
    Keys(keys::Options),
    /// Count dead letters by reason
    VerifyDlq(verify_dlq::Options),
    /// Reconcile Prometheus's counts with the load generator's
    VerifyMetrics(verify_metrics::Options),
    /// Check that the traces of a run's orders are complete
    VerifyTraces(verify_traces::Options),
    /// Check the API against its OpenAPI documents with generated requests
    VerifyApi(verify_api::Options),
    /// Run every query of the Grafana dashboards and find panels without data
    VerifyDashboards(verify_dashboards::Options),
    /// Show alerts that fire, or their history, with links to the runbook
    Alerts(alerts::Options),
    /// Run the attack corpus against the gateway
    Attack,
    /// Evaluate patterns: the same load and fault with the pattern off and on, and a verdict
    Evaluate(evaluate::Options),
    /// List, replay or purge dead letters
    #[command(subcommand)]
    Dlq(dlq::Options),
    /// Find orders that wait too long, and republish their events
    #[command(subcommand)]
    Orders(orders::Options),
    /// List events that the broker rejected and the relay parked; retry or drop them
    #[command(subcommand)]
    Outbox(outbox::Options),
    /// Inject one fault, check its effect, and heal it
    Fault(fault::Options),
    /// Undo faults and changes that an interrupted command left behind
    Heal,
    /// Run every test, on two systems of their own
    Test(test::Options),
    /// Measure orders processed a second, the ceilings of broker and database, the cost of telemetry, and the gateway
    Bench(bench::Options),
    /// Check formatting, lints, docs, dependencies and configuration files
    Check(check::Options),
    /// Print a script that completes commands and options in a shell
    Completions(completions::Options),
}

impl Command {
    fn run(&self, project: &Project, format: Format) -> anyhow::Result<Exit> {
        if format != Format::Text && self.is_text_only() {
            return Err(outcome::usage(
                "this command has no JSON form",
                "leave `--format` out",
            ));
        }
        if self.finds_the_system() {
            heal::undo_left_over(project)?;
        }
        match self {
            Self::Demo(options) => demo::run(project, *options),
            Self::Up(options) => up::run(project, *options),
            Self::Down(options) => down::run(project, *options),
            Self::Status => status::run(project, format),
            Self::Logs(options) => logs::run(project, options),
            Self::Doctor => doctor::run(project, format),
            Self::Smoke => smoke::run(project, format),
            Self::Load(options) => load::run(project, options, format),
            Self::Rollout(options) => rollout::run(project, options, format),
            Self::Scale(options) => scale::run(project, *options, format),
            Self::Keys(options) => keys::run(project, options, format),
            Self::VerifyDlq(options) => verify_dlq::run(project, *options, format),
            Self::VerifyMetrics(options) => verify_metrics::run(project, options, format),
            Self::VerifyTraces(options) => verify_traces::run(project, options, format),
            Self::VerifyApi(options) => verify_api::run(project, options, format),
            Self::VerifyDashboards(options) => verify_dashboards::run(project, options, format),
            Self::Alerts(options) => alerts::run(project, *options, format),
            Self::Attack => attack::run(project, format),
            Self::Evaluate(options) => evaluate::run(project, options, format),
            Self::Dlq(options) => dlq::run(project, options, format),
            Self::Orders(options) => orders::run(project, options, format),
            Self::Outbox(options) => outbox::run(project, options, format),
            Self::Fault(options) => fault::run(project, options, format),
            Self::Heal => heal::run(project, format),
            Self::Test(options) => test::run(project, options),
            Self::Bench(options) => bench::run(project, options),
            Self::Check(options) => check::run(project, options, format),
            Self::Completions(options) => completions::run(Cli::command(), *options),
        }
    }

    /// Whether it has no result as JSON: it shows other programs' output, or is for people alone.
    fn is_text_only(&self) -> bool {
        matches!(
            self,
            Self::Demo(_)
                | Self::Up(_)
                | Self::Down(_)
                | Self::Logs(_)
                | Self::Test(_)
                | Self::Bench(_)
                | Self::Completions(_)
        )
    }

    /// Whether it looks at the running system: what a killed command left is undone first.
    fn finds_the_system(&self) -> bool {
        match self {
            Self::Down(_)
            | Self::Doctor
            | Self::Test(_)
            | Self::Bench(_)
            | Self::Check(_)
            | Self::Completions(_) => false,
            // These heal by themselves, where they use the system at all.
            Self::Evaluate(_) | Self::Heal => false,
            Self::Demo(_)
            | Self::Up(_)
            | Self::Status
            | Self::Logs(_)
            | Self::Smoke
            | Self::Load(_)
            | Self::Rollout(_)
            | Self::Scale(_)
            | Self::Keys(_)
            | Self::VerifyDlq(_)
            | Self::VerifyMetrics(_)
            | Self::VerifyTraces(_)
            | Self::VerifyApi(_)
            | Self::VerifyDashboards(_)
            | Self::Alerts(_)
            | Self::Attack
            | Self::Dlq(_)
            | Self::Orders(_)
            | Self::Outbox(_)
            | Self::Fault(_) => true,
        }
    }
}

fn main() -> ExitCode {
    terminal::on_closed(interrupt::closed);
    progress::show_warnings(|text| eprintln!("{text}"));
    let Cli { command, format } = Cli::parse();
    let result = interrupt::install()
        .map_err(anyhow::Error::from)
        .and_then(|()| Project::discover())
        .and_then(|project| command.run(&project, format));
    match result {
        Err(error) if error.is::<Interrupted>() => {
            if !interrupt::is_unread() {
                eprintln!("interrupted");
            }
            ExitCode::from(interrupt::exit_code())
        }
        Ok(_) if interrupt::is_unread() => ExitCode::from(interrupt::exit_code()),
        // It said why.
        Ok(_) if terminal::stdout() == Stdout::Failed => ExitCode::from(Exit::Failed.code()),
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => ExitCode::from(report(&error, format).code()),
    }
}

/// Reports an error: on standard error for people, and as JSON for programs that asked for that.
fn report(error: &anyhow::Error, format: Format) -> Exit {
    eprintln!("error: {error:#}");
    let failure = error.downcast_ref::<Failure>();
    let exit = Exit::of(error);
    if format == Format::Json {
        let cause = failure.map_or_else(|| format!("{error:#}"), |failure| failure.cause.clone());
        let next_step = failure.map(|failure| failure.next_step.as_str());
        println!(
            "{:#}",
            json!({ "outcome": exit, "error": cause, "next_step": next_step })
        );
    }
    exit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
