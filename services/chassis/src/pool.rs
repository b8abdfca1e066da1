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
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A connection that was idle for longer is pinged before it is used again. Under load none is, which saves each
/// transaction a round trip; a restart of the database takes longer.
pub(crate) const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// A connection goes back to sqlx's pool after this time, which limits how long one lives, and how long it is idle.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// Connections to the database; clones share them. A statement can be executed on it directly, outside of a transaction:
/// all its rows are read into memory.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Where connections come from.
    source: PgPool,
    /// One for each connection that there may be: callers wait here, in the order in which they came. It is held until the
    /// connection is back, here or in `source`: whoever has one and finds none kept doesn't wait for another's return.
    permits: Arc<Semaphore>,
    /// The one that was used last is lent first.
    kept: Arc<Mutex<Vec<Kept>>>,
}

/// A connection that nobody uses at the moment.
#[derive(Debug)]
struct Kept {
    taken: Taken,
    idle_since: Instant,
}

/// A connection of sqlx's pool. Dropped, it is closed.
#[derive(Debug)]
struct Taken {
    /// `None` once it is returned.
    connection: Option<PoolConnection<Postgres>>,
    at: Instant,
}

/// A connection that is lent. Dropped, it goes back to sqlx's pool; see [`Lent::keep`].
pub struct Lent {
    /// `None` once it is kept.
    taken: Option<Taken>,
    kept: Arc<Mutex<Vec<Kept>>>,
    /// Moved into the task that returns the connection.
    permit: Option<OwnedSemaphorePermit>,
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
        let limit = self.source.options().get_acquire_timeout();
        tokio::time::timeout(limit, self.acquire_in_time())
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    async fn acquire_in_time(&self) -> Result<Lent, sqlx::Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
        let taken = match self.take_kept().await {
            Some(taken) => taken,
            None => Taken {
                connection: Some(self.source.acquire().await?),
                at: Instant::now(),
            },
        };
        Ok(Lent {
            taken: Some(taken),
            kept: Arc::clone(&self.kept),
            permit: Some(permit),
        })
    }

    /// One that was kept and still works. Dropped during a ping, it closes the connection: it may never answer.
    async fn take_kept(&self) -> Option<Taken> {
        loop {
            let Kept {
                mut taken,
                idle_since,
            } = lock(&self.kept).pop()?;
            if idle_since.elapsed() < TRUSTED_IDLE || taken.ping().await.is_ok() {
                return Some(taken);
            }
        }
    }

    /// How many connections are open.
    pub fn size(&self) -> u32 {
        self.source.size()
    }

    /// How many of them nobody uses.
    pub fn idle(&self) -> usize {
        // sqlx counts a connection as idle only after it has offered it: its count may be -1 for a moment.
        self.source.num_idle().wrapping_add(lock(&self.kept).len())
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
        let Some(taken) = self.taken.take_if(|taken| taken.at.elapsed() < KEPT_FOR) else {
            return;
        };
        let mut kept = lock(&self.kept);
        kept.push(Kept {
            taken,
            idle_since: Instant::now(),
        });
        // The others of a peak, which nobody uses any more.
        let old = kept.extract_if(.., |kept| kept.taken.at.elapsed() >= KEPT_FOR);
        let old: Vec<Kept> = old.collect();
        drop(kept);
        for kept in old {
            give_back(kept.taken, None);
        }
    }

    /// Closes the connection: its state is unknown.
    pub(crate) fn close(mut self) {
        self.taken = None;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            give_back(taken, self.permit.take());
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // Without a task: there may be no runtime any more.
        drop(self.connection.take().map(PoolConnection::detach));
    }
}

/// Returns a connection to sqlx's pool, and then the permit.
fn give_back(mut taken: Taken, permit: Option<OwnedSemaphorePermit>) {
    if let Ok(runtime) = Handle::try_current()
        && let Some(mut connection) = taken.connection.take()
    {
        drop(runtime.spawn(async move {
            connection.return_to_pool().await;
            drop(permit);
        }));
    }
}

const TAKEN: &str = "a connection is taken out only when it is returned";

impl Deref for Taken {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect(TAKEN)
    }
}

impl DerefMut for Taken {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect(TAKEN)
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.taken.as_ref().expect(TAKEN)
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.taken.as_mut().expect(TAKEN)
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
