//! Named places at which a test kills the process with SIGKILL, to show that the state is consistent after a restart.
//!
//! Compiled in only with the feature `crash-points`, which no service turns on; without it
//! [`crash_point`] is an empty function. The places are in the chassis, between the steps of a pattern,
//! never in a service's own code. `AGORA_CRASH_AT=outbox.before_mark:3` arms one: the third passing is fatal.

/// Passes a named place; fatal if a test armed it.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn crash_point(_name: &str) {}

/// Passes a named place; fatal if a test armed it.
#[cfg(feature = "crash-points")]
pub fn crash_point(name: &str) {
    fail::fail_point!(name, |_| ());
}

/// Does nothing: this build has no crash points.
#[cfg(not(feature = "crash-points"))]
pub fn arm() {}

/// Arms what `AGORA_CRASH_AT` names.
///
/// # Panics
/// When the variable can't be read: a test must not believe that it armed something.
#[cfg(feature = "crash-points")]
pub fn arm() {
    use std::sync::atomic::{AtomicU32, Ordering};

    let Ok(armed) = std::env::var("AGORA_CRASH_AT") else {
        return;
    };
    let (name, passing) = armed.split_once(':').unwrap_or((&armed, "1"));
    let passing: u32 = passing.parse().expect("AGORA_CRASH_AT=<point>[:<number>]");
    let passed = AtomicU32::new(0);
    fail::cfg_callback(name, move || {
        if passed.fetch_add(1, Ordering::Relaxed) + 1 == passing {
            kill_myself();
        }
    })
    .expect("a callback can be set");
}

/// Not `abort`: nothing of the process may act any more, as when the kernel runs out of memory.
#[cfg(feature = "crash-points")]
fn kill_myself() {
    use rustix::process::{Signal, getpid, kill_process};

    kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
    // The signal comes at once; the caller must go no further.
    loop {
        std::thread::park();
    }
}
