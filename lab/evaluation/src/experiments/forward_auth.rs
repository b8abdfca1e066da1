//! Is a request without a valid token accepted, and what does the check of each request cost?

use std::time::Duration;

use patterns::Pattern;
use records::{
    evaluation::{Arm, Attacks},
    scenario::Scenario,
};

use super::{ON, count, failed_requests, harm, latency_p50, latency_p99, without};
use crate::{
    experiment::{Experiment, FaultPlan, Kind, LoadPlan, Model, Observed},
    faults::Fault,
    measurement::{Better, Measurement, Outcome},
    verdict::{Count, harm_without_none_with},
};

const LET_IN: Count = ("attacks accepted", let_in);
const BROKE: Count = (
    "attacks that were answered with a server error",
    server_errors,
);

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "forward_auth",
    claim: "With the gateway asking the auth service about every protected request, and taking away what clients \
            write of identities, none of the attacks is accepted, and none breaks anything.",
    kind: Kind::Safety,
    effects: &[],
    refuted_by: "an attack that was accepted, or that was answered with a 5xx that HTTP itself doesn't ask for, with it on",
    harm: "Without it services believe what a client writes: whoever names a user's id is that user.",
    arms: &[without(&[Pattern::ForwardAuth]), ON],
    confounders: &[],
    // The cost: the same protected read, with and without the check before it.
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::Protected,
        model: Model::Open {
            arrivals_per_second: 50,
        },
        run_time: Duration::from_secs(30),
        outlasts_fault: Some(Duration::from_secs(1)),
        idempotency_keys: false,
    },
    fault: FaultPlan {
        fault: Fault::Attacks,
        // Until then there is nothing but the load.
        after: Duration::from_secs(2),
        lasts: Duration::ZERO,
    },
    observed: Observed::Reconciliation,
    measurements: |arms| {
        vec![
            harm(LET_IN.0, arms, LET_IN.1),
            harm(BROKE.0, arms, BROKE.1),
            Measurement::of("attacks", "", Better::Neither, arms, |arm| {
                arm.attacks.as_ref().map(|attacks| attacks.tried as f64)
            }),
            Measurement::of("requests failed", "", Better::Less, arms, |arm| {
                arm.load.as_ref().map(|_| failed_requests(arm) as f64)
            }),
            Measurement::of(
                "protected reads, before the attacks: median of the seconds' p50",
                "ms",
                Better::Less,
                arms,
                |arm| quiet(arm, |second| second.p50_ms),
            ),
            latency_p50(arms),
            latency_p99(arms),
        ]
    },
    judge,
};

fn attacks(arm: &Arm) -> Attacks {
    arm.attacks.clone().unwrap_or_default()
}

fn let_in(arm: &Arm) -> u64 {
    count(&attacks(arm).let_in)
}

fn server_errors(arm: &Arm) -> u64 {
    count(&attacks(arm).server_errors)
}

/// The median of a measurement of the seconds before the attacks.
fn quiet(arm: &Arm, of: fn(&records::load::TimelineSecond) -> Option<f64>) -> Option<f64> {
    let load = arm.load.as_ref()?;
    let attacked = arm.fault.as_ref()?.injected_at?;
    let until = (attacked - load.summary.measured_from).as_seconds_f64();
    let seconds = load.timeline.iter();
    let mut values: Vec<f64> = seconds
        .filter(|second| f64::from(second.second) + 1.0 <= until)
        .filter_map(of)
        .collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn judge(arms: &[Arm]) -> (Outcome, String) {
    let (outcome, reason) = harm_without_none_with(arms, &[LET_IN], &[BROKE]);
    if outcome == Outcome::Refuted {
        return (outcome, reason);
    }
    // An attack that wasn't sent, or had no answer, was not accepted either.
    for arm in arms {
        if attacks(arm).tried == 0 {
            let reason = format!("in the arm `{}` there was no attack", arm.name);
            return (Outcome::Inconclusive, reason);
        }
    }
    for arm in arms.iter().skip(1) {
        if let Some(what) = attacks(arm).unforeseen.first() {
            let reason = format!("in the arm `{}` not all is clear: {what}", arm.name);
            return (Outcome::Inconclusive, reason);
        }
    }
    (outcome, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::Sketch;

    fn arm(name: &str, let_in: &[&str], server_errors: &[&str], unforeseen: &[&str]) -> Arm {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let mut arm = Sketch::arm(name).build();
        arm.attacks = Some(Attacks {
            tried: 170,
            answered: 170,
            let_in: texts(let_in),
            server_errors: texts(server_errors),
            unforeseen: texts(unforeseen),
        });
        arm
    }

    fn outcome(arms: &[Arm]) -> Outcome {
        judge(arms).0
    }

    #[test]
    fn upheld_when_they_get_in_without_it_and_none_with_it() {
        let without = || arm("off", &["identity headers: plain"], &[], &["paths: odd"]);
        let with = arm("on", &[], &[], &[]);
        assert_eq!(outcome(&[without(), with]), Outcome::Upheld);
        for with in [
            arm("on", &["tokens: alg none"], &[], &[]),
            arm("on", &[], &["malformed: no Host"], &[]),
        ] {
            assert_eq!(outcome(&[without(), with]), Outcome::Refuted);
        }
    }

    #[test]
    fn nothing_can_be_said_when_none_got_in_without_it_or_not_all_is_clear() {
        let with = || arm("on", &[], &[], &[]);
        assert_eq!(
            outcome(&[arm("off", &[], &[], &[]), with()]),
            Outcome::Inconclusive
        );
        let without = || arm("off", &["identity headers: plain"], &[], &[]);
        let silent = arm("on", &[], &[], &["smuggling: CL.TE: no answer within 5 s"]);
        assert_eq!(outcome(&[without(), silent]), Outcome::Inconclusive);
        let mut unattacked = with();
        unattacked.attacks = None;
        assert_eq!(outcome(&[without(), unattacked]), Outcome::Inconclusive);
    }
}
