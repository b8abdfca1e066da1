//! What does the loss of a node cost?

use std::time::Duration;

use records::{evaluation::Arm, load::RouteSecond, scenario::Scenario};
use system::{
    Part,
    switches::{ONE_NODE, PLACEMENT, SPREAD},
};

use super::{
    ON, WRONG_LEDGER,
    by_route::{decided_per_second, failed, in_force, routes},
    context, harm,
};
use crate::{
    experiment::{ArmPlan, Experiment, FaultPlan, Kind, LoadPlan, Model, Observed},
    faults::Fault,
    measurement::{Better, Measurement},
    verdict::{Count, harm_without_none_with},
};

/// From when on nothing may fail, in seconds after the node's end. A node's end is noticed when its kubelet has been silent for 50 s
/// (`node-monitor-grace-period`), which is looked at every 5 s; until then Services lead to its pods. The rest is for passing that on.
const NOTICED_AFTER: f64 = 60.0;
/// In a second as usual at most this part of the requests fails.
const USUAL: f64 = 0.01;
/// What counts.
const HARMS: [Count; 1] = [("requests failed once the loss is known", failed_later)];
/// As many as nodes, so that each has one where they are spread: with two, the node that is lost may have none.
const REPLICAS: &[(Part, u32)] = &[
    (Part::UserService, 3),
    (Part::OrderService, 3),
    (Part::InventoryService, 3),
];

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "node_loss",
    claim: "With its replicas and gateways on several nodes, and clients that know more than one node's address, the system loses a node \
            other than the database's without losing an order, and from 60 s on, when Kubernetes has noticed it, without failing a request.",
    kind: Kind::Safety,
    effects: &[],
    refuted_by: "a request of 60 s after the node's end or later that fails, or a ledger that doesn't reconcile, with everything spread",
    harm: "With all of it on one node, the one that clients know, and Kubernetes' own tolerations nothing answers until it moves, after \
           more than five minutes, or the node is back.",
    arms: &[
        ArmPlan {
            name: "off",
            replicas: REPLICAS,
            overrides: &[(PLACEMENT, ONE_NODE)],
            ..ON
        },
        ArmPlan {
            replicas: REPLICAS,
            overrides: &[(PLACEMENT, SPREAD)],
            ..ON
        },
    ],
    confounders: &[],
    kubernetes_alone: Some("elsewhere the system is on one machine"),
    load: LoadPlan {
        scenario: Scenario::Order,
        model: Model::Open {
            arrivals_per_second: 20,
        },
        run_time: Duration::from_secs(86),
        outlasts_fault: None,
        idempotency_keys: true,
    },
    fault: FaultPlan {
        fault: Fault::LoseNode,
        after: Duration::from_secs(4),
        // 20 s, and some 400 requests, are left once the loss is known.
        lasts: Duration::from_secs(80),
    },
    observed: Observed::Reconciliation,
    measurements: |arms| {
        let mut measurements: Vec<Measurement> = HARMS
            .iter()
            .map(|(name, count)| harm(name, arms, *count))
            .collect();
        measurements.push(Measurement::of(
            "until requests were answered as usual",
            "s",
            Better::Less,
            arms,
            until_usual,
        ));
        measurements.push(Measurement::of(
            "orders decided while the node was lost",
            "/s",
            Better::More,
            arms,
            decided_per_second,
        ));
        measurements.extend(context(arms));
        measurements
    },
    judge: |arms| harm_without_none_with(arms, &HARMS, &WRONG_LEDGER),
};

/// The requests that failed, of those that were due while the node was lost and its loss known.
fn failed_later(arm: &Arm) -> u64 {
    let Some((from, until)) = in_force(arm) else {
        return 0;
    };
    let late = routes(arm).iter().filter(|second| {
        let begin = f64::from(second.second);
        begin >= from + NOTICED_AFTER && begin < until
    });
    late.map(failed).sum()
}

/// Seconds from the node's end until no second had more failures than usual, for as long as it was lost; `None` where it never came to
/// that.
fn until_usual(arm: &Arm) -> Option<f64> {
    let (from, until) = in_force(arm)?;
    let lost = |second: u32| f64::from(second) + 1.0 > from && f64::from(second) + 1.0 <= until;
    let last = routes(arm)
        .iter()
        .map(|it| it.second)
        .filter(|second| lost(*second))
        .max()?;
    let is_bad = |second: u32| {
        let of_second = || routes(arm).iter().filter(|it| it.second == second);
        let sent: u64 = of_second().map(RouteSecond::sent).sum();
        let failed: u64 = of_second().map(failed).sum();
        failed as f64 > sent as f64 * USUAL
    };
    match (0..=last)
        .rev()
        .find(|second| lost(*second) && is_bad(*second))
    {
        None => Some(0.0),
        Some(bad) if bad == last => None,
        Some(bad) => Some(f64::from(bad) + 1.0 - from),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::by_route::tests::{expect, second, withheld},
        *,
    };
    use crate::{measurement::Outcome, report::tests::Sketch};

    /// An arm whose node is lost from second 4.5 to second 84.5, and whose requests all fail from the loss to this second.
    fn arm(name: &str, failing_until: u32) -> Arm {
        let mut arm = Sketch::arm(name)
            .seconds(86)
            .rate(20)
            .fault(4.5, 84.5)
            .build();
        let answers = |at: u32| {
            if at >= 4 && at < failing_until {
                [("202", 0), ("504", 20)]
            } else {
                [("202", 20), ("504", 0)]
            }
        };
        let order = ("POST", "/orders/", None);
        arm.load.as_mut().unwrap().routes = (0..86)
            .map(|at| second(at, order, &answers(at), 10.0))
            .collect();
        arm
    }

    fn judged(off: Arm, on: Arm) -> (Outcome, String) {
        (EXPERIMENT.judge)(&[off, on])
    }

    #[test]
    fn upheld_where_requests_fail_for_good_without_it_and_for_a_while_with_it() {
        // 65 to 84: the first second that begins 60 s after the loss, to the last one that begins under it.
        expect(
            judged(arm("off", 86), arm("on", 65)),
            Outcome::Upheld,
            "400",
        );
        expect(judged(arm("off", 86), arm("on", 4)), Outcome::Upheld, "400");
    }

    #[test]
    fn refuted_by_a_request_that_fails_once_the_loss_is_known_and_by_a_lost_order() {
        expect(
            judged(arm("off", 86), arm("on", 66)),
            Outcome::Refuted,
            "20",
        );
        let mut lossy = arm("on", 10);
        lossy.reconciliation.as_mut().unwrap().lost = vec!["one".to_owned()];
        expect(judged(arm("off", 86), lossy), Outcome::Refuted, "lost");
    }

    #[test]
    fn inconclusive_where_nothing_failed_for_long_or_nothing_was_lost() {
        let calm = arm("off", 40);
        expect(
            judged(calm, arm("on", 10)),
            Outcome::Inconclusive,
            "no need",
        );
        let calm = |name| withheld(arm(name, 4));
        expect(
            judged(calm("off"), calm("on")),
            Outcome::Inconclusive,
            "no need",
        );
    }

    #[test]
    fn the_time_until_usual_is_from_the_loss_to_the_last_bad_second() {
        assert_eq!(until_usual(&arm("on", 4)), Some(0.0));
        assert_eq!(until_usual(&arm("on", 20)), Some(15.5));
        assert_eq!(until_usual(&arm("off", 86)), None);
        assert_eq!(until_usual(&withheld(arm("on", 20))), None);
    }
}
