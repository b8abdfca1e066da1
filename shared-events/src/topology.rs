//! Exchanges and queues, as data: names, arguments, retry tiers, and the headers of a dead letter.
//!
//! One [`Topology`] is one stream of events: `chassis` declares it, publisher and consumer alike at start,
//! and `xtask` reads the same names. Rules for the arguments:
//! <https://www.rabbitmq.com/docs/quorum-queues> and <https://www.rabbitmq.com/docs/dlx>.

use std::fmt;
use std::time::Duration;

/// Orders, from order-service to inventory-service.
pub const ORDER_EVENTS: Topology = Topology {
    stream: "order_events",
};

/// What became of them, from inventory-service to order-service.
pub const INVENTORY_EVENTS: Topology = Topology {
    stream: "inventory_events",
};

/// Every stream there is.
pub const ALL: [Topology; 2] = [ORDER_EVENTS, INVENTORY_EVENTS];

/// Where a failed message waits, and for how long, before it flows back to its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryTier {
    /// The end of the queue's name, and the routing key into it.
    pub name: &'static str,
    /// The wait.
    pub delay: Duration,
}

/// In the order in which a message passes them; after the last it is dead.
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

/// The bound of each queue, in messages. At the bound the broker refuses to take more
/// (`overflow=reject-publish`), so that a publisher's confirm turns into an error instead of a loss.
pub const QUEUE_MAX_LENGTH: i64 = 100_000;

/// How long a consumer remembers the ids of the events that it applied (its inbox). A message that comes back
/// later than this can't be told from a new one: `cargo xtask dlq replay` asks before it sends one.
pub const INBOX_WINDOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How often the broker itself hands out one message before it calls it dead: catches crash loops.
pub const DELIVERY_LIMIT: i64 = 20;

/// The largest event that a consumer reads, in bytes; a larger one is dead at once.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;

/// How a service says that the broker has a queue or an exchange that was declared differently. An operator has to decide,
/// and `cargo xtask up` finds it by these words.
pub const OTHER_ARGUMENTS: &str =
    "is in the broker with other arguments than this version declares";

/// One stream of events: an exchange and its queue, the retry tiers and the dead-letter queue beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    stream: &'static str,
}

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By pattern.
    Topic,
    /// By equality.
    Direct,
}

/// An exchange to declare; durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// How it routes.
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

    /// Where dead letters are published to.
    pub fn dead_letter_exchange(&self) -> String {
        format!("{}.dlx", self.stream)
    }

    /// Where dead letters stay.
    pub fn dead_letter_queue(&self) -> String {
        format!("{}.dead", self.stream)
    }

    /// Where messages are published to that shall be tried again; the routing key is the tier's name.
    pub fn retry_exchange(&self) -> String {
        format!("{}.retry", self.stream)
    }

    /// Where they wait.
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

    /// All queues with their bindings. Whatever is published to an exchange finds a queue (`#`), so that
    /// an unknown event ends among the dead letters and not nowhere.
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
                // No delivery limit: looking at a dead letter hands it out and takes it back, and the
                // broker would drop it after the twentieth look.
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

/// At-least-once needs `overflow=reject-publish` beside it, else the broker falls back in silence.
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

/// Headers that a message carries once it failed.
pub mod headers {
    /// How often handling the message has failed; a number.
    pub const ATTEMPTS: &str = "x-agora-attempts";
    /// Why the message is dead: a [`DeadReason`](super::DeadReason).
    pub const REASON: &str = "x-agora-reason";
    /// The last error's text.
    pub const ERROR: &str = "x-agora-error";
    /// The routing key it was published with.
    pub const ROUTING_KEY: &str = "x-agora-routing-key";
    /// When it was called dead, RFC 3339.
    pub const FAILED_AT: &str = "x-agora-failed-at";
    /// When handling it first failed, RFC 3339: kept through retries, deaths and replays.
    pub const FIRST_FAILED_AT: &str = "x-agora-first-failed-at";
    /// Which service called it dead.
    pub const CONSUMER: &str = "x-agora-consumer";
    /// How often it was taken out of a dead-letter queue and sent again; a number.
    pub const REPLAYS: &str = "x-agora-replays";
    /// The broker's own reason, where it was the broker that moved the message last. Not the first one: a message
    /// that passed a retry tier has `expired` there for good.
    pub const LAST_DEATH_REASON: &str = "x-last-death-reason";
}

/// Why a consumer gave up on a message. The broker has reasons of its own (`delivery_limit`, …), in
/// `x-last-death-reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeadReason {
    /// Not an event, or not with the data that its type promises.
    Unreadable,
    /// Larger than [`MAX_EVENT_BYTES`].
    Oversized,
    /// An event that this consumer doesn't know.
    UnknownType,
    /// Readable, and impossible to apply: no later attempt can succeed.
    Rejected,
    /// Failed once more after the last retry tier.
    RetriesExhausted,
}

impl DeadReason {
    /// As it stands in the header and in metrics.
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
