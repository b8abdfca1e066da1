//! A conclusion as Markdown, for a pull request or the summary of a CI job.
//!
//! Left out: measurements that no verdict rests on.

use std::fmt::Write;

use crate::numbers;
use crate::{
    conclusion::{Conclusion, ExperimentConclusion},
    effects::declared,
};

/// The whole summary.
pub fn summary(conclusion: &Conclusion) -> String {
    let mut text = format!(
        "## agora evaluation: {}\n\nRun `{}`, seed {}, commit `{}`.\n\n",
        conclusion.tally(),
        code(&conclusion.run),
        conclusion.seed,
        code(&conclusion.versions.agora),
    );
    if let Some(sabotage) = conclusion.sabotage {
        let _ = writeln!(text, "**Sabotaged on purpose:** {}.\n", sabotage.describe());
    }
    text.push_str("| | experiment | verdict | harm: without → with | because |\n");
    text.push_str("|---|---|---|---|---|\n");
    for experiment in &conclusion.experiments {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            experiment.outcome.mark(),
            cell(&experiment.name),
            experiment.outcome.word(),
            cell(&harm(experiment)),
            cell(&experiment.reason),
        );
    }
    let single = conclusion
        .experiments
        .iter()
        .any(|experiment| experiment.repetitions() == 1);
    if single {
        let _ = write!(text, "\n{}.\n", numbers::NO_SPREAD);
    }
    let effects = conclusion.experiments.iter().flat_map(|experiment| {
        let effects = experiment.effects.iter();
        effects.map(|effect| (&experiment.name, effect))
    });
    let mut heading = "\n| | experiment | declared effect | seen |\n|---|---|---|---|\n";
    for (name, effect) in effects {
        let _ = writeln!(
            text,
            "{heading}| {} | {} | {}, {} | {} |",
            effect.outcome.mark(),
            cell(name),
            cell(&effect.measurement),
            declared(effect.bound),
            cell(&effect.reason),
        );
        heading = "";
    }
    text.push_str("\nTo quote:\n\n");
    for experiment in &conclusion.experiments {
        let _ = writeln!(text, "- {}", cell(&experiment.quote));
    }
    let _ = write!(text, "\nRepeat it: `{}`\n", code(&conclusion.command));
    text
}

/// The decisive measurements over the arms: `orders lost 41 (38–44) → 0`.
pub fn harm(experiment: &ExperimentConclusion) -> String {
    let decisive = experiment
        .measurements
        .iter()
        .filter(|measurement| measurement.decisive);
    let written = decisive.map(|measurement| {
        let arms: Vec<String> = measurement
            .arms
            .iter()
            .map(|arm| numbers::spread(arm.spread.as_ref(), &measurement.unit))
            .collect();
        format!("{}: {}", measurement.name, arms.join(" → "))
    });
    written.collect::<Vec<_>>().join("; ")
}

/// Text in a cell of a table: nothing in it is markup, and it stays on its line.
fn cell(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\r' => escaped.push(' '),
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '|' | '\\' | '*' | '[' | ']' | '`' | '~' => {
                escaped.push('\\');
                escaped.push(character);
            }
            other => escaped.push(other),
        }
    }
    escaped
}

/// Text between backticks.
fn code(text: &str) -> String {
    text.replace(['`', '\n', '\r'], " ")
}
