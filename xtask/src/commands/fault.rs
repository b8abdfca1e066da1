//! `fault`: injects one fault, checks its effect, and heals it.
//!
//! Left out: what a fault does (`evaluation::faults`).

use std::time::Duration;

use base::{
    durations,
    outcome::{self, Exit},
    progress::spell,
};
use chrono::{DateTime, Utc};
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, Subcommand, error::ErrorKind};
use evaluation::faults::{
    DECLARED, Fault, Injected,
    declaration::{Declaration, Form, Values},
};
use records::evaluation::FaultEffect;
use serde::Serialize;
use serde_json::{Value, json};
use system::{project::Project, running::RunningSystem};

use crate::output::{Format, print_json, progress, table};

/// Options of `fault`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    task: Task,
    /// How long the fault lasts: 5s, 1m
    #[arg(long = "for", value_name = "TIME", value_parser = durations::parse, default_value = "5s", global = true)]
    lasts: Duration,
}

/// The subcommand: by hand, as the faults declare themselves.
#[derive(Debug, Clone)]
enum Task {
    List,
    Inject(&'static Declaration, Values),
}

const LIST: &str = "list";

impl Subcommand for Task {
    fn augment_subcommands(command: Command) -> Command {
        let list =
            clap::Command::new(LIST).about("List the faults, and how the effect of each is proved");
        command
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommand(list)
            .subcommands(DECLARED.iter().map(subcommand))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        name == LIST || DECLARED.iter().any(|fault| fault.name == name)
    }
}

fn subcommand(fault: &Declaration) -> Command {
    let arguments = fault.arguments.iter().map(|&argument| {
        let arg = Arg::new(argument.name()).help(argument.help());
        let valued = |arg: Arg| {
            let check = move |text: &str| {
                let read = argument.read(text, &mut Values::default());
                read.map(|()| text.to_owned())
            };
            arg.value_name(argument.value_name()).value_parser(check)
        };
        match argument.form() {
            Form::Position => valued(arg).required(true),
            Form::Option { default } => valued(arg).long(argument.name()).default_value(default),
            Form::Flag => arg.long(argument.name()).action(ArgAction::SetTrue),
        }
    });
    clap::Command::new(fault.name)
        .about(fault.does)
        .args(arguments)
}

impl FromArgMatches for Task {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let asked_for = matches.subcommand().and_then(|(name, matches)| {
            let mut faults = DECLARED.iter();
            Some((faults.find(|fault| fault.name == name)?, matches))
        });
        let Some((fault, matches)) = asked_for else {
            return Ok(Self::List);
        };
        let mut values = Values::default();
        for argument in fault.arguments {
            let text = match argument.form() {
                Form::Flag => matches.get_flag(argument.name()).then_some(""),
                _ => matches
                    .get_one::<String>(argument.name())
                    .map(String::as_str),
            };
            if let Some(text) = text {
                let refused = |why| clap::Error::raw(ErrorKind::ValueValidation, why);
                argument.read(text, &mut values).map_err(refused)?;
            }
        }
        Ok(Self::Inject(fault, values))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    /// The fault in a sentence.
    fault: String,
    injected_at: DateTime<Utc>,
    healed_at: DateTime<Utc>,
    #[serde(flatten)]
    effect: FaultEffect,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    let Task::Inject(fault, values) = &options.task else {
        return list(format);
    };
    let name = fault.name;
    let fault = (fault.fault)(values);
    if !fault.works_on(&project.engine) {
        return Err(outcome::usage(
            format!("`{name}` can't be injected here"),
            "docs/how-to/run-on-kubernetes.md says where it can",
        ));
    }
    require_time(name, fault, options.lasts)?;
    let system = RunningSystem::new(project)?;
    let since = Utc::now() - values.published_within;
    let report = carry_out(fault, since, &system, options.lasts)?;
    match format {
        Format::Json => print_json(&report)?,
        Format::Text if report.effect.observed => {
            println!("The fault took effect: {}.", report.effect.proof)
        }
        Format::Text => println!("The fault had no observed effect: {}.", report.effect.proof),
    }
    Ok(report.outcome)
}

/// Refuses a time after which the fault has ended by itself.
fn require_time(name: &str, fault: Fault, lasts: Duration) -> anyhow::Result<()> {
    match fault.longest() {
        Some(longest) if lasts > longest => Err(outcome::usage(
            format!(
                "`{name}` can't last for {}: it ends by itself after {}",
                spell(lasts),
                spell(longest)
            ),
            "give a shorter time with `--for`",
        )),
        _ => Ok(()),
    }
}

/// Injects the fault, holds it while looking for its effect, and heals it, also when it ends early.
fn carry_out(
    fault: Fault,
    since: DateTime<Utc>,
    system: &RunningSystem<'_>,
    lasts: Duration,
) -> anyhow::Result<Report> {
    let progress = progress();
    let mut injected = progress.step("inject", |step| {
        step.result(fault.describe());
        fault.inject(system, since)
    })?;
    let injected_at = Utc::now();
    let effect = progress.step(
        &format!("hold for {}, and look for its effect", spell(lasts)),
        |_| injected.hold(lasts),
    )?;
    progress.step("heal", |_| Injected::heal(injected))?;
    Ok(Report {
        outcome: if effect.observed {
            Exit::Holds
        } else {
            Exit::Failed
        },
        fault: fault.describe(),
        injected_at,
        healed_at: Utc::now(),
        effect,
    })
}

fn list(format: Format) -> anyhow::Result<Exit> {
    if format == Format::Json {
        let entry = |fault: &Declaration| json!({ "usage": fault.usage(), "does": fault.does, "known_by": fault.proof });
        let faults: Vec<Value> = DECLARED.iter().map(entry).collect();
        print_json(&faults)?;
        return Ok(Exit::Holds);
    }
    let mut rows = table(["fault", "what it does", "proof of its effect"]);
    for fault in DECLARED {
        rows.add_row([&fault.usage(), fault.does, fault.proof]);
    }
    println!("{rows}");
    println!(
        "`cargo xtask fault NAME … --for 10s` injects one, looks for its effect while it lasts, and heals it; Ctrl-C heals it at once."
    );
    println!("`cargo xtask heal` repairs what a run left behind that was cut short.");
    Ok(Exit::Holds)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use shared_events::topology::ORDER_EVENTS;
    use system::Part;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn fault(line: &str) -> Result<Fault, clap::Error> {
        let line = Line::try_parse_from(["xtask"].into_iter().chain(line.split(' ')))?;
        match line.options.task {
            Task::Inject(fault, values) => Ok((fault.fault)(&values)),
            Task::List => panic!("no fault"),
        }
    }

    #[test]
    fn a_fault_is_what_was_typed() {
        assert_eq!(
            fault("cut order-service data --for 2s").unwrap(),
            Fault::Cut {
                service: Part::OrderService,
                network: "data"
            }
        );
        assert_eq!(
            fault("poison --count 3").unwrap(),
            Fault::Poison {
                stream: ORDER_EVENTS,
                count: 3
            }
        );
        assert_eq!(
            fault("pause product-service --one").unwrap(),
            Fault::PauseOne {
                service: Part::ProductService
            }
        );
        assert_eq!(
            fault("kill rabbitmq --one").unwrap(),
            Fault::KillOne {
                service: Part::RabbitMq
            }
        );
    }

    #[test]
    fn a_name_that_nobody_has_is_refused_with_those_that_there_are() {
        for (line, expected) in [
            ("pause orders", "order-service"),
            ("cut order-service lan", "public, edge, data, ui"),
            ("unbind --stream orders", "inventory_events"),
            ("lock-table order orders", "inventory"),
            ("starve-cpu order-service 5", "10"),
            ("pause order-service --for soon", "30s"),
        ] {
            let error = fault(line).unwrap_err().to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn a_fault_that_ends_by_itself_is_not_promised_for_longer() {
        let lock = Fault::LockTable {
            database: "orders",
            table: "orders",
        };
        let minutes = |n: u64| Duration::from_secs(60 * n);
        assert!(require_time("lock-table", lock, minutes(15)).is_ok());
        let refused = require_time("lock-table", lock, minutes(20)).unwrap_err();
        assert!(
            refused.to_string().contains("ends by itself after 15 min"),
            "{refused}"
        );
        assert!(require_time("memory-alarm", Fault::MemoryAlarm, minutes(60)).is_ok());
    }
}
