//! The tables of the reference pages, built from the command line and the laboratory's declarations, and held against
//! `docs/reference/` and `README.md`. Only tests use this module.
//!
//! Left out: the table of patterns, which the crate `patterns` builds, and what the pages say around the tables.

use std::fs;

use clap::{Arg, Command, CommandFactory};
use evaluation::{
    conclusion::Conclusion, experiment::Experiment, experiments, faults::DECLARED, report::markdown,
};
use records::scenario::Scenario;
use support::{documents::expect_table, sources};

use crate::Cli;

/// A table whose cells are Markdown.
fn table<const N: usize>(
    heading: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let line = |cells: [String; N]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(heading.map(str::to_owned));
    text.push_str(&format!("|{}\n", "---|".repeat(N)));
    text.extend(rows.into_iter().map(line));
    text
}

/// Every command and subcommand in the order of the help text, but for the single faults, which have a table of their own.
fn commands() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut rows = Vec::new();
    for command in described(&cli) {
        let own = command.get_subcommands().filter(|sub| {
            let single_fault = command.get_name() == "fault" && sub.get_name() != "list";
            !single_fault && sub.get_name() != "help"
        });
        let own: Vec<&Command> = own.collect();
        // A command that is nothing without one of its subcommands is described by them.
        if own.is_empty() || !command.is_subcommand_required_set() || command.get_name() == "fault"
        {
            rows.push(row(command.get_name(), command));
        }
        for sub in own {
            rows.push(row(
                &format!("{} {}", command.get_name(), sub.get_name()),
                sub,
            ));
        }
    }
    table(["command", "what it does", "options"], rows)
}

fn described(command: &Command) -> impl Iterator<Item = &Command> {
    let subcommands = command.get_subcommands();
    subcommands.filter(|sub| sub.get_name() != "help" && !sub.is_hide_set())
}

fn row(name: &str, command: &Command) -> [String; 3] {
    let mut typed = name.to_owned();
    for positional in command.get_positionals() {
        typed.push(' ');
        typed.push_str(&value(positional));
    }
    let about = command.get_about().map(ToString::to_string);
    let about = about.unwrap_or_else(|| panic!("{name} has no description"));
    let options = command.get_arguments().filter(|arg| {
        let everywhere = ["help", "version", "format"].contains(&arg.get_id().as_str());
        !arg.is_positional() && !arg.is_hide_set() && !everywhere
    });
    let options = options.filter_map(|arg| {
        let long = arg.get_long()?;
        let value = value(arg);
        Some(match value.as_str() {
            "" => format!("`--{long}`"),
            value => format!("`--{long} {value}`"),
        })
    });
    let options: Vec<String> = options.collect();
    [format!("`{typed}`"), escaped(&about), options.join(", ")]
}

/// What is typed for an argument: `RUN`, `[ARGS]…`, `auto\|pull\|local`; nothing for a flag.
fn value(arg: &Arg) -> String {
    if !arg.get_action().takes_values() {
        return String::new();
    }
    let choices: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| value.get_name().to_owned())
        .collect();
    let names = arg.get_value_names().unwrap_or_default();
    let text = match choices.len() {
        1..=5 => choices.join("\\|"),
        _ => names
            .iter()
            .map(clap::builder::Str::as_str)
            .collect::<Vec<_>>()
            .join(" "),
    };
    let several = arg
        .get_num_args()
        .is_some_and(|range| range.max_values() == usize::MAX);
    match (arg.is_positional() && !arg.is_required_set(), several) {
        (true, true) => format!("[{text}…]"),
        (true, false) => format!("[{text}]"),
        (false, true) => format!("{text}…"),
        (false, false) => text,
    }
}

/// A text in a cell.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

fn scenarios() -> String {
    let rows = Scenario::ALL
        .iter()
        .map(|scenario| [format!("`{scenario}`"), escaped(scenario.explanation())]);
    table(["scenario", "what its users do"], rows)
}

fn faults() -> String {
    let rows = DECLARED.iter().map(|fault| {
        let (usage, what, proof) = (fault.usage(), fault.does, fault.proof);
        [
            format!("`{}`", escaped(&usage)),
            escaped(what),
            escaped(proof),
        ]
    });
    table(["fault", "what it does", "how its effect is proved"], rows)
}

/// The experiments with the results of the recorded run.
fn evaluated() -> String {
    let recorded = Recorded::read();
    let rows = experiments::ALL.iter().map(|experiment| {
        [
            format!("`{}`", experiment.name),
            escaped(experiment.claim),
            escaped(&experiment.fault.fault.describe()),
            recorded.harm(experiment),
        ]
    });
    table(["experiment", "claim", "fault", HARM], rows)
}

/// The experiments that the README shows, with their results.
fn shown() -> String {
    let recorded = Recorded::read();
    let rows = ["outbox", "inbox", "deadline"].map(|name| {
        let experiment = experiments::find(name).expect("an experiment");
        [
            format!("`{name}`"),
            escaped(&experiment.fault.fault.describe()),
            recorded.harm(experiment),
        ]
    });
    table(["experiment", "fault", HARM], rows)
}

const HARM: &str = "harm: without the pattern → with it";

/// The conclusion of the recorded run.
struct Recorded(Conclusion);

impl Recorded {
    fn read() -> Self {
        let path = "xtask/tests/fixtures/evaluations/as-shipped.json";
        let text = fs::read_to_string(sources::root().join(path)).expect("recorded evidence");
        let evidence = serde_json::from_str(&text).expect("recorded evidence");
        Self(Conclusion::of(&evidence).expect("a verdict"))
    }

    /// The decisive measurements of an experiment, as a cell.
    fn harm(&self, experiment: &Experiment) -> String {
        let mut results = self.0.experiments.iter();
        let result = results.find(|result| result.name == experiment.name);
        let result = result.unwrap_or_else(|| panic!("{} has no evidence", experiment.name));
        escaped(&markdown::harm(result))
    }
}

#[test]
fn the_reference_has_every_command() {
    expect_table("docs/reference/commands.md", &commands());
}

#[test]
fn the_reference_has_every_scenario_and_fault() {
    expect_table("docs/reference/commands.md", &scenarios());
    expect_table("docs/reference/commands.md", &faults());
}

#[test]
fn the_reference_has_every_experiment_with_its_recorded_result() {
    expect_table("docs/reference/experiments.md", &evaluated());
}

#[test]
fn the_reference_has_the_results_that_the_readme_shows() {
    expect_table("README.md", &shown());
}
