//! `evaluate plan`: how many pairs of runs a declared effect needs here, and how long they take.
//!
//! Left out: the computation (`evaluation::statistics::power`).

use std::time::Duration;

use base::{outcome, progress::spell};
use evaluation::{
    effects::{self, declared},
    experiment::Experiment,
    history::Durations,
    numbers,
    statistics::power,
};
use records::evaluation::NoiseRecord;
use serde::Serialize;

use super::RIGOROUS_RUNS;
use crate::output::table;

/// A declared effect, and what deciding it takes.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    experiment: &'static str,
    measurement: &'static str,
    /// In words: `at least ×1.15`.
    declared: String,
    /// As a factor; `None` until an A/A run has measured it.
    noise_floor: Option<f64>,
    /// `None` where the noise is unknown, or too large.
    pairs: Option<usize>,
    /// How long that many pairs take, in seconds, by earlier runs.
    seconds: Option<u64>,
}

/// The effects of an experiment.
pub(crate) fn entries(
    noise: &[NoiseRecord],
    experiment: &'static Experiment,
    durations: &Durations,
) -> Vec<Entry> {
    let each = experiment.effects.iter().map(|effect| {
        let noise = effects::find(noise, experiment.name, effect.measurement, effect.ratio);
        let pairs = noise.and_then(|noise| {
            let effects = experiment.effects.len();
            power::pairs_needed(effect.bound, noise.log_deviation, noise.factor, effects)
        });
        let took =
            pairs.and_then(|pairs| Some(durations.trial(experiment) * u32::try_from(pairs).ok()?));
        Entry {
            experiment: experiment.name,
            measurement: effect.measurement,
            declared: declared(effect.bound),
            noise_floor: noise.map(|noise| noise.factor),
            pairs,
            seconds: took.map(|took| took.as_secs()),
        }
    });
    each.collect()
}

/// How often the profile `rigorous` runs an experiment: as all of its declared effects need.
pub(crate) fn repetitions(
    noise: &[NoiseRecord],
    experiment: &'static Experiment,
) -> anyhow::Result<u32> {
    let mut most = RIGOROUS_RUNS;
    for entry in entries(noise, experiment, &Durations::default()) {
        let pairs = entry.pairs.ok_or_else(|| {
            let name = experiment.name;
            match entry.noise_floor {
                None => outcome::unavailable(
                    format!("nobody knows how many pairs `{name}` needs: the noise of this machine was not measured"),
                    format!("measure it with `cargo xtask evaluate --aa {name}`, or choose a number with --repeat"),
                ),
                Some(floor) => outcome::unavailable(
                    format!(
                        "twenty pairs of `{name}` don't decide its effect ({}): noise alone goes as far as {} here",
                        entry.declared,
                        numbers::ratio(floor)
                    ),
                    "use a quieter machine, or choose a number with --repeat",
                ),
            }
        })?;
        most = most.max(u32::try_from(pairs)?);
    }
    Ok(most)
}

/// Prints them.
pub(crate) fn print(entries: &[Entry]) {
    let mut table = table([
        "experiment",
        "effect",
        "declared",
        "noise floor",
        "pairs",
        "time",
    ]);
    for entry in entries {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| numbers::NONE.to_owned());
        table.add_row([
            entry.experiment.to_owned(),
            entry.measurement.to_owned(),
            entry.declared.clone(),
            or_none(entry.noise_floor.map(numbers::ratio)),
            or_none(entry.pairs.map(|pairs| pairs.to_string())),
            or_none(
                entry
                    .seconds
                    .map(|seconds| spell(Duration::from_secs(seconds))),
            ),
        ]);
    }
    println!("{table}");
    if entries.iter().any(|entry| entry.noise_floor.is_none()) {
        println!(
            "Where no noise floor is known: `cargo xtask evaluate --aa EXPERIMENT` measures it."
        );
    }
}
