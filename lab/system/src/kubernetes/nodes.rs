//! Nodes of the project's own cluster, which are containers of this machine: killed or paused, and brought back; and which one the system
//! can lose.
//!
//! Left out: making and removing them ([`crate::cluster`]).

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::Context;
use base::outcome;
use chrono::{DateTime, Utc};

use crate::{
    Part,
    cluster::HaltedNode,
    engine::docker,
    kubectl::Target,
    member::{Member, Place, Pod},
    members, wait,
};

/// How long a node may take until all of its pods run again: the database's may have to recover.
const BACK_WITHIN: Duration = Duration::from_secs(120);
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The nodes that these members are on, from the one whose loss the system is meant to survive to the one whose loss ends it: those without
/// the database, which is one process on one node's disk, come first; of these the ones without the broker, which is another; and of
/// these the ones with the most of what answers requests. Pure.
pub(crate) fn by_expendability(members: &[Member]) -> Vec<String> {
    let nodes: BTreeSet<&str> = members.iter().filter_map(node_of).collect();
    let on = |node: &str, is_meant: fn(Part) -> bool| {
        let on_node = members.iter().filter(|it| node_of(it) == Some(node));
        on_node.filter(|it| is_meant(it.service)).count()
    };
    let mut nodes: Vec<&str> = nodes.into_iter().collect();
    nodes.sort_by_key(|node| {
        let answering = on(node, |part| part.is_service() || part == Part::Traefik);
        let database = on(node, |part| part == Part::Postgres);
        let broker = on(node, |part| part == Part::RabbitMq);
        (database, broker, Reverse(answering))
    });
    nodes.into_iter().map(str::to_owned).collect()
}

/// The node that a member is on, if it is a pod that has one.
pub(crate) fn node_of(member: &Member) -> Option<&str> {
    match &member.place {
        Place::Pod(pod) => pod.node.as_deref(),
        Place::Container { .. } => None,
    }
}

/// Kills the node that a pod is on, and with it all that runs there.
///
/// # Errors
/// When it isn't one of the project's own cluster.
pub(crate) fn kill(pod: &Pod) -> anyhow::Result<()> {
    halt(pod, "kill")
}

/// Halts the node that a pod is on, and with it all that runs there: its clients get no answer, and no refusal either.
///
/// # Errors
/// When it isn't one of the project's own cluster.
pub(crate) fn pause(pod: &Pod) -> anyhow::Result<()> {
    halt(pod, "pause")
}

fn halt(pod: &Pod, how: &str) -> anyhow::Result<()> {
    let node = pod.node.as_deref().context("the pod is on no node")?;
    let container = pod.target.node_container(node)?;
    docker([how, &container]).read()?;
    Ok(())
}

/// Starts the nodes that have ended and lets those go on that stand still, and waits until their pods run and are healthy; returns what
/// was done, in words. None on another cluster.
///
/// # Errors
/// When the engine refuses, or they aren't back in time.
pub(super) fn bring_back(target: &Arc<Target>) -> anyhow::Result<Vec<String>> {
    let mut back = Vec::new();
    for HaltedNode {
        name,
        container,
        is_paused,
    } in target.halted_nodes()?
    {
        let since = if is_paused {
            docker(["unpause", &container]).read()?;
            Since::Resumed(Utc::now())
        } else {
            let inspect = ["inspect", "--format", "{{.State.FinishedAt}}", &container];
            let at = docker(inspect).read()?;
            let at = DateTime::parse_from_rfc3339(at.trim())
                .with_context(|| format!("the engine says that {name} ended at {at:?}"))?;
            docker(["start", &container]).read()?;
            Since::Ended(at.to_utc())
        };
        back.push((name, since));
    }
    for (node, since) in &back {
        wait_until_back(target, node, *since)?;
    }
    let done = back.iter().map(|(node, since)| match since {
        Since::Ended(_) => format!("{node} started"),
        Since::Resumed(_) => format!("{node} goes on"),
    });
    Ok(done.collect())
}

/// What a node is back from, and when.
#[derive(Debug, Clone, Copy)]
enum Since {
    /// Its pods have to have started since.
    Ended(DateTime<Utc>),
    /// Its pods are the same, and its kubelet has to have said so since.
    Resumed(DateTime<Utc>),
}

/// What the API server says of a node's pods is as it was before, for as long as its kubelet is silent.
fn wait_until_back(target: &Arc<Target>, node: &str, since: Since) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    let back = wait::until(BACK_WITHIN, LOOK_INTERVAL, || {
        if let Since::Resumed(at) = since
            && target.last_sign_of(node)? < at
        {
            missing = vec!["its kubelet".to_owned()];
            return Ok(None);
        }
        let members = members::of_target(target)?;
        let on_node = members.iter();
        let on_node = on_node.filter(|member| node_of(member) == Some(node));
        missing = on_node
            .filter(|member| match since {
                Since::Ended(at) => !is_back(member, at),
                Since::Resumed(_) => !member.is_healthy(),
            })
            .map(|member| member.id.clone())
            .collect();
        Ok(missing.is_empty().then_some(()))
    })?;
    back.ok_or_else(|| {
        outcome::failed(
            format!(
                "{node} was brought back, and within {} s not all of it runs again: {}",
                BACK_WITHIN.as_secs(),
                missing.join(", ")
            ),
            "`cargo xtask cluster status` shows whether it is ready, `cargo xtask logs SERVICE` why a pod isn't",
        )
    })
}

/// Whether a member runs that has started since then, and is healthy.
fn is_back(member: &Member, since: DateTime<Utc>) -> bool {
    member.started_at.is_some_and(|started| started > since) && member.is_healthy()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Project;

    #[test]
    fn the_database_is_lost_last_and_what_answers_most_requests_first() {
        let target = Arc::new(Target::of_tests(Project::at(
            "/clone".into(),
            "agora.local",
        )));
        let pod = |service: Part, node: &str| {
            let json = format!(
                r#"{{"Id":"{service}","Image":"i","RestartCount":0,"State":{{"Status":"running"}},
                "Config":{{"Labels":{{"com.docker.compose.service":"{service}"}}}},"NetworkSettings":{{}}}}"#
            );
            let mut member = members::inspected(&json).unwrap();
            member.place = Place::Pod(Pod {
                target: Arc::clone(&target),
                container: service.to_string(),
                controller: format!("deployment/{service}"),
                container_id: None,
                node: Some(node.to_owned()),
            });
            member
        };
        let mut members = vec![
            pod(Part::Postgres, "node1"),
            pod(Part::RabbitMq, "node2"),
            pod(Part::OrderService, "node1"),
            pod(Part::OrderService, "node2"),
            pod(Part::Traefik, "node2"),
            pod(Part::Jaeger, "node3"),
        ];
        assert_eq!(by_expendability(&members), ["node3", "node2", "node1"]);
        members.extend([pod(Part::Jaeger, "node4"), pod(Part::UserService, "node4")]);
        assert_eq!(by_expendability(&members)[..2], ["node4", "node3"]);
    }

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
