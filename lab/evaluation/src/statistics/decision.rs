//! Whether pairs of runs show a declared effect: beyond it, short of it, or open.
//!
//! What is compared is the true ratio of two measurements of one repetition (pattern / without, or under fault / before),
//! which has no unit; its estimate is the geometric mean of the pairs' ratios. The exact sign-flip test of the log-ratios
//! decides, and its inversion, the exact interval: each says the same ([`Interval::of`] names source and assumption).
//! The bootstrap-t interval ([`Certainty`]) is shown beside them, always at 95 %.
//!
//! A true ratio that is exactly the bound is taken for beyond in at most half of `level` of all decisions, and for short
//! in as many; one on the wrong side of the bound is taken for beyond more rarely still.
//!
//! Left out: how many pairs to run ([`super::power`], [`super::sequential`]), and how the floor is measured
//! ([`super::noise`]).

use serde::{Deserialize, Serialize};

use super::pairs::{self, Certainty, Interval};

/// What a declared effect asks of a ratio.
///
/// A bound of 1, or on the far side of it, is an *improvement*: `AtLeast(1.15)`, `AtMost(0.5)`. One on the near side,
/// which no effect fulfils too, is a *margin* ("not worse than"): `AtLeast(0.7)`, `AtMost(3.0)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The ratio is this or greater.
    AtLeast(f64),
    /// The ratio is this or less.
    AtMost(f64),
}

impl Bound {
    /// The ratio that is asked for.
    pub fn ratio(self) -> f64 {
        let (Self::AtLeast(ratio) | Self::AtMost(ratio)) = self;
        ratio
    }

    /// Whether a ratio of 1, no effect, fulfils it and isn't the bound itself.
    pub fn is_margin(self) -> bool {
        match self {
            Self::AtLeast(ratio) => ratio < 1.0,
            Self::AtMost(ratio) => ratio > 1.0,
        }
    }

    /// `factor` is how far a ratio may be from 1 by noise alone (≥ 1). Whether a declared effect is no larger than that:
    /// then it takes more than the effect to be told from noise, and a margin can't be told from it at all.
    pub fn is_within(self, factor: f64) -> bool {
        self.ratio().ln().abs() <= factor.ln()
    }

    /// The logarithm of the bound, and the values with it, so that beyond always is above.
    pub(super) fn upwards(self, logs: &[f64]) -> (f64, Vec<f64>) {
        match self {
            Self::AtLeast(ratio) => (ratio.ln(), logs.to_vec()),
            Self::AtMost(ratio) => (-ratio.ln(), logs.iter().map(|log| -log).collect()),
        }
    }
}

/// On which side of its bound a ratio is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decided {
    /// It fulfils the bound and can be told from noise: upheld.
    Beyond,
    /// It doesn't fulfil the bound: refuted.
    Short,
    /// It can't be told: inconclusive.
    Open,
}

/// Why it was decided so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Beyond: the whole interval fulfils the bound and is beyond the noise floor.
    IntervalBeyondBound,
    /// Short: the whole interval is on the wrong side of the bound.
    IntervalShortOfBound,
    /// Open: the bound lies in the interval.
    IntervalReachesBound,
    /// Open: the whole interval is on one side of the bound, and parts of it are within the noise floor.
    WithinNoise,
    /// Open: the interval fulfils the bound, but noise alone goes as far as the margin.
    NoiseAsLargeAsMargin,
    /// Open: the interval fulfils the bound, but nobody measured how far noise alone goes.
    NoNoiseFloor,
    /// Open: no exact test can decide at this level with so few.
    TooFewPairs {
        /// How many it takes at least.
        needed: usize,
    },
    /// Open: more than are counted.
    TooManyPairs {
        /// How many are.
        most: usize,
    },
    /// Open: a ratio is 0, infinite or no number. A measurement that can be 0 needs another claim, about a count.
    UnusableRatio,
    /// Open: the bound isn't above 0 and finite, the floor not a factor of at least 1, or the level not above 0, below 1
    /// and within reach of the most pairs.
    UnusableQuestion,
}

/// What pairs of runs say about a declared effect.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Beyond the bound, short of it, or open.
    pub decided: Decided,
    /// Why.
    pub why: Why,
    /// How many pairs there are.
    pub pairs: usize,
    /// The two-sided error of this decision.
    pub level: f64,
    /// The exact interval of the ratio at `1 − level`, which decides; `None` where no pairs could decide.
    pub interval: Option<Interval>,
    /// The probability of pairs at least as far from the bound, if the true ratio were the bound (two-sided).
    pub p: Option<f64>,
    /// The ratio's mean, bootstrap interval at 95 % and distance from 1, which are shown and don't decide.
    pub certainty: Option<Certainty>,
}

/// Decides by the ratios of all pairs. `floor` is how far from 1 a ratio gets by noise alone, a factor of at least 1
/// ([`super::noise::NoiseFloor::factor`]); `level` the two-sided error of this one decision: [`pairs::LEVEL`], or less in a
/// sequence of looks.
///
/// - *Beyond*: the exact interval fulfils the bound; for an improvement it must lie beyond the noise floor, too, and for a
///   margin the noise floor must be smaller than the margin.
/// - *Short*: no ratio in the interval fulfils the bound; for a margin the interval must lie beyond the noise floor, too,
///   where one was measured, as it is a harm that it shows.
/// - *Open* otherwise, for fewer than [`pairs::fewest`] pairs, and for what can't be judged at all: [`Why`] says.
pub fn decide(ratios: &[f64], bound: Bound, floor: Option<f64>, level: f64) -> Decision {
    let (decided, why, p) = judge(ratios, bound, floor, level);
    Decision {
        decided,
        why,
        pairs: ratios.len(),
        level,
        interval: p.and_then(|_| Interval::of(ratios, level)),
        p,
        certainty: Certainty::of(ratios),
    }
}

/// [`decide`] without the numbers that are only shown; the p is of the bound.
pub(super) fn judge(
    ratios: &[f64],
    bound: Bound,
    floor: Option<f64>,
    level: f64,
) -> (Decided, Why, Option<f64>) {
    let open = |why| (Decided::Open, why, None);
    let usable_bound = bound.ratio() > 0.0 && bound.ratio().is_finite();
    let usable_floor = floor.is_none_or(|factor| factor >= 1.0);
    let needed = match pairs::fewest(level) {
        Some(needed) if usable_bound && usable_floor && level < 1.0 => needed,
        _ => return open(Why::UnusableQuestion),
    };
    let Some(logs) = pairs::logs(ratios) else {
        return open(Why::UnusableRatio);
    };
    if logs.len() < needed {
        return open(Why::TooFewPairs { needed });
    }
    if logs.len() > pairs::MOST {
        return open(Why::TooManyPairs { most: pairs::MOST });
    }
    let (at, logs) = bound.upwards(&logs);
    let p = pairs::sign_flip(&logs, at);
    let (decided, why) = side(&logs, at, p, floor.map(f64::ln), level);
    (decided, why, Some(p))
}

/// On which side of `at` the values are; above is beyond. All are logarithms, the floor, too; `p` is of `at`.
fn side(logs: &[f64], at: f64, p: f64, floor: Option<f64>, level: f64) -> (Decided, Why) {
    let mean = pairs::mean(logs);
    let margin = at < 0.0;
    if p > level {
        return (Decided::Open, Why::IntervalReachesBound);
    }
    if mean < at {
        let beyond_noise = |floor: f64| mean < -floor && pairs::sign_flip(logs, -floor) <= level;
        return if margin && !floor.is_none_or(beyond_noise) {
            (Decided::Open, Why::WithinNoise)
        } else {
            (Decided::Short, Why::IntervalShortOfBound)
        };
    }
    match floor {
        None => (Decided::Open, Why::NoNoiseFloor),
        Some(floor) if margin && floor >= -at => (Decided::Open, Why::NoiseAsLargeAsMargin),
        Some(floor) if !margin && (mean <= floor || pairs::sign_flip(logs, floor) > level) => {
            (Decided::Open, Why::WithinNoise)
        }
        Some(_) => (Decided::Beyond, Why::IntervalBeyondBound),
    }
}

#[cfg(test)]
mod tests {
    use super::pairs::LEVEL;
    use super::*;

    const TWICE: [f64; 6] = [1.9, 2.1, 2.0, 2.2, 1.8, 2.0];
    const HALF: [f64; 6] = [0.5, 0.45, 0.55, 0.5, 0.48, 0.52];
    const SAME: [f64; 6] = [0.97, 1.02, 1.0, 1.03, 0.98, 0.99];

    fn decided(ratios: &[f64], bound: Bound, floor: Option<f64>) -> (Decided, Why) {
        let decision = decide(ratios, bound, floor, LEVEL);
        (decision.decided, decision.why)
    }

    #[test]
    fn an_improvement_must_be_beyond_its_bound_and_beyond_noise() {
        use Decided::*;
        use Why::*;
        let cases = [
            (
                &TWICE,
                Bound::AtLeast(1.5),
                Some(1.1),
                Beyond,
                IntervalBeyondBound,
            ),
            (&TWICE, Bound::AtLeast(1.5), Some(1.85), Open, WithinNoise),
            (
                &TWICE,
                Bound::AtLeast(1.5),
                Some(f64::INFINITY),
                Open,
                WithinNoise,
            ),
            (&TWICE, Bound::AtLeast(1.5), None, Open, NoNoiseFloor),
            (
                &TWICE,
                Bound::AtLeast(1.9),
                Some(1.1),
                Open,
                IntervalReachesBound,
            ),
            (
                &TWICE,
                Bound::AtLeast(2.5),
                Some(1.1),
                Short,
                IntervalShortOfBound,
            ),
            (
                &TWICE,
                Bound::AtLeast(2.5),
                None,
                Short,
                IntervalShortOfBound,
            ),
            (
                &HALF,
                Bound::AtMost(0.6),
                Some(1.5),
                Beyond,
                IntervalBeyondBound,
            ),
            (&HALF, Bound::AtMost(0.6), Some(1.9), Open, WithinNoise),
            (
                &HALF,
                Bound::AtMost(0.5),
                Some(1.1),
                Open,
                IntervalReachesBound,
            ),
            (
                &HALF,
                Bound::AtMost(0.4),
                Some(1.1),
                Short,
                IntervalShortOfBound,
            ),
            (
                &SAME,
                Bound::AtLeast(1.0),
                Some(1.0),
                Open,
                IntervalReachesBound,
            ),
            (
                &TWICE,
                Bound::AtLeast(1.0),
                Some(1.0),
                Beyond,
                IntervalBeyondBound,
            ),
        ];
        for (ratios, bound, floor, expected, why) in cases {
            assert_eq!(
                decided(ratios, bound, floor),
                (expected, why),
                "{bound:?} {floor:?}"
            );
        }
    }

    #[test]
    fn a_margin_must_be_kept_and_be_larger_than_noise() {
        use Decided::*;
        use Why::*;
        let cases = [
            (
                &SAME,
                Bound::AtLeast(0.7),
                Some(1.1),
                Beyond,
                IntervalBeyondBound,
            ),
            (
                &SAME,
                Bound::AtLeast(0.7),
                Some(1.5),
                Open,
                NoiseAsLargeAsMargin,
            ),
            (&SAME, Bound::AtLeast(0.7), None, Open, NoNoiseFloor),
            (
                &SAME,
                Bound::AtLeast(0.98),
                Some(1.0),
                Open,
                IntervalReachesBound,
            ),
            (
                &SAME,
                Bound::AtMost(3.0),
                Some(1.1),
                Beyond,
                IntervalBeyondBound,
            ),
            (
                &TWICE,
                Bound::AtMost(3.0),
                Some(1.1),
                Beyond,
                IntervalBeyondBound,
            ),
            (
                &TWICE,
                Bound::AtMost(3.0),
                Some(3.0),
                Open,
                NoiseAsLargeAsMargin,
            ),
            (
                &TWICE,
                Bound::AtMost(1.5),
                Some(1.1),
                Short,
                IntervalShortOfBound,
            ),
            (
                &TWICE,
                Bound::AtMost(1.5),
                None,
                Short,
                IntervalShortOfBound,
            ),
            // A harm that noise alone could have made.
            (&TWICE, Bound::AtMost(1.5), Some(1.9), Open, WithinNoise),
            (
                &TWICE,
                Bound::AtMost(1.5),
                Some(1.7),
                Short,
                IntervalShortOfBound,
            ),
            (
                &HALF,
                Bound::AtLeast(0.7),
                Some(1.1),
                Short,
                IntervalShortOfBound,
            ),
        ];
        for (ratios, bound, floor, expected, why) in cases {
            assert_eq!(
                decided(ratios, bound, floor),
                (expected, why),
                "{bound:?} {floor:?}"
            );
        }
    }

    #[test]
    fn the_interval_and_the_p_of_the_bound_say_the_same() {
        let ratios = [1.2, 1.3, 1.5, 0.9, 1.25, 1.4, 1.1, 1.35];
        let interval = Interval::of(&ratios, LEVEL).unwrap();
        for per_mille in 800..1_600 {
            let bound = f64::from(per_mille) / 1_000.0;
            let (_, _, p) = judge(&ratios, Bound::AtLeast(bound), Some(1.0), LEVEL);
            let inside = (interval.low..=interval.high).contains(&bound);
            assert_eq!(p.unwrap() > LEVEL, inside, "{bound}");
        }
        let decision = decide(&ratios, Bound::AtLeast(1.0), Some(1.0), LEVEL);
        assert_eq!(decision.interval, Some(interval));
    }

    #[test]
    fn what_cannot_be_judged_is_open_and_says_why() {
        let open = |ratios: &[f64], why| {
            let decision = decide(ratios, Bound::AtLeast(1.5), Some(1.1), LEVEL);
            assert_eq!((decision.decided, decision.why), (Decided::Open, why));
            assert_eq!((decision.interval, decision.p), (None, None));
        };
        open(&[], Why::TooFewPairs { needed: 6 });
        open(&[2.0; 5], Why::TooFewPairs { needed: 6 });
        open(&[2.0; 31], Why::TooManyPairs { most: 30 });
        for unusable in [0.0, -1.0, f64::INFINITY, f64::NAN] {
            open(&[2.0, 2.0, 2.0, 2.0, 2.0, unusable], Why::UnusableRatio);
        }
        let question = |bound, floor, level| {
            let decision = decide(&TWICE, bound, floor, level);
            assert_eq!(
                (decision.decided, decision.why),
                (Decided::Open, Why::UnusableQuestion)
            );
        };
        for bound in [0.0, -1.0, f64::INFINITY, f64::NAN] {
            question(Bound::AtLeast(bound), Some(1.1), LEVEL);
        }
        for floor in [0.9, 0.0, f64::NAN] {
            question(Bound::AtLeast(1.5), Some(floor), LEVEL);
        }
        for level in [0.0, -0.1, 1.0, 1e-12, f64::NAN] {
            question(Bound::AtLeast(1.5), Some(1.1), level);
        }
        let look = decide(&TWICE, Bound::AtLeast(1.5), Some(1.1), 0.01);
        assert_eq!(look.why, Why::TooFewPairs { needed: 8 });
        assert!(look.certainty.is_some());
    }

    #[test]
    fn ratios_without_noise_are_beyond_what_they_exceed_and_not_beyond_what_they_are() {
        use Decided::*;
        use Why::*;
        let same = |bound| decided(&[1.15; 6], bound, Some(1.0));
        assert_eq!(same(Bound::AtLeast(1.1)), (Beyond, IntervalBeyondBound));
        assert_eq!(same(Bound::AtLeast(1.15)), (Open, IntervalReachesBound));
        assert_eq!(same(Bound::AtMost(1.15)), (Open, IntervalReachesBound));
        assert_eq!(same(Bound::AtLeast(1.2)), (Short, IntervalShortOfBound));
        let none = decided(&[1.0; 6], Bound::AtLeast(1.0), Some(1.0));
        assert_eq!(none, (Open, IntervalReachesBound));
        // Twenty-one pairs and thirty are counted as well.
        for count in [21, 30] {
            let many = decided(&vec![1.15; count], Bound::AtLeast(1.1), Some(1.0));
            assert_eq!(many, (Beyond, IntervalBeyondBound));
        }
    }

    #[test]
    fn an_effect_that_noise_reaches_can_be_seen_before_a_run() {
        assert!(Bound::AtLeast(1.15).is_within(1.2) && Bound::AtMost(0.9).is_within(1.2));
        assert!(Bound::AtLeast(0.9).is_within(1.2) && !Bound::AtMost(0.5).is_within(1.2));
        assert!(Bound::AtLeast(0.7).is_margin() && Bound::AtMost(3.0).is_margin());
        assert!(!Bound::AtLeast(1.0).is_margin() && !Bound::AtMost(1.0).is_margin());
    }

    #[test]
    fn a_stored_decision_is_read_as_it_was_written() {
        let decision = decide(&TWICE, Bound::AtLeast(1.5), Some(1.1), LEVEL);
        let written = serde_json::to_string(&decision).unwrap();
        assert_eq!(
            serde_json::from_str::<Decision>(&written).unwrap(),
            decision
        );
        let why = |why| serde_json::to_string(&why).unwrap();
        assert_eq!(why(Why::NoNoiseFloor), r#""no_noise_floor""#);
        assert_eq!(
            why(Why::TooFewPairs { needed: 6 }),
            r#"{"too_few_pairs":{"needed":6}}"#
        );
        let bound = serde_json::to_string(&Bound::AtLeast(1.15)).unwrap();
        assert_eq!(bound, r#"{"at_least":1.15}"#);
    }
}
