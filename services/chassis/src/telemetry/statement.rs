//! A span around a statement, where the statement stands.
//!
//! sqlx traces nothing by itself. Only what is done for one request or one message has a span; what a service asks its
//! database on its own account (pings, the relay's looks, housekeeping), or for a whole batch of messages, has none: it
//! would be in nobody's trace.
//! Source: <https://opentelemetry.io/docs/specs/semconv/database/postgresql/>.

use std::future::Future;

use sqlx::error::DatabaseError;
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use super::fail;

/// A statement that can be traced: whatever ends in a database's answer.
pub trait Statement<T>: Future<Output = Result<T, sqlx::Error>> + Sized {
    /// Runs within a client span named by `summary`: operation and table, `INSERT orders`; never a value. Where no
    /// span is entered, there is nothing to add one to.
    fn traced(self, summary: &'static str) -> impl Future<Output = Result<T, sqlx::Error>> + Send
    where
        Self: Send,
    {
        async move {
            if Span::current().is_none() {
                return self.await;
            }
            let span = info_span!(
                "statement",
                otel.name = summary,
                otel.kind = "client",
                otel.status_code = Empty,
                db.system.name = "postgresql",
                db.query.summary = summary,
                db.response.status_code = Empty,
                error.r#type = Empty,
            );
            let result = self.instrument(span.clone()).await;
            if let Err(error) = &result {
                record(&span, error);
            }
            result
        }
    }
}

impl<T, F: Future<Output = Result<T, sqlx::Error>>> Statement<T> for F {}

/// By the server's code where it has answered, else by what went wrong on the way; never by its text, which may quote
/// a row.
fn record(span: &Span, error: &sqlx::Error) {
    let code = error.as_database_error().and_then(DatabaseError::code);
    if let Some(code) = &code {
        span.record("db.response.status_code", &**code);
    }
    let kind = match error {
        sqlx::Error::PoolTimedOut => "pool_timed_out",
        sqlx::Error::Io(_) => "io",
        sqlx::Error::Protocol(_) => "protocol",
        _ => "_OTHER",
    };
    fail(span, code.as_deref().unwrap_or(kind));
}
