//! What ends a run before its time: Ctrl-C and, for a run that asks for it, the end of standard input.

use std::io;
use std::process;
use std::thread;

use tokio::signal;
use tokio_util::sync::CancellationToken;

/// As for the first Ctrl-C, see `main`.
const EXIT_INTERRUPTED: i32 = 4;

/// Cancelled by the first Ctrl-C; the second ends the process. goose takes Ctrl-C over while it runs.
pub(crate) fn on_ctrl_c() -> CancellationToken {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        // Without a handler Ctrl-C ends the process at once, which is a way to stop as well.
        if signal::ctrl_c().await.is_ok() {
            stopping.cancel();
            if signal::ctrl_c().await.is_ok() {
                process::exit(EXIT_INTERRUPTED);
            }
        }
    });
    stop
}

/// Cancels `stop` when standard input reaches its end. Who started the run holds the other end, and lets go of
/// it even when killed: no load is left behind.
pub(crate) fn when_stdin_ends(stop: CancellationToken) {
    // A thread of ours, which ends with the process: the runtime would wait for one of its own.
    thread::spawn(move || {
        // Nothing can be read any more after an error either.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        stop.cancel();
    });
}
