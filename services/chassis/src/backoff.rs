//! How long to wait before trying to reach a dependency again, the same for all of them.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// 0.2 s, doubling to 5 s, with jitter, without an end: the caller bounds the total time.
pub(crate) fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .build()
}
