//! A member of a system, whatever runs it: one container, or one pod.
//!
//! Left out: which members there are ([`crate::members`]), and what can be done to one ([`crate::control`]).

use std::{collections::BTreeMap, fmt, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use crate::{Part, kubectl::Target};

/// A member as its engine shows it: the fields that are used here.
#[derive(Debug, Clone)]
pub struct Member {
    /// The engine's id.
    pub id: String,
    /// The compose service.
    pub service: Part,
    /// What it is doing.
    pub state: State,
    /// What its health check found; `None` where [`crate::health`] hasn't run it. What the engine's own last run found may
    /// be long ago.
    pub health: Option<Health>,
    /// How to find out whether it is healthy, if it can be.
    pub(crate) health_check: Option<HealthCheck>,
    /// The id of the image it runs.
    pub image: String,
    /// How often the engine restarted it.
    pub restarts: u64,
    /// When it was made.
    pub created_at: Option<DateTime<Utc>>,
    /// Whether it has no restart policy, so that the engine doesn't start it again: see [`crate::rolling`].
    pub provisional: bool,
    /// When it last started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it last ended; in the year 1 if it never did.
    pub finished_at: Option<DateTime<Utc>>,
    /// The exit code of its last end; 0 if it never ended.
    pub exit_code: i64,
    /// Whether the kernel ended it because it was out of memory.
    pub out_of_memory: bool,
    /// The id of its first process on the engine's host; 0 while it doesn't run.
    pub pid: u32,
    /// Its address in each network, by the engine's name of the network; addresses are empty while it doesn't run.
    pub networks: BTreeMap<String, String>,
    /// Its limits of memory and processor time.
    pub limits: Limits,
    /// The patterns that its environment turns off.
    pub patterns_off: Vec<String>,
    /// The ids of the signing keys in its environment; the first signs.
    pub signing_keys: Vec<String>,
    /// The overrides of patterns' defaults in its environment, by variable; what several gateways share out is what all have.
    pub overrides: BTreeMap<String, String>,
    /// Whether `compose run` made it for one command.
    pub(crate) one_off: bool,
    /// What runs it.
    pub(crate) place: Place,
}

/// What a member is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It was made, and not started yet.
    Created,
    /// It runs.
    Running,
    /// It is paused.
    Paused,
    /// It was ended, and is about to be started again.
    Restarting,
    /// It has ended.
    Exited,
    /// It has ended, and the engine could not remove it.
    Dead,
    /// Anything else, in the engine's words: why a pod waits.
    Other(String),
}

impl State {
    /// In the engine's words.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Dead => "dead",
            Self::Other(words) => words,
        }
    }
}

impl From<String> for State {
    fn from(words: String) -> Self {
        let known = [
            Self::Created,
            Self::Running,
            Self::Paused,
            Self::Restarting,
            Self::Exited,
            Self::Dead,
        ];
        let mut known = known.into_iter();
        known
            .find(|state| state.as_str() == words)
            .unwrap_or(Self::Other(words))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What runs a member, with what is needed to reach it.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// The container engine of this machine.
    Container {
        /// The port on 127.0.0.1 by the container's port.
        ports: BTreeMap<u16, u16>,
    },
    /// Kubernetes.
    Pod(Pod),
}

/// Where a member is that is a pod.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    /// Its cluster and namespace.
    pub(crate) target: Arc<Target>,
    /// Its part's container.
    pub(crate) container: String,
    /// What keeps its replicas, e.g. `deployment/traefik`.
    pub(crate) controller: String,
    /// The container's id on its node; `None` before it was made.
    pub(crate) container_id: Option<String>,
    /// The node that it is on; `None` while it waits for one.
    pub(crate) node: Option<String>,
}

/// What a health check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It passed.
    Healthy,
    /// It failed, soon after the container's start.
    Starting,
    /// It failed.
    Unhealthy,
}

/// A container's own health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HealthCheck {
    /// The command to be run in the container.
    pub(crate) command: Vec<String>,
    pub(crate) start_period: TimeDelta,
}

impl HealthCheck {
    /// Whether a failure means that the container isn't ready yet.
    pub(crate) fn may_still_fail(
        &self,
        started_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> bool {
        started_at.is_some_and(|started_at| now - started_at < self.start_period)
    }
}

/// The period in which a container may use its quota of processor time.
pub(crate) const CPU_PERIOD_US: u64 = 100_000;

/// The quota of a container that may use so many thousandths of a core.
pub(crate) fn cpu_quota_us(millicores: u64) -> i64 {
    i64::try_from(millicores * CPU_PERIOD_US / 1_000).unwrap_or(i64::MAX)
}

/// The limits of a container; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Limits {
    /// Memory, in bytes.
    #[serde(rename = "Memory")]
    pub memory_bytes: i64,
    /// Memory and swap together, in bytes; -1 is no limit.
    #[serde(rename = "MemorySwap")]
    pub memory_and_swap_bytes: i64,
    /// Processor time in each period, in microseconds; -1 is no limit.
    #[serde(rename = "CpuQuota")]
    pub cpu_quota_us: i64,
}

impl Member {
    /// Whether it runs and has passed its health check, if it has one: false before [`crate::health`] has run it.
    pub fn is_healthy(&self) -> bool {
        let passed = match self.health {
            Some(health) => health == Health::Healthy,
            None => self.health_check.is_none(),
        };
        self.state == State::Running && passed
    }

    /// Whether it is no member any more when it has ended for good: a pod. A container is one that has ended.
    pub fn goes_when_it_ends(&self) -> bool {
        matches!(self.place, Place::Pod(_))
    }

    /// Whether it is part of a command and not of the system.
    pub(crate) fn is_tool(&self) -> bool {
        self.one_off || self.service.is_tool()
    }

    /// State and health in a few words.
    pub fn condition(&self) -> String {
        let health = self.health.filter(|_| self.state == State::Running);
        match health {
            Some(Health::Healthy) => "healthy".to_owned(),
            Some(Health::Starting) => "starting".to_owned(),
            Some(Health::Unhealthy) => "unhealthy".to_owned(),
            None => self.state.to_string(),
        }
    }
}
