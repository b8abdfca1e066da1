//! Is everything that happened to an order in one trace?

use patterns::Pattern;
use records::evaluation::Arm;

use super::{ON, WRONG_LEDGER, measurements, retry, telemetry, without};
use crate::{
    experiment::{Experiment, Kind, Observed},
    measurement::{Better, Measurement, Outcome},
    verdict::{Count, harm_without_none_with},
};

const HARMS: [Count; 1] = [("orders whose trace is not whole", broken_traces)];

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "trace_propagation",
    claim: "With the trace context in messages' headers, each order is one trace, from the gateway to the stock and \
            back, also where messages had to be tried again.",
    kind: Kind::Safety,
    effects: &[],
    refuted_by: "an order whose trace lacks a hop, or has one that hangs below another cause, with propagation on",
    harm: "Without it each side of a message starts a trace of its own: a trace ends where the message is sent, and \
           nothing leads to what became of it.",
    arms: &[without(&[Pattern::TracePropagation]), ON],
    confounders: &[],
    kubernetes_alone: None,
    load: retry::LOAD,
    // Retries are where a context is lost most easily.
    fault: retry::FAULT,
    observed: Observed::Traces,
    measurements: |arms| [measurements(arms, &HARMS), vec![whole_share(arms)]].concat(),
    judge,
};

fn broken_traces(arm: &Arm) -> u64 {
    let seen = telemetry(arm);
    seen.traces - seen.whole
}

fn whole_share(arms: &[Arm]) -> Measurement {
    Measurement::of("whole traces", "%", Better::More, arms, |arm| {
        let seen = arm.telemetry.as_ref().filter(|seen| seen.traces > 0)?;
        Some(seen.whole as f64 * 100.0 / seen.traces as f64)
    })
}

fn judge(arms: &[Arm]) -> (Outcome, String) {
    // Where nothing was looked at, nothing was broken either.
    if let Some(arm) = arms.iter().find(|arm| telemetry(arm).traces == 0) {
        return (
            Outcome::Inconclusive,
            format!("in the arm `{}` no trace was looked at", arm.name),
        );
    }
    harm_without_none_with(arms, &HARMS, &WRONG_LEDGER)
}
