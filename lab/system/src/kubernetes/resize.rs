//! A pod's share of the processor, changed while it runs (in-place resize).
//!
//! Left out: memory, of which a container that uses more takes no smaller limit.

use std::time::Duration;

use anyhow::Context;
use base::outcome;
use serde_json::{Value, json};

use crate::{
    kubectl::{ANSWER_WITHIN, millicores},
    member::{Member, Pod},
    wait,
};

/// How long a node may take to give a container another limit.
const RESIZED_WITHIN: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Gives each pod so many thousandths of a core; returns when their nodes have done so.
///
/// # Errors
/// When the cluster refuses, or a node doesn't do it in time.
pub(crate) fn limit_cpu(pods: &[(&Member, &Pod)], limit: u64) -> anyhow::Result<()> {
    for (member, pod) in pods {
        let request = request(pod)?.min(limit);
        let cpu = |millicores: u64| json!({ "cpu": format!("{millicores}m") });
        let resources = json!({ "requests": cpu(request), "limits": cpu(limit) });
        let container = json!({ "name": pod.container, "resources": resources });
        let patch = json!({ "spec": { "containers": [container] } });
        let patch = format!("--patch={patch}");
        let resize = ["patch", "pod", &member.id, "--subresource=resize", &patch];
        pod.target.kubectl(resize).args([ANSWER_WITHIN]).read()?;
    }
    pods.iter()
        .try_for_each(|(member, pod)| wait_until_it_has(member, pod, limit))
}

/// The processor time that the pod's controller asks for, in thousandths of a core.
fn request(pod: &Pod) -> anyhow::Result<u64> {
    let path = "--output=jsonpath={.spec.template.spec.containers[0].resources.requests.cpu}";
    let get = ["get", &pod.controller, path, ANSWER_WITHIN];
    let text = pod.target.kubectl(get).read()?;
    millicores(text.trim()).with_context(|| format!("{} asks for {text:?}", pod.controller))
}

fn wait_until_it_has(member: &Member, pod: &Pod, limit: u64) -> anyhow::Result<()> {
    let mut conditions = Value::Null;
    let has_it = wait::until(RESIZED_WITHIN, LOOK_INTERVAL, || {
        let get = pod.target.kubectl(["get", "pod", &member.id]);
        let found: Value = serde_json::from_str(&pod.target.read_json(get)?)?;
        let given = &found["status"]["containerStatuses"][0]["resources"]["limits"]["cpu"];
        conditions = found["status"]["conditions"].clone();
        Ok((given.as_str().and_then(millicores) == Some(limit)).then_some(()))
    })?;
    has_it.ok_or_else(|| {
        outcome::failed(
            format!(
                "the node of {} didn't give it another share of the processor within {} s: {conditions}",
                member.id,
                RESIZED_WITHIN.as_secs()
            ),
            "pods are resized in place by Kubernetes 1.33 and newer, where the node's kubelet allows it",
        )
    })
}
