//! The idempotent consumer: an event's id is recorded in one transaction with its effect, so that a second delivery finds it
//! and does nothing.
//!
//! Ids are kept for a stated window and pruned after it. Beyond the window a business key has to protect a handler's effect:
//! a row for each order in inventory-service, an order's status in order-service. Left out: recognizing two events with the
//! same meaning and different ids (a producer makes an event once), and the table (the service's migrations).
//! Source: <https://microservices.io/patterns/communication-style/idempotent-consumer.html>.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::patterns::Switch;
use crate::telemetry::Statement;

/// How an event that was applied before is treated.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Inbox {
    /// It is a duplicate, and skipped.
    Recorded,
    /// It is applied again.
    Unguarded,
}

impl Inbox {
    pub(crate) fn chosen(switch: Switch) -> Self {
        if switch.is_on() {
            Self::Recorded
        } else {
            Self::Unguarded
        }
    }

    /// Records the ids; returns which of them are new, in the same order. An id that is given twice is new once. Of two
    /// transactions with the same id the second waits here until the first one ends; they record in the order of ids, so
    /// that they can't deadlock.
    pub(crate) async fn are_new(
        self,
        connection: &mut PgConnection,
        event_ids: &[Uuid],
    ) -> Result<Vec<bool>, sqlx::Error> {
        match self {
            Self::Unguarded => Ok(vec![true; event_ids.len()]),
            Self::Recorded => {
                let recorded: Vec<Uuid> = sqlx::query_scalar(
                    "INSERT INTO inbox (event_id) SELECT id FROM unnest($1::uuid[]) AS id ORDER BY id
                     ON CONFLICT DO NOTHING RETURNING event_id",
                )
                .bind(event_ids)
                .fetch_all(connection)
                .traced("INSERT inbox")
                .await?;
                let mut recorded: HashSet<Uuid> = recorded.into_iter().collect();
                Ok(event_ids.iter().map(|id| recorded.remove(id)).collect())
            }
        }
    }
}

/// Deletes some of the ids that are older than the window; returns how many.
pub(crate) async fn prune(
    connection: &mut PgConnection,
    window: Duration,
    rows: i64,
) -> Result<u64, sqlx::Error> {
    let forgotten = sqlx::query(
        "DELETE FROM inbox WHERE event_id IN
             (SELECT event_id FROM inbox WHERE received_at < now() - make_interval(secs => $1) LIMIT $2)",
    )
    .bind(window.as_secs_f64())
    .bind(rows)
    .execute(connection)
    .await?;
    Ok(forgotten.rows_affected())
}
