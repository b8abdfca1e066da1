//! Formats values, the same in every report.
//!
//! Left out: computing them ([`crate::statistics`]).

use std::time::Duration;

use base::progress::spell;

use crate::statistics::{Effect, Spread};

/// The text in place of a value that wasn't measured.
pub const NONE: &str = "–";
/// The text beside measurements of a single repetition.
pub const NO_SPREAD: &str = "one run: no spread is known";

/// A value with its unit: `41`, `12.5/s`, `340 ms`, `3.2 s`.
pub fn value(value: f64, unit: &str) -> String {
    let sign = if value < 0.0 { "−" } else { "" };
    let size = value.abs();
    match unit {
        "ms" if size < 9.95 => format!("{sign}{} ms", short(size)),
        "ms" => {
            let milliseconds = Duration::from_secs_f64((size / 1_000.0).min(1e12));
            format!("{sign}{}", spell(milliseconds))
        }
        "" => format!("{sign}{}", short(size)),
        // `/s` and `%` stick to their number.
        unit => format!("{sign}{}{unit}", short(size)),
    }
}

/// A value with its sign, as a difference is written: `+3`, `−38`, `±0`.
pub fn signed(difference: f64, unit: &str) -> String {
    let written = value(difference, unit);
    if difference > 0.0 {
        format!("+{written}")
    } else if difference == 0.0 {
        format!("±{written}")
    } else {
        written
    }
}

/// A ratio: `×0.41`, `×12`.
pub fn ratio(ratio: f64) -> String {
    if ratio < 0.01 {
        "×<0.01".to_owned()
    } else if ratio < 10.0 {
        format!("×{ratio:.2}")
    } else {
        format!("×{ratio:.0}")
    }
}

/// A median and, for more than one repetition, the range: `41 (38–44)`.
pub fn spread(spread: Option<&Spread>, unit: &str) -> String {
    spread.map_or_else(
        || NONE.to_owned(),
        |spread| with_range(spread, |number| value(number, unit)),
    )
}

/// An arm's effect: `−41 (−44 to −38), ×0.12 (×0.10 to ×0.13)`.
pub fn effect(effect: Option<&Effect>, unit: &str) -> String {
    let Some(effect) = effect else {
        return NONE.to_owned();
    };
    if effect.difference.min == 0.0 && effect.difference.max == 0.0 {
        return "no difference".to_owned();
    }
    let difference = with_range(&effect.difference, |number| signed(number, unit));
    let ratio_of = effect.ratio.as_ref();
    let ratios = ratio_of.map(|spread| format!(", {}", with_range(spread, ratio)));
    let certain = effect.certainty.map(|certainty| {
        format!(
            "; mean {}, at 95 % {} to {}, p {:.3}",
            ratio(certainty.mean),
            ratio(certainty.low),
            ratio(certainty.high),
            certainty.p
        )
    });
    difference + &ratios.unwrap_or_default() + &certain.unwrap_or_default()
}

/// The least and the largest value; `None` for a single one.
pub fn range(spread: &Spread, write: impl Fn(f64) -> String) -> Option<String> {
    if spread.count < 2 {
        return None;
    }
    let (min, max) = (write(spread.min), write(spread.max));
    Some(if min == max {
        format!("all {min}")
    } else if min.starts_with(|first: char| first.is_ascii_digit()) {
        format!("{min}–{max}")
    } else {
        format!("{min} to {max}")
    })
}

fn with_range(spread: &Spread, write: impl Fn(f64) -> String) -> String {
    let median = write(spread.median);
    match range(spread, write) {
        Some(range) => format!("{median} ({range})"),
        None => median,
    }
}

/// Counts as they are, anything else with three digits or so.
fn short(size: f64) -> String {
    if size.fract() == 0.0 || size >= 100.0 {
        format!("{size:.0}")
    } else if size >= 1.0 {
        format!("{size:.1}")
    } else {
        format!("{size:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_in_the_unit_that_fits() {
        assert_eq!(value(41.0, ""), "41");
        assert_eq!(value(12.52, "/s"), "12.5/s");
        assert_eq!(value(4.23, "ms"), "4.2 ms");
        assert_eq!(value(340.4, "ms"), "340 ms");
        assert_eq!(value(-3_240.0, "ms"), "−3.2 s");
        assert_eq!(signed(0.0, ""), "±0");
        assert_eq!(signed(2.0, "ms"), "+2 ms");
    }

    #[test]
    fn one_repetition_shows_no_range_and_more_always_do() {
        let three = Spread {
            median: 41.0,
            min: 38.0,
            max: 44.0,
            count: 3,
        };
        assert_eq!(spread(Some(&three), ""), "41 (38–44)");
        let none = |count| Spread {
            median: 0.0,
            min: 0.0,
            max: 0.0,
            count,
        };
        assert_eq!(spread(Some(&none(3)), ""), "0 (all 0)");
        assert_eq!(spread(Some(&none(1)), ""), "0");
        assert_eq!(spread(None, ""), NONE);

        let effect_of = |pairs: &[(Option<f64>, Option<f64>)]| {
            effect(Effect::of("off", "on", pairs).as_ref(), "")
        };
        let pair = |from, to| (Some(from), Some(to));
        assert_eq!(
            effect_of(&[pair(40.0, 10.0), pair(44.0, 22.0)]),
            "−26 (−30 to −22), ×0.38 (×0.25 to ×0.50)"
        );
        assert_eq!(effect_of(&[pair(7.0, 7.0)]), "no difference");
        assert_eq!(effect_of(&[(None, Some(7.0))]), NONE);
    }
}
