//! `heal`: undoes whatever a fault left behind, by looking at the system alone, and restores what an evaluation that
//! was cut short had found, by the note that it left. What a killed command left is undone by the next one, whichever
//! it is ([`undo_left_over`]).

use base::outcome::Exit;
use evaluation::{run_journal, runner};
use serde::Serialize;
use system::{interrupt::Interrupted, lab::Lab, lock::SystemLock, note, project::Project};

use crate::output::{Format, print_json, progress};

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    /// In words; empty when nothing was wrong.
    #[serde(rename = "mended")]
    repaired: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(project: &Project, format: Format) -> anyhow::Result<Exit> {
    let lab = Lab::new(project)?;
    let _lock = SystemLock::take(project)?;
    let repaired = progress().step("heal", |step| runner::heal(&lab, step))?;
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

/// Undoes what a command left that was killed, before another one looks at the system; a failure is told, and the
/// other one may see what it makes of the system.
///
/// Nothing is touched without a note of a killed command, nor while others have the system alone or a fault lasts that
/// somebody asked for.
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
    let notes = note::all(project)?;
    let evaluation = run_journal::left_over(project)?;
    let evaluation = evaluation.map(|evaluation| format!("evaluation {}", evaluation.run));
    let left: Vec<String> = notes.abandoned.into_iter().chain(evaluation).collect();
    if left.is_empty() {
        return Ok(());
    }
    // Whoever has the system alone is at work on it, and an evaluation's note may be theirs.
    let Ok(_lock) = SystemLock::take(project) else {
        return Ok(());
    };
    let left = left.join(", ");
    if let Some(lasting) = notes.lasting.first() {
        eprintln!("{left} was cut short, and is not healed while {lasting} lasts");
        return Ok(());
    }
    // Where nothing runs, the command itself says so.
    let Ok(lab) = Lab::new(project) else {
        return Ok(());
    };
    progress().step("heal", |step| {
        step.say(&format!("{left} was cut short"));
        runner::heal(&lab, step)?;
        Ok(())
    })
}
