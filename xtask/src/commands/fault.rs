//! `fault`: injects one fault, checks its effect, and heals it.
//!
//! Left out: what a fault does (`evaluation::faults`).

use std::time::Duration;

use base::{durations, outcome::Exit, progress::spell};
use chrono::{DateTime, Utc};
use clap::Subcommand;
use evaluation::faults::{Fault, Injected};
use records::evaluation::FaultEffect;
use serde::Serialize;
use shared_events::topology::{self, Topology};
use system::{
    lab::Lab,
    project::{CONTAINERS, Project, among},
};

use crate::output::{Format, print_json, progress, table};

/// The networks of compose.yaml, without `logs`, in which only optional parts are.
const NETWORKS: [&str; 4] = ["public", "edge", "data", "ui"];
/// The databases, by name.
const DATABASES: [&str; 4] = ["users", "products", "orders", "inventory"];
/// The engine takes no smaller limit.
const LEAST_MEBIBYTES: i64 = 6;
/// The kernel takes no smaller quota: a millisecond of each tenth of a second.
const LEAST_MILLICORES: i64 = 10;

/// Options of `fault`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    kind: Kind,
    /// How long the fault lasts: 5s, 1m
    #[arg(long = "for", value_name = "TIME", value_parser = durations::parse, default_value = "5s", global = true)]
    lasts: Duration,
}

#[derive(Debug, Clone, Subcommand)]
enum Kind {
    /// List the faults, and how the effect of each is proved
    List,
    /// All processes of a service stand still
    Pause {
        #[arg(value_parser = service)]
        service: &'static str,
        /// Only the first of its containers
        #[arg(long)]
        one: bool,
    },
    /// A service's containers are killed (SIGKILL)
    Kill {
        #[arg(value_parser = service)]
        service: &'static str,
        /// Only the first of them
        #[arg(long)]
        one: bool,
    },
    /// A service's containers are stopped with their grace period
    Stop {
        #[arg(value_parser = service)]
        service: &'static str,
    },
    /// A service's containers are restarted one after the other
    Restart {
        #[arg(value_parser = service)]
        service: &'static str,
        /// How often
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
        rounds: u32,
    },
    /// A service is cut off from one of its networks
    Cut {
        #[arg(value_parser = service)]
        service: &'static str,
        #[arg(value_parser = network)]
        network: &'static str,
    },
    /// The broker closes a service's connections
    Reset {
        #[arg(value_parser = service)]
        service: &'static str,
    },
    /// Each of a service's containers gets so many thousandths of a core
    StarveCpu {
        #[arg(value_parser = service)]
        service: &'static str,
        #[arg(value_parser = clap::value_parser!(u32).range(LEAST_MILLICORES..=64_000))]
        millicores: u32,
    },
    /// Each of a service's containers gets so little memory; `rabbitmq 40` can't live on that
    StarveMemory {
        #[arg(value_parser = service)]
        service: &'static str,
        #[arg(value_parser = clap::value_parser!(u32).range(LEAST_MEBIBYTES..=65_536))]
        mebibytes: u32,
    },
    /// Messages that nobody can read are published; `heal` removes what becomes of them
    Poison {
        #[arg(long, value_parser = stream, default_value = "order_events")]
        stream: Topology,
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        count: u32,
    },
    /// Published events are published a second time, under the same ids
    Redeliver {
        #[arg(long, value_parser = stream, default_value = "order_events")]
        stream: Topology,
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        count: u32,
        /// Only events that were published in this time
        #[arg(long, value_name = "TIME", value_parser = durations::parse, default_value = "1h")]
        published_within: Duration,
    },
    /// A stream's queue loses its binding
    Unbind {
        #[arg(long, value_parser = stream, default_value = "order_events")]
        stream: Topology,
    },
    /// The broker believes to be out of memory and takes no messages
    MemoryAlarm,
    /// Somebody holds a table exclusively
    LockTable {
        #[arg(value_parser = database)]
        database: &'static str,
        #[arg(value_parser = any_name)]
        table: &'static str,
    },
}

/// Each fault: how it is typed, what it does, how its effect is proved.
pub(crate) const LIST: [[&str; 3]; 13] = [
    [
        "pause SERVICE [--one]",
        "all processes stand still",
        "the engine says paused",
    ],
    [
        "kill SERVICE [--one]",
        "killed (SIGKILL)",
        "ended since, by the engine's clock, with its exit code",
    ],
    [
        "stop SERVICE",
        "stopped with its grace period",
        "ended since, by the engine's clock, with its exit code",
    ],
    [
        "restart SERVICE [--rounds N]",
        "restarted one container after the other",
        "every container was started since the injection",
    ],
    [
        "cut SERVICE NETWORK",
        "without one of its networks",
        "not in the network, and somebody misses it",
    ],
    [
        "reset SERVICE",
        "the broker closes its connections",
        "the broker knows them no more",
    ],
    [
        "starve-cpu SERVICE MILLICORES",
        "little of a core",
        "the kernel throttled it",
    ],
    [
        "starve-memory SERVICE MIB",
        "little memory",
        "the kernel ended it, or the engine restarted it",
    ],
    [
        "poison [--stream S] [--count N]",
        "messages that nobody can read",
        "the broker put all of them into the queue",
    ],
    [
        "redeliver [--stream S] [--count N]",
        "published events a second time",
        "the broker put them into the queue",
    ],
    [
        "unbind [--stream S]",
        "the queue loses its binding",
        "the broker has no queue for a message",
    ],
    [
        "memory-alarm",
        "the broker takes no messages",
        "the broker reports the alarm",
    ],
    [
        "lock-table DATABASE TABLE",
        "somebody holds a table",
        "sessions wait for it",
    ],
];

fn service(name: &str) -> Result<&'static str, String> {
    among(&CONTAINERS, "services", name)
}

fn network(name: &str) -> Result<&'static str, String> {
    among(&NETWORKS, "networks", name)
}

fn database(name: &str) -> Result<&'static str, String> {
    among(&DATABASES, "databases", name)
}

/// Any table name: only the database knows its tables. Leaked, as faults are made of constants and this process makes
/// one.
#[expect(clippy::unnecessary_wraps, reason = "what clap asks for")]
fn any_name(name: &str) -> Result<&'static str, String> {
    Ok(name.to_owned().leak())
}

fn stream(name: &str) -> Result<Topology, String> {
    let names = topology::ALL.map(|stream| stream.exchange());
    let found = topology::ALL
        .into_iter()
        .find(|stream| stream.exchange() == name);
    found.ok_or_else(|| format!("the streams are {}", names.join(", ")))
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
    let Some((fault, since)) = options.kind.fault() else {
        return list(format);
    };
    let lab = Lab::new(project)?;
    let report = carry_out(fault, since, &lab, options.lasts)?;
    match format {
        Format::Json => print_json(&report)?,
        Format::Text if report.effect.observed => {
            println!("The fault took effect: {}.", report.effect.proof)
        }
        Format::Text => println!("The fault had no observed effect: {}.", report.effect.proof),
    }
    Ok(report.outcome)
}

/// Injects the fault, holds it while looking for its effect, and heals it, also when it ends early.
fn carry_out(
    fault: Fault,
    since: DateTime<Utc>,
    lab: &Lab<'_>,
    lasts: Duration,
) -> anyhow::Result<Report> {
    let progress = progress();
    let mut injected = progress.step("inject", |step| {
        step.result(fault.describe());
        fault.inject(lab, since)
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

impl Kind {
    /// The fault, and the earliest time of the events that it may redeliver; `None` for the list.
    fn fault(&self) -> Option<(Fault, DateTime<Utc>)> {
        let mut since = Utc::now();
        let fault = match *self {
            Self::List => return None,
            Self::Pause {
                service,
                one: false,
            } => Fault::Pause { service },
            Self::Pause { service, one: true } => Fault::PauseOne { service },
            Self::Kill {
                service,
                one: false,
            } => Fault::Kill { service },
            Self::Kill { service, one: true } => Fault::KillOne { service },
            Self::Stop { service } => Fault::Stop { service },
            Self::Restart { service, rounds } => Fault::RollingRestart { service, rounds },
            Self::Cut { service, network } => Fault::Cut { service, network },
            Self::Reset { service } => Fault::ResetConnections { service },
            Self::StarveCpu {
                service,
                millicores,
            } => Fault::StarveCpu {
                service,
                millicores,
            },
            Self::StarveMemory { service, mebibytes } => Fault::StarveMemory { service, mebibytes },
            Self::Poison { stream, count } => Fault::Poison { stream, count },
            Self::Redeliver {
                stream,
                count,
                published_within,
            } => {
                since -= published_within;
                Fault::Redeliver { stream, count }
            }
            Self::Unbind { stream } => Fault::Unbind { stream },
            Self::MemoryAlarm => Fault::MemoryAlarm,
            Self::LockTable { database, table } => Fault::LockTable { database, table },
        };
        Some((fault, since))
    }
}

fn list(format: Format) -> anyhow::Result<Exit> {
    if format == Format::Json {
        let faults = LIST.map(|[usage, does, known_by]| {
            serde_json::json!({ "usage": usage, "does": does, "known_by": known_by })
        });
        print_json(&faults)?;
        return Ok(Exit::Holds);
    }
    let mut rows = table(["fault", "what it does", "proof of its effect"]);
    for row in LIST {
        rows.add_row(row);
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
    use clap::{CommandFactory, Parser};
    use shared_events::topology::ORDER_EVENTS;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn fault(line: &str) -> Result<Fault, clap::Error> {
        let line = Line::try_parse_from(["xtask"].into_iter().chain(line.split(' ')))?;
        Ok(line.options.kind.fault().unwrap().0)
    }

    #[test]
    fn every_fault_is_listed() {
        let command = Line::command();
        let typed: Vec<&str> = command
            .get_subcommands()
            .map(clap::Command::get_name)
            .collect();
        let listed = LIST.map(|[usage, ..]| usage.split(' ').next().unwrap());
        assert_eq!(typed[1..], listed);
    }

    #[test]
    fn a_fault_is_what_was_typed() {
        assert_eq!(
            fault("cut order-service data --for 2s").unwrap(),
            Fault::Cut {
                service: "order-service",
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
                service: "product-service"
            }
        );
        assert_eq!(
            fault("kill rabbitmq --one").unwrap(),
            Fault::KillOne {
                service: "rabbitmq"
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
}
