//! The noise floors of this machine, measured by A/A runs: `target/agora/noise.json`.
//!
//! Left out: their statistics ([`crate::statistics::noise`]).

use std::fs;

use anyhow::Context;
use base::outcome;
use records::evaluation::{Design, Evaluation, NoiseRecord};
use serde::{Deserialize, Serialize};
use system::{
    files::replace,
    host::{self, Capacity},
    project::Project,
};

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
    /// Those of a machine with these cores and this memory.
    fn of_machine(self, machine: Capacity) -> Vec<NoiseRecord> {
        let mut records = self.records;
        records.retain(|record| {
            (record.cores, record.memory_bytes) == (machine.cores, machine.memory_bytes)
        });
        records
    }

    /// Takes the records of an A/A run in, in place of those that the same machine had before.
    fn take_in(&mut self, records: Vec<NoiseRecord>) {
        let key = |record: &NoiseRecord| {
            (
                record.experiment.clone(),
                record.measurement.clone(),
                record.cores,
                record.memory_bytes,
            )
        };
        self.records
            .retain(|old| records.iter().all(|new| key(new) != key(old)));
        self.records.extend(records);
    }
}

/// What is known of the machine that the engine runs on.
///
/// # Errors
/// When the file can't be used, or the engine doesn't answer.
pub fn here(project: &Project) -> anyhow::Result<Vec<NoiseRecord>> {
    Ok(read(project)?.of_machine(host::capacity()?))
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
