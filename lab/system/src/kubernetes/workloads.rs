//! Deployments and StatefulSets, as `kubectl get` shows them: whether what was applied runs, how many replicas there shall be, and
//! what they are annotated with.
//!
//! Left out: waiting for it ([`super::bring_up`]).

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use base::outcome;
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
    fn is_complete(&self) -> bool {
        self.is_rolled_out() && self.status.ready_replicas == self.spec.replicas
    }

    /// Whether every replica is one of the newest, ready or not, and no older one is left.
    fn is_rolled_out(&self) -> bool {
        let counts = [self.status.replicas, self.status.updated_replicas];
        self.is_observed() && counts == [self.spec.replicas; 2]
    }

    /// Whether the status is of the last change.
    fn is_observed(&self) -> bool {
        self.status.observed_generation >= self.metadata.generation
    }
}

/// All of the system's.
///
/// # Errors
/// When the cluster doesn't answer.
pub(super) fn of_target(target: &Target) -> anyhow::Result<Vec<Workload>> {
    read(&target.read_json(target.kubectl(["get", "deployments,statefulsets"]))?)
}

/// The one that keeps a part's replicas, once the cluster has looked at its last change.
///
/// # Errors
/// When there is none, the cluster doesn't look, or doesn't answer.
pub(super) fn of_part(target: &Target, part: Part) -> anyhow::Result<Workload> {
    let found = wait::until(OBSERVED_WITHIN, LOOK_INTERVAL, || {
        let mut workloads = of_target(target)?;
        workloads.retain(|workload| workload.is_of(part));
        let workload = workloads.pop().ok_or_else(|| {
            outcome::unavailable(
                format!("{part} has no Deployment"),
                "`cargo xtask up` makes what is missing",
            )
        })?;
        Ok(workload.is_observed().then_some(workload))
    })?;
    found.ok_or_else(|| {
        let seconds = OBSERVED_WITHIN.as_secs();
        outcome::unavailable(
            format!("the cluster didn't look at the Deployment of {part} within {seconds} s"),
            "its controller manager may be down: `kubectl --namespace kube-system get pods`",
        )
    })
}

/// What a failed rollout is followed by.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rollback<'a> {
    /// Nothing: it hasn't begun.
    NotNeeded,
    /// The revision of before.
    To(&'a str),
    /// Nothing: before, another rollout was under way.
    Impossible,
}

/// How a Deployment gets back from `now` to `before`. Pure.
pub(super) fn rollback<'a>(before: &'a Workload, now: &Workload) -> Rollback<'a> {
    match before.revision() {
        revision if revision == now.revision() => Rollback::NotNeeded,
        Some(revision) if before.is_rolled_out() => Rollback::To(revision),
        _ => Rollback::Impossible,
    }
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
    fn a_rollback_is_to_what_was_rolled_out_and_only_where_a_rollout_began() {
        // One of the two isn't ready: that is why somebody rolls out.
        let sick = r#"{"replicas":2,"updatedReplicas":2,"readyReplicas":1,"observedGeneration":2}"#;
        let under_way = sick.replace(r#""updatedReplicas":2"#, r#""updatedReplicas":1"#);
        let with = |revision: u32, status: &str| {
            let text = workload("order-service", status).replace(
                r#""generation":2"#,
                &format!(r#""generation":2,"annotations":{{"{REVISION}":"{revision}"}}"#),
            );
            read(&format!(r#"{{"items":[{text}]}}"#)).unwrap().remove(0)
        };
        let now = with(5, "{}");
        assert_eq!(rollback(&with(4, sick), &now), Rollback::To("4"));
        assert_eq!(rollback(&with(5, sick), &now), Rollback::NotNeeded);
        assert_eq!(rollback(&with(4, &under_way), &now), Rollback::Impossible);
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
