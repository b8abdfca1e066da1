//! What pairs of runs say about a ratio: log-ratios, an exact sign-flip test, the exact interval that inverts it, and a
//! bootstrap interval.
//!
//! A pair is one repetition: both arms had the same seed, one directly after the other, so that what the machine does
//! meanwhile concerns both. Ratios have no unit; a ratio of 1 is no effect.
//!
//! The exact test and its interval decide ([`super::decision`]), as they keep their error for few pairs whatever the noise:
//! the interval of six pairs at 95 % misses the true ratio in 3.1 % of all cases, that of eight in 4.7 %. The bootstrap-t
//! interval is shown beside them and decides nothing. In 2,000 simulations each it missed in 5 to 6 % with normal noise and
//! in 5 to 8 % with heavy-tailed; and the small error that each of many looks may have would be the extreme of its draws.
//!
//! Left out: which ratio is large enough, which an experiment declares.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The two-sided error of a single test: of alike arms one in twenty seems to differ.
pub const LEVEL: f64 = 0.05;
/// With fewer pairs no two-sided test can reach 5 %: of 2⁵ sign patterns the two extreme ones alone are 6 %.
pub const FEWEST: usize = 6;
/// With more pairs the sign patterns take too long to count: those of 30 are counted in two halves of 2¹⁵.
pub const MOST: usize = 30;
/// How often the interval's bootstrap draws: as many as Efron and Tibshirani ask for at least.
const DRAWS: usize = 1_000;
/// The part that the bootstrap interval leaves out on each side.
const TAIL: f64 = LEVEL / 2.0;
/// The bootstrap draws the same each time: the same evidence gives the same interval.
const SEED: u64 = 17;
/// What is equal but for rounding is equal: this part of what was added up.
const ROUNDING: f64 = 1e-12;
/// Each halves the place in which an end of the exact interval is: to a part of 10¹⁵ of the values' range.
const HALVINGS: u32 = 50;

/// How certain a ratio is, by its pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certainty {
    /// The geometric mean of the ratios.
    pub mean: f64,
    /// The lower end of the bootstrap-t interval at 95 %.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// The probability of pairs at least as far from a ratio of 1, if the arms were alike (two-sided).
    pub p: f64,
}

impl Certainty {
    /// `None` for fewer than [`FEWEST`] or more than [`MOST`] ratios, or where one isn't above 0.
    pub fn of(ratios: &[f64]) -> Option<Self> {
        if !(FEWEST..=MOST).contains(&ratios.len()) {
            return None;
        }
        let logs = logs(ratios)?;
        let (low, high) = bootstrap(&logs);
        Some(Self {
            mean: mean(&logs).exp(),
            low: low.exp(),
            high: high.exp(),
            p: sign_flip(&logs, 0.0),
        })
    }
}

/// The ratios that an exact test doesn't reject: both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The lowest ratio.
    pub low: f64,
    /// The highest ratio.
    pub high: f64,
}

impl Interval {
    /// The exact interval of the true ratio at `1 − level`: all ratios that the sign-flip test of the log-ratios doesn't
    /// reject (Hartigan 1969, *Using subsample values as typical values*; its ends are means of some of the log-ratios).
    /// With six pairs at 95 % it reaches from the least ratio to the greatest.
    ///
    /// It assumes that the log-ratios are independent and lie symmetrically about the true one; about a true ratio of 1
    /// they do whenever the arms could be swapped, however the noise is distributed.
    ///
    /// `None` for fewer than [`fewest`] or more than [`MOST`] ratios, or where one isn't above 0 and finite.
    pub fn of(ratios: &[f64], level: f64) -> Option<Self> {
        if !(fewest(level)?..=MOST).contains(&ratios.len()) {
            return None;
        }
        let logs = logs(ratios)?;
        let mirrored: Vec<f64> = logs.iter().map(|log| -log).collect();
        Some(Self {
            low: lowest_not_rejected(&logs, level).exp(),
            high: (-lowest_not_rejected(&mirrored, level)).exp(),
        })
    }
}

/// The fewest pairs with which the exact two-sided test can reach `level`, and at least [`FEWEST`]: the two extreme sign
/// patterns are 2 of 2ⁿ. `None` if [`MOST`] are too few, and unless `level` is above 0.
pub fn fewest(level: f64) -> Option<usize> {
    (FEWEST..=MOST).find(|pairs| 2.0 * 0.5_f64.powi(*pairs as i32) <= level)
}

/// `None` where a ratio isn't above 0 and finite.
pub(super) fn logs(ratios: &[f64]) -> Option<Vec<f64>> {
    let usable = ratios.iter().all(|ratio| *ratio > 0.0 && ratio.is_finite());
    usable.then(|| ratios.iter().map(|ratio| ratio.ln()).collect())
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard error of the mean.
pub(super) fn standard_error(values: &[f64], mean: f64) -> f64 {
    let count = values.len() as f64;
    let squares: f64 = values
        .iter()
        .map(|value| (value - mean) * (value - mean))
        .sum();
    (squares / (count - 1.0) / count).sqrt()
}

/// The exact two-sided sign-flip test (Fisher 1935) of a centre of symmetry at `centre`: of all ways to give the
/// differences from it signs, the share whose sum is at least as far from 0 as the one that was seen. About a log-ratio
/// of 0 it needs no assumption but that the arms could be swapped. At most [`MOST`] values.
pub(super) fn sign_flip(values: &[f64], centre: f64) -> f64 {
    let size: f64 = values.iter().map(|value| value.abs() + centre.abs()).sum();
    let near = ROUNDING * size;
    let mut differences: Vec<f64> = values.iter().map(|value| value - centre).collect();
    let seen: f64 = differences.iter().sum();
    if seen.abs() <= near {
        return 1.0;
    }
    if seen < 0.0 {
        for difference in &mut differences {
            *difference = -*difference;
        }
    }
    // To change the signs of some takes twice their sum away: as far as before is who takes nothing away, or adds. As
    // many patterns are as far on the other side.
    let far = count_at_most(&differences, near);
    2.0 * far as f64 / (1u64 << values.len()) as f64
}

/// How many subsets, the empty one too, have a sum of `limit` at most: met in the middle (Horowitz and Sahni 1974), so
/// that 2ⁿ sums need two sorted halves of √2ⁿ.
fn count_at_most(values: &[f64], limit: f64) -> u64 {
    let (left, right) = values.split_at(values.len() / 2);
    let (left, right) = (sorted_sums(left), sorted_sums(right));
    let mut fitting = right.len();
    let mut count = 0;
    for sum in &left {
        while fitting > 0 && sum + right[fitting - 1] > limit {
            fitting -= 1;
        }
        count += fitting as u64;
    }
    count
}

/// The sums of all subsets, in ascending order.
fn sorted_sums(values: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0];
    for value in values {
        let mut merged = Vec::with_capacity(2 * sums.len());
        let (mut without, mut with) = (0, 0);
        while without < sums.len() || with < sums.len() {
            let take_with =
                without == sums.len() || with < sums.len() && sums[with] + value < sums[without];
            if take_with {
                merged.push(sums[with] + value);
                with += 1;
            } else {
                merged.push(sums[without]);
                without += 1;
            }
        }
        sums = merged;
    }
    sums
}

/// The lowest centre that [`sign_flip`] doesn't reject at `level`, found by bisection: up to the mean its p only grows.
fn lowest_not_rejected(values: &[f64], level: f64) -> f64 {
    let mut rejected = values.iter().copied().fold(f64::INFINITY, f64::min);
    let mut kept = mean(values);
    if sign_flip(values, rejected) > level {
        return rejected;
    }
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(rejected, kept);
        if sign_flip(values, middle) > level {
            kept = middle;
        } else {
            rejected = middle;
        }
    }
    kept
}

/// The bootstrap-t interval of the mean (Efron and Tibshirani 1993, chapter 12): of the bootstrap intervals the one that
/// suits few values best, as it also draws how uncertain each mean is.
fn bootstrap(values: &[f64]) -> (f64, f64) {
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
        // The same value each time says nothing of its spread; rounding must not make one of it.
        if error > 1e-9 * error_seen {
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

    /// How much taller, in eighths of an inch, crossed plants grew than self-fertilised ones (Fisher 1935, after Darwin).
    const DARWIN: [f64; 15] = [
        49.0, -67.0, 8.0, 16.0, 6.0, 23.0, 28.0, 41.0, 14.0, 29.0, 56.0, 24.0, 75.0, 60.0, -48.0,
    ];

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
        assert_eq!(sign_flip(&[1.0, 2.0, 3.0], 0.0), 2.0 / 8.0);
        assert_eq!(sign_flip(&[1.0, 2.0, -3.0], 0.0), 1.0);
        assert_eq!(sign_flip(&[2.0, 1.0, -1.0], 0.0), 6.0 / 8.0);
        // scipy 1.17: permutation_test((x,), mean, permutation_type="samples", n_resamples=inf).pvalue
        assert_eq!(sign_flip(&DARWIN, 0.0), 0.052_673_339_843_75);
        // The same of x - 40.
        assert_eq!(sign_flip(&DARWIN, 40.0), 0.065_856_933_593_75);
    }

    #[test]
    fn values_that_are_the_centre_but_for_rounding_are_no_evidence() {
        let log = 1.15_f64.ln();
        assert_eq!(sign_flip(&[log; 6], log), 1.0);
        assert_eq!(sign_flip(&[1.15_f64.sqrt().ln() * 2.0; 7], log), 1.0);
    }

    #[test]
    fn the_exact_interval_is_what_the_test_does_not_reject() {
        let close = |interval: Interval, low: f64, high: f64| {
            let (seen_low, seen_high) = (interval.low.ln(), interval.high.ln());
            assert!(
                (seen_low - low).abs() < 1e-9 && (seen_high - high).abs() < 1e-9,
                "{seen_low} {seen_high}"
            );
        };
        let ratios: Vec<f64> = DARWIN.iter().map(|value| (value / 100.0).exp()).collect();
        // The k-th least and greatest of all 2ⁿ - 1 means of some values, k = ⌊level 2ⁿ / 2⌋, by numpy 2.4:
        // sort((masks @ x) / masks.sum(1))[[k - 1, -k]]
        close(
            Interval::of(&ratios, 0.05).unwrap(),
            -0.001_666_666_667,
            0.41,
        );
        close(Interval::of(&ratios, 0.01).unwrap(), -0.095, 0.47);
        let six = Interval::of(&[1.9, 2.0, 2.1, 2.2, 2.3, 2.4], 0.05).unwrap();
        close(six, 1.9_f64.ln(), 2.4_f64.ln());
        let alike = Interval::of(&[2.0; 9], 0.05).unwrap();
        close(alike, 2.0_f64.ln(), 2.0_f64.ln());
    }

    #[test]
    fn thirty_pairs_are_counted_and_more_are_refused() {
        let ratios: Vec<f64> = (1..=31).map(|at| 1.0 + f64::from(at) / 100.0).collect();
        let thirty = Interval::of(&ratios[..30], LEVEL).unwrap();
        let mean = Certainty::of(&ratios[..30]).unwrap().mean;
        assert!(1.1 < thirty.low && thirty.low < mean && mean < thirty.high && thirty.high < 1.2);
        assert_eq!(Interval::of(&ratios, LEVEL), None);
        assert_eq!(Certainty::of(&ratios), None);
    }

    #[test]
    fn a_smaller_error_needs_more_pairs() {
        assert_eq!(fewest(LEVEL), Some(6));
        assert_eq!(fewest(0.9), Some(6));
        assert_eq!(fewest(0.03), Some(7));
        assert_eq!(fewest(0.0), None);
        assert_eq!(fewest(f64::NAN), None);
        assert_eq!(Interval::of(&[2.0; 6], 0.03), None);
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
    fn a_bootstrap_draw_of_one_value_is_no_spread() {
        // Most draws of these are of 2 alone.
        let certainty = Certainty::of(&[2.0, 2.0, 2.0, 2.0, 2.0, 2.1]).unwrap();
        assert!(certainty.low > 1.5 && certainty.high < 2.5, "{certainty:?}");
    }

    #[test]
    fn of_a_thousand_pairs_of_equal_arms_one_in_twenty_seems_to_differ_at_most() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        // Two of 64 patterns: 31 are expected; with a chance of one in a thousand there are more than 50.
        let differing = (0..1_000).filter(|_| {
            let ratios = pairs(&mut random, FEWEST, 0.0, 0.2);
            sign_flip(&logs(&ratios).unwrap(), 0.0) <= LEVEL
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
