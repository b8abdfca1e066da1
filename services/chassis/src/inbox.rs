//! The idempotent consumer: an event's id is recorded in the transaction that holds its effect, so that a
//! second delivery finds it there and does nothing.
//!
//! Ids are remembered for a stated window and pruned after it. Left out: telling apart two events that mean
//! the same and have different ids; a producer makes an event once. The service's migrations make the table.
//! Source: <https://microservices.io/patterns/communication-style/idempotent-consumer.html>.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::patterns::Switch;

/// What becomes of an event that was applied before.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Inbox {
    /// It is recognised.
    Recorded,
    /// Nobody notices.
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

    /// Records the id; whether it is new. Of two transactions that bring the same id at the same time the
    /// second waits here until the first has decided.
    pub(crate) async fn is_new(
        self,
        connection: &mut PgConnection,
        event_id: Uuid,
    ) -> Result<bool, sqlx::Error> {
        match self {
            Self::Unguarded => Ok(true),
            Self::Recorded => {
                let recorded =
                    sqlx::query("INSERT INTO inbox (event_id) VALUES ($1) ON CONFLICT DO NOTHING")
                        .bind(event_id)
                        .execute(connection)
                        .await?;
                Ok(recorded.rows_affected() == 1)
            }
        }
    }
}

/// Forgets some of the ids that are older than the window; how many.
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
