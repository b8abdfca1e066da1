//! Consuming a stream: every message is acknowledged once its fate is settled, and none is dropped.
//!
//! | the handler says | what happens |
//! |---|---|
//! | `Ok` | acknowledged (after the handler's commit) |
//! | [`Failure::Transient`] | to the next retry tier; after the last it is dead, `retries_exhausted` |
//! | [`Failure::Permanent`] | dead at once, with the reason |
//!
//! A retry or a dead letter is published with a confirm *before* the original is acknowledged: a crash in
//! between makes a duplicate, never a loss. When publishing it fails, the channel is given up and the broker
//! hands the message out again. Left out: what an event means, and noticing duplicates; handlers do.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, Utc};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use shared_events::topology::{DeadReason, MAX_EVENT_BYTES, RETRY_TIERS, Topology, headers};
use shared_events::{DecodeError, Event};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info_span, warn};

use crate::backoff::backoff;
use crate::broker::{Broker, MessageHeaders, PublishError, Session, declare, send};
use crate::database::{self, Database};
use crate::lifecycle::Lifecycle;
use crate::readiness::Health;
use crate::telemetry;

/// A handler that takes longer is stuck: its message is tried again later.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(30);
/// Settling (confirm and acknowledge) may take this long before the channel counts as broken.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a handler did not apply an event.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The same event may succeed later, as it is.
    #[error("{0}")]
    Transient(String),
    /// It never will.
    #[error("{reason}: {error}")]
    Permanent {
        /// What the dead letter says.
        reason: DeadReason,
        /// The error's text.
        error: String,
    },
}

impl Failure {
    /// An event whose type this consumer doesn't know.
    pub fn unknown_type(event: &Event) -> Self {
        Self::Permanent {
            reason: DeadReason::UnknownType,
            error: format!("no handler for event type {:?}", event.event_type),
        }
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        Self::Permanent {
            reason: DeadReason::Unreadable,
            error: error.to_string(),
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        if database::is_transient(&error) {
            return Self::Transient(error.to_string());
        }
        Self::Permanent {
            reason: DeadReason::Rejected,
            error: error.to_string(),
        }
    }
}

/// Why consuming has to begin anew on another channel.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the broker cancelled the consumer")]
    Cancelled,
    #[error("the broker did not take an acknowledgement in time")]
    Stuck,
    #[error(transparent)]
    Broker(#[from] lapin::Error),
    #[error("failed to publish a retry or a dead letter: {0}")]
    Publish(#[from] PublishError),
}

/// Consumes `topology`'s queue until the service drains. `database` is what the handler writes to: while it
/// is out of reach nothing is handled, so that an outage doesn't use up the retries of every message.
pub fn spawn<H, F>(
    lifecycle: &Lifecycle,
    broker: Broker,
    topology: Topology,
    database: Database,
    handler: H,
) where
    H: Fn(Event) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let consumer = Consumer {
        broker,
        topology,
        database,
        handler,
        consuming: lifecycle.readiness().depends_on("consumer"),
        draining: lifecycle.draining(),
    };
    lifecycle.spawn_worker("consumer", async move {
        consumer.run().await;
        Ok(())
    });
}

struct Consumer<H> {
    broker: Broker,
    topology: Topology,
    database: Database,
    handler: H,
    consuming: Health,
    draining: CancellationToken,
}

/// What became of a message; the label in metrics.
enum Outcome {
    Applied,
    Retried,
    Dead,
}

impl<H, F> Consumer<H>
where
    H: Fn(Event) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    async fn run(&self) {
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
            let Err(broken) = consumed else { return };
            warn!(queue = self.topology.queue(), error = %broken, "consuming broke off");
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

    /// One channel's life. `Ok` when the service drains: what was being handled is settled, what was only
    /// prefetched goes back to the broker with the channel.
    async fn consume(&self, session: &Session) -> Result<(), Broken> {
        let channel = session.channel().await?;
        // Again, as the queue may have been deleted since the connection was made.
        declare(&channel, self.topology).await?;
        let config = self.broker.config();
        let tag: ShortString = self.broker.service().into();
        channel
            .basic_qos(config.prefetch, BasicQosOptions::default())
            .await?;
        let mut deliveries = channel
            .basic_consume(
                self.topology.queue().into(),
                tag.clone(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        self.consuming.send_replace(true);
        let mut in_flight = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = self.draining.cancelled() => break,
                Some(settled) = in_flight.next() => settled?,
                delivery = deliveries.next(), if in_flight.len() < config.concurrency => {
                    let delivery = delivery.ok_or(Broken::Cancelled)??;
                    in_flight.push(self.settle(&channel, delivery));
                }
            }
        }
        channel
            .basic_cancel(tag, BasicCancelOptions::default())
            .await?;
        while let Some(settled) = in_flight.next().await {
            settled?;
        }
        channel.close(200, "draining".into()).await?;
        Ok(())
    }

    async fn settle(&self, channel: &Channel, delivery: Delivery) -> Result<(), Broken> {
        let queue = self.topology.queue();
        let message_headers =
            MessageHeaders(delivery.properties.headers().clone().unwrap_or_default());
        let span = info_span!(
            "process",
            otel.name = format!("process {queue}"),
            otel.kind = "consumer",
            messaging.system = "rabbitmq",
            messaging.operation.name = "process",
            messaging.operation.r#type = "process",
            messaging.destination.name = queue,
            messaging.rabbitmq.destination.routing_key = delivery.routing_key.as_str(),
            messaging.message.id = delivery
                .properties
                .message_id()
                .as_ref()
                .map(ShortString::as_str),
        );
        telemetry::adopt_parent(&span, &message_headers);
        async {
            tokio::select! {
                () = self.database.in_reach() => {}
                // Unsettled: the broker hands it out again, here or elsewhere.
                () = self.draining.cancelled() => return Ok(()),
            }
            let started = Instant::now();
            let failure = self.handle(&delivery).await.err();
            let settled = async {
                let outcome = match failure {
                    None => Outcome::Applied,
                    Some(failure) => {
                        self.give_back(channel, &delivery, message_headers.0, failure)
                            .await?
                    }
                };
                delivery.acker.ack(BasicAckOptions::default()).await?;
                Ok::<_, Broken>(outcome)
            };
            let outcome = tokio::time::timeout(SETTLE_TIMEOUT, settled)
                .await
                .map_err(|_| Broken::Stuck)??;
            let outcome = match outcome {
                Outcome::Applied => "applied",
                Outcome::Retried => "retried",
                Outcome::Dead => "dead",
            };
            self.broker
                .metrics()
                .processed(&queue, outcome, started.elapsed());
            Ok(())
        }
        .instrument(span)
        .await
    }

    async fn handle(&self, delivery: &Delivery) -> Result<(), Failure> {
        if delivery.data.len() > MAX_EVENT_BYTES {
            return Err(Failure::Permanent {
                reason: DeadReason::Oversized,
                error: format!(
                    "{} bytes, and {MAX_EVENT_BYTES} are allowed",
                    delivery.data.len()
                ),
            });
        }
        let event = Event::decode(&delivery.data)?;
        debug!(event_id = %event.id, event_type = event.event_type, "handling");
        tokio::time::timeout(HANDLER_TIMEOUT, (self.handler)(event))
            .await
            .unwrap_or_else(|_| {
                let seconds = HANDLER_TIMEOUT.as_secs();
                Err(Failure::Transient(format!(
                    "not handled within {seconds} s"
                )))
            })
    }

    /// Publishes a copy of the message to where its failure sends it.
    async fn give_back(
        &self,
        channel: &Channel,
        delivery: &Delivery,
        mut table: FieldTable,
        failure: Failure,
    ) -> Result<Outcome, Broken> {
        let queue = self.topology.queue();
        let attempts = attempts_so_far(&table) + 1;
        let routing_key = original_routing_key(&table, delivery);
        drop_excess(&mut table);
        table.insert(headers::ATTEMPTS.into(), AMQPValue::LongLongInt(attempts));
        insert_text(&mut table, headers::ROUTING_KEY, &routing_key);
        let (reason, error) = match failure {
            Failure::Permanent { reason, error } => (reason, shortened(&error)),
            Failure::Transient(error) => {
                let error = shortened(&error);
                match RETRY_TIERS.get(attempts as usize - 1) {
                    Some(tier) => {
                        warn!(
                            attempts,
                            tier = tier.name,
                            error,
                            "event failed: tried again later"
                        );
                        insert_text(&mut table, headers::ERROR, &error);
                        let properties = copied(&delivery.properties).with_headers(table);
                        let exchange = self.topology.retry_exchange();
                        send(channel, &exchange, tier.name, &delivery.data, properties).await?;
                        self.broker.metrics().retried(&queue, tier.name);
                        return Ok(Outcome::Retried);
                    }
                    None => (DeadReason::RetriesExhausted, error),
                }
            }
        };
        error!(attempts, %reason, error, "event given up: dead letter");
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        insert_text(&mut table, headers::FAILED_AT, &now);
        insert_text(&mut table, headers::CONSUMER, self.broker.service());
        insert_text(&mut table, headers::REASON, reason.as_str());
        insert_text(&mut table, headers::ERROR, &error);
        let properties = copied(&delivery.properties).with_headers(table);
        let exchange = self.topology.dead_letter_exchange();
        send(channel, &exchange, &routing_key, &delivery.data, properties).await?;
        self.broker.metrics().dead_letter(&queue, reason);
        Ok(Outcome::Dead)
    }
}

/// The most of an error's text that a log line and a header carry: it may quote the message.
const MAX_ERROR_CHARS: usize = 1_000;

fn shortened(error: &str) -> String {
    error.chars().take(MAX_ERROR_CHARS).collect()
}

/// The most that a message's headers may weigh when it is given back, in bytes of JSON. All of them travel
/// in one frame, ours added, and the broker closes a connection that sends a larger one than was agreed.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Headers that tell the broker where else to deliver a message to.
const SENDER_SELECTED: [&str; 2] = ["CC", "BCC"];

/// Somebody else's headers are worth keeping, but not at the price of never getting rid of the message, nor
/// of having it delivered to where its sender says.
fn drop_excess(table: &mut FieldTable) {
    let weight = serde_json::to_vec(table).map_or(usize::MAX, |json| json.len());
    if weight > MAX_HEADER_BYTES {
        warn!(weight, "headers too large to give back: dropped");
        *table = FieldTable::default();
    }
    if SENDER_SELECTED.iter().any(|name| table.contains_key(name)) {
        let kept = table.inner().iter();
        *table = kept
            .filter(|(name, _)| !SENDER_SELECTED.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<BTreeMap<_, _>>()
            .into();
    }
}

/// The properties that say what a message is. Not those that act on the broker: an expiration would let a
/// dead letter vanish, a user id of somebody else would have it refused.
fn copied(properties: &BasicProperties) -> BasicProperties {
    let mut copy = BasicProperties::default();
    if let Some(content_type) = properties.content_type() {
        copy = copy.with_content_type(content_type.clone());
    }
    if let Some(message_id) = properties.message_id() {
        copy = copy.with_message_id(message_id.clone());
    }
    if let Some(kind) = properties.kind() {
        copy = copy.with_type(kind.clone());
    }
    if let Some(timestamp) = properties.timestamp() {
        copy = copy.with_timestamp(*timestamp);
    }
    copy
}

fn insert_text(table: &mut FieldTable, header: &str, text: &str) {
    table.insert(header.into(), AMQPValue::LongString(text.into()));
}

/// From our header; anything but a sensible number counts as a first attempt.
fn attempts_so_far(table: &FieldTable) -> i64 {
    match table.inner().get(headers::ATTEMPTS) {
        Some(AMQPValue::LongLongInt(attempts)) => (*attempts).clamp(0, RETRY_TIERS.len() as i64),
        _ => 0,
    }
}

/// The longest routing key that AMQP has, in bytes.
const MAX_ROUTING_KEY_BYTES: usize = 255;

/// A message that came back from a retry queue has the queue's name as its routing key; the header tells the
/// first one, unless somebody else wrote it and it can't be one.
fn original_routing_key(table: &FieldTable, delivery: &Delivery) -> String {
    let told = match table.inner().get(headers::ROUTING_KEY) {
        Some(AMQPValue::LongString(key)) => std::str::from_utf8(key.as_bytes()).ok(),
        _ => None,
    };
    told.filter(|key| key.len() <= MAX_ROUTING_KEY_BYTES)
        .unwrap_or(delivery.routing_key.as_str())
        .to_owned()
}
