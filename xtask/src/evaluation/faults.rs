//! What is done to the running system, always from outside: by the engine, the broker's management, the database's
//! own means, or a message. No service knows of it.
//!
//! A fault is data ([`Fault`]); injected, it is a guard ([`Injected`]) that can prove that the system felt it and heals
//! when it is dropped.

use super::{evidence::Bite, lab::Lab};

/// The type of the messages that [`Fault::Poison`] publishes.
pub(crate) const POISON_TYPE: &str = "agora.evaluation.poison.v1";

/// Undoes what any fault may have left; what was mended, in words.
pub(crate) fn heal_everything(
    _lab: &Lab<'_>,
    _step: &crate::output::Step,
) -> anyhow::Result<Vec<String>> {
    todo!()
}

/// A fault that an experiment may ask for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// All processes of a service stand still.
    Pause { service: &'static str },
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
    Poison {
        stream: shared_events::topology::Topology,
        count: u32,
    },
    /// Up to so many events of this run that were published are published a second time, each under its own id.
    Redeliver {
        stream: shared_events::topology::Topology,
        count: u32,
    },
    /// A stream's queue loses its binding: the broker has nowhere to put what is published.
    Unbind {
        stream: shared_events::topology::Topology,
    },
    /// The broker believes to be out of memory and takes no messages.
    MemoryAlarm,
    /// Somebody holds a table exclusively.
    LockTable {
        database: &'static str,
        table: &'static str,
    },
}

/// A fault that is there now. Dropping it heals it.
#[derive(Debug)]
pub(crate) struct Injected<'a> {
    _lab: &'a Lab<'a>,
}

impl Fault {
    /// In words, for reports.
    pub(crate) fn describe(self) -> String {
        todo!()
    }

    /// Injects it. `since` is when the run began.
    pub(crate) fn inject<'a>(
        self,
        _lab: &'a Lab<'a>,
        _since: chrono::DateTime<chrono::Utc>,
    ) -> anyhow::Result<Injected<'a>> {
        todo!()
    }
}

impl Injected<'_> {
    /// Whether the system felt it. To be asked at the end of the fault, before it is healed.
    pub(crate) fn bite(&mut self) -> anyhow::Result<Bite> {
        todo!()
    }

    /// Undoes it and waits until that is done, within a bound.
    pub(crate) fn heal(self) -> anyhow::Result<()> {
        todo!()
    }
}
