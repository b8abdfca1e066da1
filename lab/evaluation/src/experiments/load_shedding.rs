//! What happens to orders when three times as many arrive as the database can process?

use std::time::Duration;

use patterns::Pattern;
use records::{evaluation::Arm, load::RouteSecond, scenario::Scenario};
use system::Part;

use super::{
    ON, WRONG_LEDGER,
    by_route::{decided_per_second, median, not_sent, under_fault},
    context, without,
};
use crate::{
    experiment::{DeclaredEffect, Experiment, FaultPlan, Kind, LoadPlan, Model, Observed, Ratio},
    faults::Fault,
    measurement::{Better, Measurement, Outcome},
    statistics::decision::Bound,
    verdict::harm_without_none_with,
};

/// Of all orders the decided ones are counted and not the accepted ones: an order that is accepted and not decided has used
/// only a part of what it needs of the database.
const EFFECTS: [DeclaredEffect; 2] = [
    DeclaredEffect {
        measurement: P99,
        ratio: Ratio::BetweenArms,
        bound: Bound::AtMost(0.5),
        reason: "who pays for promptness with refusals should wait half as long at most",
    },
    DeclaredEffect {
        measurement: GOODPUT,
        ratio: Ratio::BetweenArms,
        bound: Bound::AtLeast(0.7),
        reason: "refusing costs something, too, but less than a third of what the database can do",
    },
];
/// Without it an accepted order takes longer than this, or there is no harm.
const HARM_MS: f64 = 2_000.0;
/// How many times the decided orders have to arrive: less is no overload.
const SATURATED: f64 = 2.0;

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "load_shedding",
    claim: "With bounded concurrency and early refusal, orders that are accepted while three times as many arrive as the database \
            can take are answered in half the time (p99) at most, and seven tenths as many are decided at least.",
    kind: Kind::Magnitude,
    effects: &EFFECTS,
    refuted_by: "a p99 of accepted orders that isn't half of that without the pattern, less than 70 % of the orders a second that are \
                 decided without it, or a ledger that doesn't reconcile with it on",
    harm: "Without it every order is worked on at once: each waits for a connection behind all the others, for seconds, whether it \
           gets one in the end or not.",
    arms: &[without(&[Pattern::LoadShedding]), ON],
    confounders: &[],
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::Order,
        model: Model::Open {
            arrivals_per_second: 270,
        },
        run_time: Duration::from_secs(19),
        outlasts_fault: None,
        idempotency_keys: true,
    },
    fault: FaultPlan {
        fault: Fault::StarveCpu {
            service: Part::Postgres,
            millicores: 160,
        },
        after: Duration::from_secs(2),
        lasts: Duration::from_secs(14),
    },
    observed: Observed::Reconciliation,
    measurements: |arms| {
        let mut measurements = vec![
            Measurement::of(P99, "ms", Better::Less, arms, accepted_p99).decisive(),
            Measurement::of(GOODPUT, "/s", Better::More, arms, decided_per_second).decisive(),
            Measurement::of(
                "orders accepted under the fault",
                "/s",
                Better::Neither,
                arms,
                accepted_per_second,
            ),
            Measurement::of(
                "orders that arrived under the fault",
                "/s",
                Better::Neither,
                arms,
                arrived_per_second,
            ),
            Measurement::of(
                "refusals under the fault, median of the seconds' p50",
                "ms",
                Better::Less,
                arms,
                refusals_took,
            ),
        ];
        measurements.extend(context(arms));
        measurements
    },
    judge,
};

const P99: &str = "accepted orders under the fault: median of the seconds' p99";
const GOODPUT: &str = "orders decided under the fault";

/// How long accepted orders took under the fault, in milliseconds.
fn accepted_p99(arm: &Arm) -> Option<f64> {
    median(under_fault(arm).filter_map(|second| second.succeeded_p99_ms))
}

fn per_second(arm: &Arm, count: fn(&RouteSecond) -> u64) -> Option<f64> {
    let counts: Vec<u64> = under_fault(arm).map(count).collect();
    let seconds = counts.len() as f64;
    (seconds > 0.0).then(|| counts.iter().sum::<u64>() as f64 / seconds)
}

fn accepted_per_second(arm: &Arm) -> Option<f64> {
    per_second(arm, |second| second.succeeded)
}

/// Orders that arrived each second, with those that the generator could not send because too many were in flight.
fn arrived_per_second(arm: &Arm) -> Option<f64> {
    let seconds = under_fault(arm).count() as f64;
    let not_sent = not_sent(arm) as f64;
    per_second(arm, RouteSecond::sent).map(|sent| sent + not_sent / seconds)
}

/// How long a rejection took, in milliseconds: the median of the seconds in which most orders were rejected.
fn refusals_took(arm: &Arm) -> Option<f64> {
    let refusing = under_fault(arm).filter(|second| second.succeeded * 2 < second.sent());
    median(refusing.filter_map(|second| second.p50_ms))
}

fn judge(arms: &[Arm]) -> (Outcome, String) {
    let (outcome, reason) = harm_without_none_with(arms, &[], &WRONG_LEDGER);
    if outcome == Outcome::Refuted {
        return (outcome, reason);
    }
    let inconclusive = |reason: String| (Outcome::Inconclusive, reason);
    let [off, on] = arms else {
        return inconclusive("there are no two arms".to_owned());
    };
    let rate = |arm| accepted_per_second(arm).and_then(|_| decided_per_second(arm));
    let (Some(off_decided), Some(on_decided)) = (rate(off), rate(on)) else {
        return inconclusive("no order arrived while the CPU limit was in force".to_owned());
    };
    let (Some(off_ms), Some(on_ms)) = (accepted_p99(off), accepted_p99(on)) else {
        return inconclusive("no order was accepted while the CPU limit was in force".to_owned());
    };
    let arrived = arrived_per_second(on).unwrap_or_default();
    if arrived < on_decided * SATURATED {
        return inconclusive(format!(
            "of {arrived:.0} orders a second {on_decided:.0} were decided: the database was not overloaded"
        ));
    }
    if off_ms < HARM_MS {
        return inconclusive(format!(
            "without it the p99 of accepted orders was only {off_ms:.0} ms: this run shows no need for it"
        ));
    }
    (
        Outcome::Upheld,
        format!(
            "at {arrived:.0} orders a second the p99 of accepted ones was {off_ms:.0} ms without it, {on_ms:.0} ms with it, \
             at {off_decided:.0} and {on_decided:.0} decided a second"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::{
        super::by_route::tests::{expect, second, under, withheld},
        *,
    };

    /// So many orders arrive and are accepted and decided each second, the accepted ones with this p99.
    fn arm(name: &str, arrived: u64, accepted: u64, p99_ms: f64) -> Arm {
        let arm = under(name, |number, bad| {
            let (accepted, p99_ms) = if bad {
                (accepted, p99_ms)
            } else {
                (arrived, 20.0)
            };
            let answers = [("202", accepted), ("503", arrived - accepted)];
            vec![RouteSecond {
                succeeded_p99_ms: Some(p99_ms),
                ..second(number, ("POST", "/orders/", None), &answers, 3.0)
            }]
        });
        deciding(arm, accepted)
    }

    /// With so many orders decided each second under the fault.
    fn deciding(mut arm: Arm, decided: u64) -> Arm {
        let fault = arm.fault.as_mut().unwrap();
        let in_force = fault.in_force.as_mut().unwrap();
        let seconds = (in_force.until - in_force.from).num_seconds();
        in_force.decided = decided * u64::try_from(seconds).unwrap();
        arm
    }

    fn judged(off: Arm, on: Arm) -> (Outcome, String) {
        judge(&[off, on])
    }

    fn off() -> Arm {
        arm("off", 270, 90, 3_100.0)
    }

    #[test]
    fn a_run_under_overload_counts() {
        let on = arm("on", 270, 85, 500.0);
        assert_eq!(refusals_took(&on), Some(3.0));
        expect(
            judged(off(), on),
            Outcome::Upheld,
            "3100 ms without it, 500 ms with it, at 90 and 85",
        );
    }

    #[test]
    fn one_run_is_refuted_by_a_lost_order() {
        let mut lossy = arm("on", 270, 85, 500.0);
        lossy
            .reconciliation
            .as_mut()
            .unwrap()
            .lost
            .push("one".to_owned());
        expect(judged(off(), lossy), Outcome::Refuted, "orders lost");
    }

    #[test]
    fn inconclusive_without_overload_without_harm_and_without_a_fault() {
        let idle = arm("on", 270, 260, 40.0);
        expect(judged(off(), idle), Outcome::Inconclusive, "not overloaded");
        let harmless = arm("off", 270, 90, 800.0);
        let on = || arm("on", 270, 85, 500.0);
        expect(
            judged(harmless, on()),
            Outcome::Inconclusive,
            "no need for it",
        );
        expect(
            judged(withheld(off()), withheld(on())),
            Outcome::Inconclusive,
            "no order arrived while",
        );
    }
}
