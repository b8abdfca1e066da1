//! Kubernetes, called through the `kubectl` command line, as the container engine is through `docker`.
//!
//! Only a cluster that the user named by its context, or the project's own local one, is asked anything, and only a namespace
//! that agora made is changed. Left out: the local cluster itself ([`crate::cluster`]), and the system in the namespace
//! ([`crate::kubernetes`]).

mod forwards;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use base::outcome;
use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::{
    Part,
    cluster::{self, Cluster, HaltedNode},
    engine::docker,
    process::Call,
    project::{Engine, PORTS, Place, Project, PublishedPort},
};

/// The label of everything in the manifests.
pub(crate) const PART_OF: &str = "app.kubernetes.io/part-of";
pub(crate) const OURS: &str = "agora";
/// The annotation of a namespace that agora made, with the id of the secrets that its volumes were made with.
pub(crate) const SECRETS_ANNOTATION: &str = "agora.secrets";
/// The label with a part's name.
pub(crate) const PART_LABEL: &str = "app.kubernetes.io/name";
/// The annotation of the pods that have the signing keys, with the ids of these behind commas: the keys themselves are in a Secret.
pub(crate) const KEYS_ANNOTATION: &str = "agora.signing-keys";
/// The annotation of pods with their placement, where the settings have one.
pub(crate) const PLACEMENT_ANNOTATION: &str = "agora.placement";
/// The gateway's port that users send requests to.
const SHOP: PublishedPort = PORTS[0];
/// How long the API server may take for an answer, as `kubectl` takes it.
pub(crate) const ANSWER_WITHIN: &str = "--request-timeout=15s";
/// How many pods' logs are followed at once, at most: kubectl's own limit is less than the system has.
const MOST_LOGS: &str = "--max-log-requests=50";
/// How many minor versions kubectl and the API server may differ by.
const SKEW: u32 = 1;
const HOW_TO_CHOOSE: &str = "`cargo xtask cluster up` starts a cluster on this machine; `--context NAME` names one of yours";

/// A namespace of a cluster, and the program that reaches it.
#[derive(Debug)]
pub(crate) struct Target {
    /// The project whose system it is.
    project: Project,
    kubectl: PathBuf,
    /// The local cluster's; the user's own where it is absent.
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    namespace: String,
}

/// The namespace, as the API server has it.
#[derive(Debug, Deserialize)]
struct Namespace {
    metadata: NamespaceMetadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NamespaceMetadata {
    pub(crate) annotations: BTreeMap<String, String>,
}

/// As good as no limit: one that a container got once can be changed, and not removed.
pub(crate) const UNLIMITED_MILLICORES: u64 = 128_000;

/// A quantity of processor time in thousandths of a core, as Kubernetes writes it: `15m`, `0.5`, `2`.
pub(crate) fn millicores(quantity: &str) -> Option<u64> {
    match quantity.strip_suffix('m') {
        Some(thousandths) => thousandths.parse().ok(),
        None => {
            let cores: f64 = quantity.parse().ok()?;
            (cores.is_finite() && cores >= 0.0).then(|| (cores * 1_000.0).round() as u64)
        }
    }
}

impl Target {
    /// One that nothing can be asked of.
    #[cfg(test)]
    pub(crate) fn of_tests(project: Project) -> Self {
        Self {
            project,
            kubectl: PathBuf::from("/nonexistent/kubectl"),
            kubeconfig: None,
            context: Some("none".to_owned()),
            namespace: Engine::NAMESPACE.to_owned(),
        }
    }

    /// A call of `kubectl` for the namespace.
    pub(crate) fn kubectl<A: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Call {
        let mut call = Call::new(&self.kubectl)
            .args(["--namespace", &self.namespace])
            // A user's defaults for options aren't meant for these calls.
            .env("KUBERC", "off");
        if let Some(kubeconfig) = &self.kubeconfig {
            call = call
                .args([Path::new("--kubeconfig"), kubeconfig])
                .env_remove("KUBECONFIG");
        }
        if let Some(context) = &self.context {
            call = call.args(["--context", context]);
        }
        call.args(args)
    }

    /// The API server's version. A kubectl that is too old or too new for it is refused.
    ///
    /// # Errors
    /// For such a one, and when the cluster doesn't answer.
    pub(crate) fn version(&self) -> anyhow::Result<String> {
        let (ours, theirs) = versions(&self.read_json(self.kubectl(["version"]))?)?;
        let minor = |version: &str| version.split('.').nth(1)?.parse::<u32>().ok();
        match (minor(&ours), minor(&theirs)) {
            (Some(one), Some(other)) if one.abs_diff(other) > SKEW => Err(outcome::unavailable(
                format!("kubectl is {ours}, and the cluster's API server {theirs}"),
                "install a kubectl that differs from the cluster by one minor version at most",
            )),
            _ => Ok(theirs),
        }
    }

    /// Pods and ConfigMaps, as JSON.
    pub(crate) fn pods(&self) -> anyhow::Result<String> {
        self.read_json(self.kubectl(["get", "pods,configmaps"]))
    }

    /// A call of a program on a node, where nodes are containers of this machine: in the project's own cluster.
    ///
    /// # Errors
    /// When it is another cluster, or the node doesn't run.
    pub(crate) fn on_node(&self, node: &str) -> anyhow::Result<Call> {
        Ok(docker(["exec", &self.node_container(node)?]))
    }

    /// The container that a node of the project's own cluster is.
    ///
    /// # Errors
    /// When it is another cluster, or the node doesn't run.
    pub(crate) fn node_container(&self, node: &str) -> anyhow::Result<String> {
        let nodes = self.node_containers()?.into_iter();
        let mut container = nodes.filter(|(name, _)| name == node).map(|(_, id)| id);
        container.next().ok_or_else(|| {
            outcome::unavailable(
                format!("{node} can't be reached from here"),
                "only on the local cluster of `cargo xtask cluster up` agora acts on nodes",
            )
        })
    }

    /// Resident memory of the first process of a container on a node, in KiB; `None` where nodes aren't reached.
    pub(crate) fn resident_kib(&self, node: &str, container: &str) -> Option<u64> {
        let text = self.of_process(node, container, r#"grep VmRSS "/proc/$pid/status""#)?;
        text.split_whitespace().nth(1)?.parse().ok()
    }

    /// The control groups of a container on a node, as `/proc/PID/cgroup` there has them; `None` where nodes aren't reached.
    pub(crate) fn cgroups(&self, node: &str, container: &str) -> Option<String> {
        self.of_process(node, container, r#"cat "/proc/$pid/cgroup""#)
    }

    /// What a script says on a node about the first process of a container, `$pid`.
    fn of_process(&self, node: &str, container: &str, script: &str) -> Option<String> {
        let script = format!(
            r#""${{@:2}}" list | while read -r id pid _; do if [ "$id" = "$1" ]; then {script}; fi; done"#
        );
        let bash = ["bash", "-c", &script, "bash", container];
        let call = self.on_node(node).ok()?.args(bash).args(cluster::TASKS);
        call.read().ok()
    }

    /// The ids of containers that stand still on the nodes of the project's own cluster; none elsewhere.
    pub(crate) fn paused(&self) -> anyhow::Result<BTreeSet<String>> {
        let mut paused = BTreeSet::new();
        for (_, container) in self.node_containers()? {
            let list = docker(["exec", &container])
                .args(cluster::TASKS)
                .args(["list"]);
            match list.read() {
                Ok(text) => paused.extend(paused_in(&text)),
                Err(error) => {
                    let nodes = self.node_containers()?;
                    let is_there = nodes.iter().any(|(_, id)| *id == container);
                    // One that has ended meanwhile has none.
                    anyhow::ensure!(!is_there, "a node doesn't answer: {error:#}");
                }
            }
        }
        Ok(paused)
    }

    /// Names and containers of the nodes that run, in the project's own cluster; none elsewhere.
    fn node_containers(&self) -> anyhow::Result<Vec<(String, String)>> {
        match &self.context {
            None => Cluster::new(&self.project).nodes_by_container(),
            Some(_) => Ok(Vec::new()),
        }
    }

    /// The nodes that have ended or stand still, in the project's own cluster; none elsewhere.
    pub(crate) fn halted_nodes(&self) -> anyhow::Result<Vec<HaltedNode>> {
        match &self.context {
            None => Cluster::new(&self.project).halted_nodes(),
            Some(_) => Ok(Vec::new()),
        }
    }

    /// When a node's kubelet last said that it lives.
    ///
    /// # Errors
    /// When the cluster doesn't answer, or knows no such node.
    pub(crate) fn last_sign_of(&self, node: &str) -> anyhow::Result<DateTime<Utc>> {
        let renewed = "--output=jsonpath={.spec.renewTime}";
        let lease = ["--namespace=kube-node-lease", "get", "lease", node, renewed];
        let text = self.kubectl(lease).args([ANSWER_WITHIN]).read()?;
        let at = DateTime::parse_from_rfc3339(text.trim());
        Ok(at
            .with_context(|| format!("the lease of {node} was renewed at {text:?}"))?
            .to_utc())
    }

    /// The namespace's name.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The context that the user named; `None` for the project's local cluster.
    pub(crate) fn context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// The project whose system it is.
    pub(crate) fn project(&self) -> &Project {
        &self.project
    }

    /// The namespace's labels and annotations; `None` where there is none.
    pub(crate) fn found_namespace(&self) -> anyhow::Result<Option<NamespaceMetadata>> {
        let get = ["get", "namespace", &self.namespace, "--ignore-not-found"];
        let text = self.read_json(self.kubectl(get))?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        let namespace: Namespace =
            serde_json::from_str(&text).context("failed to read kubectl's namespace")?;
        Ok(Some(namespace.metadata))
    }

    /// What a `kubectl get` says, as JSON.
    pub(crate) fn read_json(&self, get: Call) -> anyhow::Result<String> {
        let output = get.args(["--output=json", ANSWER_WITHIN]).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(self.failure(said.trim()));
        }
        String::from_utf8(output.stdout).context("kubectl wrote something that isn't UTF-8")
    }

    /// What kubectl said, as an error with the next step.
    fn failure(&self, said: &str) -> anyhow::Error {
        let last = said.lines().last().unwrap_or_default();
        let next_step = match &self.context {
            None => "`cargo xtask cluster status` shows the local cluster; `cargo xtask cluster up` starts one".to_owned(),
            Some(context) => format!("`kubectl --context {context} get nodes` shows whether it is reached"),
        };
        let refused = ["Forbidden", "Unauthorized"]
            .iter()
            .any(|it| said.contains(it));
        let what = if refused {
            "the cluster refuses"
        } else {
            "the cluster doesn't answer"
        };
        outcome::unavailable(format!("{what}: {last}"), next_step)
    }

    /// Where a part's port is reached from here, `127.0.0.1:PORT`. The gateway's is a port of a node where the cluster is the
    /// project's own.
    ///
    /// # Errors
    /// When nothing can be reached.
    pub(crate) fn address(
        &self,
        controller: &str,
        part: Part,
        port: u16,
    ) -> anyhow::Result<String> {
        if self.context.is_none()
            && (part, port) == (SHOP.service, SHOP.container_port)
            && let Some((_, address)) = Cluster::new(&self.project).gateways()?.next()
        {
            return Ok(address);
        }
        forwards::address(self, controller, part, port)
    }

    /// Where the gateway is reached from here, by the node that passes requests on to it; none where nodes aren't reached.
    pub(crate) fn gateways_by_node(&self) -> anyhow::Result<Vec<(String, String)>> {
        match &self.context {
            None => Ok(Cluster::new(&self.project).gateways()?.collect()),
            Some(_) => Ok(Vec::new()),
        }
    }

    /// Whether a port is reached without a forward, which would end with this process.
    pub(crate) fn has_lasting_address(&self, port: &PublishedPort) -> bool {
        self.context.is_none() && port.variable == SHOP.variable
    }

    /// The command that forwards a port for as long as it runs.
    pub(crate) fn forward_by_hand(&self, controller: &str, port: &PublishedPort) -> String {
        // To any port that is free: kubectl says which.
        let port = format!(":{}", port.container_port);
        self.kubectl(["port-forward", controller, &port])
            .to_string()
    }

    /// A call that writes the last lines of one part's pods or of all, each behind its pod's name; with `follow`, the new ones too.
    pub(crate) fn logs(&self, part: Option<Part>, last: usize, follow: bool) -> Call {
        let selector = match part {
            Some(part) => format!("--selector={PART_LABEL}={part}"),
            None => format!("--selector={PART_OF}={OURS}"),
        };
        let last = format!("--tail={last}");
        // A pod that waits has none, which is no reason not to show the others'.
        let options = [
            "logs",
            &selector,
            &last,
            "--prefix",
            MOST_LOGS,
            "--ignore-errors",
        ];
        let follow = follow.then_some("--follow");
        self.kubectl(options).args(follow)
    }

    /// The folder of what is applied.
    pub(crate) fn folder(&self) -> PathBuf {
        let outputs = self.project.outputs();
        outputs.join("kubernetes").join(&self.project.name)
    }

    /// The file for the output of a long step.
    pub(crate) fn log(&self, step: &str) -> PathBuf {
        self.project.log(step)
    }
}

/// The place of the project's system; `None` where it isn't on Kubernetes.
fn place(project: &Project) -> Option<&Place> {
    match &project.engine {
        Engine::Compose => None,
        Engine::Kubernetes(place) => Some(place),
    }
}

/// The target of the project's system; `None` where it isn't on Kubernetes.
///
/// # Errors
/// Without a cluster or a context of this name, and for a namespace that agora didn't make.
pub(crate) fn target(project: &Project) -> anyhow::Result<Option<Arc<Target>>> {
    static KNOWN: Mutex<BTreeMap<String, Arc<Target>>> = Mutex::new(BTreeMap::new());
    let Some(place) = place(project) else {
        return Ok(None);
    };
    if let Some(known) = unpoisoned(&KNOWN).get(&project.name) {
        return Ok(Some(Arc::clone(known)));
    }
    let target = Arc::new(found(project, place)?);
    require_ours(&target)?;
    unpoisoned(&KNOWN).insert(project.name.clone(), Arc::clone(&target));
    Ok(Some(target))
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn found(project: &Project, place: &Place) -> anyhow::Result<Target> {
    let local = Cluster::new(project);
    let (kubectl, kubeconfig) = match &place.context {
        None if place.namespace != Engine::NAMESPACE => {
            return Err(outcome::usage(
                "the local cluster has one system: its gateway's port on the nodes is one",
                "leave `--namespace` out",
            ));
        }
        None => {
            let kubectl = local.programs()?.filter(|_| local.kubeconfig().is_file());
            let kubectl = kubectl.ok_or_else(|| {
                outcome::unavailable("there is no local cluster of this project", HOW_TO_CHOOSE)
            })?;
            (kubectl, Some(local.kubeconfig()))
        }
        Some(context) => {
            require_context(context)?;
            (PathBuf::from("kubectl"), None)
        }
    };
    Ok(Target {
        project: project.clone(),
        kubectl,
        kubeconfig,
        context: place.context.clone(),
        namespace: place.namespace.clone(),
    })
}

/// A context that the user's kubeconfig has. Nothing is asked of any cluster.
fn require_context(context: &str) -> anyhow::Result<()> {
    let contexts = ["config", "get-contexts", "--output=name"];
    let known = Call::new("kubectl").args(contexts).read()?;
    if known.lines().any(|known| known == context) {
        return Ok(());
    }
    let known: Vec<&str> = known.lines().collect();
    Err(outcome::usage(
        format!("your kubeconfig has no context `{context}`"),
        match known.as_slice() {
            [] => "it has none at all; KUBECONFIG names another file".to_owned(),
            known => format!("it has {}", known.join(", ")),
        },
    ))
}

/// A namespace that isn't there, or that agora made.
fn require_ours(target: &Target) -> anyhow::Result<()> {
    let Some(found) = target.found_namespace()? else {
        return Ok(());
    };
    if found.annotations.contains_key(SECRETS_ANNOTATION) {
        return Ok(());
    }
    Err(outcome::usage(
        format!(
            "the namespace `{}` is somebody else's: it hasn't the annotation {SECRETS_ANNOTATION}",
            target.namespace
        ),
        "choose another one with `--namespace`; one to which the manifests were applied by hand is yours to delete",
    ))
}

/// The ids of those that are paused, in what `ctr tasks list` says: lines of id, process and status. Pure.
fn paused_in(text: &str) -> impl Iterator<Item = String> {
    let rows = text.lines().map(|line| line.split_whitespace().collect());
    rows.filter_map(|row: Vec<&str>| match row.as_slice() {
        [id, _, "PAUSED"] => Some((*id).to_owned()),
        _ => None,
    })
}

/// The versions of kubectl and of the API server. Pure.
fn versions(text: &str) -> anyhow::Result<(String, String)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions {
        client_version: Version,
        server_version: Version,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        git_version: String,
    }
    let versions: Versions =
        serde_json::from_str(text).context("failed to read kubectl's version")?;
    Ok((
        versions.client_version.git_version,
        versions.server_version.git_version,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_still_is_found_among_the_tasks() {
        let text = "TASK    PID    STATUS\nab12    7    RUNNING\ncd34    8    PAUSED\nef56    0    STOPPED\n";
        assert_eq!(paused_in(text).collect::<Vec<_>>(), ["cd34"]);
    }

    #[test]
    fn quantities_of_processor_time_are_thousandths_of_a_core() {
        let read = ["15m", "0.5", "2", "1500m", "a", "-1"].map(millicores);
        let expected = [Some(15), Some(500), Some(2_000), Some(1_500), None, None];
        assert_eq!(read, expected);
    }

    #[test]
    fn versions_are_those_of_both_sides() {
        let text = r#"{"clientVersion":{"gitVersion":"v1.34.4"},"kustomizeVersion":"v5","serverVersion":{"gitVersion":"v1.33.1+k3s1"}}"#;
        let expected = ("v1.34.4".to_owned(), "v1.33.1+k3s1".to_owned());
        assert_eq!(versions(text).unwrap(), expected);
    }
}
