//! How far noise alone takes a ratio: the noise floor of a measurement on a machine, from an A/A run.
//!
//! Left out: whose noise it is (machine, load, version), which whoever stores it records.

use serde::{Deserialize, Serialize};

use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

use super::pairs::{self, Interval, LEVEL};

/// With more degrees of freedom Student's t is the normal distribution, to a part of a thousand.
const MOST_DEGREES: usize = 1_000;
/// Each halves the place in which a quantile of Student's t is.
const HALVINGS: u32 = 50;

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

/// How far noise alone takes the ratio of two medians from 1, as a factor: the half-width of its interval at `1 − level`. The
/// medians are of so many values each, `sd_log` is the standard deviation of the log-ratios of so many `pairs` of single values.
/// It assumes normal log-ratios, and that runs on different days differ no more than arms that follow each other. Of several
/// measurements each takes its share of the error as `level`.
///
/// Of the variance of a log-ratio each value has half. The median of *n* values has that divided by *n*, times π/2 at most
/// (Laplace 1818); of one or two values it is their mean. As `sd_log` is an estimate, the quantile is that of Student's t.
pub fn between_medians(sd_log: f64, pairs: usize, before: usize, after: usize, level: f64) -> f64 {
    let variance = |count: usize| {
        let of_median = if count > 2 { FRAC_PI_2 } else { 1.0 };
        of_median / count.max(1) as f64
    };
    let variance = f64::midpoint(variance(before), variance(after));
    (student_t(pairs.saturating_sub(1), level) * sd_log * variance.sqrt()).exp()
}

/// The value that Student's t exceeds, in either direction, with the probability `level`: by bisection of its exact distribution.
fn student_t(degrees: usize, level: f64) -> f64 {
    let degrees = degrees.clamp(1, MOST_DEGREES);
    let (mut low, mut high) = (0.0, FRAC_PI_2);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if within_angle(degrees, middle) < 1.0 - level {
            low = middle;
        } else {
            high = middle;
        }
    }
    (degrees as f64).sqrt() * low.tan()
}

/// The probability that Student's t is within ±√degrees · tan `angle` (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4).
fn within_angle(degrees: usize, angle: f64) -> f64 {
    let (sin, cos) = angle.sin_cos();
    let is_odd = degrees % 2 == 1;
    let (first, mut term) = if is_odd { (1, cos) } else { (0, 1.0) };
    let mut sum = 0.0;
    for power in (first..degrees.saturating_sub(1)).step_by(2) {
        sum += term;
        term *= cos * cos * (power + 1) as f64 / (power + 2) as f64;
    }
    if is_odd {
        FRAC_2_PI * (angle + sin * sum)
    } else {
        sin * sum
    }
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
        let log =
            |pairs, before, after| between_medians(0.1, pairs, before, after, LEVEL).ln() / 0.1;
        let single = log(6, 1, 1);
        assert!((single - student_t(5, LEVEL)).abs() < 1e-9);
        assert!((log(6, 2, 2) - single / 2.0_f64.sqrt()).abs() < 1e-9);
        assert!((log(6, 8, 8) - single * (FRAC_PI_2 / 8.0).sqrt()).abs() < 1e-9);
        // The smaller number of values limits both.
        assert!(log(6, 1, 30) > single / 2.0_f64.sqrt());
        assert_eq!(between_medians(0.0, 6, 1, 1, LEVEL), 1.0);
    }

    #[test]
    fn quantiles_of_students_t_are_those_of_tables() {
        for (degrees, level, quantile) in [
            (1, 0.05, 12.706),
            (2, 0.05, 4.303),
            (5, 0.05, 2.571),
            (11, 0.05, 2.201),
            (29, 0.05, 2.045),
            (5, 0.005, 4.773),
            (11, 0.005, 3.497),
            (29, 0.005, 3.038),
            (100_000, 0.05, 1.962),
        ] {
            let computed = student_t(degrees, level);
            assert!(
                (computed - quantile).abs() < 6e-4,
                "{degrees} {level}: {computed}"
            );
        }
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
            let within = between_medians(0.1 * 2.0_f64.sqrt(), 10_000, count, count, LEVEL).ln();
            let beyond = (0..2_000).filter(|_| (median() - median()).abs() > within);
            // Three standard errors (9.7) above 100; fewer where π/2 is more than it takes.
            let beyond = beyond.count();
            assert!((40..130).contains(&beyond), "{count}: {beyond}");
        }
    }

    #[test]
    fn of_ten_measurements_that_share_the_error_one_seems_to_differ_in_one_of_twenty_cases() {
        use rand::SeedableRng;
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let mut normal = || 0.1 * super::super::power::normal(&mut random);
        let mut seems_to_differ = |level: f64| {
            let logs: Vec<f64> = (0..6).map(|_| normal() - normal()).collect();
            let sd_log = pairs::standard_error(&logs, pairs::mean(&logs)) * 6.0_f64.sqrt();
            let within = between_medians(sd_log, logs.len(), 1, 1, level).ln();
            (normal() - normal()).abs() > within
        };
        let mut cases = |level: f64| {
            let mut case = || (0..10).any(|_| seems_to_differ(level));
            (0..1_000).filter(|_| case()).count()
        };
        // Three standard errors (6.9) above 50.
        let shared = cases(LEVEL / 10.0);
        assert!((25..71).contains(&shared), "{shared}");
        // Each at 5 %: 40 % of the cases.
        let each = cases(LEVEL);
        assert!(each > 300, "{each}");
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
