//! Why an event was not applied: which errors are transient, and which permanent.
//!
//! | error | kind | disposition |
//! |---|---|---|
//! | not an event, or not the data that its type promises | permanent, `unreadable` | dead-lettered at once |
//! | larger than [`MAX_EVENT_BYTES`](shared_events::topology::MAX_EVENT_BYTES) | permanent, `oversized` | dead-lettered at once |
//! | a type that the consumer doesn't know, a later version included | permanent, `unknown_type` | dead-lettered at once |
//! | it contradicts what is stored; a violated constraint; any other error that the database reports | permanent, `rejected` | dead-lettered at once |
//! | the database is unreachable, out of resources, shutting down; a lost or timed out transaction; any other failure of a connection ([`is_transient`]) | transient | the next retry tier; after the last one dead-lettered, `retries_exhausted` |
//! | not handled within 30 s | transient | the same |
//!
//! Left out: what is done about a failure (`consumer`).

use shared_events::topology::DeadReason;
use shared_events::{DecodeError, Event};

/// Why a handler did not apply an event.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The same event may succeed later, unchanged.
    #[error("{0}")]
    Transient(String),
    /// It never will succeed.
    #[error("{reason}: {error}")]
    Permanent {
        /// The reason in the dead letter.
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

/// Whether the same statement may succeed later, unchanged.
/// Codes: <https://www.postgresql.org/docs/17/errcodes-appendix.html>.
pub fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Connection exceptions, insufficient resources, operator intervention (shutdown, cancel by
            // timeout), system errors; transactions that lost a conflict or waited too long.
            code.get(..2)
                .is_some_and(|class| ["08", "53", "57", "58"].contains(&class))
                || ["40001", "40P01", "55P03", "25P03"].contains(&&*code)
        }),
        // Programming errors: the same every time.
        sqlx::Error::Configuration(_)
        | sqlx::Error::RowNotFound
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Encode(_)
        | sqlx::Error::Decode(_) => false,
        // Any other failure: retries are bounded, a dead letter needs an operator.
        _ => true,
    }
}
