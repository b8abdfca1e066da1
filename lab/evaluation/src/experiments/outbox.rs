//! Does an order survive if the broker is down while it is placed?

use std::time::Duration;

use patterns::Pattern;
use records::scenario::Scenario;
use system::Part;

use super::{ON, RECOVERY, WRONG_LEDGER, failed_requests, lost, measurements, without};
use crate::{
    experiment::{Confounder, Experiment, FaultPlan, Kind, LoadPlan, Model, Observed},
    faults::Fault,
    verdict::{Count, harm_without_none_with},
};

/// An order that was refused without the pattern and taken with it is harm as well.
const HARMS: [Count; 2] = [("orders lost", lost), ("requests failed", failed_requests)];

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "outbox",
    claim: "With the outbox, orders are accepted and every accepted one comes to its end, although the broker is killed \
            while they are placed.",
    kind: Kind::Safety,
    effects: &[],
    refuted_by: "a failed request, an accepted order that never ends, or one that takes its stock twice, with the outbox on",
    harm: "Without it the order is committed first and published then: what can't be published is lost, and the \
           client has its 202.",
    arms: &[without(&[Pattern::Outbox]), ON],
    confounders: &[
        RECOVERY,
        Confounder {
            pattern: Pattern::LoadShedding,
            effect: "refuses orders while requests that publish by themselves wait for the broker, which leaves fewer to lose",
        },
    ],
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::Order,
        model: Model::Open {
            arrivals_per_second: 40,
        },
        // The broker is back some five seconds after it is healed.
        run_time: Duration::from_secs(13),
        outlasts_fault: None,
        idempotency_keys: true,
    },
    fault: FaultPlan {
        fault: Fault::Kill {
            service: Part::RabbitMq,
        },
        after: Duration::from_secs(2),
        lasts: Duration::from_secs(3),
    },
    observed: Observed::Reconciliation,
    measurements: |arms| measurements(arms, &HARMS),
    judge: |arms| harm_without_none_with(arms, &HARMS, &WRONG_LEDGER),
};
