//! The noise floors of this machine, measured by A/A runs: `target/agora/noise.json`.
//!
//! Left out: their statistics ([`crate::statistics::noise`]).

use std::{collections::BTreeSet, fs};

use anyhow::Context;
use base::outcome;
use records::evaluation::{Design, Evaluation, Machine, NoiseRecord, Ratio};
use serde::{Deserialize, Serialize};
use system::{files::replace, project::Project};

use super::{
    conclusion::Conclusion, effects, experiment::Experiment, experiments,
    statistics::noise::NoiseFloor,
};

/// The version of the file.
const FORMAT: u32 = 1;

/// What is known of the noise, of every machine that this clone's runs were made on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Noise {
    /// The version of the file: 1.
    format: u32,
    /// One for each ratio of a measurement of an experiment on a machine: the last run's.
    records: Vec<NoiseRecord>,
}

impl Noise {
    /// Those of this machine and of the experiments as they are; and in words which of others' it lacks.
    fn of_machine(self, machine: &Machine) -> (Vec<NoiseRecord>, Option<String>) {
        let (here, others): (Vec<NoiseRecord>, Vec<NoiseRecord>) = self
            .records
            .into_iter()
            .partition(|record| record.machine().is_like(machine) && is_current(record));
        let is_missing = |other: &&NoiseRecord| {
            let same = effects::find(&here, &other.experiment, &other.measurement, other.ratio);
            // What a later A/A run of it here didn't show, none will.
            let mut of_experiment = here.iter().filter(|it| it.experiment == other.experiment);
            let is_later = of_experiment.any(|it| it.at > other.at);
            same.is_none() && !is_later && experiments::find(&other.experiment).is_some()
        };
        let missing: Vec<&NoiseRecord> = others.iter().filter(is_missing).collect();
        let names = missing.iter().map(|it| it.experiment.as_str());
        let names: Vec<&str> = names.collect::<BTreeSet<_>>().into_iter().collect();
        let measured = missing.iter().map(|other| match is_current(other) {
            true => format!("another machine ({})", other.machine()),
            false => "another load, fault or arm".to_owned(),
        });
        let measured: Vec<String> = measured.collect::<BTreeSet<_>>().into_iter().collect();
        let said = (!missing.is_empty()).then(|| {
            format!(
                "the noise of {} isn't known of this machine ({machine}) and the experiments as they are, but of {}: \
                 `cargo xtask evaluate --aa {}` measures it",
                names.join(", "),
                measured.join(" and of "),
                names.join(" ")
            )
        });
        (here, said)
    }

    /// Takes the records of an A/A run in, in place of those that the same machine had before.
    fn take_in(&mut self, records: Vec<NoiseRecord>) {
        let replaces = |new: &NoiseRecord, old: &NoiseRecord| {
            new.experiment == old.experiment
                && (&new.measurement, new.ratio) == (&old.measurement, old.ratio)
                && new.machine().is_like(&old.machine())
        };
        self.records
            .retain(|old| !records.iter().any(|new| replaces(new, old)));
        self.records.extend(records);
    }
}

/// Whether the experiment is still the one that it was measured with.
fn is_current(record: &NoiseRecord) -> bool {
    let experiment = experiments::find(&record.experiment);
    experiment.is_some_and(|experiment| experiment.conditions() == record.conditions)
}

/// What is known of the machine that the engine runs on; and in words what is only known of others, if anything.
///
/// # Errors
/// When the file can't be used.
pub fn here(
    project: &Project,
    machine: &Machine,
) -> anyhow::Result<(Vec<NoiseRecord>, Option<String>)> {
    Ok(read(project)?.of_machine(machine))
}

/// What is known so far; nothing without a file.
fn read(project: &Project) -> anyhow::Result<Noise> {
    let path = path(project);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Noise {
                format: FORMAT,
                records: Vec::new(),
            });
        }
        Err(error) => {
            return Err(error).with_context(|| format!("failed to read {}", path.display()));
        }
    };
    let noise: Result<Noise, _> = serde_json::from_str(&text);
    noise
        .map_err(|error| error.to_string())
        .and_then(|noise| match noise.format {
            FORMAT => Ok(noise),
            other => Err(format!(
                "it has the format {other}, this version reads {FORMAT}"
            )),
        })
        .map_err(|error| {
            outcome::unavailable(
                format!("{} can't be used: {error}", path.display()),
                "remove it, and measure the noise again with `cargo xtask evaluate --aa`",
            )
        })
}

/// Keeps the noise that an A/A run has shown, and returns it. Measurements with fewer than six pairs, or without a ratio, have
/// none.
pub fn keep(
    project: &Project,
    evaluation: &Evaluation,
    conclusion: &Conclusion,
    load_average: Option<f64>,
) -> anyhow::Result<Vec<NoiseRecord>> {
    anyhow::ensure!(
        evaluation.design == Design::SameArms,
        "only equal arms show noise"
    );
    let records = shown(evaluation, conclusion, load_average);
    let mut noise = read(project)?;
    noise.take_in(records.clone());
    let path = path(project);
    replace(&path, &serde_json::to_vec_pretty(&noise)?)
        .with_context(|| format!("failed to write {}", path.display()))?;
    Ok(records)
}

/// The noise of each ratio of two arms, and of each declared effect that is the pattern's own ratio.
fn shown(
    evaluation: &Evaluation,
    conclusion: &Conclusion,
    load_average: Option<f64>,
) -> Vec<NoiseRecord> {
    let mut records = Vec::new();
    for concluded in &conclusion.experiments {
        let experiment = experiments::find(&concluded.name);
        let conditions = experiment.map_or_else(String::new, Experiment::conditions);
        let mut keep = |measurement: &str, ratio, floor: Option<NoiseFloor>| {
            records.extend(floor.map(|floor| NoiseRecord {
                experiment: concluded.name.clone(),
                measurement: measurement.to_owned(),
                ratio,
                factor: floor.factor,
                log_deviation: floor.sd_log,
                pairs: u32::try_from(floor.pairs).unwrap_or(u32::MAX),
                conditions: conditions.clone(),
                run: evaluation.run.clone(),
                at: evaluation.finished_at,
                cores: evaluation.versions.cores,
                memory_bytes: evaluation.versions.memory_bytes,
                engine: evaluation.versions.engine.clone(),
                load_average,
            }));
        };
        for measurement in &concluded.measurements {
            let floor = NoiseFloor::of(&measurement.ratios());
            keep(&measurement.name, Ratio::BetweenArms, floor);
        }
        let declared = experiment.map_or(&[][..], |it| it.effects);
        for (declared, effect) in declared.iter().zip(&concluded.effects) {
            if declared.ratio == Ratio::WithPattern {
                let floor = NoiseFloor::about_mean(&effect.ratios);
                keep(declared.measurement, declared.ratio, floor);
            }
        }
    }
    records
}

/// The machine's load average over the last minute; `None` where it doesn't tell.
pub fn load_average() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn path(project: &Project) -> std::path::PathBuf {
    project.outputs().join("noise.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        conclusion::tests::noise as record,
        report::tests::{Sketch, at, evaluation, trial},
    };

    fn of(engine: &str) -> NoiseRecord {
        NoiseRecord {
            engine: engine.to_owned(),
            at: at(0.0),
            ..record(1.1)
        }
    }

    fn noise(records: Vec<NoiseRecord>) -> Noise {
        Noise {
            format: FORMAT,
            records,
        }
    }

    #[test]
    fn noise_of_another_machine_is_not_used_and_what_is_missing_here_is_said() {
        let this = of("2").machine();
        let (here, said) = noise(vec![of("1")]).of_machine(&this);
        assert_eq!(here, []);
        let said = said.unwrap();
        assert!(
            said.contains("engine 1)") && said.contains("engine 2)"),
            "{said}"
        );
        let (here, said) = noise(vec![of("2"), of("1")]).of_machine(&this);
        assert_eq!((here, said), (vec![of("2")], None));
        assert_eq!(noise(Vec::new()).of_machine(&this), (Vec::new(), None));

        // One experiment was measured again after the engine was updated, the other was not.
        let shedding = |engine| NoiseRecord {
            experiment: "load_shedding".to_owned(),
            conditions: experiments::find("load_shedding").unwrap().conditions(),
            ..of(engine)
        };
        let records = vec![of("1"), shedding("1"), of("2")];
        let (here, said) = noise(records).of_machine(&this);
        assert_eq!(here, [of("2")]);
        let said = said.unwrap();
        assert!(said.contains("--aa load_shedding`"), "{said}");
        // Another ratio of the same measurement is another one.
        let own = NoiseRecord {
            ratio: Ratio::WithPattern,
            ..of("1")
        };
        let (_, said) = noise(vec![own.clone(), of("2")]).of_machine(&this);
        assert!(said.unwrap().contains("--aa competing_consumers`"));
        // It was measured here since, and has none; and nobody can measure what there isn't any more.
        let later = NoiseRecord {
            at: at(1.0),
            ..of("2")
        };
        let gone = NoiseRecord {
            experiment: "telepathy".to_owned(),
            ..of("1")
        };
        assert_eq!(noise(vec![own, gone, later]).of_machine(&this).1, None);
    }

    #[test]
    fn each_experiment_has_conditions_of_its_own_that_change_with_its_load() {
        let all = experiments::ALL.iter();
        let all: BTreeSet<String> = all.map(|experiment| experiment.conditions()).collect();
        assert_eq!(all.len(), experiments::ALL.len());
        let outbox = experiments::find("outbox").unwrap();
        let mut longer = Experiment { ..*outbox };
        longer.load.run_time *= 2;
        assert_ne!(longer.conditions(), outbox.conditions());
    }

    #[test]
    fn noise_of_another_load_or_fault_is_not_used() {
        let this = of("2").machine();
        // One from before it was kept.
        for conditions in ["", "0a1b"] {
            let old = NoiseRecord {
                conditions: conditions.to_owned(),
                ..of("2")
            };
            let (here, said) = noise(vec![old.clone()]).of_machine(&this);
            assert_eq!(here, []);
            let said = said.unwrap();
            assert!(
                said.contains("but of another load, fault or arm: "),
                "{said}"
            );
            // What was measured since takes its place.
            let mut noise = noise(vec![old]);
            noise.take_in(vec![of("2")]);
            assert_eq!(noise.of_machine(&this), (vec![of("2")], None));
        }
    }

    #[test]
    fn the_noise_of_a_ratio_that_the_pattern_has_by_itself_is_that_ratios() {
        let experiment = experiments::find("telemetry_loss").unwrap();
        let effect = experiment.effects[0];
        // Both arms of a repetition are alike, and the repetitions are not.
        let slow_ms = [0.0, 4.0, 1.0, 8.0, 2.0, 6.0];
        let trials = (1..).zip(slow_ms).map(|(repetition, slow_ms)| {
            let arm = |name| {
                let arm = Sketch::arm(name).seconds(31).fault(8.0, 23.0);
                arm.slow(slow_ms)
            };
            trial(experiment.name, repetition, &[arm("off"), arm("on")])
        });
        let mut evaluation = Evaluation {
            design: Design::SameArms,
            ..evaluation(trials.collect())
        };
        let records = shown(&evaluation, &Conclusion::of(&evaluation).unwrap(), None);
        let of = |ratio| effects::find(&records, experiment.name, effect.measurement, ratio);
        let (between, own) = (of(Ratio::BetweenArms).unwrap(), of(effect.ratio).unwrap());
        assert!((between.factor - 1.0).abs() < 1e-9, "{between:?}");
        assert!(own.factor > 1.1 && own.log_deviation > 0.1, "{own:?}");

        // What decides is the noise of the same ratio, and no other.
        evaluation.design = Design::Pattern;
        let mut decided = |noise: &NoiseRecord| {
            evaluation.noise = vec![noise.clone()];
            let conclusion = Conclusion::of(&evaluation).unwrap();
            conclusion.experiments[0].effects[0].noise_floor
        };
        assert_eq!(decided(between), None);
        assert_eq!(decided(own), Some(own.factor));
    }

    #[test]
    fn a_run_replaces_the_noise_of_its_own_machine_alone() {
        let mut noise = noise(vec![of("1"), of("2")]);
        let again = NoiseRecord {
            factor: 1.2,
            ..of("2")
        };
        noise.take_in(vec![again.clone()]);
        assert_eq!(noise.records, [of("1"), again]);
    }
}
