//! What an experiment is, declared before anything runs.
//!
//! Left out: the order of the steps ([`crate::runner`]).

use std::{collections::BTreeSet, time::Duration};

use patterns::Pattern;
pub use records::evaluation::Ratio;
use records::{
    evaluation::{Arm, Trial},
    scenario::Scenario,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use system::{Part, project::Engine};

use super::{
    faults::Fault,
    measurement::{Measurement, Outcome},
    statistics::decision::Bound,
};

/// An experiment: a claim about a pattern, and how it is tried.
#[derive(Debug)]
pub struct Experiment {
    /// The name on the command line and in reports.
    pub name: &'static str,
    /// The hypothesis, in one sentence.
    pub claim: &'static str,
    /// Whether single runs decide it.
    pub kind: Kind,
    /// How large effects must be at least, with every bound declared before the run that it judges.
    pub effects: &'static [DeclaredEffect],
    /// What would refute it, as a phrase.
    pub refuted_by: &'static str,
    /// The harm without the pattern, and its cause.
    pub harm: &'static str,
    /// The configurations that are compared: without the pattern first.
    pub arms: &'static [ArmPlan],
    /// Patterns that could hide or cause what is measured: off in every arm, so that only the pattern itself differs.
    pub confounders: &'static [Confounder],
    /// Why it shows nothing but on Kubernetes, as a phrase; `None` where it runs anywhere.
    pub kubernetes_alone: Option<&'static str>,
    /// The load, the same in every arm; its end too, unless the fault ends it.
    pub load: LoadPlan,
    /// The fault, the same in every arm that has no other, and when it is injected.
    pub fault: FaultPlan,
    /// What is recorded besides the reconciled ledger.
    pub observed: Observed,
    /// Computes the measurements of the arms, the harm first. Pure.
    pub measurements: fn(&[Arm]) -> Vec<Measurement>,
    /// Judges the arms of one run that can be trusted: the verdict and its reason. For [`Kind::Magnitude`], upheld means no more
    /// than that the run counts as a pair. Pure.
    pub judge: fn(&[Arm]) -> (Outcome, String),
}

impl Experiment {
    /// Why it can't be run on this engine, as a phrase, and where it can; `None` where all of its faults can be injected, and last.
    pub fn obstacle(&self, engine: &Engine) -> Option<(&'static str, &'static str)> {
        if let Some(why) = self.kubernetes_alone.filter(|_| *engine == Engine::Compose) {
            return Some((why, "run it with `--on kubernetes`"));
        }
        let instead = self.arms.iter().filter_map(|arm| match arm.fault {
            ArmFault::Instead(fault) => Some(fault),
            ArmFault::AsPlanned | ArmFault::None => None,
        });
        let mut faults = instead.chain([self.fault.fault]);
        (!faults.all(|fault| fault.lasts_on(engine))).then_some((
            "its fault can't be injected on this cluster, whose nodes aren't reached",
            "run it on the local cluster (leave `--context` out) or on Compose (leave `--on kubernetes` out)",
        ))
    }

    /// A digest of what its measurements depend on: load, fault and arms.
    pub(crate) fn conditions(&self) -> String {
        let users = self.load.open_users();
        let arms = (self.arms, self.confounders);
        let declared = format!("{:?} {users} {:?} {arms:?}", self.load, self.fault);
        format!("{:x}", Sha256::digest(declared))
    }

    /// Whether every arm of a trial was run.
    pub(crate) fn is_whole(&self, trial: &Trial) -> bool {
        trial.arms.len() == self.arms.len()
    }
}

/// What kind of claim an experiment makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something harmful doesn't happen with the pattern: one run with that harm refutes. Declared effects are judged besides.
    Safety,
    /// An effect is large enough: only the declared effects decide, over pairs of runs. A single run refutes it only by
    /// damage that no pattern may do.
    Magnitude,
}

impl Kind {
    /// The kind in one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Safety => "safety",
            Self::Magnitude => "magnitude",
        }
    }
}

/// An effect of the pattern, and how large it must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeclaredEffect {
    /// The measurement, by its name.
    pub measurement: &'static str,
    /// What is divided by what.
    pub ratio: Ratio,
    /// How large the ratio must be.
    pub bound: Bound,
    /// Why it must be that large, as a phrase; the reason doesn't come from a run.
    pub reason: &'static str,
}

/// A pattern that an experiment is not about and that could change its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confounder {
    /// The pattern.
    pub pattern: Pattern,
    /// What it would do to the result, as a sentence without its subject and its full stop: `refuses orders that …`.
    pub effect: &'static str,
}

/// One configuration of the system.
#[derive(Debug, Clone, Copy)]
pub struct ArmPlan {
    /// `off`, `on`, or what else tells it from the others.
    pub name: &'static str,
    /// The patterns that are off.
    pub patterns_off: &'static [Pattern],
    /// How many replicas a service has, by service; absent where it has one.
    pub replicas: &'static [(Part, u32)],
    /// Overrides of patterns' defaults that differ from what was found, by variable.
    pub overrides: &'static [(&'static str, &'static str)],
    /// The fault of this arm.
    pub fault: ArmFault,
}

impl ArmPlan {
    /// Every pattern that is off in this arm of an experiment, its confounders included.
    pub fn off_in(&self, experiment: &Experiment) -> BTreeSet<Pattern> {
        let confounders = experiment.confounders.iter();
        let confounders = confounders.map(|confounder| confounder.pattern);
        self.patterns_off
            .iter()
            .copied()
            .chain(confounders)
            .collect()
    }

    /// The fault of this arm of an experiment, with its times; `None` for an arm without one.
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

/// Which fault an arm has.
#[derive(Debug, Clone, Copy)]
pub enum ArmFault {
    /// The experiment's fault.
    AsPlanned,
    /// Another fault at the same time, for as long. In the first arm it is the naive way of doing the same, for a
    /// pattern that has no switch.
    Instead(Fault),
    /// None: whatever is observed in this arm is a false alarm.
    None,
}

/// What is recorded besides the reconciled ledger.
#[derive(Debug, Clone, Copy)]
pub enum Observed {
    /// Nothing else.
    Reconciliation,
    /// The orders' traces, and what became of spans.
    Traces,
    /// What became of spans.
    Spans,
    /// Which alerts fired, and their notifications.
    Alerts {
        /// Those that an arm's fault has to raise, by the arm's name. Once there is nothing more to see of them, the fault
        /// is healed.
        raised: fn(&str) -> Vec<&'static str>,
    },
}

/// The load, the same in every arm; its end too, unless the fault ends it.
#[derive(Debug, Clone, Copy)]
pub struct LoadPlan {
    /// What the users do.
    pub scenario: Scenario,
    /// How requests are generated.
    pub model: Model,
    /// How long the measured part lasts; at most, where the fault's end is its end.
    pub run_time: Duration,
    /// How much longer than the fault the load lasts, where the fault's duration isn't fixed. `None`: `run_time` alone decides.
    pub outlasts_fault: Option<Duration>,
    /// Whether orders carry an `Idempotency-Key`.
    pub idempotency_keys: bool,
}

impl LoadPlan {
    /// How many accounts the arrivals of the open model use: few, as each costs half a second of hashing before the load begins.
    const OPEN_USERS: u32 = 2;
    /// The same for a scenario with groups of users, a greedy one and the others: so many that each of these stays far below what
    /// one user may send.
    const GROUPED_USERS: u32 = 8;

    /// How many accounts the arrivals of the open model use.
    pub(crate) fn open_users(&self) -> u32 {
        match self.scenario.groups() {
            Some(_) => Self::GROUPED_USERS,
            None => Self::OPEN_USERS,
        }
    }
}

/// Who decides when the next request is sent.
#[derive(Debug, Clone, Copy)]
pub enum Model {
    /// Concurrent users, each of whom waits for an answer before the next request.
    Closed {
        /// How many users.
        users: u32,
    },
    /// Arrivals at a constant rate, whatever the answers do.
    Open {
        /// Actions that arrive each second; an action is one or more requests.
        arrivals_per_second: u32,
    },
}

/// A fault, and when it is injected and healed.
#[derive(Debug, Clone, Copy)]
pub struct FaultPlan {
    /// The fault.
    pub fault: Fault,
    /// Time from the beginning of the measured part to the injection; the seed adds up to [`FaultPlan::JITTER`].
    pub after: Duration,
    /// Time from the end of the injection to the healing; at most, where alerts end it.
    pub lasts: Duration,
}

impl FaultPlan {
    /// How much later than planned a fault may come, by the seed.
    pub const JITTER: Duration = Duration::from_secs(1);
}
