//! The letters of one queue, one after the other, from its front, all held until they are acknowledged.
//!
//! A consumer is handed a bounded number of unacknowledged letters, and one that holds on to all of them gets no
//! more. So another one is opened then, on a channel of its own, and the full ones wait. Not `basic.get`: each one
//! is a consumer of its own for a quorum queue, and letters come back from those in no order. Not one large prefetch:
//! bodies would pile up here. Left out: what is in a letter.

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

/// Letters handed out ahead. The broker takes messages of up to 1 MiB: this bounds the memory.
const PREFETCH: u16 = 100;
/// After so long without a letter the queue is asked whether there are any.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// There are letters, and none is handed out.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// The broker notices the end of a channel on its own time.
const BACK_WITHIN: Duration = Duration::from_secs(2);
const BACK_INTERVAL: Duration = Duration::from_millis(10);
const TAG: &str = "dead-letters";

/// Hands out the letters of one queue.
pub(crate) struct Letters<'a> {
    connection: &'a Connection,
    queue: String,
    /// In confirm mode; no letter is held on it.
    channel: Channel,
    /// Hold as many letters as they may.
    full: Vec<Channel>,
    current: Option<Current>,
}

struct Current {
    channel: Channel,
    consumer: Consumer,
    held: u16,
}

impl<'a> Letters<'a> {
    /// Takes nothing yet.
    pub(crate) async fn open(connection: &'a Connection, queue: &str) -> Result<Self, Cause> {
        let channel = answered("opening a channel", connection.create_channel()).await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        answered("asking for confirms", confirms).await?;
        let letters = Self {
            connection,
            queue: queue.to_owned(),
            channel,
            full: Vec::new(),
            current: None,
        };
        match letters.count().await {
            Ok(_) => Ok(letters),
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

    /// How many letters wait in the queue, without those that somebody holds.
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

    /// The next letter; `None` when there is none. Acknowledge it, or say [`Letters::hold`].
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
                        what: "waiting for a letter",
                        limit: DELIVERY_TIMEOUT,
                    });
                }
                Err(_) => {}
            }
        }
    }

    /// Keeps the letter that was handed out last until the end.
    pub(crate) fn hold(&mut self) {
        if let Some(current) = &mut self.current {
            current.held += 1;
        }
    }

    /// Gives back all that wasn't acknowledged, in order and to the front of the queue. A negative acknowledgement
    /// wouldn't: without a delivery limit the broker puts what is refused to the back.
    pub(crate) async fn give_back(&mut self) -> Result<(), Cause> {
        self.settle().await?;
        // Else what comes back would be handed out here once more.
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

    /// Waits until the consumer holds all that it is handed out. A letter that is on its way to a consumer which ends
    /// is refused by the broker itself, and so put to the back.
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

    /// So that what the next channel holds comes behind. Somebody else may take them at once: bounded.
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
        let bound = channel.basic_qos(PREFETCH, BasicQosOptions::default());
        answered("bounding the consumer", bound).await?;
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

fn is_not_found(error: &lapin::Error) -> bool {
    const NOT_FOUND: u16 = 404;
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => error.get_id() == NOT_FOUND,
        _ => false,
    }
}
