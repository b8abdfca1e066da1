//! The connection to RabbitMQ: supervised, and reconnected with a bounded backoff for as long as the
//! service runs; and the [`Publisher`] on it.
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
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
};
use opentelemetry::propagation::{Extractor, Injector};
use secrecy::ExposeSecret;
use shared_events::topology::{self, Argument, Topology};
use shared_events::{CONTENT_TYPE, Event};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::backoff::backoff;
use crate::config::BrokerConfig;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::readiness::Health;
use crate::telemetry;

/// Connecting and declaring may take this long before it counts as failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the supervisor looks at the connection besides listening to its events.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// AMQP: persistent.
const DELIVERY_MODE_PERSISTENT: u8 = 2;

/// A handle on the supervised connection; clones share it.
#[derive(Clone)]
pub struct Broker {
    sessions: watch::Receiver<Option<Session>>,
    config: Arc<BrokerConfig>,
    metrics: Metrics,
    service: &'static str,
}

/// One connection, for as long as it lasts.
#[derive(Clone)]
pub(crate) struct Session {
    connection: Arc<Connection>,
    /// In confirm mode, shared by all publishers.
    publishing: Channel,
}

/// Why an event is not known to be in its queue.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// There was no connection, or no confirm, in time. The event may be in the queue all the same.
    #[error("no confirm from the broker within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The broker said no: the queue is at its bound.
    #[error("the broker refused the event (its queue is full)")]
    Refused,
    /// No queue takes this routing key.
    #[error("no queue is bound for routing key {0:?}")]
    Unroutable(String),
    /// The connection broke on the way. The event may be in the queue all the same.
    #[error("the broker connection failed: {0}")]
    Connection(#[from] lapin::Error),
}

impl PublishError {
    fn outcome(&self) -> &'static str {
        match self {
            Self::TimedOut(_) => "timed_out",
            Self::Refused => "refused",
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
            // The process ends: the broker would notice anyway, this way its log is clean.
            let _ = session.connection.close(200, "closing".into()).await;
        }
        Ok(())
    });
    sessions
        .wait_for(Option::is_some)
        .await
        .context("stopped before the broker was in reach")?;
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

    pub(crate) fn config(&self) -> &BrokerConfig {
        &self.config
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
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
        topologies: &[Topology],
        sessions: &watch::Sender<Option<Session>>,
        health: Health,
    ) {
        let mut delays = backoff();
        loop {
            match tokio::time::timeout(CONNECT_TIMEOUT, self.open(topologies)).await {
                Ok(Ok(session)) => {
                    delays = backoff();
                    info!("broker in reach");
                    health.send_replace(true);
                    sessions.send_replace(Some(session.clone()));
                    let reason = until_lost(&session, &health).await;
                    health.send_replace(false);
                    sessions.send_replace(None);
                    warn!(reason, "broker lost");
                    // Where only the channel was lost, consumers must not stay on the old connection.
                    let close = session.connection.close(200, "reconnecting".into());
                    let _ = tokio::time::timeout(CONNECT_TIMEOUT, close).await;
                }
                Ok(Err(error)) => warn!(error = format!("{error:#}"), "broker still away"),
                Err(_) => warn!("broker does not answer"),
            }
            tokio::time::sleep(delays.next().unwrap_or(LOOK_INTERVAL)).await;
        }
    }

    async fn open(&self, topologies: &[Topology]) -> anyhow::Result<Session> {
        let properties = ConnectionProperties::default().with_connection_name(self.service.into());
        let connection = Connection::connect(self.config.url.expose_secret(), properties)
            .await
            .context("failed to connect")?;
        let publishing = connection.create_channel().await?;
        for topology in topologies {
            declare(&publishing, *topology).await?;
        }
        publishing
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(Session {
            connection: Arc::new(connection),
            publishing,
        })
    }
}

impl Session {
    /// A channel of its own, in confirm mode: for a consumer, which also publishes what it gives up on.
    pub(crate) async fn channel(&self) -> Result<Channel, lapin::Error> {
        let channel = self.connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(channel)
    }
}

/// Returns with the reason when the connection, or the channel for publishing, is gone. While the broker
/// blocks publishers (memory or disk alarm), the dependency counts as unreachable.
async fn until_lost(session: &Session, health: &Health) -> String {
    let events = session.connection.events_listener();
    tokio::pin!(events);
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(lapin::Event::Error(error)) => return error.to_string(),
                Some(lapin::Event::ConnectionBlocked(reason)) => {
                    warn!(reason, "the broker blocks publishers");
                    health.send_replace(false);
                }
                Some(lapin::Event::ConnectionUnblocked) => {
                    info!("the broker takes messages again");
                    health.send_replace(true);
                }
                Some(_) => {}
                None => return "the connection was dropped".to_owned(),
            },
            _ = looks.tick() => {
                if !session.connection.status().connected() {
                    return "the connection is closed".to_owned();
                }
                if !session.publishing.status().connected() {
                    return "the channel for publishing is closed".to_owned();
                }
            }
        }
    }
}

/// Declares one stream. Repeating it changes nothing; other arguments than before are an error of the
/// broker's (406), which the supervisor logs and tries again: an operator has to decide.
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
    /// Returns once the broker has the event on a majority of its disks. While the connection is known to be
    /// lost it waits for the next one, all within `AMQP_PUBLISH_TIMEOUT_MS`.
    ///
    /// # Errors
    /// See [`PublishError`]; for two of its kinds the event may be in the queue all the same.
    pub async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        let limit = self.broker.config.publish_timeout;
        let exchange = self.topology.exchange();
        let sent = async {
            let session = self.broker.session().await;
            let session = session.ok_or(PublishError::TimedOut(limit))?;
            let properties = BasicProperties::default()
                .with_content_type(CONTENT_TYPE.into())
                .with_message_id(event.id.to_string().into())
                .with_type(event.event_type.as_str().into())
                .with_headers(trace_headers());
            send(
                &session.publishing,
                &exchange,
                event.routing_key(),
                &event.encode(),
                properties,
            )
            .await
        };
        let result = tokio::time::timeout(limit, sent)
            .await
            .unwrap_or(Err(PublishError::TimedOut(limit)));
        let outcome = result
            .as_ref()
            .map_or_else(PublishError::outcome, |()| "confirmed");
        self.broker.metrics.published(&exchange, outcome);
        result
    }
}

/// One message, persistent, mandatory and confirmed, on a channel in confirm mode.
pub(crate) async fn send(
    channel: &Channel,
    exchange: &str,
    routing_key: &str,
    payload: &[u8],
    properties: BasicProperties,
) -> Result<(), PublishError> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let confirmation = channel
        .basic_publish(
            exchange.into(),
            routing_key.into(),
            options,
            payload,
            properties.with_delivery_mode(DELIVERY_MODE_PERSISTENT),
        )
        .await?
        .await?;
    match confirmation {
        // The broker confirms what it can't route, too; it says so by sending it back.
        Confirmation::Ack(Some(_)) => Err(PublishError::Unroutable(routing_key.to_owned())),
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Nack(_) | Confirmation::NotRequested => Err(PublishError::Refused),
    }
}

fn trace_headers() -> FieldTable {
    let mut headers = MessageHeaders(FieldTable::default());
    telemetry::inject(&mut headers);
    headers.0
}

/// AMQP headers as a carrier of the trace context.
pub(crate) struct MessageHeaders(pub(crate) FieldTable);

impl Injector for MessageHeaders {
    fn set(&mut self, key: &str, value: String) {
        self.0
            .insert(key.into(), AMQPValue::LongString(value.into()));
    }
}

impl Extractor for MessageHeaders {
    fn get(&self, key: &str) -> Option<&str> {
        match self.0.inner().get(key)? {
            AMQPValue::LongString(value) => long_str(value),
            AMQPValue::ShortString(value) => Some(value.as_str()),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        self.0.inner().keys().map(ShortString::as_str).collect()
    }
}

fn long_str(value: &LongString) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}
