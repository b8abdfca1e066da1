//! A tool of ours, run for a moment as a pod that reaches the broker.
//!
//! Left out: what it is told, and what its report means ([`crate::dead_letters::tool`]).

use std::time::Duration;

use base::outcome::{self, Exit};
use serde::Deserialize;
use serde_json::json;

use super::{images, manifests};
use crate::{
    Part, interrupt,
    kubectl::{ANSWER_WITHIN, OURS, PART_LABEL, PART_OF, Target},
    random, wait,
};

const LOOK_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
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
    target.kubectl(create).reading(pod).read()?;
    let ended = wait::until(limit, LOOK_INTERVAL, || {
        let text = target.read_json(target.kubectl(["get", "pod", &name]))?;
        exit_code(&text)
    });
    let written = target.kubectl(["logs", &name]).read();
    // Also after Ctrl-C: it would go on.
    let deleted = interrupt::set_aside(|| {
        let delete = ["delete", "pod", &name, "--wait=false", ANSWER_WITHIN];
        target.kubectl(delete).read()
    });
    let code = ended?.ok_or_else(|| {
        outcome::failed(
            format!("the pod {name} did not end within {} s", limit.as_secs()),
            "`kubectl describe pod` shows what it waited for",
        )
    })?;
    let written = written?;
    deleted?;
    Ok((written, Exit::from_code(Some(code))))
}

/// The exit code of a pod's container; `None` while it hasn't ended. Pure.
fn exit_code(text: &str) -> anyhow::Result<Option<i32>> {
    let found: Found = serde_json::from_str(text)?;
    let mut statuses = found.status.container_statuses.into_iter();
    let Some(ContainerStatus { state }) = statuses.next() else {
        return Ok(None);
    };
    match (state.terminated, state.waiting) {
        (Some(ended), _) => Ok(Some(ended.exit_code)),
        (None, Some(waiting)) if waiting.reason.starts_with("ErrImage") => {
            Err(outcome::unavailable(
                format!("the tool's image isn't on the node: {}", waiting.reason),
                "`cargo xtask up --on kubernetes` puts it there",
            ))
        }
        (None, _) => Ok(None),
    }
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
    let images = manifests::images(target)?;
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
    fn a_tool_has_ended_when_its_container_has() {
        let state = |state: &str| {
            format!(r#"{{"status":{{"containerStatuses":[{{"state":{{{state}}}}}]}}}}"#)
        };
        let ended = state(r#""terminated":{"exitCode":1}"#);
        assert_eq!(exit_code(&ended).unwrap(), Some(1));
        let without_image = state(r#""waiting":{"reason":"ErrImageNeverPull"}"#);
        let error = exit_code(&without_image).unwrap_err().to_string();
        assert!(error.contains("ErrImageNeverPull"), "{error}");
        for pending in [state(r#""running":{}"#), r#"{"status":{}}"#.to_owned()] {
            assert_eq!(exit_code(&pending).unwrap(), None);
        }
    }
}
