//! `down`: stops and removes the project's containers and networks, and its data when asked to.
//!
//! Left out: images and build output, which stay.

use base::outcome::Exit;
use system::{
    engine_setup, host,
    project::{Engine, Project},
    take_down::take_down,
};

use crate::output::progress;

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
    if project.engine == Engine::Compose {
        host::version()?;
    }
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
