//! Two evaluations side by side: what became better, what worse, and what can't be told from noise.
//!
//! A regression is a verdict that got worse, or a measurement of the last arm (the one with the pattern) that got worse
//! by more than the tolerance and by more than its repetitions differ: its best value now is worse than its worst
//! before. Where one of the runs has a single value, only measurements that the verdict rests on are judged.

use base::outcome::Exit;
use records::evaluation::Sabotage;
use serde::Serialize;

use super::numbers;
use crate::{
    conclusion::{Conclusion, ExperimentConclusion, MeasurementSummary},
    measurement::{Better, Outcome},
    statistics::Spread,
};

/// What changed between two runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// `failed` on a regression; `inconclusive` when the run `after` lacks an experiment, or both have none.
    pub outcome: Exit,
    /// Allowed relative regression of a median.
    pub tolerance: f64,
    /// In the earlier run.
    pub before: Side,
    /// In the later run.
    pub after: Side,
    /// In what the runs differ before anything was measured.
    pub differences: Vec<String>,
    /// The regressions in words; empty when there is none.
    pub regressions: Vec<String>,
    /// Those that both runs have.
    pub experiments: Vec<ExperimentComparison>,
}

/// One of the two.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// The run.
    pub run: String,
    /// Its outcome.
    pub outcome: Exit,
    /// Its seed.
    pub seed: u64,
    /// What was broken on purpose.
    pub sabotage: Option<Sabotage>,
    /// The repository's commit.
    pub agora: String,
}

/// An experiment in both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExperimentComparison {
    /// As in the reports.
    pub name: String,
    /// In the earlier run.
    pub before: Outcome,
    /// In the later run.
    pub after: Outcome,
    /// Whether it got better.
    pub change: Change,
    /// Of the last arm.
    #[serde(rename = "figures")]
    pub measurements: Vec<MeasurementComparison>,
}

/// A measurement of the last arm in both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeasurementComparison {
    /// As in the reports.
    pub name: String,
    /// Of both values.
    pub unit: String,
    /// The arm.
    pub arm: String,
    /// In the earlier run.
    pub before: Option<Spread>,
    /// In the later run.
    pub after: Option<Spread>,
    /// Whether it got better.
    pub change: Change,
}

/// How something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Not at all, or not by more than tolerance and spread.
    Same,
    /// It improved.
    Better,
    /// It got worse.
    Worse,
    /// Neither direction is good or bad, or one run didn't measure it, or only once what isn't counted.
    NotJudged,
}

impl Comparison {
    /// Holds `after` against `before`.
    pub fn of(before: &Conclusion, after: &Conclusion, tolerance: f64) -> Self {
        let mut regressions = Vec::new();
        let mut experiments = Vec::new();
        for old in &before.experiments {
            let Some(new) = after.experiments.iter().find(|new| new.name == old.name) else {
                continue;
            };
            let compared = ExperimentComparison::of(old, new, tolerance);
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
    fn of(old: &ExperimentConclusion, new: &ExperimentConclusion, tolerance: f64) -> Self {
        let measurements = old.measurements.iter().filter_map(|measurement| {
            let same = new
                .measurements
                .iter()
                .find(|other| other.name == measurement.name)?;
            MeasurementComparison::of(measurement, same, tolerance)
        });
        Self {
            name: new.name.clone(),
            before: old.outcome,
            after: new.outcome,
            change: match rank(new.outcome).cmp(&rank(old.outcome)) {
                std::cmp::Ordering::Less => Change::Worse,
                std::cmp::Ordering::Equal => Change::Same,
                std::cmp::Ordering::Greater => Change::Better,
            },
            measurements: measurements.collect(),
        }
    }
}

impl MeasurementComparison {
    fn of(old: &MeasurementSummary, new: &MeasurementSummary, tolerance: f64) -> Option<Self> {
        let (last_old, last_new) = (old.arms.last()?, new.arms.last()?);
        let change = match (&last_old.spread, &last_new.spread) {
            // What one run's noise is nobody knows; a harm is counted, and has none.
            (Some(before), Some(after)) if new.decisive || before.count.min(after.count) > 1 => {
                change(new.better, before, after, tolerance)
            }
            _ => Change::NotJudged,
        };
        Some(Self {
            name: new.name.clone(),
            unit: new.unit.clone(),
            arm: last_new.arm.clone(),
            before: last_old.spread,
            after: last_new.spread,
            change,
        })
    }
}

/// Beyond the tolerance, and beyond what the repetitions differ by anyway.
fn change(better: Better, before: &Spread, after: &Spread, tolerance: f64) -> Change {
    let allowed = before.median.abs() * tolerance;
    let more = after.median - before.median > allowed && after.min > before.max;
    let less = before.median - after.median > allowed && after.max < before.min;
    match better {
        Better::Neither => Change::NotJudged,
        Better::Less if more => Change::Worse,
        Better::Less if less => Change::Better,
        Better::More if less => Change::Worse,
        Better::More if more => Change::Better,
        Better::Less | Better::More => Change::Same,
    }
}

/// From bad to good.
fn rank(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Refuted => 0,
        Outcome::Inconclusive => 1,
        Outcome::Upheld => 2,
    }
}

impl Change {
    /// One word.
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
