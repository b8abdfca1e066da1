//! Exchanges and queues, as data: names, arguments, retry tiers, and the headers of a dead letter.
//!
//! One [`Topology`] is one stream of events: `chassis` declares it at start, in publishers and consumers alike, and `xtask`
//! reads the same names. Rules for the arguments:
//! <https://www.rabbitmq.com/docs/quorum-queues> and <https://www.rabbitmq.com/docs/dlx>.

use std::fmt;
use std::time::Duration;

/// Orders, from order-service to inventory-service.
pub const ORDER_EVENTS: Topology = Topology {
    stream: "order_events",
};

/// Outcomes of orders, from inventory-service to order-service.
pub const INVENTORY_EVENTS: Topology = Topology {
    stream: "inventory_events",
};

/// All streams.
pub const ALL: [Topology; 2] = [ORDER_EVENTS, INVENTORY_EVENTS];

/// A delay queue: a failed message waits in it and then returns to its stream's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryTier {
    /// The suffix of the queue's name, and the routing key into it.
    pub name: &'static str,
    /// The wait.
    pub delay: Duration,
}

/// In the order in which a message passes them; after the last it is dead-lettered.
pub const RETRY_TIERS: [RetryTier; 3] = [
    RetryTier {
        name: "1s",
        delay: Duration::from_secs(1),
    },
    RetryTier {
        name: "5s",
        delay: Duration::from_secs(5),
    },
    RetryTier {
        name: "25s",
        delay: Duration::from_secs(25),
    },
];

/// The length limit of each queue, in messages. At the limit the broker refuses publishes (`overflow=reject-publish`), so
/// that a publisher gets an error instead of a loss.
pub const QUEUE_MAX_LENGTH: i64 = 100_000;

/// How long a consumer's inbox keeps the ids of applied events. A message that is redelivered later is indistinguishable
/// from a new one: `cargo xtask dlq replay` asks for confirmation before it replays one.
pub const INBOX_WINDOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How often the broker delivers one message before it dead-letters it: catches crash loops.
pub const DELIVERY_LIMIT: i64 = 20;

/// The largest event that a consumer reads, in bytes; larger ones are dead-lettered at once.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;

/// Logged by a service when the broker has a queue or an exchange with other arguments. An operator has to decide, and
/// `cargo xtask up` recognises the cause by these words.
pub const OTHER_ARGUMENTS: &str =
    "is in the broker with other arguments than this version declares";

/// One stream of events: an exchange and its queue, the retry tiers and the dead-letter queue beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    stream: &'static str,
}

/// The type of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    /// Topic: by pattern.
    Topic,
    /// Direct: by equality.
    Direct,
}

/// An exchange to declare; durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: ExchangeKind,
}

/// A queue to declare (durable) and to bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Its `x-` arguments.
    pub arguments: Vec<(&'static str, Argument)>,
    /// The exchange that feeds it.
    pub exchange: String,
    /// The binding's routing key or pattern.
    pub binding: &'static str,
}

/// The value of a queue argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A string.
    Text(String),
    /// A signed number.
    Number(i64),
}

impl Topology {
    /// The topic exchange that events are published to.
    pub fn exchange(&self) -> String {
        self.stream.to_owned()
    }

    /// The queue that they are consumed from.
    pub fn queue(&self) -> String {
        self.stream.to_owned()
    }

    /// The exchange that dead letters are published to.
    pub fn dead_letter_exchange(&self) -> String {
        format!("{}.dlx", self.stream)
    }

    /// The queue of dead letters.
    pub fn dead_letter_queue(&self) -> String {
        format!("{}.dead", self.stream)
    }

    /// The exchange for messages to be retried; the routing key is the tier's name.
    pub fn retry_exchange(&self) -> String {
        format!("{}.retry", self.stream)
    }

    /// The delay queue of a tier.
    pub fn retry_queue(&self, tier: RetryTier) -> String {
        format!("{}.retry.{}", self.stream, tier.name)
    }

    /// All exchanges.
    pub fn exchanges(&self) -> Vec<Exchange> {
        vec![
            Exchange {
                name: self.exchange(),
                kind: ExchangeKind::Topic,
            },
            Exchange {
                name: self.dead_letter_exchange(),
                kind: ExchangeKind::Topic,
            },
            Exchange {
                name: self.retry_exchange(),
                kind: ExchangeKind::Direct,
            },
        ]
    }

    /// All queues with their bindings. Every routing key finds a queue (`#`), so that an unknown event becomes a dead letter
    /// instead of being lost.
    pub fn queues(&self) -> Vec<Queue> {
        let mut queues = vec![
            Queue {
                name: self.queue(),
                arguments: quorum(
                    DELIVERY_LIMIT,
                    dead_lettering(self.dead_letter_exchange(), None),
                ),
                exchange: self.exchange(),
                binding: "#",
            },
            Queue {
                name: self.dead_letter_queue(),
                // No delivery limit: looking at a dead letter delivers and requeues it, and the broker would drop it after
                // the twentieth look.
                arguments: quorum(-1, Vec::new()),
                exchange: self.dead_letter_exchange(),
                binding: "#",
            },
        ];
        queues.extend(RETRY_TIERS.map(|tier| {
            let mut arguments = vec![(
                "x-message-ttl",
                Argument::Number(tier.delay.as_millis() as i64),
            )];
            arguments.extend(dead_lettering(String::new(), Some(self.queue())));
            Queue {
                name: self.retry_queue(tier),
                arguments: quorum(DELIVERY_LIMIT, arguments),
                exchange: self.retry_exchange(),
                binding: tier.name,
            }
        }));
        queues
    }
}

fn quorum(
    delivery_limit: i64,
    more: Vec<(&'static str, Argument)>,
) -> Vec<(&'static str, Argument)> {
    let mut arguments = vec![
        ("x-queue-type", Argument::Text("quorum".to_owned())),
        ("x-delivery-limit", Argument::Number(delivery_limit)),
        ("x-max-length", Argument::Number(QUEUE_MAX_LENGTH)),
        ("x-overflow", Argument::Text("reject-publish".to_owned())),
    ];
    arguments.extend(more);
    arguments
}

/// At-least-once needs `overflow=reject-publish`, otherwise the broker silently falls back to at-most-once.
fn dead_lettering(exchange: String, routing_key: Option<String>) -> Vec<(&'static str, Argument)> {
    let mut arguments = vec![
        ("x-dead-letter-exchange", Argument::Text(exchange)),
        (
            "x-dead-letter-strategy",
            Argument::Text("at-least-once".to_owned()),
        ),
    ];
    if let Some(key) = routing_key {
        arguments.push(("x-dead-letter-routing-key", Argument::Text(key)));
    }
    arguments
}

/// Headers of a message after its first failure.
pub mod headers {
    /// How often handling the message has failed; a number.
    pub const ATTEMPTS: &str = "x-agora-attempts";
    /// Why the message is dead: a [`DeadReason`](super::DeadReason).
    pub const REASON: &str = "x-agora-reason";
    /// The last error's text.
    pub const ERROR: &str = "x-agora-error";
    /// The routing key that it was published with.
    pub const ROUTING_KEY: &str = "x-agora-routing-key";
    /// When it was dead-lettered, RFC 3339.
    pub const FAILED_AT: &str = "x-agora-failed-at";
    /// When handling it first failed, RFC 3339; kept through retries, deaths and replays.
    pub const FIRST_FAILED_AT: &str = "x-agora-first-failed-at";
    /// The service that dead-lettered it.
    pub const CONSUMER: &str = "x-agora-consumer";
    /// How often it was replayed from a dead-letter queue; a number.
    pub const REPLAYS: &str = "x-agora-replays";
    /// The broker's reason, if the broker dead-lettered the message last. Not that of the first time: a message that passed
    /// a retry tier has `expired` there permanently.
    pub const LAST_DEATH_REASON: &str = "x-last-death-reason";
}

/// Why a consumer dead-lettered a message. The broker has reasons of its own (`delivery_limit`, …), in
/// `x-last-death-reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeadReason {
    /// Not an event, or its data doesn't match its type.
    Unreadable,
    /// Larger than [`MAX_EVENT_BYTES`].
    Oversized,
    /// An event type that this consumer doesn't know.
    UnknownType,
    /// Valid, but impossible to apply: no later attempt can succeed.
    Rejected,
    /// Failed again after the last retry tier.
    RetriesExhausted,
}

impl DeadReason {
    /// The name in the header and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Oversized => "oversized",
            Self::UnknownType => "unknown_type",
            Self::Rejected => "rejected",
            Self::RetriesExhausted => "retries_exhausted",
        }
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
