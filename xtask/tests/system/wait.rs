//! Waiting for a condition: always bounded, and a wait in vain says what it saw last.

use std::{
    thread,
    time::{Duration, Instant},
};

const INTERVAL: Duration = Duration::from_millis(250);

/// Asks `probe` until it gives a value; panics with its last objection once `limit` has passed.
#[track_caller]
pub(crate) fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match probe() {
            Ok(value) => return value,
            Err(objection) if Instant::now() >= deadline => {
                panic!(
                    "waited {} s in vain for {what}: {objection}",
                    limit.as_secs()
                )
            }
            Err(_) => pause(INTERVAL),
        }
    }
}

/// Lets time pass that is itself part of the test, such as the length of an outage.
#[expect(
    clippy::disallowed_methods,
    reason = "the bounded wait that the lint points to is this module"
)]
pub(crate) fn pause(time: Duration) {
    thread::sleep(time);
}
