//! What an experiment is: all of it said before anything runs. The order of the steps is the runner's.

use std::{collections::BTreeSet, time::Duration};

use records::{evaluation::Arm, scenario::Scenario};

use super::{
    faults::Fault,
    measurement::{Measurement, Outcome},
};

/// An experiment: a claim about a pattern, and how it is tried.
#[derive(Debug)]
pub struct Experiment {
    /// As it is typed.
    pub name: &'static str,
    /// What is said to be true, in one sentence.
    pub claim: &'static str,
    /// What would show that it isn't.
    pub refuted_by: &'static str,
    /// What the harm without the pattern is, and why it comes.
    pub harm: &'static str,
    /// The configurations that are compared: without the pattern first.
    pub arms: &'static [ArmPlan],
    /// Patterns that could hide or cause what is measured: off in every arm, so that only the pattern itself differs.
    pub confounders: &'static [Confounder],
    /// The load, the same in every arm.
    pub load: LoadPlan,
    /// The fault and its moment.
    pub fault: FaultPlan,
    /// What is looked at besides the ledger.
    pub observed: Observed,
    /// What is measured, the harm first. Pure.
    pub measurements: fn(&[Arm]) -> Vec<Measurement>,
    /// The verdict and its reason, from arms that can be trusted. Pure.
    pub judge: fn(&[Arm]) -> (Outcome, String),
}

/// A pattern that an experiment is not about and that could change its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confounder {
    /// Its switch, as in `AGORA_PATTERN_<NAME>`.
    pub pattern: &'static str,
    /// What it would do to the result, as a sentence without its subject and its full stop: `refuses orders that …`.
    pub effect: &'static str,
}

/// One configuration of the system.
#[derive(Debug, Clone, Copy)]
pub struct ArmPlan {
    /// `off`, `on`, or what else tells it from the others.
    pub name: &'static str,
    /// Switches that are off, as in `AGORA_PATTERN_<NAME>`.
    pub patterns_off: &'static [&'static str],
    /// Containers of a service, where it isn't one.
    pub replicas: &'static [(&'static str, u32)],
    /// Overrides of patterns' defaults that differ from what was found, by variable.
    pub overrides: &'static [(&'static str, &'static str)],
    /// The fault and its moment.
    pub fault: ArmFault,
}

impl ArmPlan {
    /// Every switch that is off in this arm of an experiment.
    pub fn off_in(&self, experiment: &Experiment) -> BTreeSet<&'static str> {
        let confounders = experiment.confounders.iter();
        let confounders = confounders.map(|confounder| confounder.pattern);
        self.patterns_off
            .iter()
            .copied()
            .chain(confounders)
            .collect()
    }

    /// The fault of this arm, if it has one.
    pub fn fault_of(&self, experiment: &Experiment) -> Option<FaultPlan> {
        let fault = match self.fault {
            ArmFault::AsPlanned => experiment.fault.fault,
            ArmFault::Instead(fault) => fault,
            ArmFault::None => return None,
        };
        Some(FaultPlan {
            fault,
            ..experiment.fault
        })
    }
}

/// What is done to an arm.
#[derive(Debug, Clone, Copy)]
pub enum ArmFault {
    /// The experiment's fault.
    AsPlanned,
    /// Another one at the same time, for as long. In the first arm: the naive way of doing the same, where no switch
    /// stands for a pattern.
    Instead(Fault),
    /// Nothing: what shows here is a false alarm.
    None,
}

/// What is recorded besides the reconciled ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// Nothing.
    Reconciliation,
    /// The orders' traces, and what became of spans.
    Traces,
    /// Which alerts fired, and their notifications.
    Alerts,
}

/// The load, the same in every arm.
#[derive(Debug, Clone, Copy)]
pub struct LoadPlan {
    /// What its users do.
    pub scenario: Scenario,
    /// How its requests come.
    pub model: Model,
    /// How long it lasts.
    pub run_time: Duration,
    /// Whether orders carry an `Idempotency-Key`.
    pub idempotency_keys: bool,
}

/// Who decides when the next request is sent.
#[derive(Debug, Clone, Copy)]
pub enum Model {
    /// Users who wait for their answers.
    Closed {
        /// How many at once.
        users: u32,
    },
    /// Arrivals at a constant rate, whatever the answers do.
    Open {
        /// New requests a second.
        arrivals_per_second: u32,
    },
}

/// The fault, the same in every arm, and when it comes.
#[derive(Debug, Clone, Copy)]
pub struct FaultPlan {
    /// The fault and its moment.
    pub fault: Fault,
    /// From the beginning of the measured part to the injection, at least; the seed adds up to [`FaultPlan::JITTER`].
    pub after: Duration,
    /// From the injection to the healing.
    pub lasts: Duration,
}

impl FaultPlan {
    /// How much later than planned a fault may come, by the seed.
    pub const JITTER: Duration = Duration::from_secs(1);
}
