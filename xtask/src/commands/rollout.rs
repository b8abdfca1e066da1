//! `rollout`: replaces a service's containers one by one, while it serves.
//!
//! Left out: how a container is replaced (`system::rolling`).

use base::{
    outcome::Exit,
    progress::{Progress, spell},
};
use serde::Serialize;
use system::{
    Part,
    interrupt::{self, Interrupted},
    lock::SystemLock,
    operation_record::OperationRecord,
    project::Project,
    rolling::{self, Rolling},
    running::RunningSystem,
    switches,
};

use crate::output::{Format, print_json, progress};

/// Options of `rollout`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "The new containers are made as `cargo xtask up` would make them: from today's sources, with the \
                        env file's settings. For each of them one more is started, and when it is healthy an old one \
                        is stopped with its grace period, and removed. A new one that doesn't get healthy is removed, \
                        and the old ones serve on. One that was killed is finished or undone by the next `rollout`, \
                        `scale` or `heal`.\n\n\
                        Exit codes: 0 all are new, 1 one did not get healthy, or an old one did not end by itself; \
                        130 after Ctrl-C: what is new stays, on Kubernetes all go back; as many serve as before."
)]
pub(crate) struct Options {
    /// One of the shop's services
    #[arg(value_parser = service)]
    service: Part,
    /// The naive way: end all containers and make them anew, all at once
    #[arg(long)]
    at_once: bool,
}

/// A service of the shop, or which these are.
pub(crate) fn service(name: &str) -> Result<Part, String> {
    Part::among(Part::services(), name).map_err(|unknown| unknown.known())
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    service: Part,
    /// What was finished or undone first, in words.
    #[serde(rename = "mended")]
    repaired: Vec<String>,
    /// How many containers the service has now.
    #[serde(rename = "containers")]
    members: usize,
    /// The replaced containers; empty when all were replaced at once.
    replaced: Vec<Replaced>,
}

#[derive(Debug, Serialize)]
struct Replaced {
    old: String,
    new: String,
    /// Time from the new container's start until it was healthy, in milliseconds; `null` on Kubernetes.
    healthy_after_ms: Option<u64>,
    /// The old container's exit code, 0 when it finished its work; `null` when it didn't run, and on Kubernetes.
    exit_code: Option<i64>,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    let system = RunningSystem::new(project)?;
    let _lock = SystemLock::take(project)?;
    let _record = OperationRecord::create(project, &format!("a rollout of {}", options.service))?;
    let progress = progress();
    let service = options.service;
    // A switch with a typing error would leave its pattern on unnoticed.
    switches::off(system.settings())?;
    progress.step("service images", |step| system.build_services(step))?;
    let repaired = repair(&system, service, &progress)?;
    let rolling = Rolling::new(&system, service, system.settings().clone());
    let olds = rolling.members()?;
    let mut replaced = Vec::new();
    if options.at_once {
        let name = format!("{service}: all at once");
        progress.step(&name, |_| rolling.replace_at_once())?;
    } else {
        for portion in rolling.portions(&olds) {
            let of = olds.len();
            let name = match portion {
                [_] => format!("{service}: {} of {of}", replaced.len() + 1),
                _ => format!("{service}: all {of}, one by one"),
            };
            let some = progress.step(&name, |step| {
                let some = rolling.replace(portion)?;
                if let Some(after) = some.iter().find_map(|one| one.healthy_after) {
                    step.result(format!("healthy after {}", spell(after)));
                }
                Ok(some)
            });
            match some {
                Ok(some) => replaced.extend(some),
                Err(error) => {
                    if error.is::<Interrupted>() {
                        say_what_is_left(&rolling, replaced.len(), olds.len())?;
                    }
                    return Err(error);
                }
            }
        }
    }
    let graceful = replaced.iter().all(|one| one.left.gracefully());
    let report = Report {
        outcome: if graceful { Exit::Holds } else { Exit::Failed },
        service,
        repaired,
        members: rolling.members()?.len(),
        replaced: replaced
            .iter()
            .map(|one| Replaced {
                old: one.left.member.id.clone(),
                new: one.new.id.clone(),
                healthy_after_ms: one.healthy_after.map(|after| after.as_millis() as u64),
                exit_code: one.left.exit_code,
            })
            .collect(),
    };
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => {
            match report.members {
                1 => println!("{service}: its container is new."),
                count => println!("{service}: all {count} containers are new."),
            }
            for left in replaced.iter().map(|one| &one.left) {
                if let Some(complaint) = left.complaint() {
                    println!("{complaint}");
                }
            }
        }
    }
    Ok(report.outcome)
}

/// Finishes or undoes what was cut short before; what was done, in words.
pub(super) fn repair(
    system: &RunningSystem<'_>,
    service: Part,
    progress: &Progress,
) -> anyhow::Result<Vec<String>> {
    system.wait_for_abandoned_configuring()?;
    let repaired = rolling::repair(system, service)?;
    if !repaired.is_empty() {
        progress.step("heal", |step| {
            repaired.iter().for_each(|what| step.say(what));
            Ok(())
        })?;
    }
    Ok(repaired)
}

fn say_what_is_left(rolling: &Rolling<'_>, new: usize, of: usize) -> anyhow::Result<()> {
    let serve = interrupt::set_aside(|| rolling.members())?.len();
    eprintln!("{new} of {of} containers are new, {serve} serve; run it again for the others");
    Ok(())
}
