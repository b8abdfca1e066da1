//! What happens to requests when one of two replicas freezes?

use std::time::Duration;

use patterns::Pattern;
use records::{evaluation::Arm, scenario::Scenario};
use system::Part;

use super::{
    ON,
    by_route::{self, Rule, in_force, is_purchase, under_fault},
    context, without,
};
use crate::{
    experiment::{ArmPlan, Experiment, FaultPlan, Kind, LoadPlan, Model, Observed},
    faults::Fault,
    measurement::{Better, Measurement},
};

/// Without the pattern at least this share of the purchases fails or uses a stale price, in per cent.
const HARM_PERCENT: f64 = 50.0;
/// With the pattern at most this share may: calls that were already sent to the frozen replica are retried only within
/// a budget.
const ALLOWED_PERCENT: f64 = 2.0;
/// From this time after the pause on no call may be sent to the frozen replica: 0.3 s until the next health check,
/// 0.3 s until it times out, and a margin for a busy machine.
const SKIPPED_AFTER_SECONDS: f64 = 3.0;
/// Less than the keepalive needs to close a connection, so a call to the frozen replica always takes longer.
const PROMPT_MS: f64 = 1_000.0;

const REPLICAS: &[(Part, u32)] = &[(Part::ProductService, 2)];

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "client_load_balancing",
    claim: "With client load balancing, purchases continue at current prices while one of two replicas of product-service is frozen, \
            and from 3 s after the freeze on no purchase waits for it.",
    kind: Kind::Safety,
    effects: &[],
    refuted_by: "more than 2 % of the purchases failing or using a stale price, a purchase that takes longer than 3 s, or longer than \
                 1 s from 3 s after the freeze on, or no recovery within 5 s, with balancing on",
    harm: "Without it all calls use the one connection to the frozen replica: purchases wait for the timeout, then fail or use a stale \
           price, while the other replica is idle.",
    arms: &[
        ArmPlan {
            replicas: REPLICAS,
            ..without(&[Pattern::ClientLoadBalancing])
        },
        ArmPlan {
            replicas: REPLICAS,
            ..ON
        },
    ],
    confounders: &[],
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::Purchase,
        model: Model::Open {
            arrivals_per_second: 20,
        },
        run_time: Duration::from_secs(19),
        outlasts_fault: None,
        idempotency_keys: false,
    },
    fault: FaultPlan {
        fault: Fault::PauseInUse {
            service: Part::ProductService,
            database: "products",
        },
        after: Duration::from_secs(3),
        lasts: Duration::from_secs(8),
    },
    observed: Observed::Reconciliation,
    measurements: |arms| {
        let mut measurements = vec![
            Measurement::of(
                "purchases failed or at a stale price, of those under the fault",
                "%",
                Better::Less,
                arms,
                not_fresh,
            )
            .decisive(),
            Measurement::of(
                "purchases at a stale price, of those under the fault",
                "%",
                Better::Less,
                arms,
                |arm| part(arm, |second| second.stale),
            ),
            Measurement::of(
                "the longest purchase from 3 s after the freeze on",
                "ms",
                Better::Less,
                arms,
                longest_later,
            )
            .decisive(),
        ];
        let others = |measurement: &Measurement| measurement.name.starts_with("other ");
        measurements.extend(
            by_route::measurements(arms)
                .into_iter()
                .filter(|f| !others(f)),
        );
        measurements.extend(context(arms));
        measurements
    },
    judge: |arms| RULE.judge(arms),
};

const RULE: Rule = Rule {
    wrong,
    harm: not_fresh,
    harm_from: HARM_PERCENT,
    harmless: |off| format!("only {off:.0} % of the purchases failed or used a stale price"),
    seen: |off, on| {
        format!(
            "of the purchases while a replica was frozen {off:.0} % failed or used a stale price without it, {on:.0} % with it"
        )
    },
};

/// The share of the purchases sent under the fault that `count` counts, in per cent.
fn part(arm: &Arm, count: fn(&records::load::RouteSecond) -> u64) -> Option<f64> {
    let (mut counted, mut sent) = (0, 0);
    for second in under_fault(arm).filter(|second| is_purchase(second)) {
        counted += count(second);
        sent += second.sent();
    }
    (sent > 0).then(|| counted as f64 / sent as f64 * 100.0)
}

fn not_fresh(arm: &Arm) -> Option<f64> {
    part(arm, |second| by_route::failed(second) + second.stale)
}

/// The longest purchase under the fault after the time that detection may take.
fn longest_later(arm: &Arm) -> Option<f64> {
    let (from, _) = in_force(arm)?;
    let later =
        under_fault(arm).filter(|second| f64::from(second.second) >= from + SKIPPED_AFTER_SECONDS);
    later
        .filter(|second| is_purchase(second))
        .filter_map(|second| second.max_ms)
        .max_by(f64::total_cmp)
}

fn wrong(arm: &Arm) -> Option<String> {
    by_route::damage(arm).or_else(|| {
        if let Some(percent) = not_fresh(arm).filter(|percent| *percent > ALLOWED_PERCENT) {
            return Some(format!(
                "{percent:.0} % of the purchases failed or used a stale price"
            ));
        }
        let waited = longest_later(arm).filter(|ms| *ms > PROMPT_MS);
        waited.map(|ms| format!("a purchase took {ms:.0} ms more than 3 s after the freeze"))
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::by_route::tests::{expect, second, under, withheld},
        *,
    };
    use crate::measurement::Outcome;

    const PURCHASE: (&str, &str, Option<&str>) = ("POST", "/users/{id}/purchases", None);

    /// Twenty purchases a second; under the fault `failed` of them fail, `stale` use a stale price, and the slowest
    /// takes `first_ms` at first and `later_ms` later.
    fn arm(name: &str, failed: u64, stale: u64, first_ms: f64, later_ms: f64) -> Arm {
        under(name, |number, bad| {
            let (failed, stale) = if bad { (failed, stale) } else { (0, 0) };
            let took_ms = match number {
                _ if !bad => 10.0,
                ..24 => first_ms,
                _ => later_ms,
            };
            let answers = [("201", 20 - failed), ("503", failed)];
            let second = second(number, PURCHASE, &answers, took_ms);
            vec![records::load::RouteSecond { stale, ..second }]
        })
    }

    fn off() -> Arm {
        arm("off", 4, 15, 2_010.0, 900.0)
    }

    fn on() -> Arm {
        arm("on", 0, 0, 1_400.0, 30.0)
    }

    #[test]
    fn upheld_when_only_the_arm_without_it_fails_or_uses_stale_prices() {
        expect(
            RULE.judge(&[off(), on()]),
            Outcome::Upheld,
            "95 % failed or used a stale price without it, 0 % with it",
        );
    }

    #[test]
    fn refuted_by_each_stated_condition() {
        for (on, part) in [
            (arm("on", 1, 0, 1_400.0, 30.0), "5 % of the purchases"),
            (arm("on", 0, 1, 1_400.0, 30.0), "5 % of the purchases"),
            (arm("on", 0, 0, 3_100.0, 30.0), "the longest 3100 ms"),
            (arm("on", 0, 0, 1_400.0, 1_300.0), "took 1300 ms more than"),
            (off(), "95 % of the purchases"),
        ] {
            expect(RULE.judge(&[off(), on]), Outcome::Refuted, part);
        }
    }

    #[test]
    fn inconclusive_without_harm_or_without_a_fault() {
        let lucky = arm("off", 0, 2, 30.0, 30.0);
        expect(
            RULE.judge(&[lucky, on()]),
            Outcome::Inconclusive,
            "no need for it",
        );
        expect(
            RULE.judge(&[withheld(off()), withheld(on())]),
            Outcome::Inconclusive,
            "no purchase was measured",
        );
    }
}
