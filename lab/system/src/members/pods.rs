//! Pods as members of a system: what `kubectl get pods,configmaps` says, read. Pure.
//!
//! Left out: pods that are ending, which are no members any more, and those of no part.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::Context;
use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::{
    kubectl::{
        KEYS_ANNOTATION, PART_LABEL, PLACEMENT_ANNOTATION, Target, UNLIMITED_MILLICORES, millicores,
    },
    member::{Health, Limits, Member, Place, Pod, State, cpu_quota_us},
    switches,
};

/// The one network that all pods are in.
const POD_NETWORK: &str = "pods";
const READY: &str = "Ready";
const SCHEDULED: &str = "PodScheduled";

#[derive(Deserialize)]
struct Found {
    items: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(tag = "kind")]
enum Item {
    Pod(Box<FoundPod>),
    ConfigMap {
        metadata: Metadata,
        #[serde(default)]
        data: BTreeMap<String, String>,
    },
}

#[derive(Deserialize)]
struct FoundPod {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    creation_timestamp: Option<DateTime<Utc>>,
    deletion_timestamp: Option<DateTime<Utc>>,
    #[serde(default)]
    owner_references: Vec<Owner>,
}

#[derive(Deserialize)]
struct Owner {
    kind: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    containers: Vec<Container>,
    node_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    image: String,
    #[serde(default)]
    env: Vec<Variable>,
    #[serde(default)]
    env_from: Vec<Source>,
    #[serde(default)]
    resources: Resources,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Resources {
    limits: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    /// Absent where it comes from a Secret.
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    config_map_ref: Option<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    conditions: Vec<Condition>,
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    restart_count: u64,
    /// Behind the name of what runs it: `containerd://…`.
    #[serde(rename = "containerID", default)]
    container_id: String,
    /// Whether its startup probe has passed.
    started: Option<bool>,
    #[serde(default)]
    state: ContainerState,
    #[serde(default)]
    last_state: ContainerState,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ContainerState {
    running: Option<Running>,
    waiting: Option<Waiting>,
    terminated: Option<Terminated>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    started_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct Waiting {
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Terminated {
    exit_code: i64,
    #[serde(default)]
    reason: String,
    finished_at: Option<DateTime<Utc>>,
}

/// The members in what kubectl says; `paused` are the ids of containers that stand still.
///
/// # Errors
/// When it says something else.
pub(super) fn read(
    target: &Arc<Target>,
    text: &str,
    paused: &BTreeSet<String>,
) -> anyhow::Result<Vec<Member>> {
    let found: Found = serde_json::from_str(text).context("failed to read kubectl's pods")?;
    let mut pods = Vec::new();
    let mut settings = BTreeMap::new();
    for item in found.items {
        match item {
            Item::Pod(pod) => pods.push(*pod),
            Item::ConfigMap { metadata, data } => {
                settings.insert(metadata.name, data);
            }
        }
    }
    let mut members: Vec<Member> = pods
        .into_iter()
        .filter_map(|pod| member(target, pod, &settings))
        .collect();
    for member in &mut members {
        // Kubernetes knows nothing of it.
        if let Place::Pod(Pod {
            container_id: Some(id),
            ..
        }) = &member.place
            && paused.contains(id)
        {
            member.state = State::Paused;
        }
    }
    members.retain(|member| !member.is_tool());
    members.sort_by_key(|member| member.service);
    Ok(members)
}

/// Names of the pods that are ending, in what kubectl says.
///
/// # Errors
/// When it says something else.
pub(super) fn ending(text: &str) -> anyhow::Result<Vec<String>> {
    let found: Found = serde_json::from_str(text).context("failed to read kubectl's pods")?;
    let name = |item: Item| match item {
        Item::Pod(pod) if pod.metadata.deletion_timestamp.is_some() => Some(pod.metadata.name),
        _ => None,
    };
    Ok(found.items.into_iter().filter_map(name).collect())
}

fn member(
    target: &Arc<Target>,
    pod: FoundPod,
    settings: &BTreeMap<String, BTreeMap<String, String>>,
) -> Option<Member> {
    let FoundPod {
        metadata,
        spec,
        status,
    } = pod;
    // One that was evicted stays as a record, and another one takes its place.
    let is_over = ["Failed", "Succeeded"].contains(&status.phase.as_str());
    if is_over || metadata.deletion_timestamp.is_some() {
        return None;
    }
    let service = metadata.labels.get(PART_LABEL)?.parse().ok()?;
    let container = spec.containers.into_iter().next()?;
    let environment = environment(&container, settings);
    let cpu = container.resources.limits.get("cpu");
    let cpu = cpu.and_then(|quantity| millicores(quantity));
    let cpu = cpu.filter(|limit| *limit < UNLIMITED_MILLICORES);
    let container_status = status.container_statuses.first();
    let placement = metadata
        .annotations
        .get(PLACEMENT_ANNOTATION)
        .map(|placement| (switches::PLACEMENT.to_owned(), placement.clone()));
    let state = container_status.map(|status| &status.state);
    let running = state.and_then(|state| state.running.as_ref());
    let ended = container_status.and_then(|status| {
        let now = status.state.terminated.as_ref();
        now.or(status.last_state.terminated.as_ref())
    });
    let is_ready = status
        .conditions
        .iter()
        .any(|condition| condition.kind == READY && condition.status == "True");
    let has_started = container_status.is_some_and(|status| status.started == Some(true));
    let health = match (is_ready, has_started) {
        (true, _) => Health::Healthy,
        (false, false) => Health::Starting,
        (false, true) => Health::Unhealthy,
    };
    Some(Member {
        id: metadata.name,
        service,
        state: state_of(state, &status).into(),
        health: Some(health),
        health_check: None,
        image: container.image,
        restarts: container_status.map_or(0, |status| status.restart_count),
        created_at: metadata.creation_timestamp,
        provisional: false,
        started_at: running.and_then(|running| running.started_at),
        finished_at: ended.and_then(|ended| ended.finished_at),
        exit_code: ended.map_or(0, |ended| ended.exit_code),
        out_of_memory: ended.is_some_and(|ended| ended.reason == "OOMKilled"),
        pid: 0,
        networks: status
            .pod_ip
            .map(|address| (POD_NETWORK.to_owned(), address))
            .into_iter()
            .collect(),
        limits: Limits {
            cpu_quota_us: cpu.map_or(0, cpu_quota_us),
            ..Limits::default()
        },
        patterns_off: switches::off_in(&environment),
        signing_keys: metadata
            .annotations
            .get(KEYS_ANNOTATION)
            .map(|ids| ids.split(',').map(str::to_owned).collect())
            .unwrap_or_default(),
        overrides: switches::overrides_in(&environment)
            .into_iter()
            .map(|(name, value)| {
                let all = switches::sum_of_all_gateways(&name, &value);
                (name, all)
            })
            .chain(placement)
            .collect(),
        one_off: false,
        place: Place::Pod(Pod {
            target: Arc::clone(target),
            container: container.name,
            container_id: container_status
                .and_then(|status| status.container_id.split_once("://"))
                .map(|(_, id)| id.to_owned()),
            controller: controller(metadata.owner_references.first()?),
            node: spec.node_name,
        }),
    })
}

/// The variables whose values are no secrets, as `NAME=value`; those of the container itself win over those of ConfigMaps.
fn environment(
    container: &Container,
    settings: &BTreeMap<String, BTreeMap<String, String>>,
) -> Vec<String> {
    let references = container.env_from.iter();
    let references = references.filter_map(|source| source.config_map_ref.as_ref());
    let mut values: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, value) in references
        .filter_map(|reference| settings.get(&reference.name))
        .flatten()
    {
        values.insert(name, value);
    }
    for variable in &container.env {
        if let Some(value) = &variable.value {
            values.insert(&variable.name, value);
        }
    }
    let as_text = |(name, value)| format!("{name}={value}");
    values.into_iter().map(as_text).collect()
}

/// In the engine's words, or why the container doesn't run.
fn state_of(state: Option<&ContainerState>, status: &Status) -> String {
    let waiting = |waiting: &Waiting| waiting.reason.clone();
    let phase = status.phase.to_lowercase();
    let unscheduled = status
        .conditions
        .iter()
        .find(|condition| condition.kind == SCHEDULED && condition.status == "False");
    match state {
        Some(ContainerState {
            running: Some(_), ..
        }) => "running".to_owned(),
        Some(ContainerState {
            terminated: Some(_),
            ..
        }) => "exited".to_owned(),
        Some(state) => state.waiting.as_ref().map_or(phase, waiting),
        None => match unscheduled.and_then(|condition| condition.message.as_ref()) {
            Some(why) => format!("{phase}: {why}"),
            None => phase,
        },
    }
}

/// A ReplicaSet is a Deployment's: its name, and a hash.
fn controller(owner: &Owner) -> String {
    match (owner.kind.as_str(), owner.name.rsplit_once('-')) {
        ("ReplicaSet", Some((deployment, _))) => format!("deployment/{deployment}"),
        (kind, _) => format!("{}/{}", kind.to_lowercase(), owner.name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::project::Project;

    fn pod(name: &str, part: &str, status: &Value) -> Value {
        json!({
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": { "app.kubernetes.io/name": part },
                "creationTimestamp": "2026-11-30T12:00:00Z",
                "ownerReferences": [{ "kind": "ReplicaSet", "name": format!("{part}-5d4") }],
            },
            "spec": {
                "nodeName": "node1",
                "containers": [{
                    "name": part,
                    "image": format!("docker.io/agora/{part}:0123"),
                    "envFrom": [{ "configMapRef": { "name": "patterns-order-service-1" } }],
                    "env": [
                        { "name": "AGORA_PATTERN_SAGA", "value": "off" },
                        { "name": "SECRET", "valueFrom": {} },
                    ],
                }],
            },
            "status": status,
        })
    }

    fn status(is_ready: bool, container: &Value) -> Value {
        let ready = if is_ready { "True" } else { "False" };
        json!({
            "phase": "Running",
            "podIP": "10.244.1.7",
            "conditions": [{ "type": "Ready", "status": ready }],
            "containerStatuses": [container],
        })
    }

    fn running(id: &str, started: bool) -> Value {
        json!({
            "containerID": format!("containerd://{id}"),
            "restartCount": 2,
            "started": started,
            "state": { "running": { "startedAt": "2026-11-30T12:00:05Z" } },
            "lastState": { "terminated": {
                "exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-11-30T12:00:04Z",
            } },
        })
    }

    fn read_all(pods: &[Value], paused: &[&str]) -> Vec<Member> {
        let project = Project::at("/clone".into(), "agora.local");
        let target = Arc::new(Target::of_tests(project));
        let settings = json!({
            "kind": "ConfigMap",
            "metadata": { "name": "patterns-order-service-1" },
            "data": { "AGORA_PATTERN_INBOX": "off", "AGORA_PATTERN_SAGA": "on" },
        });
        let items: Vec<&Value> = pods.iter().chain([&settings]).collect();
        let text = json!({ "items": items }).to_string();
        let paused = paused.iter().map(|id| (*id).to_owned()).collect();
        read(&target, &text, &paused).unwrap()
    }

    #[test]
    fn a_pod_is_a_member_with_its_state_and_its_switches() {
        let members = read_all(
            &[
                pod("traefik-1", "traefik", &status(true, &running("ab", true))),
                pod(
                    "order-1",
                    "order-service",
                    &status(false, &running("cd", false)),
                ),
                pod(
                    "order-2",
                    "order-service",
                    &status(false, &running("ef", true)),
                ),
            ],
            &["ef"],
        );
        let shown = |member: &Member| format!("{} {}", member.id, member.condition());
        let conditions: Vec<_> = members.iter().map(shown).collect();
        assert_eq!(
            conditions,
            ["order-1 starting", "order-2 paused", "traefik-1 healthy"]
        );
        let gateway = &members[2];
        assert!(gateway.is_healthy() && !members[0].is_healthy());
        // The container's own variables win.
        assert_eq!(gateway.patterns_off, ["inbox", "saga"]);
        assert_eq!(gateway.restarts, 2);
        assert!(gateway.out_of_memory && gateway.finished_at < gateway.started_at);
        assert_eq!(gateway.networks.values().next().unwrap(), "10.244.1.7");
        let Place::Pod(place) = &gateway.place else {
            panic!("no pod");
        };
        assert_eq!(place.controller, "deployment/traefik");
        assert_eq!(place.container_id.as_deref(), Some("ab"));
    }

    #[test]
    fn a_pods_keys_and_its_limit_are_read_and_as_good_as_no_limit_is_none() {
        let limited = |cpu: &str| {
            let mut pod = pod(
                "user-1",
                "user-service",
                &status(true, &running("ab", true)),
            );
            pod["spec"]["containers"][0]["resources"] = json!({ "limits": { "cpu": cpu } });
            pod["metadata"]["annotations"] =
                json!({ KEYS_ANNOTATION: "second,first", PLACEMENT_ANNOTATION: "one-node" });
            read_all(&[pod], &[]).remove(0)
        };
        assert_eq!(limited("15m").signing_keys, ["second", "first"]);
        let placed = [("AGORA_PLACEMENT".to_owned(), "one-node".to_owned())];
        assert_eq!(limited("15m").overrides, placed.into());
        let quota = |cpu| limited(cpu).limits.cpu_quota_us;
        assert_eq!(
            [quota("15m"), quota("2"), quota("128")],
            [1_500, 200_000, 0]
        );
        let unlimited = pod(
            "user-1",
            "user-service",
            &status(true, &running("ab", true)),
        );
        let member = read_all(&[unlimited], &[]).remove(0);
        assert_eq!(member.limits.cpu_quota_us, 0);
        assert!(member.signing_keys.is_empty());
    }

    #[test]
    fn a_limit_of_each_gateway_is_half_of_what_both_have() {
        let mut gateway = pod("traefik-1", "traefik", &status(true, &running("ab", true)));
        let variable = |name: &str| json!({ "name": name, "value": "10" });
        let names = [
            "AGORA_RATE_LIMIT_AVERAGE",
            "AGORA_SAGA_RECOVERY_AFTER_SECONDS",
        ];
        gateway["spec"]["containers"][0]["env"] = names.map(variable).into();
        let overrides = read_all(&[gateway], &[]).remove(0).overrides;
        let values = names.map(|name| overrides[name].as_str());
        assert_eq!(values, ["20", "10"]);
    }

    #[test]
    fn one_that_cannot_start_says_why_and_one_that_ends_is_no_member() {
        let waiting =
            json!({ "restartCount": 0, "state": { "waiting": { "reason": "ErrImageNeverPull" } } });
        let mut ending = pod(
            "order-2",
            "order-service",
            &status(true, &running("ab", true)),
        );
        ending["metadata"]["deletionTimestamp"] = json!("2026-11-30T12:01:00Z");
        let tool = pod(
            "dead-letters-1",
            "dead-letters",
            &status(true, &running("cd", true)),
        );
        let stranger = pod("else-1", "else", &status(true, &running("ef", true)));
        let pending = pod("user-1", "user-service", &json!({ "phase": "Pending" }));
        let scheduled =
            json!({ "type": "PodScheduled", "status": "False", "message": "no volume" });
        let unscheduled = json!({ "phase": "Pending", "conditions": [scheduled] });
        let unscheduled = pod("postgres-0", "postgres", &unscheduled);
        let evicted = pod("order-3", "order-service", &json!({ "phase": "Failed" }));
        let pods = [
            pod("order-1", "order-service", &status(false, &waiting)),
            ending.clone(),
            tool,
            stranger,
            pending,
            unscheduled,
            evicted,
        ];
        let members = read_all(&pods, &[]);
        let states: Vec<_> = members
            .iter()
            .map(|it| (&*it.id, it.state.as_str()))
            .collect();
        assert_eq!(
            states,
            [
                ("order-1", "ErrImageNeverPull"),
                ("postgres-0", "pending: no volume"),
                ("user-1", "pending"),
            ]
        );
        let text = json!({ "items": [ending] }).to_string();
        assert_eq!(super::ending(&text).unwrap(), ["order-2"]);
    }
}
