//! Does a pod that ends cost requests, because clients still reach it?

use std::time::Duration;

use records::scenario::Scenario;
use system::Part;

use super::{
    AFTER_REPLACEMENT, ON, measurements,
    rolling_update::{HARMS, REPLICAS, judge},
};
use crate::{
    experiment::{ArmPlan, Experiment, FaultPlan, Kind, LoadPlan, Model, Observed},
    faults::Fault,
};

const PAUSE: &str = "AGORA_SHUTDOWN_DELAY_MS";

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "endpoint_race",
    claim: "With a pause of 5 s between \"not ready\" and the end of its connections, a pod of order-service that ends under load fails \
            no request.",
    kind: Kind::Safety,
    effects: &[],
    refuted_by: "a failed request, with the pause",
    harm: "Without it the process refuses connections at once, while its node and others still lead them to it: SIGTERM and the \
           removal from the Service happen at the same time.",
    arms: &[
        ArmPlan {
            name: "off",
            replicas: REPLICAS,
            // The least that an override may be.
            overrides: &[(PAUSE, "1")],
            ..ON
        },
        ArmPlan {
            replicas: REPLICAS,
            overrides: &[(PAUSE, "5000")],
            ..ON
        },
    ],
    confounders: &[],
    kubernetes_alone: Some(
        "elsewhere nothing leads connections to a process that ends: the gateway itself knows its replicas",
    ),
    load: LoadPlan {
        scenario: Scenario::Order,
        // Requests are in flight at every moment, and connections are made at every moment.
        model: Model::Closed { users: 16 },
        run_time: Duration::from_secs(300),
        outlasts_fault: Some(AFTER_REPLACEMENT),
        // The gateway retries requests with a key, which would hide failures.
        idempotency_keys: false,
    },
    fault: FaultPlan {
        fault: Fault::RollingRestart {
            service: Part::OrderService,
            // Sixteen ends cost five requests: as many at least are to be expected without the pause.
            rounds: 10,
        },
        after: Duration::from_secs(2),
        // It is over when the last pod's successor is ready.
        lasts: Duration::ZERO,
    },
    observed: Observed::Reconciliation,
    measurements: |arms| measurements(arms, &HARMS),
    judge,
};
