//! How often the rules err, and how often they find what is there, over simulated evaluations.
//!
//! The threshold for errors is 5 % of 1,000 itself, without slack for luck: where each of 1,000 runs errs with the chance
//! that the exact test has with six pairs (2 of 64 patterns, 3.1 %), more than 50 do with a chance of one in a thousand. The
//! threshold for finding is 800 of 1,000: the number of pairs is planned for two standard errors more than 80 %.
//! All is seeded, so that a test doesn't fail by chance.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::decision::{Bound, Decided, decide, judge};
use super::noise::NoiseFloor;
use super::pairs::{self, FEWEST, Interval, LEVEL};
use super::power::{normal, pairs_needed};
use super::sequential::Looks;

const RUNS: usize = 1_000;
const ERRORS: usize = 50;

#[derive(Debug, Clone, Copy)]
enum Noise {
    Normal,
    /// Student's t with two degrees of freedom: without a variance.
    Heavy,
    /// Without a mean, even.
    Cauchy,
    /// Two clusters, as with a cache that is warm or not.
    Clusters,
}

const NOISES: [Noise; 4] = [Noise::Normal, Noise::Heavy, Noise::Cauchy, Noise::Clusters];

impl Noise {
    fn draw(self, random: &mut ChaCha8Rng) -> f64 {
        match self {
            Self::Normal => normal(random),
            Self::Heavy => {
                // A χ² with two degrees of freedom, divided by them, is exponential.
                let exponential = -(1.0 - random.random::<f64>()).ln();
                normal(random) / exponential.sqrt()
            }
            Self::Cauchy => normal(random) / normal(random),
            Self::Clusters => {
                let cluster = if random.random::<bool>() { 1.0 } else { -1.0 };
                cluster + 0.1 * normal(random)
            }
        }
    }

    fn ratios(self, random: &mut ChaCha8Rng, log_ratio: f64, scale: f64, count: usize) -> Vec<f64> {
        let ratio = |_| {
            (log_ratio + scale * self.draw(random))
                .clamp(-300.0, 300.0)
                .exp()
        };
        (0..count).map(ratio).collect()
    }
}

/// The log-ratio of an effect that is twice as large as declared; none for a margin.
fn twice(bound: Bound) -> f64 {
    if bound.is_margin() {
        0.0
    } else {
        2.0 * bound.ratio().ln()
    }
}

/// How many of [`RUNS`] are so.
fn count(seed: u64, mut is_so: impl FnMut(&mut ChaCha8Rng) -> bool) -> usize {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..RUNS).filter(|_| is_so(&mut random)).count()
}

#[test]
fn of_a_thousand_evaluations_of_equal_arms_at_most_fifty_are_beyond_an_improvement() {
    for noise in NOISES {
        for scale in [0.03, 0.15, 0.5] {
            for bound in [
                Bound::AtLeast(1.15),
                Bound::AtMost(0.9),
                Bound::AtLeast(1.0),
            ] {
                let beyond = |floor_of: fn(&[f64]) -> f64| {
                    count(1, |random| {
                        let floor = floor_of(&noise.ratios(random, 0.0, scale, FEWEST));
                        let ratios = noise.ratios(random, 0.0, scale, FEWEST);
                        judge(&ratios, bound, Some(floor), LEVEL).0 == Decided::Beyond
                    })
                };
                let measured = beyond(|ratios| NoiseFloor::of(ratios).unwrap().factor);
                // The test alone must keep it, too.
                let without = beyond(|_| 1.0);
                assert!(
                    measured <= without && without <= ERRORS,
                    "{noise:?} {scale} {bound:?}: {measured} {without}"
                );
            }
        }
    }
}

#[test]
fn the_whole_decision_of_a_thousand_evaluations_of_equal_arms_keeps_five_percent() {
    let beyond = count(2, |random| {
        let ratios = Noise::Normal.ratios(random, 0.0, 0.15, FEWEST);
        // The most lenient question there is: any improvement, and a machine without noise.
        let decision = decide(&ratios, Bound::AtLeast(1.0), Some(1.0), LEVEL);
        decision.decided != Decided::Open
    });
    assert!(beyond <= ERRORS, "{beyond}");
}

#[test]
fn of_a_thousand_evaluations_of_equal_arms_at_most_fifty_report_an_effect() {
    for noise in NOISES {
        for scale in [0.03, 0.15, 0.5] {
            let (mut by_p, mut by_interval) = (0, 0);
            count(3, |random| {
                let ratios = noise.ratios(random, 0.0, scale, FEWEST);
                let p = pairs::sign_flip(&pairs::logs(&ratios).unwrap(), 0.0);
                let interval = Interval::of(&ratios, LEVEL).unwrap();
                by_p += usize::from(p <= LEVEL);
                by_interval += usize::from(!(interval.low..=interval.high).contains(&1.0));
                true
            });
            assert_eq!(by_p, by_interval);
            assert!(by_p <= ERRORS, "{noise:?} {scale}: {by_p}");
        }
    }
}

#[test]
fn of_a_thousand_true_ratios_at_the_bound_at_most_fifty_are_decided() {
    // The worst case: a true ratio that is the bound. Beyond and short are both wrong there.
    for noise in NOISES {
        for bound in [
            Bound::AtLeast(1.15),
            Bound::AtMost(0.5),
            Bound::AtLeast(0.7),
            Bound::AtMost(3.0),
        ] {
            let decided = count(4, |random| {
                let ratios = noise.ratios(random, bound.ratio().ln(), 0.2, FEWEST);
                judge(&ratios, bound, Some(1.0), LEVEL).0 != Decided::Open
            });
            assert!(decided <= ERRORS, "{noise:?} {bound:?}: {decided}");
        }
    }
}

#[test]
fn the_exact_interval_misses_the_true_ratio_in_one_of_twenty_at_most() {
    for noise in NOISES {
        let missed = count(5, |random| {
            let interval = Interval::of(&noise.ratios(random, 0.4, 0.2, 8), LEVEL).unwrap();
            !(interval.low..=interval.high).contains(&0.4_f64.exp())
        });
        // With eight pairs 12 of 256 patterns: 4.7 %, so that 47 are expected. Three standard errors (√(1,000 × 0.05 × 0.95)
        // = 6.9) above 50.
        assert!(missed <= 71, "{noise:?}: {missed}");
    }
}

#[test]
fn twice_the_declared_effect_is_found_in_four_of_five_at_the_planned_number_of_pairs() {
    for (bound, scale, floor) in [
        (Bound::AtLeast(1.15), 0.05, 1.05),
        (Bound::AtLeast(1.15), 0.15, 1.1),
        (Bound::AtLeast(1.15), 0.1, 1.2),
        (Bound::AtMost(0.5), 0.3, 1.3),
        (Bound::AtMost(0.5), 0.8, 1.5),
        (Bound::AtLeast(0.7), 0.3, 1.2),
        (Bound::AtMost(3.0), 1.0, 1.5),
    ] {
        let pairs = pairs_needed(bound, scale, floor, 1).unwrap();
        let effect = twice(bound);
        let beyond = count(6, |random| {
            let ratios = Noise::Normal.ratios(random, effect, scale, pairs);
            judge(&ratios, bound, Some(floor), LEVEL).0 == Decided::Beyond
        });
        assert!(beyond >= 800, "{bound:?} {scale} {floor} {pairs}: {beyond}");
    }
}

#[test]
fn two_declared_effects_are_found_together_in_four_of_five_at_the_planned_number_of_pairs() {
    for (effects, scale, floor) in [
        // Those of load_shedding.
        ([Bound::AtMost(0.5), Bound::AtLeast(0.7)], 0.4, 1.2),
        // Each needs as many as the other: the worst case.
        ([Bound::AtLeast(1.2), Bound::AtLeast(1.2)], 0.2, 1.05),
        ([Bound::AtMost(0.5), Bound::AtLeast(2.0)], 0.7, 1.2),
    ] {
        let needed = effects.map(|bound| pairs_needed(bound, scale, floor, effects.len()));
        let pairs = needed.into_iter().max().flatten().unwrap();
        let found = count(9, |random| {
            // Independent of each other: what they have in common only helps.
            effects.map(|bound| {
                let effect = twice(bound);
                let ratios = Noise::Normal.ratios(random, effect, scale, pairs);
                judge(&ratios, bound, Some(floor), LEVEL).0 == Decided::Beyond
            }) == [true, true]
        });
        assert!(found >= 800, "{effects:?} {scale} {floor} {pairs}: {found}");
    }
}

#[test]
fn a_look_after_each_pair_keeps_five_percent() {
    for noise in [Noise::Normal, Noise::Heavy] {
        for (at_most, bound) in [
            (8, Bound::AtLeast(1.0)),
            (12, Bound::AtLeast(1.0)),
            (20, Bound::AtLeast(1.0)),
            // The worst case: a true ratio that is the bound.
            (20, Bound::AtMost(0.5)),
        ] {
            let looks = Looks::until(at_most).unwrap();
            let decided = count(7, |random| {
                let ratios = noise.ratios(random, bound.ratio().ln(), 0.2, at_most);
                (looks.first..=at_most).any(|pairs| {
                    judge(&ratios[..pairs], bound, Some(1.0), looks.level).0 != Decided::Open
                })
            });
            assert!(
                decided <= ERRORS,
                "{noise:?} {at_most} {bound:?}: {decided}"
            );
        }
    }
}

#[test]
fn looks_find_a_clear_effect_early() {
    let looks = Looks::until(20).unwrap();
    let mut pairs_used = 0;
    let found = count(8, |random| {
        let ratios = Noise::Normal.ratios(random, 2.0 * 1.15_f64.ln(), 0.1, 20);
        let first = (looks.first..=20).find(|pairs| {
            judge(
                &ratios[..*pairs],
                Bound::AtLeast(1.15),
                Some(1.05),
                looks.level,
            )
            .0 == Decided::Beyond
        });
        pairs_used += first.unwrap_or(20);
        first.is_some()
    });
    assert!(found >= 950, "{found}");
    assert!(pairs_used < 13 * RUNS, "{pairs_used}");
}
