//! Faults, always injected from outside: through the engine, the broker's management API, the database or a message. No
//! service knows of them.
//!
//! A fault is data ([`Fault`]). Injected, it is a guard ([`Injected`]) that looks for the fault's effect and heals it
//! when dropped. What a guard couldn't heal, because its process was killed, [`heal_everything`] finds by looking at
//! the system alone; the guard's [`OperationRecord`] tells the next command that there may be something to heal.
//!
//! Left out: when a fault is injected, and for how long ([`crate::experiment`]).

mod attacks;
mod broker;
mod database;
pub mod declaration;
mod healing;
mod limits;
mod members;
mod messages;
mod network;
mod nodes;
mod purge;
mod replacement;

use std::{
    fmt,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use shared_events::topology::Topology;

use self::declaration::Declaration;
pub use self::{
    attacks::attack,
    healing::{heal_everything, remove_poison},
};
use base::progress;
use records::evaluation::{Attacks, FaultEffect};
use system::{
    Part,
    interrupt::{self, Interrupted},
    operation_record::OperationRecord,
    project::Engine,
    running::RunningSystem,
    wait,
};

/// How often a fault's effect is looked for while it lasts: each look asks the engine, the broker or a database.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How precisely a fault's duration is kept.
const TICK: Duration = Duration::from_millis(100);

/// The event type of unreadable messages, by which they are found among the dead letters.
pub const POISON_TYPE: &str = "agora.evaluation.poison.v1";

/// The faults that people can ask for, in the order in which they are listed.
pub const DECLARED: &[Declaration] = &[
    members::PAUSE,
    members::KILL,
    members::STOP,
    members::RESTART,
    network::CUT,
    broker::RESET,
    limits::STARVE_CPU,
    limits::STARVE_MEMORY,
    messages::POISON,
    messages::REDELIVER,
    broker::UNBIND,
    broker::MEMORY_ALARM,
    database::LOCK_TABLE,
    nodes::KILL_NODE,
    nodes::PAUSE_NODE,
];

/// A fault that an experiment may ask for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// A service's containers are paused.
    Pause {
        /// The service.
        service: Part,
    },
    /// One of a service's containers is paused: the first by id.
    PauseOne {
        /// The service.
        service: Part,
    },
    /// The container of a service that asked its database last is paused: with several replicas, one that gets
    /// requests.
    PauseInUse {
        /// The service.
        service: Part,
        /// The database.
        database: &'static str,
    },
    /// A service's containers are killed (SIGKILL), and started again when healed.
    Kill {
        /// The service.
        service: Part,
    },
    /// One of a service's containers is killed, and started again when healed: the first by id.
    KillOne {
        /// The service.
        service: Part,
    },
    /// A service's containers are stopped with their grace period, and started again when healed.
    Stop {
        /// The service.
        service: Part,
    },
    /// A service's containers are restarted one after the other, each healthy before the next one goes, `rounds` times.
    RollingRestart {
        /// The service.
        service: Part,
        /// How often all its containers are restarted.
        rounds: u32,
    },
    /// A service is cut off from one of its networks.
    Cut {
        /// The service.
        service: Part,
        /// The network.
        network: &'static str,
    },
    /// The broker closes a service's AMQP connections.
    ResetConnections {
        /// The service.
        service: Part,
    },
    /// Each of a service's containers is limited to a part of a core.
    StarveCpu {
        /// The service.
        service: Part,
        /// Thousandths of a core for each container.
        millicores: u32,
    },
    /// A service's memory limit is lowered to what makes the kernel end it.
    StarveMemory {
        /// The service.
        service: Part,
        /// Memory for each container, in MiB.
        mebibytes: u32,
    },
    /// Unreadable messages are published into a stream's queue.
    Poison {
        /// The stream of events.
        stream: Topology,
        /// How many messages.
        count: u32,
    },
    /// Published events of this run are published a second time, each under its id.
    Redeliver {
        /// The stream of events.
        stream: Topology,
        /// How many events.
        count: u32,
    },
    /// For two seconds no service can apply a message. Half of the dead letters of both streams are purged; the others
    /// are replayed when healed.
    PurgeDeadLetters,
    /// A stream's queue loses its binding: the broker can route no event of that stream.
    Unbind {
        /// The stream of events.
        stream: Topology,
    },
    /// The broker raises its memory alarm and accepts no messages.
    MemoryAlarm,
    /// A session holds an exclusive lock on a table.
    LockTable {
        /// The database.
        database: &'static str,
        /// The table.
        table: &'static str,
    },
    /// The node of a service's first pod is killed (SIGKILL), and started again when healed.
    KillNode {
        /// The service.
        service: Part,
    },
    /// The node of a service's first pod is paused, and goes on when healed.
    PauseNode {
        /// The service.
        service: Part,
    },
    /// The node that the system can best do without, which hasn't the database, is killed (SIGKILL), and started again when healed.
    LoseNode,
    /// The whole attack corpus is sent to the gateway once, from a test user's account.
    Attacks,
    /// A service's containers are replaced one by one, as `rollout` does it.
    Rollout {
        /// The service.
        service: Part,
    },
    /// A service's containers are replaced all at once.
    ReplaceAtOnce {
        /// The service.
        service: Part,
    },
    /// The signing key is rotated as `keys rotate` does it: the old key still verifies.
    RotateKeys,
    /// The signing key is replaced in one container after the other, and the old key doesn't verify any more.
    ReplaceKeys,
}

/// A fault in force. Dropping it heals it.
#[derive(Debug)]
pub struct Injected<'a> {
    system: &'a RunningSystem<'a>,
    fault: Fault,
    injection: Box<dyn Injection>,
    healed: bool,
    record: OperationRecord,
}

/// A kind of fault: how it is injected, which effect shows it, and how it is healed.
///
/// The fields of an implementation hold the state from before; it is read when the value is made.
trait Injection: fmt::Debug + Send {
    /// Injects the fault. If this fails, what was done of it is healed.
    fn inject(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()>;

    /// Looks once for the effect: at the system's state, or at its answers (where the broker routed a message). That
    /// the calls of `inject` succeeded proves nothing. Called repeatedly while the fault lasts: see [`hold`].
    fn effect(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect>;

    /// How long the last look, before the fault is healed, may wait for an effect that no look has found.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    /// Undoes what is still there of it, and waits for that within a limit. May be called again.
    fn heal(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()>;

    /// The results of the attacks, for the fault that sends them.
    fn attacks(&self) -> Option<Attacks> {
        None
    }
}

impl Fault {
    /// The longest time for which it can be held; `None`: any.
    pub fn longest(self) -> Option<Duration> {
        matches!(self, Self::LockTable { .. }).then_some(database::HELD_AT_MOST)
    }

    /// The fault in a sentence, for reports.
    pub fn describe(self) -> String {
        match self {
            Self::Pause { service } => format!("{service} is paused"),
            Self::PauseOne { service } => format!("one container of {service} is paused"),
            Self::PauseInUse { service, .. } => {
                format!("the container of {service} that gets the requests is paused")
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
                "{count} unreadable messages are published to {}",
                stream.exchange()
            ),
            Self::Redeliver { stream, count } => format!(
                "{count} published events are published to {} a second time",
                stream.exchange()
            ),
            Self::PurgeDeadLetters => {
                "for 2 s no message can be applied, and half of the dead letters are purged"
                    .to_owned()
            }
            Self::Unbind { stream } => format!("the queue {} loses its binding", stream.queue()),
            Self::MemoryAlarm => {
                "the broker raises its memory alarm and accepts no messages".to_owned()
            }
            Self::LockTable { database, table } => {
                format!(
                    "a session locks the table `{table}` of the database `{database}` exclusively"
                )
            }
            Self::KillNode { service } => format!("the node of a pod of {service} is killed"),
            Self::PauseNode { service } => format!("the node of a pod of {service} is paused"),
            Self::LoseNode => {
                "the node with the most of what answers requests is killed, of those without the database".to_owned()
            }
            Self::Attacks => "the attack corpus is run against the gateway".to_owned(),
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

    /// Whether this engine lets it be injected. Those that are done to messages, to the broker's topology, to the database's locks
    /// and through the gateway need nothing of one, and every engine replaces members.
    pub fn works_on(self, engine: &Engine) -> bool {
        match self {
            Self::Pause { .. }
            | Self::PauseOne { .. }
            | Self::PauseInUse { .. }
            | Self::Kill { .. }
            | Self::KillOne { .. }
            | Self::StarveCpu { .. } => engine.lets_members_be_halted(),
            Self::KillNode { .. } | Self::PauseNode { .. } | Self::LoseNode => engine.has_nodes(),
            Self::Stop { .. }
            | Self::Cut { .. }
            | Self::ResetConnections { .. }
            | Self::StarveMemory { .. } => engine.lets_members_be_changed(),
            Self::Poison { .. }
            | Self::Redeliver { .. }
            | Self::PurgeDeadLetters
            | Self::Unbind { .. }
            | Self::MemoryAlarm
            | Self::LockTable { .. }
            | Self::Attacks
            | Self::RollingRestart { .. }
            | Self::RotateKeys
            | Self::ReplaceKeys
            | Self::Rollout { .. }
            | Self::ReplaceAtOnce { .. } => true,
        }
    }

    /// Whether it also lasts there as long as it is meant to: an experiment relies on that. On Kubernetes one of several pods that was
    /// killed is started again at once.
    pub fn lasts_on(self, engine: &Engine) -> bool {
        match self {
            Self::KillOne { .. } => engine.lets_members_be_changed(),
            _ => self.works_on(engine),
        }
    }

    /// Injects the fault. `since` is when the run began.
    pub fn inject<'a>(
        self,
        system: &'a RunningSystem<'a>,
        since: DateTime<Utc>,
    ) -> anyhow::Result<Injected<'a>> {
        let mut injected = Injected {
            system,
            fault: self,
            injection: self.injection(system, since)?,
            healed: false,
            record: OperationRecord::create(
                system.project,
                &format!("a fault ({})", self.describe()),
            )?,
        };
        // The guard exists before the injection, so that a half-injected fault is healed, too.
        injected.injection.inject(system)?;
        Ok(injected)
    }

    fn injection(
        self,
        system: &RunningSystem<'_>,
        since: DateTime<Utc>,
    ) -> anyhow::Result<Box<dyn Injection>> {
        use members::{Halted, RollingRestart};
        use replacement::{How, NewKeys, Replaced};
        use system::control::Halt;
        let all = |service: Part| system.members_of(service);
        Ok(match self {
            Self::Pause { service } => Box::new(Halted::new(Halt::Pause, all(service)?)),
            Self::PauseOne { service } => Box::new(Halted::new(
                Halt::Pause,
                members::first_by_id(all(service)?),
            )),
            Self::PauseInUse { service, database } => Box::new(Halted::new(
                Halt::Pause,
                database::in_use(system, all(service)?, database)?,
            )),
            Self::Kill { service } => Box::new(Halted::new(Halt::Kill, all(service)?)),
            Self::KillOne { service } => {
                Box::new(Halted::new(Halt::Kill, members::first_by_id(all(service)?)))
            }
            Self::Stop { service } => Box::new(Halted::new(Halt::Stop, all(service)?)),
            Self::RollingRestart { service, rounds } => {
                Box::new(RollingRestart::new(all(service)?, rounds))
            }
            Self::Cut { service, network } => {
                Box::new(network::Cut::new(system, service, network)?)
            }
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
            Self::PurgeDeadLetters => Box::new(purge::PurgeDeadLetters::new(since)),
            Self::Unbind { stream } => Box::new(broker::Unbind::new(stream)),
            Self::MemoryAlarm => Box::new(broker::MemoryAlarm),
            Self::LockTable { database, table } => {
                Box::new(database::LockTable::new(system, database, table)?)
            }
            Self::KillNode { service } => Box::new(nodes::HaltedNode::killed(
                members::first_by_id(all(service)?),
            )),
            Self::PauseNode { service } => Box::new(nodes::HaltedNode::paused(
                members::first_by_id(all(service)?),
            )),
            Self::LoseNode => Box::new(nodes::HaltedNode::lost(system.on_expendable_node()?)),
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
    /// Keeps the fault in force for this time; returns its effect. It is not healed yet.
    pub fn hold(&mut self, lasts: Duration) -> anyhow::Result<FaultEffect> {
        self.hold_until(lasts, || Ok(false))
    }

    /// Keeps the fault in force for this time, or until `over`; returns its effect. It is not healed yet.
    pub fn hold_until(
        &mut self,
        at_most: Duration,
        over: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<FaultEffect> {
        let patience = self.injection.patience();
        hold(at_most, patience, over, || {
            self.injection.effect(self.system)
        })
    }

    /// The results of the attacks, for the fault that sends them.
    pub fn attacks(&self) -> Option<Attacks> {
        self.injection.attacks()
    }

    /// Heals the fault, within a limit.
    pub fn heal(mut self) -> anyhow::Result<()> {
        let result = self.injection.heal(self.system);
        // An interrupted healing is taken up again when this is dropped; a failed one would fail again.
        self.healed = !matches!(&result, Err(error) if error.is::<Interrupted>());
        if self.healed && result.is_err() {
            self.record.keep();
        }
        result
    }
}

impl Drop for Injected<'_> {
    fn drop(&mut self) {
        if self.healed {
            return;
        }
        progress::warn(&format!("healing: {}", self.fault.describe()));
        if let Err(error) = interrupt::set_aside(|| self.injection.heal(self.system)) {
            self.record.keep();
            // No panic in a drop, and nobody to return it to.
            progress::warn(&format!(
                "the fault is not healed: {error:#}\n  next: `cargo xtask heal`"
            ));
        }
    }
}

/// Waits for `lasts`, or until `over`. Meanwhile, and once more at the end, it looks for an effect until one is observed: an effect that
/// came and went is an effect. Without one, the last look may wait for `patience`.
fn hold(
    lasts: Duration,
    patience: Duration,
    mut over: impl FnMut() -> anyhow::Result<bool>,
    mut look: impl FnMut() -> anyhow::Result<FaultEffect>,
) -> anyhow::Result<FaultEffect> {
    let begun = Instant::now();
    let mut next_look = Duration::ZERO;
    let mut seen: Option<(DateTime<Utc>, FaultEffect)> = None;
    wait::until(lasts, TICK.min(lasts), || {
        if over()? {
            return Ok(Some(()));
        }
        let elapsed = begun.elapsed();
        if seen.is_some() || elapsed < next_look || elapsed >= lasts {
            return Ok(None);
        }
        match look() {
            Ok(effect) if effect.observed => seen = Some((Utc::now(), effect)),
            // What was asked may be what the fault keeps from answering: the last look decides.
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Ok(_) | Err(_) => next_look = begun.elapsed() + LOOK_INTERVAL,
        }
        Ok(None)
    })?;
    let patience = if seen.is_some() {
        Duration::ZERO
    } else {
        patience
    };
    let mut last = look();
    wait::until(patience, TICK, || match &last {
        Ok(effect) if !effect.observed && !patience.is_zero() => {
            last = look();
            Ok(None)
        }
        _ => Ok(Some(())),
    })?;
    match (last, seen) {
        (Ok(last), Some((at, earlier))) if !last.observed => Ok(observed(format!(
            "{}, at {}; at the end: {}",
            earlier.proof,
            at.format("%T"),
            last.proof
        ))),
        (Err(error), Some((at, earlier))) if !error.is::<Interrupted>() => Ok(observed(format!(
            "{}, at {}; at the end nothing could be seen: {error:#}",
            earlier.proof,
            at.format("%T"),
        ))),
        (last, _) => last,
    }
}

/// An effect that was observed if all of what proves it was.
fn effect_if(observed: bool, proof: String) -> FaultEffect {
    FaultEffect { observed, proof }
}

fn observed(proof: String) -> FaultEffect {
    effect_if(true, proof)
}

fn not_observed(proof: String) -> FaultEffect {
    effect_if(false, proof)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: Duration = Duration::from_millis(1_500);

    fn seen(number: u32) -> anyhow::Result<FaultEffect> {
        Ok(observed(format!("effect {number}")))
    }

    fn nothing() -> anyhow::Result<FaultEffect> {
        Ok(not_observed("no effect".to_owned()))
    }

    /// The outcome of a fault whose n-th look, from 1, finds what `look` says.
    fn held(
        lasts: Duration,
        patience: Duration,
        look: impl Fn(u32) -> anyhow::Result<FaultEffect>,
    ) -> (anyhow::Result<FaultEffect>, u32) {
        let mut looks = 0;
        let effect = hold(
            lasts,
            patience,
            || Ok(false),
            || {
                looks += 1;
                look(looks)
            },
        );
        (effect, looks)
    }

    #[test]
    fn an_effect_that_is_gone_at_the_end_is_an_effect() {
        let (effect, looks) = held(LASTS, Duration::ZERO, |look| match look {
            1 => seen(1),
            _ => nothing(),
        });
        let effect = effect.unwrap();
        assert!(effect.observed, "{}", effect.proof);
        assert!(
            effect.proof.starts_with("effect 1, at "),
            "what was seen, and when: {}",
            effect.proof
        );
        assert!(effect.proof.ends_with("no effect"), "{}", effect.proof);
        // Once seen, it needn't be looked for: looking takes the system's time.
        assert_eq!(looks, 2);
    }

    #[test]
    fn what_is_over_early_is_looked_at_once_more() {
        let begun = Instant::now();
        let lasts = Duration::from_secs(60);
        let effect = hold(lasts, Duration::ZERO, || Ok(true), || seen(1)).unwrap();
        assert!(effect.observed && begun.elapsed() < lasts);
    }

    #[test]
    fn an_effect_that_comes_late_is_seen_by_a_later_look() {
        let (effect, _) = held(LASTS, Duration::ZERO, |look| match look {
            2 => seen(2),
            _ => nothing(),
        });
        assert!(effect.unwrap().observed);
    }

    #[test]
    fn what_the_last_look_sees_is_the_proof() {
        let (effect, looks) = held(LASTS, Duration::ZERO, seen);
        assert_eq!((effect.unwrap().proof.as_str(), looks), ("effect 2", 2));
        let (effect, looks) = held(Duration::ZERO, Duration::ZERO, seen);
        assert_eq!((effect.unwrap().proof.as_str(), looks), ("effect 1", 1));
    }

    #[test]
    fn without_any_effect_there_is_none() {
        let (effect, looks) = held(LASTS, Duration::ZERO, |_| nothing());
        assert!(!effect.unwrap().observed);
        assert!(looks > 1, "{looks}");
    }

    #[test]
    fn the_last_look_waits_for_an_effect_that_nobody_saw_yet() {
        let (effect, _) = held(Duration::ZERO, LASTS, |look| match look {
            4 => seen(4),
            _ => nothing(),
        });
        assert_eq!(effect.unwrap().proof, "effect 4");
    }

    #[test]
    fn a_look_that_fails_while_the_fault_lasts_decides_nothing() {
        let failed = || Err(anyhow::anyhow!("no answer"));
        let (effect, _) = held(LASTS, Duration::ZERO, |look| match look {
            1 => failed(),
            _ => seen(look),
        });
        assert!(effect.unwrap().observed);
        let (effect, _) = held(LASTS, Duration::ZERO, |look| match look {
            1 => seen(1),
            _ => failed(),
        });
        assert!(effect.unwrap().proof.contains("no answer"));
        let (effect, _) = held(LASTS, Duration::ZERO, |_| failed());
        assert!(effect.is_err());
    }
}
