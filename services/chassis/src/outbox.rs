//! The transactional outbox: a transaction's changes and its events are committed together; a relay publishes the events.
//!
//! [`Outbox::begin`] opens a [`UnitOfWork`]: a transaction that events can be recorded in. With the pattern on they become
//! rows, which the relay publishes:
//!
//! - it is woken at once by the commits of its own process, by `NOTIFY` for those of other replicas, and polls besides;
//! - it takes batches with `FOR UPDATE SKIP LOCKED`, so that replicas share the work, and of each order only
//!   the oldest unpublished event, so that no replica and no batch can overtake an earlier one;
//! - it publishes persistent, mandatory and confirmed, and marks what was confirmed. A crash in between
//!   publishes an event once more, under the same id: consumers keep an inbox;
//! - an event that the broker rejects (one that is too large, for example) must not block the others: a batch with a
//!   rejection is published one by one, which shows which event it is. It is retried `OUTBOX_MAX_REJECTIONS` times, a second
//!   apart, and then parked with the broker's error until an operator decides (`cargo xtask outbox`). Later events of the
//!   same order wait behind it. A broker that is unreachable, blocks publishers or has a full queue rejects no event: none
//!   is parked because of it.
//!
//! An event whose message was lost after that is published once more with [`UnitOfWork::republish`]. A transaction that is one
//! statement and its event needs no unit of work: [`Outbox::with_event`] sends both to the database as one statement.
//!
//! With the pattern off the transaction commits first and publishes then: a failure in between loses the event. Left out:
//! the tables (each service's migrations), and the content of an event.
//! Source: <https://microservices.io/patterns/data/transactional-outbox.html>.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use opentelemetry::propagation::{Extractor, Injector};
use shared_events::Event;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, QueryBuilder};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error, warn};
use uuid::Uuid;

use crate::backoff::backoff;
use crate::broker::{PublishError, Publisher};
use crate::config::OutboxConfig;
use crate::crash_points::crash_point;
use crate::database::{self, Database, Transaction};
use crate::finish::finished;
use crate::lifecycle::Lifecycle;
use crate::metrics::OutboxGauges;
use crate::patterns::Pattern;
use crate::pool::Pool;
use crate::telemetry::{self, Message, Statement, message_span};

/// The channel of `NOTIFY`; each service has a database, and so a channel, of its own.
const CHANNEL: &str = "outbox";
/// How often other replicas are notified, at most: all commits in between are one notification.
const NOTIFY_INTERVAL: Duration = Duration::from_millis(100);
/// How often the gauges are updated.
const MEASURE_INTERVAL: Duration = Duration::from_secs(2);
/// How often old rows are looked for.
const PRUNE_INTERVAL: Duration = Duration::from_secs(10);
/// The relay begins a batch this long after the one before, or later, unless it knows that more events wait: under load,
/// events gather for that long. A single event is not delayed.
const PACE: Duration = Duration::from_millis(15);
/// Longer than the statements of a batch and the longest wait for its confirms: past it a connection is dead without an
/// error.
const BATCH_TIMEOUT: Duration = Duration::from_secs(50);
/// How long a rejected event waits until it is retried.
const REJECTED_PAUSE: Duration = Duration::from_secs(1);
/// How many events of a batch are published one by one, and for how long, at most: the rest waits for the next batch. Well
/// within [`BATCH_TIMEOUT`], with what was tried before.
const ONE_BY_ONE: usize = 100;
const ONE_BY_ONE_WITHIN: Duration = Duration::from_secs(10);
/// How many old rows go at a time: a large delete would hold the table's pages for long.
const PRUNED_ROWS: i64 = 1_000;

/// How the events of a transaction are published; clones share it.
#[derive(Clone)]
pub struct Outbox {
    pool: Pool,
    strategy: Strategy,
}

#[derive(Clone)]
enum Strategy {
    /// As rows of the same transaction; the notifiers wake the relays after a commit.
    Stored { notifiers: Notifiers },
    /// After the commit, by the task that committed.
    Direct(Arc<Publisher>),
}

/// Notified after a commit with events in it.
#[derive(Clone, Default)]
struct Notifiers {
    /// The relay of this process.
    relay: Arc<Notify>,
    /// Those of other replicas, for the case that this one's has no broker, or ends.
    replicas: Arc<Notify>,
}

/// A transaction, and the events that tell of it.
#[must_use = "what isn't committed did not happen"]
pub struct UnitOfWork<'a> {
    transaction: Transaction,
    outbox: &'a Outbox,
    /// Stored with the commit, or published after it; each with the trace context that it was recorded in.
    recorded: Vec<(Event, StoredContext)>,
    /// Whether a stored event is to be published again.
    republishes: bool,
}

/// A statement that changes rows, and the event that tells of it: see [`Outbox::with_event`].
#[must_use = "it does nothing until it is executed"]
pub struct EventStatement<'a> {
    outbox: &'a Outbox,
    /// Begins with the recording of the event where that is stored.
    sql: QueryBuilder<Postgres>,
    recorded: (Event, StoredContext),
}

/// Composes the strategy that the configuration asks for, and starts the relay and its housekeeping.
pub fn start(
    lifecycle: &Lifecycle,
    config: OutboxConfig,
    database: &Database,
    publisher: Publisher,
) -> Outbox {
    lifecycle.enter_pattern(Pattern::Outbox, config.outbox);
    let notifiers = Notifiers::default();
    // In either position: what an earlier process stored must not count as lost by the naive version.
    let wake_up = Arc::clone(&notifiers.relay);
    let relay = Relay::new(lifecycle, &config, database, publisher.clone(), wake_up);
    lifecycle.spawn_worker("outbox relay", async move {
        relay.run().await;
        Ok(())
    });
    // For the commits of other replicas. Its connection stays open: one that is opened while the relay is idle would be
    // closed at each commit.
    database.listen(
        lifecycle,
        "outbox listener",
        CHANNEL,
        Arc::clone(&notifiers.relay),
    );
    spawn_housekeeping(lifecycle, config.retention, database);
    let strategy = if config.outbox.is_on() {
        spawn_notifier(lifecycle, database, Arc::clone(&notifiers.replicas));
        Strategy::Stored { notifiers }
    } else {
        Strategy::Direct(Arc::new(publisher))
    };
    Outbox {
        pool: database.pool.clone(),
        strategy,
    }
}

impl Outbox {
    /// The same outbox, its transactions on another pool.
    pub(crate) fn on(self, pool: Pool) -> Self {
        Self { pool, ..self }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// The database's.
    pub async fn begin(&self) -> Result<UnitOfWork<'_>, sqlx::Error> {
        Ok(UnitOfWork {
            transaction: database::begin(&self.pool).traced("BEGIN").await?,
            outbox: self,
            recorded: Vec::new(),
            republishes: false,
        })
    }

    /// A statement that is executed together with the recording of this event.
    pub fn with_event(&self, event: Event) -> EventStatement<'_> {
        let trace = StoredContext::current();
        let mut sql = QueryBuilder::default();
        if let Strategy::Stored { .. } = self.strategy {
            sql.push("WITH recorded AS (INSERT INTO outbox (")
                .push(COLUMNS)
                .push(") VALUES (");
            let mut values = sql.separated(", ");
            values.push_bind(event.id);
            values.push_bind(event.subject.clone());
            values.push_bind(event.event_type.clone());
            values.push_bind(event.routing_key().to_owned());
            values.push_bind(encoded(&event));
            values.push_bind(trace.traceparent.clone());
            values.push_bind(trace.tracestate.clone());
            sql.push(")) ");
        }
        EventStatement {
            outbox: self,
            sql,
            recorded: (event, trace),
        }
    }
}

impl EventStatement<'_> {
    /// Where the statement is written, with its values.
    pub fn sql(&mut self) -> &mut QueryBuilder<Postgres> {
        &mut self.sql
    }

    /// Executes it, in a span of this name: operation and table. Dropped once the database has it, it is still completed. A
    /// direct publisher publishes the event then: a failure there is logged and counted, and not an error.
    ///
    /// # Errors
    /// The database's. If the connection broke, it may have been executed all the same.
    pub async fn execute(self, summary: &'static str) -> Result<(), sqlx::Error> {
        let Self {
            outbox,
            mut sql,
            recorded,
        } = self;
        let notifiers = match &outbox.strategy {
            Strategy::Stored { notifiers } => Some(notifiers.clone()),
            Strategy::Direct(_) => None,
        };
        let executed = async {
            // Dropping this wait changes nothing: it has no effect yet.
            let mut connection = outbox.pool.acquire().await?;
            let executed = async move {
                sql.build().execute(&mut *connection).await?;
                connection.keep();
                // Within it: the event of a request that is dropped meanwhile would wait for polling.
                if let Some(notifiers) = notifiers {
                    notifiers.notify();
                }
                Ok(())
            };
            finished(executed).await
        };
        executed.traced(summary).await?;
        if let Strategy::Direct(publisher) = &outbox.strategy {
            publish_directly(publisher, &[recorded]).await;
        }
        Ok(())
    }
}

impl Notifiers {
    fn notify(&self) {
        self.relay.notify_one();
        self.replicas.notify_one();
    }
}

impl UnitOfWork<'_> {
    /// Where the transaction's statements run.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Records an event: it is published if and when the transaction commits.
    pub fn record(&mut self, event: Event) {
        self.recorded.push((event, StoredContext::current()));
    }

    /// Publishes an event again whose message may have been lost: the one with this subject and type. While the outbox keeps
    /// it, it is published as it was, under its own id and in its own trace; where it was pruned, or never stored (`outbox`
    /// off), `event` is recorded in its place. `false` where it still waits to be published: then nothing is done.
    ///
    /// It counts as created now: its age in the metrics is the time that it waits for the broker, and pruning keeps it.
    ///
    /// # Errors
    /// The database's.
    pub async fn republish(&mut self, event: Event) -> Result<bool, sqlx::Error> {
        let waits: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM outbox WHERE subject = $1 AND event_type = $2 AND published_at IS NULL)",
        )
        .bind(&event.subject)
        .bind(&event.event_type)
        .fetch_one(&mut *self.transaction)
        .traced("SELECT outbox")
        .await?;
        if waits {
            return Ok(false);
        }
        let is_same = |(recorded, _): &(Event, StoredContext)| {
            recorded.subject == event.subject && recorded.event_type == event.event_type
        };
        if self.recorded.iter().any(is_same) {
            return Ok(false);
        }
        let kept = sqlx::query(
            "UPDATE outbox SET published_at = NULL, created_at = now(), rejections = 0, retry_at = NULL
             WHERE subject = $1 AND event_type = $2 AND published_at IS NOT NULL",
        )
        .bind(&event.subject)
        .bind(&event.event_type)
        .execute(&mut *self.transaction)
        .traced("UPDATE outbox")
        .await?;
        if kept.rows_affected() == 0 {
            // Another transaction may have done the same since: its row is there, and waits.
            let is_kept: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM outbox WHERE subject = $1 AND event_type = $2)",
            )
            .bind(&event.subject)
            .bind(&event.event_type)
            .fetch_one(&mut *self.transaction)
            .traced("SELECT outbox")
            .await?;
            if is_kept {
                return Ok(false);
            }
            self.record(event);
        }
        self.republishes = true;
        Ok(true)
    }

    /// Commits. Events of a direct publisher are published then; a failure there is logged and counted, and not an error: the
    /// transaction is committed.
    ///
    /// # Errors
    /// The database's. If the connection broke, the transaction may be committed all the same.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        match &self.outbox.strategy {
            Strategy::Stored { notifiers } => {
                if self.recorded.is_empty() && !self.republishes {
                    return self.transaction.commit().traced("COMMIT").await;
                }
                if !self.recorded.is_empty() {
                    store(&mut self.transaction, &self.recorded).await?;
                }
                let (transaction, notifiers) = (self.transaction, notifiers.clone());
                // As one: without it, the events of a request that is dropped meanwhile would wait for polling.
                let committed = async move {
                    transaction.commit().await?;
                    notifiers.notify();
                    Ok(())
                };
                finished(committed).traced("COMMIT").await?;
            }
            Strategy::Direct(publisher) => {
                self.transaction.commit().traced("COMMIT").await?;
                publish_directly(publisher, &self.recorded).await;
            }
        }
        Ok(())
    }

    /// Rolls it back.
    ///
    /// # Errors
    /// The database's; the transaction is rolled back all the same.
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.transaction.rollback().traced("ROLLBACK").await
    }
}

/// Publishes events whose transaction is committed; a failure is logged and counted.
async fn publish_directly(publisher: &Publisher, recorded: &[(Event, StoredContext)]) {
    crash_point("direct.before_publish");
    // Concurrently: one after the other they could take longer than a message may be handled.
    join_all(recorded.iter().map(async |(event, trace)| {
        let span = send_span(&publisher.exchange(), event.routing_key(), event.id, trace);
        let published = publisher.publish(event).instrument(span.clone()).await;
        if let Err(error) = published {
            telemetry::fail(&span, error.outcome());
            span.in_scope(|| {
                error!(event_id = %event.id, subject = event.subject, %error, "event lost");
            });
        }
    }))
    .await;
}

/// What is stored of an event.
const COLUMNS: &str =
    "event_id, subject, event_type, routing_key, payload, traceparent, tracestate";

fn encoded(event: &Event) -> String {
    String::from_utf8(event.encode()).expect("JSON is UTF-8")
}

/// All in one statement, and in the order of recording: their positions follow it.
async fn store(
    connection: &mut PgConnection,
    recorded: &[(Event, StoredContext)],
) -> Result<(), sqlx::Error> {
    fn column<'a, T>(
        recorded: &'a [(Event, StoredContext)],
        value: impl Fn(&'a Event, &'a StoredContext) -> T,
    ) -> Vec<T> {
        recorded
            .iter()
            .map(|(event, trace)| value(event, trace))
            .collect()
    }
    sqlx::query(AssertSqlSafe(format!(
        "INSERT INTO outbox ({COLUMNS}) SELECT {COLUMNS}
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
             WITH ORDINALITY AS recorded ({COLUMNS}, number)
         ORDER BY number",
    )))
    .bind(column(recorded, |event, _| event.id))
    .bind(column(recorded, |event, _| &*event.subject))
    .bind(column(recorded, |event, _| &*event.event_type))
    .bind(column(recorded, |event, _| event.routing_key()))
    .bind(column(recorded, |event, _| encoded(event)))
    .bind(column(recorded, |_, trace| trace.traceparent.as_deref()))
    .bind(column(recorded, |_, trace| trace.tracestate.as_deref()))
    .execute(connection)
    .traced("INSERT outbox")
    .await?;
    Ok(())
}

/// Notifies other replicas of commits: outside of their transactions, because PostgreSQL lets notifying transactions commit
/// one at a time, each until it is on disk, which would undo group commit. Polling makes up for a notification that is lost
/// in a crash.
fn spawn_notifier(lifecycle: &Lifecycle, database: &Database, committed: Arc<Notify>) {
    // A notification changes no data, so its commit doesn't wait for the disk.
    let pool = database.pool_of(1, &[("synchronous_commit", "off")]);
    let closing = lifecycle.closing();
    lifecycle.spawn_watcher("outbox notifier", async move {
        let notify = async {
            loop {
                committed.notified().await;
                let notification = sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL);
                if let Err(error) = notification.execute(&pool).await {
                    debug!(%error, "other relays were not notified: they poll");
                }
                tokio::time::sleep(NOTIFY_INTERVAL).await;
            }
        };
        tokio::select! {
            () = notify => {}
            () = closing.cancelled() => {}
        }
        Ok(())
    });
}

fn spawn_housekeeping(lifecycle: &Lifecycle, retention: Duration, database: &Database) {
    let pool = database.pool_of(1, &[]);
    let gauges = lifecycle.metrics().outbox_gauges();
    let measured = pool.clone();
    database.every(lifecycle, "outbox gauges", MEASURE_INTERVAL, move || {
        let (pool, gauges) = (measured.clone(), gauges.clone());
        async move { measure(&pool, &gauges).await }
    });
    database.every(lifecycle, "outbox pruning", PRUNE_INTERVAL, move || {
        let pool = pool.clone();
        async move {
            while prune(&pool, retention).await? > 0 {}
            Ok(())
        }
    });
}

async fn measure(pool: &Pool, gauges: &OutboxGauges) -> Result<(), sqlx::Error> {
    // Parked events, and those that wait behind them, don't wait for the relay: the age is that of the others.
    let (backlog, parked, oldest_age_seconds): (i64, i64, f64) = sqlx::query_as(
        "WITH waiting AS MATERIALIZED (
             SELECT subject, created_at, parked_at FROM outbox WHERE published_at IS NULL),
         held AS (SELECT DISTINCT subject FROM waiting WHERE parked_at IS NOT NULL)
         SELECT count(*), count(parked_at),
                coalesce(extract(epoch FROM now() - min(created_at) FILTER (WHERE held.subject IS NULL)), 0)::float8
         FROM waiting LEFT JOIN held USING (subject)",
    )
    .fetch_one(pool)
    .await?;
    gauges.backlog.set(backlog);
    gauges.parked.set(parked);
    gauges.oldest_age_seconds.set(oldest_age_seconds);
    Ok(())
}

/// Deletes some of the published rows that are older than the retention; returns how many.
async fn prune(pool: &Pool, retention: Duration) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query(
        // A row that is being republished is locked, and skipped.
        "DELETE FROM outbox WHERE published_at IS NOT NULL AND position IN
             (SELECT position FROM outbox
              WHERE published_at IS NOT NULL AND created_at < now() - make_interval(secs => $1)
              LIMIT $2 FOR UPDATE SKIP LOCKED)",
    )
    .bind(retention.as_secs_f64())
    .bind(PRUNED_ROWS)
    .execute(pool)
    .await?
    .rows_affected();
    debug!(gone, "published events pruned");
    Ok(gone)
}

/// Publishes the stored events, for as long as the service lives.
pub struct Relay {
    /// One connection, so that a batch never waits for requests. Marks needn't be on disk when the commit
    /// returns: one that is lost in a crash of the database publishes an event twice, which the inbox knows.
    pool: Pool,
    database: Database,
    publisher: Publisher,
    batch_size: i64,
    /// A rejected event is parked after this many attempts.
    max_rejections: i32,
    poll_interval: Duration,
    /// Notified by every commit of this process with an event in it, and for those of other replicas.
    wake_up: Arc<Notify>,
    draining: CancellationToken,
}

/// An event that waits to be published.
#[derive(sqlx::FromRow)]
struct Waiting {
    position: i64,
    event_id: Uuid,
    event_type: String,
    routing_key: String,
    payload: String,
    traceparent: Option<String>,
    tracestate: Option<String>,
    rejections: i32,
}

/// The result of a batch.
struct Batch {
    published: usize,
    /// Whether more events are known to wait: the batch was full, or one of its orders has a next event.
    more: bool,
    /// Why the rest of it was not published.
    failure: Option<PublishError>,
}

/// The result of publishing events one by one.
#[derive(Default)]
struct OneByOne {
    published: Vec<i64>,
    /// With the broker's errors.
    rejected: Vec<(i64, String)>,
    /// Why it ended early.
    failure: Option<PublishError>,
}

impl Relay {
    /// Woken by `wake_up`. It does nothing until it [runs](Relay::run); [`start`] makes one that does.
    pub fn new(
        lifecycle: &Lifecycle,
        config: &OutboxConfig,
        database: &Database,
        publisher: Publisher,
        wake_up: Arc<Notify>,
    ) -> Self {
        Self {
            wake_up,
            pool: database.pool_of(1, &[("synchronous_commit", "off")]),
            database: database.clone(),
            publisher,
            batch_size: config.batch_size.into(),
            max_rejections: config.max_rejections as i32,
            poll_interval: config.poll_interval,
            draining: lifecycle.draining(),
        }
    }

    /// Runs until the service drains. A batch in flight is finished; the rest waits for the next start, or for another
    /// replica. It may be dropped at any await, and run again: an event is published once more then.
    pub async fn run(&self) {
        let mut delays = backoff();
        while !self.draining.is_cancelled() {
            let both = async {
                self.database.wait_until_reachable().await;
                self.publisher.wait_until_reachable().await;
            };
            tokio::select! {
                () = both => {}
                () = self.draining.cancelled() => return,
            }
            let begun = Instant::now();
            let published = tokio::time::timeout(BATCH_TIMEOUT, self.publish_batch()).await;
            let failure = match published {
                Ok(Ok(Batch {
                    published,
                    more,
                    failure,
                })) => {
                    if published > 0 {
                        debug!(published, "events published");
                        delays = backoff();
                    }
                    if failure.is_none() && !more {
                        // A commit in the meantime has notified already.
                        self.idle().await;
                        tokio::time::sleep_until(begun + PACE).await;
                    }
                    failure.map(|error| error.to_string())
                }
                Ok(Err(error)) => Some(format!("the database failed: {error}")),
                // The pool closes the connection if that is dead without an error.
                Err(_) => Some(format!("not done within {} s", BATCH_TIMEOUT.as_secs())),
            };
            let Some(failure) = failure else { continue };
            warn!(error = failure, "events could not be published: retrying");
            tokio::select! {
                () = tokio::time::sleep(delays.next().unwrap_or(self.poll_interval)) => {}
                () = self.draining.cancelled() => return,
            }
        }
    }

    /// Waits for a commit, here or (see `Database::listen`) elsewhere, or for the time to poll.
    async fn idle(&self) {
        tokio::select! {
            () = self.wake_up.notified() => {}
            () = tokio::time::sleep(self.poll_interval) => {}
            () = self.draining.cancelled() => {}
        }
    }

    /// Publishes the next event of each order, and marks it.
    async fn publish_batch(&self) -> Result<Batch, sqlx::Error> {
        let mut transaction = database::begin(&self.pool).await?;
        let batch: Vec<Waiting> = sqlx::query_as(
            "SELECT position, event_id, event_type, routing_key, payload, traceparent, tracestate, rejections
             FROM outbox AS event
             WHERE published_at IS NULL AND parked_at IS NULL
               AND (retry_at IS NULL OR retry_at <= now() OR retry_at > now() + make_interval(secs => $2))
               AND NOT EXISTS (SELECT FROM outbox AS earlier
                               WHERE earlier.subject = event.subject AND earlier.published_at IS NULL
                                 AND earlier.position < event.position)
             ORDER BY position LIMIT $1 FOR UPDATE SKIP LOCKED",
        )
        .bind(self.batch_size)
        // A pause that is longer than any was recorded before the clock was set back.
        .bind(2.0 * REJECTED_PAUSE.as_secs_f64())
        .fetch_all(&mut *transaction)
        .await?;
        if batch.is_empty() {
            transaction.rollback().await?;
            return Ok(Batch {
                published: 0,
                more: false,
                failure: None,
            });
        }
        crash_point("outbox.before_publish");
        // An event that was rejected before would close the channel of the others again.
        let (together, mut alone): (Vec<&Waiting>, Vec<&Waiting>) =
            batch.iter().partition(|event| event.rejections == 0);
        let results = join_all(together.iter().map(|event| self.publish(event))).await;
        crash_point("outbox.before_mark");
        let mut published = Vec::with_capacity(batch.len());
        let (mut failure, mut returned, mut rejected) = (None, false, false);
        for (event, result) in together.iter().zip(results) {
            match result {
                Ok(()) => published.push(event.position),
                // It closed the channel of the whole batch: which event it was shows below.
                Err(PublishError::Rejected(_)) => rejected = true,
                Err(error) => {
                    returned |= matches!(error, PublishError::Unroutable(_));
                    failure = failure.or(Some(error));
                }
            }
        }
        if returned {
            // A returned message carries no number: of many in flight the client can't tell which one it was.
            published.clear();
        }
        if rejected {
            let unknown = |event: &&Waiting| !published.contains(&event.position);
            alone = together.into_iter().filter(unknown).chain(alone).collect();
            failure = None;
        }
        let mut rest = false;
        if failure.is_none() && !alone.is_empty() {
            let done = self.publish_one_by_one(&alone).await;
            rest = done.published.len() + done.rejected.len() < alone.len();
            published.extend(done.published);
            self.note_rejections(&mut transaction, &done.rejected)
                .await?;
            failure = done.failure;
        }
        // In this statement and not in a poll of its own, which would mostly find nothing. The statement sees the rows as they
        // were before it: those that it marks itself are left out.
        let follow_ups: bool = sqlx::query_scalar(
            "WITH marked AS (UPDATE outbox SET published_at = now() WHERE position = ANY($1) RETURNING subject)
             SELECT EXISTS (SELECT FROM outbox JOIN marked USING (subject)
                            WHERE published_at IS NULL AND position <> ALL($1))",
        )
        .bind(&published)
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Batch {
            published: published.len(),
            more: follow_ups || rest || batch.len() as i64 == self.batch_size,
            failure,
        })
    }

    /// Publishes events with no other in flight, so that a rejection is known to be of this one, until the limit or a failure
    /// that no event caused.
    async fn publish_one_by_one(&self, events: &[&Waiting]) -> OneByOne {
        let mut done = OneByOne::default();
        let started = Instant::now();
        for event in events.iter().take(ONE_BY_ONE) {
            if started.elapsed() > ONE_BY_ONE_WITHIN {
                break;
            }
            let sent = self.publisher.publish_alone(
                event.event_id,
                &event.event_type,
                &event.routing_key,
                event.payload.as_bytes(),
            );
            match self.traced(event, sent).await {
                Ok(()) => done.published.push(event.position),
                Err(PublishError::Rejected(error)) => done.rejected.push((event.position, error)),
                Err(error) => {
                    done.failure = Some(error);
                    break;
                }
            }
        }
        done
    }

    /// Counts the rejections of events, and parks those that have reached the limit.
    async fn note_rejections(
        &self,
        connection: &mut PgConnection,
        rejected: &[(i64, String)],
    ) -> Result<(), sqlx::Error> {
        if rejected.is_empty() {
            return Ok(());
        }
        let (positions, errors): (Vec<i64>, Vec<&str>) = rejected
            .iter()
            .map(|(position, error)| (*position, error.as_str()))
            .unzip();
        let noted: Vec<(Uuid, String, i32, String, bool)> = sqlx::query_as(
            "UPDATE outbox SET rejections = rejections + 1, rejected_because = rejected.because,
                 retry_at = now() + make_interval(secs => $3),
                 parked_at = CASE WHEN rejections + 1 >= $4 THEN now() END
             FROM unnest($1::bigint[], $2::text[]) AS rejected (position, because)
             WHERE outbox.position = rejected.position
             RETURNING event_id, subject, rejections, because, parked_at IS NOT NULL",
        )
        .bind(positions)
        .bind(errors)
        .bind(REJECTED_PAUSE.as_secs_f64())
        .bind(self.max_rejections)
        .fetch_all(connection)
        .await?;
        for (event_id, subject, tries, error, parked) in noted {
            if parked {
                error!(%event_id, subject, tries, error, "event parked: the broker rejects it");
            } else {
                warn!(%event_id, subject, tries, error, "event rejected by the broker: retrying");
            }
        }
        Ok(())
    }

    async fn publish(&self, event: &Waiting) -> Result<(), PublishError> {
        let sent = self.publisher.publish_encoded(
            event.event_id,
            &event.event_type,
            &event.routing_key,
            event.payload.as_bytes(),
        );
        self.traced(event, sent).await
    }

    /// Publishes an event in a span of the trace that it was recorded in.
    async fn traced(
        &self,
        event: &Waiting,
        sent: impl Future<Output = Result<(), PublishError>>,
    ) -> Result<(), PublishError> {
        let context = StoredContext {
            traceparent: event.traceparent.clone(),
            tracestate: event.tracestate.clone(),
        };
        let exchange = self.publisher.exchange();
        let span = send_span(&exchange, &event.routing_key, event.event_id, &context);
        let published = sent.instrument(span.clone()).await;
        if let Err(error) = &published {
            telemetry::fail(&span, error.outcome());
        }
        published
    }
}

/// The span of publishing an event: a child of the one that it was recorded in.
fn send_span(exchange: &str, routing_key: &str, id: Uuid, recorded_in: &StoredContext) -> Span {
    let message = Message {
        destination: exchange,
        routing_key,
        id: Some(&id.to_string()),
    };
    let span = message_span("send", &message);
    telemetry::adopt_parent(&span, recorded_in);
    span
}

/// The trace context that an event was recorded in, as the row has it.
#[derive(Default)]
struct StoredContext {
    traceparent: Option<String>,
    tracestate: Option<String>,
}

impl StoredContext {
    /// The current one.
    fn current() -> Self {
        let mut trace = Self::default();
        telemetry::inject(&mut trace);
        trace
    }
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
