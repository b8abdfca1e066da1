//! The tables of the reference pages, built from the command line and the laboratory's declarations, and held against
//! `docs/reference/` and `README.md`. Only tests use this module.
//!
//! Left out: the table of patterns, which the crate `patterns` builds, and what the pages say around the tables.

use std::fs;

use clap::{Arg, Command, CommandFactory};
use evaluation::{
    conclusion::Conclusion,
    experiment::{ArmFault, Experiment},
    experiments,
    faults::{
        DECLARED,
        declaration::{Argument, Form, Values},
    },
    report::markdown,
};
use records::{evaluation::Evaluation, scenario::Scenario};
use support::{
    documents::{expect_table, expect_table_below},
    sources,
};

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

/// The commands by what people do with them, each group below its heading.
const GROUPS: [(&str, &[&str]); 5] = [
    (
        "### Run the system",
        &[
            "demo",
            "up",
            "down",
            "status",
            "logs",
            "doctor",
            "rollout",
            "scale",
            "keys",
            "cluster",
            "completions",
        ],
    ),
    (
        "### Send load and verify",
        &[
            "smoke",
            "load",
            "verify-metrics",
            "verify-traces",
            "verify-dashboards",
            "verify-dlq",
            "verify-ledger",
            "verify-api",
            "attack",
        ],
    ),
    ("### Operate", &["alerts", "dlq", "outbox", "orders"]),
    (
        "### Experiment",
        &["evaluate", "fault", "heal", "bench", "capacity"],
    ),
    ("### Develop", &["test", "check"]),
];

/// These commands and their subcommands, but for the single faults, which have a table of their own.
fn commands(cli: &Command, names: &[&str]) -> String {
    let mut rows = Vec::new();
    for name in names {
        let command = cli.find_subcommand(name);
        let command = command.unwrap_or_else(|| panic!("there is no command {name}"));
        let own = command.get_subcommands().filter(|sub| {
            let single_fault = command.get_name() == "fault" && sub.get_name() != "list";
            !single_fault && sub.get_name() != "help"
        });
        let own: Vec<&Command> = own.collect();
        // A command that is nothing without one of its subcommands is described by them.
        if own.is_empty() || !command.is_subcommand_required_set() || command.get_name() == "fault"
        {
            rows.push(row(command.get_name(), command, |_| true));
        }
        for sub in own {
            let name = format!("{} {}", command.get_name(), sub.get_name());
            // An option for all of a command's subcommands stands beside the command.
            rows.push(row(&name, sub, |arg| !arg.is_global_set()));
        }
    }
    table(["command", "what it does", "arguments"], rows)
}

fn described(command: &Command) -> impl Iterator<Item = &Command> {
    let subcommands = command.get_subcommands();
    subcommands.filter(|sub| sub.get_name() != "help" && !sub.is_hide_set())
}

fn built_cli() -> Command {
    let mut cli = Cli::command();
    cli.build();
    cli
}

fn row(name: &str, command: &Command, is_own: impl Fn(&Arg) -> bool) -> [String; 3] {
    let mut typed = name.to_owned();
    for positional in command.get_positionals() {
        typed.push(' ');
        typed.push_str(&value(positional));
    }
    let about = command.get_about().map(ToString::to_string);
    let about = about.unwrap_or_else(|| panic!("{name} has no description"));
    let arguments = command.get_arguments().filter(|arg| {
        let everywhere = ["help", "version", "format", "on", "context", "namespace"]
            .contains(&arg.get_id().as_str());
        !arg.is_hide_set() && !everywhere && is_own(arg)
    });
    let arguments: Vec<String> = arguments.filter_map(explained).collect();
    [
        format!("`{typed}`"),
        escaped(&about),
        arguments.join("<br>"),
    ]
}

/// How an argument is typed, what it means, and what can be given: `` `--limit N`: at most this many (default `50`) ``.
/// Nothing for one of which its place says all.
fn explained(arg: &Arg) -> Option<String> {
    let typed = match arg.get_long() {
        Some(long) => format!("--{long} {}", value(arg)),
        None => names(arg),
    };
    let help = arg.get_help().map(ToString::to_string);
    let defaults: Vec<String> = match arg.get_action().takes_values() {
        true => arg.get_default_values().iter(),
        false => [].iter(),
    }
    .map(|default| format!("default `{}`", default.display()))
    .collect();
    let told: Vec<String> = range(arg).into_iter().chain(defaults).collect();
    if arg.is_positional() && help.is_none() && told.is_empty() {
        return None;
    }
    let mut text = format!("`{}`", typed.trim_end());
    if let Some(help) = help {
        text.push_str(&format!(": {}", escaped(&help)));
    }
    if !told.is_empty() {
        text.push_str(&format!(" ({})", told.join("; ")));
    }
    Some(text)
}

/// The numbers that can be given, as clap names them when it refuses another.
fn range(arg: &Arg) -> Option<String> {
    let value = Arg::new("value").value_parser(arg.get_value_parser().clone());
    let probe = clap::Command::new("probe").no_binary_name(true).arg(value);
    let refused = probe.try_get_matches_from([i64::MAX.to_string()]).err()?;
    let refused = refused.to_string();
    let (_, range) = refused.lines().next()?.split_once(" is not in ")?;
    let (from, to) = range.split_once("..=")?;
    // All that the type holds is no choice.
    (to != u32::MAX.to_string()).then(|| format!("{from} to {to}"))
}

/// The most values of an argument that are written out, as in `auto\|pull\|local`.
const MOST_CHOICES: usize = 6;

/// The name of an argument's value, or what can be given.
fn names(arg: &Arg) -> String {
    let choices: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| value.get_name().to_owned())
        .collect();
    if (1..=MOST_CHOICES).contains(&choices.len()) {
        return choices.join("\\|");
    }
    let names = arg.get_value_names().unwrap_or_default();
    let names: Vec<&str> = names.iter().map(clap::builder::Str::as_str).collect();
    names.join(" ")
}

/// What is typed for an argument: `RUN`, `[NAME…]`, `[-- CARGO_ARGS…]`, `auto\|pull\|local`; nothing for a flag.
fn value(arg: &Arg) -> String {
    if !arg.get_action().takes_values() {
        return String::new();
    }
    let text = names(arg);
    let several = arg
        .get_num_args()
        .is_some_and(|range| range.max_values() == usize::MAX);
    let before = if arg.is_last_set() { "-- " } else { "" };
    match (arg.is_positional() && !arg.is_required_set(), several) {
        (true, true) => format!("[{before}{text}…]"),
        (true, false) => format!("[{before}{text}]"),
        (false, true) => format!("{before}{text}…"),
        (false, false) => format!("{before}{text}"),
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
        let arguments = fault.arguments.iter().filter_map(|&one| argument(one));
        let arguments: Vec<String> = arguments.collect();
        [
            format!("`{}`", escaped(&usage)),
            escaped(what),
            arguments.join("<br>"),
            escaped(proof),
        ]
    });
    table(
        [
            "fault",
            "what it does",
            "arguments",
            "how its effect is proved",
        ],
        rows,
    )
}

/// What can be given for a fault's argument, as it says itself when it refuses something else. Nothing where the name says
/// it: a service, one of its tables.
fn argument(argument: Argument) -> Option<String> {
    if matches!(argument, Argument::Service | Argument::Table) {
        return None;
    }
    let (typed, default) = match argument.form() {
        Form::Position => (argument.value_name().to_owned(), None),
        Form::Option { default } => (format!("--{}", argument.name()), Some(default)),
        Form::Flag => (format!("--{}", argument.name()), None),
    };
    let allowed = argument.read("?", &mut Values::default()).err();
    let allowed = allowed.map(|text| text.trim_start_matches("expected ").to_owned());
    let default = default.map(|default| format!("default `{default}`"));
    let told: Vec<String> = [argument.help().map(str::to_owned), allowed, default]
        .into_iter()
        .flatten()
        .collect();
    Some(format!("`{typed}`: {}", escaped(&told.join("; "))))
}

/// The experiments with the results of the recorded run.
fn evaluated() -> String {
    let recorded = Recorded::read();
    let rows = experiments::ALL.iter().map(|experiment| {
        let (fault, harm) = match experiment.kubernetes_alone {
            None => (recorded.fault(experiment), recorded.harm(experiment)),
            Some(why) => (
                escaped(&experiment.fault.fault.describe()),
                escaped(&format!("on Kubernetes alone: {why}")),
            ),
        };
        [
            format!("`{}`", experiment.name),
            escaped(experiment.claim),
            fault,
            harm,
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
            recorded.fault(experiment),
            recorded.harm(experiment),
        ]
    });
    table(["experiment", "fault", HARM], rows)
}

const HARM: &str = "harm: without the pattern → with it";

/// The recorded run, and its conclusion.
struct Recorded(Evaluation, Conclusion);

impl Recorded {
    fn read() -> Self {
        let path = "xtask/tests/fixtures/evaluations/as-shipped.json";
        let text = fs::read_to_string(sources::root().join(path)).expect("recorded evidence");
        let evidence: Evaluation = serde_json::from_str(&text).expect("recorded evidence");
        let conclusion = Conclusion::of(&evidence).expect("a verdict");
        Self(evidence, conclusion)
    }

    /// What was done in the last arm with a fault of the experiment's: another fault than today's has other results.
    fn fault(&self, experiment: &Experiment) -> String {
        let mut trials = self.0.trials.iter();
        let trial = trials.find(|trial| trial.experiment == experiment.name);
        let arms = trial.into_iter().flat_map(|trial| &trial.arms);
        let planned = arms
            .zip(experiment.arms)
            .filter(|(_, plan)| matches!(plan.fault, ArmFault::AsPlanned));
        let fault = planned.last().and_then(|(arm, _)| arm.fault.as_ref());
        escaped(&fault.expect("a recorded fault").description)
    }

    /// The decisive measurements of an experiment, as a cell.
    fn harm(&self, experiment: &Experiment) -> String {
        let mut results = self.1.experiments.iter();
        let result = results.find(|result| result.name == experiment.name);
        let result = result.unwrap_or_else(|| panic!("{} has no evidence", experiment.name));
        escaped(&markdown::harm(result))
    }
}

#[test]
fn the_reference_has_every_command() {
    let cli = built_cli();
    for (section, names) in GROUPS {
        expect_table_below(
            "docs/reference/commands.md",
            section,
            &commands(&cli, names),
        );
    }
    let mut grouped: Vec<&str> = GROUPS
        .iter()
        .flat_map(|(_, names)| *names)
        .copied()
        .collect();
    let mut all: Vec<&str> = described(&cli).map(Command::get_name).collect();
    grouped.sort_unstable();
    all.sort_unstable();
    assert_eq!(grouped, all, "each command is in one group");
}

#[test]
fn a_command_is_shown_with_what_can_be_given_and_where() {
    let sub = clap::Command::new("sub").about("Do it");
    let mut command = clap::Command::new("do")
        .about("Do it | not")
        .subcommand(sub)
        .arg(
            Arg::new("count")
                .value_name("COUNT")
                .help("How many")
                .value_parser(clap::value_parser!(u32).range(1..=8)),
        )
        .arg(
            Arg::new("how")
                .long("how")
                .value_parser(["a", "b"])
                .default_value("a"),
        )
        .arg(Arg::new("for").long("for").value_name("TIME").global(true))
        .arg(Arg::new("rest").value_name("REST").num_args(0..).last(true));
    command.build();
    assert_eq!(
        row("do", &command, |_| true),
        [
            "`do [COUNT] [-- REST…]`",
            "Do it \\| not",
            "`COUNT`: How many (1 to 8)<br>`--how a\\|b` (default `a`)<br>`--for TIME`"
        ]
    );
    let sub = command.find_subcommand("sub").expect("it was added");
    assert_eq!(
        row("do sub", sub, |arg| !arg.is_global_set()),
        ["`do sub`", "Do it", ""]
    );
}

#[test]
fn a_faults_arguments_are_shown_with_what_can_be_given() {
    let networks = argument(Argument::Network).expect("a text");
    assert_eq!(
        networks,
        "`NETWORK`: the networks are public, edge, data, ui"
    );
    let rounds = argument(Argument::Rounds).expect("a text");
    assert_eq!(rounds, "`--rounds`: How often; 1 to 20; default `1`");
    assert_eq!(argument(Argument::Service), None);
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
