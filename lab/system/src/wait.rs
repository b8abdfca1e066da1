//! Waiting for a condition: always bounded, and ended by Ctrl-C.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::interrupt::{self, Interrupted};

const TICK: Duration = Duration::from_millis(100);

/// Asks `probe` every `interval` until it gives a value; `None` when `limit` passed without one.
///
/// `probe` is asked at least once, however short the limit.
pub fn until<T>(
    limit: Duration,
    interval: Duration,
    mut probe: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<Option<T>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe()? {
            return Ok(Some(value));
        }
        if interrupt::requested() {
            return Err(Interrupted.into());
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        pause(interval);
    }
}

/// Lets a time pass that can't be told from a condition: another's schedule, or the moment of a fault.
///
/// # Errors
/// After Ctrl-C.
pub fn pass(time: Duration) -> anyhow::Result<()> {
    until(time, TICK.min(time), || Ok(None::<()>))?;
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the bounded wait that the lint points to"
)]
fn pause(interval: Duration) {
    thread::sleep(interval);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut asked = 0;
        let found = until(Duration::from_secs(5), Duration::from_millis(1), || {
            asked += 1;
            Ok((asked == 3).then_some("there"))
        });
        assert_eq!(found.unwrap(), Some("there"));
    }

    #[test]
    fn a_condition_that_never_comes_true_ends_at_the_limit() {
        let found = until(Duration::from_millis(5), Duration::from_millis(1), || {
            Ok(None::<()>)
        });
        assert_eq!(found.unwrap(), None);
    }
}
