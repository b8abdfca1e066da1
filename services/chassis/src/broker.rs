//! The connections to RabbitMQ, one to publish and one to consume: supervised, and reconnected with a bounded
//! backoff for as long as the service runs; and the [`Publisher`] on them.
//!
//! Two, because a broker that is short of memory or disk stops reading from connections that publish: the acknowledgements
//! that would relieve it must not wait behind. A message that the broker rejects closes its channel
//! ([`PublishError::Rejected`]): the next message opens another one, and the connections and the consumer are unaffected.
//! With the pattern `confirms` off publishing waits for no answer, and what the broker returns or refuses goes unnoticed.
//!
//! Left out: consuming (`consumer`), and any name of a queue (`shared_events::topology`).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt;
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
    PublisherConfirm,
};
use secrecy::ExposeSecret;
use shared_events::topology::{self, Argument, Topology};
use shared_events::{CONTENT_TYPE, Event};
use tokio::sync::{Mutex, watch};
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::backoff::backoff;
use crate::config::{BrokerConfig, MessageTraces};
use crate::crash_points::crash_point;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::patterns::{Pattern, Switch};
use crate::readiness::Health;

/// Connecting and declaring may take this long before it counts as failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A broker that reads nothing takes no close frame either.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the supervisor checks the connections besides listening to their events.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// AMQP: the declared queue or exchange exists with other arguments.
const PRECONDITION_FAILED: u16 = 406;
/// AMQP: persistent.
const DELIVERY_MODE_PERSISTENT: u8 = 2;

/// A handle on the supervised connections; clones share them.
#[derive(Clone)]
pub struct Broker {
    sessions: watch::Receiver<Option<Session>>,
    config: Arc<BrokerConfig>,
    metrics: Metrics,
    service: &'static str,
}

/// A pair of connections, for as long as both are open.
#[derive(Clone)]
pub(crate) struct Session {
    publisher: Arc<Connection>,
    /// Shared by all publishers.
    publishing: Arc<Mutex<Channel>>,
    /// See [`Session::hand_over`].
    handing_over: Arc<Mutex<ExclusiveChannel>>,
    /// What a channel to publish on is opened with.
    topologies: &'static [Topology],
    confirms: Switch,
    consumer: Arc<Connection>,
    /// Whether the broker reads from `publisher` at the moment.
    blocked: watch::Receiver<bool>,
}

/// A channel for one message at a time.
struct ExclusiveChannel {
    channel: Channel,
    /// Whether a message was published on it whose answer was not awaited to the end, as at a timeout. The broker may still
    /// reject it, which would be taken for the rejection of the next one: the channel has to be replaced.
    is_unanswered: bool,
}

/// Marks a channel as unanswered until `publish` is done: if it is dropped before, the mark stays.
async fn until_answered<T>(is_unanswered: &mut bool, publish: impl Future<Output = T>) -> T {
    *is_unanswered = true;
    let published = publish.await;
    *is_unanswered = false;
    published
}

/// Why an event isn't known to be in its queue.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// There was no connection, or no confirm, in time. The event may be in the queue all the same.
    #[error("no confirm from the broker within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The broker refused it: the queue is full.
    #[error("the broker refused the event (its queue is full)")]
    Refused,
    /// The broker closed the channel because of a message that it will never take, for example one that is too large. It was
    /// this one if no other was in flight on the channel. Or it can't be encoded at all.
    #[error("the broker rejected the event: {0}")]
    Rejected(String),
    /// No queue takes this routing key.
    #[error("no queue is bound for routing key {0:?}")]
    Unroutable(String),
    /// The connection broke. The event may be in the queue all the same.
    #[error("the broker connection failed: {0}")]
    Connection(#[from] lapin::Error),
}

/// Whether the broker's error is about a message, and not about the connection, the exchange or the user.
fn is_rejection(error: &lapin::Error) -> bool {
    let lapin::ErrorKind::ProtocolError(error) = error.kind() else {
        return false;
    };
    matches!(
        error.kind(),
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED | AMQPSoftError::CONTENTTOOLARGE)
    )
}

/// The error of publishing a message on a channel that was open.
fn publish_error(error: lapin::Error) -> PublishError {
    if is_rejection(&error) {
        PublishError::Rejected(error.to_string())
    } else {
        error.into()
    }
}

impl PublishError {
    /// The label in metrics and spans.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::TimedOut(_) => "timed_out",
            Self::Refused => "refused",
            Self::Rejected(_) => "rejected",
            Self::Unroutable(_) => "unroutable",
            Self::Connection(_) => "connection_failed",
        }
    }
}

/// Waits for the broker (the lifecycle bounds that), declares the topologies, and keeps the connection.
///
/// # Errors
/// When the service is stopped before the broker answers.
pub async fn connect(
    lifecycle: &Lifecycle,
    config: BrokerConfig,
    topologies: &'static [Topology],
) -> anyhow::Result<Broker> {
    lifecycle.enter_pattern(Pattern::Confirms, config.confirms);
    lifecycle.enter_pattern(Pattern::TracePropagation, config.traces.switch());
    let (sender, mut sessions) = watch::channel(None);
    let broker = Broker {
        sessions: sessions.clone(),
        config: Arc::new(config),
        metrics: lifecycle.metrics().clone(),
        service: lifecycle.service(),
    };
    let health = lifecycle.readiness().depends_on("rabbitmq");
    let supervised = broker.clone();
    let closing = lifecycle.closing();
    lifecycle.spawn_watcher("broker", async move {
        tokio::select! {
            () = supervised.supervise(topologies, &sender, health) => {}
            () = closing.cancelled() => {}
        }
        let last = sender.send_replace(None);
        if let Some(session) = last {
            // The process ends: closed properly, the connections leave no error in the broker's log.
            session.close("closing").await;
        }
        Ok(())
    });
    sessions
        .wait_for(Option::is_some)
        .await
        .context("stopped before the broker was reachable")?;
    Ok(broker)
}

impl Broker {
    /// A publisher into one stream.
    pub fn publisher(&self, topology: Topology) -> Publisher {
        Publisher {
            broker: self.clone(),
            topology,
        }
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn traces(&self) -> MessageTraces {
        self.config.traces
    }

    pub(crate) fn service(&self) -> &'static str {
        self.service
    }

    /// The current connection, as soon as there is one; `None` when the service is closing.
    pub(crate) async fn session(&self) -> Option<Session> {
        let mut sessions = self.sessions.clone();
        let session = sessions.wait_for(Option::is_some).await.ok()?;
        session.clone()
    }

    async fn supervise(
        &self,
        topologies: &'static [Topology],
        sessions: &watch::Sender<Option<Session>>,
        health: Health,
    ) {
        let mut delays = backoff();
        loop {
            let (block, blocked) = watch::channel(false);
            match tokio::time::timeout(CONNECT_TIMEOUT, self.open(topologies, blocked)).await {
                Ok(Ok(session)) => {
                    delays = backoff();
                    info!("broker reachable");
                    health.send_replace(true);
                    sessions.send_replace(Some(session.clone()));
                    let reason = until_lost(&session, &block, &health).await;
                    health.send_replace(false);
                    sessions.send_replace(None);
                    warn!(reason, "broker lost");
                    // If only one of them was lost, the other must not stay in use.
                    session.close("reconnecting").await;
                }
                Ok(Err(error)) if error.is::<OtherArguments>() => {
                    error!(
                        error = format!("{error:#}"),
                        "the broker refuses a declaration"
                    );
                }
                Ok(Err(error)) => warn!(error = format!("{error:#}"), "broker still unreachable"),
                Err(_) => warn!("broker does not answer"),
            }
            tokio::time::sleep(delays.next().unwrap_or(CHECK_INTERVAL)).await;
        }
    }

    async fn open(
        &self,
        topologies: &'static [Topology],
        blocked: watch::Receiver<bool>,
    ) -> anyhow::Result<Session> {
        let publisher = self.open_connection("publisher").await?;
        let confirms = self.config.confirms;
        let publishing = open_channel(&publisher, topologies, confirms)
            .await
            .map_err(OtherArguments::explain)?;
        let handing_over = open_channel(&publisher, &[], confirms).await?;
        Ok(Session {
            publisher: Arc::new(publisher),
            publishing: Arc::new(Mutex::new(publishing)),
            handing_over: Arc::new(Mutex::new(ExclusiveChannel {
                channel: handing_over,
                is_unanswered: false,
            })),
            topologies,
            confirms,
            consumer: Arc::new(self.open_connection("consumer").await?),
            blocked,
        })
    }

    async fn open_connection(&self, role: &str) -> anyhow::Result<Connection> {
        let name = format!("{} {role}", self.service);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        Connection::connect(self.config.url.expose_secret(), properties)
            .await
            .context("failed to connect")
    }
}

/// A channel to publish on, with the streams declared.
async fn open_channel(
    connection: &Connection,
    topologies: &[Topology],
    confirms: Switch,
) -> Result<Channel, lapin::Error> {
    let channel = connection.create_channel().await?;
    for topology in topologies {
        declare(&channel, *topology).await?;
    }
    if confirms.is_on() {
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
    }
    Ok(channel)
}

impl Session {
    /// A channel of its own, for a consumer.
    pub(crate) async fn consuming(&self) -> Result<Channel, lapin::Error> {
        self.consumer.create_channel().await
    }

    /// Publishes a message with no other in flight on its channel, as soon as the broker takes messages.
    ///
    /// A message that the broker returns carries no number, and a rejection closes the channel: with several in flight the
    /// client can't tell which one it was.
    pub(crate) async fn hand_over(
        &self,
        exchange: &str,
        routing_key: &str,
        payload: &[u8],
        properties: BasicProperties,
    ) -> Result<(), PublishError> {
        self.unblocked().await;
        let mut exclusive = self.handing_over.lock().await;
        let ExclusiveChannel {
            channel,
            is_unanswered,
        } = &mut *exclusive;
        if *is_unanswered {
            // Without declarations: the broker may be slow, and the streams are there.
            *channel = open_channel(&self.publisher, &[], self.confirms).await?;
            *is_unanswered = false;
        }
        self.reopen_if_closed(channel).await?;
        let sent = send(channel, exchange, routing_key, payload, properties);
        until_answered(is_unanswered, sent).await
    }

    /// The channel that publishers share.
    async fn publishing(&self) -> Result<Channel, lapin::Error> {
        let mut channel = self.publishing.lock().await;
        self.reopen_if_closed(&mut channel).await?;
        Ok(channel.clone())
    }

    /// Replaces a channel that the broker has closed. The streams are declared again, as the reason may be a deleted
    /// exchange.
    async fn reopen_if_closed(&self, channel: &mut Channel) -> Result<(), lapin::Error> {
        if !channel.status().connected() {
            *channel = open_channel(&self.publisher, self.topologies, self.confirms).await?;
        }
        Ok(())
    }

    /// Resolves while the broker takes messages: at once unless it blocks publishers.
    async fn unblocked(&self) {
        let mut blocked = self.blocked.clone();
        // An error means that the session is over; the next publish fails.
        let _ = blocked.wait_for(|blocked| !blocked).await;
    }

    async fn close(&self, reason: &str) {
        let close = async {
            // On a connection that is lost already this fails, which changes nothing.
            let _ = self.consumer.close(200, reason.into()).await;
            let _ = self.publisher.close(200, reason.into()).await;
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, close).await.is_err() {
            warn!("a connection to the broker was left open");
        }
    }
}

/// Returns with the reason when a connection is lost. A channel that the broker closed is an event of its connection, too:
/// the next publish opens another one. While the broker blocks publishers (memory or disk alarm), the dependency counts as
/// unreachable.
async fn until_lost(session: &Session, blocked: &watch::Sender<bool>, health: &Health) -> String {
    let events = session.publisher.events_listener();
    let consumer_events = session.consumer.events_listener();
    tokio::pin!(events, consumer_events);
    let mut checks = tokio::time::interval(CHECK_INTERVAL);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(lapin::Event::Error(error)) if !session.publisher.status().connected() => {
                    return error.to_string();
                }
                Some(lapin::Event::Error(error)) => warn!(%error, "a channel to publish on was closed"),
                Some(lapin::Event::ConnectionBlocked(reason)) => {
                    warn!(reason, "the broker blocks publishers");
                    blocked.send_replace(true);
                    health.send_replace(false);
                }
                Some(lapin::Event::ConnectionUnblocked) => {
                    info!("the broker takes messages again");
                    blocked.send_replace(false);
                    health.send_replace(true);
                }
                Some(_) => {}
                None => return "the connection was dropped".to_owned(),
            },
            event = consumer_events.next() => match event {
                Some(lapin::Event::Error(error)) if !session.consumer.status().connected() => {
                    return error.to_string();
                }
                Some(_) => {}
                None => return "the connection was dropped".to_owned(),
            },
            _ = checks.tick() => {
                let connections = [&session.publisher, &session.consumer];
                if !connections.iter().all(|connection| connection.status().connected()) {
                    return "a connection is closed".to_owned();
                }
            }
        }
    }
}

/// A queue or exchange was declared with other arguments: by an older version, or by hand.
#[derive(Debug, thiserror::Error)]
#[error("the {kind} `{name}` {}", topology::OTHER_ARGUMENTS)]
struct OtherArguments {
    kind: String,
    name: String,
    #[source]
    refusal: lapin::Error,
}

impl OtherArguments {
    /// Names the queue or exchange if the broker refused a declaration because of it.
    fn explain(error: lapin::Error) -> anyhow::Error {
        let lapin::ErrorKind::ProtocolError(refusal) = error.kind() else {
            return error.into();
        };
        // "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'order_events.retry.5s' in vhost '/': …"
        let text = refusal.get_message().to_string();
        let named = text.split_once(" for ").and_then(|(_, named)| {
            let (kind, rest) = named.split_once(" '")?;
            Some((kind.to_owned(), rest.split('\'').next()?.to_owned()))
        });
        match named {
            Some((kind, name)) if refusal.get_id() == PRECONDITION_FAILED => Self {
                kind,
                name,
                refusal: error,
            }
            .into(),
            _ => error.into(),
        }
    }
}

/// Declares one stream. Repeating it changes nothing; other arguments than before are an error of the broker's (406), which
/// the supervisor logs and retries: an operator has to decide.
pub(crate) async fn declare(channel: &Channel, topology: Topology) -> Result<(), lapin::Error> {
    for exchange in topology.exchanges() {
        let kind = match exchange.kind {
            topology::ExchangeKind::Topic => ExchangeKind::Topic,
            topology::ExchangeKind::Direct => ExchangeKind::Direct,
        };
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        channel
            .exchange_declare(exchange.name.into(), kind, options, FieldTable::default())
            .await?;
    }
    for queue in topology.queues() {
        let mut arguments = FieldTable::default();
        for (name, value) in queue.arguments {
            let value = match value {
                Argument::Text(text) => AMQPValue::LongString(text.into()),
                Argument::Number(number) => AMQPValue::LongLongInt(number),
            };
            arguments.insert(name.into(), value);
        }
        let name: ShortString = queue.name.into();
        channel
            .queue_declare(name.clone(), QueueDeclareOptions::durable(), arguments)
            .await?;
        channel
            .queue_bind(
                name,
                queue.exchange.into(),
                queue.binding.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
    }
    Ok(())
}

/// Publishes events into one stream: persistent, mandatory, confirmed.
#[derive(Clone)]
pub struct Publisher {
    broker: Broker,
    topology: Topology,
}

impl Publisher {
    /// Returns once the broker has the event on a majority of its disks. While the connection is lost it waits for the next
    /// one, all within `AMQP_PUBLISH_TIMEOUT_MS`.
    ///
    /// # Errors
    /// See [`PublishError`]; for two of its kinds the event may be in the queue all the same.
    pub(crate) async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        let payload = event.encode();
        self.publish_encoded(event.id, &event.event_type, event.routing_key(), &payload)
            .await
    }

    /// The same, for an encoded event.
    pub(crate) async fn publish_encoded(
        &self,
        id: Uuid,
        event_type: &str,
        routing_key: &str,
        payload: &[u8],
    ) -> Result<(), PublishError> {
        let sent = async {
            let session = self.session().await?;
            let exchange = self.exchange();
            let properties = self.properties(id, event_type)?;
            let channel = session.publishing().await?;
            let written = write(&channel, &exchange, routing_key, payload, properties).await?;
            crash_point("publish.before_confirm");
            confirmed(written, routing_key).await
        };
        self.in_time(sent).await
    }

    /// The same, with no other message in flight on its channel: the broker's answer is about this one.
    pub(crate) async fn publish_alone(
        &self,
        id: Uuid,
        event_type: &str,
        routing_key: &str,
        payload: &[u8],
    ) -> Result<(), PublishError> {
        let sent = async {
            let session = self.session().await?;
            let properties = self.properties(id, event_type)?;
            session
                .hand_over(&self.exchange(), routing_key, payload, properties)
                .await
        };
        self.in_time(sent).await
    }

    /// The current session, as soon as it takes messages.
    async fn session(&self) -> Result<Session, PublishError> {
        let session = self.broker.session().await;
        let limit = self.broker.config.publish_timeout;
        let session = session.ok_or(PublishError::TimedOut(limit))?;
        session.unblocked().await;
        Ok(session)
    }

    /// Bounds the publishing of an event, and counts its outcome.
    async fn in_time(
        &self,
        sent: impl Future<Output = Result<(), PublishError>>,
    ) -> Result<(), PublishError> {
        let limit = self.broker.config.publish_timeout;
        let result = tokio::time::timeout(limit, sent)
            .await
            .unwrap_or(Err(PublishError::TimedOut(limit)));
        let outcome = match &result {
            Err(error) => error.outcome(),
            Ok(()) if self.broker.config.confirms.is_on() => "confirmed",
            Ok(()) => "sent",
        };
        self.broker.metrics.published(&self.exchange(), outcome);
        result
    }

    fn properties(&self, id: Uuid, event_type: &str) -> Result<BasicProperties, PublishError> {
        let mut headers = FieldTable::default();
        self.broker.traces().inject(&mut headers);
        Ok(BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_message_id(id.to_string().into())
            .with_type(short("type", event_type)?)
            .with_headers(headers))
    }

    /// Resolves as soon as there is a connection that takes messages, or the service closes.
    pub(crate) async fn wait_until_reachable(&self) {
        if let Some(session) = self.broker.session().await {
            session.unblocked().await;
        }
    }

    pub(crate) fn exchange(&self) -> String {
        self.topology.exchange()
    }
}

/// Publishes one message, persistent and mandatory; confirmed where the channel is in confirm mode.
///
/// # Errors
/// See [`PublishError`]; the caller bounds the time.
pub async fn send(
    channel: &Channel,
    exchange: &str,
    routing_key: &str,
    payload: &[u8],
    properties: BasicProperties,
) -> Result<(), PublishError> {
    let written = write(channel, exchange, routing_key, payload, properties).await?;
    confirmed(written, routing_key).await
}

/// A routing key or property as AMQP has it: at most 255 bytes. The client would panic at a longer one.
fn short(what: &str, text: &str) -> Result<ShortString, PublishError> {
    ShortString::try_new(text)
        .map_err(|_| PublishError::Rejected(format!("its {what} has more than 255 bytes")))
}

async fn write(
    channel: &Channel,
    exchange: &str,
    routing_key: &str,
    payload: &[u8],
    properties: BasicProperties,
) -> Result<PublisherConfirm, PublishError> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    channel
        .basic_publish(
            exchange.into(),
            short("routing key", routing_key)?,
            options,
            payload,
            properties.with_delivery_mode(DELIVERY_MODE_PERSISTENT),
        )
        .await
        .map_err(publish_error)
}

async fn confirmed(written: PublisherConfirm, routing_key: &str) -> Result<(), PublishError> {
    match written.await.map_err(publish_error)? {
        // The broker confirms a message that it can't route, too, and returns it first. The client attaches the returned
        // message to the next answer.
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
            Err(PublishError::Unroutable(routing_key.to_owned()))
        }
        // The channel is not in confirm mode: no answer will come.
        Confirmation::Ack(None) | Confirmation::NotRequested => Ok(()),
        Confirmation::Nack(None) => Err(PublishError::Refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_channel_whose_publish_was_dropped_stays_marked_as_unanswered() {
        let mut is_unanswered = false;
        let answer = until_answered(&mut is_unanswered, async { "confirmed" }).await;
        assert_eq!((answer, is_unanswered), ("confirmed", false));
        let never = until_answered(&mut is_unanswered, std::future::pending::<()>());
        let dropped = tokio::time::timeout(Duration::from_secs(1), never).await;
        assert!(dropped.is_err() && is_unanswered);
    }
}
