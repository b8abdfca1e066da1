//! What does it cost the shop when the trace store is down?

use std::time::Duration;

use patterns::Pattern;
use records::{evaluation::Arm, scenario::Scenario};
use system::Part;

use super::{ON, WRONG_LEDGER, failed_requests, measurements, telemetry, without};
use crate::{
    experiment::{
        Confounder, DeclaredEffect, Experiment, FaultPlan, Kind, LoadPlan, Model, Observed, Ratio,
    },
    faults::Fault,
    measurement::{Better, Measurement, Outcome},
    statistics::decision::Bound,
    verdict::{Count, harm_without_none_with},
};

const HARMS: [Count; 1] = [("requests failed", failed_requests)];
const EFFECTS: [DeclaredEffect; 1] = [DeclaredEffect {
    measurement: SLOWER,
    ratio: Ratio::WithPattern,
    bound: Bound::AtMost(3.0),
    reason: "the p99 of a second with thirty orders is its slowest one, which one collection of pages can treble",
}];
const SLOWER: &str = "p99 while the store is away, against before";
/// A full queue weighs 2 MiB, a batch under way as much again; the rest is what a busy service has anyway.
const MEMORY_MIB: f64 = 48.0;

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "telemetry_loss",
    claim: "With spans exported from a bounded queue, a trace store that hangs costs spans, which are counted as lost, \
            and neither requests nor their latency nor memory.",
    kind: Kind::Safety,
    effects: &EFFECTS,
    refuted_by: "a failed request, no span that was counted as lost, a service with more than 48 MiB, or, over several runs, a p99 three \
                 times as long as before, with the queue on",
    harm: "Without it whoever ends a span waits for the store: the threads that should answer requests stand still, \
           and clients get no answer in time.",
    arms: &[without(&[Pattern::AsyncExport]), ON],
    confounders: &[Confounder {
        pattern: Pattern::LoadShedding,
        effect: "refuses requests while those that wait for the trace store keep their places",
    }],
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::Order,
        model: Model::Open {
            arrivals_per_second: 30,
        },
        run_time: Duration::from_secs(21),
        outlasts_fault: None,
        idempotency_keys: true,
    },
    fault: FaultPlan {
        fault: Fault::Pause {
            service: Part::Jaeger,
        },
        after: Duration::from_secs(6),
        // Two exports of five seconds each are given up, and some time more.
        lasts: Duration::from_secs(12),
    },
    observed: Observed::Spans,
    measurements: |arms| {
        [
            measurements(arms, &HARMS),
            vec![
                Measurement::of("spans lost and counted", "", Better::Neither, arms, |arm| {
                    arm.telemetry.as_ref().map(|_| lost_spans(arm) as f64)
                }),
                Measurement::of(SLOWER, "×", Better::Less, arms, slower),
                Measurement::of(
                    "most memory of a service",
                    "MiB",
                    Better::Less,
                    arms,
                    memory_mib,
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

fn memory_mib(arm: &Arm) -> Option<f64> {
    let bytes = arm.telemetry.as_ref()?.most_memory_bytes?;
    Some(bytes as f64 / f64::from(1 << 20))
}

fn judge(arms: &[Arm]) -> (Outcome, String) {
    let (outcome, reason) = harm_without_none_with(arms, &HARMS, &WRONG_LEDGER);
    if outcome != Outcome::Upheld {
        return (outcome, reason);
    }
    // The store took nothing for so long that spans must have been lost.
    for arm in &arms[1..] {
        let wrong = if lost_spans(arm) == 0 {
            Some("no lost span was counted".to_owned())
        } else {
            let much = memory_mib(arm).filter(|mib| *mib > MEMORY_MIB);
            much.map(|mib| format!("a service had {mib:.0} MiB in memory"))
        };
        if let Some(wrong) = wrong {
            return (
                Outcome::Refuted,
                format!("in the arm `{}` {wrong}", arm.name),
            );
        }
    }
    (outcome, reason)
}
