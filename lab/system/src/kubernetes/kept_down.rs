//! Members that are kept from running: their workload has no replicas, and an annotation with how many it had.
//!
//! Left out: how they are ended ([`crate::control`]).

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::kubectl::{ANSWER_WITHIN, Target};

/// The annotation with the number of replicas that a workload had.
const HAD: &str = "agora.replicas";
/// How long a workload may take until its replicas are ready again.
const READY_WITHIN: Duration = Duration::from_secs(120);

#[derive(Deserialize)]
struct Found {
    items: Vec<Workload>,
}

#[derive(Deserialize)]
struct Workload {
    kind: String,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Takes a workload its replicas, e.g. `statefulset/rabbitmq`: what has ended isn't started again.
///
/// # Errors
/// When the cluster refuses.
pub(crate) fn keep_down(target: &Target, workload: &str) -> anyhow::Result<()> {
    let replicas = ["get", workload, "--output=jsonpath={.spec.replicas}"];
    let had = target.kubectl(replicas).args([ANSWER_WITHIN]).read()?;
    let change = json!({ "metadata": { "annotations": { HAD: had } }, "spec": { "replicas": 0 } });
    patch(target, workload, &change)
}

/// Gives those that are kept down their replicas back, and waits until these are ready; returns what was done, in words.
///
/// # Errors
/// When the cluster refuses, or they don't get ready in time.
pub(crate) fn bring_back(target: &Target) -> anyhow::Result<Vec<String>> {
    let list = target.kubectl(["get", "deployments,statefulsets"]);
    let down = kept_down(&target.read_json(list)?)?;
    for (workload, had) in &down {
        let change =
            json!({ "metadata": { "annotations": { HAD: null } }, "spec": { "replicas": had } });
        patch(target, workload, &change)?;
    }
    for (workload, _) in &down {
        wait_for(target, workload)?;
    }
    Ok(down
        .into_iter()
        .map(|(workload, _)| format!("{workload} started"))
        .collect())
}

/// Waits until all replicas of a workload are ready.
///
/// # Errors
/// When they aren't in time.
pub(crate) fn wait_for(target: &Target, workload: &str) -> anyhow::Result<()> {
    let timeout = format!("--timeout={}s", READY_WITHIN.as_secs());
    let status = target.kubectl(["rollout", "status", workload, &timeout]);
    let limit = READY_WITHIN + Duration::from_secs(10);
    status.limit(limit).read()?;
    Ok(())
}

fn patch(target: &Target, workload: &str, change: &Value) -> anyhow::Result<()> {
    let patch = format!("--patch={change}");
    let call = ["patch", workload, "--type=merge", &patch, ANSWER_WITHIN];
    target.kubectl(call).read()?;
    Ok(())
}

/// Those that are kept down, with the number of replicas that they had, in what kubectl says. Pure.
fn kept_down(text: &str) -> anyhow::Result<Vec<(String, u32)>> {
    let found: Found = serde_json::from_str(text).context("failed to read kubectl's workloads")?;
    let down = found.items.into_iter().filter_map(|workload| {
        let Workload { kind, metadata } = workload;
        let had = metadata.annotations.get(HAD)?.parse().ok()?;
        Some((format!("{}/{}", kind.to_lowercase(), metadata.name), had))
    });
    Ok(down.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_that_is_kept_down_tells_how_many_it_had() {
        let text = r#"{"items":[
            {"kind":"StatefulSet","metadata":{"name":"rabbitmq","annotations":{"agora.replicas":"1"}}},
            {"kind":"Deployment","metadata":{"name":"traefik","annotations":{"deployment.kubernetes.io/revision":"2"}}},
            {"kind":"Deployment","metadata":{"name":"jaeger"}}]}"#;
        let expected = [("statefulset/rabbitmq".to_owned(), 1)];
        assert_eq!(kept_down(text).unwrap(), expected);
    }
}
