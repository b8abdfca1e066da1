//! Does an order end although its message was lost?

use std::time::Duration;

use patterns::Pattern;
use records::scenario::Scenario;

use super::{ON, WRONG_LEDGER, lost, measurements, without};
use crate::{
    experiment::{ArmPlan, Experiment, FaultPlan, Kind, LoadPlan, Model, Observed},
    faults::Fault,
    verdict::{Count, harm_without_none_with},
};

const HARMS: [Count; 1] = [("orders stuck for ever", lost)];

/// Overrides of both arms, as short as possible: as shipped, recovery begins after two minutes.
const OVERRIDES: &[(&str, &str)] = &[
    ("AGORA_SAGA_RECOVERY_AFTER_SECONDS", "2"),
    ("AGORA_SAGA_RECOVERY_INTERVAL_SECONDS", "1"),
];

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "saga_recovery",
    claim: "With saga recovery, orders whose messages were lost end all the same, and nothing is applied twice: of the dead letters of \
            both streams half are purged, the others sent again.",
    kind: Kind::Safety,
    effects: &[],
    refuted_by: "an order that is not decided, or a ledger that doesn't reconcile, with recovery on",
    harm: "Without it an order whose message was purged stays pending or cancelling for ever: its event is not \
           republished.",
    arms: &[
        ArmPlan {
            overrides: OVERRIDES,
            ..without(&[Pattern::SagaRecovery])
        },
        ArmPlan {
            overrides: OVERRIDES,
            ..ON
        },
    ],
    confounders: &[],
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::ChangeOfMind,
        model: Model::Open {
            arrivals_per_second: 30,
        },
        // An order's second attempt comes four seconds after its first.
        run_time: Duration::from_secs(16),
        outlasts_fault: None,
        idempotency_keys: true,
    },
    fault: FaultPlan {
        fault: Fault::PurgeDeadLetters,
        after: Duration::from_secs(2),
        lasts: Duration::from_secs(1),
    },
    observed: Observed::Reconciliation,
    measurements: |arms| measurements(arms, &HARMS),
    judge: |arms| harm_without_none_with(arms, &HARMS, &WRONG_LEDGER),
};
