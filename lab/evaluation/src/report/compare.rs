//! Compares two evaluations: what improved, what got worse, and what can't be told from noise.
//!
//! A regression is a verdict that got worse, or a measurement of the last arm (the one with the pattern) that got worse
//! by more than the tolerance and by more than its repetitions differ: its best value now is worse than its worst
//! before. The tolerance of a measurement is what noise makes of two medians of so many values, where the machine's noise is
//! known ([`noise::between_medians`]): a noise floor is of the mean of an A/A run's pairs, and single values differ more.
//! Where one of the runs has a single value, only measurements that the verdict rests on are judged.
//!
//! All measurements that are judged by noise share an error of 5 % (Bonferroni): of two runs of the same, some median is
//! beyond its tolerance in one of twenty cases at most, and beyond it on the worse side in one of forty. The noise is that of arms
//! run back to back; what changes with the day comes on top of it.
//!
//! Left out: how a comparison looks (`xtask`).

use base::outcome::Exit;
use records::evaluation::{NoiseRecord, Ratio, Sabotage};
use serde::Serialize;

use crate::numbers;
use crate::{
    conclusion::{Conclusion, ExperimentConclusion, MeasurementSummary},
    effects,
    measurement::{Better, Outcome},
    statistics::{Spread, noise, pairs::LEVEL},
};

/// The allowed relative regression of a measurement whose noise isn't known.
const DEFAULT_TOLERANCE: f64 = 0.2;

/// The comparison of two runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// `failed` on a regression; `inconclusive` when the run `after` lacks an experiment, or both have none.
    pub outcome: Exit,
    /// The allowed relative regression of every median, 0.2 is 20 %; `None` where each measurement has its own.
    pub tolerance: Option<f64>,
    /// The earlier run.
    pub before: Side,
    /// The later run.
    pub after: Side,
    /// What differs between the runs besides their results: seed, versions, machine; in words.
    pub differences: Vec<String>,
    /// The regressions in words; empty when there is none.
    pub regressions: Vec<String>,
    /// The experiments that both runs have.
    pub experiments: Vec<ExperimentComparison>,
}

/// One of the two runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// The run's id.
    pub run: String,
    /// The run's outcome.
    pub outcome: Exit,
    /// The run's seed.
    pub seed: u64,
    /// What was broken on purpose, if anything.
    pub sabotage: Option<Sabotage>,
    /// The repository's commit.
    pub agora: String,
}

/// An experiment in both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExperimentComparison {
    /// The experiment's name.
    pub name: String,
    /// The outcome in the earlier run.
    pub before: Outcome,
    /// The outcome in the later run.
    pub after: Outcome,
    /// How the outcome changed.
    pub change: Change,
    /// The measurements of the last arm.
    #[serde(rename = "figures")]
    pub measurements: Vec<MeasurementComparison>,
}

/// A measurement of the last arm in both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeasurementComparison {
    /// The measurement's name.
    pub name: String,
    /// The unit of both values.
    pub unit: String,
    /// The arm's name.
    pub arm: String,
    /// The values in the earlier run; `None` where it wasn't measured.
    pub before: Option<Spread>,
    /// The values in the later run; `None` where it wasn't measured.
    pub after: Option<Spread>,
    /// The allowed relative regression of its median.
    pub tolerance: f64,
    /// How the measurement changed.
    pub change: Change,
}

/// How something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It didn't change, or by no more than tolerance and range.
    Same,
    /// It improved.
    Better,
    /// It got worse.
    Worse,
    /// Neither direction is better, or one run didn't measure it, or measured it only once and no verdict rests on it.
    NotJudged,
}

impl Comparison {
    /// Compares the run `after` with the run `before`, with this tolerance or with what the machine's noise makes of them.
    pub fn of(
        before: &Conclusion,
        after: &Conclusion,
        noise: &[NoiseRecord],
        tolerance: Option<f64>,
    ) -> Self {
        let in_both: Vec<(&ExperimentConclusion, &ExperimentConclusion)> = before
            .experiments
            .iter()
            .filter_map(|old| {
                let mut experiments = after.experiments.iter();
                Some((old, experiments.find(|new| new.name == old.name)?))
            })
            .collect();
        let tolerances = Tolerances::new(&in_both, noise, tolerance);
        let mut regressions = Vec::new();
        let mut experiments = Vec::new();
        for (old, new) in in_both {
            let compared = ExperimentComparison::of(old, new, &tolerances);
            if compared.change == Change::Worse {
                regressions.push(format!(
                    "{}: {} before, {} now: {}",
                    new.name,
                    old.outcome.word(),
                    new.outcome.word(),
                    new.reason
                ));
            }
            for measurement in &compared.measurements {
                if measurement.change == Change::Worse {
                    regressions.push(format!(
                        "{}: {} (arm {}): {} before, {} now",
                        new.name,
                        measurement.name,
                        measurement.arm,
                        numbers::spread(measurement.before.as_ref(), &measurement.unit),
                        numbers::spread(measurement.after.as_ref(), &measurement.unit),
                    ));
                }
            }
            experiments.push(compared);
        }
        let outcome = if !regressions.is_empty() {
            Exit::Failed
        } else if experiments.len() < before.experiments.len() || experiments.is_empty() {
            Exit::Inconclusive
        } else {
            Exit::Holds
        };
        Self {
            outcome,
            tolerance,
            before: Side::of(before),
            after: Side::of(after),
            differences: differences(before, after),
            regressions,
            experiments,
        }
    }
}

impl Side {
    fn of(conclusion: &Conclusion) -> Self {
        Self {
            run: conclusion.run.clone(),
            outcome: conclusion.outcome,
            seed: conclusion.seed,
            sabotage: conclusion.sabotage,
            agora: conclusion.versions.agora.clone(),
        }
    }
}

impl ExperimentComparison {
    fn of(
        old: &ExperimentConclusion,
        new: &ExperimentConclusion,
        tolerances: &Tolerances<'_>,
    ) -> Self {
        let measurements = measured_in_both(old, new)
            .filter_map(|(old, same)| MeasurementComparison::of(old, same, &new.name, tolerances));
        Self {
            name: new.name.clone(),
            before: old.outcome,
            after: new.outcome,
            change: match rank(old.outcome).zip(rank(new.outcome)) {
                None => Change::NotJudged,
                Some((old, new)) if new < old => Change::Worse,
                Some((old, new)) if new > old => Change::Better,
                Some(_) => Change::Same,
            },
            measurements: measurements.collect(),
        }
    }
}

impl MeasurementComparison {
    fn of(
        old: &MeasurementSummary,
        new: &MeasurementSummary,
        experiment: &str,
        tolerances: &Tolerances<'_>,
    ) -> Option<Self> {
        let (last_old, last_new) = (old.arms.last()?, new.arms.last()?);
        let count = |spread: Option<Spread>| spread.map_or(1, |spread| spread.count);
        let (before, after) = (count(last_old.spread), count(last_new.spread));
        let tolerance = tolerances.of(experiment, &new.name, before, after);
        let change = match judged(old, new) {
            Some((before, after)) => change(new.better, &before, &after, tolerance),
            None => Change::NotJudged,
        };
        Some(Self {
            name: new.name.clone(),
            tolerance,
            unit: new.unit.clone(),
            arm: last_new.arm.clone(),
            before: last_old.spread,
            after: last_new.spread,
            change,
        })
    }
}

/// How much worse the median of each measurement may get.
struct Tolerances<'a> {
    /// What was asked for: the same for all.
    given: Option<f64>,
    noise: &'a [NoiseRecord],
    /// The two-sided error of each measurement that is judged by noise: its share.
    level: f64,
}

impl<'a> Tolerances<'a> {
    /// For the experiments that both runs have.
    fn new(
        in_both: &[(&ExperimentConclusion, &ExperimentConclusion)],
        noise: &'a [NoiseRecord],
        given: Option<f64>,
    ) -> Self {
        let by_noise = in_both.iter().map(|(old, new)| {
            let measurements = measured_in_both(old, new).filter(|(old, same)| {
                judged(old, same).is_some() && known(noise, &new.name, &same.name).is_some()
            });
            measurements.count()
        });
        let by_noise: usize = by_noise.sum();
        Self {
            given,
            noise,
            level: LEVEL / by_noise.max(1) as f64,
        }
    }

    /// That of a measurement with so many values before and after.
    fn of(&self, experiment: &str, measurement: &str, before: usize, after: usize) -> f64 {
        let by_noise = || {
            let noise = known(self.noise, experiment, measurement)?;
            let (deviation, pairs) = (noise.log_deviation, noise.pairs as usize);
            Some(noise::between_medians(deviation, pairs, before, after, self.level) - 1.0)
        };
        self.given.or_else(by_noise).unwrap_or(DEFAULT_TOLERANCE)
    }
}

/// The noise of a measurement, as far as it is known.
fn known<'a>(
    noise: &'a [NoiseRecord],
    experiment: &str,
    measurement: &str,
) -> Option<&'a NoiseRecord> {
    effects::find(noise, experiment, measurement, Ratio::BetweenArms)
}

/// The measurements that both conclusions on an experiment have.
fn measured_in_both<'a>(
    old: &'a ExperimentConclusion,
    new: &'a ExperimentConclusion,
) -> impl Iterator<Item = (&'a MeasurementSummary, &'a MeasurementSummary)> {
    old.measurements.iter().filter_map(move |measurement| {
        let mut others = new.measurements.iter();
        let same = others.find(|other| other.name == measurement.name)?;
        Some((measurement, same))
    })
}

/// The values of the last arm before and after; `None` where a change of them isn't judged.
fn judged(old: &MeasurementSummary, new: &MeasurementSummary) -> Option<(Spread, Spread)> {
    let before = old.arms.last()?.spread?;
    let after = new.arms.last()?.spread?;
    // Of many measurements some would differ by chance; those that a verdict rests on are few, and mostly counts.
    let is_judged = new.decisive || before.count.min(after.count) > 1;
    (is_judged && new.better != Better::Neither).then_some((before, after))
}

/// How a median changed: only a change beyond the tolerance, and with ranges that don't overlap, counts. The tolerance is the same
/// factor in both directions.
fn change(better: Better, before: &Spread, after: &Spread, tolerance: f64) -> Change {
    let factor = 1.0 + tolerance;
    let more = after.median > before.median * factor && after.min > before.max;
    let less = after.median * factor < before.median && after.max < before.min;
    match better {
        Better::Neither => Change::NotJudged,
        Better::Less if more => Change::Worse,
        Better::Less if less => Change::Better,
        Better::More if less => Change::Worse,
        Better::More if more => Change::Better,
        Better::Less | Better::More => Change::Same,
    }
}

/// The order of outcomes, from the worst to the best; `None` where nothing was judged.
fn rank(outcome: Outcome) -> Option<u8> {
    match outcome {
        Outcome::Refuted => Some(0),
        Outcome::Inconclusive => Some(1),
        Outcome::Upheld => Some(2),
        Outcome::NotJudged => None,
    }
}

impl Change {
    /// The change in one word, for tables; empty where it isn't judged.
    pub fn word(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::NotJudged => "",
        }
    }
}

fn differences(before: &Conclusion, after: &Conclusion) -> Vec<String> {
    let mut said = Vec::new();
    let mut differs = |what: &str, old: String, new: String| {
        if old != new {
            said.push(format!("{what}: {old} before, {new} now"));
        }
    };
    let (old, new) = (&before.versions, &after.versions);
    differs("seed", before.seed.to_string(), after.seed.to_string());
    differs("agora", old.agora.clone(), new.agora.clone());
    differs("engine", old.engine.clone(), new.engine.clone());
    differs("cores", old.cores.to_string(), new.cores.to_string());
    differs(
        "memory",
        old.memory_bytes.to_string(),
        new.memory_bytes.to_string(),
    );
    let sabotage = |conclusion: &Conclusion| {
        conclusion
            .sabotage
            .map_or("none", Sabotage::option)
            .to_owned()
    };
    differs("sabotage", sabotage(before), sabotage(after));
    let services = old.images.keys().chain(new.images.keys());
    for service in services.collect::<std::collections::BTreeSet<_>>() {
        let image = |images: &std::collections::BTreeMap<String, String>| {
            images
                .get(service)
                .cloned()
                .unwrap_or_else(|| "none".to_owned())
        };
        differs(
            &format!("image of {service}"),
            image(&old.images),
            image(&new.images),
        );
    }
    let has = |conclusion: &Conclusion, name: &str| {
        let mut experiments = conclusion.experiments.iter();
        experiments.any(|experiment| experiment.name == name)
    };
    for (one, other, which) in [(before, after, "earlier"), (after, before, "later")] {
        for experiment in &one.experiments {
            if !has(other, &experiment.name) {
                said.push(format!("{} is only in the {which} run", experiment.name));
            }
        }
    }
    for old in &before.experiments {
        let new = after.experiments.iter().find(|new| new.name == old.name);
        if let Some(new) = new.filter(|new| new.repetitions() != old.repetitions()) {
            said.push(format!(
                "{}: {} repetitions before, {} now",
                old.name,
                old.repetitions(),
                new.repetitions()
            ));
        }
    }
    let single = |conclusion: &Conclusion| {
        let mut experiments = conclusion.experiments.iter();
        experiments.any(|experiment| experiment.repetitions() == 1)
    };
    if single(before) || single(after) {
        said.push(format!(
            "{}: what looks like a change may be noise",
            numbers::NO_SPREAD
        ));
    }
    said
}
