//! What an evaluation saw, kept as JSON under `target/agora/evaluations/<run>/evidence.json`. Facts only: what they
//! mean is [`super::verdict`]'s to say, from these alone.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::load::{RouteSecond, RunSummary, TimelineSecond};

/// The version of this form; evidence of another one can't be judged.
pub const FORMAT: u32 = 1;

/// One call of `evaluate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// [`FORMAT`].
    pub format: u32,
    /// Names the run and its folder.
    pub run: String,
    /// The command that repeats it.
    pub command: String,
    /// Reproduces the request mix and the moment of each fault.
    pub seed: u64,
    /// What was broken on purpose, to see the verdicts change.
    pub sabotage: Option<Sabotage>,
    /// Before the first arm.
    pub started_at: DateTime<Utc>,
    /// After the last arm.
    pub finished_at: DateTime<Utc>,
    /// What was evaluated.
    pub versions: Versions,
    /// In the order in which they were run: all experiments once, then all of them again.
    pub trials: Vec<Trial>,
}

/// A way to break an experiment, so that its check is seen to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sabotage {
    /// The arms that should have the pattern are configured as the first one, which hasn't.
    BreakPattern,
    /// No fault is injected: a control run.
    WithholdFault,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::BreakPattern, Self::WithholdFault];

    /// What it does.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::BreakPattern => {
                "The arms that should have the pattern are configured as the first one, which hasn't"
            }
            Self::WithholdFault => "No fault is injected: a control run",
        }
    }

    /// What was done, in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::BreakPattern => "the arms that should have the pattern ran without it",
            Self::WithholdFault => "no fault was injected",
        }
    }

    /// As it is typed.
    pub fn option(self) -> &'static str {
        match self {
            Self::BreakPattern => "break-pattern",
            Self::WithholdFault => "withhold-fault",
        }
    }
}

/// What was evaluated, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// The repository's commit, with `-dirty` when there are changes on top.
    pub agora: String,
    /// The container engine.
    pub engine: String,
    /// Cores that the engine has.
    pub cores: u32,
    /// Memory that the engine has.
    pub memory_bytes: u64,
    /// The image of each container, by service.
    pub images: BTreeMap<String, String>,
}

/// One repetition of one experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// The experiment's name.
    pub experiment: String,
    /// From 1.
    pub repetition: u32,
    /// Of this trial; follows from the evaluation's.
    pub seed: u64,
    /// As the experiment lists them: without the pattern first. One that wasn't run is absent.
    pub arms: Vec<Arm>,
}

/// The load and the fault in one configuration of the system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// `off` and `on`, or what else tells the arms apart.
    pub name: String,
    /// How the services were configured.
    pub configuration: Configuration,
    /// Before its load.
    pub started_at: DateTime<Utc>,
    /// When all was counted.
    pub finished_at: DateTime<Utc>,
    /// The steps, as far as they were taken.
    pub steady_before: Option<Steadiness>,
    /// The load; `None` where it did not run.
    pub load: Option<LoadEvidence>,
    /// The fault; `None` where none was injected.
    pub fault: Option<FaultEvidence>,
    /// Every second or so, as fast as the databases answer, from before the load until all is settled.
    pub samples: Vec<Sample>,
    /// How long it took from the end of the load until nothing moved any more; `None` if that never came.
    pub settled_after_ms: Option<u64>,
    /// The reconciled ledger; `None` where it could not be read.
    #[serde(rename = "books")]
    pub reconciliation: Option<Reconciliation>,
    /// Only where the experiment asks for it.
    #[serde(default)]
    pub telemetry: Option<Telemetry>,
    /// Likewise: every alert that fired, in the order in which Prometheus began to.
    #[serde(default)]
    pub alerts: Option<Vec<FiredAlert>>,
    /// Likewise: where attacks are the fault.
    #[serde(default)]
    pub attacks: Option<Attacks>,
    /// Whether the system was steady afterwards.
    pub steady_after: Option<Steadiness>,
    /// Why the arm ended before its last step: nothing can be concluded from it.
    pub failure: Option<String>,
}

/// How the system was set up for an arm, read back from the containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// Patterns that the services run without, by service.
    pub patterns_off: BTreeMap<String, Vec<String>>,
    /// Running containers, by service, where there is more than one.
    pub replicas: BTreeMap<String, u32>,
    /// The ids of user-service's signing keys: each set that a container has.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub signing_keys: BTreeSet<Vec<String>>,
    /// Overrides of patterns' defaults, by variable; empty in evidence from before it was kept.
    #[serde(default, rename = "figures")]
    pub overrides: BTreeMap<String, String>,
}

impl Configuration {
    /// Every pattern that some service runs without.
    pub fn all_patterns_off(&self) -> BTreeSet<String> {
        self.patterns_off.values().flatten().cloned().collect()
    }
}

/// Whether the system was as it is when nothing is wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steadiness {
    /// Every measure within its tolerance.
    pub reached: bool,
    /// How long was waited for it.
    pub waited_ms: u64,
    /// As they were in the end.
    pub measures: Vec<Measure>,
}

/// One thing that belongs to the steady state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// What was looked at.
    pub what: String,
    /// What was allowed.
    pub tolerance: String,
    /// What was found.
    pub found: String,
    /// Whether it did.
    pub holds: bool,
}

/// What the load generator saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadEvidence {
    /// What the load generator counted.
    pub summary: RunSummary,
    /// Second by second from `summary.measured_from` on.
    pub timeline: Vec<TimelineSecond>,
    /// The same by route and group of users; empty in evidence from before it was kept.
    #[serde(default)]
    pub routes: Vec<RouteSecond>,
}

/// What was done to the system, and how it is known that it felt it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultEvidence {
    /// In words.
    pub description: String,
    /// `None` when it was withheld.
    pub injected_at: Option<DateTime<Utc>>,
    /// When the healing was done. `None` when it was withheld.
    pub healed_at: Option<DateTime<Utc>>,
    /// `None` when it was withheld.
    #[serde(default)]
    pub in_force: Option<InForce>,
    /// Whether it took effect.
    #[serde(rename = "bite")]
    pub effect: FaultEffect,
}

/// The time in which a fault was there as planned: neither being injected any more nor being healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InForce {
    /// When it was injected.
    pub from: DateTime<Utc>,
    /// When it was healed.
    pub until: DateTime<Utc>,
    /// Orders of this arm that came to their end in it, as their rows say.
    pub decided: u64,
}

/// Whether a fault had the effect that it is made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultEffect {
    /// Whether it was observed.
    #[serde(rename = "bit")]
    pub observed: bool,
    /// What was looked at and found, in words that follow on "the fault took effect:" or "the fault had no observed effect:".
    pub proof: String,
}

/// What waits in the system at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// When it was taken.
    pub at: DateTime<Utc>,
    /// Orders that were placed in this arm and came to an end.
    pub decided: u64,
    /// Orders that were placed in this arm and did not.
    pub undecided: u64,
    /// Events in outboxes that are not published.
    pub unpublished: u64,
}

/// The ledger against databases and queues: what became of each promise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconciliation {
    /// Orders that a client was promised: a 2xx with the order's id.
    pub promised: u64,
    /// Orders that are stored and that no client was promised: their answers were lost.
    pub unpromised: u64,
    /// Cancellations that a client was promised.
    pub cancellations: u64,
    /// An order's way, hop by hop.
    pub hops: Vec<Hop>,
    /// Orders by where they ended, as order-service has them.
    pub statuses: BTreeMap<String, u64>,
    /// Promised, and without an end: no row, or neither confirmed nor rejected nor cancelled.
    pub lost: Vec<String>,
    /// Took stock more than once.
    pub doubled: Vec<String>,
    /// Confirmed, and inventory-service holds no stock for it, or less than was ordered.
    pub oversold: Vec<String>,
    /// Rejected or cancelled, and inventory-service holds stock for it, or gave back more than it took.
    pub held: Vec<String>,
    /// A promised cancellation, and the order ended otherwise or not at all.
    pub uncancelled: Vec<String>,
    /// Dead letters that this arm made, by reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// Products whose stock doesn't add up: what is available, reserved and moved.
    pub unbalanced: Vec<String>,
}

/// What telemetry made of an arm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// Orders whose traces were looked at.
    pub traces: u64,
    /// Of these, the ones with all hops, each below what caused it.
    pub whole: u64,
    /// What the others lack, and how many of them.
    pub missing: BTreeMap<String, u64>,
    /// What became of the services' spans: `sent`, `failed`, `dropped`; what is absent is 0.
    pub spans: BTreeMap<String, u64>,
    /// The most that a service had in memory at a scrape.
    pub most_memory_bytes: Option<u64>,
}

/// An alert that fired in an arm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FiredAlert {
    /// The label `alertname`.
    pub name: String,
    /// When it was notified; `None` if it never was.
    pub told_at: Option<DateTime<Utc>>,
    /// When it was notified as resolved.
    pub over_at: Option<DateTime<Utc>>,
}

/// What became of the attack corpus at the gateway. Attacks go by family and name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attacks {
    /// How many were sent.
    pub tried: u64,
    /// How many of them the gateway ended: by an answer, or by closing the connection.
    pub answered: u64,
    /// Got what they must not have.
    pub let_in: Vec<String>,
    /// Were answered with a 5xx that isn't the protocol's own word for them.
    pub server_errors: Vec<String>,
    /// Neither, and not refused as foreseen; with what happened instead.
    pub unforeseen: Vec<String>,
}

/// One station of an order's way: how many orders came there, and which did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hop {
    /// E.g. `order row`.
    pub name: String,
    /// Orders that came there; `None` where this configuration has no such station.
    pub count: Option<u64>,
    /// The ids of the first promised orders that did not, [`Hop::NAMED`] at most.
    pub missing: Vec<String>,
}

impl Hop {
    /// How many missing orders are named.
    pub const NAMED: usize = 20;
}
