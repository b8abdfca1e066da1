//! Deadlines: the time that a request has, known to all work for it, and passed on with each call.
//!
//! A request over HTTP has `HTTP_TIMEOUT_MS`, or less if the client says so in `X-Request-Timeout-Ms`; a gRPC call has what
//! its `grpc-timeout` says, bounded as well. It is task-local: a spawned task has no deadline.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;
use tokio::time::error::Elapsed;

use crate::problem::Problem;

/// How long a client will wait, in whole milliseconds.
pub const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");
/// The longest time that a client may ask for; above the service's own limit, that limit holds.
const MAX_REQUEST_TIMEOUT_MS: u64 = 600_000;
/// Kept back from a request's time when it makes a call, so that there is time to answer without the call's result.
pub const ANSWER_RESERVE: Duration = Duration::from_millis(50);

tokio::task_local! {
    static DEADLINE: Instant;
}

/// Runs `work` until it is done or its time is up; within it, [`remaining`] returns the time that is left.
///
/// # Errors
/// When the time was up: the work was dropped.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let deadline = Instant::now() + limit;
    tokio::time::timeout_at(deadline, DEADLINE.scope(deadline, work)).await
}

/// The time that is left for the current work; `None` without a deadline.
pub fn remaining() -> Option<Duration> {
    DEADLINE
        .try_with(|deadline| deadline.saturating_duration_since(Instant::now()))
        .ok()
}

/// The time for a call that takes `own` at most: less if the request has less left, of which [`ANSWER_RESERVE`] is kept
/// back. Zero: there is no time for the call.
pub fn for_call(own: Duration) -> Duration {
    remaining().map_or(own, |left| own.min(left.saturating_sub(ANSWER_RESERVE)))
}

/// The time for a request: the service's own limit, or what the client asks for if that is less.
///
/// # Errors
/// 400 when the client's header says anything but a number of milliseconds from 1 to 600000.
pub(crate) fn of_request(headers: &HeaderMap, own: Duration) -> Result<Duration, Problem> {
    let mut values = headers.get_all(REQUEST_TIMEOUT).iter();
    let Some(value) = values.next() else {
        return Ok(own);
    };
    // A number has digits and no sign; of two headers it would be unclear which one holds.
    let asked = (values.next().is_none() && value.as_bytes().iter().all(u8::is_ascii_digit))
        .then(|| value.to_str().ok()?.parse::<u64>().ok())
        .flatten()
        .filter(|ms| (1..=MAX_REQUEST_TIMEOUT_MS).contains(ms));
    match asked {
        Some(ms) => Ok(own.min(Duration::from_millis(ms))),
        None => Err(Problem::malformed(format!(
            "X-Request-Timeout-Ms must be a number of milliseconds from 1 to {MAX_REQUEST_TIMEOUT_MS}"
        ))),
    }
}

/// The time for a gRPC call: what `grpc-timeout` says, bounded by the server's own limit. An unreadable value
/// is ignored. Its form: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.
pub(crate) fn of_call(headers: &HeaderMap, own: Duration) -> Duration {
    let asked = headers
        .get("grpc-timeout")
        .and_then(|value| grpc_timeout(value.to_str().ok()?));
    asked.map_or(own, |asked| own.min(asked))
}

fn grpc_timeout(text: &str) -> Option<Duration> {
    const MAX_DIGITS: usize = 8;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=MAX_DIGITS).contains(&number.len())
        && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = is_number.then(|| number.parse().ok()).flatten()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 60 * 60),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Duration = Duration::from_secs(10);

    fn asked(values: &[&str]) -> Result<Duration, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(REQUEST_TIMEOUT, value.parse().unwrap());
        }
        of_request(&headers, OWN)
    }

    #[test]
    fn a_client_may_have_less_time_than_the_service_gives_and_not_more() {
        assert_eq!(asked(&[]), Ok(OWN));
        assert_eq!(asked(&["250"]), Ok(Duration::from_millis(250)));
        assert_eq!(asked(&["600000"]), Ok(OWN));
    }

    #[test]
    fn a_time_that_cannot_be_read_is_refused() {
        for value in [
            "",
            "0",
            "-1",
            "+5",
            "1.5",
            "1e3",
            " 5 s",
            "soon",
            "600001",
            "0x10",
            "99999999999999999999999",
        ] {
            assert!(asked(&[value]).is_err(), "{value:?}");
        }
        assert!(asked(&["100", "200"]).is_err(), "two of them");
    }

    #[test]
    fn a_call_has_what_grpc_timeout_says_within_the_servers_own() {
        let of = |text: &str| {
            of_call(
                &HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]),
                OWN,
            )
        };
        for (text, expected) in [
            ("250m", Duration::from_millis(250)),
            ("2S", Duration::from_secs(2)),
            ("1500000u", Duration::from_millis(1500)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("1M", OWN),
            ("99999999H", OWN),
            ("0m", Duration::ZERO),
            // None of the protocol's.
            ("250", OWN),
            ("m", OWN),
            ("999999999n", OWN),
            ("-1S", OWN),
            ("1s", OWN),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
        assert_eq!(of_call(&HeaderMap::new(), OWN), OWN);
    }

    #[tokio::test(start_paused = true)]
    async fn the_remaining_time_shrinks_and_a_call_leaves_time_for_the_answer() {
        assert_eq!(remaining(), None);
        assert_eq!(for_call(OWN), OWN);
        let done = within(Duration::from_secs(1), async {
            tokio::time::advance(Duration::from_millis(400)).await;
            assert_eq!(remaining(), Some(Duration::from_millis(600)));
            assert_eq!(for_call(OWN), Duration::from_millis(550));
            assert_eq!(
                for_call(Duration::from_millis(100)),
                Duration::from_millis(100)
            );
            tokio::time::advance(Duration::from_millis(580)).await;
            assert_eq!(for_call(OWN), Duration::ZERO);
        });
        assert!(done.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_not_done_in_time_is_dropped() {
        let began = Instant::now();
        let never = within(Duration::from_secs(1), std::future::pending::<()>());
        assert!(never.await.is_err());
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }
}
