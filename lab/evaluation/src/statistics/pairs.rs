//! What pairs of runs say about a ratio: log-ratios, an exact sign-flip test, and a bootstrap interval.
//!
//! A pair is one repetition: both arms had the same seed, one directly after the other, so that what the machine does
//! meanwhile concerns both. Left out: which ratio is large enough, which an experiment declares.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// With fewer pairs no two-sided test can reach 5 %: of 2⁵ sign patterns the two extreme ones alone are 6 %.
pub const FEWEST: usize = 6;
/// With more pairs the sign patterns are too many to look at each: 2²⁰ are a million.
pub const MOST: usize = 20;
/// How often the interval's bootstrap draws: as many as Efron and Tibshirani ask for at least.
const DRAWS: usize = 1_000;
/// The part that an interval leaves out on each side.
const TAIL: f64 = 0.025;
/// The bootstrap draws the same each time: the same evidence gives the same interval.
const SEED: u64 = 17;

/// How certain a ratio is, by its pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certainty {
    /// The geometric mean of the ratios.
    pub mean: f64,
    /// The lower end of the interval at 95 %.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// The probability of pairs at least as far from a ratio of 1, if the arms were alike (two-sided).
    pub p: f64,
}

impl Certainty {
    /// `None` for fewer than [`FEWEST`] or more than [`MOST`] ratios, or where one isn't above 0.
    pub fn of(ratios: &[f64]) -> Option<Self> {
        let usable = ratios.iter().all(|ratio| *ratio > 0.0 && ratio.is_finite());
        if !usable || !(FEWEST..=MOST).contains(&ratios.len()) {
            return None;
        }
        let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
        let (low, high) = interval(&logs);
        Some(Self {
            mean: mean(&logs).exp(),
            low: low.exp(),
            high: high.exp(),
            p: sign_flip(&logs),
        })
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard error of the mean.
fn standard_error(values: &[f64], mean: f64) -> f64 {
    let count = values.len() as f64;
    let squares: f64 = values
        .iter()
        .map(|value| (value - mean) * (value - mean))
        .sum();
    (squares / (count - 1.0) / count).sqrt()
}

/// The exact two-sided sign-flip test of a mean of 0: of all ways to give the values signs, the share whose sum is at
/// least as far from 0 as the one that was seen. It needs no assumption but that the arms could be swapped.
fn sign_flip(values: &[f64]) -> f64 {
    let seen = values.iter().sum::<f64>().abs();
    // What is equal but for rounding is as far.
    let far = count_far(values, 0.0, seen - seen * 1e-12);
    f64::from(far) / f64::from(1u32 << values.len())
}

/// How many ways there are to give the values signs such that, added to `sum`, they are at least `far` from 0.
fn count_far(values: &[f64], sum: f64, far: f64) -> u32 {
    match values {
        [] => u32::from(sum.abs() >= far),
        [value, rest @ ..] => count_far(rest, sum + value, far) + count_far(rest, sum - value, far),
    }
}

/// The bootstrap-t interval of the mean (Efron and Tibshirani 1993, chapter 12): of the bootstrap intervals the one that
/// is honest for few values, as it also draws how uncertain each mean is.
fn interval(values: &[f64]) -> (f64, f64) {
    let mean_seen = mean(values);
    let error_seen = standard_error(values, mean_seen);
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut drawn = vec![0.0; values.len()];
    let mut ts: Vec<f64> = Vec::with_capacity(DRAWS);
    for _ in 0..DRAWS {
        for value in &mut drawn {
            *value = values[random.random_range(0..values.len())];
        }
        let mean = mean(&drawn);
        let error = standard_error(&drawn, mean);
        // The same value each time says nothing of its spread.
        if error > 0.0 {
            ts.push((mean - mean_seen) / error);
        }
    }
    ts.sort_by(f64::total_cmp);
    let quantile = |part: f64| {
        let at = (part * ts.len() as f64) as usize;
        ts.get(at.min(ts.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0.0)
    };
    let (low, high) = (quantile(TAIL), quantile(1.0 - TAIL));
    (mean_seen - high * error_seen, mean_seen - low * error_seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twelve uniform values make a normal one well enough.
    fn normal(random: &mut ChaCha8Rng) -> f64 {
        (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0
    }

    fn pairs(random: &mut ChaCha8Rng, count: usize, log_ratio: f64, noise: f64) -> Vec<f64> {
        let log = |_| (log_ratio + noise * normal(random)).exp();
        (0..count).map(log).collect()
    }

    #[test]
    fn the_sign_flip_test_counts_every_pattern() {
        // By hand: of the eight sums of ±1 ±2 ±3 two are as far from 0 as 6, and all are as far as 0.
        assert_eq!(sign_flip(&[1.0, 2.0, 3.0]), 2.0 / 8.0);
        assert_eq!(sign_flip(&[1.0, 2.0, -3.0]), 1.0);
        assert_eq!(sign_flip(&[2.0, 1.0, -1.0]), 6.0 / 8.0);
        // scipy 1.14: permutation_test((x,), mean, permutation_type="samples", n_resamples=inf).pvalue
        let darwin = [
            49.0, -67.0, 8.0, 16.0, 6.0, 23.0, 28.0, 41.0, 14.0, 29.0, 56.0, 24.0, 75.0, 60.0,
            -48.0,
        ];
        assert_eq!(sign_flip(&darwin), 0.052_673_339_843_75);
    }

    #[test]
    fn six_pairs_are_the_fewest_and_a_ratio_of_nothing_decides_nothing() {
        assert_eq!(Certainty::of(&[2.0; 5]), None);
        assert_eq!(Certainty::of(&[2.0, 2.1, 2.2, 2.0, 1.9, 0.0]), None);
        let six = Certainty::of(&[2.0, 2.1, 2.2, 2.0, 1.9, 1.8]).unwrap();
        assert_eq!(six.p, 2.0 / 64.0);
        assert!(
            six.low > 1.7 && six.low < six.mean && six.mean < six.high && six.high < 2.3,
            "{six:?}"
        );
        // The same evidence, the same numbers.
        assert_eq!(Certainty::of(&[2.0, 2.1, 2.2, 2.0, 1.9, 1.8]), Some(six));
    }

    #[test]
    fn of_a_thousand_pairs_of_equal_arms_one_in_twenty_seems_to_differ_at_most() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        // Two of 64 patterns: 31 are expected; with a chance of one in a thousand there are more than 50.
        let differing = (0..1_000).filter(|_| {
            let ratios = pairs(&mut random, FEWEST, 0.0, 0.2);
            sign_flip(&ratios.iter().map(|ratio| ratio.ln()).collect::<Vec<_>>()) <= 0.05
        });
        let differing = differing.count();
        assert!(differing <= 50, "{differing}");
    }

    #[test]
    fn nineteen_of_twenty_intervals_have_the_ratio_in_them() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let outside = (0..100).filter(|_| {
            let ratios = pairs(&mut random, 8, 0.4, 0.2);
            let certainty = Certainty::of(&ratios).unwrap();
            !(certainty.low..=certainty.high).contains(&0.4_f64.exp())
        });
        // Five are expected; with a chance of one in a thousand there are more than 13.
        let outside = outside.count();
        assert!(outside <= 13, "{outside}");
    }
}
