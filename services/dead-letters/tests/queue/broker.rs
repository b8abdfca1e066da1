//! A broker with the streams declared, and functions that put dead letters into its queues.

use chassis::config::BrokerConfig;
use chassis::environment::Env;
use chassis::lifecycle::Lifecycle;
use chrono::{DateTime, SecondsFormat, Utc};
use dead_letters::{Error, Options};
use futures_util::future::try_join_all;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use shared_events::dead_letters::Report;
use shared_events::topology::{self, ORDER_EVENTS, headers};
use tokio_util::sync::CancellationToken;

/// A virtual host per test.
pub(crate) struct Broker {
    pub(crate) url: String,
    channel: Channel,
    _connection: Connection,
}

/// A hand-made dead letter.
#[derive(Clone)]
pub(crate) struct DeadLetter {
    pub(crate) id: String,
    pub(crate) properties: BasicProperties,
    pub(crate) headers: FieldTable,
}

impl DeadLetter {
    /// Dead since now.
    pub(crate) fn new(id: &str, reason: &str) -> Self {
        let properties = BasicProperties::default()
            .with_message_id(id.into())
            .with_type("agora.order.placed.v1".into())
            .with_content_type("application/cloudevents+json".into());
        let mut message = Self {
            id: id.to_owned(),
            properties,
            headers: FieldTable::default(),
        };
        message.set(headers::ROUTING_KEY, text("order.placed.v1"));
        message.set(headers::REASON, text(reason));
        message.failed_at(Utc::now())
    }

    pub(crate) fn failed_at(mut self, time: DateTime<Utc>) -> Self {
        let time = time.to_rfc3339_opts(SecondsFormat::Millis, true);
        self.set(headers::FAILED_AT, text(&time));
        self
    }

    pub(crate) fn set(&mut self, header: &str, value: AMQPValue) {
        self.headers.insert(header.into(), value);
    }
}

pub(crate) fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

impl Broker {
    /// With both streams declared as the services declare them.
    pub(crate) async fn declared() -> Self {
        let broker = Self::empty().await;
        let env = Env::from_pairs([("AMQP_URL", broker.url.as_str())]);
        let lifecycle = Lifecycle::new("test");
        let config = BrokerConfig::read(&env).unwrap();
        chassis::broker::connect(&lifecycle, config, &topology::ALL)
            .await
            .unwrap();
        lifecycle.stop(testkit::PATIENCE).await;
        broker
    }

    /// Without any queue.
    pub(crate) async fn empty() -> Self {
        let url = testkit::virtual_host().await;
        let connection = Connection::connect(&url, ConnectionProperties::default())
            .await
            .unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        Self {
            url,
            channel,
            _connection: connection,
        }
    }

    /// A quorum queue with about this maximum length.
    pub(crate) async fn declare(&self, queue: &str, max_length: i64) {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), text("quorum"));
        arguments.insert("x-overflow".into(), text("reject-publish"));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(-1));
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(max_length));
        self.channel
            .queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)
            .await
            .unwrap();
    }

    /// Puts messages into the dead-letter queue, in order.
    pub(crate) async fn put_dead(&self, messages: &[DeadLetter]) {
        self.put(&ORDER_EVENTS.dead_letter_queue(), messages).await;
    }

    async fn put(&self, queue: &str, messages: &[DeadLetter]) {
        let mut confirms = Vec::new();
        for message in messages {
            confirms.push(self.publish(queue, message).await);
        }
        let confirms = try_join_all(confirms).await.unwrap();
        assert!(confirms.iter().all(lapin::Confirmation::is_ack));
    }

    /// Whether the queue accepted it.
    pub(crate) async fn try_put(&self, queue: &str, message: &DeadLetter) -> bool {
        self.publish(queue, message).await.await.unwrap().is_ack()
    }

    async fn publish(&self, queue: &str, message: &DeadLetter) -> lapin::PublisherConfirm {
        let properties = message
            .properties
            .clone()
            .with_headers(message.headers.clone())
            .with_delivery_mode(2);
        self.channel
            .basic_publish(
                "".into(),
                queue.into(),
                BasicPublishOptions::default(),
                message.id.as_bytes(),
                properties,
            )
            .await
            .unwrap()
    }

    /// Runs the tool.
    pub(crate) async fn run(&self, options: &Options) -> Result<Report, Error> {
        dead_letters::run(options, &self.url, CancellationToken::new()).await
    }

    /// Consumes all messages of a queue.
    pub(crate) async fn drain(&self, queue: &str) -> Vec<Delivery> {
        let mut messages = Vec::new();
        while let Some(message) = self
            .channel
            .basic_get(queue.into(), BasicGetOptions::default())
            .await
            .unwrap()
        {
            let message = message.delivery;
            message.acker.ack(BasicAckOptions::default()).await.unwrap();
            messages.push(message);
        }
        messages
    }

    /// Consumes all messages that are still dead; their ids.
    pub(crate) async fn dead(&self) -> Vec<String> {
        ids(&self.drain(&ORDER_EVENTS.dead_letter_queue()).await)
    }

    /// Consumes all messages of the stream's own queue; their ids.
    pub(crate) async fn alive(&self) -> Vec<String> {
        ids(&self.drain(&ORDER_EVENTS.queue()).await)
    }

    /// How many messages are ready in a queue.
    pub(crate) async fn depth(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        self.channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .unwrap()
            .message_count()
    }
}

fn ids(messages: &[Delivery]) -> Vec<String> {
    let id = |message: &Delivery| {
        message
            .properties
            .message_id()
            .as_ref()
            .unwrap()
            .to_string()
    };
    messages.iter().map(id).collect()
}
