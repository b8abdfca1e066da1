//! What does it cost the shop when the trace store is away?

use std::time::Duration;

use super::{ON, WRONG_BOOKS, failed_requests, figures, telemetry, without};
use crate::evaluation::{
    evidence::Arm,
    experiment::{Experiment, FaultPlan, LoadPlan, Model, Observed},
    faults::Fault,
    verdict::{Better, Count, Figure, Outcome, harm_without_none_with},
};

const HARMS: [Count; 1] = [("requests failed", failed_requests)];

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "telemetry_loss",
    claim: "With spans exported from a bounded queue, a trace store that hangs costs the spans of that time, each of \
            them counted, and no request.",
    refuted_by: "a failed request, or lost spans that nobody counted, with the queue on",
    harm: "Without it whoever ends a span waits for the store: the threads that should answer requests stand still, \
           and clients get no answer in time.",
    arms: &[without(&["async_export"]), ON],
    load: LoadPlan {
        scenario: "order",
        model: Model::Open {
            arrivals_per_second: 30,
        },
        run_time: Duration::from_secs(45),
        idempotency_keys: true,
    },
    fault: FaultPlan {
        fault: Fault::Pause { service: "jaeger" },
        after: Duration::from_secs(12),
        // Two exports of five seconds each are given up, and some time more.
        lasts: Duration::from_secs(15),
    },
    observed: Observed::Traces,
    figures: |arms| {
        [
            figures(arms, &HARMS),
            vec![
                Figure::of("spans lost and counted", "", Better::Neither, arms, |arm| {
                    arm.telemetry.as_ref().map(|_| lost_spans(arm) as f64)
                }),
                Figure::of(
                    "p99 while the store is away, against before",
                    "×",
                    Better::Less,
                    arms,
                    slower,
                ),
                Figure::of(
                    "most memory of a service",
                    "MiB",
                    Better::Less,
                    arms,
                    |arm| {
                        let bytes = arm.telemetry.as_ref()?.most_memory_bytes?;
                        Some(bytes as f64 / f64::from(1 << 20))
                    },
                ),
            ],
        ]
        .concat()
    },
    judge,
};

fn lost_spans(arm: &Arm) -> u64 {
    let spans = telemetry(arm).spans;
    let of = |outcome| spans.get(outcome).copied().unwrap_or_default();
    of("failed") + of("dropped")
}

/// The median of the seconds' p99 in the fault's time, as a multiple of the same before it.
fn slower(arm: &Arm) -> Option<f64> {
    let load = arm.load.as_ref()?;
    let in_force = arm.fault.as_ref()?.in_force?;
    let since_start =
        |at: chrono::DateTime<chrono::Utc>| (at - load.summary.measured_from).as_seconds_f64();
    let (from, until) = (since_start(in_force.from), since_start(in_force.until));
    let median = |within: &dyn Fn(f64) -> bool| {
        let seconds = load.timeline.iter();
        let mut latencies: Vec<f64> = seconds
            .filter(|second| within(f64::from(second.second)))
            .filter_map(|second| second.p99_ms)
            .collect();
        latencies.sort_by(f64::total_cmp);
        latencies.get(latencies.len() / 2).copied()
    };
    let before = median(&|second| second + 1.0 <= from)?;
    let away = median(&|second| second >= from && second + 1.0 <= until)?;
    (before > 0.0).then(|| away / before)
}

fn judge(arms: &[Arm]) -> (Outcome, String) {
    let (outcome, reason) = harm_without_none_with(arms, &HARMS, &WRONG_BOOKS);
    if outcome != Outcome::Upheld {
        return (outcome, reason);
    }
    // The store took nothing for so long that spans must have been lost.
    match arms[1..].iter().find(|arm| lost_spans(arm) == 0) {
        Some(arm) => (
            Outcome::Refuted,
            format!("in the arm `{}` no lost span was counted", arm.name),
        ),
        None => (outcome, reason),
    }
}
