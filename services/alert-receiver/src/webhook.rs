//! The part of Alertmanager's webhook format that is used here.
//!
//! Source: <https://prometheus.io/docs/alerting/latest/configuration/#webhook_config>

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use records::alerts::{Change, Status};
use serde::Deserialize;

/// The only version of the format since 2015.
const VERSION: &str = "4";

/// A notification: the changes of a group of alerts, together with its known alerts.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Notification {
    version: String,
    alerts: Vec<Alert>,
    /// How many alerts were left out of it because of `max_alerts`.
    #[serde(default)]
    pub(crate) truncated_alerts: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    status: Status,
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    starts_at: DateTime<Utc>,
    /// The year 1 while it fires.
    ends_at: DateTime<Utc>,
}

impl Notification {
    /// Reads a request's body.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub(crate) fn read(body: &[u8]) -> Result<Self, String> {
        let notification: Self =
            serde_json::from_slice(body).map_err(|error| format!("no notification: {error}"))?;
        if notification.version != VERSION {
            return Err(format!(
                "its version is {:?}, expected {VERSION:?}",
                notification.version
            ));
        }
        Ok(notification)
    }

    /// Its changes, when it was received at this time.
    pub(crate) fn changes(self, received_at: DateTime<Utc>) -> impl Iterator<Item = Change> {
        self.alerts.into_iter().map(move |alert| {
            let label = |name| alert.labels.get(name).cloned().unwrap_or_default();
            Change {
                received_at,
                status: alert.status,
                name: label("alertname"),
                severity: label("severity"),
                starts_at: alert.starts_at,
                ends_at: (alert.status == Status::Resolved).then_some(alert.ends_at),
                labels: alert.labels,
                annotations: alert.annotations,
            }
        })
    }
}
