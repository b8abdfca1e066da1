//! The experiments, a file each, and the measurements that several of them share.
//!
//! Left out: what an experiment is ([`crate::experiment`]), and how it is run ([`crate::runner`]).

mod alerting;
mod by_route;
mod circuit_breaker;
mod client_load_balancing;
mod competing_consumers;
mod confirms;
mod dead_letter;
mod deadline;
mod endpoint_race;
mod forward_auth;
mod graceful_shutdown;
mod inbox;
mod key_rotation;
mod load_shedding;
mod node_loss;
mod outbox;
mod rate_limit;
mod retry;
mod rolling_update;
mod saga;
mod saga_recovery;
mod telemetry_loss;
mod trace_propagation;

use std::time::Duration;

use patterns::Pattern;
use records::evaluation::{Arm, Reconciliation, Telemetry};

use super::{
    experiment::{ArmFault, ArmPlan, Confounder, Experiment},
    measurement::{Better, Measurement},
    verdict::Count,
};

/// Every experiment, in the order in which they are run.
pub static ALL: &[&Experiment] = &[
    // First: it begins once no alert fires, and others leave some that take minutes to resolve.
    &alerting::EXPERIMENT,
    &outbox::EXPERIMENT,
    &inbox::EXPERIMENT,
    &retry::EXPERIMENT,
    &dead_letter::EXPERIMENT,
    &confirms::EXPERIMENT,
    &graceful_shutdown::EXPERIMENT,
    &saga::EXPERIMENT,
    &saga_recovery::EXPERIMENT,
    &competing_consumers::EXPERIMENT,
    &trace_propagation::EXPERIMENT,
    &telemetry_loss::EXPERIMENT,
    &forward_auth::EXPERIMENT,
    &deadline::EXPERIMENT,
    &circuit_breaker::EXPERIMENT,
    &client_load_balancing::EXPERIMENT,
    &load_shedding::EXPERIMENT,
    &rate_limit::EXPERIMENT,
    &rolling_update::EXPERIMENT,
    &key_rotation::EXPERIMENT,
    &endpoint_race::EXPERIMENT,
    &node_loss::EXPERIMENT,
];

/// The experiment with this name.
pub fn find(name: &str) -> Option<&'static Experiment> {
    let mut all = ALL.iter().copied();
    all.find(|experiment| experiment.name == name)
}

/// For experiments in which product-service's only replica hangs: balancing isn't what they are about.
const BALANCING: Confounder = Confounder {
    pattern: Pattern::ClientLoadBalancing,
    effect: "stops using the only replica once its checks fail, so that calls fail at once instead of hanging",
};

/// For experiments in which orders are lost without the pattern: recovery would find them again.
const RECOVERY: Confounder = Confounder {
    pattern: Pattern::SagaRecovery,
    effect: "publishes the events of lost orders again after a while",
};

/// How long the load goes on after containers were replaced or restarted: each new one gets dozens of requests.
const AFTER_REPLACEMENT: Duration = Duration::from_secs(3);

/// The arm with every pattern as shipped.
const ON: ArmPlan = ArmPlan {
    name: "on",
    patterns_off: &[],
    replicas: &[],
    overrides: &[],
    fault: ArmFault::AsPlanned,
};

/// The arm without these patterns.
const fn without(pattern: &'static [Pattern]) -> ArmPlan {
    ArmPlan {
        name: "off",
        patterns_off: pattern,
        replicas: &[],
        overrides: &[],
        fault: ArmFault::AsPlanned,
    }
}

fn reconciliation(arm: &Arm) -> Reconciliation {
    arm.reconciliation.clone().unwrap_or_default()
}

fn telemetry(arm: &Arm) -> Telemetry {
    arm.telemetry.clone().unwrap_or_default()
}

fn count<T>(items: &[T]) -> u64 {
    items.len() as u64
}

fn lost(arm: &Arm) -> u64 {
    count(&reconciliation(arm).lost)
}

/// Orders that no client was promised, or they are lost.
fn endless(arm: &Arm) -> u64 {
    let found = reconciliation(arm);
    let promised_too = |id: &&String| found.lost.contains(*id);
    let unpromised = found.undecided.iter().filter(|id| !promised_too(id));
    unpromised.count() as u64
}

fn doubled(arm: &Arm) -> u64 {
    count(&reconciliation(arm).doubled)
}

fn oversold(arm: &Arm) -> u64 {
    count(&reconciliation(arm).oversold)
}

fn held(arm: &Arm) -> u64 {
    count(&reconciliation(arm).held)
}

fn uncancelled(arm: &Arm) -> u64 {
    count(&reconciliation(arm).uncancelled)
}

fn unbalanced(arm: &Arm) -> u64 {
    count(&reconciliation(arm).unbalanced)
}

fn ghosts(arm: &Arm) -> u64 {
    count(&reconciliation(arm).ghosts)
}

fn misanswered(arm: &Arm) -> u64 {
    count(&reconciliation(arm).misanswered)
}

fn dead_letters(arm: &Arm) -> u64 {
    reconciliation(arm).dead_letters.values().sum()
}

fn failed_requests(arm: &Arm) -> u64 {
    arm.load
        .as_ref()
        .map_or(0, |load| load.summary.failed as u64)
}

/// What no arm with the pattern may show, whichever pattern it is.
const WRONG_LEDGER: [Count; 9] = [
    ("orders lost", lost),
    ("orders stored without an end", endless),
    ("orders that took stock twice", doubled),
    ("orders confirmed without their stock", oversold),
    ("ended orders that still hold stock", held),
    ("cancellations that were not kept", uncancelled),
    ("products whose stock doesn't add up", unbalanced),
    ("ghosts of orders that don't exist", ghosts),
    ("orders stored otherwise than answered", misanswered),
];

/// The most orders without an end at once, as the time from a 202 to the order's end is not recorded.
fn most_undecided(arm: &Arm) -> Option<f64> {
    let most = arm.samples.iter().map(|sample| sample.undecided).max()?;
    Some(most as f64)
}

fn harm(name: &str, arms: &[Arm], count: fn(&Arm) -> u64) -> Measurement {
    Measurement::of(name, "", Better::Less, arms, |arm| {
        arm.reconciliation.is_some().then(|| count(arm) as f64)
    })
    .decisive()
}

/// The median latency of all requests of the load.
fn latency_p50(arms: &[Arm]) -> Measurement {
    Measurement::of("latency p50", "ms", Better::Less, arms, |arm| {
        arm.load.as_ref().map(|load| load.summary.latency.p50_ms)
    })
}

/// The p99 latency of all requests of the load.
fn latency_p99(arms: &[Arm]) -> Measurement {
    Measurement::of("latency p99", "ms", Better::Less, arms, |arm| {
        arm.load.as_ref().map(|load| load.summary.latency.p99_ms)
    })
}

/// The measurements that every experiment reports besides its own harm: what could be lost, and what clients saw.
fn context(arms: &[Arm]) -> Vec<Measurement> {
    let summary = |arm: &Arm| arm.load.as_ref().map(|load| load.summary.clone());
    vec![
        Measurement::of("orders accepted", "", Better::Neither, arms, |arm| {
            arm.reconciliation
                .as_ref()
                .map(|reconciliation| reconciliation.promised as f64)
        }),
        Measurement::of("requests failed", "", Better::Less, arms, |arm| {
            summary(arm).map(|summary| summary.failed as f64)
        }),
        latency_p50(arms),
        latency_p99(arms),
        Measurement::of(
            "most orders waiting at once",
            "",
            Better::Less,
            arms,
            most_undecided,
        ),
        Measurement::of("settled after the load", "ms", Better::Less, arms, |arm| {
            arm.settled_after_ms.map(|ms| ms as f64)
        }),
    ]
}

/// The measurements of an experiment: its harms first, and no measurement twice.
fn measurements(arms: &[Arm], harms: &[Count]) -> Vec<Measurement> {
    let mut context = context(arms);
    context.retain(|measurement| harms.iter().all(|(name, _)| *name != measurement.name));
    let harms = harms.iter().map(|(name, count)| harm(name, arms, *count));
    harms.chain(context).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use records::evaluation::Category;

    use system::project::{Engine, Place};

    use crate::{
        experiment::{FaultPlan, Observed},
        report::tests::Sketch,
    };

    #[test]
    fn the_experiments_that_run_on_kubernetes_are_known() {
        let on = |engine: Engine| {
            let there = ALL.iter().filter(|it| it.obstacle(&engine).is_none());
            there
                .map(|experiment| experiment.name)
                .collect::<BTreeSet<_>>()
        };
        let kubernetes = |context: Option<&str>| {
            on(Engine::Kubernetes(Place {
                context: context.map(str::to_owned),
                namespace: Engine::NAMESPACE.to_owned(),
            }))
        };
        let anywhere = [
            "inbox",
            "retry",
            "dead_letter",
            "confirms",
            "graceful_shutdown",
            "saga_recovery",
            "trace_propagation",
            "forward_auth",
            "rolling_update",
            "key_rotation",
            "endpoint_race",
        ];
        assert_eq!(kubernetes(Some("production")), anywhere.into());
        // Where nodes are reached: every one.
        let local = kubernetes(None);
        assert_eq!(local.len(), ALL.len());
        let page = support::sources::root().join("docs/how-to/run-on-kubernetes.md");
        let page = std::fs::read_to_string(page).unwrap();
        for name in &local {
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
        let alone: Vec<_> = local.difference(&on(Engine::Compose)).copied().collect();
        assert_eq!(alone, ["endpoint_race", "node_loss"]);
    }

    #[test]
    fn every_category_of_a_wrong_ledger_is_counted_in_every_arm() {
        for Category { name, .. } in Reconciliation::CATEGORIES {
            let mut found = serde_json::to_value(Reconciliation::default()).unwrap();
            found[name] = serde_json::json!(["one"]);
            let found: Reconciliation = serde_json::from_value(found).unwrap();
            assert!(!found.balances(), "{name}");
            let mut arm = Sketch::arm("on").build();
            arm.reconciliation = Some(found);
            let counted = WRONG_LEDGER.iter().map(|(_, count)| count(&arm));
            assert_eq!(counted.sum::<u64>(), 1, "{name}");
        }
    }

    #[test]
    fn every_experiment_has_a_name_of_its_own_and_says_what_it_is_about() {
        for experiment in ALL {
            let same = ALL.iter().filter(|other| other.name == experiment.name);
            assert_eq!(same.count(), 1, "{}", experiment.name);
            assert!(experiment.arms.len() >= 2, "{}", experiment.name);
            assert!(!experiment.claim.is_empty() && !experiment.refuted_by.is_empty());
            for confounder in experiment.confounders {
                let mut arms = experiment.arms.iter();
                assert!(
                    arms.all(|arm| !arm.patterns_off.contains(&confounder.pattern)),
                    "{}: {} can't be both",
                    experiment.name,
                    confounder.pattern.name()
                );
            }
            let ends = experiment.fault.after + FaultPlan::JITTER + experiment.fault.lasts;
            let longer = experiment.load.outlasts_fault.unwrap_or_default();
            assert!(
                ends + longer <= experiment.load.run_time,
                "{}",
                experiment.name
            );
            // The load ends with the fault exactly where the plan doesn't say when that is over.
            let is_open = matches!(experiment.observed, Observed::Alerts { .. })
                || experiment.fault.lasts.is_zero();
            assert_eq!(
                experiment.load.outlasts_fault.is_some(),
                is_open,
                "{}",
                experiment.name
            );

            let measurements = (experiment.measurements)(&[]);
            let names: BTreeSet<&str> = measurements
                .iter()
                .map(|measurement| measurement.name.as_str())
                .collect();
            assert_eq!(names.len(), measurements.len(), "{}", experiment.name);
            assert!(
                measurements[0].decisive,
                "{}: the harm first",
                experiment.name
            );
        }
    }
}
