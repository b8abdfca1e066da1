//! In which order the arms of a trial are run, so that warm caches, a busy neighbour and the arm itself can be told apart.
//!
//! The rows of a Williams design (1949), a balanced Latin square: over all of them each arm is at each position equally
//! often, and directly after each other arm equally often. Two arms take turns: AB, BA.

/// The order of `arms` arms, as their indices; one that begins with the next row for each repetition, from 1.
pub fn of(arms: usize, seed: u64, repetition: u32) -> Vec<usize> {
    if arms == 0 {
        return Vec::new();
    }
    // An odd number of arms needs each row backwards, too.
    let rows = if arms.is_multiple_of(2) {
        arms
    } else {
        2 * arms
    };
    let row = (seed % rows as u64) as usize + repetition.saturating_sub(1) as usize;
    let row = row % rows;
    let mut order: Vec<usize> = (0..arms)
        .map(|at| {
            // 0, 1, n-1, 2, n-2, …
            let first = if at % 2 == 1 {
                at.div_ceil(2)
            } else {
                (arms - at / 2) % arms
            };
            (first + row) % arms
        })
        .collect();
    if row >= arms {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn two_arms_take_turns_and_the_seed_says_who_begins() {
        assert_eq!(of(2, 0, 1), [0, 1]);
        assert_eq!(of(2, 0, 2), [1, 0]);
        assert_eq!(of(2, 0, 3), [0, 1]);
        assert_eq!(of(2, 1, 1), [1, 0]);
    }

    #[test]
    fn each_arm_is_everywhere_and_after_each_other_equally_often() {
        for arms in 2..=6_usize {
            let rows = if arms.is_multiple_of(2) {
                arms
            } else {
                2 * arms
            };
            let mut at: BTreeMap<(usize, usize), usize> = BTreeMap::new();
            let mut after: BTreeMap<(usize, usize), usize> = BTreeMap::new();
            for repetition in 1..=rows as u32 {
                let order = of(arms, 7, repetition);
                for (position, arm) in order.iter().enumerate() {
                    *at.entry((position, *arm)).or_default() += 1;
                }
                for pair in order.windows(2) {
                    *after.entry((pair[0], pair[1])).or_default() += 1;
                }
            }
            assert_eq!(at.len(), arms * arms, "{arms}");
            assert!(
                at.values().all(|count| *count == rows / arms),
                "{arms}: {at:?}"
            );
            assert_eq!(after.len(), arms * (arms - 1), "{arms}: {after:?}");
            assert!(
                after.values().all(|count| *count == rows / arms),
                "{arms}: {after:?}"
            );
        }
    }
}
