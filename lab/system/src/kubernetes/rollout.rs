//! Whether what was applied runs: Deployments and StatefulSets, as `kubectl get` shows them. Pure.
//!
//! Left out: waiting for it ([`super::bring_up`]).

use anyhow::Context;
use serde::Deserialize;

#[derive(Deserialize)]
struct Found {
    items: Vec<Workload>,
}

#[derive(Deserialize)]
struct Workload {
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
    /// Whether every replica is one of the newest, ready, and no older one is left.
    fn is_complete(&self) -> bool {
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

/// Those that aren't complete, e.g. `deployment/traefik`, of what kubectl says.
///
/// # Errors
/// When it says something else.
pub(super) fn incomplete(text: &str) -> anyhow::Result<Vec<String>> {
    let found: Found = serde_json::from_str(text).context("failed to read kubectl's workloads")?;
    let incomplete = found
        .items
        .iter()
        .filter(|workload| !workload.is_complete());
    Ok(incomplete
        .map(|workload| {
            format!(
                "{}/{}",
                workload.kind.to_lowercase(),
                workload.metadata.name
            )
        })
        .collect())
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
        assert_eq!(incomplete(&text).unwrap(), expected);
    }
}
