//! Does an update cost requests?

use std::time::Duration;

use records::{evaluation::Arm, scenario::Scenario};
use system::Part;

use super::{AFTER_REPLACEMENT, ON, WRONG_LEDGER, failed_requests, measurements};
use crate::{
    experiment::{ArmFault, ArmPlan, Experiment, FaultPlan, Kind, LoadPlan, Model, Observed},
    faults::Fault,
    measurement::Outcome,
    verdict::{Count, harm_without_none_with},
};

const SERVICE: Part = Part::OrderService;
/// What counts where the replicas of order-service end and others take their places, and how many there are.
pub(super) const HARMS: [Count; 1] = [("requests failed", failed_requests)];
pub(super) const REPLICAS: &[(Part, u32)] = &[(SERVICE, 2)];

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "rolling_update",
    claim: "Replacing both containers of order-service one by one under load, each new one healthy before an old one \
            goes, fails no request.",
    kind: Kind::Safety,
    effects: &[],
    refuted_by: "a failed request, or a ledger that doesn't reconcile, with the containers replaced one by one",
    harm: "Replaced all at once they leave a gap in which nobody answers.",
    arms: &[
        ArmPlan {
            name: "off",
            replicas: REPLICAS,
            fault: ArmFault::Instead(Fault::ReplaceAtOnce { service: SERVICE }),
            ..ON
        },
        ArmPlan {
            replicas: REPLICAS,
            ..ON
        },
    ],
    confounders: &[],
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::Order,
        model: Model::Open {
            arrivals_per_second: 40,
        },
        run_time: Duration::from_secs(45),
        outlasts_fault: Some(AFTER_REPLACEMENT),
        // The gateway retries requests with a key, which would hide failures.
        idempotency_keys: false,
    },
    fault: FaultPlan {
        fault: Fault::Rollout { service: SERVICE },
        after: Duration::from_secs(2),
        // It is over when the last old container is gone.
        lasts: Duration::ZERO,
    },
    observed: Observed::Reconciliation,
    measurements: |arms| measurements(arms, &HARMS),
    judge,
};

/// Judges by requests that failed while replicas were replaced, if all of that was under load.
pub(super) fn judge(arms: &[Arm]) -> (Outcome, String) {
    over_under_load(arms).unwrap_or_else(|| harm_without_none_with(arms, &HARMS, &WRONG_LEDGER))
}

/// Inconclusive where the load of an arm ended before its fault, which no request met to its end then. Harm with the
/// pattern counts all the same.
pub(super) fn over_under_load(arms: &[Arm]) -> Option<(Outcome, String)> {
    let (outcome, reason) = harm_without_none_with(arms, &HARMS, &WRONG_LEDGER);
    if outcome == Outcome::Refuted {
        return Some((outcome, reason));
    }
    let late = arms.iter().find(|arm| {
        let load_ended = arm.load.as_ref().map(|load| load.summary.finished_at);
        let over = arm.fault.as_ref().and_then(|fault| fault.healed_at);
        over > load_ended
    })?;
    let reason = format!(
        "in the arm `{}` the load ended before everything was replaced",
        late.name
    );
    Some((Outcome::Inconclusive, reason))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::report::tests::{Sketch, at};

    /// An arm of 14 seconds, whose fault is over after so many.
    pub(in super::super) fn arm(name: &str, failed: usize, over_after: f64) -> Arm {
        let mut arm = Sketch::arm(name).fault(3.4, over_after).build();
        let summary = &mut arm.load.as_mut().unwrap().summary;
        summary.failed = failed;
        summary.finished_at = at(14.0);
        arm
    }

    fn outcome(off: Arm, on: Arm) -> Outcome {
        (EXPERIMENT.judge)(&[off, on]).0
    }

    #[test]
    fn upheld_when_requests_fail_all_at_once_and_none_one_by_one() {
        assert_eq!(
            outcome(arm("off", 40, 8.0), arm("on", 0, 12.0)),
            Outcome::Upheld
        );
        assert_eq!(
            outcome(arm("off", 40, 8.0), arm("on", 1, 12.0)),
            Outcome::Refuted
        );
    }

    #[test]
    fn lost_orders_refute_it() {
        let mut lossy = arm("on", 0, 12.0);
        lossy.reconciliation.as_mut().unwrap().lost = vec!["one".to_owned()];
        assert_eq!(outcome(arm("off", 40, 8.0), lossy), Outcome::Refuted);
    }

    #[test]
    fn nothing_can_be_said_without_harm_or_when_the_load_was_over_before() {
        assert_eq!(
            outcome(arm("off", 0, 8.0), arm("on", 0, 12.0)),
            Outcome::Inconclusive
        );
        assert_eq!(
            outcome(arm("off", 40, 8.0), arm("on", 0, 14.5)),
            Outcome::Inconclusive
        );
        assert_eq!(
            outcome(arm("off", 40, 8.0), arm("on", 1, 14.5)),
            Outcome::Refuted
        );
    }
}
