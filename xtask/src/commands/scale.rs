//! `scale`: gives a service more containers or fewer, while it serves.

use serde::Serialize;

use super::rollout::{mend, service};
use crate::{
    engine,
    evaluation::{lab::Lab, under_way::Turn},
    outcome::Exit,
    output::{Format, FormatOption, Progress, print_json},
    patterns,
    project::Project,
    rolling::{self, Left, MOST, Rolling},
};

/// What `scale` can be told.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(
    after_help = "More are started one by one, each healthy before the next one; fewer are stopped one by one, the \
                        youngest first, each with its grace period. `cargo xtask up` keeps as many as there are; \
                        after `down` there is one of each again.\n\n\
                        Exit codes: 0 there are as many, all healthy; 1 a new one did not get healthy, or one that \
                        left did not end by itself."
)]
pub(crate) struct Options {
    /// One of the shop's services
    #[arg(value_parser = service)]
    service: &'static str,
    /// How many containers it shall have
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    count: u32,
    #[command(flatten)]
    pub(crate) format: FormatOption,
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    service: &'static str,
    /// What was finished or undone first, in words.
    mended: Vec<String>,
    before: usize,
    containers: usize,
    /// Exit codes of those that left; `null` of one that didn't run.
    left: Vec<Option<i64>>,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: Options) -> anyhow::Result<Exit> {
    let lab = Lab::new(project)?;
    let _turn = Turn::take(project)?;
    let progress = Progress::new();
    let service = options.service;
    patterns::off(lab.settings())?;
    let mended = mend(&lab, service, &progress)?;
    let rolling = Rolling::new(&lab, service, lab.settings().clone());
    let before = rolling.containers()?;
    let count = options.count as usize;
    for number in before.len() + 1..=count {
        progress.step(&format!("{service}: start {number} of {count}"), |_| {
            rolling.add()
        })?;
    }
    let mut left: Vec<Left> = Vec::new();
    for container in before.iter().skip(count).rev() {
        let name = format!("stop {}", engine::name(container));
        left.push(progress.step(&name, |_| rolling.remove(container))?);
    }
    let graceful = left.iter().all(Left::gracefully);
    let report = Report {
        outcome: if graceful { Exit::Holds } else { Exit::Failed },
        service,
        mended,
        before: before.len(),
        containers: rolling.containers()?.len(),
        left: left.iter().map(|left| left.exit_code).collect(),
    };
    match options.format.format {
        Format::Json => print_json(&report)?,
        Format::Text => {
            println!(
                "{service}: {} → {} containers.",
                report.before, report.containers
            );
            left.iter().for_each(rolling::say_unless_graceful);
        }
    }
    Ok(report.outcome)
}
