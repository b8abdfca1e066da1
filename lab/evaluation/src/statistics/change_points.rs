//! When a measurement changed for good, in the order of its runs.
//!
//! Pettitt's test (1979, *A non-parametric approach to the change-point problem*) finds the one change that splits a
//! history best, by the ranks of its values; binary segmentation (Scott and Knott 1974) then asks the same of both parts.
//! The p comes from random permutations of the values, as Pettitt's approximation, 2 exp(−6 K² / (n³ + n²)), is too large
//! for few values: of eight it finds no change at 5 % at all.
//!
//! It assumes that without a change the values could be swapped: a slow drift looks like changes, and so may runs that
//! have a busy machine in common. In a history without a change it finds one in at most `level` of all cases; after a
//! change each part is another chance to err.
//!
//! Left out: the size of a change, which is the difference of the parts' medians, and what caused it.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Fewer values are not searched for a change: the p of eight is 3 % at least.
pub const FEWEST: usize = 8;
/// How many permutations there are; the least p is one of 2,000.
const PERMUTATIONS: usize = 1_999;
/// The permutations are the same each time: the same history has the same changes.
const SEED: u64 = 1_979;

/// A measurement's values differ from here on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangePoint {
    /// The index of the first value after the change.
    pub at: usize,
    /// The probability of a split that is at least as good, if the values between the neighbouring changes were in a
    /// random order.
    pub p: f64,
}

/// The changes in a history, in its order, each with a p of at most `level`. A value that is no number is skipped, and
/// so is a part with fewer than [`FEWEST`] values.
pub fn find(values: &[f64], level: f64) -> Vec<ChangePoint> {
    let known: Vec<(usize, f64)> = values.iter().copied().enumerate().collect();
    let known: Vec<(usize, f64)> = known
        .into_iter()
        .filter(|(_, value)| !value.is_nan())
        .collect();
    let mut found = Vec::new();
    segment(&known, level, &mut found);
    found
}

/// Adds the changes within this part of a history; each value has its index in the whole.
fn segment(part: &[(usize, f64)], level: f64, found: &mut Vec<ChangePoint>) {
    if part.len() < FEWEST {
        return;
    }
    let values: Vec<f64> = part.iter().map(|(_, value)| *value).collect();
    let ranks = doubled_ranks(&values);
    let (statistic, split) = pettitt(&ranks);
    let p = permuted_p(ranks, statistic);
    if p > level {
        return;
    }
    let (before, after) = part.split_at(split);
    segment(before, level, found);
    found.push(ChangePoint { at: after[0].0, p });
    segment(after, level, found);
}

/// Pettitt's K, and how many values are before the split that has it (the first such). `ranks` are doubled.
fn pettitt(ranks: &[u64]) -> (u64, usize) {
    let count = ranks.len() as u64;
    let (mut sum, mut largest) = (0, (0, 1));
    for (at, rank) in ranks.iter().enumerate().take(ranks.len() - 1) {
        sum += rank;
        // U = 2 Σ rank − t (n + 1)
        let statistic = sum.abs_diff((at as u64 + 1) * (count + 1));
        if statistic > largest.0 {
            largest = (statistic, at + 1);
        }
    }
    largest
}

/// The share of orders of these ranks with a K that is at least as large, the one that was seen among them (Davison and
/// Hinkley 1997, section 4.3).
fn permuted_p(mut ranks: Vec<u64>, seen: u64) -> f64 {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut as_large = 1;
    for _ in 0..PERMUTATIONS {
        ranks.shuffle(&mut random);
        as_large += usize::from(pettitt(&ranks).0 >= seen);
    }
    as_large as f64 / (PERMUTATIONS + 1) as f64
}

/// Twice each value's rank from 1, so that the mean rank of equal values is an integer, too.
fn doubled_ranks(values: &[f64]) -> Vec<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = |value: &f64| {
        let below = sorted.partition_point(|other| other < value);
        let up_to = sorted.partition_point(|other| other <= value);
        (below + up_to + 1) as u64
    };
    values.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::super::pairs::LEVEL;
    use super::super::power::normal;
    use super::*;

    /// Volume of the Nile at Aswan, 10⁸ m³ a year, 1871 to 1970 (Cobb 1978): less since 1899.
    const NILE: [f64; 100] = [
        1120.0, 1160.0, 963.0, 1210.0, 1160.0, 1160.0, 813.0, 1230.0, 1370.0, 1140.0, 995.0, 935.0,
        1110.0, 994.0, 1020.0, 960.0, 1180.0, 799.0, 958.0, 1140.0, 1100.0, 1210.0, 1150.0, 1250.0,
        1260.0, 1220.0, 1030.0, 1100.0, 774.0, 840.0, 874.0, 694.0, 940.0, 833.0, 701.0, 916.0,
        692.0, 1020.0, 1050.0, 969.0, 831.0, 726.0, 456.0, 824.0, 702.0, 1120.0, 1100.0, 832.0,
        764.0, 821.0, 768.0, 845.0, 864.0, 862.0, 698.0, 845.0, 744.0, 796.0, 1040.0, 759.0, 781.0,
        865.0, 845.0, 944.0, 984.0, 897.0, 822.0, 1010.0, 771.0, 676.0, 649.0, 846.0, 812.0, 742.0,
        801.0, 1040.0, 860.0, 874.0, 848.0, 890.0, 744.0, 749.0, 838.0, 1050.0, 918.0, 986.0,
        797.0, 923.0, 975.0, 815.0, 1020.0, 906.0, 901.0, 1170.0, 912.0, 746.0, 919.0, 718.0,
        714.0, 740.0,
    ];

    /// Page's data (1955), as in table 1 of Pettitt (1979).
    const PAGE: [f64; 40] = [
        -1.05, 0.96, 1.22, 0.58, -0.98, -0.03, -1.54, -0.71, -0.35, 0.66, 0.44, 0.91, -0.02, -1.42,
        1.26, -1.02, -0.81, 1.66, 1.05, 0.97, 2.14, 1.22, -0.24, 1.60, 0.72, -0.12, 0.44, 0.03,
        0.66, 0.56, 1.37, 1.66, 0.10, 0.80, 1.29, 0.49, -0.07, 1.18, 3.29, 1.84,
    ];

    fn approximate_p(statistic: u64, count: usize) -> f64 {
        let (k, n) = (statistic as f64, count as f64);
        2.0 * (-6.0 * k * k / (n.powi(3) + n.powi(2))).exp()
    }

    #[test]
    fn the_statistic_is_the_published_one() {
        // Pettitt 1979: after the 17th value, p = 0.014 (by the approximation).
        let (statistic, split) = pettitt(&doubled_ranks(&PAGE));
        assert_eq!((statistic, split), (232, 17));
        assert!((approximate_p(statistic, 40) - 0.014_556).abs() < 1e-6);
        // pyhomogeneity 1.1: pettitt_test(nile), U = 1617, cp = 28; p = 3.591e-7 by the approximation.
        let (statistic, split) = pettitt(&doubled_ranks(&NILE));
        assert_eq!((statistic, split), (1_617, 28));
        assert!((approximate_p(statistic, 100) - 3.591e-7).abs() < 1e-10);
    }

    #[test]
    fn the_nile_changed_after_1898_and_never_again() {
        let found = find(&NILE, LEVEL);
        assert_eq!(
            found,
            [ChangePoint {
                at: 1_899 - 1_871,
                p: 1.0 / 2_000.0
            }]
        );
    }

    #[test]
    fn the_p_is_that_of_all_permutations() {
        // By numpy 2.4 over all itertools.permutations(rankdata(x)); three standard errors of 1,999 draws.
        for (values, exact) in [
            ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 0.028_571),
            ([1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0], 0.028_571),
            ([5.0, 1.0, 5.0, 2.0, 6.0, 6.0, 9.0, 4.0], 0.2),
        ] {
            let ranks = doubled_ranks(&values);
            let (statistic, split) = pettitt(&ranks);
            assert_eq!(split, 4);
            let p = permuted_p(ranks, statistic);
            let error = (exact * (1.0 - exact) / 1_999.0_f64).sqrt();
            assert!((p - exact).abs() < 3.0 * error, "{p} {exact}");
        }
    }

    #[test]
    fn each_of_two_changes_is_found_and_what_is_missing_is_skipped() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut values: Vec<f64> = (0..60)
            .map(|at| 5.0 + 3.0 * f64::from(at / 20) + normal(&mut random))
            .collect();
        let at = |values: &[f64]| {
            find(values, 0.01)
                .iter()
                .map(|found| found.at)
                .collect::<Vec<_>>()
        };
        assert_eq!(at(&values).len(), 2);
        values[10] = f64::NAN;
        assert_eq!(at(&values).len(), 2);
    }

    #[test]
    fn a_history_that_is_short_or_always_alike_has_no_change() {
        assert_eq!(find(&[], LEVEL), []);
        assert_eq!(find(&[1.0, 1.0, 1.0, 1.0, 9.0, 9.0, 9.0], LEVEL), []);
        assert_eq!(find(&[3.0; 50], LEVEL), []);
        let found = find(&[1.0, 1.0, 1.0, 1.0, 9.0, 9.0, 9.0, 9.0], LEVEL);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].at, 4);
    }

    #[test]
    fn of_histories_without_a_change_one_in_twenty_seems_to_have_one_at_most() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let changed = (0..100).filter(|_| {
            let values: Vec<f64> = (0..20).map(|_| normal(&mut random)).collect();
            !find(&values, LEVEL).is_empty()
        });
        // Five are expected at most; with a chance of one in a thousand there are more than 13.
        let changed = changed.count();
        assert!(changed <= 13, "{changed}");
    }
}
