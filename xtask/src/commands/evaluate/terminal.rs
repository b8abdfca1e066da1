//! A conclusion on a terminal: the measurements of each experiment, then all verdicts, so that these stand last.

use comfy_table::Table;
use evaluation::{
    conclusion::{Conclusion, ExperimentConclusion},
    numbers,
    report::html::PAGE_FILE,
    store::EvaluationFolder,
};

use crate::output::table;

/// Prints it.
pub(crate) fn print(conclusion: &Conclusion, folder: &EvaluationFolder) {
    for experiment in &conclusion.experiments {
        println!("── {} ──", experiment.name);
        println!("{}", measurements(experiment));
        if experiment.repetitions() == 1 {
            println!(" {}", numbers::NO_SPREAD);
        }
        for effect in &experiment.effects {
            println!(" {} {}", effect.outcome.mark(), effect.sentence());
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

/// A row for each measurement, a column for each arm.
fn measurements(experiment: &ExperimentConclusion) -> Table {
    let arms = experiment
        .measurements
        .first()
        .map(|measurement| &measurement.arms);
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
    for measurement in &experiment.measurements {
        let mut row = vec![measurement.name.clone()];
        row.extend(
            measurement
                .arms
                .iter()
                .map(|arm| numbers::spread(arm.spread.as_ref(), &measurement.unit)),
        );
        row.push(numbers::effect(
            measurement.effect.as_ref(),
            &measurement.unit,
        ));
        table.add_row(row);
    }
    table
}
