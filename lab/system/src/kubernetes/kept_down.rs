//! Members that are kept from running: their workload has no replicas, and an annotation with how many it had.
//!
//! Left out: how they are ended ([`crate::control`]).

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use serde_json::{Value, json};

use super::{
    nodes,
    workloads::{self, Workload},
};
use crate::kubectl::{ANSWER_WITHIN, Target};

/// The annotation with the number of replicas that a workload had.
const HAD: &str = "agora.replicas";
/// How long a workload may take until its replicas are ready again.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Takes a workload its replicas, e.g. `statefulset/rabbitmq`: what has ended isn't started again.
///
/// # Errors
/// When the cluster refuses.
pub(crate) fn keep_down(target: &Target, workload: &str) -> anyhow::Result<()> {
    let replicas = ["get", workload, "--output=jsonpath={.spec.replicas}"];
    let had = target.kubectl(replicas).args([ANSWER_WITHIN]).read()?;
    if had.trim() == "0" {
        // It is kept down already, and the annotation has the number.
        return Ok(());
    }
    let change = json!({ "metadata": { "annotations": { HAD: had } }, "spec": { "replicas": 0 } });
    patch(target, workload, &change)
}

/// Brings nodes back that have ended or stand still, gives those that are kept down their replicas back, and waits until these are ready; returns what
/// was done, in words.
///
/// # Errors
/// When the cluster refuses, or they don't get ready in time.
pub(crate) fn bring_back(target: &Arc<Target>) -> anyhow::Result<Vec<String>> {
    let mut done = nodes::bring_back(target)?;
    let down = kept_down(&workloads::of_target(target)?)?;
    for (workload, had) in &down {
        restore_replicas(target, workload, *had)?;
    }
    for (workload, _) in &down {
        wait_for(target, workload)?;
    }
    done.extend(
        down.into_iter()
            .map(|(workload, _)| format!("{workload} started")),
    );
    Ok(done)
}

/// Gives a workload so many replicas, and takes it off those that are kept down.
///
/// # Errors
/// When the cluster refuses.
pub(super) fn restore_replicas(
    target: &Target,
    workload: &str,
    replicas: u64,
) -> anyhow::Result<()> {
    let change =
        json!({ "metadata": { "annotations": { HAD: null } }, "spec": { "replicas": replicas } });
    patch(target, workload, &change)
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

/// Those that are kept down, with the number of replicas that they had.
fn kept_down(workloads: &[Workload]) -> anyhow::Result<Vec<(String, u64)>> {
    let annotated = workloads
        .iter()
        // One that has replicas again has them back, whatever its annotation says.
        .filter(|workload| workload.replicas() == 0)
        .filter_map(|workload| Some((workload.name(), workload.annotation(HAD)?)));
    annotated
        .map(|(name, had)| {
            let replicas = had
                .parse()
                .with_context(|| format!("{name}: {HAD} is {had}"))?;
            Ok((name, replicas))
        })
        .collect()
}
