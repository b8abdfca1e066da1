//! Earlier runs of a project: their conclusions, and how long their trials took.
//!
//! Left out: how a history looks ([`crate::report`]).

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::Context;
use base::progress::spell;
use records::evaluation::{Evaluation, Machine, PlannedExperiment, Trial};
use system::project::Project;

use super::{
    conclusion::Conclusion,
    experiment::Experiment,
    experiments,
    store::{EVIDENCE_FILE, EvaluationFolder, evaluations},
};

/// What an arm takes besides its load, where no earlier run tells.
const BESIDES_LOAD: Duration = Duration::from_secs(20);
/// How many runs are asked for durations: the last ones of the project on the machine.
const RUNS: usize = 10;

/// The conclusion of every stored run of this project that this version can judge, the oldest first, and how many can't be
/// judged.
pub fn stored(project: &Project) -> anyhow::Result<(Vec<Conclusion>, usize)> {
    let mut others = 0;
    let mut stored = Vec::new();
    for run in runs(project)? {
        // One evidence at a time: each is as large as megabytes.
        let evidence = EvaluationFolder::new(project, &run).evidence();
        if evidence.as_ref().is_ok_and(|it| !is_of(it, project)) {
            continue;
        }
        match evidence.and_then(|evidence| Conclusion::of(&evidence)) {
            Ok(conclusion) => stored.push(conclusion),
            Err(_) => others += 1,
        }
    }
    Ok((stored, others))
}

/// Whether a run was of this project's system, as far as its evidence says: that of the tests has its runs in the same folder.
fn is_of(evaluation: &Evaluation, project: &Project) -> bool {
    let of = evaluation.project.as_ref();
    of.is_none_or(|name| *name == project.name)
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
    /// As the last runs of this project on this machine have it.
    pub fn read(project: &Project, machine: &Machine) -> anyhow::Result<Self> {
        let runs = runs(project)?;
        // What can't be read tells nothing about time.
        let newest_first = runs
            .iter()
            .rev()
            .filter_map(|run| EvaluationFolder::new(project, run).evidence().ok());
        let here =
            newest_first.filter(|it| is_of(it, project) && it.versions.machine().is_like(machine));
        let mut durations = BTreeMap::new();
        for evaluation in here.take(RUNS) {
            // The last trial of the last run that has one.
            for trial in evaluation.trials.iter().rev().filter(|it| went_well(it)) {
                let known = durations.entry(trial.experiment.clone());
                known.or_insert_with(|| took(trial));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{Sketch, evaluation, trial};

    /// A stored run whose only trial takes about so many seconds, of a project and a machine.
    fn store(project: &Project, run: &str, of: Option<&str>, cores: u32, seconds: u32) {
        store_trials(project, run, of, cores, &[seconds]);
    }

    fn store_trials(project: &Project, run: &str, of: Option<&str>, cores: u32, seconds: &[u32]) {
        let trials = (1..).zip(seconds).map(|(repetition, seconds)| {
            let arm = |name| Sketch::arm(name).seconds(*seconds);
            trial("outbox", repetition, &[arm("off"), arm("on")])
        });
        let mut evaluation = evaluation(trials.collect());
        evaluation.run = run.to_owned();
        evaluation.project = of.map(str::to_owned);
        evaluation.versions.cores = cores;
        let folder = EvaluationFolder::new(project, run);
        folder.write_evidence(project, &evaluation).unwrap();
    }

    #[test]
    fn runs_of_another_project_or_machine_say_nothing_of_this_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut project = Project::discover().unwrap();
        (project.root, project.name) = (folder.path().to_owned(), "agora".to_owned());
        store(&project, "1", None, 2, 14);
        store(&project, "2", Some("agora"), 2, 24);
        store(&project, "3", Some("agora-test"), 2, 300);
        store(&project, "4", Some("agora"), 8, 400);
        let (conclusions, others) = stored(&project).unwrap();
        let runs: Vec<&str> = conclusions.iter().map(|it| it.run.as_str()).collect();
        assert_eq!((runs, others), (vec!["1", "2", "4"], 0));

        let outbox = experiments::find("outbox").unwrap();
        let machine = conclusions[0].versions.machine();
        let trial = Durations::read(&project, &machine).unwrap().trial(outbox);
        assert!((48..120).contains(&trial.as_secs()), "{trial:?}");
        let elsewhere = conclusions[2].versions.machine();
        let trial = Durations::read(&project, &elsewhere).unwrap().trial(outbox);
        assert!(trial.as_secs() >= 800, "{trial:?}");
    }

    #[test]
    fn many_later_runs_of_the_tests_do_not_hide_the_last_trial_of_this_project() {
        let folder = tempfile::tempdir().unwrap();
        let mut project = Project::discover().unwrap();
        (project.root, project.name) = (folder.path().to_owned(), "agora".to_owned());
        store(&project, "01", Some("agora"), 2, 400);
        store_trials(&project, "02", Some("agora"), 2, &[300, 24]);
        for run in 3..=RUNS + 3 {
            store(&project, &format!("{run:02}"), Some("agora-test"), 2, 300);
        }
        let (conclusions, _) = stored(&project).unwrap();
        let machine = conclusions[0].versions.machine();
        let durations = Durations::read(&project, &machine).unwrap();
        let trial = durations.trial(experiments::find("outbox").unwrap());
        assert!((48..120).contains(&trial.as_secs()), "{trial:?}");
        // What no run tells is guessed from the load.
        let inbox = experiments::find("inbox").unwrap();
        assert_eq!(durations.trial(inbox), Durations::default().trial(inbox));
    }
}
