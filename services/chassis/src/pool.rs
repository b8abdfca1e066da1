//! A pool of connections that are lent again without a round trip to the server in between.
//!
//! sqlx's pool pings each connection that is returned to it (0.9 has no option), which costs a request as much as a small
//! statement. A [`Pool`] keeps connections whose work has ended in order, and lends them again itself. Any other goes
//! back to sqlx's pool, whose ping waits for what is still in progress on it.
//!
//! Left out: opening and replacing connections, which sqlx's pool does.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryFutureExt, TryStreamExt};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{
    PgConnection, PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo, Postgres,
};
use sqlx::{Connection, Describe, Either, Execute, Executor, SqlStr};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A connection that was idle for longer is pinged before it is used again. Under load none is, which saves each
/// transaction a round trip; a restart of the database takes longer.
pub(crate) const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// A connection goes back to sqlx's pool after this time, which bounds a connection's life.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// Connections to the database; clones share them. A statement can be executed on it directly, outside of a transaction:
/// all its rows are read into memory.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Where connections come from.
    source: PgPool,
    /// One for each connection that may be lent: callers wait here, in the order in which they came.
    permits: Arc<Semaphore>,
    /// The one that was used last is lent first.
    kept: Arc<Mutex<Vec<Kept>>>,
}

/// A connection that nobody uses at the moment.
#[derive(Debug)]
struct Kept {
    connection: PoolConnection<Postgres>,
    taken_at: Instant,
    idle_since: Instant,
}

/// A connection that is lent. Dropped, it goes back to sqlx's pool; see [`Lent::keep`].
pub struct Lent {
    /// `None` once it is kept.
    connection: Option<PoolConnection<Postgres>>,
    /// When it was taken from sqlx's pool.
    taken_at: Instant,
    kept: Arc<Mutex<Vec<Kept>>>,
    /// Returned after the connection was.
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    /// A pool of all connections that `source` may have, with its limit to the wait for one.
    pub fn new(source: PgPool) -> Self {
        let permits = source.options().get_max_connections() as usize;
        Self {
            source,
            permits: Arc::new(Semaphore::new(permits)),
            kept: Arc::default(),
        }
    }

    /// A connection, as soon as one is free.
    ///
    /// # Errors
    /// When none is free in time, or none can be opened.
    pub async fn acquire(&self) -> Result<Lent, sqlx::Error> {
        tokio::time::timeout(
            self.source.options().get_acquire_timeout(),
            self.acquire_in_time(),
        )
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    async fn acquire_in_time(&self) -> Result<Lent, sqlx::Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
        let (connection, taken_at) = match self.take_kept().await {
            Some(kept) => (kept.connection, kept.taken_at),
            None => (self.source.acquire().await?, Instant::now()),
        };
        Ok(Lent {
            connection: Some(connection),
            taken_at,
            kept: Arc::clone(&self.kept),
            _permit: permit,
        })
    }

    /// One that was kept and still works.
    async fn take_kept(&self) -> Option<Kept> {
        loop {
            let mut kept = lock(&self.kept).pop()?;
            if kept.idle_since.elapsed() < TRUSTED_IDLE || kept.connection.ping().await.is_ok() {
                return Some(kept);
            }
            kept.connection.close_on_drop();
        }
    }

    /// How many connections are open.
    pub fn size(&self) -> u32 {
        self.source.size()
    }

    /// How many of them nobody uses.
    pub fn idle(&self) -> usize {
        self.source.num_idle() + lock(&self.kept).len()
    }

    /// How many there may be.
    pub fn max_connections(&self) -> u32 {
        self.source.options().get_max_connections()
    }

    /// sqlx's own pool, for what needs that; the connections that are kept count as used in it.
    pub(crate) fn source(&self) -> &PgPool {
        &self.source
    }
}

impl Lent {
    /// Returns the connection to be lent again at once: no statement is in progress on it, and no transaction open.
    pub fn keep(mut self) {
        if self.taken_at.elapsed() < KEPT_FOR
            && let Some(connection) = self.connection.take()
        {
            lock(&self.kept).push(Kept {
                connection,
                taken_at: self.taken_at,
                idle_since: Instant::now(),
            });
        }
    }

    /// Closes the connection: its state is unknown.
    pub(crate) fn close(mut self) {
        self.close_on_drop();
    }
}

const LENT: &str = "a connection is taken only when its loan ends";

impl Deref for Lent {
    type Target = PoolConnection<Postgres>;

    fn deref(&self) -> &PoolConnection<Postgres> {
        self.connection.as_ref().expect(LENT)
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PoolConnection<Postgres> {
        self.connection.as_mut().expect(LENT)
    }
}

fn lock(kept: &Mutex<Vec<Kept>>) -> MutexGuard<'_, Vec<Kept>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
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
            let all: Vec<_> = connection(&mut lent)
                .fetch_many(query)
                .try_collect()
                .await?;
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
            let row = connection(&mut lent).fetch_optional(query).await?;
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
            connection(&mut lent).prepare_with(sql, parameters).await
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>> {
        let pool = self.clone();
        Box::pin(async move {
            let mut lent = pool.acquire().await?;
            connection(&mut lent).describe(sql).await
        })
    }
}

fn connection(lent: &mut Lent) -> &mut PgConnection {
    lent
}
