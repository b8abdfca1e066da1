//! The service's own PostgreSQL database: a bounded pool, migrations, transactions, and a watcher of its reachability.
//!
//! A transaction begins with [`begin`] or [`begin_in_time`] and in no other way (`clippy.toml` refuses sqlx's own): they may
//! be dropped at any moment without leaving a connection of the pool in an open transaction.
//!
//! Left out: queries, which are in the handlers that need them.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::ExposeSecret;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use crate::backoff::backoff;
use crate::config::DatabaseConfig;
use crate::deadline;
use crate::failure::is_transient;
use crate::finish::finished;
use crate::lifecycle::Lifecycle;
use crate::pool::{ACQUIRE_TIMEOUT, Lent, Pool};
use crate::readiness::Health;

/// The server cancels a statement after this, so that no connection is lost to one query.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the watcher pings, and how long an answer may take.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A pool, and whether its database answers. Clones share both.
#[derive(Clone)]
pub struct Database {
    /// The pool.
    pub pool: Pool,
    reachable: watch::Receiver<bool>,
}

/// Waits for the database (the lifecycle bounds that), migrates it, and starts watching it.
///
/// # Errors
/// When the URL can't be used, or a migration fails for another reason than an unreachable database.
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
    let pool = Pool::new(options.clone(), config.max_connections);

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
    /// Resolves as soon as the database answers: at once while it is reachable.
    pub async fn wait_until_reachable(&self) {
        let mut reachable = self.reachable.clone();
        // An error means that the watcher has ended: the service is closing.
        let _ = reachable.wait_for(|reachable| *reachable).await;
    }

    /// Runs a job at each interval, for as long as the service lives and whenever the database is reachable. A failure is
    /// logged; the job runs again at the next interval.
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
                    database.wait_until_reachable().await;
                    job().await
                };
                tokio::select! {
                    done = done => if let Err(error) = done {
                        warn!(task = name, %error, "failed: retried later");
                    },
                    () = closing.cancelled() => return Ok(()),
                }
            }
        });
    }

    /// Notifies `wake_up` for each `NOTIFY` on a channel, for as long as the service lives, and whenever it begins to listen
    /// (again), for notifications before that. On a connection of its own that stays open. Notifications while that is lost
    /// are lost, too: the waiting task has to poll besides.
    pub fn listen(
        &self,
        lifecycle: &Lifecycle,
        name: &'static str,
        channel: &'static str,
        wake_up: Arc<Notify>,
    ) {
        let (database, closing) = (self.clone(), lifecycle.closing());
        lifecycle.spawn_watcher(name, async move {
            let listen = async {
                let mut delays = backoff();
                loop {
                    database.wait_until_reachable().await;
                    match receive(database.pool.options(), channel, &wake_up).await {
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

    /// Another pool, with options of its own, for work that must not queue behind requests.
    pub fn pool_of(&self, connections: u32, options: &[(&str, &str)]) -> Pool {
        let connect = self.pool.options().clone();
        Pool::new(connect.options(options.iter().copied()), connections)
    }
}

/// A transaction on a connection of a pool. Dropped, it is rolled back before the connection is lent again.
#[must_use = "what isn't committed did not happen"]
pub struct Transaction {
    connection: Lent,
}

/// Begins a transaction. Dropped while `BEGIN` is in flight, it is rolled back; while it waits for a connection, nothing has
/// happened.
///
/// # Errors
/// When there is no connection, or it breaks.
pub async fn begin(pool: &Pool) -> Result<Transaction, sqlx::Error> {
    begin_with(pool, "BEGIN".to_owned()).await
}

/// A transaction whose statements the server cancels at the deadline ([`deadline::remaining`]): their answer is no longer
/// awaited, and the connection is free again.
///
/// # Errors
/// When there is no connection, or it breaks.
pub async fn begin_in_time(pool: &Pool) -> Result<Transaction, sqlx::Error> {
    let Some(left) = deadline::remaining().filter(|left| *left < STATEMENT_TIMEOUT) else {
        return begin(pool).await;
    };
    // 0 would be no limit at all.
    let limit_ms = left.as_millis().max(1);
    begin_with(
        pool,
        format!("BEGIN; SET LOCAL statement_timeout = {limit_ms}"),
    )
    .await
}

async fn begin_with(pool: &Pool, begin: String) -> Result<Transaction, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    // From here on it is rolled back if it isn't returned.
    connection.in_transaction = true;
    let begin = sqlx::raw_sql(AssertSqlSafe(begin));
    begin.execute(&mut *connection).await?;
    Ok(Transaction { connection })
}

impl Transaction {
    /// Commits. Dropped once it has begun, the commit is still completed. A transaction in which a statement has failed is
    /// rolled back instead, without an error.
    ///
    /// # Errors
    /// The database's. If the connection broke, the transaction may be committed all the same.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.end("COMMIT").await
    }

    /// Rolls it back.
    ///
    /// # Errors
    /// The database's; the transaction is rolled back all the same.
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, statement: &'static str) -> Result<(), sqlx::Error> {
        let ended = async move {
            sqlx::raw_sql(statement).execute(&mut *self).await?;
            self.connection.keep();
            Ok(())
        };
        finished(ended).await
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// The name of the constraint that a statement violated.
pub fn violated_constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error()?.constraint()
}

/// Listens until the connection is lost.
async fn receive(
    options: &PgConnectOptions,
    channel: &str,
    wake_up: &Notify,
) -> Result<(), sqlx::Error> {
    let one = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT);
    let mut listener = PgListener::connect_with(&one.connect_lazy_with(options.clone())).await?;
    listener.listen(channel).await?;
    wake_up.notify_one();
    // `None` is a lost connection.
    while listener.try_recv().await?.is_some() {
        wake_up.notify_one();
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
                warn!(%error, retry_in_ms = delay.as_millis() as u64, "database not reachable yet");
                tokio::time::sleep(delay).await;
            }
            Err(error) => return Err(error).context("failed to migrate the database"),
        }
    }
    unreachable!("the backoff has no end; the lifecycle bounds the start")
}

/// On a connection of its own: a busy pool must not look like a lost database.
async fn watch_connection(options: PgConnectOptions, health: Health) {
    let mut delays = backoff();
    loop {
        match tokio::time::timeout(PROBE_TIMEOUT, PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => {
                delays = backoff();
                if !health.send_replace(true) {
                    info!("database reachable");
                }
                probe(connection).await;
                health.send_replace(false);
                warn!("database lost");
            }
            Ok(Err(error)) => warn!(%error, "database still unreachable"),
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
