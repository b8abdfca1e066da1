//! `heal`: undoes every fault, by looking at the system alone, and restores what an interrupted evaluation had found,
//! by its run journal. What a killed command left is undone by the next one, whichever it is ([`undo_left_over`]).

use base::outcome::Exit;
use evaluation::{run_journal, runner};
use serde::Serialize;
use system::{
    interrupt::Interrupted, lock::SystemLock, operation_record, project::Project,
    running::RunningSystem,
};

use crate::output::{Format, print_json, progress};

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    /// What was repaired, in words; empty when nothing was wrong.
    #[serde(rename = "mended")]
    repaired: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(project: &Project, format: Format) -> anyhow::Result<Exit> {
    let system = RunningSystem::new(project)?;
    let _lock = SystemLock::take(project)?;
    let repaired = progress().step("heal", |step| runner::heal(&system, step))?;
    match format {
        Format::Json => print_json(&Report {
            outcome: Exit::Holds,
            repaired,
        })?,
        Format::Text if repaired.is_empty() => println!("Nothing to repair: all healthy."),
        Format::Text => {
            for what in &repaired {
                println!("{what}");
            }
            println!("All healthy.");
        }
    }
    Ok(Exit::Holds)
}

/// Undoes what a killed command left, before another one looks at the system. A failure is a warning: the other command
/// runs all the same.
///
/// Nothing is touched without the record of a killed command's operation, nor while another process holds the system lock or a fault is
/// in force.
pub(crate) fn undo_left_over(project: &Project) -> anyhow::Result<()> {
    match try_to_undo(project) {
        Err(error) if !error.is::<Interrupted>() => {
            eprintln!(
                "what a killed command left is not undone: {error:#}\n  next: `cargo xtask heal`"
            );
            Ok(())
        }
        result => result,
    }
}

fn try_to_undo(project: &Project) -> anyhow::Result<()> {
    let operations = operation_record::all(project)?;
    let evaluation = run_journal::left_over(project)?;
    let evaluation = evaluation.map(|evaluation| format!("evaluation {}", evaluation.run));
    let left: Vec<String> = operations.abandoned.into_iter().chain(evaluation).collect();
    if left.is_empty() {
        return Ok(());
    }
    // The holder of the lock is at work on the system, and a run journal may be its own.
    let Ok(_lock) = SystemLock::take(project) else {
        return Ok(());
    };
    let left = left.join(", ");
    if let Some(running) = operations.running.first() {
        eprintln!("{left} was cut short, and is not healed while {running} lasts");
        return Ok(());
    }
    // Where nothing runs, the command itself says so.
    let Ok(system) = RunningSystem::new(project) else {
        return Ok(());
    };
    progress().step("heal", |step| {
        step.say(&format!("{left} was cut short"));
        runner::heal(&system, step)?;
        Ok(())
    })
}
