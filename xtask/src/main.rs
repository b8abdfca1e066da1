//! The orchestrator: `cargo xtask <command>`.
//!
//! Reads the command line and turns results into exit codes; `commands` lists the commands, each a module below it. Only
//! this crate knows clap and the terminal. Left out: the work itself, which is in `lab/`.

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
    outcome::{Exit, Failure},
    progress,
};
use clap::Parser;
use serde_json::json;
use system::{
    interrupt::{self, Interrupted},
    project::{Engine, Project},
};
use terminal::Stdout;

use crate::{commands::Command, output::Format};

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
    /// What the system runs on [default: AGORA_ENGINE, else compose]
    #[arg(long, value_name = "ENGINE", value_parser = Engine::NAMES, global = true)]
    on: Option<String>,
    /// The context of your kubeconfig, with --on kubernetes [default: the local cluster of cluster up]
    #[arg(long, value_name = "NAME", global = true)]
    context: Option<String>,
    /// The namespace, with --on kubernetes [default: agora]
    #[arg(long, value_name = "NAME", global = true)]
    namespace: Option<String>,
}

impl Cli {
    fn engine(&self) -> anyhow::Result<Engine> {
        let [on, context, namespace] =
            [&self.on, &self.context, &self.namespace].map(Option::as_deref);
        Engine::chosen(on, context, namespace)
    }
}

fn main() -> ExitCode {
    terminal::on_closed(interrupt::closed);
    progress::show_warnings(|text| eprintln!("{text}"));
    let cli = Cli::parse();
    let format = cli.format;
    let result = interrupt::install()
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(Project::discover()?.on(cli.engine()?)))
        .and_then(|project| cli.command.run(&project, format));
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
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
