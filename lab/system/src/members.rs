//! The members of a running system: what runs, with its state, its addresses and its configuration, as the engine shows
//! it.
//!
//! One member is one container, or one pod. Left out: what can be done to it ([`crate::control`]), and what it should be
//! ([`crate::definition`]).

mod pods;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context;
use base::outcome;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

pub use crate::member::{Health, Limits, Member, State};
use crate::{
    Part,
    engine::{self, docker},
    kubectl::{self, Target},
    member::{HealthCheck, Place},
    part::UnknownPart,
    process::Call,
    project::{PORTS, Project, PublishedPort},
    signing_keys, switches,
};

const SERVICE_LABEL: &str = "com.docker.compose.service";
/// `True` on what `compose run` made.
const ONE_OFF_LABEL: &str = "com.docker.compose.oneoff";

/// How long a container may take to accept a connection on its own address.
const DIRECT_LIMIT: Duration = Duration::from_secs(1);
const LOG_LIMIT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    image: String,
    restart_count: u64,
    created: Option<DateTime<Utc>>,
    state: InspectedState,
    config: InspectedConfig,
    network_settings: InspectedNetworks,
    #[serde(default)]
    host_config: InspectedHost,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct InspectedHost {
    #[serde(flatten)]
    limits: Limits,
    restart_policy: Option<InspectedRestartPolicy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedRestartPolicy {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    status: String,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    #[serde(default)]
    exit_code: i64,
    #[serde(default, rename = "OOMKilled")]
    out_of_memory: bool,
    #[serde(default)]
    pid: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedConfig {
    labels: BTreeMap<String, String>,
    /// Secrets among it: only what is asked for is kept.
    env: Option<Vec<String>>,
    healthcheck: Option<InspectedHealthCheck>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedHealthCheck {
    #[serde(default)]
    test: Vec<String>,
    /// In nanoseconds.
    #[serde(default)]
    start_period: i64,
}

impl InspectedHealthCheck {
    /// `None` where it says that there is none.
    fn known(self) -> Option<HealthCheck> {
        let (kind, rest) = self.test.split_first()?;
        let command = match kind.as_str() {
            "CMD" => rest.to_vec(),
            "CMD-SHELL" => [&["/bin/sh".to_owned(), "-c".to_owned()], rest].concat(),
            _ => return None,
        };
        Some(HealthCheck {
            command,
            start_period: TimeDelta::nanoseconds(self.start_period),
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedNetworks {
    ports: Option<BTreeMap<String, Option<Vec<InspectedPort>>>>,
    networks: Option<BTreeMap<String, InspectedNetwork>>,
}

#[derive(Deserialize)]
struct InspectedNetwork {
    #[serde(rename = "IPAddress", default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedPort {
    host_port: String,
}

impl TryFrom<Inspected> for Member {
    type Error = UnknownPart;

    fn try_from(inspected: Inspected) -> Result<Self, Self::Error> {
        let ports = inspected.network_settings.ports.unwrap_or_default();
        let ports = ports.iter().filter_map(|(inside, outside)| {
            let outside = outside.as_ref()?.first()?;
            Some((
                inside.split('/').next()?.parse().ok()?,
                outside.host_port.parse().ok()?,
            ))
        });
        let networks = inspected.network_settings.networks.unwrap_or_default();
        let labels = &inspected.config.labels;
        let service = labels.get(SERVICE_LABEL).map_or("", String::as_str);
        let environment = inspected.config.env.unwrap_or_default();
        let restarts = inspected.host_config.restart_policy;
        Ok(Self {
            place: Place::Container {
                ports: ports.collect(),
            },
            service: service.parse()?,
            one_off: labels.get(ONE_OFF_LABEL).is_some_and(|is| is == "True"),
            patterns_off: switches::off_in(&environment),
            signing_keys: signing_keys::ids_in(&environment),
            created_at: inspected.created,
            // The engine says `no`, and nothing of a container that it made without one.
            provisional: restarts
                .is_some_and(|policy| policy.name.is_empty() || policy.name == "no"),
            overrides: switches::overrides_in(&environment),
            id: inspected.id,
            state: inspected.state.status.into(),
            health: None,
            health_check: inspected
                .config
                .healthcheck
                .and_then(InspectedHealthCheck::known),
            image: inspected.image,
            restarts: inspected.restart_count,
            started_at: inspected.state.started_at,
            finished_at: inspected.state.finished_at,
            exit_code: inspected.state.exit_code,
            out_of_memory: inspected.state.out_of_memory,
            pid: inspected.state.pid,
            networks: networks
                .into_iter()
                .map(|(name, network)| (name, network.address))
                .collect(),
            limits: inspected.host_config.limits,
        })
    }
}

/// Reads one container of what `docker inspect` prints.
///
/// # Errors
/// When the text is something else, or the container is none of a [`Part`].
pub fn inspected(text: &str) -> anyhow::Result<Member> {
    Ok(serde_json::from_str::<Inspected>(text)?.try_into()?)
}

/// The ids of all of the project's containers, whatever they are.
pub(crate) fn ids(project: &Project) -> anyhow::Result<Vec<String>> {
    let filter = engine::of_project(project);
    let list = docker(["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]);
    let ids = engine::answer(list.limit(Duration::from_secs(20)))?;
    Ok(ids.lines().map(str::to_owned).collect())
}

/// The system's members: on Kubernetes its pods, else the project's containers, stopped ones included. Ordered by service; without those that a tool runs in, or
/// left behind when it was killed or started by hand, and without those of services that today's compose.yaml doesn't
/// have: the next `up` removes them.
pub fn all(project: &Project) -> anyhow::Result<Vec<Member>> {
    if let Some(target) = kubectl::target(project)? {
        return of_target(&target);
    }
    let ids = ids(project)?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let output = docker(
        ["inspect"]
            .into_iter()
            .chain(ids.iter().map(String::as_str)),
    )
    .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // One that was removed meanwhile is no container any more; the others are on standard output all the same.
    anyhow::ensure!(
        output.status.success() || said.contains("No such object"),
        "`docker inspect` failed: {}",
        said.trim()
    );
    let inspected: Vec<Inspected> = serde_json::from_slice(&output.stdout)
        .context("failed to read what `docker inspect` says")?;
    let members = inspected.into_iter().map(Member::try_from);
    let mut members: Vec<Member> = members.filter_map(Result::ok).collect();
    members.retain(|member| !member.is_tool());
    members.sort_by_key(|member| member.service);
    Ok(members)
}

/// The members of a system on Kubernetes; without those that end.
pub(crate) fn of_target(target: &Arc<Target>) -> anyhow::Result<Vec<Member>> {
    of_target_and_ending(target).map(|(members, _)| members)
}

/// The same, and the names of the pods that are ending.
pub(crate) fn of_target_and_ending(
    target: &Arc<Target>,
) -> anyhow::Result<(Vec<Member>, Vec<String>)> {
    thread::scope(|scope| {
        let paused = scope.spawn(|| target.paused());
        let pods = target.pods()?;
        let paused = paused
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let members = pods::read(target, &pods, &paused?)?;
        Ok((members, pods::ending(&pods)?))
    })
}

/// The containers of the running system; an error when there are none.
pub fn running(project: &Project) -> anyhow::Result<Vec<Member>> {
    let members = all(project)?;
    if members.iter().any(|member| member.state == State::Running) {
        return Ok(members);
    }
    Err(outcome::unavailable(
        format!("the system `{}` isn't running", project.name),
        "start it with `cargo xtask up`",
    ))
}

/// The address that a published port has on this machine, e.g. `127.0.0.1:80`.
pub fn address(members: &[Member], service: Part, container_port: u16) -> anyhow::Result<String> {
    let of_service = || {
        let members = members.iter();
        members.filter(|member| member.service == service)
    };
    // An `up` that was ended may have left one that was only created, beside the one that runs.
    let address = of_service().find_map(|member| match &member.place {
        Place::Container { ports } => {
            let port = ports.get(&container_port)?;
            Some(Ok(format!("127.0.0.1:{port}")))
        }
        Place::Pod(pod) => Some(pod.target.address(&pod.controller, service, container_port)),
    });
    match (of_service().next(), address) {
        (_, Some(address)) => address,
        (Some(member), None) => Err(outcome::unavailable(
            format!(
                "{service} publishes no port: its container is {}",
                member.condition()
            ),
            "`cargo xtask up` starts what is stopped; `cargo xtask status` shows everything",
        )),
        (None, None) => Err(outcome::unavailable(
            format!("{service} has no container: the system is half started"),
            "`cargo xtask up` starts what is missing",
        )),
    }
}

/// The address of the container itself, without the engine's proxy, which would cost more than some of what a benchmark
/// measures. Where this machine has no route to containers (the engine runs in a virtual machine), the published one.
/// It changes whenever the container is started.
pub fn direct_address(
    members: &[Member],
    service: Part,
    container_port: u16,
) -> anyhow::Result<String> {
    own_address(members, service, container_port)
        .map_or_else(|| address(members, service, container_port), Ok)
}

/// The address of the container itself, whether or not the port is published; `None` where this machine has no route to
/// containers, or nothing listens.
pub fn own_address(members: &[Member], service: Part, container_port: u16) -> Option<String> {
    members
        .iter()
        .filter(|member| member.service == service)
        // A pod's network is its nodes' own.
        .filter(|member| matches!(member.place, Place::Container { .. }))
        .flat_map(|member| member.networks.values())
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, container_port))
        .find(|addr| TcpStream::connect_timeout(addr, DIRECT_LIMIT).is_ok())
        .map(|addr| addr.to_string())
}

/// The address of a [`PublishedPort`].
pub fn published(members: &[Member], port: &PublishedPort) -> anyhow::Result<String> {
    address(members, port.service, port.container_port)
}

/// How people get to a [`PublishedPort`] when this process has ended: its URL, or the command that makes one.
pub fn way_to(members: &[Member], port: &PublishedPort) -> anyhow::Result<String> {
    let pod = members.iter().find_map(|member| match &member.place {
        Place::Pod(pod) if member.service == port.service => Some(pod),
        _ => None,
    });
    match pod {
        Some(pod) if !pod.target.has_lasting_address(port) => {
            Ok(pod.target.forward_by_hand(&pod.controller, port))
        }
        _ => Ok(format!("http://{}/", published(members, port)?)),
    }
}

/// The address of the first port that a service publishes, of [`PORTS`]: the gateway's is the shop.
pub fn published_by(members: &[Member], service: Part) -> anyhow::Result<String> {
    let port = PORTS.iter().find(|port| port.service == service);
    let port = port.with_context(|| format!("{service} publishes no port"))?;
    published(members, port)
}

/// Service and the beginning of the id, as `docker ps` shows it; a pod's whole name.
pub fn name(member: &Member) -> String {
    if let Place::Pod(_) = member.place {
        return member.id.clone();
    }
    let id = member.id.get(..12).unwrap_or(&member.id);
    format!("{} ({id})", member.service)
}

/// The last lines that a container wrote.
pub fn last_lines(member: &Member, count: usize) -> String {
    let count = format!("--tail={count}");
    match logs(member, &[&count]).limit(LOG_LIMIT).output() {
        Ok(output) => {
            let both = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&both).trim().to_owned()
        }
        Err(error) => format!("(its log can't be read: {error})"),
    }
}

/// A call that writes what a member wrote, standard output and standard error each to its own where the engine tells them apart.
pub(crate) fn logs(member: &Member, options: &[&str]) -> Call {
    match &member.place {
        Place::Container { .. } => docker(["logs"]).args(options).args([&member.id]),
        Place::Pod(pod) => {
            let kubectl = pod.target.kubectl(["logs", &member.id]);
            kubectl.args(["--container", &pod.container]).args(options)
        }
    }
}

/// Resident memory of a container's one process, in KiB; `None` where the engine's host can't say.
pub fn resident_kib(member: &Member) -> Option<u64> {
    if let Place::Pod(pod) = &member.place {
        let (node, container) = (pod.node.as_deref()?, pod.container_id.as_deref()?);
        return pod.target.resident_kib(node, container);
    }
    let text = docker(["top", &member.id, "-o", "pid,rss"])
        .limit(Duration::from_secs(10))
        .read()
        .ok()?;
    text.lines()
        .skip(1)
        .map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const INSPECTED: &str = r#"{"Id":"abc","Image":"sha256:1","RestartCount":2,
        "State":{"Status":"running"},
        "Config":{"Labels":{"com.docker.compose.service":"traefik"},
            "Healthcheck":{"Test":["CMD","traefik","healthcheck"],"Interval":15000000000,"StartPeriod":30000000000}},
        "NetworkSettings":{"Ports":{"8080/tcp":[{"HostIp":"127.0.0.1","HostPort":"80"}],"8082/tcp":null},
            "Networks":{"agora_edge":{"IPAddress":"127.0.0.1"},"agora_public":{"IPAddress":""}}}}"#;

    fn traefik() -> Member {
        inspected(INSPECTED).unwrap()
    }

    #[test]
    fn a_container_is_healthy_only_when_its_check_was_asked_and_says_so() {
        let mut member = traefik();
        assert!(!member.is_healthy());
        assert_eq!(member.condition(), "running");
        member.health = Some(Health::Starting);
        assert!(!member.is_healthy());
        assert_eq!(member.condition(), "starting");
        member.health = Some(Health::Healthy);
        assert!(member.is_healthy());
        member.state = State::Exited;
        assert!(!member.is_healthy());
        assert_eq!(member.condition(), "exited");
    }

    #[test]
    fn a_health_check_is_the_containers_own() {
        let command = |test: &str| {
            let text = INSPECTED.replace(r#"["CMD","traefik","healthcheck"]"#, test);
            let check = inspected(&text).unwrap().health_check;
            check.map(|check| check.command.join(" "))
        };
        let traefik = command(r#"["CMD","traefik","healthcheck"]"#);
        assert_eq!(traefik.unwrap(), "traefik healthcheck");
        let by_shell = command(r#"["CMD-SHELL","exit 0"]"#);
        assert_eq!(by_shell.unwrap(), "/bin/sh -c exit 0");
        for none in [r#"["NONE"]"#, "[]"] {
            assert_eq!(command(none), None, "{none}");
        }
    }

    #[test]
    fn a_check_may_fail_for_as_long_as_a_start_may_take() {
        let check = traefik().health_check.unwrap();
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        assert!(check.may_still_fail(Some(at(100)), at(129)));
        assert!(!check.may_still_fail(Some(at(100)), at(130)));
        assert!(!check.may_still_fail(None, at(130)));
    }

    #[test]
    fn a_tools_container_is_told_from_a_services() {
        assert!(!traefik().one_off);
        let label = r#""Labels":{"com.docker.compose.oneoff":"True","#;
        let tool = INSPECTED.replace(r#""Labels":{"#, label);
        assert!(inspected(&tool).unwrap().one_off);
    }

    #[test]
    fn a_tool_is_no_part_of_the_system_however_it_was_started() {
        let inspected = |labels: &str| {
            let text = INSPECTED.replace(r#""com.docker.compose.service":"traefik""#, labels);
            inspected(&text).unwrap()
        };
        assert!(!traefik().is_tool());
        assert!(inspected(r#""com.docker.compose.service":"dead-letters""#).is_tool());
        let one_off =
            r#""com.docker.compose.service":"traefik","com.docker.compose.oneoff":"True""#;
        assert!(inspected(one_off).is_tool());
    }

    #[test]
    fn a_container_of_no_part_is_no_member() {
        let stranger = INSPECTED.replace("traefik", "traffic");
        let error = inspected(&stranger).unwrap_err().to_string();
        assert!(error.contains("`traffic`"), "{error}");
        let label = r#""com.docker.compose.service":"traefik""#;
        assert!(inspected(&INSPECTED.replace(label, "")).is_err());
    }

    #[test]
    fn a_container_tells_which_patterns_it_runs_without() {
        assert!(traefik().patterns_off.is_empty());
        let env =
            r#""Env":["PATH=/","AGORA_PATTERN_INBOX=off","AGORA_PATTERN_OUTBOX=on"],"Labels""#;
        let service = INSPECTED.replace(r#""Labels""#, env);
        assert_eq!(inspected(&service).unwrap().patterns_off, ["inbox"]);
    }

    #[test]
    fn addresses_come_from_the_published_ports() {
        let mut created = traefik();
        created.place = Place::Container {
            ports: BTreeMap::new(),
        };
        let members = [created, traefik()];
        assert_eq!(
            address(&members, Part::Traefik, 8080).unwrap(),
            "127.0.0.1:80"
        );
        let unpublished = address(&members, Part::Traefik, 8082)
            .unwrap_err()
            .to_string();
        assert!(unpublished.contains("publishes no port"), "{unpublished}");
        let absent = address(&members, Part::Prometheus, 9090)
            .unwrap_err()
            .to_string();
        assert!(absent.contains("half started"), "{absent}");
    }

    #[test]
    fn a_container_is_reached_directly_where_it_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap().port();
        let mut traefik = traefik();
        traefik.place = Place::Container {
            ports: [(open, 80)].into(),
        };
        let direct = |members: &[Member]| direct_address(members, Part::Traefik, open);
        assert_eq!(
            direct(std::slice::from_ref(&traefik)).unwrap(),
            format!("127.0.0.1:{open}")
        );
        traefik.networks.clear();
        assert_eq!(direct(&[traefik]).unwrap(), "127.0.0.1:80");
    }
}
