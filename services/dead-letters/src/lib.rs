//! Operates on one dead-letter queue: replays its messages to the queue that they died from ([`Task::Replay`]), or
//! purges them ([`Task::Purge`]).
//!
//! | a message is | it is acknowledged |
//! |---|---|
//! | replayed | once the broker has confirmed the copy in its queue |
//! | purged | immediately |
//! | not selected, or the run is a dry run | never: it is held, and requeued at the end in its old place |
//!
//! A run that is interrupted at any moment therefore loses nothing. At worst one message is both in its queue and dead,
//! with one id, by which the consumer's inbox recognises the duplicate. Left out: listing messages (`cargo xtask dlq list`
//! and `peek` do that over the management API), and repairing their content.

// Its `println!` and `eprintln!` replace those of the standard library, in every module.
#[macro_use]
extern crate terminal;

mod dead_letter;
mod queue;

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use chassis::broker::{self, PublishError};
use chrono::Utc;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::{Channel, Connection, ConnectionProperties};
use shared_events::dead_letters::{Report, Selection};
use shared_events::topology::{self, Topology};
use tokio_util::sync::CancellationToken;

use crate::queue::QueueReader;

/// The deadline for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The deadline for every other answer of the broker: a confirm, a channel, a count.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The wait for a confirm, in errors. After a timeout the message may be in both queues.
const CONFIRMING: &str = "waiting for a confirm (the message may be in its queue nevertheless)";
/// How often a long run reports its progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// What to do with the selected messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Replay them to the queue that they died from.
    Replay,
    /// Purge them.
    Purge,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Replay => "replayed",
            Self::Purge => "purged",
        })
    }
}

/// A task and the messages that it applies to.
#[derive(Debug, Clone)]
pub struct Options {
    /// What to do.
    pub task: Task,
    /// The stream whose dead-letter queue it is.
    pub topology: Topology,
    /// The messages.
    pub selection: Selection,
    /// The maximum number of messages, from the front of the queue: the oldest, unless somebody listed more messages than
    /// one read returns, which moves those to the back.
    pub limit: Option<usize>,
    /// Only count.
    pub dry_run: bool,
}

/// An aborted run and its progress. Every message that isn't done is still in the queue.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct Error {
    /// The progress until then.
    pub report: Report,
    /// Why it was aborted.
    pub cause: Cause,
}

/// Why a run was aborted.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The broker can't be reached.
    #[error("can't reach the broker: {0}")]
    Unreachable(lapin::Error),
    /// The broker gave no answer in time.
    #[error("no answer from the broker within {} s while {what}", .limit.as_secs())]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The dead-letter queue isn't there.
    #[error("there is no queue {0}: the services that declare it haven't started")]
    NoQueue(String),
    /// The queue is full.
    #[error("{0} refuses more messages (it is full): the message stays in the dead-letter queue")]
    Refused(String),
    /// The broker never accepts this message, for example because it is too large.
    #[error(
        "the broker rejected a message for {queue}: {error}; it stays in the dead-letter queue"
    )]
    Rejected {
        /// The queue that it died from.
        queue: String,
        /// The broker's error.
        error: String,
    },
    /// The queue that a message died from doesn't exist.
    #[error("there is no queue {0} to replay the message to: it stays in the dead-letter queue")]
    Unroutable(String),
    /// The broker cancelled the consumer or closed its channel: the queue was deleted, or the broker is stopping.
    #[error("the broker ended the consumer of {0}: was the queue deleted, or the broker stopped?")]
    Cancelled(String),
    /// The connection broke.
    #[error("the broker connection failed: {0}")]
    Broker(#[from] lapin::Error),
}

impl Cause {
    /// Whether the broker or its queue was missing from the start.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::NoQueue(_))
    }
}

/// The stream whose dead-letter queue has this name.
pub fn topology_of(dead_letter_queue: &str) -> Option<Topology> {
    topology::ALL
        .into_iter()
        .find(|topology| topology.dead_letter_queue() == dead_letter_queue)
}

/// Runs the task until it is done or `stop` is cancelled; a message in transit is still moved.
///
/// # Errors
/// Why it was aborted, with the report of what was done by then.
pub async fn run(
    options: &Options,
    amqp_url: &str,
    stop: CancellationToken,
) -> Result<Report, Error> {
    let mut report = Report {
        queue: options.topology.dead_letter_queue(),
        examined: 0,
        selected: 0,
        done: 0,
        kept: 0,
        dry_run: options.dry_run,
        interrupted: false,
        oldest_failed_at: None,
        oldest_first_failed_at: None,
    };
    let result = connect_and_work(options, amqp_url, &stop, &mut report).await;
    report.kept = report.examined - report.done;
    match result {
        Ok(()) => Ok(report),
        Err(cause) => Err(Error { report, cause }),
    }
}

async fn connect_and_work(
    options: &Options,
    amqp_url: &str,
    stop: &CancellationToken,
    report: &mut Report,
) -> Result<(), Cause> {
    let properties = ConnectionProperties::default().with_connection_name("dead-letters".into());
    let connecting =
        tokio::time::timeout(CONNECT_TIMEOUT, Connection::connect(amqp_url, properties));
    let connection = tokio::select! {
        connected = connecting => connected
            .map_err(|_| Cause::TimedOut { what: "connecting", limit: CONNECT_TIMEOUT })?
            .map_err(Cause::Unreachable)?,
        () = stop.cancelled() => {
            report.interrupted = true;
            return Ok(());
        }
    };
    let mut reader = QueueReader::open(&connection, &report.queue).await?;
    let worked = work(options, &mut reader, stop, report).await;
    // Also after a failure: a message refused by a full queue must not change the order of the others.
    let requeued = reader.requeue().await;
    let closed = answered("closing", connection.close(200, "done".into())).await;
    worked.and(requeued).and(closed)
}

async fn work(
    options: &Options,
    reader: &mut QueueReader<'_>,
    stop: &CancellationToken,
    report: &mut Report,
) -> Result<(), Cause> {
    let there_at_first = reader.count().await?;
    let limit = options.limit.unwrap_or(usize::MAX);
    let target = options.topology.queue();
    let mut sent = Sent::default();
    let mut progress = Progress::new(options.task, there_at_first);
    // One that the broker never accepts keeps no other from being replayed.
    let mut rejected = None;
    while report.examined < there_at_first && report.selected < limit {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => {
                report.interrupted = true;
                return Ok(());
            }
            next = reader.next() => next?,
        };
        let Some(delivery) = next else { break };
        report.examined += 1;
        let facts = dead_letter::facts(&delivery);
        let selected = !sent.contains(&delivery) && options.selection.selects(&facts, Utc::now());
        if selected {
            report.selected += 1;
            let earlier = |known, this| [known, this].into_iter().flatten().min();
            report.oldest_failed_at = earlier(report.oldest_failed_at, facts.failed_at);
            report.oldest_first_failed_at =
                earlier(report.oldest_first_failed_at, facts.first_failed_at);
        }
        if !selected || options.dry_run {
            reader.hold();
            continue;
        }
        if options.task == Task::Replay {
            match replay(reader.channel(), &target, &delivery).await {
                Ok(()) => {}
                Err(cause @ Cause::Rejected { .. }) => {
                    reader.hold();
                    reader.replace_channel().await?;
                    rejected.get_or_insert(cause);
                    continue;
                }
                Err(cause) => {
                    reader.hold();
                    return Err(cause);
                }
            }
            sent.remember(&delivery);
            chassis::crash_point("dead_letters.before_ack");
        }
        let acknowledged = delivery.acker.ack(BasicAckOptions::default());
        if !answered("acknowledging", acknowledged).await? {
            return Err(Cause::Cancelled(report.queue.clone()));
        }
        report.done += 1;
        progress.report(report);
    }
    rejected.map_or(Ok(()), Err)
}

/// Publishes a message to the queue that it died from, and to no other: through the default exchange and not the stream's
/// own, because the other queues bound to that one have had the event already.
async fn replay(channel: &Channel, queue: &str, message: &Delivery) -> Result<(), Cause> {
    let sent = broker::send(
        channel,
        "",
        queue,
        &message.data,
        dead_letter::properties(message),
    );
    match tokio::time::timeout(ANSWER_TIMEOUT, sent).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(PublishError::Unroutable(_))) => Err(Cause::Unroutable(queue.to_owned())),
        Ok(Err(PublishError::Refused)) => Err(Cause::Refused(queue.to_owned())),
        Ok(Err(PublishError::Rejected(error))) => Err(Cause::Rejected {
            queue: queue.to_owned(),
            error,
        }),
        Ok(Err(PublishError::Connection(error))) => Err(error.into()),
        Ok(Err(PublishError::TimedOut(_))) | Err(_) => Err(Cause::TimedOut {
            what: CONFIRMING,
            limit: ANSWER_TIMEOUT,
        }),
    }
}

/// Limits the wait for the broker.
async fn answered<T>(
    what: &'static str,
    request: impl Future<Output = Result<T, lapin::Error>>,
) -> Result<T, Cause> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, request).await;
    Ok(answer.map_err(|_| Cause::TimedOut {
        what,
        limit: ANSWER_TIMEOUT,
    })??)
}

/// The messages that this run has replayed, as they look after dying again.
///
/// They arrive behind all messages of the start, so that counting excludes them, unless another client reads the queue
/// meanwhile, which moves messages from the front to the back.
#[derive(Default)]
struct Sent(HashSet<(String, i64)>);

impl Sent {
    fn remember(&mut self, message: &Delivery) {
        if let Some(id) = message.properties.message_id() {
            let next = dead_letter::replays(message).saturating_add(1);
            self.0.insert((id.to_string(), next));
        }
    }

    fn contains(&self, message: &Delivery) -> bool {
        message.properties.message_id().as_ref().is_some_and(|id| {
            self.0
                .contains(&(id.to_string(), dead_letter::replays(message)))
        })
    }
}

/// Reports the progress of a long run on standard error.
struct Progress {
    task: Task,
    total: usize,
    reported_at: Instant,
}

impl Progress {
    fn new(task: Task, total: usize) -> Self {
        Self {
            task,
            total,
            reported_at: Instant::now(),
        }
    }

    fn report(&mut self, report: &Report) {
        if self.reported_at.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        self.reported_at = Instant::now();
        eprintln!(
            "{}: {} {}, {} of {} examined",
            report.queue, report.done, self.task, report.examined, self.total
        );
    }
}
