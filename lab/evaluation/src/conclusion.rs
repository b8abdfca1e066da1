//! The conclusion of an evaluation: what `--format json` prints and `verdicts.json` contains.
//! `xtask/schemas/evaluation.schema.json` is its schema.
//!
//! Computed from the evidence alone, with [`crate::verdict`]. Left out: how it looks ([`crate::report`]).

use base::outcome::{self, Exit};
use chrono::{DateTime, Utc};
use records::evaluation::{Design, Evaluation, Profile, Ratio, Sabotage, Trial, Versions};
use serde::{Deserialize, Serialize};

use super::{
    effects::{self, EffectConclusion, Judging},
    experiment::{Experiment, Kind},
    experiments,
    measurement::{Better, Outcome},
    statistics::{Effect, Spread, runs},
    verdict::{self, Verdict},
};

/// The version of this form.
pub const FORMAT: u32 = 2;

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
    /// What the arms were compared for.
    pub design: Design,
    /// How thorough the run is.
    pub profile: Profile,
    /// When the run started, before its first arm.
    pub started_at: DateTime<Utc>,
    /// When its last arm ended.
    pub finished_at: DateTime<Utc>,
    /// The versions that were evaluated, and the machine.
    pub versions: Versions,
    /// `holds`, `failed` or `inconclusive`: the exit code in a word. Experiments that were not judged have no part in it.
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
    /// `safety`: single runs decide. `magnitude`: only effects over pairs of runs do.
    pub kind: Kind,
    /// The verdict.
    pub outcome: Outcome,
    /// What the verdict rests on, in words.
    pub reason: String,
    /// The verdict with its strength, in one sentence that may be quoted.
    pub quote: String,
    /// The declared effects of its magnitude claims.
    pub effects: Vec<EffectConclusion>,
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
    /// Whether a repetition's arms can be compared, one for each: only those are in `effect`.
    pub counts: Vec<bool>,
    /// How large a ratio of the arms seems between equal arms on this machine, as a factor; `None` where it was not measured.
    pub noise_floor: Option<f64>,
    /// The arm that was run later against the one that was run before, whichever it is, as a ratio: 1 where the position has no
    /// effect. `None` for other than two arms, and until each was run first at least once.
    pub position_effect: Option<f64>,
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

impl MeasurementSummary {
    /// The second of two arms divided by the first, one for each repetition that counts as a pair and in which both are above 0.
    pub fn ratios(&self) -> Vec<f64> {
        let [from, to] = self.arms.as_slice() else {
            return Vec::new();
        };
        let pairs = from.values.iter().zip(&to.values);
        let pairs = pairs.zip(&self.counts).filter(|(_, counts)| **counts);
        let both = pairs.filter_map(|((from, to), _)| from.zip(*to));
        both.filter(|(from, to)| *from > 0.0 && *to > 0.0)
            .map(|(from, to)| to / from)
            .collect()
    }
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
            .map(|name| ExperimentConclusion::of(evaluation, name))
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self {
            format: FORMAT,
            run: evaluation.run.clone(),
            command: evaluation.command.clone(),
            seed: evaluation.seed,
            sabotage: evaluation.sabotage,
            design: evaluation.design,
            profile: evaluation.profile,
            started_at: evaluation.started_at,
            finished_at: evaluation.finished_at,
            versions: evaluation.versions.clone(),
            outcome: exit(evaluation.design, &experiments),
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
        let tally: Vec<String> = Outcome::ALL
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

/// The exit code of an evaluation: a refuted claim is a failed check, and only upheld ones hold. Where equal arms are compared,
/// nothing is upheld: a false alarm fails, and anything that could be measured holds.
fn exit(design: Design, experiments: &[ExperimentConclusion]) -> Exit {
    let outcome = Outcome::over(experiments.iter().map(|experiment| experiment.outcome));
    match design {
        Design::Pattern => match outcome {
            Outcome::Upheld => Exit::Holds,
            Outcome::Refuted => Exit::Failed,
            Outcome::Inconclusive | Outcome::NotJudged => Exit::Inconclusive,
        },
        Design::SameArms => {
            let unmeasured = |experiment: &ExperimentConclusion| {
                let mut effects = experiment.effects.iter();
                effects.len() == 0 || effects.any(|effect| effect.interval.is_none())
            };
            if outcome == Outcome::Refuted {
                Exit::Failed
            } else if experiments.is_empty() || experiments.iter().any(unmeasured) {
                Exit::Inconclusive
            } else {
                Exit::Holds
            }
        }
    }
}

impl ExperimentConclusion {
    /// Judges the evidence of one experiment.
    ///
    /// # Errors
    /// When there is no such experiment.
    pub(crate) fn of(evaluation: &Evaluation, name: &str) -> anyhow::Result<Self> {
        let experiment = experiments::find(name).ok_or_else(|| unknown(name))?;
        let trials = evaluation.trials.iter();
        let trials: Vec<&Trial> = trials.filter(|trial| trial.experiment == name).collect();
        let verdicts: Vec<Verdict> = trials
            .iter()
            .map(|trial| verdict::judge(experiment, trial))
            .collect();
        let runs: Vec<Run> = trials
            .iter()
            .map(|trial| Run {
                counts: verdict::comparable(experiment, trial),
                first: first_run(trial),
            })
            .collect();
        let counting: Vec<&Verdict> = verdicts
            .iter()
            .zip(&runs)
            .filter(|(_, run)| run.counts)
            .map(|(verdict, _)| verdict)
            .collect();
        let judging = Judging::of(evaluation, experiment, trials.len());
        let at_stake = verdict::at_stake_with_pattern(trials.iter().copied());
        let declared = experiment.effects.iter();
        let effects: Vec<EffectConclusion> = declared
            .map(|effect| judging.effect(experiment, effect, &counting))
            .collect();
        let trials: Vec<TrialVerdict> = trials
            .iter()
            .zip(&verdicts)
            .map(|(trial, verdict)| {
                // Equal arms have nothing to uphold, but each of them has the pattern.
                let harm = match evaluation.design {
                    Design::SameArms => verdict::harm_for_good(&trial.arms),
                    Design::Pattern => None,
                };
                let (outcome, reason) = match harm {
                    Some(harm) => (Outcome::Refuted, format!("with it {harm}")),
                    None => (
                        part_of(evaluation.design, experiment.kind, verdict.outcome),
                        verdict.reason.clone(),
                    ),
                };
                TrialVerdict {
                    repetition: trial.repetition,
                    seed: trial.seed,
                    outcome,
                    reason,
                }
            })
            .collect();
        let (outcome, reason) =
            conclude(evaluation.design, experiment.kind, &trials, &runs, &effects);
        Ok(Self {
            name: experiment.name.to_owned(),
            claim: experiment.claim.to_owned(),
            refuted_by: experiment.refuted_by.to_owned(),
            kind: experiment.kind,
            outcome,
            quote: quote(experiment, outcome, &reason, &trials, &at_stake),
            reason,
            effects,
            measurements: measurements(evaluation, experiment, &verdicts, &runs),
            trials,
        })
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

/// What a run's verdict is worth: of a magnitude claim a run is a part, and between equal arms there is nothing to uphold.
fn part_of(design: Design, kind: Kind, outcome: Outcome) -> Outcome {
    match (design, kind, outcome) {
        (Design::SameArms, ..) | (Design::Pattern, Kind::Magnitude, Outcome::Upheld) => {
            Outcome::NotJudged
        }
        (Design::Pattern, _, outcome) => outcome,
    }
}

/// The verdict on an experiment, and its reason.
fn conclude(
    design: Design,
    kind: Kind,
    trials: &[TrialVerdict],
    runs: &[Run],
    effects: &[EffectConclusion],
) -> (Outcome, String) {
    let by_runs = Outcome::over(trials.iter().map(|trial| trial.outcome));
    let by_effects = Outcome::over(effects.iter().map(|effect| effect.outcome));
    let sentences = |outcome| {
        let those = effects.iter().filter(|effect| effect.outcome == outcome);
        those
            .map(EffectConclusion::sentence)
            .collect::<Vec<_>>()
            .join("; ")
    };
    match (kind, by_runs) {
        (_, Outcome::Refuted) => (by_runs, reason(by_runs, trials)),
        // One pair is shown, whatever it says.
        (Kind::Magnitude, _) if trials.len() <= 1 => {
            let run = trials.first().map_or("", |trial| trial.reason.as_str());
            (
                Outcome::NotJudged,
                format!("one pair is shown and not judged: {run}"),
            )
        }
        (Kind::Magnitude, _) => match open_pairs(trials, runs) {
            // Left out one by one, they would choose the pairs by what one arm measured, and the test would not be exact.
            Some(reason) => (Outcome::Inconclusive, reason),
            None => (by_effects, sentences(by_effects)),
        },
        (Kind::Safety, _) if effects.is_empty() && design == Design::SameArms => {
            (Outcome::NotJudged, "it declares no effect".to_owned())
        }
        (Kind::Safety, _) if design == Design::SameArms => (by_effects, sentences(by_effects)),
        (Kind::Safety, _) if by_effects == Outcome::Refuted => (by_effects, sentences(by_effects)),
        // Open effects: fewer pairs than decide are not judged.
        (Kind::Safety, Outcome::Upheld)
            if by_effects == Outcome::Inconclusive && !effects.is_empty() =>
        {
            (by_effects, sentences(by_effects))
        }
        (Kind::Safety, _) => {
            let open = match by_runs {
                Outcome::Upheld => not_judged(effects),
                _ => String::new(),
            };
            (by_runs, reason(by_runs, trials) + &open)
        }
    }
}

/// What a safety claim says besides and so few runs can't decide.
fn not_judged(effects: &[EffectConclusion]) -> String {
    let open = effects.iter().filter(|it| it.outcome == Outcome::NotJudged);
    let open: Vec<&str> = open.map(|it| it.measurement.as_str()).collect();
    match open.as_slice() {
        [] => String::new(),
        some => format!("; not judged by so few runs: {}", some.join(", ")),
    }
}

/// Of the pairs that count, how many decide nothing by what they measured, and why the first of them doesn't; `None` without one.
fn open_pairs(trials: &[TrialVerdict], runs: &[Run]) -> Option<String> {
    let counting = trials.iter().zip(runs).filter(|(_, run)| run.counts);
    let open = counting.filter(|(trial, _)| trial.outcome == Outcome::Inconclusive);
    let open: Vec<&TrialVerdict> = open.map(|(trial, _)| trial).collect();
    let first = open.first()?;
    Some(format!(
        "{} of {} pairs decide nothing; in repetition {}: {}",
        open.len(),
        trials.len(),
        first.repetition,
        first.reason
    ))
}

/// One sentence that may be quoted: what was claimed, the verdict, and how strong it is.
fn quote(
    experiment: &Experiment,
    outcome: Outcome,
    reason: &str,
    trials: &[TrialVerdict],
    at_stake: &str,
) -> String {
    let runs = u32::try_from(trials.len()).unwrap_or(u32::MAX);
    let noun = if runs == 1 { "run" } else { "runs" };
    let strength = match (experiment.kind, outcome) {
        (Kind::Safety, Outcome::Upheld) => format!(
            " (it failed in 0 of {runs} {noun}, in which with it {at_stake}; at 95 % it fails in at most {:.0} % of all)",
            100.0 * runs::fails_in_at_most(runs)
        ),
        _ => format!(" ({runs} {noun})"),
    };
    format!(
        "{}: {}: {reason}{strength}",
        experiment.name,
        outcome.word()
    )
}

/// What is known of a trial besides its measurements.
struct Run {
    /// Whether it counts as a pair.
    counts: bool,
    /// The index of the arm that was run first.
    first: Option<usize>,
}

/// The index of the arm that was run first; `None` where none was.
fn first_run(trial: &Trial) -> Option<usize> {
    let arms = trial.arms.iter().enumerate();
    arms.min_by_key(|(_, arm)| arm.started_at)
        .map(|(index, _)| index)
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
fn measurements(
    evaluation: &Evaluation,
    experiment: &Experiment,
    verdicts: &[Verdict],
    runs: &[Run],
) -> Vec<MeasurementSummary> {
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
            // More arms have other faults as well.
            let effect = match arms.as_slice() {
                [from, to] => {
                    let pairs = from.values.iter().copied().zip(to.values.iter().copied());
                    let pairs = pairs.zip(runs).filter(|(_, run)| run.counts);
                    let pairs: Vec<_> = pairs.map(|(pair, _)| pair).collect();
                    Effect::of(&from.arm, &to.arm, &pairs)
                }
                _ => None,
            };
            MeasurementSummary {
                name: measurement.name.clone(),
                unit: measurement.unit.clone(),
                better: measurement.better,
                decisive: measurement.decisive,
                noise_floor: effects::find(
                    &evaluation.noise,
                    experiment.name,
                    &measurement.name,
                    Ratio::BetweenArms,
                )
                .map(|noise| noise.factor),
                position_effect: position_effect(&arms, runs),
                counts: runs.iter().map(|run| run.counts).collect(),
                arms,
                effect,
            }
        })
        .collect()
}

/// Of the log-ratios of two arms, half of the difference between the trials with the one and the other order.
fn position_effect(arms: &[ArmSummary], runs: &[Run]) -> Option<f64> {
    let [one, other] = arms else { return None };
    let mean = |first: usize| {
        let pairs = one.values.iter().zip(&other.values).zip(runs);
        let logs: Vec<f64> = pairs
            .filter(|(_, run)| run.counts && run.first == Some(first))
            .filter_map(|((one, other), _)| Some(((*other)? / (*one)?).ln()))
            .filter(|log| log.is_finite())
            .collect();
        (!logs.is_empty()).then(|| logs.iter().sum::<f64>() / logs.len() as f64)
    };
    Some(((mean(0)? - mean(1)?) / 2.0).exp())
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

#[cfg(test)]
pub(crate) mod tests {
    use records::evaluation::{Arm, NoiseRecord, PlannedExperiment};

    use super::*;
    use crate::report::tests::{Sketch, evaluation};

    /// Orders decided a second with one consumer and with two, a pair for each trial.
    pub(crate) fn consumers(pairs: &[(u64, u64)]) -> Evaluation {
        let arm = |name: &str, decided: u64| -> Arm {
            let mut arm = Sketch::arm(name).rate(120).build();
            let fault = arm.fault.as_mut().unwrap();
            let in_force = fault.in_force.as_mut().unwrap();
            let seconds = (in_force.until - in_force.from).as_seconds_f64();
            in_force.decided = (decided as f64 * seconds) as u64;
            arm.load.as_mut().unwrap().summary.orders.accepted = 120 * 14;
            arm
        };
        let trials = pairs.iter().enumerate().map(|(number, (one, two))| Trial {
            experiment: "competing_consumers".to_owned(),
            repetition: u32::try_from(number).unwrap() + 1,
            seed: 1,
            arms: vec![arm("1", *one), arm("2", *two)],
        });
        Evaluation {
            noise: vec![noise(1.05)],
            ..evaluation(trials.collect())
        }
    }

    /// How much equal arms differ in that.
    pub(crate) fn noise(factor: f64) -> NoiseRecord {
        NoiseRecord {
            experiment: "competing_consumers".to_owned(),
            measurement: "orders decided under the CPU limit".to_owned(),
            ratio: Ratio::BetweenArms,
            factor,
            log_deviation: 0.03,
            pairs: 6,
            conditions: experiments::find("competing_consumers")
                .unwrap()
                .conditions(),
            run: "aa".to_owned(),
            at: Utc::now(),
            cores: 2,
            memory_bytes: 1 << 34,
            engine: "1".to_owned(),
            load_average: None,
        }
    }

    fn concluded(evaluation: &Evaluation) -> (Outcome, String, Exit) {
        let conclusion = Conclusion::of(evaluation).unwrap();
        let experiment = &conclusion.experiments[0];
        (
            experiment.outcome,
            experiment.reason.clone(),
            conclusion.outcome,
        )
    }

    const FASTER: [(u64, u64); 6] = [(40, 60), (41, 60), (40, 62), (39, 60), (42, 62), (40, 61)];
    const ALIKE: [(u64, u64); 6] = [(40, 40), (41, 40), (40, 41), (39, 40), (42, 41), (40, 40)];

    #[test]
    fn one_pair_of_a_magnitude_claim_is_shown_and_not_judged() {
        for pair in [FASTER[0], ALIKE[0]] {
            let (outcome, reason, exit) = concluded(&consumers(&[pair]));
            assert_eq!(outcome, Outcome::NotJudged, "{reason}");
            assert_eq!(exit, Exit::Inconclusive);
        }
    }

    #[test]
    fn fewer_than_six_pairs_decide_nothing_and_say_how_many_are_needed() {
        let (outcome, reason, _) = concluded(&consumers(&FASTER[..5]));
        assert_eq!(outcome, Outcome::Inconclusive, "{reason}");
        assert!(reason.contains("5 pairs decide nothing"), "{reason}");
        assert!(reason.contains("are needed"), "{reason}");
    }

    #[test]
    fn six_pairs_uphold_a_large_effect_and_refute_none() {
        let (outcome, reason, exit) = concluded(&consumers(&FASTER));
        assert_eq!((outcome, exit), (Outcome::Upheld, Exit::Holds), "{reason}");
        assert!(reason.contains("×1.5"), "{reason}");
        let (outcome, reason, exit) = concluded(&consumers(&ALIKE));
        assert_eq!(
            (outcome, exit),
            (Outcome::Refuted, Exit::Failed),
            "{reason}"
        );
    }

    #[test]
    fn an_effect_within_the_noise_or_with_unknown_noise_is_not_upheld() {
        let mut evaluation = consumers(&FASTER);
        evaluation.noise = vec![noise(2.0)];
        let (outcome, reason, _) = concluded(&evaluation);
        assert_eq!(outcome, Outcome::Inconclusive, "{reason}");
        assert!(reason.contains("noise alone goes as far"), "{reason}");
        evaluation.noise.clear();
        let (outcome, reason, _) = concluded(&evaluation);
        assert_eq!(outcome, Outcome::Inconclusive, "{reason}");
        assert!(reason.contains("evaluate --aa"), "{reason}");
    }

    #[test]
    fn one_ledger_that_does_not_reconcile_refutes_a_magnitude_claim() {
        let mut evaluation = consumers(&FASTER);
        let arm = &mut evaluation.trials[3].arms[1];
        let reconciliation = arm.reconciliation.as_mut().unwrap();
        reconciliation.doubled.push("one".to_owned());
        let (outcome, reason, _) = concluded(&evaluation);
        assert_eq!(outcome, Outcome::Refuted, "{reason}");
    }

    #[test]
    fn equal_arms_that_seem_to_differ_are_a_false_alarm() {
        let mut evaluation = consumers(&ALIKE);
        evaluation.design = Design::SameArms;
        let (_, reason, exit) = concluded(&evaluation);
        assert_eq!(exit, Exit::Holds, "{reason}");
        let mut evaluation = consumers(&FASTER);
        evaluation.design = Design::SameArms;
        let (_, reason, exit) = concluded(&evaluation);
        assert_eq!(exit, Exit::Failed, "{reason}");
        // Without six pairs there is no noise floor.
        evaluation.trials.truncate(2);
        assert_eq!(concluded(&evaluation).2, Exit::Inconclusive);
    }

    #[test]
    fn looks_after_each_pair_ask_for_more_than_one_at_the_end() {
        let mut evaluation = consumers(&FASTER);
        evaluation.planned = vec![PlannedExperiment {
            name: "competing_consumers".to_owned(),
            repetitions: 12,
            until_decided: true,
        }];
        // Of 64 patterns two are as extreme: 3 %, and a look has less.
        let (outcome, reason, _) = concluded(&evaluation);
        assert_eq!(outcome, Outcome::Inconclusive, "{reason}");
    }

    #[test]
    fn what_runs_later_is_told_apart_from_what_has_the_pattern() {
        // Whatever runs second is a fifth faster; two consumers are twice as fast.
        let mut evaluation = consumers(&[(50, 120), (60, 100), (50, 120), (60, 100)]);
        for trial in &mut evaluation.trials {
            let first = usize::from(trial.repetition % 2 == 0);
            trial.arms[1 - first].started_at += chrono::TimeDelta::seconds(100);
        }
        let conclusion = Conclusion::of(&evaluation).unwrap();
        let speed = &conclusion.experiments[0].measurements[0];
        let effect = speed.position_effect.unwrap();
        assert!((effect - 1.2).abs() < 0.01, "{effect}");
    }
}
