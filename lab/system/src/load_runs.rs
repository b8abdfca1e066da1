//! Load runs on disk: a folder each under `target/agora/load/`, written by `loadtest` and completed here.
//!
//! Left out: the content of `loadtest`'s files ([`records::load`]).

use std::{fs, path::PathBuf};

use anyhow::Context;
use base::outcome;
use records::load::{
    CANCELLATIONS_FILE, CancellationEntry, LEDGER_FILE, LedgerEntry, RunSummary, SUMMARY_FILE,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{project::Project, prometheus::Moment};

const WINDOW_FILE: &str = "window.json";

/// The time in which a run's requests show in Prometheus: every target was scraped just before `from`, with
/// none of them counted yet, and just before `to`, with all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// The name of the project that was under load.
    pub project: String,
    /// A moment before the first request.
    pub from: Moment,
    /// A moment after the last answer.
    pub to: Moment,
}

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    /// The run's id, and the folder's name.
    pub id: String,
    /// The folder's path.
    pub path: PathBuf,
}

impl RunFolder {
    /// The folder of a run, whether or not it exists.
    pub fn new(project: &Project, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            path: runs(project).join(id),
        }
    }

    /// The run with this id, or the last one.
    pub fn find(project: &Project, id: Option<&str>) -> anyhow::Result<Self> {
        let id = match id {
            Some(id) => id.to_owned(),
            None => fs::read_to_string(latest_file(project)).map_err(|_| {
                outcome::unavailable(
                    "there was no load run yet",
                    "make one with `cargo xtask load`",
                )
            })?,
        };
        let run = Self::new(project, id.trim());
        // Written last, after the summary.
        let is_complete = [SUMMARY_FILE, WINDOW_FILE]
            .iter()
            .all(|file| run.path.join(file).is_file());
        if is_complete {
            return Ok(run);
        }
        let what = if run.path.is_dir() {
            format!("the load run {} still goes, or was broken off", run.id)
        } else {
            format!("there is no load run {}", run.id)
        };
        Err(outcome::unavailable(
            what,
            format!(
                "`ls {}` lists the runs; `cargo xtask load` makes one",
                runs(project).display()
            ),
        ))
    }

    /// The load generator's summary of the run.
    pub fn summary(&self) -> anyhow::Result<RunSummary> {
        self.read(SUMMARY_FILE)
    }

    /// The window in which Prometheus shows the run.
    pub fn window(&self) -> anyhow::Result<Window> {
        self.read(WINDOW_FILE)
    }

    /// The same, of a run on this project's system; any other run is wrong usage.
    pub fn window_on(&self, project: &Project) -> anyhow::Result<Window> {
        let window = self.window()?;
        if window.project == project.name {
            return Ok(window);
        }
        Err(outcome::usage(
            format!(
                "the run {} was made on the system `{}`, not on `{}`",
                self.id, window.project, project.name
            ),
            "name a run of this system with `--run`, or make one with `cargo xtask load`",
        ))
    }

    /// The ledger: every order that was sent.
    pub fn ledger(&self) -> anyhow::Result<Vec<LedgerEntry>> {
        self.lines(LEDGER_FILE)
    }

    /// Every cancellation that was sent.
    pub fn cancellations(&self) -> anyhow::Result<Vec<CancellationEntry>> {
        self.lines(CANCELLATIONS_FILE)
    }

    /// Completes the run with its window, and makes it the project's last one.
    pub fn complete(&self, project: &Project, window: &Window) -> anyhow::Result<()> {
        fs::write(
            self.path.join(WINDOW_FILE),
            serde_json::to_vec_pretty(window)?,
        )
        .with_context(|| format!("failed to write into {}", self.path.display()))?;
        fs::write(latest_file(project), format!("{}\n", self.id))?;
        Ok(())
    }

    /// A JSON document a line.
    fn lines<T: DeserializeOwned>(&self, file: &str) -> anyhow::Result<Vec<T>> {
        let path = self.path.join(file);
        let text = fs::read_to_string(&path).map_err(|error| {
            outcome::unavailable(
                format!("failed to read {}: {error}", path.display()),
                "choose another run with `--run`, or make one with `cargo xtask load`",
            )
        })?;
        let line = |line| {
            serde_json::from_str(line)
                .with_context(|| format!("failed to understand {}", path.display()))
        };
        text.lines().map(line).collect()
    }

    fn read<T: DeserializeOwned>(&self, file: &str) -> anyhow::Result<T> {
        let path = self.path.join(file);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("failed to understand {}", path.display()))
    }
}

/// Holds the id of the project's last run: a test system's runs are not a user's.
fn latest_file(project: &Project) -> PathBuf {
    runs(project).join(format!("latest-{}", project.name))
}

fn runs(project: &Project) -> PathBuf {
    project.outputs().join("load")
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::outcome::Exit;

    #[test]
    fn a_run_is_found_when_its_window_is_known_and_not_before() {
        let root = tempfile::tempdir().unwrap();
        let mut project = Project::discover().unwrap();
        project.root = root.path().to_owned();
        let refusal = || {
            let error = RunFolder::find(&project, Some("r")).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Unavailable);
            error.to_string()
        };
        assert!(refusal().contains("no load run r"), "{}", refusal());
        let run = RunFolder::new(&project, "r");
        fs::create_dir_all(&run.path).unwrap();
        fs::write(run.path.join(SUMMARY_FILE), "{}").unwrap();
        assert!(refusal().contains("still goes"), "{}", refusal());
        let window = Window {
            project: project.name.clone(),
            from: 1.0,
            to: 2.0,
        };
        run.complete(&project, &window).unwrap();
        for id in [Some("r"), None] {
            let found = RunFolder::find(&project, id).unwrap();
            assert_eq!(found.window().unwrap(), window);
        }
    }
}
