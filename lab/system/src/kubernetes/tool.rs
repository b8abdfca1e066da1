//! A tool of ours, run for a moment as a pod that reaches the broker.
//!
//! Left out: what it is told, and what its report means ([`crate::dead_letters::tool`]).

use std::time::{Duration, Instant};

use base::outcome::{self, Exit};
use serde::Deserialize;
use serde_json::json;

use super::images;
use crate::{
    Part, interrupt,
    kubectl::{ANSWER_WITHIN, OURS, PART_LABEL, PART_OF, Target},
    random, wait,
};

const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long a node may take to start its container.
const STARTED_WITHIN: Duration = Duration::from_secs(60);
const IF_THERE: &str = "--ignore-not-found";

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    reason: String,
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Deserialize)]
struct ContainerStatus {
    state: State,
}

#[derive(Deserialize)]
struct State {
    terminated: Option<Terminated>,
    waiting: Option<Waiting>,
}

#[derive(Deserialize)]
struct Waiting {
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Terminated {
    exit_code: i32,
}

/// Runs a tool with these arguments; returns what it wrote, to whichever stream, and its exit code.
///
/// # Errors
/// When the cluster refuses, and when the tool doesn't end within `limit`.
pub(crate) fn run_tool(
    target: &Target,
    tool: Part,
    arguments: &[String],
    limit: Duration,
) -> anyhow::Result<(String, Exit)> {
    let name = format!("{tool}-{}", random::hex(4)?);
    let pod = pod(target, tool, &name, arguments, limit)?;
    let create = ["create", "--filename=-", ANSWER_WITHIN];
    let created = target.kubectl(create).reading(pod).read();
    let began = Instant::now();
    let ended = created.and_then(|_| {
        wait::until(limit, LOOK_INTERVAL, || {
            let text = target.read_json(target.kubectl(["get", "pod", &name]))?;
            match state(&text)? {
                Progress::Ended(code) => Ok(Some(code)),
                Progress::Runs => Ok(None),
                Progress::Waits(_) if began.elapsed() < STARTED_WITHIN => Ok(None),
                Progress::Waits(why) => Err(outcome::unavailable(
                    format!("the pod {name} doesn't start: {why}"),
                    "`cargo xtask up` puts its image there; `kubectl describe pod` shows what it waits for",
                )),
            }
        })
    });
    let written = match &ended {
        Ok(_) => target.kubectl(["logs", &name]).read(),
        Err(_) => Ok(String::new()),
    };
    // Also after Ctrl-C, and where it isn't known whether it was made: it would go on.
    let deleted = interrupt::set_aside(|| {
        let delete = ["delete", "pod", &name, "--wait=false", ANSWER_WITHIN];
        target.kubectl(delete).args([IF_THERE]).read()
    });
    let code = ended?.ok_or_else(|| {
        outcome::failed(
            format!("the pod {name} did not end within {} s", limit.as_secs()),
            "`cargo xtask logs` shows more",
        )
    })?;
    let written = written?;
    deleted?;
    Ok((written, Exit::from_code(Some(code))))
}

/// Removes the pods of all tools, which a killed command left.
///
/// # Errors
/// When the cluster refuses.
pub(super) fn remove_all(target: &Target) -> anyhow::Result<()> {
    let tools: Vec<&str> = Part::ALL
        .into_iter()
        .filter(|part| part.is_tool())
        .map(Part::name)
        .collect();
    let selector = format!("--selector={PART_LABEL} in ({})", tools.join(","));
    let delete = ["delete", "pods", &selector, "--wait=false", ANSWER_WITHIN];
    target.kubectl(delete).read()?;
    Ok(())
}

/// How far a tool is.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// Its container hasn't started, and why.
    Waits(String),
    Runs,
    /// With this exit code.
    Ended(i32),
}

/// How far a tool is, in what kubectl says of its pod. Pure.
fn state(text: &str) -> anyhow::Result<Progress> {
    let Found { status } = serde_json::from_str(text)?;
    let phase = status.phase;
    let container = status.container_statuses.into_iter().next();
    Ok(match container.map(|container| container.state) {
        Some(State {
            terminated: Some(ended),
            ..
        }) => Progress::Ended(ended.exit_code),
        Some(State {
            waiting: Some(waiting),
            ..
        }) => Progress::Waits(waiting.reason),
        Some(_) => Progress::Runs,
        // Refused by a node, or evicted from one.
        None if phase == "Failed" => anyhow::bail!("the tool's pod failed: {}", status.reason),
        None => Progress::Waits(phase),
    })
}

/// As compose.yaml has the tool.
fn pod(
    target: &Target,
    tool: Part,
    name: &str,
    arguments: &[String],
    limit: Duration,
) -> anyhow::Result<String> {
    let in_manifests = images::own_name(tool);
    let images = images::noted(target)?;
    let image = images
        .iter()
        .find(|image| image.in_manifests == in_manifests);
    let image = image.map_or_else(|| format!("{in_manifests}:dev"), images::Image::reference);
    let password =
        json!({ "secretKeyRef": { "name": "broker-password", "key": "AGORA_RABBITMQ_PASSWORD" } });
    let container = json!({
        "name": tool.name(),
        "image": image,
        // No registry has it.
        "imagePullPolicy": "Never",
        "args": arguments,
        "env": [
            { "name": "AGORA_RABBITMQ_PASSWORD", "valueFrom": password },
            { "name": "AMQP_URL", "value": "amqp://agora:$(AGORA_RABBITMQ_PASSWORD)@rabbitmq:5672/%2f" },
        ],
        "resources": {
            "requests": { "cpu": "10m", "memory": "32Mi" },
            "limits": { "memory": "256Mi" },
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
    });
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": { PART_LABEL: tool.name(), PART_OF: OURS, "agora.network.data": "true" },
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": limit.as_secs(),
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [container],
        },
    })
    .to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_waits_runs_and_ends_as_its_container_does() {
        let of = |container: &str| {
            format!(
                r#"{{"status":{{"phase":"Running","containerStatuses":[{{"state":{{{container}}}}}]}}}}"#
            )
        };
        let ended = of(r#""terminated":{"exitCode":1}"#);
        assert_eq!(state(&ended).unwrap(), Progress::Ended(1));
        assert_eq!(state(&of(r#""running":{}"#)).unwrap(), Progress::Runs);
        let waits = |why: &str| Progress::Waits(why.to_owned());
        let waiting = of(r#""waiting":{"reason":"ErrImageNeverPull"}"#);
        assert_eq!(state(&waiting).unwrap(), waits("ErrImageNeverPull"));
        let pending = r#"{"status":{"phase":"Pending"}}"#;
        assert_eq!(state(pending).unwrap(), waits("Pending"));
        let evicted = r#"{"status":{"phase":"Failed","reason":"Evicted"}}"#;
        assert!(state(evicted).unwrap_err().to_string().contains("Evicted"));
    }
}
