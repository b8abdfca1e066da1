//! What became of alerts: the contract between `alert-receiver`, which Alertmanager notifies, and `xtask`,
//! which reads it. This crate is serde only; it asks nobody.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The path at which the receiver gives its [`History`], as JSON; `?since=<RFC 3339>` leaves out what came before.
pub const HISTORY_PATH: &str = "/alerts";

/// The receiver's notifications, as far as it still has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// In the order in which they came.
    pub alerts: Vec<Change>,
    /// How many the receiver has dropped or missed since it started.
    pub dropped: u64,
    /// When the receiver started: earlier notifications are unknown.
    pub recording_since: DateTime<Utc>,
}

/// An alert that began to fire, or was over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When the notification came.
    pub received_at: DateTime<Utc>,
    /// Its status.
    pub status: Status,
    /// The label `alertname`; empty where there is none.
    pub name: String,
    /// The label `severity`; empty where there is none.
    pub severity: String,
    /// All of them, those two included.
    pub labels: BTreeMap<String, String>,
    /// `summary` and `runbook` among them, with their values filled in.
    pub annotations: BTreeMap<String, String>,
    /// When it began to fire.
    pub starts_at: DateTime<Utc>,
    /// When it was over; `None` while it fires.
    pub ends_at: Option<DateTime<Utc>>,
}

/// Which of the two happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It began.
    Firing,
    /// It is over.
    Resolved,
}

impl Change {
    /// Whether both are the same notification: Alertmanager repeats them.
    pub fn repeats(&self, other: &Self) -> bool {
        self.status == other.status && self.ends_at == other.ends_at && self.is_of_the_same(other)
    }

    /// Whether both are about one alert from one beginning, whatever they tell of it.
    pub fn is_of_the_same(&self, other: &Self) -> bool {
        self.starts_at == other.starts_at && self.labels == other.labels
    }
}

impl Status {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}
