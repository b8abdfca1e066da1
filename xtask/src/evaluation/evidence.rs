//! What an evaluation saw, kept as JSON under `target/agora/evaluations/<run>/evidence.json`. Facts only: what they
//! mean is [`super::verdict`]'s to say, from these alone.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use load_record::{RouteSecond, RunSummary, TimelineSecond};
use serde::{Deserialize, Serialize};

/// The version of this form; evidence of another one can't be judged.
pub(crate) const FORMAT: u32 = 1;

/// One call of `evaluate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Evaluation {
    /// [`FORMAT`].
    pub(crate) format: u32,
    /// Names the run and its folder.
    pub(crate) run: String,
    /// The command that repeats it.
    pub(crate) command: String,
    /// Reproduces the request mix and the moment of each fault.
    pub(crate) seed: u64,
    /// What was broken on purpose, to see the verdicts change.
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) started_at: DateTime<Utc>,
    pub(crate) finished_at: DateTime<Utc>,
    pub(crate) versions: Versions,
    /// In the order in which they were run: all experiments once, then all of them again.
    pub(crate) trials: Vec<Trial>,
}

/// A way to break an experiment, so that its check is seen to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sabotage {
    /// The arms that should have the pattern are configured as the first one, which hasn't.
    BreakPattern,
    /// No fault is injected: a control run.
    WithholdFault,
}

impl Sabotage {
    /// What was done, in words.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::BreakPattern => "the arms that should have the pattern ran without it",
            Self::WithholdFault => "no fault was injected",
        }
    }

    /// As it is typed.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::BreakPattern => "break-pattern",
            Self::WithholdFault => "withhold-fault",
        }
    }
}

/// What was evaluated, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Versions {
    /// The repository's commit, with `-dirty` when there are changes on top.
    pub(crate) agora: String,
    /// The container engine.
    pub(crate) engine: String,
    /// Cores that the engine has.
    pub(crate) cores: u32,
    /// Memory that the engine has.
    pub(crate) memory_bytes: u64,
    /// The image of each container, by service.
    pub(crate) images: BTreeMap<String, String>,
}

/// One repetition of one experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trial {
    /// The experiment's name.
    pub(crate) experiment: String,
    /// From 1.
    pub(crate) repetition: u32,
    /// Of this trial; follows from the evaluation's.
    pub(crate) seed: u64,
    /// As the experiment lists them: without the pattern first. One that wasn't run is absent.
    pub(crate) arms: Vec<Arm>,
}

/// The load and the fault in one configuration of the system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arm {
    /// `off` and `on`, or what else tells the arms apart.
    pub(crate) name: String,
    pub(crate) configuration: Configuration,
    pub(crate) started_at: DateTime<Utc>,
    pub(crate) finished_at: DateTime<Utc>,
    /// The steps, as far as they were taken.
    pub(crate) steady_before: Option<Steadiness>,
    pub(crate) load: Option<LoadEvidence>,
    pub(crate) fault: Option<FaultEvidence>,
    /// Every second or so, as fast as the databases answer, from before the load until all is settled.
    pub(crate) samples: Vec<Sample>,
    /// How long it took from the end of the load until nothing moved any more; `None` if that never came.
    pub(crate) settled_after_ms: Option<u64>,
    pub(crate) books: Option<Books>,
    /// Only where the experiment asks for it.
    #[serde(default)]
    pub(crate) telemetry: Option<Telemetry>,
    /// Likewise: every alert that fired, in the order in which Prometheus began to.
    #[serde(default)]
    pub(crate) alerts: Option<Vec<FiredAlert>>,
    /// Likewise: where attacks are the fault.
    #[serde(default)]
    pub(crate) attacks: Option<Attacks>,
    pub(crate) steady_after: Option<Steadiness>,
    /// Why the arm ended before its last step: nothing can be concluded from it.
    pub(crate) failure: Option<String>,
}

/// How the system was set up for an arm, read back from the containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Configuration {
    /// Patterns that the services run without, by service.
    pub(crate) patterns_off: BTreeMap<String, Vec<String>>,
    /// Running containers, by service, where there is more than one.
    pub(crate) replicas: BTreeMap<String, u32>,
    /// The ids of user-service's signing keys: each set that a container has.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) signing_keys: BTreeSet<Vec<String>>,
    /// The figures of patterns, by variable; empty in evidence from before it was kept.
    #[serde(default)]
    pub(crate) figures: BTreeMap<String, String>,
}

impl Configuration {
    /// Every pattern that some service runs without.
    pub(crate) fn all_patterns_off(&self) -> BTreeSet<String> {
        self.patterns_off.values().flatten().cloned().collect()
    }
}

/// Whether the system was as it is when nothing is wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Steadiness {
    /// Every measure within its tolerance.
    pub(crate) reached: bool,
    /// How long was waited for it.
    pub(crate) waited_ms: u64,
    /// As they were in the end.
    pub(crate) measures: Vec<Measure>,
}

/// One thing that belongs to the steady state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Measure {
    /// What was looked at.
    pub(crate) what: String,
    /// What was allowed.
    pub(crate) tolerance: String,
    /// What was found.
    pub(crate) found: String,
    pub(crate) holds: bool,
}

/// What the load generator saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoadEvidence {
    pub(crate) summary: RunSummary,
    /// Second by second from `summary.measured_from` on.
    pub(crate) timeline: Vec<TimelineSecond>,
    /// The same by route and group of users; empty in evidence from before it was kept.
    #[serde(default)]
    pub(crate) routes: Vec<RouteSecond>,
}

/// What was done to the system, and how it is known that it felt it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FaultEvidence {
    /// In words.
    pub(crate) description: String,
    /// `None` when it was withheld.
    pub(crate) injected_at: Option<DateTime<Utc>>,
    /// When the healing was done. `None` when it was withheld.
    pub(crate) healed_at: Option<DateTime<Utc>>,
    /// `None` when it was withheld.
    #[serde(default)]
    pub(crate) in_force: Option<InForce>,
    pub(crate) bite: Bite,
}

/// The time in which a fault was there as planned: neither being injected any more nor being healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InForce {
    pub(crate) from: DateTime<Utc>,
    pub(crate) until: DateTime<Utc>,
    /// Orders of this arm that came to their end in it, as their rows say.
    pub(crate) decided: u64,
}

/// Whether a fault had the effect that it is made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bite {
    pub(crate) bit: bool,
    /// What was looked at and found, in words that follow on "the fault bit:" or "the fault did not bite:".
    pub(crate) proof: String,
}

/// What waits in the system at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sample {
    pub(crate) at: DateTime<Utc>,
    /// Orders that were placed in this arm and came to an end.
    pub(crate) decided: u64,
    /// Orders that were placed in this arm and did not.
    pub(crate) undecided: u64,
    /// Events in outboxes that are not published.
    pub(crate) unpublished: u64,
}

/// The ledger against databases and queues: what became of each promise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Books {
    /// Orders that a client was promised: a 2xx with the order's id.
    pub(crate) promised: u64,
    /// Orders that are stored and that no client was promised: their answers were lost.
    pub(crate) unpromised: u64,
    /// Cancellations that a client was promised.
    pub(crate) cancellations: u64,
    /// An order's way, hop by hop.
    pub(crate) hops: Vec<Hop>,
    /// Orders by where they ended, as order-service has them.
    pub(crate) statuses: BTreeMap<String, u64>,
    /// Promised, and without an end: no row, or neither confirmed nor rejected nor cancelled.
    pub(crate) lost: Vec<String>,
    /// Took stock more than once.
    pub(crate) doubled: Vec<String>,
    /// Confirmed, and inventory-service holds no stock for it, or less than was ordered.
    pub(crate) oversold: Vec<String>,
    /// Rejected or cancelled, and inventory-service holds stock for it, or gave back more than it took.
    pub(crate) held: Vec<String>,
    /// A promised cancellation, and the order ended otherwise or not at all.
    pub(crate) uncancelled: Vec<String>,
    /// Dead letters that this arm made, by reason.
    pub(crate) dead_letters: BTreeMap<String, u64>,
    /// Products whose stock doesn't add up: what is available, reserved and moved.
    pub(crate) unbalanced: Vec<String>,
}

/// What telemetry made of an arm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Telemetry {
    /// Orders whose traces were looked at.
    pub(crate) traces: u64,
    /// Of these, the ones with all hops, each below what caused it.
    pub(crate) whole: u64,
    /// What the others lack, and how many of them.
    pub(crate) missing: BTreeMap<String, u64>,
    /// What became of the services' spans: `sent`, `failed`, `dropped`; what is absent is 0.
    pub(crate) spans: BTreeMap<String, u64>,
    /// The most that a service had in memory at a scrape.
    pub(crate) most_memory_bytes: Option<u64>,
}

/// An alert that fired in an arm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FiredAlert {
    pub(crate) name: String,
    /// When somebody was told that it fires; `None` if nobody ever was.
    pub(crate) told_at: Option<DateTime<Utc>>,
    /// When somebody was told that it is over.
    pub(crate) over_at: Option<DateTime<Utc>>,
}

/// What became of the attack corpus at the gateway. Attacks go by family and name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attacks {
    /// How many were sent.
    pub(crate) tried: u64,
    /// How many of them the gateway ended: by an answer, or by closing the connection.
    pub(crate) answered: u64,
    /// Got what they must not have.
    pub(crate) let_in: Vec<String>,
    /// Were answered with a 5xx that isn't the protocol's own word for them.
    pub(crate) server_errors: Vec<String>,
    /// Neither, and not refused as foreseen; with what happened instead.
    pub(crate) unforeseen: Vec<String>,
}

/// One station of an order's way: how many orders came there, and which did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hop {
    /// E.g. `order row`.
    pub(crate) name: String,
    /// Orders that came there; `None` where this configuration has no such station.
    pub(crate) count: Option<u64>,
    /// The ids of the first promised orders that did not, [`Hop::NAMED`] at most.
    pub(crate) missing: Vec<String>,
}

impl Hop {
    /// How many missing orders are named.
    pub(crate) const NAMED: usize = 20;
}
