//! `evaluate history`: the stored runs of a machine over time, as a page and for people at a terminal.
//!
//! Left out: what a history is (`evaluation::report::history`).

use base::outcome::{self, Exit};
use evaluation::{
    experiment::Experiment,
    report::{history::ExperimentHistory, history::History},
    store::write_history,
};
use system::project::Project;

use super::chosen;
use crate::output::{Format, print_json, table};

/// The most runs of an experiment on a terminal.
const SHOWN: usize = 20;

/// Runs the command.
pub(super) fn run(project: &Project, names: &[String], format: Format) -> anyhow::Result<Exit> {
    let chosen: Vec<&Experiment> = chosen(names)?;
    let (conclusions, unreadable) = evaluation::history::stored(project)?;
    let history = History::of(&conclusions, unreadable);
    let left_out = history.left_out.describe();
    let names: Vec<String> = chosen.iter().map(|it| it.name.to_owned()).collect();
    let printed = history.clone().only(&names);
    if printed.experiments.is_empty() {
        let of = match chosen.as_slice() {
            [only] => format!(" of `{}`", only.name),
            _ => String::new(),
        };
        let left_out = left_out.map_or_else(String::new, |why| format!(" (left out: {why})"));
        return Err(outcome::unavailable(
            format!("there is no stored evaluation{of}{left_out}"),
            "make one with `cargo xtask evaluate`",
        ));
    }
    let page = write_history(project, &history)?;
    match format {
        Format::Json => print_json(&printed)?,
        Format::Text => {
            for experiment in &printed.experiments {
                print(experiment);
            }
            println!("Changes: {}.", history.method);
            if let Some(left_out) = left_out {
                println!("Left out: {left_out}.");
            }
            println!("page        {}", page.display());
        }
    }
    Ok(Exit::Holds)
}

/// A row for each run, a column for each declared effect and each decisive measurement.
fn print(history: &ExperimentHistory) {
    println!("── {} ──", history.title());
    let mut header = ["", "run", "commit", "profile", "repetitions"]
        .map(str::to_owned)
        .to_vec();
    let series = history.series.iter();
    header.extend(series.map(|series| format!("{} ({})", series.title(), series.of())));
    let mut table = table([]);
    table.set_header(header);
    let first = history.runs.len().saturating_sub(SHOWN);
    for (index, run) in history.runs.iter().enumerate().skip(first) {
        let mut row = vec![
            run.outcome.mark().to_owned(),
            run.run.clone(),
            run.agora.clone(),
            run.profile.option().to_owned(),
            run.repetitions.to_string(),
        ];
        row.extend(history.series.iter().map(|series| series.cell(index)));
        table.add_row(row);
    }
    println!("{table}");
    if first > 0 {
        println!(" {first} earlier runs are on the page and in --format json");
    }
    for change in history.changes() {
        println!(" changed: {change}");
    }
    println!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_stored_run_there_is_nothing_to_show_and_no_page() {
        let folder = tempfile::tempdir().unwrap();
        let mut project = Project::discover().unwrap();
        project.root = folder.path().to_owned();
        for (names, said) in [
            (&[][..], "there is no stored evaluation"),
            (&["outbox".to_owned()], "no stored evaluation of `outbox`"),
        ] {
            let error = run(&project, names, Format::Text).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Unavailable);
            assert!(error.to_string().contains(said), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let error = run(&project, &["telepathy".to_owned()], Format::Text).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
    }
}
