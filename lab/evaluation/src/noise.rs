//! The noise floors of this machine, measured by A/A runs: `target/agora/noise.json`.
//!
//! Left out: their statistics ([`crate::statistics::noise`]).

use std::fs;

use anyhow::Context;
use base::{outcome, progress::warn};
use records::evaluation::{Design, Evaluation, Machine, NoiseRecord};
use serde::{Deserialize, Serialize};
use system::{files::replace, host, project::Project};

use super::{conclusion::Conclusion, statistics::noise::NoiseFloor};

/// The version of the file.
const FORMAT: u32 = 1;

/// What is known of the noise, of every machine that this clone's runs were made on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Noise {
    /// The version of the file: 1.
    format: u32,
    /// One for each measurement of an experiment on a machine: the last run's.
    records: Vec<NoiseRecord>,
}

impl Noise {
    /// Those of this machine; where there are none, but others', that is said, too.
    fn of_machine(self, machine: &Machine) -> (Vec<NoiseRecord>, Option<String>) {
        let (here, others): (Vec<_>, Vec<_>) = self
            .records
            .into_iter()
            .partition(|record| record.machine().is_like(machine));
        let other = others.last().filter(|_| here.is_empty());
        let said = other.map(|other| {
            format!(
                "the noise that is known is of another machine ({}) and isn't used on this one ({machine}): \
                 `cargo xtask evaluate --aa` measures it",
                other.machine()
            )
        });
        (here, said)
    }

    /// Takes the records of an A/A run in, in place of those that the same machine had before.
    fn take_in(&mut self, records: Vec<NoiseRecord>) {
        let replaces = |new: &NoiseRecord, old: &NoiseRecord| {
            new.experiment == old.experiment
                && new.measurement == old.measurement
                && new.machine().is_like(&old.machine())
        };
        self.records
            .retain(|old| !records.iter().any(|new| replaces(new, old)));
        self.records.extend(records);
    }
}

/// What is known of the machine that the engine runs on. Warns where only others' noise is known.
///
/// # Errors
/// When the file can't be used, or the engine doesn't answer.
pub fn here(project: &Project) -> anyhow::Result<Vec<NoiseRecord>> {
    let (here, warning) = read(project)?.of_machine(&host::machine()?);
    if let Some(warning) = warning {
        warn(&warning);
    }
    Ok(here)
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
    let mut records = Vec::new();
    for experiment in &conclusion.experiments {
        for measurement in &experiment.measurements {
            let Some(floor) = NoiseFloor::of(&measurement.ratios()) else {
                continue;
            };
            records.push(NoiseRecord {
                experiment: experiment.name.clone(),
                measurement: measurement.name.clone(),
                factor: floor.factor,
                log_deviation: floor.sd_log,
                pairs: u32::try_from(floor.pairs)?,
                run: evaluation.run.clone(),
                at: evaluation.finished_at,
                cores: evaluation.versions.cores,
                memory_bytes: evaluation.versions.memory_bytes,
                engine: evaluation.versions.engine.clone(),
                load_average,
            });
        }
    }
    let mut noise = read(project)?;
    noise.take_in(records.clone());
    let path = path(project);
    replace(&path, &serde_json::to_vec_pretty(&noise)?)
        .with_context(|| format!("failed to write {}", path.display()))?;
    Ok(records)
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
    use crate::{conclusion::tests::noise as record, report::tests::at};

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
    fn noise_of_another_machine_is_not_used_and_that_is_said() {
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
