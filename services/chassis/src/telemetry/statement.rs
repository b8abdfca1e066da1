//! A span around an SQL statement.
//!
//! sqlx traces nothing by itself. Only statements for one request or one message have a span; background work (pings, the
//! relay's polling, housekeeping) and statements for a whole batch of messages have none: they belong to no trace.
//! Source: <https://opentelemetry.io/docs/specs/semconv/database/postgresql/>.

use std::future::Future;

use sqlx::error::DatabaseError;
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use super::fail;

/// A statement that can be traced: any future of a database's answer.
pub trait Statement<T>: Future<Output = Result<T, sqlx::Error>> + Sized {
    /// Runs within a client span named by `summary`: operation and table, `INSERT orders`; never a value. Without a
    /// current span, none is added.
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

/// By the server's code if it has answered, else by the kind of failure; never by its text, which may quote a row.
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
