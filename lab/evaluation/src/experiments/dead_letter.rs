//! Does an unreadable message stop those behind it?

use std::time::Duration;

use patterns::Pattern;
use records::scenario::Scenario;
use shared_events::topology::ORDER_EVENTS;

use super::{ON, WRONG_LEDGER, lost, measurements, without};
use crate::{
    experiment::{Experiment, FaultPlan, Kind, LoadPlan, Model, Observed},
    faults::Fault,
    verdict::{Count, harm_without_none_with},
};

const HARMS: [Count; 1] = [("orders never processed behind the poison", lost)];

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "dead_letter",
    claim: "With a dead-letter queue, unreadable messages leave the queue, and the orders behind them are \
            decided.",
    kind: Kind::Safety,
    effects: &[],
    refuted_by: "an order that is not decided although only unreadable messages came in between, with dead letters on",
    harm: "Without it an unreadable message is tried again and again and keeps its place: as many of them as the \
           consumer handles at once stop the queue for good.",
    arms: &[without(&[Pattern::DeadLetter]), ON],
    confounders: &[],
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::Order,
        model: Model::Open {
            arrivals_per_second: 40,
        },
        run_time: Duration::from_secs(7),
        outlasts_fault: None,
        idempotency_keys: true,
    },
    fault: FaultPlan {
        fault: Fault::Poison {
            stream: ORDER_EVENTS,
            // More than AMQP_CONCURRENCY (4).
            count: 12,
        },
        after: Duration::from_secs(2),
        lasts: Duration::from_secs(2),
    },
    observed: Observed::Reconciliation,
    measurements: |arms| measurements(arms, &HARMS),
    judge: |arms| harm_without_none_with(arms, &HARMS, &WRONG_LEDGER[1..]),
};
