//! Does a transient failure dead-letter an order?

use std::time::Duration;

use patterns::Pattern;
use records::scenario::Scenario;

use super::{ON, WRONG_LEDGER, dead_letters, measurements, without};
use crate::{
    experiment::{Experiment, FaultPlan, Kind, LoadPlan, Model, Observed},
    faults::Fault,
    verdict::{Count, harm_without_none_with},
};

const HARMS: [Count; 1] = [("orders in the dead-letter queue", dead_letters)];

pub(super) const LOAD: LoadPlan = LoadPlan {
    scenario: Scenario::Order,
    model: Model::Open {
        arrivals_per_second: 30,
    },
    run_time: Duration::from_secs(18),
    outlasts_fault: None,
    idempotency_keys: true,
};
pub(super) const FAULT: FaultPlan = FaultPlan {
    // Longer than two statements may take (5 s each): a message that waits for the table fails, first in its batch and
    // then alone.
    fault: Fault::LockTable {
        database: "inventory",
        table: "stock",
    },
    after: Duration::from_secs(2),
    lasts: Duration::from_secs(12),
};

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "retry",
    claim: "With retries, orders that meet a locked table are decided once it is free.",
    kind: Kind::Safety,
    effects: &[],
    refuted_by: "a dead letter, or an order that is not decided, with retries on",
    harm: "Without them the first failure is final: the order's event is dead, and the order waits for a person.",
    arms: &[without(&[Pattern::Retry]), ON],
    confounders: &[],
    kubernetes_alone: None,
    load: LOAD,
    fault: FAULT,
    observed: Observed::Reconciliation,
    measurements: |arms| measurements(arms, &HARMS),
    judge: |arms| harm_without_none_with(arms, &HARMS, &WRONG_LEDGER),
};
