//! How people ask for a fault: its name, its arguments, what it does, and how its effect is proved. Each fault that can be
//! asked for declares that in its own file; `fault list`, the command line and the reference page are made of it.
//!
//! Left out: how a command line is parsed (`xtask`).

use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

use base::durations;
use shared_events::topology::{self, ORDER_EVENTS, Topology};
use system::{Part, project::among};

use super::Fault;

/// The networks of compose.yaml, without `logs`, in which only optional parts are.
const NETWORKS: [&str; 4] = ["public", "edge", "data", "ui"];
/// The kernel takes no smaller quota than a millisecond of each tenth of a second.
const MILLICORES: RangeInclusive<u32> = 10..=64_000;
/// The engine takes no smaller limit.
const MEBIBYTES: RangeInclusive<u32> = 6..=65_536;
const ROUNDS: RangeInclusive<u32> = 1..=20;
const COUNT: RangeInclusive<u32> = 1..=10_000;

/// A fault that people can ask for.
#[derive(Debug)]
pub struct Declaration {
    /// The name on the command line.
    pub name: &'static str,
    /// What it does: a sentence without a full stop.
    pub does: &'static str,
    /// How its effect is proved: finishes "the effect is observed when …".
    pub proof: &'static str,
    /// What it is told, in this order.
    pub arguments: &'static [Argument],
    /// The fault for these arguments.
    pub fault: fn(&Values) -> Fault,
}

impl Declaration {
    /// How it is typed: `pause SERVICE [--one]`.
    pub fn usage(&self) -> String {
        let arguments = self.arguments.iter().map(|argument| {
            let (name, value) = (argument.name(), argument.value_name());
            match argument.form() {
                Form::Position => format!(" {value}"),
                Form::Option { .. } => format!(" [--{name} {value}]"),
                Form::Flag => format!(" [--{name}]"),
            }
        });
        self.name.to_owned() + &arguments.collect::<String>()
    }
}

/// An argument of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// The service that it concerns.
    Service,
    /// One of the service's networks.
    Network,
    /// A database.
    Database,
    /// A table of the database; only the database knows whether it exists.
    Table,
    /// Thousandths of a core.
    Millicores,
    /// Memory in MiB.
    Mebibytes,
    /// How often.
    Rounds,
    /// The stream of events.
    Stream,
    /// How many messages.
    Count,
    /// Which events are chosen, by their age.
    PublishedWithin,
    /// One of the service's containers, not all.
    One,
}

/// How an argument is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// By its position.
    Position,
    /// As an option with a value.
    Option {
        /// The value where it isn't given.
        default: &'static str,
    },
    /// As an option without a value.
    Flag,
}

impl Argument {
    /// The option's name, without dashes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Network => "network",
            Self::Database => "database",
            Self::Table => "table",
            Self::Millicores => "millicores",
            Self::Mebibytes => "mebibytes",
            Self::Rounds => "rounds",
            Self::Stream => "stream",
            Self::Count => "count",
            Self::PublishedWithin => "published-within",
            Self::One => "one",
        }
    }

    /// What stands for the value in a usage line.
    pub fn value_name(self) -> &'static str {
        match self {
            Self::Service => "SERVICE",
            Self::Network => "NETWORK",
            Self::Database => "DATABASE",
            Self::Table => "TABLE",
            Self::Millicores => "MILLICORES",
            Self::Mebibytes => "MEBIBYTES",
            Self::Rounds | Self::Count => "N",
            Self::Stream => "STREAM",
            Self::PublishedWithin => "TIME",
            Self::One => "",
        }
    }

    /// A line for the help text, where the name doesn't say it.
    pub fn help(self) -> Option<&'static str> {
        match self {
            Self::Rounds => Some("How often"),
            Self::Count => Some("How many messages"),
            Self::PublishedWithin => Some("Only events that were published in this time"),
            Self::One => Some("Only the first of its containers"),
            Self::Millicores => Some("Thousandths of a core"),
            Self::Mebibytes => Some("Memory in MiB; `rabbitmq 40` can't live on that"),
            Self::Service | Self::Network | Self::Database | Self::Table | Self::Stream => None,
        }
    }

    /// How it is given.
    pub fn form(self) -> Form {
        match self {
            Self::Service
            | Self::Network
            | Self::Database
            | Self::Table
            | Self::Millicores
            | Self::Mebibytes => Form::Position,
            Self::Rounds => Form::Option { default: "1" },
            Self::Stream => Form::Option {
                default: "order_events",
            },
            Self::Count => Form::Option { default: "10" },
            Self::PublishedWithin => Form::Option { default: "1h" },
            Self::One => Form::Flag,
        }
    }

    /// Reads its value; a flag has none, and being read sets it.
    ///
    /// # Errors
    /// A sentence that names what can be given.
    pub fn read(self, text: &str, values: &mut Values) -> Result<(), String> {
        match self {
            Self::Service => {
                let part = Part::among(Part::required(), text);
                values.service = Some(part.map_err(|unknown| unknown.known())?);
            }
            Self::Network => values.network = among(&NETWORKS, "networks", text)?,
            Self::Database => {
                let databases: Vec<_> = Part::services().filter_map(Part::database).collect();
                values.database = among(&databases, "databases", text)?;
            }
            // Leaked, as faults are made of constants, and a process makes one.
            Self::Table => values.table = text.to_owned().leak(),
            Self::Millicores => values.millicores = number(text, &MILLICORES)?,
            Self::Mebibytes => values.mebibytes = number(text, &MEBIBYTES)?,
            Self::Rounds => values.rounds = number(text, &ROUNDS)?,
            Self::Stream => values.stream = stream(text)?,
            Self::Count => values.count = number(text, &COUNT)?,
            Self::PublishedWithin => values.published_within = durations::parse(text)?,
            Self::One => values.one = true,
        }
        Ok(())
    }
}

/// The values of a fault's arguments. Those that it doesn't have are as if not given.
#[derive(Debug, Clone)]
pub struct Values {
    service: Option<Part>,
    pub(super) network: &'static str,
    pub(super) database: &'static str,
    pub(super) table: &'static str,
    pub(super) millicores: u32,
    pub(super) mebibytes: u32,
    pub(super) rounds: u32,
    pub(super) stream: Topology,
    pub(super) count: u32,
    /// How old the events may be that are published again.
    pub published_within: Duration,
    pub(super) one: bool,
}

impl Values {
    /// The service, of a fault that has [`Argument::Service`].
    pub(super) fn service(&self) -> Part {
        self.service.expect("a fault of a service declares that")
    }
}

impl Default for Values {
    fn default() -> Self {
        Self {
            service: None,
            network: "",
            database: "",
            table: "",
            millicores: 0,
            mebibytes: 0,
            rounds: 1,
            stream: ORDER_EVENTS,
            count: 0,
            published_within: Duration::ZERO,
            one: false,
        }
    }
}

fn number<T: FromStr + PartialOrd + Display>(
    text: &str,
    allowed: &RangeInclusive<T>,
) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| allowed.contains(number));
    number.ok_or_else(|| format!("expected {} to {}", allowed.start(), allowed.end()))
}

fn stream(name: &str) -> Result<Topology, String> {
    let mut streams = topology::ALL.into_iter();
    let found = streams.find(|stream| stream.exchange() == name);
    found.ok_or_else(|| {
        let names = topology::ALL.map(|stream| stream.exchange());
        format!("the streams are {}", names.join(", "))
    })
}
