//! Is there a notification for a fault, in time, and for its resolution, and no other?

use std::time::Duration;

use patterns::Pattern;
use records::{
    evaluation::{Arm, FiredAlert},
    scenario::Scenario,
};
use system::Part;

use super::{ON, WRONG_LEDGER, context, count, harm, without};
use crate::{
    experiment::{ArmFault, ArmPlan, Experiment, FaultPlan, Kind, LoadPlan, Model, Observed},
    faults::Fault,
    measurement::{Better, Measurement, Outcome},
};

/// An alert that a fault has to raise, and the runbook's bounds in seconds: until it fires, and until it clears.
type Expected = (&'static str, f64, f64);

const BROKER_KILLED: &str = "broker";
const QUIET: &str = "quiet";

const INVENTORY_DOWN: [Expected; 2] = [("TargetDown", 60.0, 45.0), ("NoConsumers", 60.0, 45.0)];
const BROKER_DOWN: [Expected; 2] = [("TargetDown", 60.0, 45.0), ("OutboxStalled", 60.0, 60.0)];
/// Alerts that follow from the same faults when those last long enough: not expected, and no false alarms.
const FOLLOWING: [&str; 2] = ["OrdersStuck", "NoConsumers"];

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "alerting",
    claim: "With alerting, an alert for a service or a broker that is down is notified within the runbook's times and \
            resolved afterwards, and no other alert is; under a load without a fault there is no notification.",
    kind: Kind::Safety,
    effects: &[],
    refuted_by: "a fault without a notification in time, an alert that is not resolved in time, or a false alarm",
    harm: "Without it the same alerts fire without a notification.",
    arms: &[
        without(&[Pattern::Alerting]),
        ON,
        ArmPlan {
            name: BROKER_KILLED,
            fault: ArmFault::Instead(Fault::Kill {
                service: Part::RabbitMq,
            }),
            ..ON
        },
        ArmPlan {
            name: QUIET,
            fault: ArmFault::None,
            ..ON
        },
    ],
    confounders: &[],
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::Order,
        model: Model::Open {
            // So few that the queue is no backlog while there is no consumer.
            arrivals_per_second: 10,
        },
        run_time: Duration::from_secs(68),
        outlasts_fault: Some(Duration::ZERO),
        idempotency_keys: true,
    },
    fault: FaultPlan {
        fault: Fault::Kill {
            service: Part::InventoryService,
        },
        after: Duration::from_secs(3),
        // Longer than the alerts may take to be notified.
        lasts: Duration::from_secs(61),
    },
    observed: Observed::Alerts {
        raised: |arm| expected_in(arm).iter().map(|(alert, ..)| *alert).collect(),
    },
    measurements: |arms| {
        [
            vec![
                harm("alerts without a notification", arms, |arm| {
                    count(&unheard(arm))
                }),
                longest("longest time to notification", arms, notified_after),
                longest("longest time to resolution", arms, resolved_after),
            ],
            context(arms),
        ]
        .concat()
    },
    judge,
};

fn fired(arm: &Arm) -> Vec<FiredAlert> {
    arm.alerts.clone().unwrap_or_default()
}

/// Alerts that fired without a notification.
fn unheard(arm: &Arm) -> Vec<String> {
    let fired = fired(arm).into_iter();
    let unheard = fired.filter(|alert| alert.notified_at.is_none());
    unheard.map(|alert| alert.name).collect()
}

fn expected(arm: &Arm) -> &'static [Expected] {
    expected_in(&arm.name)
}

fn expected_in(arm: &str) -> &'static [Expected] {
    match arm {
        QUIET => &[],
        BROKER_KILLED => &BROKER_DOWN,
        _ => &INVENTORY_DOWN,
    }
}

/// Seconds from the fault to the first notification of this alert.
fn notified_after(arm: &Arm, name: &str) -> Option<f64> {
    let from = arm.fault.as_ref()?.in_force?.from;
    let alerts = fired(arm).into_iter().filter(|alert| alert.name == name);
    let first = alerts.filter_map(|alert| alert.notified_at).min()?;
    Some((first - from).as_seconds_f64())
}

/// Seconds from the end of the fault until the last of these alerts was notified as resolved; `None` if one never was.
fn resolved_after(arm: &Arm, name: &str) -> Option<f64> {
    let healed = arm.fault.as_ref()?.healed_at?;
    let alerts: Vec<FiredAlert> = fired(arm).into_iter().filter(|a| a.name == name).collect();
    let resolved: Option<Vec<_>> = alerts.iter().map(|alert| alert.resolved_at).collect();
    // Some are resolved while the fault is still being healed.
    Some(
        (resolved?.into_iter().max()? - healed)
            .as_seconds_f64()
            .max(0.0),
    )
}

fn longest(name: &str, arms: &[Arm], seconds: fn(&Arm, &str) -> Option<f64>) -> Measurement {
    Measurement::of(name, "s", Better::Less, arms, |arm| {
        let each = expected(arm).iter();
        each.filter_map(|(alert, ..)| seconds(arm, alert))
            .reduce(f64::max)
    })
}

fn judge(arms: &[Arm]) -> (Outcome, String) {
    let Some((without, with)) = arms.split_first() else {
        return (Outcome::Inconclusive, "there is no arm".to_owned());
    };
    let mut times = Vec::new();
    for arm in with {
        let wrong = match tried(arm) {
            true => wrong_with_fault(arm, &mut times),
            // A control, on purpose or by plan.
            false => false_alarm(arm, &[]),
        };
        let wrong = wrong.or_else(|| {
            let mut wrong_ledger = WRONG_LEDGER.iter().filter(|(_, count)| count(arm) > 0);
            wrong_ledger
                .next()
                .map(|(kind, count)| format!("{} {kind}", count(arm)))
        });
        if let Some(wrong) = wrong {
            return (
                Outcome::Refuted,
                format!("in the arm `{}`: {wrong}", arm.name),
            );
        }
    }
    let unheard = unheard(without);
    if unheard.is_empty() {
        return (
            Outcome::Inconclusive,
            "without alerting no alert fired".to_owned(),
        );
    }
    (
        Outcome::Upheld,
        format!(
            "without it no notification for {}; with it {}; and no false alarm",
            unheard.join(" and "),
            times.join(", ")
        ),
    )
}

fn tried(arm: &Arm) -> bool {
    let fault = arm.fault.as_ref();
    fault.is_some_and(|fault| fault.injected_at.is_some())
}

/// The first defect of a fault's notifications; without one the times are added to `times`.
fn wrong_with_fault(arm: &Arm, times: &mut Vec<String>) -> Option<String> {
    for (alert, fires_within, clears_within) in expected(arm) {
        match notified_after(arm, alert) {
            None => return Some(format!("no notification for {alert}")),
            Some(after) if after < 0.0 => return Some(format!("{alert} came before the fault")),
            Some(after) if after > *fires_within => {
                return Some(format!(
                    "{alert} was notified after {after:.0} s ({fires_within:.0} s are allowed)"
                ));
            }
            Some(notified) => match resolved_after(arm, alert) {
                Some(resolved) if resolved <= *clears_within => {
                    times.push(format!(
                        "{alert} notified after {notified:.0} s, resolved after {resolved:.0} s"
                    ));
                }
                Some(resolved) => {
                    return Some(format!(
                        "{alert} was resolved after {resolved:.0} s ({clears_within:.0} s are allowed)"
                    ));
                }
                None => return Some(format!("no resolution notification for {alert}")),
            },
        }
    }
    false_alarm(arm, expected(arm))
}

fn false_alarm(arm: &Arm, expected: &[Expected]) -> Option<String> {
    let follows = |name: &str| !expected.is_empty() && FOLLOWING.contains(&name);
    let known = |name: &str| expected.iter().any(|(alert, ..)| *alert == name) || follows(name);
    let fired = fired(arm).into_iter();
    let mut false_alarms = fired.filter(|alert| !known(&alert.name));
    false_alarms
        .next()
        .map(|alert| format!("{} is a false alarm", alert.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_are_the_runbooks() {
        let runbook = include_str!("../../../../docs/runbook.md");
        for (alert, fires, clears) in INVENTORY_DOWN.iter().chain(&BROKER_DOWN) {
            let row = format!("| `{alert}` | {fires} s | {clears} s |");
            assert!(runbook.contains(&row), "{row}");
        }
    }
}
