//! Earlier runs on this machine: their conclusions, and how long their trials took.
//!
//! Left out: how a history looks ([`crate::report`]).

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::Context;
use base::progress::spell;
use records::evaluation::{Evaluation, PlannedExperiment, Trial};
use system::project::Project;

use super::{
    conclusion::Conclusion,
    experiment::Experiment,
    experiments,
    store::{EVIDENCE_FILE, EvaluationFolder, evaluations},
};

/// What an arm takes besides its load, where no earlier run tells.
const BESIDES_LOAD: Duration = Duration::from_secs(20);
/// How many of the last runs are asked for durations.
const RUNS: usize = 10;

/// The conclusion of every stored run that this version can judge, the oldest first, and how many others there are.
pub fn stored(project: &Project) -> anyhow::Result<(Vec<Conclusion>, usize)> {
    let mut others = 0;
    let mut stored = Vec::new();
    for run in runs(project)? {
        // One evidence at a time: each is as large as megabytes.
        let evidence = EvaluationFolder::new(project, &run).evidence();
        match evidence.and_then(|evidence| Conclusion::of(&evidence)) {
            Ok(conclusion) => stored.push(conclusion),
            Err(_) => others += 1,
        }
    }
    Ok((stored, others))
}

/// The ids of the stored runs, the oldest first.
fn runs(project: &Project) -> anyhow::Result<Vec<String>> {
    let path = evaluations(project);
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("failed to read {}", path.display()));
        }
    };
    let mut runs = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.path().join(EVIDENCE_FILE).is_file() {
            runs.extend(entry.file_name().into_string().ok());
        }
    }
    // An id begins with its time.
    runs.sort();
    Ok(runs)
}

/// How long a trial of each experiment took.
#[derive(Debug, Clone, Default)]
pub struct Durations(BTreeMap<String, Duration>);

impl Durations {
    /// As the last runs of this clone have it.
    pub fn read(project: &Project) -> anyhow::Result<Self> {
        let mut durations = BTreeMap::new();
        let runs = runs(project)?;
        for run in runs.iter().skip(runs.len().saturating_sub(RUNS)) {
            // What can't be read tells nothing about time.
            let Ok(evaluation) = EvaluationFolder::new(project, run).evidence() else {
                continue;
            };
            for trial in evaluation.trials.iter().filter(|trial| went_well(trial)) {
                durations.insert(trial.experiment.clone(), took(trial));
            }
        }
        Ok(Self(durations))
    }

    /// How long a trial of this experiment takes.
    pub fn trial(&self, experiment: &Experiment) -> Duration {
        let known = self.0.get(experiment.name).copied();
        known.unwrap_or_else(|| {
            let arms = u32::try_from(experiment.arms.len()).unwrap_or(u32::MAX);
            (experiment.load.run_time + BESIDES_LOAD) * arms
        })
    }

    /// How long is left of an evaluation whose last trial has this many arms behind it: `, 4 min 10 s left`. Those that are
    /// `planned` have as many repetitions as will be run as far as that is known by now.
    pub(crate) fn left(
        &self,
        planned: &[PlannedExperiment],
        evaluation: &Evaluation,
        arms_done: usize,
    ) -> String {
        let of = |name: &str| {
            experiments::find(name).map_or(Duration::ZERO, |experiment| self.trial(experiment))
        };
        let to_come = |planned: &PlannedExperiment| {
            let begun = evaluation
                .trials
                .iter()
                .filter(|trial| trial.experiment == planned.name);
            let begun = u32::try_from(begun.count()).unwrap_or(u32::MAX);
            of(&planned.name) * planned.repetitions.saturating_sub(begun)
        };
        let to_come: Duration = planned.iter().map(to_come).sum();
        let current = evaluation.trials.last().and_then(|trial| {
            let experiment = experiments::find(&trial.experiment)?;
            let arms = experiment.arms.len();
            let left = arms.saturating_sub(arms_done) as f64 / arms as f64;
            Some(self.trial(experiment).mul_f64(left))
        });
        let left = to_come + current.unwrap_or_default();
        // Before the last arm of all it is clear.
        if left < Duration::from_secs(60) {
            return String::new();
        }
        format!(", {} left", spell(Duration::from_secs(left.as_secs())))
    }
}

fn went_well(trial: &Trial) -> bool {
    experiments::find(&trial.experiment).is_some_and(|it| it.is_whole(trial))
        && trial.arms.iter().all(|arm| arm.failure.is_none())
}

fn took(trial: &Trial) -> Duration {
    let arms = trial.arms.iter();
    arms.map(|arm| {
        (arm.finished_at - arm.started_at)
            .to_std()
            .unwrap_or_default()
    })
    .sum()
}
