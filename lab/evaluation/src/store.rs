//! Evaluations on disk: a folder each in `target/agora/evaluations/`. The evidence is written after each arm; all other
//! files are made from it, and can be made again.
//!
//! Left out: the content of reports ([`crate::report`]).

use std::{fs, path::PathBuf};

use anyhow::Context;
use base::outcome;
use records::evaluation::{Evaluation, FORMAT, OLDEST_FORMAT};
use serde_json::Value;
use system::{files::replace, project::Project};

use super::{
    conclusion::Conclusion,
    report::{self, history::History},
};

/// The evidence: an [`Evaluation`] as JSON.
pub const EVIDENCE_FILE: &str = "evidence.json";
/// The verdicts: a [`Conclusion`] as JSON.
pub const VERDICTS_FILE: &str = "verdicts.json";
/// The verdicts as JUnit XML, for CI systems.
pub const JUNIT_FILE: &str = "junit.xml";
/// The verdicts as Markdown, for a pull request or a job's summary.
pub const SUMMARY_FILE: &str = "summary.md";

/// The history of all runs as a page for people, beside their folders.
pub const HISTORY_FILE: &str = "history.html";

/// The name of the last run on a command line.
pub const LATEST: &str = "latest";

/// An evaluation's folder.
#[derive(Debug, Clone)]
pub struct EvaluationFolder {
    /// The folder's path.
    pub path: PathBuf,
}

impl EvaluationFolder {
    /// The folder of a run, whether or not it exists.
    pub fn new(project: &Project, run: &str) -> Self {
        Self {
            path: evaluations(project).join(run),
        }
    }

    /// The folder of the run that is meant by an id, by `latest`, or by a path to a folder.
    pub fn find(project: &Project, run: &str) -> anyhow::Result<Self> {
        let folder = match run {
            LATEST => {
                let id = fs::read_to_string(latest_file(project)).map_err(|_| {
                    outcome::unavailable(
                        "there was no evaluation yet",
                        "make one with `cargo xtask evaluate`",
                    )
                })?;
                Self::new(project, id.trim())
            }
            path if path.contains('/') => Self { path: path.into() },
            id => Self::new(project, id),
        };
        if folder.path.join(EVIDENCE_FILE).is_file() {
            return Ok(folder);
        }
        Err(outcome::unavailable(
            format!(
                "there is no evaluation `{run}`: {} is missing",
                folder.path.join(EVIDENCE_FILE).display()
            ),
            format!(
                "`ls {}` lists the runs; a folder elsewhere is named by its path, with a `/` in it",
                evaluations(project).display()
            ),
        ))
    }

    /// Where the loads' files are, a folder for each.
    pub fn loads_path(&self) -> PathBuf {
        self.path.join("load")
    }

    /// How many loads were started.
    pub fn loads(&self) -> anyhow::Result<usize> {
        let path = self.loads_path();
        match fs::read_dir(&path) {
            Ok(entries) => Ok(entries.count()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error).with_context(|| format!("failed to read {}", path.display())),
        }
    }

    /// Writes the evidence so far, and makes the run the project's last one. A reader sees the evidence from before or
    /// this, never a part.
    pub fn write_evidence(&self, project: &Project, evaluation: &Evaluation) -> anyhow::Result<()> {
        self.write(EVIDENCE_FILE, &serde_json::to_vec_pretty(evaluation)?)?;
        let latest = latest_file(project);
        replace(&latest, format!("{}\n", evaluation.run).as_bytes())
            .with_context(|| format!("failed to write {}", latest.display()))
    }

    /// Reads the evidence.
    pub fn evidence(&self) -> anyhow::Result<Evaluation> {
        let path = self.path.join(EVIDENCE_FILE);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        let damaged = |error: serde_json::Error| {
            outcome::unavailable(
                format!("{} is damaged: {error}", path.display()),
                "take the file from where it was copied, or make another run with `cargo xtask evaluate`",
            )
        };
        let value: Value = serde_json::from_str(&text).map_err(damaged)?;
        // Before the rest is read: evidence of another version has other fields.
        match value.get("format").and_then(Value::as_u64) {
            Some(format) if (OLDEST_FORMAT.into()..=FORMAT.into()).contains(&format) => {}
            format => {
                let found = format.map_or_else(|| "none".to_owned(), |format| format.to_string());
                return Err(outcome::unavailable(
                    format!(
                        "{} has the format {found}, this version judges {OLDEST_FORMAT} to {FORMAT}",
                        path.display(),
                    ),
                    "judge it with the version that made it, or make another run with `cargo xtask evaluate`",
                ));
            }
        }
        serde_json::from_value(value).map_err(damaged)
    }

    /// Writes everything that is made from the evidence.
    pub fn write_reports(
        &self,
        evaluation: &Evaluation,
        conclusion: &Conclusion,
    ) -> anyhow::Result<()> {
        self.write(VERDICTS_FILE, &serde_json::to_vec_pretty(conclusion)?)?;
        let page = report::html::page(evaluation, conclusion)?;
        self.write(report::html::PAGE_FILE, page.as_bytes())?;
        let junit = report::junit::document(evaluation, conclusion);
        self.write(JUNIT_FILE, junit.as_bytes())?;
        self.write(
            SUMMARY_FILE,
            report::markdown::summary(conclusion).as_bytes(),
        )
    }

    fn write(&self, file: &str, content: &[u8]) -> anyhow::Result<()> {
        let path = self.path.join(file);
        replace(&path, content).with_context(|| format!("failed to write {}", path.display()))
    }
}

/// Writes the page with the history of all runs, and returns its path.
pub fn write_history(project: &Project, history: &History) -> anyhow::Result<PathBuf> {
    let path = evaluations(project).join(HISTORY_FILE);
    let page = report::history::page(history)?;
    replace(&path, page.as_bytes())
        .with_context(|| format!("failed to write {}", path.display()))?;
    Ok(path)
}

/// Holds the id of the project's last run: a test system's runs are not a user's.
fn latest_file(project: &Project) -> PathBuf {
    evaluations(project).join(format!("latest-{}", project.name))
}

/// The folder with all runs.
pub(crate) fn evaluations(project: &Project) -> PathBuf {
    project.outputs().join("evaluations")
}
