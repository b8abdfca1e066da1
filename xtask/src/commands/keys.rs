//! `keys`: the keys that sign tokens, in the env file and in user-service's containers: which there are, a new one in
//! place of the old without refusing anybody, and the old ones gone once no token of theirs is valid any more.

use base::{
    outcome::{self, Exit},
    progress::spell,
};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::Subcommand;
use serde::Serialize;
use system::{
    env_file::{EnvFile, JWT_KEYS_ROTATED_AT, JWT_TTL_SECONDS},
    key_rotation::{self, Rotation},
    lock::SystemLock,
    operation_record::OperationRecord,
    project::Project,
    rolling::Left,
    running::RunningSystem,
    signing_keys::{self, JWT_KEYS, SERVICE, SigningKeys},
};

use super::rollout::repair;
use crate::output::{Format, print_json, progress, table};

/// The most keys at once: each of them stands in a metric, and is one more that may leak.
const MOST_KEYS: usize = 5;

/// Options of `keys`.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Options {
    /// List the keys, what each is for, and which containers have it; never the keys themselves
    List,
    /// Have a new key sign, while the old ones still verify
    #[command(
        after_help = "user-service's containers are replaced one by one, twice: first each of them learns the new \
                            key, then it signs. So no token is made that some container doesn't know, and none that \
                            somebody holds is refused. A rotation that was cut short is finished instead of another \
                            one begun."
    )]
    Rotate,
    /// Remove the keys that only verify, once no token of theirs can be valid
    Retire(RetireOptions),
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct RetireOptions {
    /// At once: who holds a token of theirs has to log in again
    #[arg(long)]
    force: bool,
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    /// What was finished or undone first, in words.
    #[serde(rename = "mended")]
    repaired: Vec<String>,
    /// Whether a rotation was interrupted between its steps.
    cut_short: bool,
    /// Whether every container has the env file's keys.
    handed_out: bool,
    /// Since when the first key alone signs; `None` before the first rotation.
    rotated_at: Option<DateTime<Utc>>,
    /// When the last token of the other keys expires.
    retire_from: Option<DateTime<Utc>>,
    /// The keys, the one that signs first.
    keys: Vec<Key>,
    /// Exit codes of the containers that were replaced; `null` of one that didn't run, and on Kubernetes.
    left: Vec<Option<i64>>,
}

#[derive(Debug, Serialize)]
struct Key {
    id: String,
    /// When it was made; `None` for an id without a time.
    made_at: Option<DateTime<Utc>>,
    /// `signs` or `verifies`, by the env file; `none` where only containers have it.
    role: &'static str,
    /// How many containers have it.
    #[serde(rename = "containers")]
    members: usize,
    /// How many of them sign with it.
    signing: usize,
    of: usize,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    let system = RunningSystem::new(project)?;
    let (repaired, left) = match options {
        Options::List => (Vec::new(), Vec::new()),
        Options::Rotate => rotate(&system)?,
        Options::Retire(options) => retire(&system, options.force)?,
    };
    let report = look(project, repaired, &left)?;
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => print_text(&report, &left),
    }
    Ok(report.outcome)
}

type Done = (Vec<String>, Vec<Left>);

fn rotate(system: &RunningSystem<'_>) -> anyhow::Result<Done> {
    let _lock = SystemLock::take(system.project)?;
    let _record = OperationRecord::create(system.project, "a change of the signing keys")?;
    let progress = progress();
    let repaired = repair(system, SERVICE, &progress)?;
    let mut rotation = rotation(system)?;
    let finishing = rotation.is_finishing()?;
    if finishing {
        eprintln!("finishing a rotation that was cut short");
    } else if rotation.keys.ids().len() >= MOST_KEYS {
        return Err(outcome::failed(
            format!("there are {MOST_KEYS} keys already"),
            "`cargo xtask keys retire` removes those that only verify",
        ));
    }
    let left = progress.step("rotate", |step| {
        let say = |text: &str| step.say(text);
        let left = rotation.rotate(&say, |keys| keep(system.project, keys, None))?;
        keep(system.project, &rotation.keys, Some(Utc::now()))?;
        Ok(left)
    })?;
    Ok((repaired, left))
}

fn retire(system: &RunningSystem<'_>, force: bool) -> anyhow::Result<Done> {
    let _lock = SystemLock::take(system.project)?;
    let _record = OperationRecord::create(system.project, "a change of the signing keys")?;
    let progress = progress();
    let repaired = repair(system, SERVICE, &progress)?;
    let mut rotation = rotation(system)?;
    if rotation.is_finishing()? {
        return Err(outcome::failed(
            "a rotation was cut short: old keys may still sign",
            "`cargo xtask keys rotate` finishes it",
        ));
    }
    if rotation.keys.ids().len() > 1 && !force {
        match retire_from(system.project)? {
            Some(over) if over <= Utc::now() => {}
            Some(over) => {
                let wait = (over - Utc::now()).to_std().unwrap_or_default();
                return Err(outcome::failed(
                    format!("tokens of the old keys are valid for {} more", spell(wait)),
                    "wait, or have their holders log in again with --force",
                ));
            }
            None => {
                return Err(outcome::failed(
                    "since when the old keys don't sign any more is unknown, as `keys rotate` did not do it",
                    "`--force`, once no token of theirs is valid",
                ));
            }
        }
    }
    rotation.keys.drop_old();
    let rotated_at = rotated_at(system.project)?;
    keep(system.project, &rotation.keys, rotated_at)?;
    let left = progress.step("retire", |step| {
        rotation.hand_out("knows no old key", &|text| step.say(text))
    })?;
    Ok((repaired, left))
}

fn rotation<'a>(system: &'a RunningSystem<'a>) -> anyhow::Result<Rotation<'a>> {
    let file = EnvFile::read(&system.project.env_file)?;
    // A value from the environment would win over the one that is written to the env file.
    if file.get(JWT_KEYS) != Some(system.settings().require(JWT_KEYS)?) {
        return Err(outcome::usage(
            format!("{JWT_KEYS} is set in the environment, which wins over the env file"),
            format!("unset {JWT_KEYS}"),
        ));
    }
    Ok(Rotation {
        system,
        settings: system.settings().clone(),
        keys: key_rotation::keys_of(system.settings())?,
    })
}

/// Writes the keys into the env file; `rotated_at` is `None` until the first key alone signs.
fn keep(
    project: &Project,
    keys: &SigningKeys,
    rotated_at: Option<DateTime<Utc>>,
) -> anyhow::Result<()> {
    let mut file = EnvFile::read(&project.env_file)?;
    file.set(JWT_KEYS, &keys.text());
    let rotated_at = rotated_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true));
    file.set(JWT_KEYS_ROTATED_AT, &rotated_at.unwrap_or_default());
    file.save()
}

fn rotated_at(project: &Project) -> anyhow::Result<Option<DateTime<Utc>>> {
    let file = EnvFile::read(&project.env_file)?;
    let Some(text) = file
        .get(JWT_KEYS_ROTATED_AT)
        .filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    let at = DateTime::parse_from_rfc3339(text).map_err(|_| {
        outcome::usage(
            format!("{JWT_KEYS_ROTATED_AT}: `{text}` is not a time"),
            "remove the line from the env file",
        )
    })?;
    Ok(Some(at.to_utc()))
}

/// When the last token expires that an old key signed; `None` where that is unknown.
fn retire_from(project: &Project) -> anyhow::Result<Option<DateTime<Utc>>> {
    let (variable, default) = JWT_TTL_SECONDS;
    let settings = project.settings()?;
    let seconds = match settings.require(variable) {
        Err(_) => default,
        Ok(text) => text.parse().map_err(|_| {
            outcome::usage(
                format!("{variable}: `{text}` is not a number of seconds"),
                "correct it in the env file, or remove the line",
            )
        })?,
    };
    let rotated_at = rotated_at(project)?;
    Ok(rotated_at.map(|at| at + TimeDelta::seconds(i64::from(seconds))))
}

/// Reads the current state of keys and containers.
fn look(project: &Project, repaired: Vec<String>, left: &[Left]) -> anyhow::Result<Report> {
    let system = RunningSystem::new(project)?;
    let keys = key_rotation::keys_of(system.settings())?;
    let members = system.members_of(SERVICE)?;
    let ids = keys.ids();
    let all = |holds: &dyn Fn(&Vec<String>) -> bool| {
        let mut sets = members.iter().map(|member| &member.signing_keys);
        sets.all(holds)
    };
    let cut_short = keys.pending().is_some() || !all(&|keys| keys.first() == ids.first());
    let handed_out = all(&|keys| *keys == ids);
    let known = ids.len();
    let mut ids = ids;
    for id in members.iter().flat_map(|member| &member.signing_keys) {
        if !ids.contains(id) {
            ids.push(id.clone());
        }
    }
    let keys = ids.into_iter().enumerate().map(|(index, id)| {
        let count = |has: &dyn Fn(&Vec<String>) -> bool| {
            let sets = members.iter().map(|member| &member.signing_keys);
            sets.filter(|keys| has(keys)).count()
        };
        Key {
            made_at: signing_keys::made_at(&id),
            role: match index {
                0 => "signs",
                _ if index < known => "verifies",
                _ => "none",
            },
            members: count(&|keys| keys.contains(&id)),
            signing: count(&|keys| keys.first() == Some(&id)),
            of: members.len(),
            id,
        }
    });
    let keys: Vec<Key> = keys.collect();
    let graceful = left.iter().all(Left::gracefully);
    Ok(Report {
        outcome: if graceful { Exit::Holds } else { Exit::Failed },
        repaired,
        cut_short,
        handed_out,
        rotated_at: rotated_at(project)?,
        retire_from: if known > 1 {
            retire_from(project)?
        } else {
            None
        },
        keys,
        left: left.iter().map(|left| left.exit_code).collect(),
    })
}

fn print_text(report: &Report, left: &[Left]) {
    let mut rows = table([
        "key",
        "made",
        "for new containers",
        "containers that have it",
        "that sign with it",
    ]);
    for key in &report.keys {
        let made = key.made_at.map(|at| at.format("%F %T").to_string());
        rows.add_row([
            key.id.clone(),
            made.unwrap_or_else(|| "-".to_owned()),
            key.role.to_owned(),
            format!("{} of {}", key.members, key.of),
            format!("{} of {}", key.signing, key.of),
        ]);
    }
    println!("{rows}");
    if report.cut_short {
        println!("A rotation was cut short: `cargo xtask keys rotate` finishes it.");
    } else if !report.handed_out {
        println!(
            "Not every container has what the env file says: `cargo xtask rollout {SERVICE}` hands it out."
        );
    } else if let Some(from) = report.retire_from {
        println!(
            "Tokens of the old keys are valid until {}: `cargo xtask keys retire` removes these keys then.",
            from.format("%F %T")
        );
    }
    left.iter()
        .filter_map(Left::complaint)
        .for_each(|complaint| println!("{complaint}"));
}
