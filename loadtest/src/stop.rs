//! What stops a run early: Ctrl-C and, with the option, the end of standard input.

use std::io::{self, BufRead as _};
use std::process;
use std::thread;

use chrono::{DateTime, Utc};
use tokio::signal;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// The exit code after the second Ctrl-C, see `main`.
const EXIT_INTERRUPTED: i32 = 4;

/// Cancelled by the first Ctrl-C; the second ends the process. goose handles Ctrl-C while it runs.
pub(crate) fn on_ctrl_c() -> CancellationToken {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        // Without a handler Ctrl-C ends the process at once, which stops the run as well.
        if signal::ctrl_c().await.is_ok() {
            stopping.cancel();
            if signal::ctrl_c().await.is_ok() {
                process::exit(EXIT_INTERRUPTED);
            }
        }
    });
    stop
}

/// Cancels `stop` when standard input reaches its end. The process that started the run holds the other end, which closes
/// even when that process is killed: no load is left behind.
///
/// Returns the moment that its first line names: when a run that begins when it is told to does so. Without one, there is no answer.
pub(crate) fn when_stdin_ends(stop: CancellationToken) -> oneshot::Receiver<DateTime<Utc>> {
    let (said, begin_at) = oneshot::channel();
    // A thread outside the runtime, which ends with the process: the runtime would wait for one of its own.
    thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut line = String::new();
        if stdin.read_line(&mut line).is_ok()
            && let Ok(moment) = line.trim().parse()
        {
            // Nobody waits for it but such a run.
            let _ = said.send(moment);
        }
        // After an error nothing more can be read either.
        let _ = io::copy(&mut stdin, &mut io::sink());
        stop.cancel();
    });
    begin_at
}
