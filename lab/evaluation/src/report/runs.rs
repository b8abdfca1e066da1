//! The runs of an experiment: their order, what the order changes, how long their steps took, and where their evidence is.
//!
//! Left out: what happened in a run ([`super::html`]).

use std::fmt::Write;

use base::progress::spell;
use records::evaluation::{Arm, Evaluation, Trial};
use serde::Serialize;

use super::template::{Badge, escape};
use crate::{
    conclusion::ExperimentConclusion,
    numbers::{self, NONE},
    statistics::Spread,
};

/// How many colours the style has for steps.
const COLOURS: usize = 6;

/// A run in the table of all of them.
#[derive(Debug, Serialize)]
pub(super) struct RunView<'a> {
    repetition: u32,
    /// The id of the section in which it is drawn; `None` where there was no room.
    section: Option<String>,
    seed: u64,
    badge: Badge,
    reason: &'a str,
    /// The arms in the order in which they were run.
    order: String,
    took: String,
    /// Where it is in `evidence.json`.
    place: String,
}

/// The id of the section in which a run is drawn.
pub(super) fn section(experiment: &str, repetition: u32) -> String {
    format!("{experiment}-{repetition}")
}

/// The trials of an experiment, each with its place in the evidence.
fn trials<'a>(
    evaluation: &'a Evaluation,
    experiment: &str,
) -> impl Iterator<Item = (usize, &'a Trial)> {
    let trials = evaluation.trials.iter().enumerate();
    trials.filter(move |(_, trial)| trial.experiment == experiment)
}

/// Every run of an experiment.
pub(super) fn views<'a>(
    evaluation: &Evaluation,
    experiment: &'a ExperimentConclusion,
    drawn: &[u32],
) -> Vec<RunView<'a>> {
    let verdicts = experiment.trials.iter();
    let runs = verdicts.zip(trials(evaluation, &experiment.name));
    runs.map(|(verdict, (place, trial))| {
        let took = trial
            .arms
            .iter()
            .map(|arm| arm.finished_at - arm.started_at);
        let took: chrono::TimeDelta = took.sum();
        let is_drawn = drawn.contains(&verdict.repetition);
        RunView {
            repetition: verdict.repetition,
            section: is_drawn.then(|| section(&experiment.name, verdict.repetition)),
            seed: verdict.seed,
            badge: Badge::of(verdict.outcome),
            reason: &verdict.reason,
            order: ordered(trial).join(" → "),
            took: took.to_std().map_or_else(|_| NONE.to_owned(), spell),
            place: format!("trials[{place}]"),
        }
    })
    .collect()
}

/// The names of the arms in the order in which they were run.
fn ordered(trial: &Trial) -> Vec<&str> {
    let mut arms: Vec<&Arm> = trial.arms.iter().collect();
    arms.sort_by_key(|arm| arm.started_at);
    arms.into_iter().map(|arm| arm.name.as_str()).collect()
}

/// Which arm ran first how often: ``first was `off` in 3 runs, `on` in 2``.
pub(super) fn first_arms(evaluation: &Evaluation, experiment: &str) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for (_, trial) in trials(evaluation, experiment) {
        let Some(first) = ordered(trial).first().copied() else {
            continue;
        };
        match counts.iter_mut().find(|(arm, _)| *arm == first) {
            Some((_, count)) => *count += 1,
            None => counts.push((first, 1)),
        }
    }
    counts.sort_unstable();
    let said = counts.iter().map(|(arm, count)| {
        let noun = if *count == 1 { "run" } else { "runs" };
        format!("`{arm}` in {count} {noun}")
    });
    let said: Vec<String> = said.collect();
    if said.is_empty() {
        "no arm was run".to_owned()
    } else {
        format!("first was {}", said.join(", "))
    }
}

/// What the position of an arm changes in a measurement.
#[derive(Debug, Serialize)]
pub(super) struct PositionView<'a> {
    name: &'a str,
    /// The later arm divided by the earlier one.
    effect: String,
    noise_floor: String,
    /// Whether it is larger than noise; nothing where that isn't known.
    class: &'static str,
}

/// The effect of the position on each measurement for which it could be estimated.
pub(super) fn positions(experiment: &ExperimentConclusion) -> Vec<PositionView<'_>> {
    let measurements = experiment.measurements.iter();
    measurements
        .filter_map(|measurement| {
            let effect = measurement.position_effect?;
            let floor = measurement.noise_floor;
            let is_beyond = floor.is_some_and(|floor| effect.ln().abs() > floor.ln());
            Some(PositionView {
                name: &measurement.name,
                effect: numbers::ratio(effect),
                noise_floor: floor.map_or_else(|| NONE.to_owned(), numbers::ratio),
                class: if is_beyond { "open" } else { "" },
            })
        })
        .collect()
}

/// What the position changes in the measurements that decide: `Later instead of first: orders lost ×1.02`.
pub(super) fn position(experiment: &ExperimentConclusion) -> Option<String> {
    let decisive = experiment.measurements.iter().filter(|it| it.decisive);
    let effects = decisive.filter_map(|measurement| {
        let effect = numbers::ratio(measurement.position_effect?);
        Some(format!("{} {effect}", measurement.name))
    });
    let effects: Vec<String> = effects.collect();
    (!effects.is_empty()).then(|| format!("Later instead of first: {}", effects.join(", ")))
}

/// How long the steps of each arm took, as the median over its runs.
#[derive(Debug, Serialize)]
pub(super) struct StepTimes {
    arms: Vec<ArmTimes>,
    rows: Vec<StepRow>,
}

#[derive(Debug, Serialize)]
struct ArmTimes {
    arm: String,
    total: String,
    /// A bar that is as long as the arm took, on the longest arm's scale.
    svg: String,
}

#[derive(Debug, Serialize)]
struct StepRow {
    step: String,
    /// The number of its colour.
    colour: usize,
    /// One for each arm.
    values: Vec<String>,
}

/// The steps of an experiment; `None` where the evidence has none.
pub(super) fn step_times(
    evaluation: &Evaluation,
    experiment: &ExperimentConclusion,
    arms: &[String],
) -> Option<StepTimes> {
    let runs = || trials(evaluation, &experiment.name).flat_map(|(_, trial)| &trial.arms);
    let mut steps: Vec<&str> = Vec::new();
    for step in runs().flat_map(|arm| &arm.steps) {
        if !steps.contains(&step.step.as_str()) {
            steps.push(&step.step);
        }
    }
    if steps.is_empty() {
        return None;
    }
    let seconds = |arm: &str, step: &str| -> Option<f64> {
        let times = runs().filter(|run| run.name == arm).filter_map(|run| {
            let mut times = run.steps.iter().filter(|it| it.step == step).peekable();
            times.peek()?;
            Some(times.map(|it| it.took_ms as f64 / 1_000.0).sum::<f64>())
        });
        Spread::of(times).map(|spread| spread.median)
    };
    let table: Vec<Vec<Option<f64>>> = arms
        .iter()
        .map(|arm| steps.iter().map(|step| seconds(arm, step)).collect())
        .collect();
    let totals = table
        .iter()
        .map(|times| times.iter().flatten().sum::<f64>());
    let totals: Vec<f64> = totals.collect();
    let longest = totals.iter().copied().fold(0.0, f64::max).max(1e-3);
    let written = |seconds: f64| format!("{seconds:.1} s");
    Some(StepTimes {
        arms: arms
            .iter()
            .zip(&table)
            .zip(&totals)
            .map(|((arm, times), total)| ArmTimes {
                arm: arm.clone(),
                total: written(*total),
                svg: bar(arm, &steps, times, longest),
            })
            .collect(),
        rows: steps
            .iter()
            .enumerate()
            .map(|(index, step)| StepRow {
                step: (*step).to_owned(),
                colour: index % COLOURS,
                values: table
                    .iter()
                    .map(|times| times[index].map_or_else(|| NONE.to_owned(), written))
                    .collect(),
            })
            .collect(),
    })
}

fn bar(arm: &str, steps: &[&str], times: &[Option<f64>], longest: f64) -> String {
    let mut svg = format!(
        "<svg class=\"bar\" role=\"img\" aria-label=\"steps of the arm {}, on one scale\">",
        escape(arm)
    );
    let mut from = 0.0;
    for (index, (step, seconds)) in steps.iter().zip(times).enumerate() {
        let Some(seconds) = seconds else { continue };
        let _ = write!(
            svg,
            "<rect class=\"step step{}\" x=\"{:.2}%\" width=\"{:.2}%\" y=\"0\" height=\"16\"><title>{}: {seconds:.1} s</title></rect>",
            index % COLOURS,
            100.0 * from / longest,
            100.0 * seconds / longest,
            escape(step)
        );
        from += seconds;
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use records::evaluation::StepTime;

    use super::*;
    use crate::conclusion::{Conclusion, tests::consumers};

    fn evaluation() -> Evaluation {
        let mut evaluation = consumers(&[(40, 60), (41, 60), (42, 61)]);
        for trial in &mut evaluation.trials {
            let later = usize::from(trial.repetition % 2 == 1);
            trial.arms[later].started_at += TimeDelta::seconds(100);
            trial.arms[later].finished_at += TimeDelta::seconds(100);
            for (arm, settle_ms) in trial.arms.iter_mut().zip([20_000, 4_000]) {
                arm.steps = [
                    ("configure", 2_000),
                    ("load", 14_000),
                    ("settle", settle_ms),
                ]
                .map(|(step, took_ms)| StepTime {
                    step: step.to_owned(),
                    took_ms: took_ms + u64::from(trial.repetition),
                })
                .into();
            }
        }
        evaluation
    }

    #[test]
    fn each_run_has_its_order_and_its_place_in_the_evidence() {
        let evaluation = evaluation();
        let conclusion = Conclusion::of(&evaluation).unwrap();
        let runs = views(&evaluation, &conclusion.experiments[0], &[1]);
        let orders: Vec<&str> = runs.iter().map(|run| run.order.as_str()).collect();
        assert_eq!(orders, ["1 → 2", "2 → 1", "1 → 2"]);
        assert_eq!(runs[2].place, "trials[2]");
        assert_eq!(runs[0].section.as_deref(), Some("competing_consumers-1"));
        assert_eq!(runs[1].section, None);
        assert_eq!(
            first_arms(&evaluation, "competing_consumers"),
            "first was `1` in 2 runs, `2` in 1 run"
        );
        let positions = positions(&conclusion.experiments[0]);
        assert_eq!(positions[0].noise_floor, "×1.05");
        let said = position(&conclusion.experiments[0]).unwrap();
        assert!(said.starts_with("Later instead of first: orders decided under the CPU limit ×"));
    }

    #[test]
    fn steps_are_medians_over_the_runs_on_one_scale() {
        let evaluation = evaluation();
        let conclusion = Conclusion::of(&evaluation).unwrap();
        let arms = ["1".to_owned(), "2".to_owned()];
        let times = step_times(&evaluation, &conclusion.experiments[0], &arms).unwrap();
        assert_eq!(times.rows[2].values, ["20.0 s", "4.0 s"]);
        assert_eq!(times.arms[1].total, "20.0 s");
        assert_eq!(times.arms[0].svg.matches("<rect ").count(), 3);
        let unknown = consumers(&[(40, 60)]);
        let conclusion = Conclusion::of(&unknown).unwrap();
        assert!(step_times(&unknown, &conclusion.experiments[0], &arms).is_none());
    }
}
