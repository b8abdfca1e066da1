//! Faults of resources: too little processor time, too little memory.

use records::evaluation::FaultEffect;
use system::{
    control,
    members::{Limits, Member, State},
    running::RunningSystem,
};

use super::{
    Fault, Injection,
    declaration::{Argument, Declaration},
    effect_if,
    members::{again, name, pairs, wait_until_healthy},
};

/// Where throttling can't be read, a container that uses this much of its limit counts as throttled.
const THROTTLED_FROM: f64 = 0.8;
const BYTES_PER_MEBIBYTE: i64 = 1024 * 1024;

/// Asked for as `starve-cpu`.
pub(super) const STARVE_CPU: Declaration = Declaration {
    name: "starve-cpu",
    does: "Each of its containers gets a CPU quota",
    proof: "the kernel throttled it",
    arguments: &[Argument::Service, Argument::Millicores],
    fault: |values| Fault::StarveCpu {
        service: values.service(),
        millicores: values.millicores,
    },
};

/// Asked for as `starve-memory`.
pub(super) const STARVE_MEMORY: Declaration = Declaration {
    name: "starve-memory",
    does: "Each of its containers gets a memory limit",
    proof: "the kernel killed it, or the engine restarted it",
    arguments: &[Argument::Service, Argument::Mebibytes],
    fault: |values| Fault::StarveMemory {
        service: values.service(),
        mebibytes: values.mebibytes,
    },
};

/// Containers that are limited to a part of a core.
#[derive(Debug)]
pub(super) struct StarveCpu {
    before: Vec<Member>,
    millicores: u32,
    /// How often each had been throttled before; `None` where this machine can't read that.
    throttled_before: Vec<Option<u64>>,
}

impl StarveCpu {
    pub(super) fn new(before: Vec<Member>, millicores: u32) -> Self {
        let throttled_before = before.iter().map(control::throttled).collect();
        Self {
            before,
            millicores,
            throttled_before,
        }
    }
}

impl Injection for StarveCpu {
    fn inject(&mut self, _system: &RunningSystem<'_>) -> anyhow::Result<()> {
        control::limit_cpu(&self.before, self.millicores)
    }

    fn effect(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        let now = again(system, &self.before)?;
        let mut found = Vec::new();
        let mut all = now.len() == self.before.len();
        for (before, member) in pairs(&self.before, &now) {
            let counted = control::throttled(member).zip(self.throttled_so_far(before, member));
            let (throttled, proof) = match counted {
                Some((now, before)) => {
                    let times = now.saturating_sub(before);
                    let proof = format!("{} was throttled {times} times", name(member));
                    (times > 0, proof)
                }
                None => self.by_its_use(member)?,
            };
            all &= throttled;
            let restarts = member.restarts.saturating_sub(before.restarts);
            // A probe that it was too slow for: it isn't the limit alone that is judged then.
            let restarted = (restarts > 0).then(|| format!(" and was restarted {restarts} times"));
            found.push(proof + restarted.as_deref().unwrap_or_default());
        }
        let found = found.join(", ");
        Ok(effect_if(all, found))
    }

    fn heal(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        for member in again(system, &self.before)? {
            control::unlimit_cpu(&member)?;
        }
        // Kubernetes restarts a pod whose probes it was too slow for.
        if self.before.iter().any(Member::goes_when_it_ends) {
            for member in again(system, &self.before)? {
                control::resume(&member)?;
            }
            wait_until_healthy(system, &self.before)?;
        }
        Ok(())
    }
}

impl StarveCpu {
    /// How often a container had been throttled when it got its quota. A start resets the count.
    fn throttled_so_far(&self, before: &Member, now: &Member) -> Option<u64> {
        if before.started_at != now.started_at {
            return Some(0);
        }
        let mut counts = self.before.iter().zip(&self.throttled_before);
        *counts.find(|(one, _)| one.id == before.id)?.1
    }

    fn by_its_use(&self, member: &Member) -> anyhow::Result<(bool, String)> {
        if member.goes_when_it_ends() {
            // Its container isn't there at this moment, or nobody reaches its node.
            let proof = format!("{} is {}", name(member), member.condition());
            return Ok((false, proof));
        }
        let used = control::cpu_percent(member)?;
        let may = f64::from(self.millicores) / 10.0;
        let proof = format!("{} uses {used:.1} % of the {may:.1} % it may", name(member));
        Ok((used >= may * THROTTLED_FROM, proof))
    }
}

/// Containers with less memory than they need: less than what their processes write. Pages that are only read from disk
/// the kernel drops and reads again, which is slow and ends no process.
#[derive(Debug)]
pub(super) struct StarveMemory {
    before: Vec<Member>,
    mebibytes: u32,
    /// How often each had been restarted when it had little.
    restarts: Vec<(String, u64)>,
}

impl StarveMemory {
    pub(super) fn new(before: Vec<Member>, mebibytes: u32) -> Self {
        Self {
            before,
            mebibytes,
            restarts: Vec::new(),
        }
    }
}

impl Injection for StarveMemory {
    fn inject(&mut self, _system: &RunningSystem<'_>) -> anyhow::Result<()> {
        let bytes = i64::from(self.mebibytes) * BYTES_PER_MEBIBYTE;
        let little = Limits {
            memory_bytes: bytes,
            memory_and_swap_bytes: bytes,
            ..Limits::default()
        };
        for member in &self.before {
            if control::limit_memory(member, little).is_ok() {
                self.restarts.push((member.id.clone(), member.restarts));
                continue;
            }
            // With version 1 of cgroups the kernel refuses a limit below what is in use; a process that begins under
            // the limit meets it all the same. A start by hand sets the count of restarts back.
            control::stop(member)?;
            control::limit_memory(member, little)?;
            self.restarts.push((member.id.clone(), 0));
            // It may be too little even to start: that is the fault, not a failure.
            control::try_to_start(member)?;
        }
        Ok(())
    }

    fn effect(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        let now = again(system, &self.before)?;
        let mut found = Vec::new();
        let mut all = now.len() == self.before.len();
        for (_, now) in pairs(&self.before, &now) {
            let before = self.restarts.iter().find(|(id, _)| *id == now.id);
            let restarts = before.map_or(0, |(_, before)| now.restarts.saturating_sub(*before));
            all &= now.out_of_memory || restarts > 0;
            let by = if now.out_of_memory {
                ", the last time for want of memory"
            } else {
                ""
            };
            found.push(format!(
                "{} is {}, ended {} times{by}",
                name(now),
                now.condition(),
                restarts + u64::from(now.out_of_memory && now.state != State::Running)
            ));
        }
        let found = found.join(", ");
        Ok(effect_if(all, found))
    }

    fn heal(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        let now = again(system, &self.before)?;
        for (before, now) in pairs(&self.before, &now) {
            restore_memory(now, before.limits)?;
        }
        for member in again(system, &self.before)? {
            control::resume(&member)?;
        }
        wait_until_healthy(system, &self.before)
    }
}

/// Restores a container's memory limit; returns whether it had another one.
pub(super) fn restore_memory(member: &Member, limits: Limits) -> anyhow::Result<bool> {
    if member.limits.memory_bytes == limits.memory_bytes {
        return Ok(false);
    }
    if member.state == State::Restarting {
        // The engine changes nothing in between.
        control::stop(member)?;
    }
    control::limit_memory(member, limits)?;
    Ok(true)
}
