//! Does somebody hear of a fault, soon enough, of nothing else, and that it is over?

use std::time::Duration;

use super::{ON, WRONG_BOOKS, context, count, harm, without};
use crate::evaluation::{
    evidence::{Arm, FiredAlert},
    experiment::{ArmFault, ArmPlan, Experiment, FaultPlan, LoadPlan, Model, Observed},
    faults::Fault,
    verdict::{Better, Figure, Outcome},
};

/// An alert that a fault has to raise, and the runbook's bounds in seconds: until it fires, and until it clears.
type Expected = (&'static str, f64, f64);

const BROKER_KILLED: &str = "broker";
const QUIET: &str = "quiet";

const INVENTORY_DOWN: [Expected; 2] = [("TargetDown", 60.0, 45.0), ("NoConsumers", 60.0, 45.0)];
const BROKER_DOWN: [Expected; 2] = [("TargetDown", 60.0, 45.0), ("OutboxStalled", 60.0, 60.0)];
/// Follow from the same faults, by how long those last: not asked for, and no false alarm.
const FOLLOWING: [&str; 2] = ["OrdersStuck", "NoConsumers"];

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "alerting",
    claim: "With alerting, somebody is told of a service or a broker that is down within the runbook's times, of \
            nothing else, and that it is over; under a load without a fault nobody is told of anything.",
    refuted_by: "a fault that nobody is told of in time, an alert that is not over in time, or a false alarm",
    harm: "Without it the same alerts fire, and nobody hears of them.",
    arms: &[
        without(&["alerting"]),
        ON,
        ArmPlan {
            name: BROKER_KILLED,
            fault: ArmFault::Instead(Fault::Kill {
                service: "rabbitmq",
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
    load: LoadPlan {
        scenario: "order",
        model: Model::Open {
            // So few that they are no lag when nobody takes them.
            arrivals_per_second: 10,
        },
        run_time: Duration::from_secs(76),
        idempotency_keys: true,
    },
    fault: FaultPlan {
        fault: Fault::Kill {
            service: "inventory-service",
        },
        after: Duration::from_secs(3),
        // Longer than the alerts may take to fire.
        lasts: Duration::from_secs(65),
    },
    observed: Observed::Alerts,
    figures: |arms| {
        [
            vec![
                harm("alerts that nobody was told of", arms, |arm| {
                    count(&unheard(arm))
                }),
                longest("longest until somebody was told", arms, told_after),
                longest("longest until it was said to be over", arms, over_after),
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

/// What fired without anybody being told.
fn unheard(arm: &Arm) -> Vec<String> {
    let fired = fired(arm).into_iter();
    let unheard = fired.filter(|alert| alert.told_at.is_none());
    unheard.map(|alert| alert.name).collect()
}

fn expected(arm: &Arm) -> &'static [Expected] {
    match arm.name.as_str() {
        QUIET => &[],
        BROKER_KILLED => &BROKER_DOWN,
        _ => &INVENTORY_DOWN,
    }
}

/// Seconds from the fault to the first telling of this alert.
fn told_after(arm: &Arm, name: &str) -> Option<f64> {
    let from = arm.fault.as_ref()?.in_force?.from;
    let told = fired(arm).into_iter().filter(|alert| alert.name == name);
    let first = told.filter_map(|alert| alert.told_at).min()?;
    Some((first - from).as_seconds_f64())
}

/// Seconds from the end of the fault until the last of these alerts was said to be over; `None` while one isn't.
fn over_after(arm: &Arm, name: &str) -> Option<f64> {
    let healed = arm.fault.as_ref()?.healed_at?;
    let told: Vec<FiredAlert> = fired(arm).into_iter().filter(|a| a.name == name).collect();
    let over: Option<Vec<_>> = told.iter().map(|alert| alert.over_at).collect();
    // Some are over while the fault is still being healed.
    Some(
        (over?.into_iter().max()? - healed)
            .as_seconds_f64()
            .max(0.0),
    )
}

fn longest(name: &str, arms: &[Arm], seconds: fn(&Arm, &str) -> Option<f64>) -> Figure {
    Figure::of(name, "s", Better::Less, arms, |arm| {
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
            let mut wrong_books = WRONG_BOOKS.iter().filter(|(_, count)| count(arm) > 0);
            wrong_books
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
            "without alerting nothing fired that somebody should have heard of".to_owned(),
        );
    }
    (
        Outcome::Upheld,
        format!(
            "without it nobody heard of {}; with it {}; and no false alarm",
            unheard.join(" and "),
            times.join(", ")
        ),
    )
}

fn tried(arm: &Arm) -> bool {
    let fault = arm.fault.as_ref();
    fault.is_some_and(|fault| fault.injected_at.is_some())
}

/// The first thing that is wrong with what was told of a fault; else its times are noted.
fn wrong_with_fault(arm: &Arm, times: &mut Vec<String>) -> Option<String> {
    for (alert, fires_within, clears_within) in expected(arm) {
        match told_after(arm, alert) {
            None => return Some(format!("nobody was told of {alert}")),
            Some(after) if after < 0.0 => return Some(format!("{alert} came before the fault")),
            Some(after) if after > *fires_within => {
                return Some(format!(
                    "somebody was told of {alert} after {after:.0} s ({fires_within:.0} s are allowed)"
                ));
            }
            Some(told) => match over_after(arm, alert) {
                Some(over) if over <= *clears_within => {
                    times.push(format!("{alert} after {told:.0} s, over after {over:.0} s"));
                }
                Some(over) => {
                    return Some(format!(
                        "{alert} was over after {over:.0} s ({clears_within:.0} s are allowed)"
                    ));
                }
                None => return Some(format!("nobody was told that {alert} is over")),
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
