//! `doctor`: checks prerequisites, and names the command that provides what is missing.

use base::outcome::Exit;
use serde::Serialize;
use system::{
    prerequisites::{self, Check, State},
    project::Project,
};

use crate::output::{Format, print_json, progress, table};

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    checks: Vec<Check>,
}

/// Runs the command.
pub(crate) fn run(project: &Project, format: Format) -> anyhow::Result<Exit> {
    let checks = progress().step("looking around", |step| {
        step.update("asking the engine, the registry and the toolchain");
        prerequisites::examine(project)
    })?;
    let missing = checks.iter().any(|check| check.state == State::Missing);
    let report = Report {
        outcome: if missing {
            Exit::Unavailable
        } else {
            Exit::Holds
        },
        checks,
    };
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => print_text(&report),
    }
    Ok(report.outcome)
}

fn print_text(report: &Report) {
    let mut rows = table(["", "what", "found", "repair"]);
    for check in &report.checks {
        let mark = match check.state {
            State::Ok => "✓",
            State::Dispensable => "·",
            State::Missing => "✗",
        };
        rows.add_row([
            mark,
            check.what,
            &check.detail,
            check.repair.as_deref().unwrap_or(""),
        ]);
    }
    println!("{rows}");
    match report.outcome {
        Exit::Holds => println!("This machine has what agora needs."),
        _ => println!("Lines with ✗ keep agora from running."),
    }
}
