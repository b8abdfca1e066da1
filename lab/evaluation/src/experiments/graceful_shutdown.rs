//! Does a rolling restart cost requests?

use std::time::Duration;

use patterns::Pattern;
use records::scenario::Scenario;
use system::Part;

use super::{
    AFTER_REPLACEMENT, measurements,
    rolling_update::{HARMS, REPLICAS, judge},
};
use crate::{
    experiment::{ArmFault, ArmPlan, Experiment, FaultPlan, Kind, LoadPlan, Model, Observed},
    faults::Fault,
};

pub(super) static EXPERIMENT: Experiment = Experiment {
    name: "graceful_shutdown",
    claim: "With graceful shutdown, a rolling restart of two replicas of order-service under load fails no request.",
    kind: Kind::Safety,
    effects: &[],
    refuted_by: "a failed request, with graceful shutdown on",
    harm: "Without it the process exits at once: the requests it was working on end without an answer.",
    arms: &[
        ArmPlan {
            name: "off",
            patterns_off: &[Pattern::GracefulShutdown],
            replicas: REPLICAS,
            overrides: &[],
            fault: ArmFault::AsPlanned,
        },
        ArmPlan {
            name: "on",
            patterns_off: &[],
            replicas: REPLICAS,
            overrides: &[],
            fault: ArmFault::AsPlanned,
        },
    ],
    confounders: &[],
    kubernetes_alone: None,
    load: LoadPlan {
        scenario: Scenario::Order,
        // Requests are in flight at every moment; those that fail are counted, so that no stall can hide. Each user costs half a
        // second of hashing before the load.
        model: Model::Closed { users: 8 },
        run_time: Duration::from_secs(45),
        outlasts_fault: Some(AFTER_REPLACEMENT),
        // The gateway retries requests with a key, which would hide failures.
        idempotency_keys: false,
    },
    fault: FaultPlan {
        // Each user has one request in flight, and part of it is with the gateway: one or two of them end with a process. Eight
        // processes end, so that some surely do.
        fault: Fault::RollingRestart {
            service: Part::OrderService,
            rounds: 4,
        },
        after: Duration::from_secs(2),
        // It is over when the last replica is healthy again.
        lasts: Duration::ZERO,
    },
    observed: Observed::Reconciliation,
    measurements: |arms| measurements(arms, &HARMS),
    judge,
};
