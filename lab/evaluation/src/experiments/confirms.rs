//! Does a publisher notice that the broker had nowhere to put an event?

use std::time::Duration;

use patterns::Pattern;
use records::scenario::Scenario;
use shared_events::topology::ORDER_EVENTS;

use super::{ON, RECOVERY, WRONG_LEDGER, lost, measurements, without};
use crate::{
    experiment::{Experiment, FaultPlan, Kind, LoadPlan, Model, Observed},
    faults::Fault,
    verdict::{Count, harm_without_none_with},
};

const HARMS: [Count; 1] = [("orders lost", lost)];

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "confirms",
    claim: "With confirms and returns, an event counts as published when a queue has it, and not before: none is \
            lost while the queue's binding is gone.",
    kind: Kind::Safety,
    effects: &[],
    refuted_by: "a promised order that never ends, with confirms on",
    harm: "Without them an event counts as published once it is written to the socket; the broker drops what it \
           can't route.",
    arms: &[without(&[Pattern::Confirms]), ON],
    confounders: &[RECOVERY],
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::Order,
        model: Model::Open {
            arrivals_per_second: 40,
        },
        run_time: Duration::from_secs(8),
        outlasts_fault: None,
        idempotency_keys: true,
    },
    fault: FaultPlan {
        fault: Fault::Unbind {
            stream: ORDER_EVENTS,
        },
        after: Duration::from_secs(2),
        lasts: Duration::from_secs(3),
    },
    observed: Observed::Reconciliation,
    measurements: |arms| measurements(arms, &HARMS),
    judge: |arms| harm_without_none_with(arms, &HARMS, &WRONG_LEDGER),
};
