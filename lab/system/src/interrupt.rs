//! Requests to end a command early: Ctrl-C (SIGINT), a closed terminal (SIGHUP), SIGTERM, and a closed standard output.
//!
//! The first request asks for an orderly end. The second ends the process at once and its children with it; what it
//! leaves behind is undone by the next command, as after SIGKILL.
//!
//! Left out: starting programs ([`crate::process`]).

use std::{
    fmt, fs,
    process::{Command, Stdio, exit},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    thread,
};

use signal_hook::{consts, iterator::Signals};

static REQUESTED: AtomicBool = AtomicBool::new(false);
/// The signal that asked first; 0 as long as none did.
static CAUSE: AtomicI32 = AtomicI32::new(0);
/// The process groups of programs under way.
static GROUPS: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Starts to listen for the signals that people and programs end a command with.
pub fn install() -> std::io::Result<()> {
    let mut listened = vec![consts::SIGINT, consts::SIGTERM, consts::SIGQUIT];
    // `nohup` means that the command goes on without its terminal.
    if !is_ignored(consts::SIGHUP) {
        listened.push(consts::SIGHUP);
    }
    let mut signals = Signals::new(listened)?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || signals.forever().for_each(arrived))?;
    Ok(())
}

fn arrived(signal: i32) {
    let is_first = CAUSE.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
    // A terminal that is closed brings several, by the kernel and by the shell, and nobody is in a hurry there.
    if signal == consts::SIGHUP && is_first.is_err() {
        return;
    }
    if REQUESTED.swap(true, Ordering::Relaxed) {
        // Not waited for: whoever waits for these programs would go on when they are gone.
        let _ = kill(&groups(), "-KILL").spawn();
        exit(code_of(signal));
    }
}

/// Requests the end because nobody reads standard output any more, as SIGPIPE does it elsewhere.
pub fn closed() {
    let first = CAUSE.compare_exchange(0, consts::SIGPIPE, Ordering::Relaxed, Ordering::Relaxed);
    if first.is_ok() {
        REQUESTED.store(true, Ordering::Relaxed);
    }
}

/// Whether the end was requested.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Whether it was requested because nobody reads standard output any more: then messages would be lost, too.
pub fn is_unread() -> bool {
    CAUSE.load(Ordering::Relaxed) == consts::SIGPIPE
}

/// The exit code for the signal that came first, 128 and its number: 130 after Ctrl-C.
pub fn exit_code() -> u8 {
    let code = match CAUSE.load(Ordering::Relaxed) {
        0 => code_of(consts::SIGINT),
        signal => code_of(signal),
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn code_of(signal: i32) -> i32 {
    128 + signal
}

/// Takes note of the request, so that cleaning up can run programs and wait again. One more signal ends
/// that as well.
pub fn acknowledge() {
    REQUESTED.store(false, Ordering::Relaxed);
}

/// Sets the request aside for something that has to be done before the end, where no error can tell of it: that can
/// run programs and wait, and afterwards the request stands again. One more signal meanwhile ends it as well.
pub fn set_aside<T>(last_duty: impl FnOnce() -> T) -> T {
    let requested = REQUESTED.swap(false, Ordering::Relaxed);
    let result = last_duty();
    if requested {
        REQUESTED.store(true, Ordering::Relaxed);
    }
    result
}

/// Process groups that don't outlive this process, as long as this is there.
#[derive(Debug)]
pub struct Groups(Vec<u32>);

impl Groups {
    /// Each is named by the process that leads it.
    pub fn of(leaders: Vec<u32>) -> Self {
        groups().extend(&leaders);
        Self(leaders)
    }

    /// Sends a signal, as `-TERM`, to all of them. One that has ended by itself is just as well.
    pub fn signal(&self, signal: &str) {
        let _ = kill(&self.0, signal).status();
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        groups().retain(|group| !self.0.contains(group));
    }
}

/// Each change is a whole one, so a panic elsewhere leaves nothing half done.
fn groups() -> MutexGuard<'static, Vec<u32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// std has no kill(2) for a group, and this workspace forbids unsafe code: POSIX `kill` has both.
fn kill(groups: &[u32], signal: &str) -> Command {
    let mut kill = Command::new("kill");
    kill.args([signal, "--"])
        .args(groups.iter().map(|group| format!("-{group}")))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    kill
}

/// Whether this process was started so that a signal does nothing to it. Only Linux tells.
fn is_ignored(signal: i32) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, signal))
}

fn ignores(status: &str, signal: i32) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The error that work ends with once the end was asked for.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nohup_does_is_recognised() {
        // As `nohup grep Sig /proc/self/status` and without it, where Rust ignores SIGPIPE.
        assert!(ignores(
            "SigBlk:\t0\nSigIgn:\t0000000000001001\n",
            consts::SIGHUP
        ));
        assert!(!ignores("SigIgn:\t0000000000001000\n", consts::SIGHUP));
        assert!(!ignores("", consts::SIGHUP));
    }
}
