//! What does one greedy user cost the others?

use std::time::Duration;

use patterns::Pattern;
use records::{evaluation::Arm, load::RouteSecond, scenario::Scenario};
use system::Part;

use super::{
    ON, WRONG_LEDGER,
    by_route::{failed, median, not_sent, routes, under_fault},
    context, without,
};
use crate::{
    experiment::{
        ArmPlan, DeclaredEffect, Experiment, FaultPlan, Kind, LoadPlan, Model, Observed, Ratio,
    },
    faults::Fault,
    measurement::{Better, Measurement, Outcome},
    statistics::decision::Bound,
    verdict::harm_without_none_with,
};

/// The groups of users, as [`Scenario::Greedy`] names them.
const GREEDY: &str = "greedy";
const OTHERS: &str = "others";
/// Their part of all arrivals, sent or not.
const OTHERS_SHARE: f64 = 0.2;
/// The share of the others' requests that may fail with the limit, in per cent.
const ALLOWED_PERCENT: f64 = 1.0;
/// The share that fails without the limit, or there is no harm, in per cent.
const HARM_PERCENT: f64 = 10.0;
const EFFECTS: [DeclaredEffect; 1] = [DeclaredEffect {
    measurement: OTHERS_P99,
    ratio: Ratio::BetweenArms,
    bound: Bound::AtMost(0.5),
    reason: "four of five requests are refused before they get to the service: who is left should wait half as long at most",
}];
const OTHERS_P99: &str = "the others' requests under the fault: median of the seconds' p99";

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "rate_limit",
    claim: "With a limit for each user at the gateway, one user who sends four fifths of all requests costs the others nothing, while \
            inventory-service can do less than is asked for.",
    kind: Kind::Safety,
    effects: &EFFECTS,
    refuted_by: "more than 1 % of the others' requests failing, one of them refused for being too many, or a greedy user who is never \
                 refused, with it on; over several runs, a p99 of theirs that isn't half of that without it",
    harm: "Without it inventory-service sheds what is too much, whose it is or not: the others are refused for what one of them asks.",
    arms: &[
        without(&[Pattern::RateLimit]),
        // The others send some six requests a second each.
        ArmPlan {
            overrides: &[
                ("AGORA_RATE_LIMIT_AVERAGE", "20"),
                ("AGORA_RATE_LIMIT_BURST", "40"),
            ],
            ..ON
        },
    ],
    confounders: &[],
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::Greedy,
        model: Model::Open {
            // The gateway authenticates each of them, rejected or not: half of what two slow cores can take.
            arrivals_per_second: 200,
        },
        run_time: Duration::from_secs(14),
        outlasts_fault: None,
        idempotency_keys: false,
    },
    fault: FaultPlan {
        fault: Fault::StarveCpu {
            service: Part::InventoryService,
            // For more than the 60 a second that pass with the limit, and for less than arrive.
            millicores: 30,
        },
        after: Duration::from_secs(3),
        lasts: Duration::from_secs(8),
    },
    observed: Observed::Reconciliation,
    measurements: |arms| {
        let mut measurements = vec![
            Measurement::of(
                "the others' requests that failed or could not be sent, of those due under the fault",
                "%",
                Better::Less,
                arms,
                others_failed,
            )
            .decisive(),
            Measurement::of(
                OTHERS_P99,
                "ms",
                Better::Less,
                arms,
                others_p99,
            )
            .decisive(),
            Measurement::of("429 to the others", "", Better::Less, arms, |arm| {
                counted(arm, OTHERS, too_many)
            })
            .decisive(),
            Measurement::of("429 to the greedy one", "", Better::Neither, arms, |arm| {
                counted(arm, GREEDY, too_many)
            }),
            Measurement::of(
                "requests of the greedy one that succeeded",
                "",
                Better::Neither,
                arms,
                |arm| counted(arm, GREEDY, |second| second.succeeded),
            ),
        ];
        measurements.extend(context(arms));
        measurements
    },
    judge,
};

fn of<'a>(
    seconds: impl Iterator<Item = &'a RouteSecond>,
    group: &str,
) -> impl Iterator<Item = &'a RouteSecond> {
    seconds.filter(move |second| second.group.as_deref() == Some(group))
}

fn too_many(second: &RouteSecond) -> u64 {
    second.answers.get("429").copied().unwrap_or_default()
}

/// Over the whole run.
fn counted(arm: &Arm, group: &str, count: fn(&RouteSecond) -> u64) -> Option<f64> {
    let seconds = routes(arm);
    (!seconds.is_empty()).then(|| of(seconds.iter(), group).map(count).sum::<u64>() as f64)
}

/// Of the others' requests that were due under the fault, the part that failed or could not be sent, in per cent: who
/// can't even ask is not served either, and where the greedy one's requests fill the queues those are most.
fn others_failed(arm: &Arm) -> Option<f64> {
    let (mut bad, mut sent) = (0, 0);
    for second in of(under_fault(arm), OTHERS) {
        bad += failed(second);
        sent += second.sent();
    }
    let not_sent = not_sent(arm) as f64 * OTHERS_SHARE;
    (sent > 0).then(|| (bad as f64 + not_sent) / (sent as f64 + not_sent) * 100.0)
}

fn others_p99(arm: &Arm) -> Option<f64> {
    median(of(under_fault(arm), OTHERS).filter_map(|second| second.p99_ms))
}

fn judge(arms: &[Arm]) -> (Outcome, String) {
    let (outcome, reason) = harm_without_none_with(arms, &[], &WRONG_LEDGER);
    if outcome == Outcome::Refuted {
        return (outcome, reason);
    }
    let inconclusive = |reason: &str| (Outcome::Inconclusive, reason.to_owned());
    let refuted = |reason: String| (Outcome::Refuted, format!("with it {reason}"));
    let [off, on] = arms else {
        return inconclusive("there are no two arms");
    };
    if let Some(count) = counted(on, OTHERS, too_many).filter(|count| *count > 0.0) {
        return refuted(format!("{count:.0} requests of the others were too many"));
    }
    let measured = |arm| Some((others_failed(arm)?, others_p99(arm)?));
    let (Some((off_failed, _)), Some((on_failed, on_ms))) = (measured(off), measured(on)) else {
        return inconclusive("nobody but the greedy one asked for anything under the fault");
    };
    if on_failed > ALLOWED_PERCENT {
        return refuted(format!("{on_failed:.1} % of the others' requests failed"));
    }
    if counted(on, GREEDY, too_many) == Some(0.0) {
        return refuted("the greedy one was never refused".to_owned());
    }
    if off_failed < HARM_PERCENT {
        return (
            Outcome::Inconclusive,
            format!(
                "without it only {off_failed:.1} % of the others' requests failed: this run shows no need for it"
            ),
        );
    }
    (
        Outcome::Upheld,
        format!(
            "of the others' requests {off_failed:.0} % failed without it, {on_failed:.1} % with it, at a p99 of {on_ms:.0} ms"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::{
        super::by_route::tests::{expect, second, under, withheld},
        *,
    };

    /// What the others and the greedy one are answered each second under the fault.
    struct Answers {
        others_503: u64,
        others_429: u64,
        greedy_429: u64,
        took_ms: f64,
    }

    const WITH: Answers = Answers {
        others_503: 0,
        others_429: 0,
        greedy_429: 300,
        took_ms: 30.0,
    };
    const WITHOUT: Answers = Answers {
        others_503: 40,
        greedy_429: 0,
        took_ms: 400.0,
        ..WITH
    };

    impl Answers {
        fn arm(&self, name: &str) -> Arm {
            under(name, |number, bad| {
                let part = |count: u64| if bad { count } else { 0 };
                let (busy, many) = (part(self.others_503), part(self.others_429));
                let route = |group| ("GET", "/inventory/{product_id}", Some(group));
                let others = [("200", 80 - busy - many), ("429", many), ("503", busy)];
                let greedy = [("200", 320 - self.greedy_429), ("429", self.greedy_429)];
                let took_ms = if bad { self.took_ms } else { 5.0 };
                vec![
                    second(number, route(OTHERS), &others, took_ms),
                    second(number, route(GREEDY), &greedy, took_ms),
                ]
            })
        }
    }

    fn judged(off: &Answers, on: &Answers) -> (Outcome, String) {
        judge(&[off.arm("off"), on.arm("on")])
    }

    #[test]
    fn upheld_where_the_others_fail_without_it_and_not_with_it() {
        expect(
            judged(&WITHOUT, &WITH),
            Outcome::Upheld,
            "50 % failed without it, 0.0 % with it, at a p99 of 30 ms",
        );
    }

    #[test]
    fn refuted_by_each_thing_that_it_says_would() {
        for (on, part) in [
            (WITHOUT, "50.0 % of the others' requests failed"),
            (
                Answers {
                    others_503: 1,
                    ..WITH
                },
                "1.2 % of the others'",
            ),
            (
                Answers {
                    others_429: 1,
                    ..WITH
                },
                "were too many",
            ),
            (
                Answers {
                    greedy_429: 0,
                    ..WITH
                },
                "never refused",
            ),
        ] {
            expect(judged(&WITHOUT, &on), Outcome::Refuted, part);
        }
    }

    #[test]
    fn what_could_not_be_sent_was_not_served_either() {
        let mut off = Answers {
            others_503: 0,
            ..WITHOUT
        }
        .arm("off");
        assert_eq!(others_failed(&off), Some(0.0));
        // 80 of each second's 160 that the others would have sent.
        let load = off.load.as_mut().unwrap();
        for second in &mut load.timeline {
            second.not_sent = 400;
        }
        assert_eq!(others_failed(&off), Some(50.0));
    }

    #[test]
    fn inconclusive_without_harm_and_without_a_fault() {
        let harmless = Answers {
            others_503: 7,
            ..WITHOUT
        };
        expect(
            judged(&harmless, &WITH),
            Outcome::Inconclusive,
            "no need for it",
        );
        let arms = [WITHOUT.arm("off"), WITH.arm("on")].map(withheld);
        expect(judge(&arms), Outcome::Inconclusive, "nobody but");
    }
}
