//! Reads the messages of one queue from its front, one after the other, and holds all of them until they are acknowledged.
//!
//! The prefetch limit bounds a consumer's unacknowledged messages, and one that holds all of them gets no more. Another
//! consumer is then opened on its own channel, and the full ones stay open. Not `basic.get`: each call is a consumer of
//! its own for a quorum queue, and their messages are requeued in no order. Not one large prefetch: bodies would pile up
//! in memory. Left out: the messages' content.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};

use crate::{Cause, answered};

/// The prefetch limit. The broker accepts messages of up to 320 KiB: this bounds the memory.
const PREFETCH: u16 = 100;
/// After this long without a message the queue's depth is checked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The deadline for a delivery while the queue isn't empty.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// The broker handles the end of a channel asynchronously.
const BACK_WITHIN: Duration = Duration::from_secs(2);
const BACK_INTERVAL: Duration = Duration::from_millis(10);
const TAG: &str = "dead-letters";

/// Reads the messages of one queue.
pub(crate) struct QueueReader<'a> {
    connection: &'a Connection,
    queue: String,
    /// In confirm mode; no message is held on it.
    channel: Channel,
    /// Channels that hold as many messages as they may.
    full: Vec<Channel>,
    current: Option<Current>,
}

struct Current {
    channel: Channel,
    consumer: Consumer,
    held: u16,
}

impl<'a> QueueReader<'a> {
    /// Consumes nothing yet.
    pub(crate) async fn open(connection: &'a Connection, queue: &str) -> Result<Self, Cause> {
        let reader = Self {
            connection,
            queue: queue.to_owned(),
            channel: confirming(connection).await?,
            full: Vec::new(),
            current: None,
        };
        match reader.count().await {
            Ok(_) => Ok(reader),
            Err(Cause::Broker(error)) if is_not_found(&error) => {
                Err(Cause::NoQueue(queue.to_owned()))
            }
            Err(cause) => Err(cause),
        }
    }

    /// A channel to publish on, in confirm mode.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Opens another channel to publish on, after the broker has closed the one before.
    pub(crate) async fn replace_channel(&mut self) -> Result<(), Cause> {
        self.channel = confirming(self.connection).await?;
        Ok(())
    }

    /// How many messages are ready in the queue, without those that a consumer holds.
    pub(crate) async fn count(&self) -> Result<usize, Cause> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declare =
            self.channel
                .queue_declare(self.queue.as_str().into(), options, FieldTable::default());
        Ok(answered("counting", declare).await?.message_count() as usize)
    }

    /// The next message; `None` when the queue is empty. Acknowledge it, or call [`QueueReader::hold`].
    pub(crate) async fn next(&mut self) -> Result<Option<Delivery>, Cause> {
        let started = Instant::now();
        loop {
            let consumer = &mut self.current().await?.consumer;
            match tokio::time::timeout(LOOK_INTERVAL, consumer.next()).await {
                Ok(Some(delivery)) => return Ok(Some(delivery?)),
                Ok(None) => return Err(Cause::Cancelled(self.queue.clone())),
                Err(_) if self.count().await? == 0 => return Ok(None),
                Err(_) if started.elapsed() > DELIVERY_TIMEOUT => {
                    return Err(Cause::TimedOut {
                        what: "waiting for a message",
                        limit: DELIVERY_TIMEOUT,
                    });
                }
                Err(_) => {}
            }
        }
    }

    /// Holds the last message until the end.
    pub(crate) fn hold(&mut self) {
        if let Some(current) = &mut self.current {
            current.held += 1;
        }
    }

    /// Requeues every message that wasn't acknowledged, in order and to the front of the queue. A negative acknowledgement
    /// wouldn't: without a delivery limit the broker puts rejected messages to the back.
    pub(crate) async fn requeue(&mut self) -> Result<(), Cause> {
        self.settle().await?;
        // Otherwise requeued messages would be delivered here again.
        if let Some(current) = &self.current {
            let cancel = current
                .channel
                .basic_cancel(TAG.into(), BasicCancelOptions::default());
            answered("ending the consumer", cancel).await?;
        }
        for channel in std::mem::take(&mut self.full) {
            let before = self.count().await?;
            answered("closing a channel", channel.close(200, "done".into())).await?;
            self.wait_for(before + usize::from(PREFETCH)).await?;
        }
        if let Some(current) = self.current.take() {
            let close = current.channel.close(200, "done".into());
            answered("closing a channel", close).await?;
        }
        Ok(())
    }

    /// Waits until the consumer holds every message delivered to it. A message in transit to a consumer that ends is
    /// rejected by the broker itself, and so put to the back.
    async fn settle(&mut self) -> Result<(), Cause> {
        let started = Instant::now();
        while let Some(current) = &mut self.current
            && current.held < PREFETCH
            && started.elapsed() < BACK_WITHIN
        {
            match tokio::time::timeout(BACK_INTERVAL, current.consumer.next()).await {
                Ok(Some(delivery)) => {
                    delivery?;
                    current.held += 1;
                }
                Ok(None) => return Err(Cause::Cancelled(self.queue.clone())),
                Err(_) if self.count().await? == 0 => break,
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Ensures that the messages of the next channel are requeued behind. Another client may consume them at once: bounded.
    async fn wait_for(&self, count: usize) -> Result<(), Cause> {
        let started = Instant::now();
        while self.count().await? < count && started.elapsed() < BACK_WITHIN {
            tokio::time::sleep(BACK_INTERVAL).await;
        }
        Ok(())
    }

    async fn current(&mut self) -> Result<&mut Current, Cause> {
        if let Some(full) = self.current.take_if(|current| current.held >= PREFETCH) {
            self.full.push(full.channel);
        }
        let current = match self.current.take() {
            Some(current) => current,
            None => self.consume().await?,
        };
        Ok(self.current.insert(current))
    }

    async fn consume(&self) -> Result<Current, Cause> {
        let channel = answered("opening a channel", self.connection.create_channel()).await?;
        let limited = channel.basic_qos(PREFETCH, BasicQosOptions::default());
        answered("setting the prefetch limit", limited).await?;
        let consume = channel.basic_consume(
            self.queue.as_str().into(),
            TAG.into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = answered("starting the consumer", consume).await?;
        Ok(Current {
            channel,
            consumer,
            held: 0,
        })
    }
}

/// A channel in confirm mode.
async fn confirming(connection: &Connection) -> Result<Channel, Cause> {
    let channel = answered("opening a channel", connection.create_channel()).await?;
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    answered("asking for confirms", confirms).await?;
    Ok(channel)
}

fn is_not_found(error: &lapin::Error) -> bool {
    const NOT_FOUND: u16 = 404;
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => error.get_id() == NOT_FOUND,
        _ => false,
    }
}
