//! `down`: stops and removes the project's containers and networks, and its data when asked to.
//!
//! Left out: images and build output, which stay.

use std::time::Duration;

use base::outcome::Exit;
use system::{engine, engine_setup, interrupt, project::Project};

use crate::output::progress;

const LIMIT: Duration = Duration::from_secs(120);

/// Options of `down`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// Delete all data as well: accounts, orders, messages, metrics
    #[arg(long)]
    volumes: bool,
    /// Stop the container engine as well, if agora started it
    #[arg(long)]
    engine: bool,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: Options) -> anyhow::Result<Exit> {
    engine::version()?;
    let progress = progress();
    progress.step("down", |step| {
        take_down(project, options.volumes)?;
        step.result(if options.volumes {
            "containers and data removed"
        } else {
            "containers removed, data kept"
        });
        Ok(())
    })?;
    if options.engine {
        progress.step("container engine", engine_setup::stop)?;
    }
    Ok(Exit::Holds)
}

/// Removes the project's containers and networks, even after Ctrl-C.
///
/// By label through the engine, not through compose: this way it works whatever state the .env and the
/// compose files are in.
pub(crate) fn take_down(project: &Project, volumes: bool) -> anyhow::Result<()> {
    interrupt::acknowledge();
    let containers = engine::every_container(project)?;
    let ids = || containers.iter().map(|container| container.id.as_str());
    if !containers.is_empty() {
        // Each container has its own grace period, after which the engine kills it.
        engine::docker(["stop"].into_iter().chain(ids()))
            .limit(LIMIT)
            .read()?;
        engine::docker(["rm", "--force"].into_iter().chain(ids()))
            .limit(LIMIT)
            .read()?;
    }
    let networks = engine::networks(project)?;
    if !networks.is_empty() {
        engine::docker(
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
        engine::docker(["volume", "rm"].into_iter().chain(names)).read()?;
    }
    Ok(())
}
