//! Deployments and StatefulSets, as `kubectl get` shows them: whether what was applied runs, how many replicas there shall be, and
//! what they are annotated with.
//!
//! Left out: waiting for it ([`super::bring_up`]).

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use serde::Deserialize;

use crate::{Part, kubectl::Target, wait};

/// The annotation with the number of a Deployment's pod template: the pods of each are other ones.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// How long the cluster may take to look at what it was told.
const OBSERVED_WITHIN: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Deserialize)]
struct Found {
    items: Vec<Workload>,
}

/// One of them.
#[derive(Deserialize)]
pub(super) struct Workload {
    kind: String,
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    generation: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Spec {
    replicas: u64,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    observed_generation: u64,
    replicas: u64,
    updated_replicas: u64,
    ready_replicas: u64,
}

impl Workload {
    /// As kubectl takes it, e.g. `deployment/traefik`.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.kind.to_lowercase(), self.metadata.name)
    }

    /// How many replicas it shall have.
    pub(super) fn replicas(&self) -> u64 {
        self.spec.replicas
    }

    /// The number of its pod template, if it is a Deployment that the cluster has looked at.
    pub(super) fn revision(&self) -> Option<&str> {
        self.annotation(REVISION)
    }

    /// Whether it is this part's.
    pub(super) fn is_of(&self, part: Part) -> bool {
        self.metadata.name == part.name()
    }

    /// The value of an annotation, if it has it.
    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.get(name).map(String::as_str)
    }

    /// Whether every replica is one of the newest, ready, and no older one is left.
    pub(super) fn is_complete(&self) -> bool {
        let status = &self.status;
        let wanted = self.spec.replicas;
        status.observed_generation >= self.metadata.generation
            && [
                status.replicas,
                status.updated_replicas,
                status.ready_replicas,
            ]
            .iter()
            .all(|count| *count == wanted)
    }
}

/// All of the system's.
///
/// # Errors
/// When the cluster doesn't answer.
pub(super) fn of_target(target: &Target) -> anyhow::Result<Vec<Workload>> {
    read(&target.read_json(target.kubectl(["get", "deployments,statefulsets"]))?)
}

/// The one that keeps a part's replicas, once the cluster has looked at its last change; `None` where there is none, or where it
/// doesn't look.
///
/// # Errors
/// When the cluster doesn't answer.
pub(super) fn of_part(target: &Target, part: Part) -> anyhow::Result<Option<Workload>> {
    wait::until(OBSERVED_WITHIN, LOOK_INTERVAL, || {
        let mut workloads = of_target(target)?;
        workloads.retain(|workload| {
            workload.is_of(part)
                && workload.status.observed_generation >= workload.metadata.generation
        });
        Ok(workloads.pop())
    })
}

/// The revision that a Deployment goes back to when its rollout fails; `None` where it hasn't begun another one, or what was before
/// wasn't whole either. Pure.
pub(super) fn way_back<'a>(before: &'a Workload, now: &Workload) -> Option<&'a str> {
    let has_changed = before.revision() != now.revision();
    before
        .revision()
        .filter(|_| has_changed && before.is_complete())
}

/// Those in what kubectl says. Pure.
pub(super) fn read(text: &str) -> anyhow::Result<Vec<Workload>> {
    let found: Found = serde_json::from_str(text).context("failed to read kubectl's workloads")?;
    Ok(found.items)
}

/// Names of those that aren't complete.
pub(super) fn incomplete(workloads: &[Workload]) -> Vec<String> {
    let incomplete = workloads.iter().filter(|workload| !workload.is_complete());
    incomplete.map(Workload::name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str, status: &str) -> String {
        format!(
            r#"{{"kind":"Deployment","metadata":{{"name":"{name}","generation":2}},"spec":{{"replicas":2}},"status":{status}}}"#
        )
    }

    #[test]
    fn a_rollout_is_complete_when_all_replicas_are_new_and_ready() {
        let complete =
            r#"{"observedGeneration":2,"replicas":2,"updatedReplicas":2,"readyReplicas":2}"#;
        let with = |from: &str, to: &str| complete.replace(from, to);
        let items = [
            workload("whole", complete),
            workload(
                "not-seen",
                &with(r#""observedGeneration":2"#, r#""observedGeneration":1"#),
            ),
            workload(
                "old-one-left",
                &with(r#""replicas":2,"#, r#""replicas":3,"#),
            ),
            workload(
                "not-updated",
                &with(r#""updatedReplicas":2"#, r#""updatedReplicas":1"#),
            ),
            workload("not-ready", &with(r#","readyReplicas":2"#, "")),
            workload("new", "{}"),
        ];
        let text = format!(r#"{{"items":[{}]}}"#, items.join(","));
        let expected = [
            "not-seen",
            "old-one-left",
            "not-updated",
            "not-ready",
            "new",
        ];
        let expected = expected.map(|name| format!("deployment/{name}"));
        assert_eq!(incomplete(&read(&text).unwrap()), expected);
    }

    #[test]
    fn the_way_back_is_to_what_was_whole_and_only_where_a_rollout_began() {
        let ready =
            r#"{"replicas":2,"updatedReplicas":2,"readyReplicas":2,"observedGeneration":2}"#;
        let with = |revision: u32, status: &str| {
            let text = workload("order-service", status).replace(
                r#""generation":2"#,
                &format!(r#""generation":2,"annotations":{{"{REVISION}":"{revision}"}}"#),
            );
            read(&format!(r#"{{"items":[{text}]}}"#)).unwrap().remove(0)
        };
        let whole = with(4, ready);
        assert_eq!(way_back(&whole, &with(5, "{}")), Some("4"));
        assert_eq!(way_back(&whole, &with(4, "{}")), None);
        assert_eq!(way_back(&with(4, "{}"), &with(5, "{}")), None);
    }

    #[test]
    fn an_annotation_is_found_where_there_is_one() {
        let text = r#"{"items":[
            {"kind":"StatefulSet","metadata":{"name":"rabbitmq","annotations":{"agora.replicas":"1"}},"spec":{"replicas":0}},
            {"kind":"Deployment","metadata":{"name":"jaeger"},"spec":{"replicas":1}}]}"#;
        let found = read(text).unwrap();
        let annotated = found
            .iter()
            .map(|it| (it.name(), it.annotation("agora.replicas")));
        let expected = [
            ("statefulset/rabbitmq".to_owned(), Some("1")),
            ("deployment/jaeger".to_owned(), None),
        ];
        assert_eq!(annotated.collect::<Vec<_>>(), expected);
    }
}
