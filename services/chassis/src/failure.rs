//! Why an event was not applied, and which errors are which: the one table.
//!
//! | error | kind | then |
//! |---|---|---|
//! | not an event, or not the data that its type promises | permanent, `unreadable` | dead at once |
//! | larger than [`MAX_EVENT_BYTES`](shared_events::topology::MAX_EVENT_BYTES) | permanent, `oversized` | dead at once |
//! | a type that the consumer doesn't know, a later version included | permanent, `unknown_type` | dead at once |
//! | it contradicts what is stored; a violated constraint; any other database error | permanent, `rejected` | dead at once |
//! | the database is away, out of resources, shutting down; a lost or timed out transaction ([`is_transient`]) | transient | the next retry tier, after the last one dead, `retries_exhausted` |
//! | not handled within 30 s | transient | the same |
//!
//! Left out: what is done about a failure; that is the consumer's part.

use shared_events::topology::DeadReason;
use shared_events::{DecodeError, Event};

/// Why a handler did not apply an event.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The same event may succeed later, as it is.
    #[error("{0}")]
    Transient(String),
    /// It never will.
    #[error("{reason}: {error}")]
    Permanent {
        /// What the dead letter says.
        reason: DeadReason,
        /// The error's text.
        error: String,
    },
}

impl Failure {
    /// An event whose type this consumer doesn't know.
    pub fn unknown_type(event: &Event) -> Self {
        Self::Permanent {
            reason: DeadReason::UnknownType,
            error: format!("no handler for event type {:?}", event.event_type),
        }
    }

    /// An event that contradicts what is stored.
    pub fn rejected(error: impl Into<String>) -> Self {
        Self::Permanent {
            reason: DeadReason::Rejected,
            error: error.into(),
        }
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        Self::Permanent {
            reason: DeadReason::Unreadable,
            error: error.to_string(),
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        if is_transient(&error) {
            return Self::Transient(error.to_string());
        }
        Self::rejected(error.to_string())
    }
}

/// Whether the same statement may succeed later, as it is.
/// Codes: <https://www.postgresql.org/docs/17/errcodes-appendix.html>.
pub fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Connection exceptions, insufficient resources, operator intervention (shutdown, cancel by
            // timeout), system errors; transactions that lost against another one or waited too long.
            code.get(..2)
                .is_some_and(|class| ["08", "53", "57", "58"].contains(&class))
                || ["40001", "40P01", "55P03", "25P03"].contains(&&*code)
        }),
        _ => false,
    }
}
