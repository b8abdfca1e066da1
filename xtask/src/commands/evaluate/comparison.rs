//! `evaluate --compare`, for people.

use base::outcome::Exit;
use evaluation::{numbers, report::compare::Comparison, statistics::Spread};

use crate::output::table;

/// Prints it for people.
pub(crate) fn print(comparison: &Comparison) {
    let mut table = table(["", "experiment", "measurement", "before", "now", ""]);
    for experiment in &comparison.experiments {
        table.add_row([
            experiment.after.mark(),
            &experiment.name,
            "verdict",
            experiment.before.word(),
            experiment.after.word(),
            experiment.change.word(),
        ]);
        for measurement in &experiment.measurements {
            let written = |spread: Option<&Spread>| numbers::spread(spread, &measurement.unit);
            table.add_row([
                "",
                "",
                &format!("{} ({})", measurement.name, measurement.arm),
                &written(measurement.before.as_ref()),
                &written(measurement.after.as_ref()),
                measurement.change.word(),
            ]);
        }
    }
    println!("{table}");
    for difference in &comparison.differences {
        println!("note: {difference}");
    }
    for regression in &comparison.regressions {
        println!("✗ {regression}");
    }
    let said = match comparison.outcome {
        Exit::Holds => "no regression".to_owned(),
        Exit::Inconclusive => format!(
            "of the experiments of {} not all were run again",
            comparison.before.run
        ),
        _ => format!("{} regressions", comparison.regressions.len()),
    };
    println!(
        "{}: {} → {}: {said} ({})",
        comparison.outcome.word(),
        comparison.before.run,
        comparison.after.run,
        match comparison.tolerance {
            Some(tolerance) => format!("tolerance {} %", tolerance * 100.0),
            None => "tolerance: what noise makes of as many runs, known from arms run back to back; else 20 %".to_owned(),
        }
    );
}
