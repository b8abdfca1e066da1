//! `demo`: the main job from nothing: up, smoke, load, every check and an experiment, with a summary at the end.
//!
//! Left out: the commands themselves; each part is one.

use std::time::{Duration, Instant};

use base::{outcome::Exit, progress::spell};
use system::{interrupt::Interrupted, project::Project};

use crate::{
    commands::{
        evaluate, load, smoke, up, verify_dashboards, verify_dlq, verify_metrics, verify_traces,
    },
    output::{Format, progress, table},
};

/// Long enough for every pattern to be seen at work, short enough to wait for.
const LOAD_RUN_TIME: &str = "20s";

/// The experiment that takes the least time: a minute.
const QUICK_EXPERIMENT: &str = "inbox";

/// Options of `demo`.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(id = "demo")]
pub(crate) struct Options {
    #[command(flatten)]
    up: up::Options,
}

/// The result of one part.
struct Part {
    name: &'static str,
    exit: Exit,
    duration: Duration,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: Options) -> anyhow::Result<Exit> {
    let mut parts = vec![part("up", || {
        options.up.bring_up(project, &progress())?;
        Ok(Exit::Holds)
    })?];
    // Without a running system no other part makes sense.
    if parts[0].exit == Exit::Holds {
        parts.push(part("smoke", || smoke::run(project, Format::Text))?);
        parts.push(part("load", || {
            load::run(
                project,
                &load::Options::checkout(LOAD_RUN_TIME),
                Format::Text,
            )
        })?);
        parts.push(part("verify-metrics", || {
            verify_metrics::run(project, &verify_metrics::Options::default(), Format::Text)
        })?);
        parts.push(part("verify-traces", || {
            verify_traces::run(project, &verify_traces::Options::default(), Format::Text)
        })?);
        parts.push(part("verify-dashboards", || {
            verify_dashboards::run(
                project,
                &verify_dashboards::Options::default(),
                Format::Text,
            )
        })?);
        parts.push(part("verify-dlq", || {
            verify_dlq::run(project, verify_dlq::Options::settled(), Format::Text)
        })?);
        parts.push(part("evaluate", || {
            evaluate::run(
                project,
                &evaluate::Options::only(QUICK_EXPERIMENT),
                Format::Text,
            )
        })?);
    }
    println!("\n── summary ──");
    let mut rows = table(["part", "result", "time"]);
    for part in &parts {
        rows.add_row([
            part.name.to_owned(),
            part.exit.word().to_owned(),
            spell(part.duration),
        ]);
    }
    println!("{rows}");
    if parts[0].exit == Exit::Holds {
        up::print_addresses(project)?;
    }
    Ok(Exit::worst(parts.iter().map(|part| part.exit)))
}

/// Runs one part under a heading; a failure is shown and counted, and the next part still runs.
fn part(name: &'static str, work: impl FnOnce() -> anyhow::Result<Exit>) -> anyhow::Result<Part> {
    println!("\n── {name} ──");
    let started = Instant::now();
    let exit = match work() {
        Err(error) if error.is::<Interrupted>() => return Err(error),
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::of(&error)
        }
        Ok(exit) => exit,
    };
    Ok(Part {
        name,
        exit,
        duration: started.elapsed(),
    })
}
