//! What can be done to a system's containers: halt and resume, limit, cut off a network, run a command inside.
//!
//! Left out: which containers there are ([`crate::members`]), making new ones ([`crate::rolling`]), and what a container
//! should have ([`crate::definition`]).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;

use crate::{
    cluster,
    engine::docker,
    kubectl::UNLIMITED_MILLICORES,
    kubernetes,
    member::{CPU_PERIOD_US, Limits, Member, Place, Pod, State, cpu_quota_us},
    members,
    process::Call,
    wait,
};

/// Longer than the longest grace period in compose.yaml.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// How long the kernel may take to halt every process of a container, and how often that is tried.
const FROZEN_WITHIN: Duration = Duration::from_secs(5);
const FREEZE_INTERVAL: Duration = Duration::from_millis(250);
/// What the engine says where it took longer than the engine waits.
const CANNOT_FREEZE: &str = "unable to freeze";
/// `docker stats` waits for two samples.
const STATS_LIMIT: Duration = Duration::from_secs(15);

/// How a container is kept from working.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// All its processes stand still.
    Pause,
    /// Ended by SIGKILL.
    Kill,
    /// Ended with its own grace period. In a pod's place there is another one then.
    Stop,
}

/// A member that is a pod, with its place.
fn as_pod(member: &Member) -> Option<(&Member, &Pod)> {
    match &member.place {
        Place::Pod(pod) => Some((member, pod)),
        Place::Container { .. } => None,
    }
}

/// Halts containers: paused one after the other, else all at once.
///
/// # Errors
/// When the engine refuses.
pub fn halt(how: Halt, members: &[Member]) -> anyhow::Result<()> {
    let verb = match how {
        Halt::Pause => return members.iter().try_for_each(pause),
        Halt::Kill => "kill",
        Halt::Stop => "stop",
    };
    let pods: Vec<(&Member, &Pod)> = members.iter().filter_map(as_pod).collect();
    if !pods.is_empty() {
        return match how {
            Halt::Kill => kill_pods(&pods),
            _ => pods.into_iter().try_for_each(end_pod),
        };
    }
    let ids = members.iter().map(|member| member.id.as_str());
    let call = docker([verb].into_iter().chain(ids));
    call.limit(STOP_LIMIT).read()?;
    Ok(())
}

/// Kills pods. Where none of their kind is left, none is started again either: for as long as one serves, Kubernetes starts
/// the others again at once.
fn kill_pods(pods: &[(&Member, &Pod)]) -> anyhow::Result<()> {
    let pods = pods.iter().map(|(_, pod)| *pod);
    let by_controller: BTreeMap<&str, &Pod> = pods
        .clone()
        .map(|pod| (pod.controller.as_str(), pod))
        .collect();
    let mut emptied = Vec::new();
    for (controller, pod) in by_controller {
        let all = members::of_target(&pod.target)?;
        let has_it =
            |member: &&Member| as_pod(member).is_some_and(|(_, pod)| pod.controller == controller);
        let killed = pods.clone().filter(|pod| pod.controller == controller);
        if all.iter().filter(has_it).count() == killed.count() {
            emptied.push((controller, &pod.target));
        }
    }
    for pod in pods {
        task(pod, &["kill", "--signal", "SIGKILL"])?;
    }
    // Behind the kill, or they would end gracefully before it; and within the second that a kubelet takes to start them again.
    emptied
        .into_iter()
        .try_for_each(|(controller, target)| kubernetes::keep_down(target, controller))
}

/// Kills the node that a member is on, and with it all that runs there.
///
/// # Errors
/// When it isn't on a node of the project's own cluster.
pub fn kill_node(member: &Member) -> anyhow::Result<()> {
    let (_, pod) = as_pod(member).context("there are no nodes")?;
    kubernetes::kill_node(pod)
}

/// Halts the node that a member is on, and with it all that runs there.
///
/// # Errors
/// When it isn't on a node of the project's own cluster.
pub fn pause_node(member: &Member) -> anyhow::Result<()> {
    let (_, pod) = as_pod(member).context("there are no nodes")?;
    kubernetes::pause_node(pod)
}

/// Ends a pod with its grace period; returns when another one has taken its place, which Kubernetes makes at once.
fn end_pod((member, pod): (&Member, &Pod)) -> anyhow::Result<()> {
    let delete = ["delete", "pod", &member.id, "--ignore-not-found"];
    pod.target.kubectl(delete).limit(STOP_LIMIT).read()?;
    kubernetes::wait_for(&pod.target, &pod.controller)
}

fn pause(member: &Member) -> anyhow::Result<()> {
    until_frozen(|| match &member.place {
        Place::Container { .. } => docker(["pause", &member.id]).limit(STOP_LIMIT).read(),
        Place::Pod(pod) => task(pod, &["pause"]),
    })
}

/// Acts on a pod's container from its node.
fn task(pod: &Pod, verb: &[&str]) -> anyhow::Result<String> {
    let node = pod.node.as_deref().context("the pod is on no node")?;
    let id = pod.container_id.as_deref();
    let id = id.context("the pod has no container")?;
    let on_node = pod.target.on_node(node)?.args(cluster::TASKS);
    on_node.args(verb).args([id]).limit(STOP_LIMIT).read()
}

/// The kernel may not have halted every process in the moment that the engine waits for it: on a busy machine, or while a
/// command is started inside. That is tried again.
fn until_frozen(mut attempt: impl FnMut() -> anyhow::Result<String>) -> anyhow::Result<()> {
    let mut refused = None;
    let paused = wait::until(FROZEN_WITHIN, FREEZE_INTERVAL, || match attempt() {
        Ok(_) => Ok(Some(())),
        Err(error) if format!("{error:#}").contains(CANNOT_FREEZE) => {
            refused = Some(error);
            Ok(None)
        }
        Err(error) => Err(error),
    })?;
    match (paused, refused) {
        (None, Some(refused)) => Err(refused),
        _ => Ok(()),
    }
}

/// Stops a container with its own grace period.
///
/// # Errors
/// When the engine refuses.
pub fn stop(member: &Member) -> anyhow::Result<()> {
    halt(Halt::Stop, std::slice::from_ref(member))
}

/// Starts a container that may not be able to start.
///
/// # Errors
/// When the engine can't be asked; that the container fails is none.
pub fn try_to_start(member: &Member) -> anyhow::Result<()> {
    docker(["start", &member.id]).output()?;
    Ok(())
}

/// Unpauses or starts a container where that is needed; what was done, as a participle.
///
/// # Errors
/// When the engine refuses.
pub fn resume(member: &Member) -> anyhow::Result<Option<&'static str>> {
    if let Place::Pod(pod) = &member.place {
        // What has ended Kubernetes starts again by itself, unless it is kept down: `RunningSystem::bring_back`.
        return match &member.state {
            State::Paused => task(pod, &["resume"]).map(|_| Some("unpaused")),
            // The kubelet waits longer each time, up to five minutes. For a new pod it doesn't.
            State::Other(why) if why == "CrashLoopBackOff" => {
                let delete = ["delete", "pod", &member.id, "--wait=false"];
                pod.target.kubectl(delete).read()?;
                kubernetes::wait_for(&pod.target, &pod.controller)?;
                Ok(Some("replaced"))
            }
            _ => Ok(None),
        };
    }
    let (verb, done) = match member.state {
        State::Paused => ("unpause", "unpaused"),
        State::Exited | State::Created | State::Dead => ("start", "started"),
        State::Running | State::Restarting | State::Other(_) => return Ok(None),
    };
    docker([verb, &member.id]).limit(STOP_LIMIT).read()?;
    Ok(Some(done))
}

/// Gives each container so many thousandths of a core.
///
/// # Errors
/// When the engine refuses.
pub fn limit_cpu(members: &[Member], millicores: u32) -> anyhow::Result<()> {
    let millicores = u64::from(millicores);
    let pods: Vec<(&Member, &Pod)> = members.iter().filter_map(as_pod).collect();
    if !pods.is_empty() {
        return kubernetes::limit_cpu(&pods, millicores);
    }
    let (period, quota) = (
        CPU_PERIOD_US.to_string(),
        cpu_quota_us(millicores).to_string(),
    );
    let update = ["update", "--cpu-period", &period, "--cpu-quota", &quota];
    let ids = members.iter().map(|member| member.id.as_str());
    docker(update.into_iter().chain(ids)).read()?;
    Ok(())
}

/// Gives a container as much processor time as there is, where it had a quota; whether it had one.
///
/// # Errors
/// When the engine refuses.
pub fn unlimit_cpu(member: &Member) -> anyhow::Result<bool> {
    if member.limits.cpu_quota_us <= 0 {
        return Ok(false);
    }
    match as_pod(member) {
        Some(pod) => kubernetes::limit_cpu(&[pod], UNLIMITED_MILLICORES)?,
        None => {
            docker(["update", "--cpu-quota", "-1", &member.id]).read()?;
        }
    }
    Ok(true)
}

/// The processor time that a container uses now, in percent of a core.
///
/// # Errors
/// When the engine doesn't tell.
pub fn cpu_percent(member: &Member) -> anyhow::Result<f64> {
    let stats = [
        "stats",
        "--no-stream",
        "--format",
        "{{.CPUPerc}}",
        &member.id,
    ];
    let text = docker(stats).limit(STATS_LIMIT).read()?;
    let percent = text.trim().trim_end_matches('%').parse();
    percent.with_context(|| format!("`docker stats` says {text:?}"))
}

/// How many periods a container spent its quota in, by the kernel's own count; `None` where that can't be read, as of an engine
/// on another machine.
pub fn throttled(member: &Member) -> Option<u64> {
    let statistics = match &member.place {
        Place::Container { .. } => {
            let groups = fs::read_to_string(format!("/proc/{}/cgroup", member.pid)).ok()?;
            fs::read_to_string(cpu_statistics(&groups, &member.id)?).ok()?
        }
        Place::Pod(pod) => {
            let (node, container) = (pod.node.as_deref()?, pod.container_id.as_deref()?);
            let groups = pod.target.cgroups(node, container)?;
            let path = cpu_statistics(&groups, container)?;
            let cat = pod.target.on_node(node).ok()?.args(["cat"]).args([path]);
            cat.read().ok()?
        }
    };
    let count = statistics
        .lines()
        .find_map(|line| line.strip_prefix("nr_throttled "))?;
    count.parse().ok()
}

/// The processor time that a container of this machine has used, by the kernel's own count; `None` where that can't be read, as of an
/// engine on another machine.
pub fn processor_time(member: &Member) -> Option<Duration> {
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", member.pid)).ok()?;
    // Version 1 has a file of its own, in nanoseconds, and version 2 a line, in microseconds.
    if let Some(folder) = control_group(&groups, &member.id, "cpuacct") {
        let text = fs::read_to_string(folder.join("cpuacct.usage")).ok()?;
        return Some(Duration::from_nanos(text.trim().parse().ok()?));
    }
    let text = fs::read_to_string(cpu_statistics(&groups, &member.id)?).ok()?;
    let used = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?;
    Some(Duration::from_micros(used.parse().ok()?))
}

/// Where the kernel keeps statistics of a container's processor (by the engine's id).
fn cpu_statistics(groups: &str, container_id: &str) -> Option<PathBuf> {
    let folder = control_group(groups, container_id, "cpu");
    let folder = folder.or_else(|| control_group(groups, container_id, ""))?;
    Some(folder.join("cpu.stat"))
}

/// The folder of a container's control group for a controller, from `/proc/PID/cgroup`: lines of `number:controllers:path`, with a
/// controller in version 1, one without any in version 2.
fn control_group(groups: &str, container_id: &str, wanted: &str) -> Option<PathBuf> {
    let path = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        // A process of another machine may have the same number.
        let ours = path.contains(container_id);
        (ours && controllers.split(',').any(|one| one == wanted)).then_some(path)
    })?;
    let hierarchy = Path::new("/sys/fs/cgroup").join(wanted);
    Some(hierarchy.join(path.trim_start_matches('/')))
}

/// Gives a container these limits of memory.
///
/// # Errors
/// When the engine refuses: the kernel may not allow less than what is in use.
pub fn limit_memory(member: &Member, limits: Limits) -> anyhow::Result<()> {
    let memory = limits.memory_bytes.to_string();
    let with_swap = limits.memory_and_swap_bytes.to_string();
    let update = ["update", "--memory", &memory, "--memory-swap", &with_swap];
    docker(update.into_iter().chain([member.id.as_str()])).read()?;
    Ok(())
}

/// Takes a container out of a network, by the engine's name.
///
/// # Errors
/// When the engine refuses.
pub fn disconnect(member: &Member, network: &str) -> anyhow::Result<()> {
    docker(["network", "disconnect", network, &member.id]).read()?;
    Ok(())
}

/// Puts a container into a network, by the engine's name, with the names that it has there.
///
/// # Errors
/// When the engine refuses.
pub fn connect<'a>(
    member: &Member,
    network: &str,
    aliases: impl IntoIterator<Item = &'a str>,
) -> anyhow::Result<()> {
    let aliases = aliases.into_iter().flat_map(|alias| ["--alias", alias]);
    docker(["network", "connect"].into_iter().chain(aliases))
        .args([network, member.id.as_str()])
        .read()?;
    Ok(())
}

/// A call that runs a command inside a container.
pub fn exec<'a>(member: &'a Member, command: impl IntoIterator<Item = &'a str>) -> Call {
    match &member.place {
        Place::Container { .. } => docker(["exec", &member.id]),
        Place::Pod(pod) => {
            let container = ["--container", &pod.container, "--"];
            pod.target.kubectl(["exec", &member.id]).args(container)
        }
    }
    .args(command)
}

/// Runs a command inside a container and doesn't wait for its end. `variable` is `NAME=value` of its environment.
///
/// # Errors
/// When the engine refuses.
pub fn exec_in_background<'a>(
    member: &'a Member,
    variable: &'a str,
    command: impl IntoIterator<Item = &'a str>,
) -> anyhow::Result<()> {
    match &member.place {
        Place::Container { .. } => {
            let detached = ["exec", "--detach", "--env", variable, &member.id];
            docker(detached).args(command).read()?;
        }
        Place::Pod(_) => {
            let detached = r#"setsid env "$@" </dev/null >/dev/null 2>&1 &"#;
            let shell = ["sh", "-c", detached, "sh", variable];
            exec(member, shell.into_iter().chain(command)).read()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_frozen_at_once_is_tried_again_and_nothing_else() {
        let attempts = |answers: &[Option<&str>]| {
            let mut answers = answers.iter();
            let result = until_frozen(|| match answers.next() {
                Some(Some(refused)) => Err(anyhow::anyhow!("{refused}")),
                _ => Ok(String::new()),
            });
            (result.map_err(|error| error.to_string()), answers.len())
        };
        let busy = Some("OCI runtime pause failed: unable to freeze: unknown");
        assert_eq!(attempts(&[busy, busy, None, None]), (Ok(()), 1));
        let gone = Some("No such container: abc");
        let refused = Err("No such container: abc".to_owned());
        assert_eq!(attempts(&[gone, None]), (refused, 1));
    }

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
