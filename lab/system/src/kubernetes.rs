//! The system in a namespace of a Kubernetes cluster: applied and waited for, and removed. The counterpart of Compose.
//!
//! Left out: the manifests (`deploy/kubernetes`), and what runs ([`crate::members`]).

mod bring_up;
mod images;
mod kept_down;
mod manifests;
mod nodes;
mod resize;
mod take_down;
mod tool;
mod workloads;

use base::outcome;

pub(crate) use self::{
    bring_up::{add_replica, bring_up, configure, configuring, recreate, remove_replica, renew},
    images::load_services,
    kept_down::{bring_back, keep_down, wait_for},
    nodes::{by_expendability, kill as kill_node, node_of, pause as pause_node},
    resize::limit_cpu,
    take_down::take_down,
    tool::run_tool,
};
use crate::{
    env_file::SECRETS_ID,
    kubectl::{SECRETS_ANNOTATION, Target},
    project::Settings,
};

/// Refuses a cluster of a version that this kubectl doesn't fit, and one into which this machine can't load images.
///
/// # Errors
/// For such a one, and when it doesn't answer.
pub(crate) fn require_usable(target: &Target) -> anyhow::Result<()> {
    target.version()?;
    images::require_loader(target)
}

/// Whether anything of the system is there.
///
/// # Errors
/// When the cluster doesn't answer.
pub(crate) fn is_anything_there(target: &Target) -> anyhow::Result<bool> {
    Ok(target.found_namespace()?.is_some())
}

/// Refuses a namespace whose data these settings' secrets don't open.
pub(crate) fn require_matching_volumes(target: &Target, settings: &Settings) -> anyhow::Result<()> {
    let ours = settings.require(SECRETS_ID)?;
    let found = target.found_namespace()?;
    let theirs = found.and_then(|found| found.annotations.get(SECRETS_ANNOTATION).cloned());
    match theirs {
        Some(theirs) if theirs != ours => Err(outcome::unavailable(
            format!(
                "the data in the namespace `{}` was made with other secrets than the ones in {}",
                target.namespace(),
                target.project().env_file.display()
            ),
            "put the old .env back, or delete all data with `cargo xtask down --volumes`",
        )),
        _ => Ok(()),
    }
}
