//! The run journal: what an evaluation found and has to restore, on disk while it runs. If it is killed, the journal
//! stays, and the next command that looks at the system (`evaluate` and `heal` among them) restores in its place.
//!
//! Left out: faults, which healing finds without a record.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use chrono::{DateTime, Utc};
use records::evaluation::Configuration;
use serde::{Deserialize, Serialize};
use system::{
    files::replace,
    project::Project,
    running::{RunningSystem, Wanted},
};

use super::repair;

/// What an evaluation has to restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunJournal {
    /// The evaluation's id.
    pub run: String,
    /// When it began.
    pub since: DateTime<Utc>,
    /// The configuration that it found.
    pub found: Configuration,
}

impl RunJournal {
    /// Writes the journal; from here on the evaluation may change the system.
    pub fn begin(&self, project: &Project) -> anyhow::Result<()> {
        let path = path(project);
        // Whole or not at all, also when the process is killed meanwhile.
        replace(&path, &serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("failed to write {}", path.display()))
    }

    /// Restores the configuration that was found, repairs inconsistent data, and removes the journal. What was done, in
    /// words.
    pub fn restore(&self, system: &RunningSystem<'_>) -> anyhow::Result<Vec<String>> {
        let mut done = Vec::new();
        if system.configuration()? != self.found {
            done.push("the services run again as they did before the evaluation".to_owned());
        }
        // In any case: the engine's health checks, which were kept out, are no part of the configuration.
        system.configure(&Wanted::found(&self.found))?;
        let repaired = repair::since(system, self.since, false)?;
        done.extend(repaired.said());
        remove(&path(system.project))?;
        Ok(done)
    }
}

/// The journal that an interrupted evaluation left; `None` without one.
pub fn left_over(project: &Project) -> anyhow::Result<Option<RunJournal>> {
    let path = path(project);
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map(Some).with_context(|| {
            format!(
                "failed to understand {}: remove it, and `cargo xtask up` sets the services up anew",
                path.display()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(error).with_context(|| format!("failed to read {}", path.display()))
        }
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A file of its own for each project: a test system's evaluation is not a user's.
fn path(project: &Project) -> PathBuf {
    let name = format!("run-journal-{}.json", project.name);
    project.outputs().join("evaluations").join(name)
}
