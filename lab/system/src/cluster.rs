//! The local Kubernetes cluster, for a machine that has none: control plane and nodes are containers of the engine.
//!
//! Its ports are published on loopback alone, and its kubeconfig is a file of its own. Left out: what runs in it.

mod programs;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use base::{
    outcome,
    progress::{Progress, Step},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use self::programs::Programs;
use crate::{
    engine::{self, docker},
    files::replace_private,
    host, images,
    interrupt::{self, Interrupted},
    lock::ClusterLock,
    process::Call,
    project::Project,
    wait,
};

/// On containers, volumes and networks: the project that the cluster belongs to.
const CLUSTER_LABEL: &str = "agora.cluster";
/// On containers: `control`, or a node's name.
const ROLE_LABEL: &str = "agora.cluster.role";
const CONTROL: &str = "control";
const API_PORT: &str = "6443";
/// The gateway's port on each node (`deploy/kubernetes/overlays/local`).
const GATEWAY_PORT: &str = "30080";
/// The program on a node that keeps its images, with what makes it the one of Kubernetes.
pub(crate) const IMAGES: [&str; 4] = ["ctr", "--namespace", "k8s.io", "images"];
/// The same for what runs.
pub(crate) const TASKS: [&str; 4] = ["ctr", "--namespace", "k8s.io", "tasks"];
/// How long the cluster may take to release the volumes of a namespace that was removed.
const RELEASED_WITHIN: Duration = Duration::from_secs(30);
/// The first container's address is this far from the beginning of the network's range, behind the engine's own.
const FIRST_ADDRESS: u32 = 10;
/// Below the node's image, where a registry answers and no local image was made before.
const REGISTRY_BASE: &str = "docker.io/library/debian:trixie-slim";
const IMAGE_WITHIN: Duration = Duration::from_secs(10 * 60);
const CONTROL_WITHIN: Duration = Duration::from_secs(90);
const READY_WITHIN: Duration = Duration::from_secs(120);
const REMOVED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const LOG_LINES: &str = "15";
/// A node mounts, makes namespaces and devices, and sets up networks. Not `--privileged`, which asks for CAP_SYS_RESOURCE: the
/// machine itself may lack it.
const NODE_OPTIONS: [&str; 20] = [
    "--cap-add",
    "ALL",
    "--cap-drop",
    "SYS_RESOURCE",
    "--security-opt",
    "seccomp=unconfined",
    "--security-opt",
    "apparmor=unconfined",
    "--security-opt",
    "systempaths=unconfined",
    "--device-cgroup-rule",
    "a *:* rwm",
    "--device",
    "/dev/kmsg",
    "--cgroupns",
    "private",
    "--tmpfs",
    "/run:exec",
    "--tmpfs",
    "/tmp:exec",
];
/// What a node keeps when its container is started again, by the volume's name and where it is mounted.
const NODE_VOLUMES: [(&str, &str); 3] = [
    ("containerd", "/var/lib/containerd"),
    ("kubelet", "/var/lib/kubelet"),
    ("data", "/var/lib/agora"),
];

/// A project's cluster, whether it is there or not.
#[derive(Debug)]
pub struct Cluster<'a> {
    project: &'a Project,
    /// The project's name, without what is added to it for a system on the cluster.
    owner: String,
    /// The network's name, and the beginning of all others.
    name: String,
}

/// What there is of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Kubernetes' version, e.g. `v1.34.4`; `None` where the API server doesn't answer.
    pub version: Option<String>,
    /// In the order of their names.
    pub nodes: Vec<Node>,
    /// The file that `kubectl --kubeconfig` takes.
    pub kubeconfig: PathBuf,
    /// The kubectl that was built with it; `None` where its programs are gone.
    pub kubectl: Option<PathBuf>,
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// `node1` and so on.
    pub name: String,
    /// Whether the API server says that it is Ready.
    pub is_ready: bool,
    /// Where the node's port of the gateway is published on this machine, `127.0.0.1:PORT`; `None` while it doesn't run.
    pub gateway: Option<String>,
}

impl Status {
    /// Whether the API server answers and every node is ready.
    pub fn is_ready(&self) -> bool {
        self.version.is_some()
            && !self.nodes.is_empty()
            && self.nodes.iter().all(|node| node.is_ready)
    }
}

/// A container of the cluster.
#[derive(Debug)]
struct Member {
    role: String,
    id: String,
    /// In the engine's words.
    state: String,
}

impl Member {
    fn is_running(&self) -> bool {
        self.state == "running"
    }
}

/// A node that doesn't work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HaltedNode {
    pub(crate) name: String,
    pub(crate) container: String,
    /// Whether it stands still; else it has ended.
    pub(crate) is_paused: bool,
}

impl<'a> Cluster<'a> {
    /// The cluster of this project.
    pub fn new(project: &'a Project) -> Self {
        let owner = project.compose_name();
        Self {
            project,
            owner: owner.to_owned(),
            name: format!("{owner}-cluster"),
        }
    }

    /// Starts it with so many nodes and waits until all are Ready. One that is there with as many is only waited for.
    ///
    /// # Errors
    /// When there is another or a part of one, when programs or image can't be built, and when it isn't ready in time. What was
    /// started until then is removed.
    pub fn up(&self, nodes: u32, progress: &Progress) -> anyhow::Result<Status> {
        let _lock = ClusterLock::take(self.project)?;
        let there = self.members()?;
        if there.is_empty() {
            // What a killed command made without a container.
            self.remove()?;
        } else {
            let running = there.iter().filter(|member| member.is_running()).count();
            if running != there.len() || there.len() != nodes as usize + 1 {
                return Err(outcome::usage(
                    format!(
                        "there is a cluster already, or a part of one: {} containers of {}, {running} of them running",
                        there.len(),
                        self.name
                    ),
                    "`cargo xtask cluster down` removes it",
                ));
            }
        }
        let programs = progress.step("programs", |step| programs::provide(self.project, step))?;
        if !there.is_empty() {
            // It gets another port at each start.
            progress.step("control plane", |step| self.wait_for_control(step))?;
            return progress.step("nodes", |step| {
                self.wait_until_ready(nodes, &programs, step)
            });
        }
        let image = progress.step("node image", |step| self.image(step))?;
        self.start(nodes, &programs, &image, progress)
            .map_err(|error| self.undo(error, progress))
    }

    /// Removes what was started before this error, also after Ctrl-C.
    fn undo(&self, error: anyhow::Error, progress: &Progress) -> anyhow::Error {
        interrupt::acknowledge();
        let removed = progress.step("removing what was started", |_| {
            // Removed also where a log can't be kept.
            let kept = self.keep_logs();
            self.remove()?;
            kept
        });
        match removed {
            Err(left) if !error.is::<Interrupted>() => {
                error.context(format!("not all of it could be removed: {left:#}"))
            }
            _ => error,
        }
    }

    /// Writes what the containers said where the other logs are.
    fn keep_logs(&self) -> anyhow::Result<()> {
        for member in self.members()? {
            docker(["logs", &member.id]).logged(&self.log(&member.role), |_| ())?;
        }
        Ok(())
    }

    fn log(&self, role: &str) -> PathBuf {
        self.project.log(&format!("cluster-{role}"))
    }

    fn start(
        &self,
        nodes: u32,
        programs: &Programs,
        image: &str,
        progress: &Progress,
    ) -> anyhow::Result<Status> {
        let addresses = progress.step("network", |step| {
            let subnet = self.make_network()?;
            step.result(subnet.as_str());
            addresses(&subnet, nodes + 1)
        })?;
        let [control, members @ ..] = &addresses[..] else {
            anyhow::bail!("no address for the control plane");
        };
        progress.step("control plane", |step| {
            let api = format!("127.0.0.1::{API_PORT}");
            let shared = self.volume("shared", "/shared")?;
            let options = ["--publish", &api, "--volume", &shared];
            let count = nodes.to_string();
            let script = ["/cluster/control.sh", &count, control];
            self.run(CONTROL, control, programs, image, &options, &script)?;
            // Nodes wait for it; so it comes up beside them.
            for (address, number) in members.iter().zip(1..) {
                self.start_node(number, address, control, members, programs, image)?;
            }
            self.wait_for_control(step)
        })?;
        progress.step("nodes", |step| self.wait_until_ready(nodes, programs, step))
    }

    fn start_node(
        &self,
        number: u32,
        address: &str,
        control: &str,
        nodes: &[String],
        programs: &Programs,
        image: &str,
    ) -> anyhow::Result<()> {
        let role = format!("node{number}");
        let mut options: Vec<String> = NODE_OPTIONS.map(str::to_owned).to_vec();
        // Chosen here: one that Docker chooses is another one after each start, and clients would lose the gateway with the node.
        let port = host::free_port()?;
        let published = format!("127.0.0.1:{port}:{GATEWAY_PORT}");
        options.extend(["--publish".to_owned(), published]);
        let shared = format!("{}-shared:/shared:ro", self.name);
        options.extend(["--volume".to_owned(), shared]);
        for (what, path) in NODE_VOLUMES {
            let volume = self.volume(&format!("{role}-{what}"), path)?;
            options.extend(["--volume".to_owned(), volume]);
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let number = number.to_string();
        let mut script = vec!["/cluster/node.sh", &number, control];
        script.extend(nodes.iter().map(String::as_str));
        self.run(&role, address, programs, image, &options, &script)
    }

    /// Removes it, or what is left of one; returns whether there was anything.
    pub fn down(&self) -> anyhow::Result<bool> {
        let _lock = ClusterLock::take(self.project)?;
        self.remove()
    }

    fn remove(&self) -> anyhow::Result<bool> {
        let mut was_there = false;
        let mut refused = None;
        // Until nothing is found: a killed `up` leaves a call behind that still starts its container.
        let gone = wait::until(REMOVED_WITHIN, LOOK_INTERVAL, || {
            let mut is_gone = true;
            for (list, remove) in [
                (["ps", "--all"], ["rm", "--force"]),
                (["network", "ls"], ["network", "rm"]),
                (["volume", "ls"], ["volume", "rm"]),
            ] {
                let of_cluster = ["--quiet", "--filter", &self.filter()].map(str::to_owned);
                let ids = engine::answer(docker(list).args(of_cluster))?;
                if !ids.trim().is_empty() {
                    is_gone = false;
                    refused = docker(remove.into_iter().chain(ids.lines())).read().err();
                }
            }
            was_there |= !is_gone;
            Ok(is_gone.then_some(()))
        })?;
        if gone.is_none() {
            let cause = refused.map_or_else(String::new, |error| format!(": {error:#}"));
            return Err(outcome::failed(
                format!("not all of the cluster could be removed{cause}"),
                "`cargo xtask cluster down` tries again",
            ));
        }
        match fs::remove_dir_all(self.folder()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(was_there),
        }
    }

    /// What there is; `None` without a container.
    ///
    /// # Errors
    /// When the engine can't be asked.
    pub fn status(&self) -> anyhow::Result<Option<Status>> {
        let members = self.members()?;
        if members.is_empty() {
            return Ok(None);
        }
        let programs = programs::built(self.project)?;
        let mut status = Status {
            version: None,
            nodes: Vec::new(),
            kubeconfig: self.kubeconfig(),
            kubectl: programs.as_ref().map(|programs| programs.path("kubectl")),
        };
        let answer = programs.and_then(|programs| self.nodes(&programs).ok());
        let (version, ready) = answer.unwrap_or_default();
        status.version = version;
        for member in members.iter().filter(|member| member.role != CONTROL) {
            status.nodes.push(Node {
                name: member.role.clone(),
                is_ready: member.is_running() && ready.contains(&member.role),
                gateway: published(member, GATEWAY_PORT),
            });
        }
        Ok(Some(status))
    }

    /// The version that the nodes run, and the names of those that are Ready.
    fn nodes(&self, programs: &Programs) -> anyhow::Result<(Option<String>, Vec<String>)> {
        let text = self
            .kubectl(programs)
            .args(["get", "nodes", "--output", "json"])
            .read()?;
        ready_nodes(&text)
    }

    fn kubectl(&self, programs: &Programs) -> Call {
        Call::new(programs.path("kubectl"))
            .args(["--request-timeout", "10s", "--cache-dir"])
            .args([self.folder().join("cache")])
            .args([Path::new("--kubeconfig"), &self.kubeconfig()])
            .env_remove("KUBECONFIG")
    }

    /// The kubectl that belongs to it; `None` before its programs were built.
    pub(crate) fn programs(&self) -> anyhow::Result<Option<PathBuf>> {
        let programs = programs::built(self.project)?;
        Ok(programs.map(|programs| programs.path("kubectl")))
    }

    /// Names of the nodes that run, and their containers.
    pub(crate) fn nodes_by_container(&self) -> anyhow::Result<Vec<(String, String)>> {
        let members = self.members()?.into_iter();
        let nodes = members.filter(|member| member.is_running() && member.role != CONTROL);
        Ok(nodes.map(|node| (node.role, node.id)).collect())
    }

    /// The nodes that have ended or stand still.
    pub(crate) fn halted_nodes(&self) -> anyhow::Result<Vec<HaltedNode>> {
        let members = self.members()?.into_iter();
        let halted = members.filter(|member| !member.is_running() && member.role != CONTROL);
        let halted = halted.map(|node| HaltedNode {
            is_paused: node.state == "paused",
            name: node.role,
            container: node.id,
        });
        Ok(halted.collect())
    }

    /// The nodes that accept connections for the gateway on this machine, each with the address, in the order of their names. Each is
    /// tried when it is asked for.
    pub(crate) fn gateways(&self) -> anyhow::Result<impl Iterator<Item = (String, String)>> {
        let members = self.members()?.into_iter();
        let nodes = members.filter(|member| member.role != CONTROL);
        let addresses = nodes.filter_map(|node| {
            let address = published(&node, GATEWAY_PORT)?;
            Some((node.role, address))
        });
        Ok(addresses.filter(|(_, address)| {
            let address = address.parse::<SocketAddr>();
            address.is_ok_and(|it| TcpStream::connect_timeout(&it, CONNECT_LIMIT).is_ok())
        }))
    }

    /// Empties the volumes that a removed namespace had claimed, and offers them again.
    ///
    /// # Errors
    /// When one isn't released in time, or can't be emptied.
    pub(crate) fn empty_volumes(&self, namespace: &str) -> anyhow::Result<()> {
        let programs = programs::built(self.project)?;
        let programs = programs.context("the cluster's programs are gone")?;
        let nodes = self.nodes_by_container()?;
        let offered = wait::until(RELEASED_WITHIN, LOOK_INTERVAL, || {
            let list = ["get", "persistentvolumes", "--output", "json"];
            let claimed = claimed(&self.kubectl(&programs).args(list).read()?, namespace)?;
            for volume in claimed.iter().filter(|volume| volume.is_released) {
                let node = nodes.iter().find(|(name, _)| *name == volume.node);
                let (_, container) =
                    node.with_context(|| format!("{} doesn't run", volume.node))?;
                let empty = ["find", &volume.path, "-mindepth", "1", "-delete"];
                docker(["exec", container]).args(empty).read()?;
                let unclaim = r#"--patch=[{"op":"remove","path":"/spec/claimRef"}]"#;
                let patch = ["patch", "persistentvolume", &volume.name, "--type=json"];
                self.kubectl(&programs).args(patch).args([unclaim]).read()?;
            }
            Ok(claimed.is_empty().then_some(()))
        })?;
        offered.ok_or_else(|| {
            outcome::failed(
                "the cluster doesn't release its volumes",
                "`cargo xtask cluster down` removes them with the cluster",
            )
        })
    }

    /// The file with which kubectl reaches it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder().join("kubeconfig")
    }

    fn folder(&self) -> PathBuf {
        let clusters = self.project.outputs().join("clusters");
        clusters.join(&self.owner)
    }

    fn filter(&self) -> String {
        format!("label={}", self.label())
    }

    fn label(&self) -> String {
        format!("{CLUSTER_LABEL}={}", self.owner)
    }

    fn members(&self) -> anyhow::Result<Vec<Member>> {
        let format = format!("{{{{.Label \"{ROLE_LABEL}\"}}}} {{{{.State}}}} {{{{.ID}}}}");
        let filter = self.filter();
        let list = ["ps", "--all", "--no-trunc", "--filter", &filter, "--format"];
        let text = engine::answer(docker(list).args([&format]))?;
        let member = |line: &str| {
            let mut words = line.split(' ');
            Some(Member {
                role: words.next()?.to_owned(),
                state: words.next()?.to_owned(),
                id: words.next()?.to_owned(),
            })
        };
        let mut members: Vec<Member> = text.lines().filter_map(member).collect();
        members.sort_by(|a, b| a.role.cmp(&b.role));
        Ok(members)
    }

    /// Makes the network; returns its range. Docker chooses one that is free, but gives out addresses that are asked for only in one
    /// that was asked for, too.
    fn make_network(&self) -> anyhow::Result<String> {
        let label = self.label();
        let create = ["network", "create", "--label", &label];
        docker(create).args([&self.name]).read()?;
        let range = "{{(index .IPAM.Config 0).Subnet}}";
        let inspect = ["network", "inspect", "--format", range, &self.name];
        let subnet = docker(inspect).read()?.trim().to_owned();
        docker(["network", "rm", &self.name]).read()?;
        docker(create)
            .args(["--subnet", &subnet, &self.name])
            .read()?;
        Ok(subnet)
    }

    /// Makes a volume; returns it as `docker run` mounts it.
    fn volume(&self, what: &str, path: &str) -> anyhow::Result<String> {
        let name = format!("{}-{what}", self.name);
        docker(["volume", "create", "--label", &self.label(), &name]).read()?;
        Ok(format!("{name}:{path}"))
    }

    fn run(
        &self,
        role: &str,
        address: &str,
        programs: &Programs,
        image: &str,
        options: &[&str],
        script: &[&str],
    ) -> anyhow::Result<()> {
        let (label, role_label) = (self.label(), format!("{ROLE_LABEL}={role}"));
        let name = format!("{}-{role}", self.name);
        let programs = programs.folder().display();
        let programs = format!("type=bind,source={programs},target=/programs,readonly");
        docker(["run", "--detach", "--label", &label, "--label", &role_label])
            .args(["--name", &name, "--hostname", role])
            .args(["--network", &self.name, "--network-alias", role])
            .args(["--ip", address, "--mount", &programs])
            .args(options)
            .args([image, "bash"])
            .args(script)
            .read()?;
        Ok(())
    }

    /// Waits until the control plane is up, and writes the kubeconfig.
    fn wait_for_control(&self, step: &Step) -> anyhow::Result<()> {
        step.update("waiting for the API server");
        let up = wait::until(CONTROL_WITHIN, LOOK_INTERVAL, || {
            let members = self.running()?;
            let control = members.iter().find(|member| member.role == CONTROL);
            let control = control.context("the control plane has no container")?;
            let is_up = docker(["exec", &control.id, "test", "-e", "/run/up"]).output()?;
            if !is_up.status.success() {
                return Ok(None);
            }
            let text = docker(["exec", &control.id, "cat", "/pki/admin.kubeconfig"]).read()?;
            let api = published(control, API_PORT).context("the API server has no port")?;
            Ok(Some(with_server(&text, &api)))
        })?;
        let kubeconfig = up.ok_or_else(|| self.late("the API server doesn't answer"))?;
        let path = self.kubeconfig();
        replace_private(&path, kubeconfig.as_bytes())
            .with_context(|| format!("failed to write {}", path.display()))
    }

    fn wait_until_ready(
        &self,
        nodes: u32,
        programs: &Programs,
        step: &Step,
    ) -> anyhow::Result<Status> {
        let ready = wait::until(READY_WITHIN, LOOK_INTERVAL, || {
            self.running()?;
            // One that doesn't answer at once may have much to do.
            let ready = self.nodes(programs).map_or(0, |(_, ready)| ready.len());
            step.update(&format!("{ready} of {nodes} ready"));
            Ok((ready == nodes as usize).then_some(()))
        })?;
        ready.ok_or_else(|| self.late("not every node is ready"))?;
        let status = self.status()?.context("the cluster is gone")?;
        step.result(format!("{} ready", status.nodes.len()));
        Ok(status)
    }

    /// All containers; an error with the log of one that has ended.
    fn running(&self) -> anyhow::Result<Vec<Member>> {
        let members = self.members()?;
        match members.iter().find(|member| !member.is_running()) {
            None => Ok(members),
            Some(ended) => {
                let log = docker(["logs", "--tail", LOG_LINES, &ended.id]).output()?;
                let log = [log.stdout, log.stderr].concat();
                Err(outcome::failed(
                    format!(
                        "{} has ended: {}",
                        ended.role,
                        String::from_utf8_lossy(&log)
                    ),
                    format!("read all of it in {}", self.log(&ended.role).display()),
                ))
            }
        }
    }

    fn late(&self, what: &str) -> anyhow::Error {
        outcome::failed(
            format!("{what} in time"),
            format!(
                "read what its containers said in {}",
                self.log("*").display()
            ),
        )
    }

    /// The image of control plane and nodes, built where it is missing.
    fn image(&self, step: &Step) -> anyhow::Result<String> {
        let recipe = programs::sources(self.project).join("node");
        let base = self.base(step)?;
        let mut digest = Sha256::new_with_prefix(&base);
        for (name, content) in files(&recipe)? {
            digest.update(name);
            digest.update(content);
        }
        let digest = format!("{:x}", digest.finalize());
        let image = format!("agora-local/cluster-node:{}", &digest[..12]);
        if engine::image(&image)?.is_some() {
            step.result("built before");
            return Ok(image);
        }
        engine::build(&recipe, &image, &[format!("BASE={base}")])
            .limit(IMAGE_WITHIN)
            .logged(&self.project.log("cluster-node"), |line| step.update(line))?;
        Ok(image)
    }

    /// The Debian below: as the other local images have it, from the registry, or made from packages.
    fn base(&self, step: &Step) -> anyhow::Result<String> {
        let script = Call::new("bash").args([self.project.root.join("images/build.sh")]);
        let tags = script.clone().args(["--tags"]).read()?;
        let local = tags
            .lines()
            .find_map(|line| line.strip_prefix("AGORA_IMAGE_BASE="))
            .context("`images/build.sh --tags` names no base image")?;
        if engine::image(local)?.is_some() {
            return Ok(local.to_owned());
        }
        let registry = images::through_own_mirror(REGISTRY_BASE);
        if engine::image(&registry)?.is_some() || images::pull_one(self.project, &registry).is_ok()
        {
            return Ok(registry);
        }
        step.say("no registry answers: making the Debian image below from packages");
        script
            .args(["--base"])
            .limit(IMAGE_WITHIN)
            .logged(&self.project.log("cluster-base"), |line| step.update(line))?;
        Ok(local.to_owned())
    }
}

/// Files of a folder, by name.
fn files(folder: &Path) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("failed to read {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.push((name, fs::read(entry.path())?));
    }
    files.sort();
    Ok(files)
}

/// A volume that a claim has, or had.
#[derive(Debug, PartialEq, Eq)]
struct ClaimedVolume {
    name: String,
    node: String,
    path: String,
    /// Whether the claim is gone.
    is_released: bool,
}

/// The volumes that a namespace's claims have, in what `kubectl get persistentvolumes` says. Pure.
fn claimed(text: &str, namespace: &str) -> anyhow::Result<Vec<ClaimedVolume>> {
    let volumes: Value = serde_json::from_str(text).context("failed to read kubectl's volumes")?;
    let items = volumes["items"]
        .as_array()
        .context("kubectl lists no volumes")?;
    let term = "/spec/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0/values/0";
    let volume = |item: &Value| {
        let text = |pointer: &str| Some(item.pointer(pointer)?.as_str()?.to_owned());
        if text("/spec/claimRef/namespace")? != namespace {
            return None;
        }
        Some(ClaimedVolume {
            name: text("/metadata/name")?,
            node: text(term)?,
            path: text("/spec/local/path")?,
            is_released: text("/status/phase")? == "Released",
        })
    };
    Ok(items.iter().filter_map(volume).collect())
}

/// Where a container's port is published on this machine; `None` while it doesn't run.
fn published(member: &Member, port: &str) -> Option<String> {
    let text = docker(["port", &member.id, port]).read().ok()?;
    text.lines().next().map(str::to_owned)
}

/// So many addresses of a network's range. Pure.
fn addresses(subnet: &str, count: u32) -> anyhow::Result<Vec<String>> {
    let parsed = subnet.split_once('/').and_then(|(start, length)| {
        let start: Ipv4Addr = start.parse().ok()?;
        let length: u32 = length.parse().ok()?;
        Some((u32::from(start), 32u32.checked_sub(length)?))
    });
    let (start, bits) = parsed.with_context(|| format!("{subnet} is no IPv4 range"))?;
    let last = FIRST_ADDRESS + count;
    anyhow::ensure!(
        bits >= 32 || last < (1 << bits) - 1,
        "{subnet} has no room for {count} containers"
    );
    let address = |number| Ipv4Addr::from(start + FIRST_ADDRESS + number).to_string();
    Ok((0..count).map(address).collect())
}

/// A kubeconfig whose server is reached at `address`. Pure.
fn with_server(kubeconfig: &str, address: &str) -> String {
    let mut parts = kubeconfig.splitn(2, "server: \"");
    let before = parts.next().unwrap_or_default();
    let after = parts.next().and_then(|rest| rest.split_once('"'));
    match after {
        Some((_, after)) => format!("{before}server: \"https://{address}\"{after}"),
        None => kubeconfig.to_owned(),
    }
}

/// The version, and the names of nodes that are Ready, in what `kubectl get nodes` says. Pure.
fn ready_nodes(text: &str) -> anyhow::Result<(Option<String>, Vec<String>)> {
    #[derive(Deserialize)]
    struct Nodes {
        items: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        metadata: Metadata,
        status: NodeStatus,
    }
    #[derive(Deserialize)]
    struct Metadata {
        name: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct NodeStatus {
        #[serde(default)]
        conditions: Vec<Condition>,
        node_info: NodeInfo,
    }
    #[derive(Deserialize)]
    struct Condition {
        #[serde(rename = "type")]
        kind: String,
        status: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct NodeInfo {
        kubelet_version: String,
    }
    let nodes: Nodes = serde_json::from_str(text).context("failed to read kubectl's nodes")?;
    let version = nodes
        .items
        .first()
        .map(|node| node.status.node_info.kubelet_version.clone());
    let is_ready = |node: &Item| {
        let mut conditions = node.status.conditions.iter();
        conditions.any(|condition| condition.kind == "Ready" && condition.status == "True")
    };
    let ready = nodes.items.into_iter().filter(is_ready);
    Ok((version, ready.map(|node| node.metadata.name).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_the_range_and_behind_the_engines_own() {
        assert_eq!(
            addresses("172.18.0.0/16", 3).unwrap(),
            ["172.18.0.10", "172.18.0.11", "172.18.0.12"]
        );
        assert_eq!(addresses("192.168.16.0/20", 1).unwrap(), ["192.168.16.10"]);
        for (subnet, count) in [("10.0.0.0/28", 9), ("fd00::/64", 1), ("10.0.0.0", 1)] {
            assert!(addresses(subnet, count).is_err(), "{subnet}");
        }
    }

    #[test]
    fn a_kubeconfig_gets_the_published_address_and_keeps_the_rest() {
        let inside = r#"{server: "https://172.18.0.10:6443", certificate-authority-data: x}"#;
        assert_eq!(
            with_server(inside, "127.0.0.1:32768"),
            r#"{server: "https://127.0.0.1:32768", certificate-authority-data: x}"#
        );
    }

    #[test]
    fn a_namespaces_volumes_are_found_with_their_folders() {
        let volume = |name: &str, spec: &str, phase: &str| {
            format!(
                r#"{{"metadata":{{"name":"{name}"}},"status":{{"phase":"{phase}"}},"spec":{{"local":{{"path":"/var/lib/agora/1"}},{spec}
                "nodeAffinity":{{"required":{{"nodeSelectorTerms":[{{"matchExpressions":[{{"values":["node2"]}}]}}]}}}}}}}}"#
            )
        };
        let claim = |namespace: &str| format!(r#""claimRef":{{"namespace":"{namespace}"}},"#);
        let items = [
            volume("ours", &claim("agora"), "Released"),
            volume("in-use", &claim("agora"), "Bound"),
            volume("others", &claim("shop"), "Bound"),
            volume("free", "", "Available"),
        ];
        let text = format!(r#"{{"items":[{}]}}"#, items.join(","));
        let found = claimed(&text, "agora").unwrap();
        let released = |volume: &ClaimedVolume| (volume.name.clone(), volume.is_released);
        let found: Vec<_> = found.iter().map(released).collect();
        assert_eq!(
            found,
            [("ours".to_owned(), true), ("in-use".to_owned(), false)]
        );
        assert!(claimed("{}", "agora").is_err());
    }

    #[test]
    fn a_node_is_ready_when_the_api_server_says_true() {
        let node = |name: &str, ready: &str| {
            format!(
                r#"{{"metadata":{{"name":"{name}"}},"status":{{"nodeInfo":{{"kubeletVersion":"v1.34.4"}},
                   "conditions":[{{"type":"DiskPressure","status":"True"}},{{"type":"Ready","status":"{ready}"}}]}}}}"#
            )
        };
        let nodes = [node("node1", "True"), node("node2", "Unknown")].join(",");
        let (version, ready) = ready_nodes(&format!(r#"{{"items":[{nodes}]}}"#)).unwrap();
        assert_eq!(version.as_deref(), Some("v1.34.4"));
        assert_eq!(ready, ["node1"]);
        assert_eq!(ready_nodes(r#"{"items":[]}"#).unwrap(), (None, Vec::new()));
    }
}
