//! The noise floors that an A/A run has shown, on a terminal.

use evaluation::numbers;
use records::evaluation::{NoiseRecord, Ratio};

use crate::output::table;

/// Prints them.
pub(crate) fn print(records: &[NoiseRecord]) {
    let mut table = table(["experiment", "measurement", "ratio", "noise floor", "pairs"]);
    for record in records {
        table.add_row([
            record.experiment.clone(),
            record.measurement.clone(),
            match record.ratio {
                Ratio::BetweenArms => "between arms",
                Ratio::WithPattern => "the last arm's own",
            }
            .to_owned(),
            numbers::ratio(record.factor),
            record.pairs.to_string(),
        ]);
    }
    println!(
        "Noise alone goes as far as this on this machine, from ×1 between arms, from its mean where a ratio is the last arm's own:\n\
         {table}\n"
    );
}
