//! The conclusion of an evaluation: what `--format json` prints and `verdicts.json` contains.
//! `xtask/schemas/evaluation.schema.json` is its schema.
//!
//! Computed from the evidence alone, with [`crate::verdict`]. Left out: how it looks ([`crate::report`]).

use base::outcome::{self, Exit};
use chrono::{DateTime, Utc};
use records::evaluation::{Evaluation, Sabotage, Trial, Versions};
use serde::{Deserialize, Serialize};

use super::{
    experiment::Experiment,
    experiments,
    measurement::{Better, Outcome},
    statistics::{Effect, Spread},
    verdict::{self, Verdict},
};

/// The version of this form.
pub const FORMAT: u32 = 1;

/// The conclusion of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conclusion {
    /// The version of this form: [`FORMAT`].
    pub format: u32,
    /// Names the run and its folder.
    pub run: String,
    /// The command that repeats it.
    pub command: String,
    /// Reproduces the request mix and the moment of each fault.
    pub seed: u64,
    /// What was broken on purpose, if anything.
    pub sabotage: Option<Sabotage>,
    /// When the run started, before its first arm.
    pub started_at: DateTime<Utc>,
    /// When its last arm ended.
    pub finished_at: DateTime<Utc>,
    /// The versions that were evaluated, and the machine.
    pub versions: Versions,
    /// `holds`, `failed` or `inconclusive`: the exit code in a word.
    pub outcome: Exit,
    /// In the order in which they were run.
    pub experiments: Vec<ExperimentConclusion>,
}

/// The conclusion of an experiment over its repetitions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentConclusion {
    /// The experiment's name: `outbox`, …
    pub name: String,
    /// What it claims about the pattern, in a sentence.
    pub claim: String,
    /// What would refute the claim.
    pub refuted_by: String,
    /// The verdict.
    pub outcome: Outcome,
    /// What the verdict rests on, in words.
    pub reason: String,
    /// The measurements, the harm first. Values of inconclusive trials are included.
    #[serde(rename = "figures")]
    pub measurements: Vec<MeasurementSummary>,
    /// The verdicts, one for each repetition.
    pub trials: Vec<TrialVerdict>,
}

/// The verdict on one repetition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialVerdict {
    /// The repetition's number, from 1.
    pub repetition: u32,
    /// Reproduces the request mix and the moment of each fault.
    pub seed: u64,
    /// The verdict.
    pub outcome: Outcome,
    /// What the verdict rests on, in words.
    pub reason: String,
}

/// One quantity over arms and repetitions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasurementSummary {
    /// The measurement's name: `orders lost`, …
    pub name: String,
    /// The unit of all its values: `ms`, `/s`, `%`, …; empty for counts.
    pub unit: String,
    /// In which direction it gets better.
    pub better: Better,
    /// Whether the verdict rests on it.
    pub decisive: bool,
    /// The arms in the experiment's order: without the pattern first.
    pub arms: Vec<ArmSummary>,
    /// The last arm against the first; `None` when no repetition measured both.
    pub effect: Option<Effect>,
}

/// A measurement's values in one arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmSummary {
    /// The arm's name.
    pub arm: String,
    /// Median and range over the repetitions; `None` when none measured it.
    pub spread: Option<Spread>,
    /// The values, one for each repetition; `None` where it could not be measured.
    pub values: Vec<Option<f64>>,
}

impl Conclusion {
    /// Judges evidence. The same evidence gives the same conclusion.
    ///
    /// # Errors
    /// When the evidence names an unknown experiment.
    pub fn of(evaluation: &Evaluation) -> anyhow::Result<Self> {
        let mut names: Vec<&str> = Vec::new();
        for trial in &evaluation.trials {
            if !names.contains(&trial.experiment.as_str()) {
                names.push(&trial.experiment);
            }
        }
        let experiments = names
            .into_iter()
            .map(|name| {
                let experiment = experiments::find(name).ok_or_else(|| unknown(name))?;
                let trials = evaluation.trials.iter();
                let trials: Vec<&Trial> = trials.filter(|trial| trial.experiment == name).collect();
                Ok(ExperimentConclusion::of(experiment, &trials))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self {
            format: FORMAT,
            run: evaluation.run.clone(),
            command: evaluation.command.clone(),
            seed: evaluation.seed,
            sabotage: evaluation.sabotage,
            started_at: evaluation.started_at,
            finished_at: evaluation.finished_at,
            versions: evaluation.versions.clone(),
            outcome: exit(Outcome::over(
                experiments.iter().map(|experiment| experiment.outcome),
            )),
            experiments,
        })
    }

    /// How many experiments have this outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        let outcomes = self.experiments.iter().map(|experiment| experiment.outcome);
        outcomes.filter(|other| *other == outcome).count()
    }

    /// All verdicts in one line: `6 upheld, 1 refuted, 1 inconclusive`.
    pub fn tally(&self) -> String {
        let tally: Vec<String> = [Outcome::Upheld, Outcome::Refuted, Outcome::Inconclusive]
            .into_iter()
            .map(|outcome| (self.count(outcome), outcome.word()))
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        if tally.is_empty() {
            "nothing was evaluated".to_owned()
        } else {
            tally.join(", ")
        }
    }
}

/// The exit code of an outcome: a refuted claim is a failed check, and only an upheld one holds.
pub fn exit(outcome: Outcome) -> Exit {
    match outcome {
        Outcome::Upheld => Exit::Holds,
        Outcome::Refuted => Exit::Failed,
        Outcome::Inconclusive => Exit::Inconclusive,
    }
}

impl ExperimentConclusion {
    fn of(experiment: &Experiment, trials: &[&Trial]) -> Self {
        let verdicts: Vec<Verdict> = trials
            .iter()
            .map(|trial| verdict::judge(experiment, trial))
            .collect();
        let trials: Vec<TrialVerdict> = trials
            .iter()
            .zip(&verdicts)
            .map(|(trial, verdict)| TrialVerdict {
                repetition: trial.repetition,
                seed: trial.seed,
                outcome: verdict.outcome,
                reason: verdict.reason.clone(),
            })
            .collect();
        let outcome = Outcome::over(trials.iter().map(|trial| trial.outcome));
        Self {
            name: experiment.name.to_owned(),
            claim: experiment.claim.to_owned(),
            refuted_by: experiment.refuted_by.to_owned(),
            outcome,
            reason: reason(outcome, &trials),
            measurements: measurements(experiment, &verdicts),
            trials,
        }
    }

    /// How often it was run.
    pub fn repetitions(&self) -> usize {
        self.trials.len()
    }

    /// The first trial with the experiment's outcome.
    pub fn deciding(&self) -> Option<&TrialVerdict> {
        let mut trials = self.trials.iter();
        trials.find(|trial| trial.outcome == self.outcome)
    }
}

/// Of several trials, the first that decided speaks for those like it. Follows on the outcome's word.
fn reason(outcome: Outcome, trials: &[TrialVerdict]) -> String {
    let alike: Vec<&TrialVerdict> = trials
        .iter()
        .filter(|trial| trial.outcome == outcome)
        .collect();
    match alike.as_slice() {
        [] => "it was not run".to_owned(),
        [only] if trials.len() == 1 => only.reason.clone(),
        [first, ..] => format!(
            "in {} of {} repetitions; in repetition {}: {}",
            alike.len(),
            trials.len(),
            first.repetition,
            first.reason
        ),
    }
}

/// The measurements over all trials. A trial that broke off lacks arms: it has no value there.
fn measurements(experiment: &Experiment, verdicts: &[Verdict]) -> Vec<MeasurementSummary> {
    let Some(first) = verdicts.first() else {
        return Vec::new();
    };
    first
        .measurements
        .iter()
        .map(|measurement| {
            let values = |arm: &str| -> Vec<Option<f64>> {
                let value = |verdict: &Verdict| {
                    let mut measurements = verdict.measurements.iter();
                    let same = measurements.find(|other| other.name == measurement.name)?;
                    same.values.iter().find(|value| value.arm == arm)?.value
                };
                verdicts.iter().map(value).collect()
            };
            let arms: Vec<ArmSummary> = experiment
                .arms
                .iter()
                .map(|plan| {
                    let values = values(plan.name);
                    ArmSummary {
                        arm: plan.name.to_owned(),
                        spread: Spread::of(values.iter().flatten().copied()),
                        values,
                    }
                })
                .collect();
            let effect = match arms.as_slice() {
                [from, .., to] => {
                    let pairs = from.values.iter().copied().zip(to.values.iter().copied());
                    Effect::of(&from.arm, &to.arm, &pairs.collect::<Vec<_>>())
                }
                _ => None,
            };
            MeasurementSummary {
                name: measurement.name.clone(),
                unit: measurement.unit.clone(),
                better: measurement.better,
                decisive: measurement.decisive,
                arms,
                effect,
            }
        })
        .collect()
}

fn unknown(name: &str) -> anyhow::Error {
    let known: Vec<&str> = experiments::ALL.iter().map(|known| known.name).collect();
    outcome::unavailable(
        format!("the evidence is of an experiment that this version doesn't know: {name}"),
        format!(
            "judge it with the version that made it; known here are {}",
            known.join(", ")
        ),
    )
}
