//! Durations as they are typed on the command line: `30s`, `10m`, `1h`, `7d`.
//!
//! Left out: how a duration is printed ([`crate::progress::spell`]).

use std::time::Duration;

/// The longest duration that is accepted: a moment that lies so far back can still be computed.
const LONGEST: Duration = Duration::from_secs(3_650 * DAY_SECONDS);
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// Parses a whole number followed by `s`, `m`, `h` or `d`.
///
/// # Errors
/// The form that was expected, as a sentence for clap's message.
pub fn parse(text: &str) -> Result<Duration, String> {
    let expected =
        || "expected a number of seconds, minutes, hours or days: 30s, 10m, 1h, 7d".to_owned();
    let unit = text.chars().next_back().ok_or_else(expected)?;
    let seconds_per_unit = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => DAY_SECONDS,
        _ => return Err(expected()),
    };
    let digits = &text[..text.len() - 1];
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(expected());
    }
    let count: u64 = digits.parse().map_err(|_| expected())?;
    let duration = Duration::from_secs(count.saturating_mul(seconds_per_unit));
    if duration > LONGEST {
        return Err("expected at most ten years (3650d)".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read() {
        for (text, seconds) in [
            ("0s", 0),
            ("90s", 90),
            ("10m", 600),
            ("1h", 3_600),
            ("7d", 604_800),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "s",
            "10",
            "-1s",
            "+1s",
            "1.5h",
            "1w",
            "10 m",
            "1h30m",
            "ä",
            "3651d",
            "99999999999999999999d",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
