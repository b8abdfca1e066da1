//! The transactional outbox: what a transaction decided, and the events that tell of it, are committed
//! together; a relay publishes them.
//!
//! [`Outbox::begin`] opens a [`UnitOfWork`]: a transaction that events can be said in. With the pattern on
//! they become rows, and the relay takes it from there:
//!
//! - it is woken by `NOTIFY`, and polls behind that;
//! - it takes batches with `FOR UPDATE SKIP LOCKED`, so that replicas share the work, and of each order only
//!   the oldest unpublished event, so that no replica and no batch can overtake an earlier one;
//! - it publishes persistent, mandatory and confirmed, and marks what was confirmed. A crash in between
//!   publishes an event once more, under the same id: consumers keep an inbox.
//!
//! With the pattern off the transaction commits first and publishes then: what happens in between loses the
//! event, and nobody notices. Left out: the tables (each service's migrations), and what an event says.
//! Source: <https://microservices.io/patterns/data/transactional-outbox.html>.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use opentelemetry::propagation::{Extractor, Injector};
use shared_events::Event;
use sqlx::postgres::{PgListener, PgPool};
use sqlx::{PgConnection, Postgres, Transaction};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info_span, warn};

use crate::backoff::backoff;
use crate::broker::{PublishError, Publisher};
use crate::config::OutboxConfig;
use crate::crash_points::crash_point;
use crate::database::Database;
use crate::lifecycle::Lifecycle;
use crate::metrics::OutboxGauges;
use crate::patterns::Pattern;
use crate::telemetry;

/// The channel of `NOTIFY`; each service has a database, and so a channel, of its own.
const CHANNEL: &str = "outbox";
/// How often the figures are taken and old rows looked for.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(2);
/// How many old rows go at a time: a large delete would hold the table's pages for long.
const PRUNED_ROWS: i64 = 1_000;

/// How the events of a transaction are published; clones share it.
#[derive(Clone)]
pub struct Outbox {
    pool: PgPool,
    strategy: Strategy,
}

#[derive(Clone)]
enum Strategy {
    /// As rows of the same transaction; the bell tells of a commit.
    Stored { bell: Arc<Notify> },
    /// After the commit, by whoever committed.
    Direct(Arc<Publisher>),
}

/// A transaction, and the events that tell of it.
#[must_use = "what isn't committed did not happen"]
pub struct UnitOfWork<'a> {
    transaction: Transaction<'static, Postgres>,
    outbox: &'a Outbox,
    /// What a direct publisher still has to say after the commit.
    unsaid: Vec<Event>,
    /// Whether the relay has something to find.
    stored: bool,
}

/// Composes the strategy that the configuration asks for; with the pattern on, starts the relay and its
/// housekeeping.
pub fn start(
    lifecycle: &Lifecycle,
    config: OutboxConfig,
    database: &Database,
    publisher: Publisher,
) -> Outbox {
    lifecycle.enter_pattern(Pattern::Outbox, config.outbox);
    let strategy = if config.outbox.is_on() {
        let bell = Arc::new(Notify::new());
        Relay::spawn(lifecycle, &config, database, publisher);
        let pool = database.dedicated(&[]);
        spawn_bell_ringer(lifecycle, pool.clone(), Arc::clone(&bell));
        spawn_housekeeping(lifecycle, config.retention, database, pool);
        Strategy::Stored { bell }
    } else {
        Strategy::Direct(Arc::new(publisher))
    };
    Outbox {
        pool: database.pool.clone(),
        strategy,
    }
}

impl Outbox {
    /// Begins a transaction.
    ///
    /// # Errors
    /// The database's.
    pub async fn begin(&self) -> Result<UnitOfWork<'_>, sqlx::Error> {
        Ok(UnitOfWork {
            transaction: self.pool.begin().await?,
            outbox: self,
            unsaid: Vec::new(),
            stored: false,
        })
    }
}

impl UnitOfWork<'_> {
    /// Where the transaction's statements run.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Says an event, if and when the transaction commits.
    ///
    /// # Errors
    /// The database's.
    pub async fn say(&mut self, event: Event) -> Result<(), sqlx::Error> {
        if let Strategy::Direct(_) = self.outbox.strategy {
            self.unsaid.push(event);
            return Ok(());
        }
        let mut trace = StoredContext::default();
        telemetry::inject(&mut trace);
        let payload = event.encode();
        sqlx::query(
            "INSERT INTO outbox (event_id, subject, event_type, routing_key, payload, traceparent, tracestate)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(event.id)
        .bind(&event.subject)
        .bind(&event.event_type)
        .bind(event.routing_key())
        .bind(std::str::from_utf8(&payload).unwrap_or_default())
        .bind(trace.traceparent)
        .bind(trace.tracestate)
        .execute(&mut *self.transaction)
        .await?;
        self.stored = true;
        Ok(())
    }

    /// Commits. Events of a direct publisher are published then; what fails there is logged and counted,
    /// and not an error: the transaction stands.
    ///
    /// # Errors
    /// The database's. Where the connection broke, the transaction may stand all the same.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.transaction.commit().await?;
        match &self.outbox.strategy {
            Strategy::Stored { bell } => {
                if self.stored {
                    bell.notify_one();
                }
            }
            Strategy::Direct(publisher) => {
                crash_point("direct.before_publish");
                for event in &self.unsaid {
                    if let Err(error) = publisher.publish(event).await {
                        error!(event_id = %event.id, subject = event.subject, %error, "event lost");
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives it up.
    ///
    /// # Errors
    /// The database's; the transaction is gone all the same.
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.transaction.rollback().await
    }
}

/// Sends one `NOTIFY` for all commits since the last one, outside of their transactions: PostgreSQL lets
/// notifying transactions commit one at a time, each until it is on disk, which would undo group commit. A
/// bell that is lost in a crash is made up for by the relay's polling.
fn spawn_bell_ringer(lifecycle: &Lifecycle, pool: PgPool, bell: Arc<Notify>) {
    let closing = lifecycle.closing();
    lifecycle.spawn_watcher("outbox bell", async move {
        loop {
            tokio::select! {
                () = bell.notified() => {}
                () = closing.cancelled() => return Ok(()),
            }
            let rung = sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL);
            if let Err(error) = rung.execute(&pool).await {
                debug!(%error, "the relay was not woken: it polls");
            }
        }
    });
}

fn spawn_housekeeping(
    lifecycle: &Lifecycle,
    retention: Duration,
    database: &Database,
    pool: PgPool,
) {
    let gauges = lifecycle.metrics().outbox_gauges();
    let interval = HOUSEKEEPING_INTERVAL;
    database.every(lifecycle, "outbox housekeeping", interval, move || {
        let (pool, gauges) = (pool.clone(), gauges.clone());
        async move {
            measure(&pool, &gauges).await?;
            prune(&pool, retention).await
        }
    });
}

async fn measure(pool: &PgPool, gauges: &OutboxGauges) -> Result<(), sqlx::Error> {
    let (backlog, oldest_age_seconds): (i64, f64) = sqlx::query_as(
        "SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8
         FROM outbox WHERE published_at IS NULL",
    )
    .fetch_one(pool)
    .await?;
    gauges.backlog.set(backlog);
    gauges.oldest_age_seconds.set(oldest_age_seconds);
    Ok(())
}

async fn prune(pool: &PgPool, retention: Duration) -> Result<(), sqlx::Error> {
    let gone = sqlx::query(
        "DELETE FROM outbox WHERE position IN
             (SELECT position FROM outbox
              WHERE published_at IS NOT NULL AND created_at < now() - make_interval(secs => $1) LIMIT $2)",
    )
    .bind(retention.as_secs_f64())
    .bind(PRUNED_ROWS)
    .execute(pool)
    .await?
    .rows_affected();
    if gone > 0 {
        debug!(gone, "published events pruned");
    }
    Ok(())
}

struct Relay {
    /// One connection, so that a batch never waits for requests. Marks needn't be on disk when the commit
    /// returns: one that is lost in a crash of the database publishes an event twice, which the inbox knows.
    pool: PgPool,
    database: Database,
    publisher: Publisher,
    batch_size: i64,
    poll_interval: Duration,
    draining: CancellationToken,
}

/// An event that waits to be published.
#[derive(sqlx::FromRow)]
struct Waiting {
    position: i64,
    event_id: uuid::Uuid,
    event_type: String,
    routing_key: String,
    payload: String,
    traceparent: Option<String>,
    tracestate: Option<String>,
}

/// Why a batch was not published, or not all of it.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl Relay {
    fn spawn(
        lifecycle: &Lifecycle,
        config: &OutboxConfig,
        database: &Database,
        publisher: Publisher,
    ) {
        let relay = Self {
            pool: database.dedicated(&[("synchronous_commit", "off")]),
            database: database.clone(),
            publisher,
            batch_size: config.batch_size.into(),
            poll_interval: config.poll_interval,
            draining: lifecycle.draining(),
        };
        lifecycle.spawn_worker("outbox relay", async move {
            relay.run().await;
            Ok(())
        });
    }

    /// Until the service drains. A batch under way is finished; what is left waits for the next start, or for
    /// another replica.
    async fn run(&self) {
        let mut delays = backoff();
        let mut listener = None;
        while !self.draining.is_cancelled() {
            let both = async {
                self.database.in_reach().await;
                self.publisher.in_reach().await;
            };
            tokio::select! {
                () = both => {}
                () = self.draining.cancelled() => return,
            }
            let pause = match self.publish_batch().await {
                Ok(0) => {
                    delays = backoff();
                    self.idle(&mut listener).await;
                    continue;
                }
                Ok(published) => {
                    debug!(published, "events published");
                    delays = backoff();
                    continue;
                }
                Err(error) => {
                    warn!(%error, "events could not be published: tried again");
                    delays.next().unwrap_or(self.poll_interval)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.draining.cancelled() => return,
            }
        }
    }

    /// Waits for a notification, or for the time to look without one.
    async fn idle(&self, listener: &mut Option<PgListener>) {
        let notified = async {
            if listener.is_none() {
                let opened = async {
                    let mut opened =
                        PgListener::connect_with(&self.database.dedicated(&[])).await?;
                    opened.listen(CHANNEL).await?;
                    Ok::<_, sqlx::Error>(opened)
                };
                match opened.await {
                    // What was committed before it listened is found by the look that follows.
                    Ok(opened) => *listener = Some(opened),
                    Err(error) => {
                        debug!(%error, "not listening: polling only");
                        std::future::pending::<()>().await;
                    }
                }
                return;
            }
            if let Some(open) = listener.as_mut()
                && !matches!(open.try_recv().await, Ok(Some(_)))
            {
                // Lost connections come back by themselves, their notifications don't: look, and listen anew.
                *listener = None;
            }
        };
        tokio::select! {
            () = notified => {}
            () = tokio::time::sleep(self.poll_interval) => {}
            () = self.draining.cancelled() => {}
        }
    }

    /// Publishes what is next of each order, and marks it; how many.
    async fn publish_batch(&self) -> Result<usize, Broken> {
        let mut transaction = self.pool.begin().await?;
        let batch: Vec<Waiting> = sqlx::query_as(
            "SELECT position, event_id, event_type, routing_key, payload, traceparent, tracestate
             FROM outbox AS event
             WHERE published_at IS NULL
               AND NOT EXISTS (SELECT FROM outbox AS earlier
                               WHERE earlier.subject = event.subject AND earlier.published_at IS NULL
                                 AND earlier.position < event.position)
             ORDER BY position LIMIT $1 FOR UPDATE SKIP LOCKED",
        )
        .bind(self.batch_size)
        .fetch_all(&mut *transaction)
        .await?;
        if batch.is_empty() {
            transaction.rollback().await?;
            return Ok(0);
        }
        crash_point("outbox.before_publish");
        let results = join_all(batch.iter().map(|event| self.publish(event))).await;
        crash_point("outbox.before_mark");
        let mut published = Vec::with_capacity(batch.len());
        let mut failed = None;
        for (event, result) in batch.iter().zip(results) {
            match result {
                Ok(()) => published.push(event.position),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        sqlx::query("UPDATE outbox SET published_at = now() WHERE position = ANY($1)")
            .bind(&published)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        match failed {
            None => Ok(published.len()),
            Some(error) => Err(error.into()),
        }
    }

    async fn publish(&self, event: &Waiting) -> Result<(), PublishError> {
        let context = StoredContext {
            traceparent: event.traceparent.clone(),
            tracestate: event.tracestate.clone(),
        };
        let exchange = self.publisher.exchange();
        let span = info_span!(
            "send",
            otel.name = format!("send {exchange}"),
            otel.kind = "producer",
            messaging.system = "rabbitmq",
            messaging.operation.name = "send",
            messaging.operation.r#type = "send",
            messaging.destination.name = exchange,
            messaging.rabbitmq.destination.routing_key = event.routing_key,
            messaging.message.id = %event.event_id,
        );
        telemetry::adopt_parent(&span, &context);
        self.publisher
            .publish_encoded(
                event.event_id,
                &event.event_type,
                &event.routing_key,
                event.payload.as_bytes(),
            )
            .instrument(span)
            .await
    }
}

/// The trace context of who said the event, as it stands in the row.
#[derive(Default)]
struct StoredContext {
    traceparent: Option<String>,
    tracestate: Option<String>,
}

impl Injector for StoredContext {
    fn set(&mut self, key: &str, value: String) {
        match key {
            "traceparent" => self.traceparent = Some(value),
            "tracestate" if !value.is_empty() => self.tracestate = Some(value),
            _ => {}
        }
    }
}

impl Extractor for StoredContext {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent.as_deref(),
            "tracestate" => self.tracestate.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}
