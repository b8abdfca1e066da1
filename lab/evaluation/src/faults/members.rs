//! Faults of containers: paused, killed, stopped, restarted.
//!
//! Left out: replacing them ([`super::replacement`]), and their limits ([`super::limits`]).

use std::time::Duration;

use records::evaluation::FaultEffect;

use super::{
    Fault, Injection,
    declaration::{Argument, Declaration},
    effect_if,
};
pub(super) use system::members::name;
use system::{
    control::{self, Halt},
    health,
    members::{Member, State},
    running::RunningSystem,
};

/// RabbitMQ takes longest: ten seconds to boot, on a busy machine some more.
const HEALTHY_WITHIN: Duration = Duration::from_secs(90);

/// Asked for as `pause`.
pub(super) const PAUSE: Declaration = Declaration {
    name: "pause",
    does: "All processes of its containers are paused",
    proof: "the engine reports them as paused",
    arguments: &[Argument::Service, Argument::One],
    fault: |values| match values.one {
        true => Fault::PauseOne {
            service: values.service(),
        },
        false => Fault::Pause {
            service: values.service(),
        },
    },
};

/// Asked for as `kill`.
pub(super) const KILL: Declaration = Declaration {
    name: "kill",
    does: "Its containers are killed (SIGKILL)",
    proof: "they ended since, by the engine's clock, with their exit code",
    arguments: &[Argument::Service, Argument::One],
    fault: |values| match values.one {
        true => Fault::KillOne {
            service: values.service(),
        },
        false => Fault::Kill {
            service: values.service(),
        },
    },
};

/// Asked for as `stop`.
pub(super) const STOP: Declaration = Declaration {
    name: "stop",
    does: "Its containers are stopped with their grace period",
    proof: "they ended since, by the engine's clock, with their exit code",
    arguments: &[Argument::Service],
    fault: |values| Fault::Stop {
        service: values.service(),
    },
};

/// Asked for as `restart`.
pub(super) const RESTART: Declaration = Declaration {
    name: "restart",
    does: "Its containers are restarted one after the other",
    proof: "every container was started since the injection",
    arguments: &[Argument::Service, Argument::Rounds],
    fault: |values| Fault::RollingRestart {
        service: values.service(),
        rounds: values.rounds,
    },
};

/// Containers that are paused or have ended.
#[derive(Debug)]
pub(super) struct Halted {
    how: Halt,
    before: Vec<Member>,
}

impl Halted {
    pub(super) fn new(how: Halt, before: Vec<Member>) -> Self {
        Self { how, before }
    }
}

/// The one container that a fault takes when it takes one.
pub(super) fn first_by_id(mut members: Vec<Member>) -> Vec<Member> {
    members.sort_by(|a, b| a.id.cmp(&b.id));
    members.truncate(1);
    members
}

impl Injection for Halted {
    fn inject(&mut self, _system: &RunningSystem<'_>) -> anyhow::Result<()> {
        control::halt(self.how, &self.before)
    }

    fn effect(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        let now = again(system, &self.before)?;
        let mut found = Vec::new();
        let gone = self.before.len() - now.len();
        // A pod that doesn't run and isn't started again is no member any more.
        let is_down = |member: &Member| self.how != Halt::Pause && member.goes_when_it_ends();
        let mut all = gone == 0 || self.before.iter().all(is_down);
        found.extend((gone > 0).then(|| format!("{gone} of {} are gone", self.before.len())));
        for (before, now) in pairs(&self.before, &now) {
            all &= match self.how {
                Halt::Pause => now.state == State::Paused,
                // Even if somebody has started it again.
                Halt::Kill | Halt::Stop => ended_since(before, now),
            };
            found.push(match now.finished_at {
                Some(at) if now.state == State::Exited => format!(
                    "{} has been down since {} (exit code {})",
                    name(now),
                    at.format("%T%.3f"),
                    now.exit_code
                ),
                Some(at) if ended_since(before, now) => format!(
                    "{} ended at {}, and is {} again",
                    name(now),
                    at.format("%T%.3f"),
                    now.condition()
                ),
                _ => format!("{} is {}", name(now), now.condition()),
            });
        }
        let found = found.join(", ");
        Ok(effect_if(all, found))
    }

    fn heal(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        revive(system, &self.before)
    }
}

/// Containers that are restarted one after the other. The fault is over when it is injected.
#[derive(Debug)]
pub(super) struct RollingRestart {
    before: Vec<Member>,
    rounds: u32,
}

impl RollingRestart {
    pub(super) fn new(mut before: Vec<Member>, rounds: u32) -> Self {
        before.sort_by(|a, b| a.id.cmp(&b.id));
        Self { before, rounds }
    }
}

impl RollingRestart {
    /// The containers of before, or the pods that have taken their places meanwhile.
    fn of_this_round(&self, system: &RunningSystem<'_>) -> anyhow::Result<Vec<Member>> {
        match self.before.first() {
            Some(pod) if pod.goes_when_it_ends() => system.members_of(pod.service),
            _ => Ok(self.before.clone()),
        }
    }
}

impl Injection for RollingRestart {
    fn inject(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        for _ in 0..self.rounds {
            for member in &self.of_this_round(system)? {
                control::stop(member)?;
                revive(system, std::slice::from_ref(member))?;
            }
        }
        Ok(())
    }

    fn effect(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        let now = again(system, &self.before)?;
        let started = pairs(&self.before, &now)
            // What became of them since is another matter.
            .filter(|(before, now)| now.started_at != before.started_at)
            .count();
        // In the place of a pod there is another one.
        let replaced = |member: &&Member| {
            member.goes_when_it_ends() && !now.iter().any(|now| now.id == member.id)
        };
        let restarted = started + self.before.iter().filter(replaced).count();
        let proof = format!(
            "{restarted} of {} containers were started after the injection",
            self.before.len()
        );
        let all = restarted == self.before.len() && restarted > 0;
        Ok(effect_if(all, proof))
    }

    fn heal(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        revive(system, &self.before)
    }
}

/// Whether a container ended since it was `before`, by the engine's clock.
fn ended_since(before: &Member, now: &Member) -> bool {
    now.finished_at.is_some() && now.finished_at != before.finished_at
}

/// The same containers as they are now; without those that are gone.
pub(super) fn again(system: &RunningSystem<'_>, before: &[Member]) -> anyhow::Result<Vec<Member>> {
    let mut now = system.members()?;
    now.retain(|now| before.iter().any(|before| before.id == now.id));
    Ok(now)
}

/// Each container as it was and as it is.
pub(super) fn pairs<'c>(
    before: &'c [Member],
    now: &'c [Member],
) -> impl Iterator<Item = (&'c Member, &'c Member)> {
    now.iter().filter_map(|now| {
        let before = before.iter().find(|before| before.id == now.id)?;
        Some((before, now))
    })
}

/// Lets containers go on, or starts them, and waits until they are healthy.
fn revive(system: &RunningSystem<'_>, members: &[Member]) -> anyhow::Result<()> {
    system.bring_back()?;
    for member in again(system, members)? {
        control::resume(&member)?;
    }
    wait_until_healthy(system, members)
}

/// Waits until those of the containers that are still there are healthy.
pub(super) fn wait_until_healthy(
    system: &RunningSystem<'_>,
    members: &[Member],
) -> anyhow::Result<()> {
    let now = health::wait(HEALTHY_WITHIN, || again(system, members), |_| false)?;
    let names: Vec<String> = members.iter().map(name).collect();
    anyhow::ensure!(
        now.iter().all(Member::is_healthy),
        "{} did not get healthy within {} s",
        names.join(", "),
        HEALTHY_WITHIN.as_secs()
    );
    Ok(())
}
