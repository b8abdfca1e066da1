//! The experiments in words, for `evaluate list`.
//!
//! Left out: how the list looks on a terminal (`xtask`).

use std::time::Duration;

use base::progress::spell;
use serde::Serialize;

use crate::{
    effects::declared,
    experiment::{ArmFault, ArmPlan, DeclaredEffect, Experiment, FaultPlan, Kind, LoadPlan, Model},
    experiments,
};

/// An experiment in words.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// The name on the command line.
    pub name: &'static str,
    /// What it claims about the pattern, in a sentence.
    pub claim: &'static str,
    /// What would refute the claim.
    pub refuted_by: &'static str,
    /// The harm without the pattern, and its cause.
    pub harm: &'static str,
    /// The load in a phrase: scenario, model, duration.
    pub load: String,
    /// The fault in a phrase, with its times.
    pub fault: String,
    /// What tells the arms apart, a phrase each: `off: without outbox`.
    pub arms: Vec<String>,
    /// Why it runs on Kubernetes alone; `None` where it runs anywhere.
    pub kubernetes_alone: Option<&'static str>,
    /// Patterns that are off in every arm, and why.
    pub confounders: Vec<String>,
    /// The names of the measurements that the verdict rests on.
    pub counts: Vec<String>,
    /// Whether single runs decide the claim.
    pub kind: Kind,
    /// The declared effects, a sentence each.
    pub effects: Vec<String>,
}

/// Every experiment, in the order in which they are run.
pub fn entries() -> Vec<Entry> {
    let entry = |experiment: &'static Experiment| Entry {
        name: experiment.name,
        claim: experiment.claim,
        refuted_by: experiment.refuted_by,
        harm: experiment.harm,
        load: load(&experiment.load),
        fault: fault(&experiment.fault),
        arms: experiment.arms.iter().map(arm).collect(),
        kubernetes_alone: experiment.kubernetes_alone,
        confounders: confounders(experiment),
        counts: (experiment.measurements)(&[])
            .into_iter()
            .filter(|measurement| measurement.decisive)
            .map(|measurement| measurement.name)
            .collect(),
        kind: experiment.kind,
        effects: effects(experiment),
    };
    experiments::ALL.iter().copied().map(entry).collect()
}

/// A load in a phrase: `order: 40 arrivals a second, whatever the answers do, for 14.0 s, with idempotency keys`.
pub fn load(plan: &LoadPlan) -> String {
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
    let run_time = spell(plan.run_time);
    let lasts = match plan.outlasts_fault {
        None => format!("for {run_time}"),
        Some(Duration::ZERO) => format!("until the fault is over, {run_time} at most"),
        Some(longer) => format!(
            "until {} after the fault, {run_time} at most",
            spell(longer)
        ),
    };
    format!("{}: {model}, {lasts}, {keys}", plan.scenario)
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

/// The confounders, a phrase each: `load_shedding, off in every arm: it refuses orders that …`
pub fn confounders(experiment: &Experiment) -> Vec<String> {
    let confounders = experiment.confounders.iter();
    let said = confounders.map(|confounder| {
        format!(
            "{}, off in every arm: it {}",
            confounder.pattern.name(),
            confounder.effect
        )
    });
    said.collect()
}

/// The declared effects, a sentence each.
pub fn effects(experiment: &Experiment) -> Vec<String> {
    experiment.effects.iter().map(effect).collect()
}

/// A declared effect in a sentence: `orders decided under the CPU limit, at least ×1.15: a second consumer …`.
fn effect(effect: &DeclaredEffect) -> String {
    let bound = declared(effect.bound);
    format!("{}, {bound}: {}", effect.measurement, effect.reason)
}

/// An arm in a phrase: `off: without outbox`, `2: inventory-service ×2`, `on: everything as shipped`.
pub fn arm(plan: &ArmPlan) -> String {
    let mut differs: Vec<String> = Vec::new();
    match plan.fault {
        ArmFault::AsPlanned => {}
        ArmFault::Instead(fault) => differs.push(format!("instead, {}", fault.describe())),
        ArmFault::None => differs.push("no fault".to_owned()),
    }
    if !plan.patterns_off.is_empty() {
        let off: Vec<&str> = plan.patterns_off.iter().map(|it| it.name()).collect();
        differs.push(format!("without {}", off.join(", ")));
    }
    differs.extend(
        plan.replicas
            .iter()
            .map(|(service, count)| format!("{service} ×{count}")),
    );
    differs.extend(
        plan.overrides
            .iter()
            .map(|(variable, value)| format!("{variable}={value}")),
    );
    if differs.is_empty() {
        differs.push("everything as shipped".to_owned());
    }
    format!("{}: {}", plan.name, differs.join(", "))
}
