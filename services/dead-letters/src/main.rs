//! `dead-letters replay|purge --queue QUEUE …`: parses the command line, stops on signals, and prints the result as one
//! JSON object on standard output. `cargo xtask dlq` runs it beside the system.

// Its `println!` and `eprintln!` replace those of the standard library, in every module.
#[macro_use]
extern crate terminal;

use std::process::ExitCode;
use std::time::Duration;

use chassis::environment::Env;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand};
use dead_letters::{Options, Task};
use lapin::uri::AMQPUri;
use secrecy::ExposeSecret;
use shared_events::dead_letters::Selection;
use shared_events::topology::{self, Topology};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;
const EXIT_UNAVAILABLE: u8 = 3;
const EXIT_INTERRUPTED: u8 = 4;

/// Replays dead letters to the queue that they died from, or purges them
#[derive(Debug, Parser)]
#[command(after_help = "AMQP_URL is the broker's URL.\n\
                  Exit codes: 0 done, 1 aborted, 2 wrong usage, 3 no broker or no such queue, \
                  4 interrupted. Messages that aren't done stay in the queue.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Replay messages to the queue that they died from
    Replay(Choice),
    /// Purge messages
    Purge(Choice),
}

/// The selected messages; without a condition the whole queue.
#[derive(Debug, Args)]
struct Choice {
    /// The dead-letter queue
    #[arg(long, value_parser = dead_letter_queue)]
    queue: Topology,
    /// Only messages with this reason
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    reason: Option<String>,
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE", value_parser = NonEmptyStringValueParser::new())]
    event_type: Option<String>,
    /// Only messages whose event id starts with this
    #[arg(long, value_name = "BEGINNING", value_parser = NonEmptyStringValueParser::new())]
    id: Option<String>,
    /// Only messages that have been dead for at least this long
    #[arg(long, value_name = "SECONDS")]
    older_than_seconds: Option<u64>,
    /// Only messages that have been dead for less than this
    #[arg(long, value_name = "SECONDS")]
    younger_than_seconds: Option<u64>,
    /// At most this many, from the front of the queue
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Only count
    #[arg(long)]
    dry_run: bool,
}

fn dead_letter_queue(name: &str) -> Result<Topology, String> {
    dead_letters::topology_of(name).ok_or_else(|| {
        let queues = topology::ALL.map(|topology| topology.dead_letter_queue());
        format!("expected one of {}", queues.join(", "))
    })
}

impl Command {
    fn options(self) -> Options {
        let (task, choice) = match self {
            Self::Replay(choice) => (Task::Replay, choice),
            Self::Purge(choice) => (Task::Purge, choice),
        };
        Options {
            task,
            topology: choice.queue,
            selection: Selection {
                reason: choice.reason,
                event_type: choice.event_type,
                id: choice.id,
                older_than: choice.older_than_seconds.map(Duration::from_secs),
                younger_than: choice.younger_than_seconds.map(Duration::from_secs),
            },
            limit: choice.limit,
            dry_run: choice.dry_run,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Cli::parse().command.options();
    chassis::arm_crash_points();
    let url = match Env::process().secret_url::<AMQPUri>("AMQP_URL", &["amqp"]) {
        Ok(url) => url,
        Err(refused) => {
            eprintln!("dead-letters: configuration refused: {refused}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let stop = CancellationToken::new();
    if let Err(error) = stop_on_signals(&stop) {
        eprintln!("dead-letters: failed to watch for signals: {error}");
        return ExitCode::from(EXIT_FAILED);
    }
    let (report, code) = match dead_letters::run(&options, url.expose_secret(), stop).await {
        Ok(report) if report.interrupted => {
            eprintln!(
                "{}: interrupted after {} {}; the rest stays in the queue",
                report.queue, report.done, options.task
            );
            (report, EXIT_INTERRUPTED)
        }
        Ok(report) => (report, 0),
        Err(error) => {
            eprintln!(
                "{}: {} {}, not all: {error}",
                error.report.queue, error.report.done, options.task
            );
            let unavailable = error.cause.is_unavailable();
            let code = if unavailable {
                EXIT_UNAVAILABLE
            } else {
                EXIT_FAILED
            };
            (error.report, code)
        }
    };
    let json = serde_json::to_string(&report).expect("a report is JSON");
    println!("{json}");
    ExitCode::from(code)
}

/// The first SIGTERM or SIGINT stops the run; the tasks end with the process.
fn stop_on_signals(stop: &CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}
