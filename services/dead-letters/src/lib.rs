//! Works on one dead-letter queue: sends letters back to the queue that they died from ([`Task::Replay`]), or
//! removes them ([`Task::Purge`]).
//!
//! | what happens to a letter | when it is acknowledged |
//! |---|---|
//! | replayed | once the broker has confirmed the copy in its queue |
//! | purged | at once |
//! | not selected, or a dry run | never: it is held, and given back at the end, in its old place |
//!
//! So a run that is cut short at any moment loses nothing. At worst one letter is both in its queue and dead, under
//! one id, by which the consumer's inbox recognises it. Left out: looking at letters (`cargo xtask dlq list` and
//! `peek` do that over the management API), and mending what they say.

// Its `println!` and `eprintln!` take the place of those of the standard library, in every module.
#[macro_use]
extern crate terminal;

mod letter;
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

use crate::queue::Letters;

/// Connecting may take this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The broker's answer to anything else: a confirm, a channel, a count.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// What a wait for a confirm is called; where it is in vain, the letter may be in both queues.
const CONFIRMING: &str = "waiting for a confirm (the letter may be in its queue all the same)";
/// How often a long run says where it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// What to do with the letters that are selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Send them to the queue that they died from.
    Replay,
    /// Remove them.
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

/// What to do, with which letters of which queue.
#[derive(Debug, Clone)]
pub struct Options {
    /// What to do.
    pub task: Task,
    /// The stream whose dead-letter queue it is.
    pub topology: Topology,
    /// Which letters.
    pub selection: Selection,
    /// At most so many of them, from the front of the queue: the oldest, unless somebody looked at more letters than it
    /// reads at a time, which moves those to the back.
    pub limit: Option<usize>,
    /// Only look.
    pub dry_run: bool,
}

/// Why it ended before it was through, and how far it got. All that isn't done is still in the queue.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct Error {
    /// How far it got.
    pub report: Report,
    /// Why it ended.
    pub cause: Cause,
}

/// Why a run ends before it is through.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// There is no broker to work with.
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
    /// The broker refused a letter.
    #[error("{0} refuses more messages (it is full): the letter stays where it is")]
    Refused(String),
    /// The broker never takes this letter: it is too large, say.
    #[error("the broker rejected a letter for {queue}: {error}; it stays where it is")]
    Rejected {
        /// The queue that it died from.
        queue: String,
        /// What the broker said.
        error: String,
    },
    /// The queue that a letter died from isn't there.
    #[error("there is no queue {0} to send the letter to: it stays where it is")]
    Unroutable(String),
    /// The broker took the consumer away, or its channel: somebody deleted the queue, or the broker stops.
    #[error("the broker ended the consumer of {0}: was the queue deleted, or the broker stopped?")]
    Cancelled(String),
    /// The connection broke.
    #[error("the broker connection failed: {0}")]
    Broker(#[from] lapin::Error),
}

impl Cause {
    /// Whether the broker or its queue wasn't there in the first place.
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

/// Does it, until it is through or `stop` is cancelled; a letter that is being moved then is still moved.
///
/// # Errors
/// What ended it early, with the report of what was done by then.
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
    let mut letters = Letters::open(&connection, &report.queue).await?;
    let worked = work(options, &mut letters, stop, report).await;
    // Also after a failure: a letter refused by a full queue must not cost the others their order.
    let given_back = letters.give_back().await;
    let closed = answered("closing", connection.close(200, "done".into())).await;
    worked.and(given_back).and(closed)
}

async fn work(
    options: &Options,
    letters: &mut Letters<'_>,
    stop: &CancellationToken,
    report: &mut Report,
) -> Result<(), Cause> {
    let there_at_first = letters.count().await?;
    let limit = options.limit.unwrap_or(usize::MAX);
    let target = options.topology.queue();
    let mut sent = Sent::default();
    let mut progress = Progress::new(options.task, there_at_first);
    while report.examined < there_at_first && report.selected < limit {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => {
                report.interrupted = true;
                return Ok(());
            }
            next = letters.next() => next?,
        };
        let Some(delivery) = next else { break };
        report.examined += 1;
        let facts = letter::facts(&delivery);
        let selected = !sent.contains(&delivery) && options.selection.selects(&facts, Utc::now());
        if selected {
            report.selected += 1;
            let earlier = |known, this| [known, this].into_iter().flatten().min();
            report.oldest_failed_at = earlier(report.oldest_failed_at, facts.failed_at);
            report.oldest_first_failed_at =
                earlier(report.oldest_first_failed_at, facts.first_failed_at);
        }
        if !selected || options.dry_run {
            letters.hold();
            continue;
        }
        if options.task == Task::Replay {
            if let Err(cause) = replay(letters.channel(), &target, &delivery).await {
                letters.hold();
                return Err(cause);
            }
            sent.remember(&delivery);
            chassis::crash_point("dead_letters.before_ack");
        }
        let acknowledged = delivery.acker.ack(BasicAckOptions::default());
        if !answered("acknowledging", acknowledged).await? {
            return Err(Cause::Cancelled(report.queue.clone()));
        }
        report.done += 1;
        progress.tell(report);
    }
    Ok(())
}

/// Sends a letter to the queue that it died from, and to no other: through the default exchange and not the
/// stream's own, as whoever else is bound to that one has had the event already.
async fn replay(channel: &Channel, queue: &str, letter: &Delivery) -> Result<(), Cause> {
    let sent = broker::send(channel, "", queue, &letter.data, letter::properties(letter));
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

/// Bounds the wait for the broker.
async fn answered<T>(
    what: &'static str,
    asked: impl Future<Output = Result<T, lapin::Error>>,
) -> Result<T, Cause> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, asked).await;
    Ok(answer.map_err(|_| Cause::TimedOut {
        what,
        limit: ANSWER_TIMEOUT,
    })??)
}

/// The letters that this run has sent, as they look once they are dead again.
///
/// They come after all that were there at first, so that counting keeps them away, unless somebody else reads the
/// queue meanwhile, which takes letters from the front and puts them to the back.
#[derive(Default)]
struct Sent(HashSet<(String, i64)>);

impl Sent {
    fn remember(&mut self, letter: &Delivery) {
        if let Some(id) = letter.properties.message_id() {
            let next = letter::replays(letter).saturating_add(1);
            self.0.insert((id.to_string(), next));
        }
    }

    fn contains(&self, letter: &Delivery) -> bool {
        letter
            .properties
            .message_id()
            .as_ref()
            .is_some_and(|id| self.0.contains(&(id.to_string(), letter::replays(letter))))
    }
}

/// Says on standard error where a long run is.
struct Progress {
    task: Task,
    total: usize,
    said_at: Instant,
}

impl Progress {
    fn new(task: Task, total: usize) -> Self {
        Self {
            task,
            total,
            said_at: Instant::now(),
        }
    }

    fn tell(&mut self, report: &Report) {
        if self.said_at.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        self.said_at = Instant::now();
        eprintln!(
            "{}: {} {}, {} of {} looked at",
            report.queue, report.done, self.task, report.examined, self.total
        );
    }
}
