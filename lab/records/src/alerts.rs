//! The history of alerts: the contract between `alert-receiver`, which Alertmanager notifies, and the laboratory, which
//! reads it.
//!
//! Left out: I/O.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The path of the receiver's [`History`], as JSON; `?since=<RFC 3339>` leaves out earlier changes.
pub const HISTORY_PATH: &str = "/alerts";

/// The changes that the receiver still has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// In the order of arrival.
    pub alerts: Vec<Change>,
    /// How many changes the receiver doesn't have: those that it dropped since it started, and those that Alertmanager
    /// left out of a notification (`truncatedAlerts`).
    pub dropped: u64,
    /// When the receiver started: earlier changes are unknown.
    pub recording_since: DateTime<Utc>,
}

/// An alert that started to fire, or was resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When the receiver was notified.
    pub received_at: DateTime<Utc>,
    /// Whether it started to fire or was resolved.
    pub status: Status,
    /// The label `alertname`; empty where there is none.
    pub name: String,
    /// The label `severity`; empty where there is none.
    pub severity: String,
    /// All labels, `alertname` and `severity` included.
    pub labels: BTreeMap<String, String>,
    /// All annotations, `summary` and `runbook` among them, with their values filled in.
    pub annotations: BTreeMap<String, String>,
    /// When the alert started to fire, by Prometheus.
    pub starts_at: DateTime<Utc>,
    /// When the alert was resolved, by Prometheus; `None` while it fires.
    pub ends_at: Option<DateTime<Utc>>,
}

/// Firing or resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It fires.
    Firing,
    /// It was resolved.
    Resolved,
}

impl Change {
    /// Whether both are the same change of the same alert: Alertmanager repeats its notifications.
    pub fn repeats(&self, other: &Self) -> bool {
        self.status == other.status && self.ends_at == other.ends_at && self.is_of_the_same(other)
    }

    /// Whether both are of one alert since one start, firing or resolved.
    pub fn is_of_the_same(&self, other: &Self) -> bool {
        self.starts_at == other.starts_at && self.labels == other.labels
    }
}

impl Status {
    /// The status in one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}
