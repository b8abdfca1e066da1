//! Consuming a stream: every message is acknowledged once its outcome is durable, and none is dropped.
//!
//! An event is applied in one transaction together with its id (`inbox`) and with what follows from it
//! (`outbox`); after the commit the message is acknowledged. Messages that arrive within 2 ms share a
//! transaction and an acknowledgement, which saves most of the round trips and flushes. When one of them fails, the
//! transaction is rolled back, and each is handled alone, so that one failure affects one message. A failure's kind
//! ([`crate::failure`]) decides:
//!
//! | failure | pattern on | off |
//! |---|---|---|
//! | transient (`retry`) | to the next retry tier; after the last it is dead-lettered, `retries_exhausted` | dead-lettered at once |
//! | permanent (`dead_letter`) | dead-lettered at once, with the reason | handed to the handler again, for ever |
//!
//! A retry or a dead letter is published with a confirm *before* the original is acknowledged: a crash in
//! between makes a duplicate, never a loss. While the broker has no room for it, or is slow, it is retried; when the
//! channel breaks, the broker redelivers the message. Left out: what an event means.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::future::Future;
use std::ops::Deref;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, Utc};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions,
};
use lapin::types::{AMQPValue, DeliveryTag, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use shared_events::Event;
use shared_events::topology::{
    DeadReason, MAX_EVENT_BYTES, RETRY_TIERS, RetryTier, Topology, headers,
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error, info, warn};

use crate::backoff::backoff;
use crate::broker::{Broker, PublishError, Session, declare};
use crate::config::ConsumerConfig;
use crate::crash_points::crash_point;
use crate::database::Database;
use crate::failure::Failure;
use crate::inbox::{self, Inbox};
use crate::lifecycle::Lifecycle;
use crate::message::{
    attempts_so_far, copied, drop_excess, first_failure, insert_text, original_routing_key,
    shortened,
};
use crate::outbox::{Outbox, UnitOfWork};
use crate::patterns::{Pattern, Switch};
use crate::readiness::Health;
use crate::telemetry::{self, Message, message_span};

/// A batch is complete so long after its first message was taken, or when it is full: the relay publishes batches, whose
/// messages arrive one after the other.
const COLLECTED_WITHIN: Duration = Duration::from_millis(2);
/// A handler that takes longer has failed: its message is retried.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(30);
/// Settling (confirm and acknowledge) may take this long before the channel counts as broken.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// With `dead_letter` off, the pause before a message is handed to its handler again: what a trip through the
/// broker would take.
const REQUEUE_PAUSE: Duration = Duration::from_millis(50);
/// How often ids are looked for that the inbox may forget, and how many go at a time.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
const PRUNED_ROWS: i64 = 1_000;

/// What a service does with the events of a stream.
pub trait Handler: Send + Sync + 'static {
    /// Applies an event within the transaction `work`; the consumer commits. It may be dropped at any await,
    /// and called again.
    fn apply(
        &self,
        event: &Event,
        work: &mut UnitOfWork<'_>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// An event that was applied before was delivered again. That happens when a message is delivered twice, and when its
    /// producer publishes it again because the answer to it was lost: the answer is published again
    /// ([`UnitOfWork::republish`]), and nothing else is done. By default nothing at all.
    fn repeat(
        &self,
        _event: &Event,
        _work: &mut UnitOfWork<'_>,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// Orders the locks that applying events takes, where events of different subjects lock the same row. The events of a
    /// transaction are applied in the order of this key, then of their subjects: transactions that lock in the same order
    /// can't deadlock.
    fn lock_key(&self, _event: &Event) -> i64 {
        0
    }
}

/// Why consuming stops, to start anew on another channel.
#[derive(Debug, thiserror::Error)]
enum ConsumeError {
    #[error("the broker cancelled the consumer")]
    Cancelled,
    #[error("the broker did not take a message or an acknowledgement in time")]
    TimedOut,
    #[error(transparent)]
    Broker(#[from] lapin::Error),
    #[error("failed to publish a retry or a dead letter: {0}")]
    Publish(#[from] PublishError),
}

/// Consumes `topology`'s queue until the service drains. While `database` is out of reach nothing is handled,
/// so that an outage doesn't use up the retries of every message.
pub fn spawn(
    lifecycle: &Lifecycle,
    config: ConsumerConfig,
    broker: Broker,
    topology: Topology,
    database: Database,
    outbox: Outbox,
    handler: impl Handler,
) {
    let consumer = Consumer::new(
        lifecycle, config, broker, topology, database, outbox, handler,
    );
    lifecycle.spawn_worker("consumer", async move {
        consumer.run().await;
        Ok(())
    });
}

fn spawn_pruning(lifecycle: &Lifecycle, window: Duration, database: &Database) {
    let pool = database.pool.clone();
    database.every(lifecycle, "inbox pruning", PRUNE_INTERVAL, move || {
        let pool = pool.clone();
        async move {
            let mut connection = pool.acquire().await?;
            while inbox::prune(&mut connection, window, PRUNED_ROWS).await? > 0 {}
            Ok(())
        }
    });
}

/// A queue's consumer; [`spawn`] makes one and runs it.
pub struct Consumer<H> {
    broker: Broker,
    topology: Topology,
    database: Database,
    outbox: Outbox,
    handler: H,
    inbox: Inbox,
    /// The delays of a transient failure, in this order.
    tiers: &'static [RetryTier],
    failure_policy: FailurePolicy,
    prefetch: u16,
    concurrency: usize,
    batch_size: usize,
    consuming: Health,
    draining: CancellationToken,
}

/// The tiers that a failed message passes before it is dead-lettered.
fn tiers(retry: Switch) -> &'static [RetryTier] {
    if retry.is_on() { &RETRY_TIERS } else { &[] }
}

/// What is done with a message that can't be handled.
#[derive(Debug, Clone, Copy)]
enum FailurePolicy {
    /// It is dead-lettered, with the reason.
    DeadLetter,
    /// It is handed to the handler again, for ever.
    ///
    /// It stays with the consumer meanwhile, as it would at the head of a queue. A `nack` would end the loop: the broker
    /// counts deliveries, and has a limit of its own.
    Redeliver,
}

impl FailurePolicy {
    fn chosen(dead_letter: Switch) -> Self {
        if dead_letter.is_on() {
            Self::DeadLetter
        } else {
            Self::Redeliver
        }
    }
}

/// What became of a message.
enum Outcome {
    Applied,
    /// Applied before, and skipped.
    Duplicate,
    Retried,
    Dead,
    /// Neither acknowledged nor published: handed to the handler again.
    Stuck,
}

impl Outcome {
    /// The label in metrics.
    fn name(&self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Retried => "retried",
            Self::Dead => "dead",
            Self::Stuck => "stuck",
        }
    }

    /// The error type in its span, unless it is a success.
    fn failure(&self) -> Option<&'static str> {
        match self {
            Self::Applied | Self::Duplicate => None,
            Self::Retried | Self::Dead | Self::Stuck => Some(self.name()),
        }
    }
}

/// Where a failed message is published to, with the error's text.
enum Disposition {
    Retry(RetryTier, String),
    DeadLetter(DeadReason, String),
}

impl Disposition {
    /// The span of publishing it there, a child of the failed attempt's.
    fn span(&self, copy: &Copy<'_>, delivery: &Delivery) -> Span {
        let id = delivery.properties.message_id().as_ref();
        let operation = match self {
            Self::Retry(..) => "retry",
            Self::DeadLetter(..) => "dead_letter",
        };
        let message = Message {
            destination: &copy.exchange,
            routing_key: &copy.routing_key,
            id: id.map(ShortString::as_str),
        };
        message_span(operation, &message)
    }
}

impl<H: Handler> Consumer<H> {
    /// It consumes nothing until it [runs](Consumer::run); see [`spawn`].
    pub fn new(
        lifecycle: &Lifecycle,
        config: ConsumerConfig,
        broker: Broker,
        topology: Topology,
        database: Database,
        outbox: Outbox,
        handler: H,
    ) -> Self {
        for (pattern, switch) in [
            (Pattern::Inbox, config.inbox),
            (Pattern::Retry, config.retry),
            (Pattern::DeadLetter, config.dead_letter),
        ] {
            lifecycle.enter_pattern(pattern, switch);
        }
        if config.inbox.is_on() {
            spawn_pruning(lifecycle, config.inbox_window, &database);
        }
        // Connections of its own: requests that wait for a connection must not use up the retries of messages.
        let pool = database.pool_of(config.concurrency as u32, &[]);
        lifecycle.metrics().pool("consumer", &pool);
        let outbox = outbox.on(pool);
        Self {
            broker,
            topology,
            database,
            outbox,
            handler,
            inbox: Inbox::chosen(config.inbox),
            tiers: tiers(config.retry),
            failure_policy: FailurePolicy::chosen(config.dead_letter),
            prefetch: config.prefetch,
            concurrency: config.concurrency,
            batch_size: config.batch_size,
            consuming: lifecycle.readiness().depends_on("consumer"),
            draining: lifecycle.draining(),
        }
    }

    /// Runs until the service drains. It may be dropped at any await, and run again: what isn't acknowledged is redelivered.
    pub async fn run(&self) {
        let mut delays = backoff();
        while !self.draining.is_cancelled() {
            let session = tokio::select! {
                session = self.broker.session() => session,
                () = self.draining.cancelled() => return,
            };
            let Some(session) = session else { return };
            let started = Instant::now();
            let consumed = self.consume(&session).await;
            self.consuming.send_replace(false);
            let Err(failure) = consumed else { return };
            warn!(queue = self.topology.queue(), error = %failure, "consuming failed: starting anew");
            if started.elapsed() > Duration::from_secs(30) {
                delays = backoff();
            }
            let delay = delays.next().unwrap_or_default();
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.draining.cancelled() => {}
            }
        }
    }

    /// Consumes on one channel. `Ok` when the service drains: the messages in flight are settled, those only prefetched go
    /// back to the broker with the channel.
    async fn consume(&self, session: &Session) -> Result<(), ConsumeError> {
        let (channel, deliveries) = tokio::time::timeout(SETTLE_TIMEOUT, self.subscribe(session))
            .await
            .map_err(|_| ConsumeError::TimedOut)??;
        self.consuming.send_replace(true);
        let batches =
            tokio_stream::StreamExt::chunks_timeout(deliveries, self.batch_size, COLLECTED_WITHIN);
        let mut batches = pin!(batches);
        let unsettled = Unsettled::default();
        let mut in_flight = FuturesUnordered::new();
        let mut alone = VecDeque::new();
        loop {
            while in_flight.len() < self.concurrency
                && let Some(delivery) = alone.pop_front()
            {
                in_flight.push(self.settle(session, &unsettled, vec![delivery]));
            }
            tokio::select! {
                biased;
                () = self.draining.cancelled() => break,
                Some(settled) = in_flight.next() => alone.extend(settled?),
                batch = batches.next(), if in_flight.len() < self.concurrency => {
                    let batch: Result<Vec<Delivery>, lapin::Error> =
                        batch.ok_or(ConsumeError::Cancelled)?.into_iter().collect();
                    let batch = batch?;
                    unsettled.add(&batch);
                    in_flight.push(self.settle(session, &unsettled, batch));
                }
            }
        }
        // Concurrently: messages in flight go on, also while the broker is slow to answer.
        let tag = self.broker.service().into();
        let cancel = channel.basic_cancel(tag, BasicCancelOptions::default());
        let finish = async {
            while let Some(settled) = in_flight.next().await {
                // A message that would have to be handled alone now goes back to the broker with the channel.
                settled?;
            }
            Ok::<_, ConsumeError>(())
        };
        let (cancelled, finished) =
            tokio::join!(tokio::time::timeout(SETTLE_TIMEOUT, cancel), finish);
        finished?;
        cancelled.map_err(|_| ConsumeError::TimedOut)??;
        let close = channel.close(200, "draining".into());
        tokio::time::timeout(SETTLE_TIMEOUT, close)
            .await
            .map_err(|_| ConsumeError::TimedOut)??;
        Ok(())
    }

    async fn subscribe(
        &self,
        session: &Session,
    ) -> Result<(OwnChannel, lapin::Consumer), lapin::Error> {
        let channel = OwnChannel(session.consuming().await?);
        // Declared again, as the queue may have been deleted since the connection was opened.
        declare(&channel, self.topology).await?;
        channel
            .basic_qos(self.prefetch, BasicQosOptions::default())
            .await?;
        let deliveries = channel
            .basic_consume(
                self.topology.queue().into(),
                self.broker.service().into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        Ok((channel, deliveries))
    }

    /// Settles the messages of a slot; returns those that have to be handled alone, if their transaction failed.
    async fn settle(
        &self,
        session: &Session,
        unsettled: &Unsettled,
        mut deliveries: Vec<Delivery>,
    ) -> Result<Vec<Delivery>, ConsumeError> {
        if deliveries.len() > 1 {
            return self.settle_together(unsettled, deliveries).await;
        }
        if let Some(delivery) = deliveries.pop() {
            self.settle_alone(session, unsettled, delivery).await?;
        }
        Ok(Vec::new())
    }

    async fn settle_together(
        &self,
        unsettled: &Unsettled,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<Delivery>, ConsumeError> {
        let (mut together, mut messages, mut alone) = (Vec::new(), Vec::new(), Vec::new());
        for delivery in deliveries {
            match self.read(&delivery) {
                Ok(event) => {
                    messages.push((event, self.span(&delivery)));
                    together.push(delivery);
                }
                // Read once more, and dead-lettered, by itself.
                Err(_) => alone.push(delivery),
            }
        }
        if together.is_empty() {
            return Ok(alone);
        }
        tokio::select! {
            () = self.database.wait_until_reachable() => {}
            // Unsettled: the broker redelivers them, here or elsewhere.
            () = self.draining.cancelled() => return Ok(Vec::new()),
        }
        let started = Instant::now();
        let outcomes = match self.apply(&messages).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                debug!(%error, messages = messages.len(), "a batch failed: each message is handled alone");
                for (_, span) in &messages {
                    telemetry::fail(span, "rolled_back");
                }
                alone.extend(together);
                return Ok(alone);
            }
        };
        let queue = self.topology.queue();
        // Each one's share of the time.
        let share = started.elapsed() / outcomes.len() as u32;
        for _ in &together {
            crash_point("consumer.before_ack");
        }
        unsettled.acknowledge(&together).await?;
        for ((_, span), outcome) in messages.iter().zip(outcomes) {
            let trace = telemetry::sampled_trace(span);
            self.broker
                .metrics()
                .processed(&queue, outcome.name(), share, trace);
        }
        Ok(alone)
    }

    async fn settle_alone(
        &self,
        session: &Session,
        unsettled: &Unsettled,
        delivery: Delivery,
    ) -> Result<(), ConsumeError> {
        let queue = self.topology.queue();
        loop {
            tokio::select! {
                () = self.database.wait_until_reachable() => {}
                // Unsettled: the broker redelivers it, here or elsewhere.
                () = self.draining.cancelled() => return Ok(()),
            }
            // One for each attempt: that of a message that is redelivered for ever would never end.
            let span = self.span(&delivery);
            let started = Instant::now();
            let attempt = self
                .attempt(session, unsettled, &delivery)
                .instrument(span.clone());
            let outcome = match attempt.await {
                Ok(outcome) => outcome,
                Err(failure) => {
                    telemetry::fail(&span, "broken_channel");
                    return Err(failure);
                }
            };
            let trace = telemetry::sampled_trace(&span);
            self.broker
                .metrics()
                .processed(&queue, outcome.name(), started.elapsed(), trace);
            if let Some(kind) = outcome.failure() {
                telemetry::fail(&span, kind);
            }
            if !matches!(outcome, Outcome::Stuck) {
                return Ok(());
            }
            drop(span);
            tokio::select! {
                () = tokio::time::sleep(REQUEUE_PAUSE) => {}
                () = self.draining.cancelled() => return Ok(()),
            }
        }
    }

    /// The span of handling a message, with the relation to the sender's that is configured.
    fn span(&self, delivery: &Delivery) -> Span {
        let id = delivery.properties.message_id().as_ref();
        let message = Message {
            destination: &self.topology.queue(),
            routing_key: delivery.routing_key.as_str(),
            id: id.map(ShortString::as_str),
        };
        let span = message_span("process", &message);
        let traces = self.broker.traces();
        traces.extract(&span, &mut headers_of(delivery));
        span
    }

    /// Handles a message once, and settles it unless it is stuck.
    async fn attempt(
        &self,
        session: &Session,
        unsettled: &Unsettled,
        delivery: &Delivery,
    ) -> Result<Outcome, ConsumeError> {
        let outcome = match self.handle(delivery).await {
            Ok(outcome) => {
                crash_point("consumer.before_ack");
                outcome
            }
            Err(failure) => {
                let message_headers = headers_of(delivery);
                let attempts = attempts_so_far(&message_headers) + 1;
                match (self.disposition(failure, attempts), self.failure_policy) {
                    (Disposition::DeadLetter(reason, error), FailurePolicy::Redeliver) => {
                        debug!(%reason, error, "event redelivered");
                        return Ok(Outcome::Stuck);
                    }
                    (disposition, _) => {
                        let copy = self.copy(delivery, message_headers, attempts, &disposition);
                        let span = disposition.span(&copy, delivery);
                        let sent = self.hand_over(session, copy).instrument(span.clone());
                        match sent.await {
                            Ok(true) => {}
                            Ok(false) => {
                                telemetry::fail(&span, "stuck");
                                return Ok(Outcome::Stuck);
                            }
                            // Too large since its own publication: the limit was lowered. Ending the session would count
                            // as a delivery of all messages, and not help this one.
                            Err(ConsumeError::Publish(PublishError::Rejected(error))) => {
                                telemetry::fail(&span, "rejected");
                                if matches!(self.failure_policy, FailurePolicy::Redeliver) {
                                    return Ok(Outcome::Stuck);
                                }
                                error!(
                                    attempts,
                                    error,
                                    "the broker rejects the copy: event dead-lettered as it is"
                                );
                                unsettled.dead_letter(delivery).await?;
                                self.count(Disposition::DeadLetter(DeadReason::Rejected, error));
                                return Ok(Outcome::Dead);
                            }
                            Err(failure) => {
                                telemetry::fail(&span, "broken_channel");
                                return Err(failure);
                            }
                        }
                        crash_point("consumer.before_retry_ack");
                        self.count(disposition)
                    }
                }
            }
        };
        unsettled
            .acknowledge(std::slice::from_ref(delivery))
            .await?;
        Ok(outcome)
    }

    async fn handle(&self, delivery: &Delivery) -> Result<Outcome, Failure> {
        let message = (self.read(delivery)?, Span::current());
        let mut outcomes = self.apply(std::slice::from_ref(&message)).await?;
        Ok(outcomes.pop().expect("an outcome for each message"))
    }

    fn read(&self, delivery: &Delivery) -> Result<Event, Failure> {
        if delivery.data.len() > MAX_EVENT_BYTES {
            return Err(Failure::Permanent {
                reason: DeadReason::Oversized,
                error: format!(
                    "{} bytes, and {MAX_EVENT_BYTES} are allowed",
                    delivery.data.len()
                ),
            });
        }
        Ok(Event::decode(&delivery.data)?)
    }

    /// The outcome of each, unless their transaction failed or took too long.
    async fn apply(&self, messages: &[(Event, Span)]) -> Result<Vec<Outcome>, Failure> {
        tokio::time::timeout(HANDLER_TIMEOUT, self.apply_in_time(messages))
            .await
            .unwrap_or_else(|_| {
                let seconds = HANDLER_TIMEOUT.as_secs();
                Err(Failure::Transient(format!(
                    "not handled within {seconds} s"
                )))
            })
    }

    /// Records the events' ids, their effects and the events that follow, in one transaction.
    async fn apply_in_time(&self, messages: &[(Event, Span)]) -> Result<Vec<Outcome>, Failure> {
        let mut work = self.outbox.begin().await?;
        let ids: Vec<_> = messages.iter().map(|(event, _)| event.id).collect();
        let new = self.inbox.are_new(work.connection(), &ids).await?;
        let in_order = |chosen: bool| {
            let messages = messages.iter().zip(&new);
            let chosen = messages.filter(|(_, new)| **new == chosen);
            let mut chosen: Vec<_> = chosen.map(|(message, _)| message).collect();
            chosen.sort_by_cached_key(|(event, _)| {
                (self.handler.lock_key(event), event.subject.clone())
            });
            chosen
        };
        // Each once, even if a batch has it twice.
        let mut handled = HashSet::new();
        for (event, span) in in_order(true) {
            let applied = async {
                debug!(event_id = %event.id, event_type = event.event_type, "handling");
                self.handler.apply(event, &mut work).await
            };
            applied.instrument(span.clone()).await?;
            handled.insert(event.id);
        }
        for (event, span) in in_order(false) {
            if handled.insert(event.id) {
                let repeated = self.handler.repeat(event, &mut work);
                repeated.instrument(span.clone()).await?;
            }
        }
        work.commit().await?;
        let outcomes = messages.iter().zip(new).map(|((event, span), new)| {
            if new {
                return Outcome::Applied;
            }
            let _entered = span.enter();
            info!(event_id = %event.id, subject = event.subject, "duplicate: already applied");
            self.broker
                .metrics()
                .inbox_duplicate(&self.topology.queue());
            Outcome::Duplicate
        });
        Ok(outcomes.collect())
    }

    fn disposition(&self, failure: Failure, attempts: i64) -> Disposition {
        match failure {
            Failure::Permanent { reason, error } => {
                Disposition::DeadLetter(reason, shortened(&error))
            }
            Failure::Transient(error) => match self.tiers.get(attempts as usize - 1) {
                Some(tier) => Disposition::Retry(*tier, shortened(&error)),
                None => Disposition::DeadLetter(DeadReason::RetriesExhausted, shortened(&error)),
            },
        }
    }

    /// The message as it is published again, and its destination.
    fn copy<'a>(
        &self,
        delivery: &'a Delivery,
        mut table: FieldTable,
        attempts: i64,
        disposition: &Disposition,
    ) -> Copy<'a> {
        let routing_key = original_routing_key(delivery).to_owned();
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let first_failed_at = first_failure(&table).unwrap_or_else(|| now.clone());
        drop_excess(&mut table);
        insert_text(&mut table, headers::FIRST_FAILED_AT, &first_failed_at);
        table.insert(headers::ATTEMPTS.into(), AMQPValue::LongLongInt(attempts));
        insert_text(&mut table, headers::ROUTING_KEY, &routing_key);
        let (exchange, routing_key, error) = match disposition {
            Disposition::Retry(tier, error) => {
                warn!(
                    attempts,
                    tier = tier.name,
                    error,
                    "event failed: retried later"
                );
                (self.topology.retry_exchange(), tier.name.to_owned(), error)
            }
            Disposition::DeadLetter(reason, error) => {
                error!(attempts, %reason, error, "event dead-lettered");
                insert_text(&mut table, headers::FAILED_AT, &now);
                insert_text(&mut table, headers::CONSUMER, self.broker.service());
                insert_text(&mut table, headers::REASON, reason.as_str());
                (self.topology.dead_letter_exchange(), routing_key, error)
            }
        };
        insert_text(&mut table, headers::ERROR, error);
        Copy {
            exchange,
            routing_key,
            payload: &delivery.data,
            properties: copied(&delivery.properties),
            headers: table,
        }
    }

    /// Publishes a copy, and retries while the broker has no room for it or doesn't answer: closing the channel instead
    /// would count as a delivery of every message that it holds. `false` when the service drains first.
    async fn hand_over(&self, session: &Session, mut copy: Copy<'_>) -> Result<bool, ConsumeError> {
        // This span is the parent of the next attempt's, not that of the first sender.
        self.broker.traces().inject(&mut copy.headers);
        for pause in backoff() {
            let sent = session.hand_over(
                &copy.exchange,
                &copy.routing_key,
                copy.payload,
                copy.properties.clone().with_headers(copy.headers.clone()),
            );
            let exchange = &copy.exchange;
            match tokio::time::timeout(SETTLE_TIMEOUT, sent).await {
                Ok(Ok(())) => return Ok(true),
                Ok(Err(PublishError::Refused)) => {
                    warn!(exchange, "no room for the message: retrying");
                }
                Ok(Err(error)) => return Err(error.into()),
                // It may have arrived, and is a duplicate then: the inbox has its id.
                Err(_) => warn!(exchange, "the broker takes no messages: retrying"),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.draining.cancelled() => break,
            }
        }
        Ok(false)
    }

    fn count(&self, disposition: Disposition) -> Outcome {
        let queue = self.topology.queue();
        match disposition {
            Disposition::Retry(tier, _) => {
                self.broker.metrics().retried(&queue, tier.name);
                Outcome::Retried
            }
            Disposition::DeadLetter(reason, _) => {
                self.broker.metrics().dead_letter(&queue, reason);
                Outcome::Dead
            }
        }
    }
}

/// A channel that is closed when it is dropped, at the latest.
///
/// lapin closes a channel without handles, but keeps its consumers: if the answer to `basic.consume` was not awaited, the
/// consumer would go on taking messages that nothing reads.
struct OwnChannel(Channel);

impl Deref for OwnChannel {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.0
    }
}

impl Drop for OwnChannel {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if self.0.status().connected() {
            let channel = self.0.clone();
            runtime.spawn(async move {
                // The frame is sent in any case; the supervisor replaces a connection that is dead.
                let close = channel.close(200, "given up".into());
                let _ = tokio::time::timeout(SETTLE_TIMEOUT, close).await;
            });
        }
    }
}

/// The deliveries of a channel that are being handled, by their tags, which the broker counts up.
#[derive(Default)]
struct Unsettled {
    tags: Mutex<BTreeSet<DeliveryTag>>,
    /// Held while acknowledgements are written, so that none covers the messages of another one that is written after it.
    writing: tokio::sync::Mutex<()>,
}

impl Unsettled {
    fn add(&self, deliveries: &[Delivery]) {
        let tags = deliveries.iter().map(|delivery| delivery.delivery_tag);
        self.lock().extend(tags);
    }

    /// Acknowledges deliveries whose outcome is durable. Those before any other that is still being handled share a frame,
    /// and an entry in the queue's log.
    async fn acknowledge(&self, settled: &[Delivery]) -> Result<(), ConsumeError> {
        let acknowledged = async {
            let _writing = self.writing.lock().await;
            let (together, alone) = self.remove(settled);
            let acknowledged = settled.iter().filter_map(|delivery| {
                let tag = delivery.delivery_tag;
                let multiple = together == Some(tag);
                (multiple || alone.contains(&tag))
                    .then(|| delivery.acker.ack(BasicAckOptions { multiple }))
            });
            try_join_all(acknowledged).await
        };
        tokio::time::timeout(SETTLE_TIMEOUT, acknowledged)
            .await
            .map_err(|_| ConsumeError::TimedOut)??;
        Ok(())
    }

    /// Has the broker dead-letter a delivery by itself, without the headers of a copy.
    async fn dead_letter(&self, delivery: &Delivery) -> Result<(), ConsumeError> {
        let rejected = async {
            let _writing = self.writing.lock().await;
            self.lock().remove(&delivery.delivery_tag);
            let options = BasicRejectOptions { requeue: false };
            delivery.acker.reject(options).await
        };
        tokio::time::timeout(SETTLE_TIMEOUT, rejected)
            .await
            .map_err(|_| ConsumeError::TimedOut)??;
        Ok(())
    }

    fn remove(&self, settled: &[Delivery]) -> (Option<DeliveryTag>, BTreeSet<DeliveryTag>) {
        let tags = || settled.iter().map(|delivery| delivery.delivery_tag);
        let mut unsettled = self.lock();
        for tag in tags() {
            unsettled.remove(&tag);
        }
        split(tags(), unsettled.first().copied())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<DeliveryTag>> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last tag before the first unsettled one, which can be acknowledged with all before it; and the tags after that one.
fn split(
    tags: impl Iterator<Item = DeliveryTag>,
    first_unsettled: Option<DeliveryTag>,
) -> (Option<DeliveryTag>, BTreeSet<DeliveryTag>) {
    let (before, after): (BTreeSet<_>, BTreeSet<_>) =
        tags.partition(|tag| first_unsettled.is_none_or(|first| *tag < first));
    (before.last().copied(), after)
}

fn headers_of(delivery: &Delivery) -> FieldTable {
    delivery.properties.headers().clone().unwrap_or_default()
}

/// A failed message, ready to be published.
struct Copy<'a> {
    exchange: String,
    routing_key: String,
    payload: &'a [u8],
    properties: BasicProperties,
    headers: FieldTable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_before_every_unsettled_message_is_acknowledged_together() {
        let all = |tags: &[DeliveryTag], first| split(tags.iter().copied(), first);
        assert_eq!(all(&[3, 1, 2], None), (Some(3), BTreeSet::new()));
        assert_eq!(all(&[1, 2], Some(3)), (Some(2), BTreeSet::new()));
        assert_eq!(all(&[1, 4, 5], Some(3)), (Some(1), BTreeSet::from([4, 5])));
        assert_eq!(all(&[4, 5], Some(3)), (None, BTreeSet::from([4, 5])));
    }
}
