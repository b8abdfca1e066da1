//! How far noise alone takes a ratio: the noise floor of a measurement on a machine, from an A/A run.
//!
//! Left out: whose noise it is (machine, load, version), which whoever stores it records.

use serde::{Deserialize, Serialize};

use std::f64::consts::FRAC_PI_2;

use super::pairs::{self, Interval, LEVEL};

/// How far noise alone takes a ratio from where it is without noise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoiseFloor {
    /// The standard deviation of the log-ratios of single pairs (divided by n − 1). It doesn't shrink with more pairs,
    /// and says how many an experiment needs ([`super::power`]).
    pub sd_log: f64,
    /// A factor of at least 1: how far the farther end of the exact interval at 95 % is, in either direction. It shrinks
    /// with more pairs, unless one arm is favoured, by its position for example. What isn't beyond it, could be noise.
    pub factor: f64,
    /// How many pairs there were.
    pub pairs: usize,
}

impl NoiseFloor {
    /// Of the ratios of an A/A run. `None` for fewer than [`pairs::FEWEST`] or more than [`pairs::MOST`], or where one
    /// isn't above 0 and finite.
    pub fn of(ratios: &[f64]) -> Option<Self> {
        Self::about(ratios, |_| 0.0)
    }

    /// Of a ratio that need not be 1 without noise, such as that of a measurement under the fault and before it: the fault has an
    /// effect, which isn't noise. The factor is the distance from the geometric mean. `None` as with [`NoiseFloor::of`].
    pub fn about_mean(ratios: &[f64]) -> Option<Self> {
        Self::about(ratios, pairs::mean)
    }

    fn about(ratios: &[f64], centre: impl FnOnce(&[f64]) -> f64) -> Option<Self> {
        let interval = Interval::of(ratios, LEVEL)?;
        let logs = pairs::logs(ratios)?;
        let error = pairs::standard_error(&logs, pairs::mean(&logs));
        let centre = centre(&logs);
        let distance = |end: f64| (end.ln() - centre).abs();
        Some(Self {
            sd_log: error * (logs.len() as f64).sqrt(),
            factor: distance(interval.low).max(distance(interval.high)).exp(),
            pairs: logs.len(),
        })
    }
}

/// How far noise alone takes the ratio of two medians from 1, as a factor: the half-width of its interval at 95 %. The medians
/// are of so many values each, `sd_log` is the standard deviation of the log-ratios of so many `pairs` of single values. It
/// assumes normal log-ratios, and that runs on different days differ no more than arms that follow each other.
///
/// Of the variance of a log-ratio each value has half. The median of *n* values has that divided by *n*, times π/2 at most
/// (Laplace 1818); of one or two values it is their mean. As `sd_log` is an estimate, the quantile is that of Student's t.
pub fn between_medians(sd_log: f64, pairs: usize, before: usize, after: usize) -> f64 {
    let variance = |count: usize| {
        let of_median = if count > 2 { FRAC_PI_2 } else { 1.0 };
        of_median / count.max(1) as f64
    };
    let variance = f64::midpoint(variance(before), variance(after));
    (student_t(pairs.saturating_sub(1)) * sd_log * variance.sqrt()).exp()
}

/// The quantile of Student's t at 97.5 %, to 0.2 % from five degrees of freedom on (Abramowitz and Stegun 1964, 26.7.5).
fn student_t(degrees: usize) -> f64 {
    const NORMAL: f64 = 1.959_963_985;
    let power = |exponent| NORMAL.powi(exponent);
    let terms = [
        (power(3) + power(1)) / 4.0,
        (5.0 * power(5) + 16.0 * power(3) + 3.0 * power(1)) / 96.0,
        (3.0 * power(7) + 19.0 * power(5) + 17.0 * power(3) - 15.0 * power(1)) / 384.0,
    ];
    let degrees = degrees.max(1) as f64;
    let series = terms.iter().rev();
    series.fold(0.0, |sum, term| (sum + term) / degrees) + NORMAL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_end_that_is_farther_from_one() {
        let floor = NoiseFloor::of(&[0.8, 1.0, 1.1, 1.05, 0.95, 1.02]).unwrap();
        assert!((floor.factor - 1.25).abs() < 1e-9, "{floor:?}");
        // numpy 2.4: std(log(x), ddof=1)
        assert!((floor.sd_log - 0.111_574_559_392).abs() < 1e-9, "{floor:?}");
        assert_eq!(floor.pairs, 6);
        let without = NoiseFloor::of(&[1.0; 6]).unwrap();
        assert_eq!((without.sd_log, without.factor), (0.0, 1.0));
    }

    #[test]
    fn the_floor_about_the_mean_leaves_out_what_all_ratios_have_in_common() {
        let about_one = [0.8, 1.0, 1.25, 1.1, 1.0 / 1.1, 1.0];
        let thrice = about_one.map(|ratio| 3.0 * ratio);
        let (floor, moved) = (NoiseFloor::of(&about_one), NoiseFloor::about_mean(&thrice));
        let (floor, moved) = (floor.unwrap(), moved.unwrap());
        assert!((floor.factor - 1.25).abs() < 1e-9, "{floor:?}");
        assert!((moved.factor - floor.factor).abs() < 1e-9, "{moved:?}");
        assert!((moved.sd_log - floor.sd_log).abs() < 1e-9, "{moved:?}");
    }

    #[test]
    fn single_values_differ_as_single_pairs_do_and_medians_less() {
        let log = |pairs, before, after| between_medians(0.1, pairs, before, after).ln() / 0.1;
        // Of tables: 2.571, 2.201, 2.045 with 5, 11 and 29 degrees of freedom.
        for (pairs, quantile) in [(6, 2.571), (12, 2.201), (30, 2.045)] {
            assert!(
                (log(pairs, 1, 1) - quantile).abs() < 0.005,
                "{}",
                log(pairs, 1, 1)
            );
        }
        let single = log(6, 1, 1);
        assert!((log(6, 2, 2) - single / 2.0_f64.sqrt()).abs() < 1e-9);
        assert!((log(6, 8, 8) - single * (FRAC_PI_2 / 8.0).sqrt()).abs() < 1e-9);
        // The smaller number of values limits both.
        assert!(log(6, 1, 30) > single / 2.0_f64.sqrt());
        assert_eq!(between_medians(0.0, 6, 1, 1), 1.0);
    }

    #[test]
    fn two_medians_of_equal_values_are_as_near_in_nineteen_of_twenty_cases() {
        use rand::SeedableRng;
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        for count in [1, 2, 3, 6] {
            let mut median = || {
                let values = (0..count).map(|_| 0.1 * super::super::power::normal(&mut random));
                super::super::Spread::of(values).unwrap().median
            };
            let within = between_medians(0.1 * 2.0_f64.sqrt(), 10_000, count, count).ln();
            let beyond = (0..2_000).filter(|_| (median() - median()).abs() > within);
            // Three standard errors (9.7) above 100; fewer where π/2 is more than it takes.
            let beyond = beyond.count();
            assert!((40..130).contains(&beyond), "{count}: {beyond}");
        }
    }

    #[test]
    fn more_pairs_lower_the_floor_and_too_few_have_none() {
        let ratios = [
            0.9, 1.1, 0.95, 1.05, 1.02, 0.98, 1.08, 0.92, 1.0, 1.01, 0.97, 1.03,
        ];
        let floor = |count| NoiseFloor::of(&ratios[..count]).unwrap().factor;
        assert!(floor(12) < floor(8) && floor(8) < floor(6));
        assert_eq!(NoiseFloor::of(&ratios[..5]), None);
        assert_eq!(NoiseFloor::of(&[1.0, 1.0, 1.0, 1.0, 1.0, 0.0]), None);
    }
}
