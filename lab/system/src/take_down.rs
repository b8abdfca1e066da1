//! Taking the system down: its containers or pods, its networks, and its data when asked to.
//!
//! Left out: images and build output, which stay, and the engine ([`crate::engine_setup::stop`]).

use std::time::Duration;

use crate::{
    engine::{self, docker},
    interrupt, kubectl, kubernetes, members,
    project::Project,
};

const LIMIT: Duration = Duration::from_secs(120);

/// Whether anything of the project is there: a container, running or not, or data.
///
/// # Errors
/// When the engine doesn't answer.
pub fn is_anything_there(project: &Project) -> anyhow::Result<bool> {
    if let Some(target) = kubectl::target(project)? {
        return kubernetes::is_anything_there(&target);
    }
    Ok(!members::ids(project)?.is_empty() || !engine::volumes(project)?.is_empty())
}

/// Removes the project's containers and networks, even after Ctrl-C.
///
/// By label through the engine, not through compose: this way it works whatever state the .env and the
/// compose files are in.
pub fn take_down(project: &Project, volumes: bool) -> anyhow::Result<()> {
    if let Some(target) = kubectl::target(project)? {
        return kubernetes::take_down(&target, volumes);
    }
    interrupt::acknowledge();
    let members = members::ids(project)?;
    let ids = || members.iter().map(String::as_str);
    if !members.is_empty() {
        // Each container has its own grace period, after which the engine kills it.
        docker(["stop"].into_iter().chain(ids()))
            .limit(LIMIT)
            .read()?;
        docker(["rm", "--force"].into_iter().chain(ids()))
            .limit(LIMIT)
            .read()?;
    }
    let networks = engine::networks(project)?;
    if !networks.is_empty() {
        docker(
            ["network", "rm"]
                .into_iter()
                .chain(networks.iter().map(String::as_str)),
        )
        .read()?;
    }
    let data = if volumes {
        engine::volumes(project)?
    } else {
        Vec::new()
    };
    if !data.is_empty() {
        let names = data.iter().map(|volume| volume.name.as_str());
        docker(["volume", "rm"].into_iter().chain(names)).read()?;
    }
    Ok(())
}
