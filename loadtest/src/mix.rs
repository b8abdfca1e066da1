//! Which request comes next: every random choice of a run, and no I/O.
//!
//! A user's choices follow from the run's seed and the user's index alone. How many of them a run
//! gets through depends on the system's speed, their order doesn't.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::options::ScenarioKind;

/// Products 1 to 98 get load. 99 is the product of the documented walk through the shop, whose reader
/// looks at its stock; 100 stays untouched beside it.
const PRODUCTS: std::ops::RangeInclusive<i64> = 1..=98;

/// What a user does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    LogIn,
    ListUsers,
    ReadMe,
    ReadStock { product_id: i64 },
    CheckOut { product_id: i64 },
    Purchase { product_id: i64 },
}

/// One user's endless row of actions.
pub(crate) struct Mix {
    kind: ScenarioKind,
    rng: StdRng,
}

impl Mix {
    pub(crate) fn new(kind: ScenarioKind, seed: u64, user_index: usize) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&(user_index as u64).to_le_bytes());
        Self {
            kind,
            rng: StdRng::from_seed(bytes),
        }
    }

    /// What the user does next.
    pub(crate) fn next_action(&mut self) -> Action {
        match self.kind {
            ScenarioKind::Login => Action::LogIn,
            ScenarioKind::Browse => self.browse(),
            ScenarioKind::Checkout => self.check_out(),
            ScenarioKind::Mixed => match self.rng.random_range(0..5) {
                0 => self.check_out(),
                1 => Action::Purchase {
                    product_id: self.product(),
                },
                _ => self.browse(),
            },
        }
    }

    fn browse(&mut self) -> Action {
        match self.rng.random_range(0..3) {
            0 => Action::ListUsers,
            1 => Action::ReadMe,
            _ => Action::ReadStock {
                product_id: self.product(),
            },
        }
    }

    fn check_out(&mut self) -> Action {
        Action::CheckOut {
            product_id: self.product(),
        }
    }

    fn product(&mut self) -> i64 {
        self.rng.random_range(PRODUCTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(kind: ScenarioKind, seed: u64, user_index: usize) -> Vec<Action> {
        let mut mix = Mix::new(kind, seed, user_index);
        (0..500).map(|_| mix.next_action()).collect()
    }

    #[test]
    fn a_seed_reproduces_each_users_choices() {
        let first = actions(ScenarioKind::Mixed, 7, 3);
        assert_eq!(first, actions(ScenarioKind::Mixed, 7, 3));
        assert_ne!(first, actions(ScenarioKind::Mixed, 8, 3));
        assert_ne!(first, actions(ScenarioKind::Mixed, 7, 4));
    }

    #[test]
    fn mixed_browses_three_times_as_often_as_it_checks_out() {
        let actions = actions(ScenarioKind::Mixed, 1, 0);
        let check_outs = actions
            .iter()
            .filter(|a| matches!(a, Action::CheckOut { .. }))
            .count();
        let purchases = actions
            .iter()
            .filter(|a| matches!(a, Action::Purchase { .. }))
            .count();
        // 500 draws at a fifth each: five standard deviations are 45.
        assert!((55..=145).contains(&check_outs), "{check_outs}");
        assert!((55..=145).contains(&purchases), "{purchases}");
    }

    #[test]
    fn login_only_logs_in_and_browse_never_orders() {
        assert!(
            actions(ScenarioKind::Login, 1, 0)
                .iter()
                .all(|a| *a == Action::LogIn)
        );
        assert!(
            !actions(ScenarioKind::Browse, 1, 0)
                .iter()
                .any(|a| matches!(a, Action::CheckOut { .. } | Action::Purchase { .. }))
        );
    }
}
