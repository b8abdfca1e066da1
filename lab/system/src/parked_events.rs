//! Parked events: those that the broker rejected too often. They wait in the outboxes of the services, whose relays poll
//! the rows.
//!
//! Left out: when a relay parks an event (the chassis), and dead letters ([`crate::dead_letters`]).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Part, running::RunningSystem};

/// The services with an outbox, and their databases.
const OUTBOXES: [(Part, &str); 2] = [
    (Part::OrderService, "orders"),
    (Part::InventoryService, "inventory"),
];
/// The most events of a service that are listed; all are counted.
const LISTED: usize = 100;
const PARKED: &str = "parked_at IS NOT NULL AND published_at IS NULL";

/// An event that the broker rejected too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedEvent {
    /// Its id.
    pub event_id: String,
    /// What it is about: an order's id.
    pub subject: String,
    /// Its type.
    pub event_type: String,
    /// Its size, in bytes.
    pub payload_bytes: u64,
    /// How often the broker rejected it.
    pub rejections: u32,
    /// The broker's error.
    pub error: Option<String>,
    /// When it was parked.
    pub parked_at: DateTime<Utc>,
    /// Later events of the same subject, which wait for this one.
    pub waiting_behind: u64,
}

/// A parked event and the service whose outbox has it.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// The service.
    pub service: Part,
    /// The event.
    #[serde(flatten)]
    pub event: ParkedEvent,
}

/// All parked events, counted, and the first of each service.
///
/// # Errors
/// When a database can't be asked.
pub fn list(system: &RunningSystem<'_>) -> anyhow::Result<(u64, Vec<Entry>)> {
    let mut parked = 0;
    let mut events = Vec::new();
    let count = format!("SELECT count(*) FROM outbox WHERE {PARKED}");
    let sql = format!(
        "SELECT json_build_object('event_id', event_id, 'subject', subject, 'event_type', event_type,
                'payload_bytes', octet_length(payload), 'rejections', rejections, 'error', rejected_because,
                'parked_at', parked_at,
                'waiting_behind', (SELECT count(*) FROM outbox AS later
                                   WHERE later.subject = outbox.subject AND later.published_at IS NULL
                                     AND later.position > outbox.position))
         FROM outbox WHERE {PARKED} ORDER BY position LIMIT {LISTED}"
    );
    for (service, database) in OUTBOXES {
        parked += system.number(database, &count)?;
        let of_service = system.objects(database, &sql)?.into_iter();
        events.extend(of_service.map(|event| Entry { service, event }));
    }
    Ok((parked, events))
}

/// What is done to parked events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Published again.
    Retry,
    /// Removed: later events of the same subject go on.
    Drop,
}

impl Change {
    /// The statement for the events that meet a condition; it returns their ids.
    fn sql(self, condition: &str) -> String {
        match self {
            Self::Retry => format!(
                "UPDATE outbox SET parked_at = NULL, rejections = 0, retry_at = NULL
                 WHERE {PARKED} AND {condition} RETURNING event_id"
            ),
            Self::Drop => {
                format!("DELETE FROM outbox WHERE {PARKED} AND {condition} RETURNING event_id")
            }
        }
    }
}

/// Which of the parked events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Events {
    /// Every one.
    All,
    /// Those with these ids: none of them without an id.
    Ids(Vec<String>),
}

impl Events {
    fn condition(&self) -> String {
        match self {
            Self::All => "true".to_owned(),
            Self::Ids(ids) => format!("event_id = ANY('{{{}}}'::uuid[])", ids.join(",")),
        }
    }
}

/// Changes parked events; returns the ids of those that were parked.
///
/// # Errors
/// When a database can't be asked.
pub fn change(
    system: &RunningSystem<'_>,
    change: Change,
    which: &Events,
) -> anyhow::Result<Vec<String>> {
    let sql = change.sql(&which.condition());
    let mut events = Vec::new();
    for (_, database) in OUTBOXES {
        let changed = system.query(database, &sql)?;
        events.extend(changed.into_iter().flatten());
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parked_events_are_changed_and_of_them_only_those_that_are_meant() {
        let ids = |ids: &[&str]| Events::Ids(ids.iter().map(|id| (*id).to_owned()).collect());
        for (which, condition) in [
            (ids(&["a", "b"]), "event_id = ANY('{a,b}'::uuid[])"),
            // Of a list without an id nothing is left, least of all every event.
            (ids(&[]), "event_id = ANY('{}'::uuid[])"),
            (Events::All, "true"),
        ] {
            assert_eq!(which.condition(), condition);
            for change in [Change::Retry, Change::Drop] {
                let sql = change.sql(condition);
                let only = format!(" WHERE {PARKED} AND {condition} RETURNING event_id");
                assert!(sql.ends_with(&only), "{sql}");
            }
        }
    }
}
