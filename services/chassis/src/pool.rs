//! A pool of connections that are lent again without a round trip to the server in between.
//!
//! sqlx's own pool pings each connection that is returned to it (0.9 has no option), which costs a request as much as a small
//! statement. So the connections are sqlx's and the pool is deadpool's. One that is returned with [`Lent::keep`] is lent again
//! at once. Any other first has to show that nothing is in progress on it.
//!
//! Left out: closing what a peak has left. There are never more than the service was given, and the server keeps them open.

use std::fmt;
use std::io::ErrorKind;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use deadpool::managed::{
    self, Manager, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult,
};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryFutureExt, TryStreamExt};
use sqlx::postgres::{
    PgConnectOptions, PgConnection, PgQueryResult, PgRow, PgStatement, PgTypeInfo, Postgres,
};
use sqlx::{Connection, Describe, Either, Execute, Executor, SqlStr};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

/// The wait for a free connection; past it the caller gets an error.
pub(crate) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// Between attempts to open a connection to a database that is starting.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// A connection that was idle for longer is pinged before it is lent again. Under load none is, which saves each
/// transaction a round trip; a restart of the database takes longer.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// How long a ping may take. A connection that doesn't answer is replaced.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection of this age isn't lent again: a server's process grows with what it caches.
const REPLACED_AFTER: Duration = Duration::from_secs(30 * 60);
/// A connection whose work was given up may take this long until it is free: as long as the server lets a statement
/// take, and a little more.
const FREE_WITHIN: Duration = Duration::from_secs(6);

/// Connections to the database; clones share them. A statement can be executed on it directly, outside of a transaction:
/// all its rows are read into memory.
#[derive(Debug, Clone)]
pub struct Pool {
    connections: managed::Pool<Connections>,
    acquire_timeout: Duration,
}

/// How connections are opened, and lent again.
struct Connections {
    options: PgConnectOptions,
}

/// Not the options: they contain the password.
impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

/// An open connection.
#[derive(Debug)]
struct Open {
    connection: PgConnection,
    /// When its last use ended.
    used: Instant,
}

/// A connection that is lent. Dropped, it goes back once nothing is in progress on it; see [`Lent::keep`].
pub struct Lent {
    /// `None` once it is returned.
    connection: Option<Object<Connections>>,
    /// Whether a transaction may be open on it, which has to be rolled back.
    pub(crate) in_transaction: bool,
}

impl Manager for Connections {
    type Type = Open;
    type Error = sqlx::Error;

    /// Waits for a database that is starting; [`Pool::acquire`] bounds that.
    async fn create(&self) -> Result<Open, sqlx::Error> {
        let connection = loop {
            match PgConnection::connect_with(&self.options).await {
                Err(error) if is_starting(&error) => sleep(RETRY_AFTER).await,
                connected => break connected?,
            }
        };
        let used = Instant::now();
        Ok(Open { connection, used })
    }

    async fn recycle(&self, open: &mut Open, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if metrics.age() > REPLACED_AFTER {
            return Err(RecycleError::message("old"));
        }
        if open.used.elapsed() < TRUSTED_FOR {
            return Ok(());
        }
        match timeout(PING_TIMEOUT, open.connection.ping()).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(RecycleError::message("no answer")),
        }
    }
}

/// Whether a connection can soon be opened, as sqlx's own pool has it: the server isn't there yet, starts, or has as many
/// clients as it takes.
fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == ErrorKind::ConnectionRefused,
        sqlx::Error::Database(error) => error.is_transient_in_connect_phase(),
        _ => false,
    }
}

impl Pool {
    /// A pool of up to so many connections; none is opened yet.
    pub fn new(options: PgConnectOptions, connections: u32) -> Self {
        // Of those that are free, the one that was used last is lent first.
        let connections = managed::Pool::builder(Connections { options })
            .max_size(connections as usize)
            .queue_mode(QueueMode::Lifo)
            .build()
            .expect("a pool without time limits of its own needs no runtime");
        Self {
            connections,
            acquire_timeout: ACQUIRE_TIMEOUT,
        }
    }

    /// The same pool with another limit to the wait for a connection, 3 s by default.
    #[must_use]
    pub fn with_acquire_timeout(self, acquire_timeout: Duration) -> Self {
        Self {
            acquire_timeout,
            ..self
        }
    }

    /// A connection, as soon as one is free.
    ///
    /// # Errors
    /// When none is free in time, or none can be opened.
    pub async fn acquire(&self) -> Result<Lent, sqlx::Error> {
        let connection = match timeout(self.acquire_timeout, self.connections.get()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(PoolError::Backend(error))) => return Err(error),
            Ok(Err(PoolError::Closed)) => return Err(sqlx::Error::PoolClosed),
            Ok(Err(_)) | Err(_) => {
                // Idle ones that don't answer may have taken the time: the next caller doesn't try the others.
                let trusted = |open: &Open, _| open.used.elapsed() < TRUSTED_FOR;
                drop(self.connections.retain(trusted));
                return Err(sqlx::Error::PoolTimedOut);
            }
        };
        Ok(Lent {
            connection: Some(connection),
            in_transaction: false,
        })
    }

    /// How many connections are open.
    pub fn size(&self) -> usize {
        self.connections.status().size
    }

    /// How many of them nobody uses; fewer while callers wait for others.
    pub fn idle(&self) -> usize {
        self.connections.status().available
    }

    /// How many there may be.
    pub fn max_connections(&self) -> usize {
        self.connections.status().max_size
    }

    /// How a connection to the same database is opened.
    pub(crate) fn options(&self) -> &PgConnectOptions {
        &self.connections.manager().options
    }
}

impl Lent {
    /// Returns the connection to be lent again at once: no statement is in progress on it, and no transaction open.
    pub fn keep(mut self) {
        give_back(self.connection.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        // Closed when it isn't free in time, and where there is no runtime any more.
        let mut given_up = GivenUp(Some(connection));
        if let Ok(runtime) = Handle::try_current() {
            let in_transaction = self.in_transaction;
            drop(runtime.spawn(async move {
                if let Some(open) = &mut given_up.0
                    && let Ok(true) =
                        timeout(FREE_WITHIN, is_free(&mut open.connection, in_transaction)).await
                {
                    give_back(given_up.0.take());
                }
            }));
        }
    }
}

fn give_back(open: Option<Object<Connections>>) {
    if let Some(mut open) = open {
        open.used = Instant::now();
    }
}

/// A connection that is closed when it is dropped; taken out, it goes back to its pool.
struct GivenUp(Option<Object<Connections>>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        drop(self.0.take().map(Object::take));
    }
}

/// Waits for the end of what is in progress, and rolls back what is open.
async fn is_free(connection: &mut PgConnection, in_transaction: bool) -> bool {
    // Of a statement that was dropped the first attempt may get the error, and isn't sent.
    for _ in 0..2 {
        let answer = match in_transaction {
            true => sqlx::raw_sql("ROLLBACK")
                .execute(&mut *connection)
                .await
                .map(drop),
            false => connection.ping().await,
        };
        if answer.is_ok() {
            return true;
        }
    }
    false
}

const LENT: &str = "a connection is taken out only when it is returned";

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection.as_ref().expect(LENT).connection
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection.as_mut().expect(LENT).connection
    }
}

impl<'p> Executor<'p> for &'_ Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        let all = async move {
            let mut lent = pool.acquire().await?;
            let all: Vec<_> = lent.fetch_many(query).try_collect().await?;
            lent.keep();
            Ok(stream::iter(all).map(Ok))
        };
        all.try_flatten_stream().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        Box::pin(async move {
            let mut lent = pool.acquire().await?;
            let row = lent.fetch_optional(query).await?;
            lent.keep();
            Ok(row)
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        let pool = self.clone();
        Box::pin(async move {
            let mut lent = pool.acquire().await?;
            lent.prepare_with(sql, parameters).await
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>> {
        let pool = self.clone();
        Box::pin(async move {
            let mut lent = pool.acquire().await?;
            lent.describe(sql).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pool_does_not_show_its_password() {
        let options = "postgres://agora:secret-word@localhost/orders".parse();
        let shown = format!("{:?}", Pool::new(options.unwrap(), 1));
        assert!(
            shown.contains("Pool") && !shown.contains("secret-word"),
            "{shown}"
        );
    }
}
