//! What does a hanging dependency cost when it is called again and again?

use std::time::Duration;

use patterns::Pattern;
use records::{evaluation::Arm, scenario::Scenario};
use system::Part;

use super::{
    BALANCING, ON,
    by_route::{self, Rule},
    context, without,
};
use crate::{
    experiment::{DeclaredEffect, Experiment, FaultPlan, Kind, LoadPlan, Model, Observed, Ratio},
    faults::Fault,
    statistics::decision::Bound,
};

/// Without it more than this share of the purchases fails while the catalogue hangs, in per cent.
const HARM_PERCENT: f64 = 50.0;
/// With it no more than this share may fail: products whose price isn't cached.
const ALLOWED_PERCENT: f64 = 20.0;
const EFFECTS: [DeclaredEffect; 1] = [DeclaredEffect {
    measurement: by_route::PURCHASES_P50,
    ratio: Ratio::BetweenArms,
    bound: Bound::AtMost(0.25),
    reason: "an open circuit doesn't wait: of the two seconds of the deadline it should save nearly all, three quarters at least",
}];

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "circuit_breaker",
    claim: "With the breaker, purchases go on while product-service hangs: at prices of a moment ago, without waiting for it, \
            and undisturbed from 5 s after its return on; the other routes notice nothing.",
    kind: Kind::Safety,
    effects: &EFFECTS,
    refuted_by: "more than 20 % of the purchases failing while it hangs, one that takes longer than 3 s, another route that fails or whose \
                 p99 trebles, or no recovery within 5 s, with the breaker on; over several runs, a median that isn't a quarter of that \
                 without it",
    harm: "Without it every purchase waits two seconds for an answer that doesn't come, and fails.",
    arms: &[without(&[Pattern::CircuitBreaker]), ON],
    confounders: &[BALANCING],
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::Edge,
        model: Model::Open {
            arrivals_per_second: 40,
        },
        run_time: Duration::from_secs(31),
        outlasts_fault: None,
        idempotency_keys: false,
    },
    fault: FaultPlan {
        fault: Fault::Pause {
            service: Part::ProductService,
        },
        // Until most prices have been read once.
        after: Duration::from_secs(15),
        lasts: Duration::from_secs(8),
    },
    observed: Observed::Reconciliation,
    measurements: |arms| {
        let mut measurements = by_route::measurements(arms);
        measurements[0].decisive = true;
        measurements[1].decisive = true;
        measurements.extend(context(arms));
        measurements
    },
    judge: |arms| RULE.judge(arms),
};

const RULE: Rule = Rule {
    wrong,
    harm: by_route::purchases_failed,
    harm_from: HARM_PERCENT,
    harmless: |off| format!("only {off:.0} % of the purchases failed"),
    seen: |off, on| {
        format!(
            "of the purchases while product-service hung {off:.0} % failed without it, {on:.0} % with it"
        )
    },
};

fn wrong(arm: &Arm) -> Option<String> {
    by_route::damage(arm).or_else(|| {
        let percent = by_route::purchases_failed(arm)?;
        (percent > ALLOWED_PERCENT).then(|| format!("{percent:.0} % of the purchases failed"))
    })
}

#[cfg(test)]
mod tests {
    use super::{
        by_route::tests::{Seconds, disturbed, expect, withheld},
        *,
    };
    use crate::measurement::Outcome;

    const OFF: Seconds = Seconds {
        failing: 1.0,
        took_ms: 2_005.0,
        longest_ms: 2_100.0,
        ..Seconds::CALM
    };
    const SHIPPED: Seconds = Seconds {
        failing: 0.05,
        longest_ms: 2_100.0,
        ..Seconds::CALM
    };

    fn judged(off: &Seconds, on: &Seconds) -> (Outcome, String) {
        RULE.judge(&[off.arm("off"), on.arm("on")])
    }

    #[test]
    fn upheld_where_purchases_fail_without_it_and_go_on_with_it() {
        expect(
            judged(&OFF, &SHIPPED),
            Outcome::Upheld,
            "100 % failed without it, 5 % with it",
        );
    }

    #[test]
    fn refuted_by_each_thing_that_it_says_would() {
        let own = [
            (OFF, "100 % of the purchases failed"),
            (
                Seconds {
                    longest_ms: 3_500.0,
                    ..SHIPPED
                },
                "16 purchases took longer than 3 s, the longest 3500 ms",
            ),
        ];
        for (on, part) in own.into_iter().chain(disturbed(SHIPPED)) {
            expect(judged(&OFF, &on), Outcome::Refuted, part);
        }
        let mut lossy = SHIPPED.arm("on");
        lossy
            .reconciliation
            .as_mut()
            .unwrap()
            .lost
            .push("an order".to_owned());
        expect(
            RULE.judge(&[OFF.arm("off"), lossy]),
            Outcome::Refuted,
            "orders lost",
        );
    }

    #[test]
    fn inconclusive_where_nothing_failed_or_nothing_was_done() {
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
