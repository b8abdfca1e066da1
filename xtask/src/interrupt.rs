//! Ctrl-C: the first one asks for an orderly end, the second one ends the process at once.

use std::{
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{consts, flag};

/// What a shell expects from a process that SIGINT ended.
pub(crate) const EXIT_CODE: u8 = 130;

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Starts to listen for SIGINT and SIGTERM.
pub(crate) fn install() -> std::io::Result<()> {
    for signal in [consts::SIGINT, consts::SIGTERM] {
        // In this order: the first signal finds the flag unset and sets it, the second exits.
        flag::register_conditional_shutdown(signal, i32::from(EXIT_CODE), Arc::clone(&REQUESTED))?;
        flag::register(signal, Arc::clone(&REQUESTED))?;
    }
    Ok(())
}

/// Whether somebody asked for the end.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Takes note of the request, so that cleaning up can run programs and wait again. One more signal ends
/// that as well.
pub(crate) fn acknowledge() {
    REQUESTED.store(false, Ordering::Relaxed);
}

/// Sets the request aside for something that has to be done before the end, where no error can tell of it: that can
/// run programs and wait, and afterwards the request stands again. One more signal meanwhile ends it as well.
pub(crate) fn set_aside<T>(last_duty: impl FnOnce() -> T) -> T {
    let requested = REQUESTED.swap(false, Ordering::Relaxed);
    let result = last_duty();
    if requested {
        REQUESTED.store(true, Ordering::Relaxed);
    }
    result
}

/// The error that work ends with once the end was asked for.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}
