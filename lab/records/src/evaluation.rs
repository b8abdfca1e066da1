//! The evidence of an evaluation, kept as JSON in `target/agora/evaluations/<run>/evidence.json`.
//!
//! Left out: what it means. `evaluation::verdict` judges it, and needs nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::load::{RouteSecond, RunSummary, TimelineSecond};

/// The version of this form. Version 1 lacks what [`Evaluation`] says of design, stopping and noise; it is judged as a run with
/// the pattern off and on, its noise unknown.
pub const FORMAT: u32 = 2;
/// The oldest version that can be judged.
pub const OLDEST_FORMAT: u32 = 1;

/// The evidence of one run of `cargo xtask evaluate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// The version of this form: [`FORMAT`].
    pub format: u32,
    /// Names the run and its folder.
    pub run: String,
    /// The project whose system it was, as several of them keep their runs together; `None` in evidence from before it was kept.
    #[serde(default)]
    pub project: Option<String>,
    /// The command that repeats it.
    pub command: String,
    /// Reproduces the request mix and the moment of each fault.
    pub seed: u64,
    /// What was broken on purpose, to see the verdicts change.
    pub sabotage: Option<Sabotage>,
    /// What the arms were compared for.
    #[serde(default)]
    pub design: Design,
    /// Which experiments were run, and how often.
    #[serde(default)]
    pub profile: Profile,
    /// What was to be run; empty in evidence of version 1, which can't be resumed.
    #[serde(default)]
    pub planned: Vec<PlannedExperiment>,
    /// How far noise alone takes ratios on this machine, as far as it was known when the run started.
    #[serde(default)]
    pub noise: Vec<NoiseRecord>,
    /// How the system was configured when the run started, which every arm changes and the end restores; `None` in evidence
    /// from before it was kept.
    #[serde(default)]
    pub found: Option<Configuration>,
    /// When the run started, before its first arm.
    pub started_at: DateTime<Utc>,
    /// When its last arm ended.
    pub finished_at: DateTime<Utc>,
    /// The versions that were evaluated, and the machine.
    pub versions: Versions,
    /// In the order in which they were run: all experiments once, then all of them again.
    pub trials: Vec<Trial>,
}

/// What the arms of a trial are compared for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Design {
    /// Without a pattern, and with it.
    #[default]
    Pattern,
    /// A/A: every arm ran as shipped, so that each difference is noise.
    SameArms,
}

/// How thorough a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Every safety claim and every alert; no experiment that has only a magnitude claim.
    Quick,
    /// Every experiment once.
    #[default]
    Default,
    /// Every experiment as often as its declared effects need.
    Rigorous,
}

impl Profile {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::Quick, Self::Default, Self::Rigorous];

    /// What it does, for the help text.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Quick => {
                "Every safety claim and every alert; no experiment that has only a magnitude claim"
            }
            Self::Default => {
                "Every experiment once: safety claims are judged, magnitude claims are shown"
            }
            Self::Rigorous => {
                "As many pairs as the declared effects need; can be resumed after it was interrupted"
            }
        }
    }

    /// The value of `--profile`.
    pub fn option(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Default => "default",
            Self::Rigorous => "rigorous",
        }
    }
}

/// An experiment that was to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedExperiment {
    /// The experiment's name.
    pub name: String,
    /// How many repetitions, at most where [`Self::until_decided`].
    pub repetitions: u32,
    /// Whether it ends as soon as its effects are decided. Each look at them may then err with a part of the error.
    pub until_decided: bool,
}

/// What is divided by what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ratio {
    /// The measurement in the last arm, divided by that in the first.
    #[default]
    BetweenArms,
    /// The measurement in the last arm, which is a ratio itself.
    WithPattern,
}

/// How far a ratio is taken by noise alone: one of a measurement of an experiment, on one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoiseRecord {
    /// The experiment.
    pub experiment: String,
    /// The measurement.
    pub measurement: String,
    /// Which ratio of it.
    #[serde(default)]
    pub ratio: Ratio,
    /// The noise floor: the larger end of the 95 % interval of the ratio, as a factor of at least 1; from 1 between arms that are
    /// alike, from its mean where it is the pattern's own.
    pub factor: f64,
    /// The standard deviation of the log-ratios.
    pub log_deviation: f64,
    /// How many pairs it is from.
    pub pairs: u32,
    /// The load, the fault and the arms that it was measured with, as a digest. Empty before it was kept: as with any other digest than
    /// the experiment's own of today, no run uses it.
    #[serde(default)]
    pub conditions: String,
    /// The A/A run.
    pub run: String,
    /// When that run ended.
    pub at: DateTime<Utc>,
    /// How many cores the engine had.
    pub cores: u32,
    /// How much memory the engine had.
    pub memory_bytes: u64,
    /// The container engine's version.
    pub engine: String,
    /// The machine's load average over a minute when the run started; `None` where the machine doesn't tell.
    pub load_average: Option<f64>,
}

impl NoiseRecord {
    /// The machine whose noise it is.
    pub fn machine(&self) -> Machine {
        Machine {
            cores: self.cores,
            memory_bytes: self.memory_bytes,
            engine: self.engine.clone(),
        }
    }
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
    /// Every value.
    pub const ALL: [Self; 2] = [Self::BreakPattern, Self::WithholdFault];

    /// What it does, for the help text.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::BreakPattern => {
                "The arms that should have the pattern are configured as the first one, which hasn't"
            }
            Self::WithholdFault => "No fault is injected: a control run",
        }
    }

    /// What was done, for reports.
    pub fn describe(self) -> &'static str {
        match self {
            Self::BreakPattern => "the arms that should have the pattern ran without it",
            Self::WithholdFault => "no fault was injected",
        }
    }

    /// The value of `--sabotage`.
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
    /// The container engine's version.
    pub engine: String,
    /// How many cores the engine has.
    pub cores: u32,
    /// How much memory the engine has.
    pub memory_bytes: u64,
    /// The id of the image that each service runs, by service.
    pub images: BTreeMap<String, String>,
}

impl Versions {
    /// The machine alone.
    pub fn machine(&self) -> Machine {
        Machine {
            cores: self.cores,
            memory_bytes: self.memory_bytes,
            engine: self.engine.clone(),
        }
    }
}

/// The machine that the engine runs on, as far as measurements and their noise depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// How many cores the engine has.
    pub cores: u32,
    /// How much memory the engine has.
    pub memory_bytes: u64,
    /// The container engine's version.
    pub engine: String,
}

impl Machine {
    /// Whether measurements of both can be put together. Memory may differ by 1 %: after an update the kernel takes more or less of
    /// it for itself.
    pub fn is_like(&self, other: &Self) -> bool {
        let most = self.memory_bytes.max(other.memory_bytes);
        self.cores == other.cores
            && self.engine == other.engine
            && self.memory_bytes.abs_diff(other.memory_bytes) <= most / 100
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gibibytes = self.memory_bytes as f64 / f64::from(1 << 30);
        write!(
            f,
            "{} cores, {gibibytes:.1} GiB of memory, engine {}",
            self.cores, self.engine
        )
    }
}

/// One repetition of one experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// The experiment's name.
    pub experiment: String,
    /// The repetition's number, from 1.
    pub repetition: u32,
    /// The trial's seed, derived from [`Evaluation::seed`], the experiment and the repetition.
    pub seed: u64,
    /// In the experiment's order, without the pattern first; run in that of their beginnings. An arm that wasn't run is
    /// absent.
    pub arms: Vec<Arm>,
}

/// The load and the fault in one configuration of the system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// The arm's name: `off` and `on`, or what else tells the arms apart.
    pub name: String,
    /// How the services were configured.
    pub configuration: Configuration,
    /// When the arm began, before its configuration.
    pub started_at: DateTime<Utc>,
    /// When the arm ended, after the system was restored.
    pub finished_at: DateTime<Utc>,
    /// The steady state before the load; `None` where the arm broke off before.
    pub steady_before: Option<Steadiness>,
    /// The load; `None` where it did not run.
    pub load: Option<LoadEvidence>,
    /// The fault; `None` where none was injected.
    pub fault: Option<FaultEvidence>,
    /// Taken about twice a second, as fast as the databases answer, from before the load until all is settled.
    pub samples: Vec<Sample>,
    /// Time from the end of the load until nothing moved any more, in milliseconds; `None` if that never came.
    pub settled_after_ms: Option<u64>,
    /// The reconciled ledger; `None` where it could not be read.
    #[serde(rename = "books")]
    pub reconciliation: Option<Reconciliation>,
    /// What became of traces and spans; only where the experiment observes them.
    #[serde(default)]
    pub telemetry: Option<Telemetry>,
    /// Every alert that fired, those with a notification first; only where the experiment observes alerts.
    #[serde(default)]
    pub alerts: Option<Vec<FiredAlert>>,
    /// What became of the attack corpus; only where attacks are the fault.
    #[serde(default)]
    pub attacks: Option<Attacks>,
    /// The steady state after the arm; `None` where the restoration failed.
    pub steady_after: Option<Steadiness>,
    /// The steps in their order, with the time that each took; empty in evidence from before it was kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepTime>,
    /// Why the arm ended before its last step: nothing can be concluded from it.
    pub failure: Option<String>,
}

/// How long a step of an arm took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepTime {
    /// The step: `configure`, `steady`, `load`, `settle`, `reconcile`, `restore`.
    pub step: String,
    /// Its time, in milliseconds.
    pub took_ms: u64,
}

/// How the system was set up for an arm, read back from the containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// Patterns that the services run without, by service.
    pub patterns_off: BTreeMap<String, Vec<String>>,
    /// How many replicas a service has, by service; absent where it has one.
    pub replicas: BTreeMap<String, u32>,
    /// The ids of user-service's signing keys, each set that a replica has once; the first of a set signs.
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

    /// What differs in another configuration, in words: `order-service: 1 replica before, 2 now`. Signing keys are left
    /// out, as their rotation is part of operation.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut said = Vec::new();
        let mut differs = |what: &str, before: String, now: String| {
            if before != now {
                said.push(format!("{what}: {before} before, {now} now"));
            }
        };
        let off = |it: &Self| {
            let off: Vec<String> = it.all_patterns_off().into_iter().collect();
            if off.is_empty() {
                "none".to_owned()
            } else {
                off.join(", ")
            }
        };
        differs("patterns off", off(self), off(now));
        let services = self.replicas.keys().chain(now.replicas.keys());
        for service in services.collect::<BTreeSet<_>>() {
            let count = |it: &Self| match it.replicas.get(service) {
                None | Some(1) => "1 replica".to_owned(),
                Some(more) => format!("{more} replicas"),
            };
            differs(service, count(self), count(now));
        }
        let variables = self.overrides.keys().chain(now.overrides.keys());
        for variable in variables.collect::<BTreeSet<_>>() {
            let value = |it: &Self| {
                let value = it.overrides.get(variable).cloned();
                value.unwrap_or_else(|| "not set".to_owned())
            };
            differs(variable, value(self), value(now));
        }
        said
    }
}

/// Whether the system was in its steady state, with every measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steadiness {
    /// Every measure within its tolerance.
    pub reached: bool,
    /// How long the steady state was waited for, in milliseconds.
    pub waited_ms: u64,
    /// The measures at the last look.
    pub measures: Vec<Measure>,
}

/// One measure of the steady state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// What was measured.
    pub what: String,
    /// What is allowed, in words: `within 2000 ms`.
    pub tolerance: String,
    /// What was found, in words: `340 ms`.
    pub found: String,
    /// Whether `found` is within `tolerance`.
    pub holds: bool,
}

/// The load of an arm, as its generator recorded it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadEvidence {
    /// The record of the load run.
    pub summary: RunSummary,
    /// Second by second from `summary.measured_from` on.
    pub timeline: Vec<TimelineSecond>,
    /// The same by route and group of users; empty in evidence from before it was kept.
    #[serde(default)]
    pub routes: Vec<RouteSecond>,
}

/// The fault of an arm, and whether it took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultEvidence {
    /// The fault in a sentence: `rabbitmq is killed`.
    pub description: String,
    /// When the injection began; `None` when the fault was withheld.
    pub injected_at: Option<DateTime<Utc>>,
    /// When the healing was done; `None` when the fault was withheld.
    pub healed_at: Option<DateTime<Utc>>,
    /// When it was in force; `None` when it was withheld.
    #[serde(default)]
    pub in_force: Option<InForce>,
    /// What the system showed of it.
    #[serde(rename = "bite")]
    pub effect: FaultEffect,
}

/// The time in which a fault was in force: after its injection, and before its healing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InForce {
    /// When the injection was done.
    pub from: DateTime<Utc>,
    /// When the healing began.
    pub until: DateTime<Utc>,
    /// How many orders of this arm came to their end in that time, by `changed_at` of their rows.
    pub decided: u64,
}

/// Whether the system showed the effect that a fault is made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultEffect {
    /// Whether it was observed.
    #[serde(rename = "bit")]
    pub observed: bool,
    /// What was looked at and found: finishes "the fault took effect: …" or "the fault had no observed effect: …".
    pub proof: String,
}

/// What waits in the system at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// When it was taken.
    pub at: DateTime<Utc>,
    /// How many orders of this arm came to an end: confirmed, rejected or cancelled.
    pub decided: u64,
    /// How many orders of this arm have no end yet.
    pub undecided: u64,
    /// How many events in the outboxes are not published.
    pub unpublished: u64,
}

/// The ledger reconciled with databases and queues: what became of each promise. Lists hold order ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconciliation {
    /// Orders that a client was promised: a 2xx with the order's id.
    pub promised: u64,
    /// Orders that are stored and that no client was promised: their answers were lost.
    pub unpromised: u64,
    /// Cancellations that a client was promised: a 202.
    pub cancellations: u64,
    /// An order's path, hop by hop.
    pub hops: Vec<Hop>,
    /// How many orders have which status in order-service: `confirmed`, `rejected`, …
    pub statuses: BTreeMap<String, u64>,
    /// Promised orders without an end: no row, or neither confirmed nor rejected nor cancelled.
    pub lost: Vec<String>,
    /// Orders that took stock more than once.
    pub doubled: Vec<String>,
    /// Confirmed orders for which inventory-service holds no stock, or less than was ordered.
    pub oversold: Vec<String>,
    /// Rejected or cancelled orders for which inventory-service holds stock, or gave back more than it took.
    pub held: Vec<String>,
    /// Orders with a promised cancellation that ended otherwise or not at all.
    pub uncancelled: Vec<String>,
    /// How many dead letters were created in this arm, by reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// Products whose stock doesn't add up, each with its numbers in words: available, reserved and moved.
    pub unbalanced: Vec<String>,
    /// Orders that are stored and have no end, promised or not.
    #[serde(default)]
    pub undecided: Vec<String>,
    /// Orders that have no row although something was made of them, each with what that is:
    /// `01…: reservation, stock movement`.
    #[serde(default)]
    pub ghosts: Vec<String>,
    /// Orders that are stored otherwise than a client was answered, each with the difference in words; and how many are stored
    /// that no request explains, where there are more than requests of whose effect nothing is known.
    #[serde(default)]
    pub misanswered: Vec<String>,
    /// Requests for orders that may have happened or not, by their answers or the lack of one.
    #[serde(default)]
    pub indeterminate: u64,
    /// How many of them did happen, by their idempotency keys; `None` where they had none.
    #[serde(default)]
    pub indeterminate_stored: Option<u64>,
}

/// A way in which orders can be wrong.
#[derive(Debug, Clone, Copy)]
pub struct Category {
    /// Its name: the list's in [`Reconciliation`].
    pub name: &'static str,
    /// What such orders are, as a phrase.
    pub meaning: &'static str,
    orders: fn(&Reconciliation) -> &[String],
}

impl Category {
    /// The orders of a ledger that are in it.
    pub fn orders(self, found: &Reconciliation) -> &[String] {
        (self.orders)(found)
    }
}

impl Reconciliation {
    /// Every category.
    pub const CATEGORIES: [Category; 9] = [
        Category {
            name: "lost",
            meaning: "lost: promised, and without an end",
            orders: |found| &found.lost,
        },
        Category {
            name: "undecided",
            meaning: "stored without an end",
            orders: |found| &found.undecided,
        },
        Category {
            name: "doubled",
            meaning: "took stock more than once",
            orders: |found| &found.doubled,
        },
        Category {
            name: "ghosts",
            meaning: "ghosts: made of an order without a row",
            orders: |found| &found.ghosts,
        },
        Category {
            name: "oversold",
            meaning: "confirmed without their stock",
            orders: |found| &found.oversold,
        },
        Category {
            name: "held",
            meaning: "ended, and still hold stock",
            orders: |found| &found.held,
        },
        Category {
            name: "uncancelled",
            meaning: "cancellations not kept",
            orders: |found| &found.uncancelled,
        },
        Category {
            name: "misanswered",
            meaning: "stored otherwise than answered",
            orders: |found| &found.misanswered,
        },
        Category {
            name: "unbalanced",
            meaning: "products whose stock doesn't add up",
            orders: |found| &found.unbalanced,
        },
    ];

    /// What is wrong, by category; each entry names one order, or for `unbalanced` one product.
    pub fn wrong(&self) -> [(Category, &[String]); 9] {
        Self::CATEGORIES.map(|category| (category, category.orders(self)))
    }

    /// Whether nothing is wrong.
    pub fn balances(&self) -> bool {
        self.wrong().iter().all(|(_, orders)| orders.is_empty())
    }
}

/// The traces and spans of an arm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// How many orders' traces were judged.
    pub traces: u64,
    /// How many of them have all hops, each below the one that causes it.
    pub whole: u64,
    /// How many traces lack what: a defect in words, with its count.
    pub missing: BTreeMap<String, u64>,
    /// How many of the services' spans were `sent`, `failed` or `dropped`; an absent outcome is 0.
    pub spans: BTreeMap<String, u64>,
    /// The largest resident memory of one service at any scrape, in bytes.
    pub most_memory_bytes: Option<u64>,
}

/// An alert that fired in an arm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FiredAlert {
    /// The label `alertname`.
    pub name: String,
    /// When the receiver was notified of it; `None` if it never was.
    #[serde(rename = "told_at")]
    pub notified_at: Option<DateTime<Utc>>,
    /// When the receiver was notified that it is resolved; `None` if it never was.
    #[serde(rename = "over_at")]
    pub resolved_at: Option<DateTime<Utc>>,
}

/// What became of the attack corpus at the gateway. Lists name attacks as `family: attack`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attacks {
    /// How many attacks were sent.
    pub tried: u64,
    /// How many of them the gateway ended: by an answer, or by closing the connection.
    pub answered: u64,
    /// Attacks that got in.
    pub let_in: Vec<String>,
    /// Attacks that were answered with a 5xx that the protocol doesn't ask for.
    pub server_errors: Vec<String>,
    /// Attacks with any other answer than the expected refusals; with what happened instead.
    pub unforeseen: Vec<String>,
}

/// A hop on an order's path: how many orders reached it, and which did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hop {
    /// The hop's name, e.g. `order row`.
    pub name: String,
    /// How many promised orders reached it; `None` where this configuration has no such hop.
    pub count: Option<u64>,
    /// The ids of promised orders that did not, [`Hop::NAMED`] at most.
    pub missing: Vec<String>,
}

impl Hop {
    /// The most ids in [`Hop::missing`].
    pub const NAMED: usize = 20;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(off: &[&str], replicas: u32, burst: &str) -> Configuration {
        let off = off.iter().map(|name| (*name).to_owned());
        Configuration {
            patterns_off: [("order-service".to_owned(), off.collect())].into(),
            replicas: [("order-service".to_owned(), replicas)].into(),
            signing_keys: BTreeSet::new(),
            overrides: [("AGORA_RATE_LIMIT_BURST".to_owned(), burst.to_owned())].into(),
        }
    }

    #[test]
    fn a_machine_with_other_cores_memory_or_engine_is_another_one() {
        let machine = |cores, memory_bytes, engine: &str| Machine {
            cores,
            memory_bytes,
            engine: engine.to_owned(),
        };
        let this = machine(2, 8_322_000_000, "28.2.2");
        assert!(this.is_like(&machine(2, 8_321_900_000, "28.2.2")));
        for other in [
            machine(4, 8_322_000_000, "28.2.2"),
            machine(2, 16_644_000_000, "28.2.2"),
            machine(2, 8_322_000_000, "27.5.1"),
        ] {
            assert!(!this.is_like(&other) && !other.is_like(&this), "{other}");
        }
    }

    #[test]
    fn a_configuration_names_what_differs_in_another_one() {
        let before = configuration(&[], 1, "40");
        assert!(before.differences(&before).is_empty());
        // One container is what a service has anyway.
        let unsaid = Configuration {
            replicas: BTreeMap::new(),
            patterns_off: BTreeMap::new(),
            signing_keys: [vec!["another".to_owned()]].into(),
            ..before.clone()
        };
        assert!(before.differences(&unsaid).is_empty());
        assert_eq!(
            before.differences(&configuration(&["inbox", "outbox"], 2, "10")),
            [
                "patterns off: none before, inbox, outbox now",
                "order-service: 1 replica before, 2 replicas now",
                "AGORA_RATE_LIMIT_BURST: 40 before, 10 now",
            ]
        );
        let without = Configuration::default();
        assert_eq!(
            before.differences(&without),
            ["AGORA_RATE_LIMIT_BURST: 40 before, not set now"]
        );
    }
}
