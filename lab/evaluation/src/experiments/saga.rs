//! Do order and stock agree in the end, when stock is refused and orders are cancelled?

use std::time::Duration;

use patterns::Pattern;
use records::scenario::Scenario;
use system::Part;

use super::{ON, WRONG_LEDGER, held, measurements, oversold, uncancelled, without};
use crate::{
    experiment::{Experiment, FaultPlan, Kind, LoadPlan, Model, Observed},
    faults::Fault,
    verdict::{Count, harm_without_none_with},
};

const HARMS: [Count; 3] = [
    ("orders confirmed without their stock", oversold),
    ("ended orders that still hold stock", held),
    ("cancellations that were not kept", uncancelled),
];

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "saga",
    claim: "With the saga, order and stock agree in the end: confirmed is what has its stock, and what was rejected \
            or cancelled holds none, although inventory-service stands still while orders are placed and cancelled.",
    kind: Kind::Safety,
    effects: &[],
    refuted_by: "an order that is confirmed without stock, or that was rejected or cancelled and still holds some, \
                 with the saga on",
    harm: "Without it an order is confirmed as soon as it is taken and cancelled as soon as it is asked for; nobody \
           waits for the stock, and nobody gives it back.",
    arms: &[without(&[Pattern::Saga]), ON],
    confounders: &[],
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::ChangeOfMind,
        model: Model::Open {
            arrivals_per_second: 30,
        },
        run_time: Duration::from_secs(9),
        outlasts_fault: None,
        idempotency_keys: true,
    },
    fault: FaultPlan {
        fault: Fault::Pause {
            service: Part::InventoryService,
        },
        after: Duration::from_secs(2),
        lasts: Duration::from_secs(4),
    },
    observed: Observed::Reconciliation,
    measurements: |arms| measurements(arms, &HARMS),
    judge: |arms| harm_without_none_with(arms, &HARMS, &WRONG_LEDGER),
};
