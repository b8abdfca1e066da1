//! Does a new signing key cost requests?

use std::time::Duration;

use records::{evaluation::Arm, scenario::Scenario};
use system::Part;

use super::{
    AFTER_REPLACEMENT, ON, failed_requests, harm, latency_p50, latency_p99,
    rolling_update::over_under_load,
};
use crate::{
    experiment::{ArmFault, ArmPlan, Experiment, FaultPlan, Kind, LoadPlan, Model, Observed},
    faults::Fault,
    measurement::{Better, Measurement},
    verdict::{Count, harm_without_none_with},
};

const REFUSED: Count = ("requests refused with 401", refused);
const FAILED: Count = ("requests failed", failed_requests);
const REPLICAS: &[(Part, u32)] = &[(Part::UserService, 2)];

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "key_rotation",
    claim: "With two overlapping keys (first every replica knows the new one, then it signs, and the old one still \
            verifies) a new signing key refuses no token, be it from before or after, and fails no request.",
    kind: Kind::Safety,
    effects: &[],
    refuted_by: "a request that is refused or fails while the keys are rotated",
    harm: "With one key at a time, every token in use is refused: all users have to log in again.",
    arms: &[
        ArmPlan {
            name: "off",
            replicas: REPLICAS,
            fault: ArmFault::Instead(Fault::ReplaceKeys),
            ..ON
        },
        ArmPlan {
            replicas: REPLICAS,
            ..ON
        },
    ],
    confounders: &[],
    // Tokens from before, and some that are made meanwhile.
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::Session,
        model: Model::Open {
            arrivals_per_second: 15,
        },
        // On Kubernetes two rollouts take 40 s.
        run_time: Duration::from_secs(90),
        outlasts_fault: Some(AFTER_REPLACEMENT),
        idempotency_keys: false,
    },
    fault: FaultPlan {
        fault: Fault::RotateKeys,
        after: Duration::from_secs(2),
        // It is over when the last container has the new key.
        lasts: Duration::ZERO,
    },
    observed: Observed::Reconciliation,
    measurements: |arms| {
        vec![
            harm(REFUSED.0, arms, REFUSED.1),
            harm(FAILED.0, arms, FAILED.1),
            Measurement::of("requests", "", Better::Neither, arms, |arm| {
                arm.load.as_ref().map(|load| load.summary.measured as f64)
            }),
            latency_p50(arms),
            latency_p99(arms),
        ]
    },
    judge: |arms| {
        over_under_load(arms).unwrap_or_else(|| harm_without_none_with(arms, &[REFUSED], &[FAILED]))
    },
};

fn refused(arm: &Arm) -> u64 {
    let requests = arm.load.iter().flat_map(|load| &load.summary.requests);
    requests
        .filter(|requests| requests.status == Some(401))
        .map(|requests| requests.count)
        .sum()
}

#[cfg(test)]
mod tests {
    use records::load::RequestCount;

    use super::{super::rolling_update::tests::arm, *};
    use crate::measurement::Outcome;

    fn with_refused(mut arm: Arm, count: u64) -> Arm {
        let summary = &mut arm.load.as_mut().unwrap().summary;
        summary.requests.push(RequestCount {
            method: "GET".to_owned(),
            route: "/users/me".to_owned(),
            status: Some(401),
            count,
        });
        arm
    }

    fn outcome(off: Arm, on: Arm) -> Outcome {
        (EXPERIMENT.judge)(&[off, on]).0
    }

    #[test]
    fn upheld_when_tokens_are_refused_without_the_overlap_and_none_with_it() {
        let off = || with_refused(arm("off", 300, 8.0), 300);
        assert_eq!(outcome(off(), arm("on", 0, 12.0)), Outcome::Upheld);
        let refusing = with_refused(arm("on", 1, 12.0), 1);
        assert_eq!(outcome(off(), refusing), Outcome::Refuted);
        assert_eq!(outcome(off(), arm("on", 1, 12.0)), Outcome::Refuted);
    }

    #[test]
    fn requests_that_fail_otherwise_are_no_reason_for_the_overlap() {
        let off = arm("off", 300, 8.0);
        assert_eq!(outcome(off, arm("on", 0, 12.0)), Outcome::Inconclusive);
    }

    #[test]
    fn nothing_can_be_said_when_the_load_was_over_before() {
        let off = with_refused(arm("off", 300, 8.0), 300);
        assert_eq!(outcome(off, arm("on", 0, 14.5)), Outcome::Inconclusive);
    }
}
