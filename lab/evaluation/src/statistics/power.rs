//! How many pairs a declared effect needs, by simulation: the rule of [`super::decision`] is tried on pairs with normal
//! log-ratios. Seeded: the same question gives the same answer.
//!
//! Left out: how long a pair takes.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::decision::{self, Bound, Decided};
use super::pairs::{FEWEST, LEVEL};

/// More pairs than these are not planned: the effect is too small for the noise.
pub const MOST_PLANNED: usize = 20;
/// The share of runs that must find all effects of an experiment, as is usual (Cohen 1988).
pub const POWER: f64 = 0.8;
/// How many runs are simulated for each number of pairs.
const RUNS: usize = 1_000;
/// The simulation draws the same each time.
const SEED: u64 = 80;

/// The fewest pairs, from six to [`MOST_PLANNED`], that an effect needs so that a run finds all the `effects` that its
/// experiment declares, this one among them, with a chance of [`POWER`]; `None` where so many don't suffice. The experiment
/// needs the most of what its effects need. `sd_log` is the standard deviation of the log-ratios of single pairs, `floor` the
/// noise floor's factor (≥ 1), as in [`super::noise::NoiseFloor`].
///
/// By Bonferroni, on errors of the second kind: each effect may be missed with an equal share of 1 − [`POWER`], so that one of
/// them is with 1 − [`POWER`] at most, whatever they have in common.
///
/// The true effect is taken for twice the declared one, on the log scale: for `AtLeast(1.2)` a ratio of 1.44, for
/// `AtMost(0.5)` one of 0.25. For a margin it is none, a ratio of 1: the margin is what it may be off.
///
/// It is for a fixed number of pairs; a sequence of looks ([`super::sequential`]) may end earlier, and needs a greater
/// `at_most` for the same chance. And it is as good as `sd_log`, which six pairs of an A/A run know to a factor of about two
/// only, and as the assumption that the arms without and with the pattern are as noisy.
pub fn pairs_needed(bound: Bound, sd_log: f64, floor: f64, effects: usize) -> Option<usize> {
    let missed_at_most = missed_at_most(effects);
    (FEWEST..=MOST_PLANNED).find(|pairs| {
        let mut missed = 0;
        (0..RUNS).all(|run| {
            missed += usize::from(!finds(bound, sd_log, floor, *pairs, run));
            missed <= missed_at_most
        })
    })
}

/// How many simulated runs may miss one of so many effects: two standard errors fewer than its share of what [`POWER`] leaves,
/// so that luck in the simulation doesn't make up for missing pairs. For one effect 200 − 2 × √(1,000 × 0.8 × 0.2) = 175.
fn missed_at_most(effects: usize) -> usize {
    let share = (1.0 - POWER) / effects.max(1) as f64;
    let runs = RUNS as f64;
    let error = (runs * share * (1.0 - share)).sqrt();
    (runs * share - 2.0 * error).max(0.0).round() as usize
}

/// The share of simulated runs with so many pairs that find the effect, as in [`pairs_needed`]; it is known to 3 % or so.
#[cfg(test)]
fn power(bound: Bound, sd_log: f64, floor: f64, pairs: usize) -> f64 {
    let found = (0..RUNS).filter(|run| finds(bound, sd_log, floor, pairs, *run));
    found.count() as f64 / RUNS as f64
}

/// Whether a simulated run finds the effect. A run with more pairs begins with those of the same run with fewer.
fn finds(bound: Bound, sd_log: f64, floor: f64, pairs: usize, run: usize) -> bool {
    let effect = true_log_ratio(bound);
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    random.set_stream(run as u64);
    let ratio = |_| (effect + sd_log * normal(&mut random)).exp();
    let ratios: Vec<f64> = (0..pairs).map(ratio).collect();
    decision::judge(&ratios, bound, Some(floor), LEVEL).0 == Decided::Beyond
}

/// Twice the declared effect, and none for a margin.
fn true_log_ratio(bound: Bound) -> f64 {
    if bound.is_margin() {
        0.0
    } else {
        2.0 * bound.ratio().ln()
    }
}

/// A standard normal value (Box and Muller 1958).
pub(super) fn normal(random: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_noise_needs_more_pairs_and_too_much_none_suffices() {
        let needed = |sd_log| pairs_needed(Bound::AtLeast(1.2), sd_log, 1.05, 1);
        assert_eq!(needed(0.0), Some(6));
        assert_eq!(needed(0.05), Some(6));
        assert_eq!(needed(0.2), Some(13));
        assert_eq!(needed(1.0), None);
        let power = |pairs| power(Bound::AtLeast(1.2), 0.2, 1.05, pairs);
        // By all 2ⁿ sign patterns, 2,000 simulations each, numpy 2.4: 0.31, 0.58, 0.82.
        for (pairs, reference) in [(6, 0.31), (8, 0.58), (12, 0.82)] {
            assert!(
                (power(pairs) - reference).abs() < 0.05,
                "{pairs}: {}",
                power(pairs)
            );
        }
    }

    #[test]
    fn one_of_several_effects_needs_more_than_one_alone() {
        let needed = |effects| pairs_needed(Bound::AtLeast(1.2), 0.2, 1.05, effects).unwrap();
        assert_eq!((needed(1), needed(2)), (13, 16));
        assert!(needed(2) < needed(3));
        assert_eq!([1, 2, 4].map(missed_at_most), [175, 81, 36]);
    }

    #[test]
    fn an_effect_and_its_reciprocal_need_as_many() {
        let halved = pairs_needed(Bound::AtMost(0.5), 0.7, 1.2, 1);
        let doubled = pairs_needed(Bound::AtLeast(2.0), 0.7, 1.2, 1);
        assert!(halved.is_some() && doubled.is_some());
        assert!(
            halved.unwrap().abs_diff(doubled.unwrap()) <= 1,
            "{halved:?} {doubled:?}"
        );
    }

    #[test]
    fn an_effect_within_the_noise_floor_needs_more_and_half_of_it_is_never_found() {
        let needed = |floor| pairs_needed(Bound::AtLeast(1.2), 0.1, floor, 1);
        assert!(needed(1.3).unwrap() > needed(1.1).unwrap());
        assert_eq!(needed(1.44), None);
        // A margin is never found in noise that is as large.
        assert_eq!(pairs_needed(Bound::AtLeast(0.7), 0.01, 1.5, 1), None);
        assert_eq!(pairs_needed(Bound::AtLeast(0.7), 0.01, 1.1, 1), Some(6));
    }

    #[test]
    fn what_is_no_question_needs_no_number() {
        assert_eq!(pairs_needed(Bound::AtLeast(1.0), 0.1, 1.0, 1), None);
        assert_eq!(pairs_needed(Bound::AtLeast(-1.0), 0.1, 1.0, 1), None);
        assert_eq!(pairs_needed(Bound::AtLeast(1.5), f64::NAN, 1.0, 1), None);
    }
}
