//! Removing the system from its namespace, and its data when asked to.
//!
//! Left out: images on the nodes, which stay, and the cluster ([`crate::cluster`]).

use std::time::Duration;

use crate::{
    cluster::Cluster,
    interrupt,
    kubectl::{OURS, PART_OF, Target},
};

/// Longer than the longest grace period of a pod.
const GONE_WITHIN: Duration = Duration::from_secs(180);
/// Everything of the system but its volumes and the namespace.
const KINDS: &str = "deployments,statefulsets,pods,services,poddisruptionbudgets,networkpolicies,configmaps,secrets";

/// Removes it, even after Ctrl-C. With `volumes` the namespace goes, and all that is in it.
///
/// # Errors
/// When the cluster refuses, or a pod doesn't end in time.
pub(crate) fn take_down(target: &Target, volumes: bool) -> anyhow::Result<()> {
    interrupt::acknowledge();
    if volumes {
        let delete = ["delete", "namespace", target.namespace(), "--wait"];
        let delete = target.kubectl(delete).args(["--ignore-not-found"]);
        delete.limit(GONE_WITHIN).read()?;
        // Also those that a command left that was cut short here.
        if target.context().is_none() {
            Cluster::new(target.project()).empty_volumes(target.namespace())?;
        }
        return Ok(());
    }
    let selector = format!("--selector={PART_OF}={OURS}");
    let delete = ["delete", KINDS, &selector, "--wait", "--cascade=foreground"];
    target.kubectl(delete).limit(GONE_WITHIN).read()?;
    Ok(())
}
