//! Faults of resources: too little processor time, too little memory.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context;
use records::evaluation::FaultEffect;
use system::{
    engine::{Container, Limits, docker},
    lab::Lab,
};

use super::{
    Injection,
    containers::{STOP_LIMIT, again, name, pairs, set_going, wait_until_healthy},
    not_observed, observed,
};

/// The period in which a container may use its quota.
const CPU_PERIOD_US: u64 = 100_000;
/// `docker stats` waits for two samples.
const STATS_LIMIT: Duration = Duration::from_secs(15);
/// Where throttling can't be read, a container that uses this much of its limit counts as throttled.
const STARVED_FROM: f64 = 0.8;
const BYTES_PER_MEBIBYTE: i64 = 1024 * 1024;

/// Containers that are limited to a part of a core.
#[derive(Debug)]
pub(super) struct StarveCpu {
    before: Vec<Container>,
    millicores: u32,
    /// How often each had been throttled before; `None` where this machine can't read that.
    throttled_before: Vec<Option<u64>>,
}

impl StarveCpu {
    pub(super) fn new(before: Vec<Container>, millicores: u32) -> Self {
        let throttled_before = before.iter().map(throttled).collect();
        Self {
            before,
            millicores,
            throttled_before,
        }
    }

    fn quota_us(&self) -> u64 {
        u64::from(self.millicores) * CPU_PERIOD_US / 1_000
    }
}

impl Injection for StarveCpu {
    fn inject(&mut self, _lab: &Lab<'_>) -> anyhow::Result<()> {
        let (period, quota) = (CPU_PERIOD_US.to_string(), self.quota_us().to_string());
        let update = ["update", "--cpu-period", &period, "--cpu-quota", &quota];
        let ids = self.before.iter().map(|container| container.id.as_str());
        docker(update.into_iter().chain(ids)).read()?;
        Ok(())
    }

    fn effect(&mut self, lab: &Lab<'_>) -> anyhow::Result<FaultEffect> {
        let now = again(lab, &self.before)?;
        let mut found = Vec::new();
        let mut all = now.len() == self.before.len();
        for (before, container) in pairs(&self.before, &now) {
            let counted = throttled(container).zip(self.throttled_so_far(before, container));
            let (starved, proof) = match counted {
                Some((now, before)) => {
                    let times = now.saturating_sub(before);
                    let proof = format!("{} was throttled {times} times", name(container));
                    (times > 0, proof)
                }
                None => self.by_its_use(container)?,
            };
            all &= starved;
            found.push(proof);
        }
        let found = found.join(", ");
        Ok(if all {
            observed(found)
        } else {
            not_observed(found)
        })
    }

    fn heal(&mut self, lab: &Lab<'_>) -> anyhow::Result<()> {
        for container in again(lab, &self.before)? {
            remove_cpu_quota(&container)?;
        }
        Ok(())
    }
}

impl StarveCpu {
    /// How often a container had been throttled when it got its quota. A start resets the count.
    fn throttled_so_far(&self, before: &Container, now: &Container) -> Option<u64> {
        if before.pid != now.pid {
            return Some(0);
        }
        let mut counts = self.before.iter().zip(&self.throttled_before);
        *counts.find(|(one, _)| one.id == before.id)?.1
    }

    fn by_its_use(&self, container: &Container) -> anyhow::Result<(bool, String)> {
        let stats = [
            "stats",
            "--no-stream",
            "--format",
            "{{.CPUPerc}}",
            &container.id,
        ];
        let text = docker(stats).limit(STATS_LIMIT).read()?;
        let used: f64 = text
            .trim()
            .trim_end_matches('%')
            .parse()
            .with_context(|| format!("`docker stats` says {text:?}"))?;
        let may = f64::from(self.millicores) / 10.0;
        let proof = format!(
            "{} uses {used:.1} % of the {may:.1} % it may",
            name(container)
        );
        Ok((used >= may * STARVED_FROM, proof))
    }
}

/// Removes a container's quota of processor time; returns whether it had one.
pub(super) fn remove_cpu_quota(container: &Container) -> anyhow::Result<bool> {
    if container.limits.cpu_quota_us <= 0 {
        return Ok(false);
    }
    docker(["update", "--cpu-quota", "-1", &container.id]).read()?;
    Ok(true)
}

/// How many periods a container spent its quota in, by the kernel's own count; `None` when the engine's host is
/// another machine.
fn throttled(container: &Container) -> Option<u64> {
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid)).ok()?;
    let statistics = fs::read_to_string(cpu_statistics(&groups, &container.id)?).ok()?;
    let count = statistics
        .lines()
        .find_map(|line| line.strip_prefix("nr_throttled "))?;
    count.parse().ok()
}

/// The path of the kernel's statistics, from `/proc/PID/cgroup`: lines of `number:controllers:path`, one of them with
/// `cpu` in version 1, one without any controller in version 2.
fn cpu_statistics(groups: &str, container: &str) -> Option<PathBuf> {
    let found = |wanted: &str| {
        groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            // A process of another machine may have the same number.
            let ours = path.contains(container);
            (ours && controllers.split(',').any(|one| one == wanted)).then_some(path)
        })
    };
    let (folder, path) = match found("cpu") {
        Some(path) => ("/sys/fs/cgroup/cpu", path),
        None => ("/sys/fs/cgroup", found("")?),
    };
    Some(PathBuf::from(format!("{folder}{path}/cpu.stat")))
}

/// Containers with less memory than they need: less than what their processes write. Pages that are only read from disk
/// the kernel drops and reads again, which is slow and ends no process.
#[derive(Debug)]
pub(super) struct StarveMemory {
    before: Vec<Container>,
    mebibytes: u32,
    /// How often each had been restarted when it had little.
    restarts: Vec<(String, u64)>,
}

impl StarveMemory {
    pub(super) fn new(before: Vec<Container>, mebibytes: u32) -> Self {
        Self {
            before,
            mebibytes,
            restarts: Vec::new(),
        }
    }
}

impl Injection for StarveMemory {
    fn inject(&mut self, _lab: &Lab<'_>) -> anyhow::Result<()> {
        let bytes = i64::from(self.mebibytes) * BYTES_PER_MEBIBYTE;
        let little = Limits {
            memory_bytes: bytes,
            memory_and_swap_bytes: bytes,
            ..Limits::default()
        };
        for container in &self.before {
            if set_memory(container, little).is_ok() {
                self.restarts
                    .push((container.id.clone(), container.restarts));
                continue;
            }
            // With version 1 of cgroups the kernel refuses a limit below what is in use; a process that begins under
            // the limit meets it all the same. A start by hand sets the count of restarts back.
            docker(["stop", &container.id]).limit(STOP_LIMIT).read()?;
            set_memory(container, little)?;
            self.restarts.push((container.id.clone(), 0));
            // It may be too little even to start: that is the fault, not a failure.
            let _ = docker(["start", &container.id]).output()?;
        }
        Ok(())
    }

    fn effect(&mut self, lab: &Lab<'_>) -> anyhow::Result<FaultEffect> {
        let now = again(lab, &self.before)?;
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
                restarts + u64::from(now.out_of_memory && now.state != "running")
            ));
        }
        let found = found.join(", ");
        Ok(if all {
            observed(found)
        } else {
            not_observed(found)
        })
    }

    fn heal(&mut self, lab: &Lab<'_>) -> anyhow::Result<()> {
        let now = again(lab, &self.before)?;
        for (before, now) in pairs(&self.before, &now) {
            restore_memory(now, before.limits)?;
        }
        for container in again(lab, &self.before)? {
            set_going(&container)?;
        }
        wait_until_healthy(lab, &self.before)
    }
}

/// Restores a container's memory limit; returns whether it had another one.
pub(super) fn restore_memory(container: &Container, limits: Limits) -> anyhow::Result<bool> {
    if container.limits.memory_bytes == limits.memory_bytes {
        return Ok(false);
    }
    if container.state == "restarting" {
        // The engine changes nothing in between.
        docker(["stop", &container.id]).limit(STOP_LIMIT).read()?;
    }
    set_memory(container, limits)?;
    Ok(true)
}

fn set_memory(container: &Container, limits: Limits) -> anyhow::Result<()> {
    let memory = limits.memory_bytes.to_string();
    let with_swap = limits.memory_and_swap_bytes.to_string();
    let update = ["update", "--memory", &memory, "--memory-swap", &with_swap];
    docker(update.into_iter().chain([container.id.as_str()])).read()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_statistics_are_found_in_both_versions_of_cgroups() {
        let at =
            |groups: &str| cpu_statistics(groups, "abc").map(|path| path.display().to_string());
        assert_eq!(
            at("5:cpuacct:/docker/abc\n4:cpu:/docker/abc\n0::/docker/abc\n").unwrap(),
            "/sys/fs/cgroup/cpu/docker/abc/cpu.stat"
        );
        assert_eq!(
            at("4:cpu,cpuacct:/docker/abc\n").unwrap(),
            "/sys/fs/cgroup/cpu/docker/abc/cpu.stat"
        );
        assert_eq!(
            at("0::/system.slice/docker-abc.scope\n").unwrap(),
            "/sys/fs/cgroup/system.slice/docker-abc.scope/cpu.stat"
        );
        assert_eq!(at("4:cpu:/user.slice\n0::/user.slice\n"), None);
    }
}
