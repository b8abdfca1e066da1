//! Do more consumers process a queue faster?

use std::time::Duration;

use records::{evaluation::Arm, scenario::Scenario};
use system::Part;

use super::{WRONG_LEDGER, by_route::decided_per_second, context};
use crate::{
    experiment::{
        ArmFault, ArmPlan, DeclaredEffect, Experiment, FaultPlan, Kind, LoadPlan, Model, Observed,
        Ratio,
    },
    faults::Fault,
    measurement::{Better, Measurement, Outcome},
    statistics::decision::Bound,
};

/// Not twice as fast: consumers wait for each other's rows, as batches of orders for a hundred products have most of them
/// in common.
///
/// Four are not claimed to be faster than two: where the whole system shares two cores, a consumer that isn't scheduled
/// holds rows that the other three wait for. To measure four takes a core for each beside the system's own.
const EFFECTS: [DeclaredEffect; 1] = [DeclaredEffect {
    measurement: SPEED,
    ratio: Ratio::BetweenArms,
    bound: Bound::AtLeast(1.15),
    reason: "a second consumer costs as much as the first: for less than a seventh more it isn't worth its place",
}];
const SPEED: &str = "orders decided under the CPU limit";
/// Consumers that decide this share of the arriving orders keep up; more of them could not be faster.
const KEEPING_UP: f64 = 0.9;

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "competing_consumers",
    claim: "Consumers that share a queue share its work: with each of them held to the same part of a core, two \
            decide at least 1.15 times as many orders a second as one, and no order is decided twice.",
    kind: Kind::Magnitude,
    effects: &EFFECTS,
    refuted_by: "two consumers that are less than 1.15 times as fast as one, or a ledger that doesn't reconcile",
    harm: "One consumer alone is as fast as its own processor: orders come faster than it decides them, and the rest \
           wait.",
    arms: &[
        consumers("1", &[]),
        consumers("2", &[(Part::InventoryService, 2)]),
    ],
    confounders: &[],
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::Order,
        // More than two consumers decide, and half of what the gateway accepts where a core is slow: the experiment is
        // about the queue behind it.
        model: Model::Open {
            arrivals_per_second: 120,
        },
        run_time: Duration::from_secs(23),
        outlasts_fault: None,
        idempotency_keys: true,
    },
    fault: FaultPlan {
        fault: Fault::StarveCpu {
            service: Part::InventoryService,
            // With 15 a consumer is throttled again and again while it holds its rows' locks, and two only stand in each other's
            // way; with 40 one alone decides all that arrives.
            millicores: 22,
        },
        after: Duration::from_secs(1),
        // Orders are decided in batches of up to fifty: whether the last one is within this time changes the rate of some fifty a
        // second by a twentieth of 20 s.
        lasts: Duration::from_secs(20),
    },
    observed: Observed::Reconciliation,
    measurements: |arms| [vec![speed(arms)], context(arms)].concat(),
    judge,
};

const fn consumers(name: &'static str, replicas: &'static [(Part, u32)]) -> ArmPlan {
    ArmPlan {
        name,
        patterns_off: &[],
        replicas,
        overrides: &[],
        fault: ArmFault::AsPlanned,
    }
}

fn speed(arms: &[Arm]) -> Measurement {
    Measurement::of(SPEED, "/s", Better::More, arms, decided_per_second).decisive()
}

/// Orders that clients placed, a second.
fn placed_per_second(arm: &Arm) -> Option<f64> {
    let load = &arm.load.as_ref()?.summary;
    let seconds = (load.finished_at - load.measured_from).as_seconds_f64();
    (seconds > 0.0).then(|| load.orders.accepted as f64 / seconds)
}

fn judge(arms: &[Arm]) -> (Outcome, String) {
    for arm in arms {
        for (kind, count) in WRONG_LEDGER {
            if count(arm) > 0 {
                return (
                    Outcome::Refuted,
                    format!(
                        "with {} consumers there are {} {kind}",
                        arm.name,
                        count(arm)
                    ),
                );
            }
        }
    }
    let speeds: Option<Vec<f64>> = arms.iter().map(decided_per_second).collect();
    let Some(speeds) = speeds.filter(|speeds| speeds.iter().all(|speed| *speed > 0.0)) else {
        return (
            Outcome::Inconclusive,
            "in one arm no order was decided while the CPU limit was in force".to_owned(),
        );
    };
    let said: Vec<String> = arms
        .iter()
        .zip(&speeds)
        .map(|(arm, speed)| format!("{}: {speed:.0}/s", arm.name))
        .collect();
    // Only of the first arm: where the last one keeps up, its consumers are at least as fast as was measured.
    let one_keeps_up = arms
        .first()
        .zip(speeds.first())
        .is_some_and(|(arm, speed)| {
            placed_per_second(arm).is_none_or(|placed| *speed >= placed * KEEPING_UP)
        });
    let said = format!("consumers and orders decided a second: {}", said.join(", "));
    if one_keeps_up {
        return (
            Outcome::Inconclusive,
            format!("one decided all that arrived, so that two could not be faster; {said}"),
        );
    }
    (Outcome::Upheld, said)
}
