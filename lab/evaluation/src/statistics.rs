//! Statistics over the repetitions of a measurement: median and range, and from six pairs of runs on how certain a ratio
//! is ([`pairs`]); whether they show a declared effect ([`decision`]), also where pairs come one after the other
//! ([`sequential`]); how far alike arms differ ([`noise`]) and how many pairs an effect needs ([`power`]); what runs
//! without harm say ([`runs`]); the order of the arms ([`order`]); when a measurement changed for good ([`change_points`]).
//!
//! Left out: which effect is large enough, which an experiment declares.

pub mod change_points;
pub mod decision;
#[cfg(test)]
mod error_rates;
pub mod noise;
pub mod order;
pub mod pairs;
pub mod power;
pub mod runs;
pub mod sequential;

use serde::{Deserialize, Serialize};

use self::pairs::Certainty;

/// Median and range of a measurement over its repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least value.
    pub min: f64,
    /// The greatest value.
    pub max: f64,
    /// How many values there are.
    pub count: usize,
}

impl Spread {
    /// `None` when there is no value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (first, last) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self {
            median,
            min: first,
            max: last,
            count: values.len(),
        })
    }
}

/// The effect of an arm compared with another, repetition by repetition: both had the same seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Effect {
    /// The arm that is compared with: without the pattern.
    pub from: String,
    /// The arm that is compared.
    pub to: String,
    /// `to` minus `from`.
    pub difference: Spread,
    /// `to` divided by `from`; `None` unless both are above 0 in every repetition that has both.
    pub ratio: Option<Spread>,
    /// How certain the ratio is; `None` without a ratio, and for fewer pairs than [`pairs::FEWEST`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certainty: Option<Certainty>,
}

impl Effect {
    /// `pairs` are the values of both arms, a pair for each repetition; `None` when no repetition has both.
    pub fn of(from: &str, to: &str, pairs: &[(Option<f64>, Option<f64>)]) -> Option<Self> {
        let pairs: Vec<(f64, f64)> = pairs
            .iter()
            .filter_map(|(from, to)| from.zip(*to))
            .collect();
        let divisible = pairs.iter().all(|(from, to)| *from > 0.0 && *to > 0.0);
        let ratios: Vec<f64> = pairs.iter().map(|(from, to)| to / from).collect();
        Some(Self {
            from: from.to_owned(),
            to: to.to_owned(),
            difference: Spread::of(pairs.iter().map(|(from, to)| to - from))?,
            ratio: Spread::of(ratios.iter().copied()).filter(|_| divisible),
            certainty: Certainty::of(&ratios).filter(|_| divisible),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_halfway_between_the_two_in_it() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(spread(&[]), None);
        assert_eq!(
            spread(&[3.0, 1.0, 10.0]),
            Some(Spread {
                median: 3.0,
                min: 1.0,
                max: 10.0,
                count: 3
            })
        );
        assert_eq!(spread(&[4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(spread(&[7.0]).unwrap().median, 7.0);
    }

    #[test]
    fn an_effect_is_taken_within_each_repetition() {
        // The medians of the arms differ by 10; the medians of the differences don't.
        let pairs = [(10.0, 30.0), (20.0, 21.0), (30.0, 31.0)].map(|(a, b)| (Some(a), Some(b)));
        let effect = Effect::of("off", "on", &pairs).unwrap();
        assert_eq!(effect.difference.median, 1.0);
        assert_eq!((effect.difference.min, effect.difference.max), (1.0, 20.0));
        assert_eq!(effect.ratio.unwrap().max, 3.0);
    }

    #[test]
    fn nothing_is_divided_by_nothing_and_a_missing_value_is_no_zero() {
        let effect = Effect::of("off", "on", &[(Some(5.0), Some(0.0)), (None, Some(3.0))]).unwrap();
        assert_eq!(effect.ratio, None);
        assert_eq!(effect.difference.median, -5.0);
        assert_eq!(Effect::of("off", "on", &[(None, Some(1.0))]), None);
    }
}
