//! When a measurement changed for good, in the order of its runs.
//!
//! E-divisive (Matteson and James 2014, *A nonparametric approach for multiple change point analysis of multivariate
//! data*), as performance histories are searched at MongoDB (Daly and others 2020), on ranks and with exponent 2: it finds
//! the change of the mean rank that stands out most, tests it by permutations, and asks the same of both parts. As a
//! change is looked for in all beginnings of a history, and not in the whole only, one that was repaired later is found,
//! too. Pettitt's test (1979) finds a single lasting change more often, but is blind to one that was repaired: ten values,
//! five that are worse however much, and ten like the first have a p of 0.8.
//!
//! It assumes that without a change the values could be swapped: a slow drift looks like changes, and so may runs that
//! have a busy machine in common. In a history without a change it finds one in at most `level` of all cases; after a
//! change each part is another chance to err. Only ranks count, so that a single wild value does no harm, and the unit
//! doesn't matter. It takes a time that grows with the square of how many values there are.
//!
//! Left out: the size of a change, which is the difference of the parts' medians, and what caused it.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Fewer values are not searched for a change: the p of eight is 4 % at least.
pub const FEWEST: usize = 8;
/// Between two changes are so many values at least: one or two that stand out are no change.
const SHORTEST: usize = 3;
/// How many permutations there are; the least p is one of 2,000.
const PERMUTATIONS: usize = 1_999;
/// The permutations are the same each time: the same history has the same changes.
const SEED: u64 = 2_014;
/// What is less than another by this part at most is equal but for rounding.
const ROUNDING: f64 = 1e-12;

/// A measurement's values differ from here on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangePoint {
    /// The index of the first value after the change.
    pub at: usize,
    /// The probability of a change that stands out as much, if the values of the part that is split here were in a random
    /// order. The part is the whole history, or between changes that were found before.
    pub p: f64,
}

/// The changes in a history, in its order, each with a p of at most `level`. A value that is no number is skipped, and
/// so is a part with fewer than [`FEWEST`] values.
pub fn find(values: &[f64], level: f64) -> Vec<ChangePoint> {
    let numbers = (0..)
        .zip(values.iter().copied())
        .filter(|(_, value)| !value.is_nan());
    let known: Vec<(usize, f64)> = numbers.collect();
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
    let ranks = centred_ranks(&values);
    let (statistic, split) = largest(&ranks);
    let Some(p) = permuted_p(ranks, statistic, level) else {
        return;
    };
    let (before, after) = part.split_at(split);
    segment(before, level, found);
    found.push(ChangePoint { at: after[0].0, p });
    segment(after, level, found);
}

/// How much the mean ranks before and after a split differ, (m n / (m + n)) (mean − mean)², where they differ most, and
/// how many values are before that split (the first such). What is after it need not reach to the end.
fn largest(ranks: &[f64]) -> (f64, usize) {
    let mut sums = vec![0.0];
    for rank in ranks {
        sums.push(sums[sums.len() - 1] + rank);
    }
    let mut largest = (0.0, SHORTEST);
    for split in SHORTEST..=ranks.len() - SHORTEST {
        let before = split as f64;
        for (end, sum) in sums.iter().enumerate().skip(split + SHORTEST) {
            let all = end as f64;
            let difference = sums[split] * all - sum * before;
            let statistic = difference * difference / (before * (all - before) * all);
            if statistic * (1.0 - ROUNDING) > largest.0 {
                largest = (statistic, split);
            }
        }
    }
    largest
}

/// The share of orders of these ranks with a statistic that is at least as large, the one that was seen among them
/// (Davison and Hinkley 1997, section 4.3). `None` as soon as it is certain to be above `level`.
fn permuted_p(mut ranks: Vec<f64>, seen: f64, level: f64) -> Option<f64> {
    let p = |as_large: usize| as_large as f64 / (PERMUTATIONS + 1) as f64;
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut as_large = 1;
    for _ in 0..PERMUTATIONS {
        ranks.shuffle(&mut random);
        as_large += usize::from(largest(&ranks).0 >= seen * (1.0 - ROUNDING));
        if p(as_large) > level {
            return None;
        }
    }
    (p(as_large) <= level).then_some(p(as_large))
}

/// Twice each value's rank, less their mean: integers, also where equal values share a rank.
fn centred_ranks(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = |value: &f64| {
        let below = sorted.partition_point(|other| other < value);
        let up_to = sorted.partition_point(|other| other <= value);
        (below + up_to) as f64 - values.len() as f64
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

    #[test]
    fn the_statistic_is_that_of_a_reference() {
        // numpy 2.4, r = scipy.stats.rankdata(x), S = [0, *cumsum(2 * r - n - 1)]: the maximum of
        // (S[t] * k - S[k] * t)² / (t * (k - t) * k) over 3 ≤ t ≤ k - 3, k ≤ n.
        let (statistic, split) = largest(&centred_ranks(&NILE));
        assert!((statistic - 135_218.057_338_444_7).abs() < 1e-6);
        assert_eq!(split, 28);
        // Pettitt 1979 finds the same split.
        let (statistic, split) = largest(&centred_ranks(&PAGE));
        assert!((statistic - 5_506.291_560_102_301).abs() < 1e-6);
        assert_eq!(split, 17);
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
            ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 0.042_857),
            ([1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0], 0.028_571),
            ([5.0, 1.0, 5.0, 2.0, 6.0, 6.0, 9.0, 4.0], 0.114_286),
        ] {
            let ranks = centred_ranks(&values);
            let (statistic, split) = largest(&ranks);
            assert_eq!(split, 4);
            let p = permuted_p(ranks, statistic, 1.0).unwrap();
            let error = (exact * (1.0 - exact) / 1_999.0_f64).sqrt();
            assert!((p - exact).abs() < 3.0 * error, "{p} {exact}");
        }
    }

    #[test]
    fn a_change_that_was_repaired_is_two_and_what_is_missing_is_skipped() {
        let mut values: Vec<f64> = [10, 5, 10]
            .into_iter()
            .zip([5.0, 8.0, 5.0])
            .flat_map(|(count, mean)| std::iter::repeat_n(mean, count))
            .zip([0.3, -0.1, 0.4, -0.5, 0.2].into_iter().cycle())
            .map(|(mean, noise)| mean + noise)
            .collect();
        let at = |values: &[f64]| {
            let found = find(values, LEVEL);
            found.iter().map(|found| found.at).collect::<Vec<_>>()
        };
        assert_eq!(at(&values), [10, 15]);
        values[4] = f64::NAN;
        assert_eq!(at(&values), [10, 15]);
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
