//! How far noise alone takes a ratio: the noise floor of a measurement on a machine, from an A/A run.
//!
//! Left out: whose noise it is (machine, load, version), which whoever stores it records.

use serde::{Deserialize, Serialize};

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
