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
        Err(error) => {
            let options = cli.engine().map(|engine| engine.options());
            ExitCode::from(report(&error, format, &options.unwrap_or_default()).code())
        }
    }
}

/// Reports an error: on standard error for people, and as JSON for programs that asked for that. `options` choose the engine.
fn report(error: &anyhow::Error, format: Format, options: &[String]) -> Exit {
    eprintln!("error: {}", with_options(&format!("{error:#}"), options));
    let failure = error.downcast_ref::<Failure>();
    let exit = Exit::of(error);
    if format == Format::Json {
        let cause = failure.map_or_else(|| format!("{error:#}"), |failure| failure.cause.clone());
        let next_step = failure.map(|failure| with_options(&failure.next_step, options));
        println!(
            "{:#}",
            json!({ "outcome": exit, "error": cause, "next_step": next_step })
        );
    }
    exit
}

/// A text whose commands are for the system that was meant: those that stand between backticks get the options. Pure.
fn with_options(text: &str, options: &[String]) -> String {
    /// They concern no system, or say themselves which.
    const WITHOUT: [&str; 3] = ["cluster", "check", "completions"];
    let parts = text.split('`').enumerate().map(|(number, part)| {
        let command = part
            .strip_prefix("cargo xtask ")
            .filter(|_| number % 2 == 1);
        let name = command.and_then(|command| command.split(' ').next());
        match name {
            Some(name) if !WITHOUT.contains(&name) && !part.contains(" --on ") => {
                let words = [part].into_iter().chain(options.iter().map(String::as_str));
                words.collect::<Vec<_>>().join(" ")
            }
            _ => part.to_owned(),
        }
    });
    parts.collect::<Vec<_>>().join("`")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn next_steps_are_for_the_system_that_was_meant() {
        let text = "it isn't up\n  next: `cargo xtask up`, or `docker ps`; `cargo xtask cluster up` or `cargo xtask up --on x`";
        let options = ["--on kubernetes".to_owned(), "--context a".to_owned()];
        assert_eq!(
            with_options(text, &options),
            text.replace(
                "`cargo xtask up`",
                "`cargo xtask up --on kubernetes --context a`"
            )
        );
        assert_eq!(with_options(text, &[]), text);
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
