//! What is done to the running system, always from outside: by the engine, the broker's management, the database's
//! own means, or a message. No service knows of it.
//!
//! A fault is data ([`Fault`]); injected, it is a guard ([`Injected`]) that can prove that the system felt it and heals
//! when it is dropped. What a guard couldn't heal, because its process was killed, [`heal_everything`] finds by looking
//! at the system alone.

mod attacks;
mod broker;
mod composed;
mod containers;
mod database;
mod healing;
mod limits;
mod messages;
mod network;
mod replacement;

use std::fmt;

use chrono::{DateTime, Utc};
use shared_events::topology::Topology;

pub(crate) use self::{
    attacks::attack,
    healing::{heal_everything, remove_poison},
};
use super::{
    evidence::{Attacks, Bite},
    lab::Lab,
};
use crate::interrupt::{self, Interrupted};

/// The type of messages that nobody can read, by which they are found among the dead letters.
pub(crate) const POISON_TYPE: &str = "agora.evaluation.poison.v1";

/// A fault that an experiment may ask for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// All processes of a service stand still.
    Pause { service: &'static str },
    /// One of a service's containers is paused: the first by id.
    PauseOne { service: &'static str },
    /// The container of a service that read a table of its database last is paused: with several replicas, one that gets requests.
    PauseInUse {
        service: &'static str,
        database: &'static str,
        table: &'static str,
    },
    /// A service's containers are killed (SIGKILL), and started again when healed.
    Kill { service: &'static str },
    /// One of a service's containers is killed, and started again when healed: the first by id.
    KillOne { service: &'static str },
    /// A service's containers are stopped with their grace period, and started again when healed.
    Stop { service: &'static str },
    /// A service's containers are restarted one after the other, each healthy before the next one goes, `rounds` times.
    RollingRestart { service: &'static str, rounds: u32 },
    /// A service is cut off from one of its networks.
    Cut {
        service: &'static str,
        network: &'static str,
    },
    /// The broker closes a service's AMQP connections.
    ResetConnections { service: &'static str },
    /// Each of a service's containers gets so many thousandths of a core.
    StarveCpu {
        service: &'static str,
        millicores: u32,
    },
    /// A service's memory limit is lowered to what makes the kernel end it.
    StarveMemory {
        service: &'static str,
        mebibytes: u32,
    },
    /// So many messages that nobody can read come into a stream's queue.
    Poison { stream: Topology, count: u32 },
    /// So many events of this run that were published are published a second time, each under its own id.
    Redeliver { stream: Topology, count: u32 },
    /// A stream's queue loses its binding: the broker has nowhere to put what is published.
    Unbind { stream: Topology },
    /// The broker believes to be out of memory and takes no messages.
    MemoryAlarm,
    /// Somebody holds a table exclusively.
    LockTable {
        database: &'static str,
        table: &'static str,
    },
    /// The gateway gets the whole attack corpus, once, from somebody with an account.
    Attacks,
    /// A service's containers are replaced one by one, as `rollout` does it.
    Rollout { service: &'static str },
    /// A service's containers are replaced all at once.
    ReplaceAtOnce { service: &'static str },
    /// A new key signs tokens while the old one still verifies, as `keys rotate` does it.
    RotateKeys,
    /// A new key takes the place of the one that signs tokens, in one container after the other.
    ReplaceKeys,
}

/// A fault that is there now. Dropping it heals it.
#[derive(Debug)]
pub(crate) struct Injected<'a> {
    lab: &'a Lab<'a>,
    fault: Fault,
    effect: Box<dyn Effect>,
    healed: bool,
}

/// What a kind of fault does, how it shows, and how it is undone: these three stand together, a type for each kind.
///
/// Its fields say how things were before; they are read when it is made, before anything is done.
trait Effect: fmt::Debug + Send {
    /// Does it. Whatever of it was done when this fails is healed.
    fn inject(&mut self, lab: &Lab<'_>) -> anyhow::Result<()>;

    /// Looks at what it did: at the system's own state, or at what the system answered (where the broker put a message).
    /// That our calls succeeded proves nothing.
    fn bite(&mut self, lab: &Lab<'_>) -> anyhow::Result<Bite>;

    /// Undoes what of it is still there, and waits for that within a bound. May be called again.
    fn heal(&mut self, lab: &Lab<'_>) -> anyhow::Result<()>;

    /// What became of attacks, where these are the fault.
    fn attacks(&self) -> Option<Attacks> {
        None
    }
}

impl Fault {
    /// In words, for reports.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Pause { service } => format!("{service} is paused"),
            Self::PauseOne { service } => format!("one container of {service} is paused"),
            Self::PauseInUse { service, table, .. } => {
                format!("the container of {service} that last read `{table}` is paused")
            }
            Self::Kill { service } => format!("{service} is killed"),
            Self::KillOne { service } => format!("one container of {service} is killed"),
            Self::Stop { service } => format!("{service} is stopped with its grace period"),
            Self::RollingRestart { service, rounds: 1 } => {
                format!("the containers of {service} are restarted one after the other")
            }
            Self::RollingRestart { service, rounds } => {
                format!(
                    "the containers of {service} are restarted one after the other, {rounds} times"
                )
            }
            Self::Cut { service, network } => {
                format!("{service} is cut off from the network `{network}`")
            }
            Self::ResetConnections { service } => {
                format!("the broker closes the connections of {service}")
            }
            Self::StarveCpu {
                service,
                millicores,
            } => format!("each container of {service} gets {millicores}/1000 of a core"),
            Self::StarveMemory { service, mebibytes } => {
                format!("each container of {service} gets {mebibytes} MiB of memory")
            }
            Self::Poison { stream, count } => format!(
                "{count} messages that nobody can read are published to {}",
                stream.exchange()
            ),
            Self::Redeliver { stream, count } => format!(
                "{count} published events are published to {} a second time",
                stream.exchange()
            ),
            Self::Unbind { stream } => format!("the queue {} loses its binding", stream.queue()),
            Self::MemoryAlarm => {
                "the broker believes to be out of memory and takes no messages".to_owned()
            }
            Self::LockTable { database, table } => {
                format!(
                    "somebody holds the table `{table}` of the database `{database}` exclusively"
                )
            }
            Self::Attacks => "the gateway is sent everything that must not get in".to_owned(),
            Self::Rollout { service } => {
                format!("the containers of {service} are replaced one by one")
            }
            Self::ReplaceAtOnce { service } => {
                format!("the containers of {service} are replaced all at once")
            }
            Self::RotateKeys => {
                "a new key signs tokens once everybody knows it, and the old one still verifies"
                    .to_owned()
            }
            Self::ReplaceKeys => "a new key takes the place of the old one".to_owned(),
        }
    }

    /// Injects it. `since` is when the run began.
    pub(crate) fn inject<'a>(
        self,
        lab: &'a Lab<'a>,
        since: DateTime<Utc>,
    ) -> anyhow::Result<Injected<'a>> {
        let mut injected = Injected {
            lab,
            fault: self,
            effect: self.effect(lab, since)?,
            healed: false,
        };
        // The guard is there before the deed: half a fault is healed as well.
        injected.effect.inject(lab)?;
        Ok(injected)
    }

    fn effect(self, lab: &Lab<'_>, since: DateTime<Utc>) -> anyhow::Result<Box<dyn Effect>> {
        use containers::{Halt, Halted, RollingRestart};
        use replacement::{How, NewKeys, Replaced};
        let all = |service| lab.containers_of(service);
        Ok(match self {
            Self::Pause { service } => Box::new(Halted::new(Halt::Pause, all(service)?)),
            Self::PauseOne { service } => Box::new(Halted::new(
                Halt::Pause,
                containers::first_by_id(all(service)?),
            )),
            Self::PauseInUse {
                service,
                database,
                table,
            } => Box::new(Halted::new(
                Halt::Pause,
                database::last_reader(lab, all(service)?, database, table)?,
            )),
            Self::Kill { service } => Box::new(Halted::new(Halt::Kill, all(service)?)),
            Self::KillOne { service } => Box::new(Halted::new(
                Halt::Kill,
                containers::first_by_id(all(service)?),
            )),
            Self::Stop { service } => Box::new(Halted::new(Halt::Stop, all(service)?)),
            Self::RollingRestart { service, rounds } => {
                Box::new(RollingRestart::new(all(service)?, rounds))
            }
            Self::Cut { service, network } => Box::new(network::Cut::new(lab, service, network)?),
            Self::ResetConnections { service } => Box::new(broker::ResetConnections::new(service)),
            Self::StarveCpu {
                service,
                millicores,
            } => Box::new(limits::StarveCpu::new(all(service)?, millicores)),
            Self::StarveMemory { service, mebibytes } => {
                Box::new(limits::StarveMemory::new(all(service)?, mebibytes))
            }
            Self::Poison { stream, count } => Box::new(messages::Poison::new(stream, count)),
            Self::Redeliver { stream, count } => {
                Box::new(messages::Redeliver::new(stream, count, since))
            }
            Self::Unbind { stream } => Box::new(broker::Unbind::new(stream)),
            Self::MemoryAlarm => Box::new(broker::MemoryAlarm),
            Self::LockTable { database, table } => {
                Box::new(database::LockTable::new(lab, database, table)?)
            }
            Self::Attacks => Box::new(attacks::Attacked::default()),
            Self::Rollout { service } => {
                Box::new(Replaced::new(How::OneByOne, service, all(service)?))
            }
            Self::ReplaceAtOnce { service } => {
                Box::new(Replaced::new(How::AtOnce, service, all(service)?))
            }
            Self::RotateKeys => Box::new(NewKeys::new(true)),
            Self::ReplaceKeys => Box::new(NewKeys::new(false)),
        })
    }
}

impl Injected<'_> {
    /// Whether the system felt it. To be asked at the end of the fault, before it is healed.
    pub(crate) fn bite(&mut self) -> anyhow::Result<Bite> {
        self.effect.bite(self.lab)
    }

    /// What became of attacks, where these are the fault.
    pub(crate) fn attacks(&self) -> Option<Attacks> {
        self.effect.attacks()
    }

    /// Undoes it and waits until that is done, within a bound.
    pub(crate) fn heal(mut self) -> anyhow::Result<()> {
        let result = self.effect.heal(self.lab);
        // An interrupted healing is taken up again when this is dropped; a failed one would fail again.
        self.healed = !matches!(&result, Err(error) if error.is::<Interrupted>());
        result
    }
}

impl Drop for Injected<'_> {
    fn drop(&mut self) {
        if self.healed {
            return;
        }
        eprintln!("healing: {}", self.fault.describe());
        if let Err(error) = interrupt::set_aside(|| self.effect.heal(self.lab)) {
            // No panic in a drop, and nobody to return it to.
            eprintln!("the fault is not healed: {error:#}\n  next: `cargo xtask heal`");
        }
    }
}

fn bit(proof: String) -> Bite {
    Bite { bit: true, proof }
}

fn did_not_bite(proof: String) -> Bite {
    Bite { bit: false, proof }
}
