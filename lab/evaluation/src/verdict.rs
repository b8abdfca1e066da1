//! Verdicts on the evidence of an experiment's arms, by rules that need nothing else.
//!
//! | verdict | when |
//! |---|---|
//! | refuted | one of the next reasons to decide nothing applies, and with the pattern the ledger of an arm is wrong for good |
//! | inconclusive | an arm broke off, was not steady, never came to rest, or was offered much less load than another |
//! | refuted | no fault was injected on purpose (a control run), and with the pattern there is harm all the same: a false alarm |
//! | inconclusive | a fault had no observed effect |
//! | refuted | with the pattern, the harm is there that it should prevent |
//! | inconclusive | without the pattern, there is no harm: the run shows no need for it |
//! | inconclusive | the arm with the pattern had much less to lose than another |
//! | upheld | harm without the pattern, none with it |
//!
//! The first row that applies decides: a pattern that lost or doubled something has failed, whatever the other arm did;
//! other evidence that can't be trusted decides nothing. Left out: the verdict over repetitions ([`crate::conclusion`]).

use records::evaluation::{Arm, Steadiness, Trial};
use serde::{Deserialize, Serialize};

use super::{
    experiment::Experiment,
    measurement::{Better, Measurement, Outcome},
};

/// The verdict on one trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// The verdict.
    pub outcome: Outcome,
    /// The reason for the verdict, in one sentence.
    pub reason: String,
    /// The measurements, the harm first.
    #[serde(rename = "figures")]
    pub measurements: Vec<Measurement>,
}

/// Judges a trial. Pure: the same evidence gives the same verdict.
pub fn judge(experiment: &Experiment, trial: &Trial) -> Verdict {
    let mut measurements = (experiment.measurements)(&trial.arms);
    measurements.extend(load_measurements(&trial.arms));
    let judged = || (experiment.judge)(&trial.arms);
    // The arm without the pattern comes first, unless it was not run.
    let has_pattern = |arm: &&Arm| arm.name != experiment.arms[0].name;
    let undecided = |reason| match harm_for_good(trial.arms.iter().filter(has_pattern)) {
        Some(harm) => (
            Outcome::Refuted,
            format!("with it {harm}; besides, {reason}"),
        ),
        None => (Outcome::Inconclusive, reason),
    };
    let (outcome, reason) = if let Some(reason) = unusable(experiment, trial) {
        undecided(reason)
    } else if let Some(reason) = without_effect(experiment, trial) {
        match judged() {
            (Outcome::Refuted, harm) if is_control(trial) => (
                Outcome::Refuted,
                format!("a false alarm, as no fault was injected: {harm}"),
            ),
            _ => undecided(reason),
        }
    } else {
        match (judged(), little_at_stake(&trial.arms)) {
            ((Outcome::Upheld, _), Some(reason)) => (Outcome::Inconclusive, reason),
            (judged, _) => judged,
        }
    };
    Verdict {
        outcome,
        reason,
        measurements,
    }
}

/// What is wrong with the ledger of one of these arms and stays so: the arm came to rest; or stock was taken twice, which
/// nothing undoes.
pub(crate) fn harm_for_good<'a>(arms: impl IntoIterator<Item = &'a Arm>) -> Option<String> {
    arms.into_iter().find_map(|arm| {
        let found = arm.reconciliation.as_ref()?;
        let is_final = |name: &str| arm.settled_after_ms.is_some() || name == "doubled";
        let mut wrong = found.wrong().into_iter();
        let (category, orders) =
            wrong.find(|(category, orders)| !orders.is_empty() && is_final(category.name))?;
        Some(format!(
            "{} in `{}`: {}",
            orders.len(),
            arm.name,
            category.meaning
        ))
    })
}

/// Whether the arms of a trial can be compared with each other, whatever they show.
pub(crate) fn comparable(experiment: &Experiment, trial: &Trial) -> bool {
    unusable(experiment, trial).is_none() && without_effect(experiment, trial).is_none()
}

/// The measurements that every experiment has: how much load each arm was offered, and how much of it was accepted.
fn load_measurements(arms: &[Arm]) -> [Measurement; 2] {
    let of = |name, count: fn(&Arm) -> u64| {
        Measurement::of(name, "", Better::Neither, arms, |arm| {
            arm.load.as_ref().map(|_| count(arm) as f64)
        })
    };
    [
        of("requests offered", offered),
        of("requests accepted", accepted),
    ]
}

/// Whether the fault was withheld from every arm: then a check that can be trusted observes nothing.
fn is_control(trial: &Trial) -> bool {
    let mut faults = trial.arms.iter().filter_map(|arm| arm.fault.as_ref());
    faults.all(|fault| fault.injected_at.is_none())
}

/// Why nothing can be concluded from a trial, whatever its measurements and its fault were.
fn unusable(experiment: &Experiment, trial: &Trial) -> Option<String> {
    if !experiment.is_whole(trial) {
        return Some(format!(
            "only {} of {} arms were run",
            trial.arms.len(),
            experiment.arms.len()
        ));
    }
    trial
        .arms
        .iter()
        .find_map(unusable_arm)
        .or_else(|| match experiment.load.outlasts_fault {
            // Their load ends with their fault, which takes its own time in each arm.
            Some(_) => None,
            None => uneven(&trial.arms),
        })
}

/// Arms are compared, so that they must have been offered about as much. What an arm made of it is its own result: one
/// that refuses what another accepts did harm, which the experiment counts.
fn uneven(arms: &[Arm]) -> Option<String> {
    let most = arms.iter().max_by_key(|arm| offered(arm))?;
    let least = arms.iter().min_by_key(|arm| offered(arm))?;
    (offered(least) * 2 < offered(most)).then(|| {
        format!(
            "the arm `{}` was offered only {} requests, and the arm `{}` {}",
            least.name,
            offered(least),
            most.name,
            offered(most)
        )
    })
}

/// Requests that the load was to send in the measured part, those that it had no place for included.
pub fn offered(arm: &Arm) -> u64 {
    arm.load.as_ref().map_or(0, |load| {
        load.summary.measured as u64 + load.summary.not_sent
    })
}

/// Requests with an answer that their scenario expects.
pub fn accepted(arm: &Arm) -> u64 {
    arm.load.as_ref().map_or(0, |load| {
        (load.summary.measured as u64).saturating_sub(load.summary.failed as u64)
    })
}

/// Why an arm with the pattern can't show that it prevents harm: it had less than half as much to lose as another arm.
fn little_at_stake(arms: &[Arm]) -> Option<String> {
    let most = arms.iter().max_by_key(|arm| at_stake(arm).0)?;
    let (many, _) = at_stake(most);
    let least = arms.iter().skip(1).min_by_key(|arm| at_stake(arm).0)?;
    let (few, what) = at_stake(least);
    (few == 0 || few * 2 < many).then(|| {
        format!(
            "in the arm `{}` only {few} {what}, and {many} in the arm `{}`",
            least.name, most.name
        )
    })
}

/// What the arms with the pattern had to lose over all trials, as a clause: `412 orders were accepted`.
pub(crate) fn at_stake_with_pattern<'a>(trials: impl Iterator<Item = &'a Trial>) -> String {
    let with = trials.flat_map(|trial| trial.arms.iter().skip(1));
    let (sum, what) = with
        .map(at_stake)
        .reduce(|(sum, what), (count, _)| (sum + count, what))
        .unwrap_or((0, "orders were accepted"));
    format!("{sum} {what}")
}

/// What an arm had to lose, and what that is: orders, or requests where the load places none.
fn at_stake(arm: &Arm) -> (u64, &'static str) {
    let summary = arm.load.as_ref().map(|load| &load.summary);
    match summary.filter(|summary| summary.orders.tried == 0) {
        // What becomes of them is what such an experiment judges.
        Some(_) => (offered(arm), "requests were to be sent"),
        None => (
            arm.reconciliation
                .as_ref()
                .map_or(0, |reconciliation| reconciliation.promised),
            "orders were accepted",
        ),
    }
}

/// The first arm whose fault had no observed effect, if it was to have one.
fn without_effect(experiment: &Experiment, trial: &Trial) -> Option<String> {
    let arms = trial.arms.iter().zip(experiment.arms);
    arms.filter(|(_, plan)| plan.fault_of(experiment).is_some())
        .find_map(|(arm, _)| without_effect_in(arm))
}

fn without_effect_in(arm: &Arm) -> Option<String> {
    let name = &arm.name;
    match &arm.fault {
        Some(fault) if fault.effect.observed => None,
        Some(fault) => Some(format!(
            "in the arm `{name}` the fault had no observed effect: {}",
            fault.effect.proof
        )),
        None => Some(format!("the arm `{name}` has no fault on record")),
    }
}

fn unusable_arm(arm: &Arm) -> Option<String> {
    let name = &arm.name;
    if let Some(failure) = &arm.failure {
        return Some(format!("the arm `{name}` broke off: {failure}"));
    }
    if let Some(why) = unsteady(arm.steady_before.as_ref()) {
        return Some(format!(
            "the arm `{name}` did not begin in a steady state: {why}"
        ));
    }
    if arm.reconciliation.is_none() {
        return Some(format!(
            "the ledger of the arm `{name}` could not be reconciled"
        ));
    }
    if arm
        .load
        .as_ref()
        .is_none_or(|load| load.summary.measured == 0)
    {
        return Some(format!("in the arm `{name}` there was no load"));
    }
    if arm.settled_after_ms.is_none() {
        return Some(format!(
            "in the arm `{name}` orders were still under way when the ledger was reconciled"
        ));
    }
    unsteady(arm.steady_after.as_ref())
        .map(|why| format!("the arm `{name}` did not end in a steady state: {why}"))
}

fn unsteady(state: Option<&Steadiness>) -> Option<String> {
    match state {
        Some(steady) if steady.reached => None,
        Some(steady) => {
            let broken = steady.measures.iter().find(|measure| !measure.holds);
            let broken = broken.map(|measure| {
                format!(
                    "{}: {} (allowed: {})",
                    measure.what, measure.found, measure.tolerance
                )
            });
            Some(broken.unwrap_or_else(|| "not within the time for it".to_owned()))
        }
        None => Some("it was never looked at".to_owned()),
    }
}

/// A kind of harm or damage, as a plural, and how much of it an arm has.
pub type Count = (&'static str, fn(&Arm) -> u64);

/// The rule of most experiments: harm without the pattern (`arms[0]`), none with it (all others).
///
/// `harms` counts each kind of harm that the pattern is to prevent; `damage` counts what no arm with the pattern may
/// show besides.
pub fn harm_without_none_with(
    arms: &[Arm],
    harms: &[Count],
    damage: &[Count],
) -> (Outcome, String) {
    let Some((without, with)) = arms.split_first() else {
        return (Outcome::Inconclusive, "there is no arm".to_owned());
    };
    let counts = |arm: &Arm, kinds: &[Count]| -> Vec<String> {
        let counts = kinds.iter().map(|(kind, count)| (kind, count(arm)));
        counts
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect()
    };
    // What is a harm already is not named a second time.
    let damage: Vec<Count> = damage
        .iter()
        .filter(|(kind, _)| harms.iter().all(|(harm, _)| harm != kind))
        .copied()
        .collect();
    for arm in with {
        let seen = [counts(arm, harms), counts(arm, &damage)].concat();
        if !seen.is_empty() {
            return (
                Outcome::Refuted,
                format!(
                    "with the pattern `{}` there are still {}",
                    arm.name,
                    seen.join(", ")
                ),
            );
        }
    }
    let suffered = counts(without, harms);
    let kinds: Vec<&str> = harms.iter().map(|(kind, _)| *kind).collect();
    if suffered.is_empty() {
        return (
            Outcome::Inconclusive,
            format!(
                "without the pattern there was no harm either (0 {}): this run shows no need for it",
                kinds.join(", 0 ")
            ),
        );
    }
    (
        Outcome::Upheld,
        format!("without it {}; with it none", suffered.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{experiments, report::tests::Sketch};

    /// A trial of `outbox` whose arms were offered 560 requests each, except for what `change` does to them.
    fn judged(change: impl Fn(&mut Arm, &mut Arm)) -> Verdict {
        let mut off = Sketch::arm("off").build();
        off.reconciliation.as_mut().unwrap().lost = vec!["one".to_owned()];
        let mut on = Sketch::arm("on").build();
        change(&mut off, &mut on);
        let trial = Trial {
            experiment: "outbox".to_owned(),
            repetition: 1,
            seed: 1,
            arms: vec![off, on],
        };
        judge(experiments::find("outbox").unwrap(), &trial)
    }

    /// Refuses three of four requests.
    fn refuse(arm: &mut Arm) {
        let summary = &mut arm.load.as_mut().unwrap().summary;
        summary.failed = summary.measured * 3 / 4;
        let reconciliation = arm.reconciliation.as_mut().unwrap();
        reconciliation.promised /= 4;
    }

    #[test]
    fn requests_that_only_the_arm_without_the_pattern_refuses_are_harm() {
        let verdict = judged(|off, _| refuse(off));
        assert_eq!(verdict.outcome, Outcome::Upheld, "{}", verdict.reason);
        assert!(
            verdict.reason.contains("requests failed"),
            "{}",
            verdict.reason
        );
        // Also where nothing was lost, as nothing was accepted.
        let verdict = judged(|off, _| {
            refuse(off);
            let reconciliation = off.reconciliation.as_mut().unwrap();
            reconciliation.promised = 0;
            reconciliation.lost.clear();
        });
        assert_eq!(verdict.outcome, Outcome::Upheld, "{}", verdict.reason);
    }

    #[test]
    fn requests_that_the_arm_with_the_pattern_refuses_refute_it() {
        let verdict = judged(|_, on| refuse(on));
        assert_eq!(verdict.outcome, Outcome::Refuted, "{}", verdict.reason);
    }

    #[test]
    fn an_arm_with_the_pattern_that_had_little_to_lose_does_not_uphold_it() {
        for promised in [0, 10] {
            let verdict = judged(|_, on| on.reconciliation.as_mut().unwrap().promised = promised);
            assert_eq!(verdict.outcome, Outcome::Inconclusive, "{}", verdict.reason);
            assert!(
                verdict.reason.contains("orders were accepted"),
                "{}",
                verdict.reason
            );
        }
    }

    #[test]
    fn arms_that_were_not_offered_the_same_are_not_compared() {
        let verdict = judged(|off, _| {
            off.load.as_mut().unwrap().summary.measured /= 4;
        });
        assert_eq!(verdict.outcome, Outcome::Inconclusive);
        assert!(
            verdict.reason.contains("was offered only"),
            "{}",
            verdict.reason
        );
    }

    #[test]
    fn harm_with_the_pattern_refutes_whatever_the_other_arm_did() {
        let wrong = |on: &mut Arm| {
            on.reconciliation.as_mut().unwrap().held = vec!["two".to_owned()];
        };
        let broken_off = |off: &mut Arm| off.failure = Some("no answer".to_owned());
        let verdict = judged(|off, _| broken_off(off));
        assert_eq!(verdict.outcome, Outcome::Inconclusive, "{}", verdict.reason);
        let verdict = judged(|off, on| {
            broken_off(off);
            wrong(on);
        });
        assert_eq!(verdict.outcome, Outcome::Refuted, "{}", verdict.reason);
        assert!(
            verdict.reason.contains("still hold stock"),
            "{}",
            verdict.reason
        );
        // An arm that moved until its end may have put it right later; what took stock twice has not.
        let moving = |on: &mut Arm| on.settled_after_ms = None;
        let verdict = judged(|_, on| {
            moving(on);
            wrong(on);
        });
        assert_eq!(verdict.outcome, Outcome::Inconclusive, "{}", verdict.reason);
        let verdict = judged(|_, on| {
            moving(on);
            on.reconciliation.as_mut().unwrap().doubled = vec!["two".to_owned()];
        });
        assert_eq!(verdict.outcome, Outcome::Refuted, "{}", verdict.reason);
    }

    #[test]
    fn every_verdict_shows_what_was_offered_and_accepted() {
        let verdict = judged(|off, _| refuse(off));
        let values = |name: &str| -> Vec<Option<f64>> {
            let measurement = verdict
                .measurements
                .iter()
                .find(|measurement| measurement.name == name);
            measurement
                .unwrap()
                .values
                .iter()
                .map(|value| value.value)
                .collect()
        };
        assert_eq!(values("requests offered"), [Some(560.0), Some(560.0)]);
        assert_eq!(values("requests accepted"), [Some(140.0), Some(560.0)]);
    }
}
