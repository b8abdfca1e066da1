//! How long does a request wait for a dependency that hangs?

use std::time::Duration;

use patterns::Pattern;
use records::scenario::Scenario;
use system::Part;

use super::{
    BALANCING, ON,
    by_route::{self, LONGEST_PURCHASE, Rule},
    context, without,
};
use crate::{
    experiment::{
        Confounder, DeclaredEffect, Experiment, FaultPlan, Kind, LoadPlan, Model, Observed, Ratio,
    },
    faults::Fault,
    measurement::{Better, Measurement},
    statistics::decision::Bound,
};

const EFFECTS: [DeclaredEffect; 1] = [DeclaredEffect {
    measurement: LONGEST_PURCHASE,
    ratio: Ratio::BetweenArms,
    bound: Bound::AtMost(0.5),
    reason: "the deadline is 2 s, product-service hangs for 8 s, and a busy machine may take a second more or less of either",
}];

/// Without it some purchase takes longer than this.
const HARM_MS: f64 = 5_000.0;

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "deadline",
    claim: "With a deadline on the call to product-service, a purchase is answered within 3 s while that hangs, if only with an \
            error; the other routes notice nothing, and purchases are as usual within 5 s of its return.",
    kind: Kind::Safety,
    effects: &EFFECTS,
    refuted_by: "a purchase that takes longer than 3 s, another route that fails or whose p99 trebles, or no recovery within \
                 5 s, with the deadline on",
    harm: "Without it purchases hang until product-service is back, or until their request's own limit of 10 s.",
    arms: &[without(&[Pattern::Deadline]), ON],
    confounders: &[
        BALANCING,
        Confounder {
            pattern: Pattern::CircuitBreaker,
            effect: "spares most requests the wait",
        },
    ],
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::Edge,
        model: Model::Open {
            arrivals_per_second: 40,
        },
        run_time: Duration::from_secs(20),
        outlasts_fault: None,
        idempotency_keys: false,
    },
    fault: FaultPlan {
        fault: Fault::Pause {
            service: Part::ProductService,
        },
        after: Duration::from_secs(4),
        // So much longer than what counts as harm that purchases which are sent in its first seconds show it.
        lasts: Duration::from_secs(8),
    },
    observed: Observed::Reconciliation,
    measurements: |arms| {
        let mut measurements = by_route::measurements(arms);
        measurements.retain(|measurement| measurement.name != LONGEST_PURCHASE);
        let longest = Measurement::of(
            LONGEST_PURCHASE,
            "ms",
            Better::Less,
            arms,
            by_route::longest_purchase,
        );
        measurements.insert(0, longest.decisive());
        measurements.extend(context(arms));
        measurements
    },
    judge: |arms| RULE.judge(arms),
};

const RULE: Rule = Rule {
    wrong: by_route::damage,
    harm: by_route::longest_purchase,
    harm_from: HARM_MS,
    harmless: |off| format!("no purchase took longer than {off:.0} ms"),
    seen: |off, on| format!("the longest purchase took {off:.0} ms without it, {on:.0} ms with it"),
};

#[cfg(test)]
mod tests {
    use super::{
        by_route::tests::{Seconds, disturbed, expect, withheld},
        *,
    };
    use crate::measurement::Outcome;

    const OFF: Seconds = Seconds {
        failing: 0.3,
        took_ms: 7_000.0,
        longest_ms: 10_004.0,
        ..Seconds::CALM
    };
    const SHIPPED: Seconds = Seconds {
        failing: 1.0,
        took_ms: 2_004.0,
        longest_ms: 2_100.0,
        ..Seconds::CALM
    };

    fn judged(off: &Seconds, on: &Seconds) -> (Outcome, String) {
        RULE.judge(&[off.arm("off"), on.arm("on")])
    }

    #[test]
    fn upheld_where_purchases_hang_without_it_and_end_in_time_with_it() {
        expect(
            judged(&OFF, &SHIPPED),
            Outcome::Upheld,
            "10004 ms without it, 2100 ms with it",
        );
    }

    #[test]
    fn refuted_by_each_thing_that_it_says_would() {
        let own = [(
            OFF,
            "16 purchases took longer than 3 s, the longest 10004 ms",
        )];
        for (on, part) in own.into_iter().chain(disturbed(SHIPPED)) {
            expect(judged(&OFF, &on), Outcome::Refuted, part);
        }
    }

    #[test]
    fn inconclusive_where_nothing_hung_or_nothing_was_done() {
        expect(
            judged(&Seconds::CALM, &SHIPPED),
            Outcome::Inconclusive,
            "no need for it",
        );
        let calm = |name| withheld(Seconds::CALM.arm(name));
        expect(
            RULE.judge(&[calm("off"), calm("on")]),
            Outcome::Inconclusive,
            "no purchase was measured",
        );
    }
}
