//! Nodes of the project's own cluster, which are containers of this machine: killed, and started again.
//!
//! Left out: making and removing them ([`crate::cluster`]).

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use base::outcome;
use chrono::{DateTime, Utc};

use crate::{
    engine::docker,
    kubectl::Target,
    member::{Member, Place, Pod},
    members, wait,
};

/// How long a node may take until all of its pods run again: the database's may have to recover.
const BACK_WITHIN: Duration = Duration::from_secs(120);
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Kills the node that a pod is on, and with it all that runs there.
///
/// # Errors
/// When it isn't one of the project's own cluster.
pub(crate) fn kill(pod: &Pod) -> anyhow::Result<()> {
    let node = pod.node.as_deref().context("the pod is on no node")?;
    let container = pod.target.node_container(node)?;
    docker(["kill", &container]).read()?;
    Ok(())
}

/// Starts the nodes that have ended, and waits until their pods run again and are healthy; returns what was done, in words. None on
/// another cluster.
///
/// # Errors
/// When the engine refuses, or they aren't back in time.
pub(super) fn start_ended(target: &Arc<Target>) -> anyhow::Result<Vec<String>> {
    let mut ended = Vec::new();
    for (node, container) in target.ended_nodes()? {
        let inspect = ["inspect", "--format", "{{.State.FinishedAt}}", &container];
        let at = docker(inspect).read()?;
        let at = DateTime::parse_from_rfc3339(at.trim())
            .with_context(|| format!("the engine says that {node} ended at {at:?}"))?;
        docker(["start", &container]).read()?;
        ended.push((node, at.to_utc()));
    }
    for (node, at) in &ended {
        wait_until_back(target, node, *at)?;
    }
    let started = ended.iter().map(|(node, _)| format!("{node} started"));
    Ok(started.collect())
}

/// What the API server says of a node's pods is as it was before the end, for as long as its kubelet is silent: so each has to have
/// started since.
fn wait_until_back(target: &Arc<Target>, node: &str, ended: DateTime<Utc>) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    let back = wait::until(BACK_WITHIN, LOOK_INTERVAL, || {
        let members = members::of_target(target)?;
        let on_node = members.iter().filter(|member| is_on(member, node));
        missing = on_node
            .filter(|member| !is_back(member, ended))
            .map(|member| member.id.clone())
            .collect();
        Ok(missing.is_empty().then_some(()))
    })?;
    back.ok_or_else(|| {
        outcome::failed(
            format!(
                "{node} was started, and within {} s not all of its pods run again: {}",
                BACK_WITHIN.as_secs(),
                missing.join(", ")
            ),
            "`cargo xtask cluster status` shows whether it is ready, `cargo xtask logs SERVICE` why a pod isn't",
        )
    })
}

fn is_on(member: &Member, node: &str) -> bool {
    match &member.place {
        Place::Pod(pod) => pod.node.as_deref() == Some(node),
        Place::Container { .. } => false,
    }
}

/// Whether a member runs that has started since then, and is healthy.
fn is_back(member: &Member, since: DateTime<Utc>) -> bool {
    member.started_at.is_some_and(|started| started > since) && member.is_healthy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_pod_from_before_its_nodes_end_does_not_count() {
        let pod = |started: &str, state: &str| {
            members::inspected(&format!(
                r#"{{"Id":"a","Image":"i","RestartCount":0,
                "State":{{"Status":"{state}","StartedAt":"{started}"}},
                "Config":{{"Labels":{{"com.docker.compose.service":"order-service"}}}},"NetworkSettings":{{}}}}"#
            ))
            .unwrap()
        };
        let ended = "2026-11-30T12:00:00Z".parse().unwrap();
        assert!(!is_back(&pod("2026-11-30T11:59:59Z", "running"), ended));
        assert!(is_back(&pod("2026-11-30T12:00:09Z", "running"), ended));
        assert!(!is_back(&pod("2026-11-30T12:00:09Z", "restarting"), ended));
    }
}
