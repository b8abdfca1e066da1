//! The service's own PostgreSQL database: a bounded pool, migrations, transactions, and a watcher that knows whether it
//! is in reach.
//!
//! A transaction begins with [`begin`] or [`begin_in_time`] and in no other way (`clippy.toml` refuses sqlx's own): they may
//! be dropped at any moment without leaving a connection of the pool in an open transaction.
//!
//! Left out: queries; they stand in the handlers that need them.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::ExposeSecret;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Postgres, SqlSafeStr, SqlStr};
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use crate::backoff::backoff;
use crate::config::DatabaseConfig;
use crate::deadline;
use crate::failure::is_transient;
use crate::finish::finished;
use crate::lifecycle::Lifecycle;
use crate::readiness::Health;

/// The wait for a free connection of the pool; past it the caller is told that the database is away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// The server cuts a statement off after this, so that no connection is lost to one query.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// A pooled connection that lay idle for longer is asked whether it is alive before it is used again. Under load none
/// does, and each transaction is spared a round trip; whatever restarts a database takes longer.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// How often the watcher asks, and how long an answer may take.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A pool, and whether the database behind it answers. Clones share both.
#[derive(Clone)]
pub struct Database {
    /// The pool.
    pub pool: PgPool,
    reachable: watch::Receiver<bool>,
}

/// Waits for the database (the lifecycle bounds that), migrates it, and starts watching it.
///
/// # Errors
/// When the URL can't be used or a migration fails for another reason than the database being away.
pub async fn connect(
    lifecycle: &Lifecycle,
    config: &DatabaseConfig,
    migrations: &Migrator,
) -> anyhow::Result<Database> {
    let options = PgConnectOptions::from_str(config.url.expose_secret())
        .context("failed to read DATABASE_URL")?
        .application_name(lifecycle.service())
        .log_statements(tracing::log::LevelFilter::Debug);
    // A migration may take longer than any statement of the service's.
    let unlimited = options.clone();
    let statement_timeout_ms = STATEMENT_TIMEOUT.as_millis().to_string();
    let options = options.options([("statement_timeout", &*statement_timeout_ms)]);
    let pool = pool_options(config.max_connections).connect_lazy_with(options.clone());

    lifecycle.metrics().pool("requests", &pool);
    let health = lifecycle.readiness().depends_on("postgres");
    let reachable = health.subscribe();
    migrate(&unlimited, migrations).await?;
    let closing = lifecycle.closing();
    lifecycle.spawn_watcher("database", async move {
        tokio::select! {
            () = watch_connection(options, health) => {}
            () = closing.cancelled() => {}
        }
        Ok(())
    });
    Ok(Database { pool, reachable })
}

impl Database {
    /// Resolves as soon as the database answers: at once in good weather.
    pub async fn in_reach(&self) {
        let mut reachable = self.reachable.clone();
        // An error means that the watcher is gone: the service is closing, and nobody needs to wait.
        let _ = reachable.wait_for(|reachable| *reachable).await;
    }

    /// Does something every so often, for as long as the service lives and whenever the database is in reach.
    /// What fails is logged, and tried again the next time.
    pub fn every<F>(
        &self,
        lifecycle: &Lifecycle,
        name: &'static str,
        interval: Duration,
        job: impl Fn() -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<(), sqlx::Error>> + Send,
    {
        let database = self.clone();
        let closing = lifecycle.closing();
        lifecycle.spawn_watcher(name, async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let done = async {
                    ticks.tick().await;
                    database.in_reach().await;
                    job().await
                };
                tokio::select! {
                    done = done => if let Err(error) = done {
                        warn!(task = name, %error, "failed: tried again later");
                    },
                    () = closing.cancelled() => return Ok(()),
                }
            }
        });
    }

    /// Rings the bell for each `NOTIFY` on a channel, for as long as the service lives, and whenever it begins to listen
    /// (again), for what was said before that. On a connection of its own, that stays. What is said while it is lost isn't
    /// heard: whoever waits for the bell polls behind it.
    pub fn listen(
        &self,
        lifecycle: &Lifecycle,
        name: &'static str,
        channel: &'static str,
        bell: Arc<Notify>,
    ) {
        let (database, closing) = (self.clone(), lifecycle.closing());
        lifecycle.spawn_watcher(name, async move {
            let listen = async {
                let mut delays = backoff();
                loop {
                    database.in_reach().await;
                    match hear(&database.pool_of(1, &[]), channel, &bell).await {
                        Ok(()) => delays = backoff(),
                        Err(error) => debug!(channel, %error, "not listening: polling only"),
                    }
                    tokio::time::sleep(delays.next().unwrap_or(PROBE_INTERVAL)).await;
                }
            };
            tokio::select! {
                () = listen => {}
                () = closing.cancelled() => {}
            }
            Ok(())
        });
    }

    /// Another pool, with options of its own, for those who must not queue up behind requests.
    pub fn pool_of(&self, connections: u32, options: &[(&str, &str)]) -> PgPool {
        let connect = PgConnectOptions::clone(&self.pool.connect_options());
        pool_options(connections).connect_lazy_with(connect.options(options.iter().copied()))
    }
}

/// What all pools have in common; public for the benchmark, whose bare database is to be reached in the same way.
pub fn pool_options(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, use_so_far| {
            Box::pin(async move {
                if use_so_far.idle_for > TRUSTED_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
}

/// A transaction on a connection of a pool. Dropped, it is rolled back before the connection is used again.
#[must_use = "what isn't committed did not happen"]
pub struct Transaction(sqlx::Transaction<'static, Postgres>);

/// Begins a transaction. Dropped while `BEGIN` is under way, it is rolled back; while it waits for a connection, nothing
/// happened.
///
/// # Errors
/// When there is no connection, or it breaks.
pub async fn begin(pool: &PgPool) -> Result<Transaction, sqlx::Error> {
    begin_with(pool, None).await
}

/// A transaction whose statements the server cuts off when the time for what is being done is up ([`deadline::remaining`]):
/// nobody waits for their answer any more, and the connection is free again.
///
/// # Errors
/// When there is no connection, or it breaks.
pub async fn begin_in_time(pool: &PgPool) -> Result<Transaction, sqlx::Error> {
    let Some(left) = deadline::remaining().filter(|left| *left < STATEMENT_TIMEOUT) else {
        return begin(pool).await;
    };
    // 0 would be no limit at all.
    let limit_ms = left.as_millis().max(1);
    let begin = format!("BEGIN; SET LOCAL statement_timeout = {limit_ms}");
    begin_with(pool, Some(AssertSqlSafe(begin).into_sql_str())).await
}

async fn begin_with(pool: &PgPool, begin: Option<SqlStr>) -> Result<Transaction, sqlx::Error> {
    // The wait for it may be given up: nobody is served before those who still wait.
    let connection = pool.acquire().await?;
    finished(sqlx::Transaction::begin(connection, begin))
        .await
        .map(Transaction)
}

impl Transaction {
    /// Commits. Dropped once it has begun, the commit is completed all the same.
    ///
    /// # Errors
    /// The database's. Where the connection broke, the transaction may stand all the same.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        finished(self.0.commit()).await
    }

    /// Gives it up.
    ///
    /// # Errors
    /// The database's; the transaction is gone all the same.
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        finished(self.0.rollback()).await
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

/// The name of the constraint that a statement violated.
pub fn violated_constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error()?.constraint()
}

/// Listens until the connection is lost.
async fn hear(pool: &PgPool, channel: &str, bell: &Notify) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(channel).await?;
    bell.notify_one();
    // `None` is a lost connection.
    while listener.try_recv().await?.is_some() {
        bell.notify_one();
    }
    Ok(())
}

async fn migrate(options: &PgConnectOptions, migrations: &Migrator) -> anyhow::Result<()> {
    for delay in backoff() {
        let migrated = async {
            let mut connection = PgConnection::connect_with(options).await?;
            migrations.run(&mut connection).await
        };
        match migrated.await {
            Ok(()) => return Ok(()),
            Err(MigrateError::Execute(error)) if is_transient(&error) => {
                warn!(%error, retry_in_ms = delay.as_millis() as u64, "database not in reach yet");
                tokio::time::sleep(delay).await;
            }
            Err(error) => return Err(error).context("failed to migrate the database"),
        }
    }
    unreachable!("the backoff has no end; the lifecycle bounds the start")
}

/// A connection of its own: a busy pool must not look like a lost database.
async fn watch_connection(options: PgConnectOptions, health: Health) {
    let mut delays = backoff();
    loop {
        match tokio::time::timeout(PROBE_TIMEOUT, PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => {
                delays = backoff();
                if !health.send_replace(true) {
                    info!("database in reach");
                }
                probe(connection).await;
                health.send_replace(false);
                warn!("database lost");
            }
            Ok(Err(error)) => warn!(%error, "database still away"),
            Err(_) => warn!("database does not answer"),
        }
        tokio::time::sleep(delays.next().unwrap_or(PROBE_INTERVAL)).await;
    }
}

/// Returns when the connection no longer answers.
async fn probe(mut connection: PgConnection) {
    let mut ticks = tokio::time::interval(PROBE_INTERVAL);
    loop {
        ticks.tick().await;
        match tokio::time::timeout(PROBE_TIMEOUT, connection.ping()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
