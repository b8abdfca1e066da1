//! A conclusion on a terminal: the figures of each experiment, then all verdicts, so that these stand last.

use comfy_table::Table;
use evaluation::{
    conclusion::{Conclusion, ExperimentConclusion},
    report::numbers,
    store::{EvaluationFolder, PAGE_FILE},
};

use crate::output::table;

/// Prints it.
pub(crate) fn print(conclusion: &Conclusion, folder: &EvaluationFolder) {
    for experiment in &conclusion.experiments {
        println!("── {} ──", experiment.name);
        println!("{}", figures(experiment));
        if experiment.repetitions() == 1 {
            println!(" {}", numbers::NO_SPREAD);
        }
        println!();
    }
    println!("{}", verdicts(conclusion));
    if let Some(sabotage) = conclusion.sabotage {
        println!("Sabotaged on purpose: {}.", sabotage.describe());
    }
    println!("repeat it   {}", conclusion.command);
    println!("report      {}", folder.path.join(PAGE_FILE).display());
    println!(
        "{}: run {}: {}",
        conclusion.outcome.word(),
        conclusion.run,
        conclusion.tally()
    );
}

/// A row for each experiment.
fn verdicts(conclusion: &Conclusion) -> Table {
    let mut table = table(["", "experiment", "verdict", "because"]);
    for experiment in &conclusion.experiments {
        table.add_row([
            experiment.outcome.mark(),
            &experiment.name,
            experiment.outcome.word(),
            &experiment.reason,
        ]);
    }
    table
}

/// A row for each figure, a column for each arm.
fn figures(experiment: &ExperimentConclusion) -> Table {
    let arms = experiment.figures.first().map(|figure| &figure.arms);
    let mut header = vec![String::new()];
    header.extend(arms.into_iter().flatten().map(|arm| arm.arm.clone()));
    header.push(
        arms.and_then(|arms| Some((arms.first()?, arms.last()?)))
            .map_or_else(String::new, |(from, to)| {
                format!("{} against {}", to.arm, from.arm)
            }),
    );
    let mut table = table([]);
    table.set_header(header);
    for figure in &experiment.figures {
        let mut row = vec![figure.name.clone()];
        row.extend(
            figure
                .arms
                .iter()
                .map(|arm| numbers::spread(arm.spread.as_ref(), &figure.unit)),
        );
        row.push(numbers::effect(figure.effect.as_ref(), &figure.unit));
        table.add_row(row);
    }
    table
}
