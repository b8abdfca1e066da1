//! `scale`: gives a service more containers or fewer, while it serves.
//!
//! Left out: how containers are added and removed (`system::rolling`).

use base::outcome::Exit;
use serde::Serialize;
use system::{
    Part, health,
    lock::SystemLock,
    members,
    operation_record::OperationRecord,
    project::Project,
    rolling::{Left, MOST, Rolling},
    running::RunningSystem,
    switches,
};

use super::rollout::{repair, service};
use crate::output::{Format, print_json, progress};

/// Options of `scale`.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(
    after_help = "More are started one by one, each healthy before the next one; fewer are stopped one by one, those \
                        that don't serve and then the youngest first, each with its grace period. `cargo xtask up` keeps as many as there are; \
                        after `down` there is one of each again, on Kubernetes two.\n\n\
                        Exit codes: 0 there are as many, all healthy; 1 one is not healthy, or one that left \
                        did not end by itself."
)]
pub(crate) struct Options {
    /// One of the shop's services
    #[arg(value_parser = service)]
    service: Part,
    /// How many containers it shall have
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    count: u32,
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    service: Part,
    /// What was finished or undone first, in words.
    #[serde(rename = "mended")]
    repaired: Vec<String>,
    before: usize,
    #[serde(rename = "containers")]
    members: usize,
    /// The names of containers that aren't healthy.
    not_healthy: Vec<String>,
    /// Exit codes of the containers that were removed; `null` for one that didn't run, and on Kubernetes.
    left: Vec<Option<i64>>,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: Options, format: Format) -> anyhow::Result<Exit> {
    let system = RunningSystem::new(project)?;
    let _lock = SystemLock::take(project)?;
    let _record = OperationRecord::create(project, &format!("a scaling of {}", options.service))?;
    let progress = progress();
    let service = options.service;
    switches::off(system.settings())?;
    let repaired = repair(&system, service, &progress)?;
    let rolling = Rolling::new(&system, service, system.settings().clone());
    let mut before = rolling.members()?;
    let count = options.count as usize;
    if count < before.len() {
        health::ask(&mut before)?;
    }
    for number in before.len() + 1..=count {
        progress.step(&format!("{service}: start {number} of {count}"), |_| {
            rolling.add()
        })?;
    }
    let mut left: Vec<Left> = Vec::new();
    for member in Rolling::surplus(&before, count) {
        let name = format!("stop {}", members::name(member));
        left.push(progress.step(&name, |_| rolling.remove(member))?);
    }
    let mut now = rolling.members()?;
    health::ask(&mut now)?;
    let sick: Vec<_> = now.iter().filter(|member| !member.is_healthy()).collect();
    let as_asked = sick.is_empty() && now.len() == count && left.iter().all(Left::gracefully);
    let report = Report {
        outcome: if as_asked { Exit::Holds } else { Exit::Failed },
        service,
        repaired,
        before: before.len(),
        members: now.len(),
        not_healthy: sick.iter().map(|member| members::name(member)).collect(),
        left: left.iter().map(|left| left.exit_code).collect(),
    };
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => {
            println!(
                "{service}: {} → {} containers.",
                report.before, report.members
            );
            for member in sick {
                println!(
                    "{} is {}: `cargo xtask logs {service}` shows more, and `cargo xtask up` repairs what is repaired by a start.",
                    members::name(member),
                    member.condition()
                );
            }
            left.iter()
                .filter_map(Left::complaint)
                .for_each(|complaint| println!("{complaint}"));
        }
    }
    Ok(report.outcome)
}
