//! Does an event that is delivered twice take stock twice?

use std::time::Duration;

use patterns::Pattern;
use records::scenario::Scenario;
use shared_events::topology::ORDER_EVENTS;

use super::{ON, WRONG_LEDGER, doubled, measurements, without};
use crate::{
    experiment::{Confounder, Experiment, FaultPlan, Kind, LoadPlan, Model, Observed},
    faults::Fault,
    verdict::{Count, harm_without_none_with},
};

const DOUBLED: &str = "orders that took stock twice";
const HARMS: [Count; 1] = [(DOUBLED, doubled)];

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "inbox",
    claim: "With the inbox, an event that comes a second time under the same id changes nothing.",
    kind: Kind::Safety,
    effects: &[],
    refuted_by: "an order that takes its stock twice, or a ledger that doesn't reconcile, with the inbox on",
    harm: "Without it whatever arrives is applied, and at-least-once delivery means that some of it arrives twice.",
    arms: &[without(&[Pattern::Inbox]), ON],
    confounders: &[Confounder {
        pattern: Pattern::SagaRecovery,
        effect: "publishes the events of orders that wait for long a second time, as the fault does",
    }],
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
        fault: Fault::Redeliver {
            stream: ORDER_EVENTS,
            count: 50,
        },
        after: Duration::from_secs(3),
        lasts: Duration::from_secs(2),
    },
    observed: Observed::Reconciliation,
    measurements: |arms| measurements(arms, &HARMS),
    judge: |arms| harm_without_none_with(arms, &HARMS, &WRONG_LEDGER),
};
