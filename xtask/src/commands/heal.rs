//! `heal`: undoes whatever a fault left behind, by looking at the system alone, and restores what an evaluation that
//! was cut short had found, by the note that it left.

use serde::Serialize;

use crate::{
    evaluation::{lab::Lab, runner, under_way::Turn},
    outcome::Exit,
    output::{Format, FormatOption, Progress, print_json},
    project::Project,
};

/// What `heal` can be told.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) format: FormatOption,
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    /// In words; empty when nothing was wrong.
    mended: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: Options) -> anyhow::Result<Exit> {
    let lab = Lab::new(project)?;
    let _turn = Turn::take(project)?;
    let mended = Progress::new().step("heal", |step| runner::heal(&lab, step))?;
    match options.format.format {
        Format::Json => print_json(&Report {
            outcome: Exit::Holds,
            mended,
        })?,
        Format::Text if mended.is_empty() => println!("Nothing to mend: all healthy."),
        Format::Text => {
            for what in &mended {
                println!("{what}");
            }
            println!("All healthy.");
        }
    }
    Ok(Exit::Holds)
}
