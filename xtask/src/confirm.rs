//! Asks for consent before an engine is installed.
//!
//! Left out: installing it (`system::engine_setup`).

use std::{
    io::{self, IsTerminal},
    sync::mpsc,
    thread,
    time::Duration,
};

use base::outcome;
use system::{engine_setup::INSTALL, wait};

/// How long an answer is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);
const TICK: Duration = Duration::from_millis(300);

/// Announces that an engine is about to be installed; asks first on a terminal, as elsewhere nobody could answer. `yes`
/// answers beforehand.
///
/// # Errors
/// When the answer is no, or none comes.
pub(crate) fn install(yes: bool) -> anyhow::Result<()> {
    eprintln!(
        "no container engine is installed: `{INSTALL}` from this machine's distribution provides it"
    );
    if yes || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(());
    }
    eprint!("Install it now? [Y/n] ");
    let (sender, answer) = mpsc::channel();
    // On a thread of its own, as nothing ends a read: Ctrl-C is looked for meanwhile.
    thread::spawn(move || {
        let mut line = String::new();
        // Nobody waits any more: the command ended.
        // The end of the input is no answer.
        let read = io::stdin().read_line(&mut line);
        let _ = sender.send(read.map(|bytes| (bytes > 0).then_some(line)));
    });
    let line = wait::until(ANSWER_LIMIT, TICK, || Ok(answer.try_recv().ok()))?.transpose()?;
    match line.flatten().as_deref().map(str::trim) {
        Some("" | "y" | "Y" | "yes") => Ok(()),
        _ => Err(outcome::unavailable(
            "no container engine is installed",
            format!("install it yourself: `{INSTALL}`; or `--yes` for this command to do so"),
        )),
    }
}
