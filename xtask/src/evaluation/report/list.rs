//! What each experiment is, before anything runs.

use serde::Serialize;

use crate::{
    evaluation::{
        experiment::{ArmFault, ArmPlan, Experiment, FaultPlan, LoadPlan, Model},
        experiments,
    },
    output::spell,
};

/// An experiment in words.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    name: &'static str,
    claim: &'static str,
    refuted_by: &'static str,
    harm: &'static str,
    load: String,
    fault: String,
    arms: Vec<String>,
    /// Patterns that are off in every arm, and why.
    confounders: Vec<String>,
    /// What the verdict rests on.
    counts: Vec<String>,
}

/// All of them.
pub(crate) fn entries() -> Vec<Entry> {
    let entry = |experiment: &'static Experiment| Entry {
        name: experiment.name,
        claim: experiment.claim,
        refuted_by: experiment.refuted_by,
        harm: experiment.harm,
        load: load(&experiment.load),
        fault: fault(&experiment.fault),
        arms: experiment.arms.iter().map(arm).collect(),
        confounders: confounders(experiment),
        counts: (experiment.figures)(&[])
            .into_iter()
            .filter(|figure| figure.decisive)
            .map(|figure| figure.name)
            .collect(),
    };
    experiments::ALL.into_iter().map(entry).collect()
}

/// Prints them for people.
pub(crate) fn print() {
    for entry in entries() {
        println!("{}", entry.name);
        for (what, text) in [
            ("claim", entry.claim),
            ("refuted by", entry.refuted_by),
            ("harm", entry.harm),
            ("load", &entry.load),
            ("fault", &entry.fault),
            ("arms", &entry.arms.join("; ")),
            ("confounder", &entry.confounders.join("; ")),
            ("counts", &entry.counts.join(", ")),
        ] {
            if !text.is_empty() {
                println!("{}", paragraph(what, text));
            }
        }
        println!();
    }
    println!(
        "Run all of them with `cargo xtask evaluate`, or some: `cargo xtask evaluate outbox inbox`."
    );
}

/// Columns of a paragraph's lines: what fits on any terminal.
const COLUMNS: usize = 100;

/// A labelled text, broken into lines.
fn paragraph(label: &str, text: &str) -> String {
    let mut lines = vec![format!("  {label:<11}")];
    let mut empty = true;
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if !empty && line + 1 + word.chars().count() > COLUMNS {
            lines.push(" ".repeat(13));
            empty = true;
        }
        if let Some(line) = lines.last_mut() {
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
    }
    lines.join("\n")
}

/// `order: 40 arrivals a second for 14.0 s`.
pub(crate) fn load(plan: &LoadPlan) -> String {
    let model = match plan.model {
        Model::Closed { users } => format!("{users} users, each waiting for its answer"),
        Model::Open {
            arrivals_per_second,
        } => format!("{arrivals_per_second} arrivals a second, whatever the answers do"),
    };
    let keys = if plan.idempotency_keys {
        "with idempotency keys"
    } else {
        "without idempotency keys"
    };
    format!(
        "{}: {model}, for {}, {keys}",
        plan.scenario,
        spell(plan.run_time)
    )
}

fn fault(plan: &FaultPlan) -> String {
    let lasts = if plan.lasts.is_zero() {
        "until it is done".to_owned()
    } else {
        format!("for {}", spell(plan.lasts))
    };
    format!(
        "{}; {} after the load begins (and up to {} more, by the seed), {lasts}",
        plan.fault.describe(),
        spell(plan.after),
        spell(FaultPlan::JITTER),
    )
}

/// `load_shedding, off in every arm: it refuses orders that …`
pub(crate) fn confounders(experiment: &Experiment) -> Vec<String> {
    let confounders = experiment.confounders.iter();
    let said = confounders.map(|confounder| {
        format!(
            "{}, off in every arm: it {}",
            confounder.pattern, confounder.effect
        )
    });
    said.collect()
}

/// `off: without outbox`, `2: inventory-service ×2`, `on: everything as shipped`.
pub(crate) fn arm(plan: &ArmPlan) -> String {
    let mut differs: Vec<String> = Vec::new();
    match plan.fault {
        ArmFault::AsPlanned => {}
        ArmFault::Instead(fault) => differs.push(format!("instead, {}", fault.describe())),
        ArmFault::None => differs.push("no fault".to_owned()),
    }
    if !plan.patterns_off.is_empty() {
        differs.push(format!("without {}", plan.patterns_off.join(", ")));
    }
    differs.extend(
        plan.replicas
            .iter()
            .map(|(service, count)| format!("{service} ×{count}")),
    );
    differs.extend(
        plan.figures
            .iter()
            .map(|(variable, value)| format!("{variable}={value}")),
    );
    if differs.is_empty() {
        differs.push("everything as shipped".to_owned());
    }
    format!("{}: {}", plan.name, differs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_longer_than_a_terminal() {
        let text = "a claim that goes on for a while ".repeat(20);
        let paragraph = paragraph("claim", &text);
        assert!(
            paragraph
                .lines()
                .all(|line| line.chars().count() <= COLUMNS)
        );
        assert_eq!(
            paragraph.split_whitespace().count(),
            1 + text.split_whitespace().count()
        );
    }
}
