//! When to look at pairs that come one after the other, and how strictly, so that stopping at the first look that decides
//! keeps the error of one test.
//!
//! By Bonferroni: each of the looks is tested at its share of the error. That is enough whatever the looks have in common:
//! the chance that any errs is at most the sum of the chances that each does. It is stricter than it need be, as the looks
//! share most of their pairs; group-sequential bounds (Pocock 1977) would gain some power, but need a distribution of the
//! noise, which the exact test doesn't.
//!
//! The looks are declared before the first pair by how many pairs there are at most. A look with too few pairs to decide
//! at its level can't err and takes no share, so the first look may come later than [`pairs::FEWEST`].

use serde::{Deserialize, Serialize};

use super::decision::{self, Bound, Decided, Decision, Why};
use super::pairs::{self, LEVEL};

/// The looks of a sequence: one after each pair from `first` to `at_most`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Looks {
    /// With how many pairs the first look is.
    pub first: usize,
    /// With how many pairs the last look is.
    pub at_most: usize,
    /// The two-sided error of each look.
    pub level: f64,
}

impl Looks {
    /// The least `at_most` that can decide: a single look.
    pub const LEAST: usize = pairs::FEWEST;
    /// The greatest.
    pub const MOST: usize = pairs::MOST;

    /// `None` if `at_most` isn't within [`Looks::LEAST`] and [`Looks::MOST`], and so is useless.
    pub fn until(at_most: usize) -> Option<Self> {
        if at_most > Self::MOST {
            return None;
        }
        (Self::LEAST..=at_most).find_map(|first| {
            let level = LEVEL / (at_most - first + 1) as f64;
            let useful = pairs::fewest(level)? <= first;
            useful.then_some(Self {
                first,
                at_most,
                level,
            })
        })
    }

    /// How many looks there are.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.at_most - self.first + 1
    }

    /// Whether a decision is due with this many pairs.
    #[cfg(test)]
    fn is_due(&self, pairs: usize) -> bool {
        (self.first..=self.at_most).contains(&pairs)
    }

    /// What all pairs so far decide; open when no look is due. The sequence ends at the first look that isn't open, or
    /// with `at_most` pairs.
    pub fn decide(&self, ratios: &[f64], bound: Bound, floor: Option<f64>) -> Decision {
        let mut earlier = (self.first..ratios.len().min(self.at_most))
            .map(|pairs| decision::decide(&ratios[..pairs], bound, floor, self.level));
        // Judged later, or beside another effect that took longer, it is what its own look decided.
        if let Some(decided) = earlier.find(|look| look.decided != Decided::Open) {
            return decided;
        }
        let decision = decision::decide(ratios, bound, floor, self.level);
        let why = if ratios.len() < self.first {
            Why::TooFewPairs { needed: self.first }
        } else if ratios.len() > self.at_most {
            Why::TooManyPairs { most: self.at_most }
        } else {
            return decision;
        };
        Decision {
            decided: Decided::Open,
            why,
            interval: None,
            p: None,
            ..decision
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_look_has_its_share_and_a_useless_one_takes_none() {
        let looks = |at_most| Looks::until(at_most).unwrap();
        let of = |at_most| (looks(at_most).first, looks(at_most).count());
        // Two of 2⁶ patterns are 3.1 %, of 2⁷ 1.6 %, of 2⁸ 0.8 %, of 2⁹ 0.4 %.
        assert_eq!(of(6), (6, 1));
        assert_eq!(of(7), (7, 1));
        assert_eq!(of(8), (7, 2));
        assert_eq!(of(9), (7, 3));
        assert_eq!(of(10), (8, 3));
        assert_eq!(of(12), (8, 5));
        assert_eq!(of(20), (9, 12));
        assert_eq!(looks(12).level, 0.01);
        for at_most in Looks::LEAST..=Looks::MOST {
            let looks = looks(at_most);
            assert!(looks.level * looks.count() as f64 <= LEVEL * (1.0 + 1e-9));
            assert!(pairs::fewest(looks.level).unwrap() <= looks.first);
        }
        assert_eq!(Looks::until(5), None);
        assert_eq!(Looks::until(31), None);
    }

    #[test]
    fn nothing_is_decided_before_the_first_look_or_after_the_last() {
        let looks = Looks::until(7).unwrap();
        let decide = |pairs| looks.decide(&vec![2.0; pairs], Bound::AtLeast(1.5), Some(1.1));
        // Six pairs could decide at 5 %, which is the share of the seventh.
        assert_eq!(decide(6).why, Why::TooFewPairs { needed: 7 });
        assert_eq!(decide(6).decided, Decided::Open);
        assert_eq!(decide(7).decided, Decided::Beyond);
        assert_eq!(decide(8).why, Why::TooManyPairs { most: 7 });
        assert!(!looks.is_due(6) && looks.is_due(7) && !looks.is_due(8));
    }

    #[test]
    fn what_a_look_has_decided_stays_decided() {
        let looks = Looks::until(12).unwrap();
        let mut ratios = vec![2.0, 2.1, 1.9, 2.2, 2.0, 1.8, 2.1, 2.0, 1.9];
        let bound = Bound::AtLeast(1.2);
        assert_eq!(
            looks.decide(&ratios, bound, Some(1.1)).decided,
            Decided::Beyond
        );
        // What came for the sake of another effect.
        ratios.extend([0.2, 0.1]);
        assert_eq!(
            looks.decide(&ratios, bound, Some(1.1)).decided,
            Decided::Beyond
        );
    }
}
