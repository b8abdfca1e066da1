//! The request mix: every random choice of a run, and no I/O.
//!
//! Closed model: a user's choices depend on the run's seed and the user's index only. Their number depends on the system's
//! speed, their order doesn't. Open model: the same for each arrival, which has an index of its own and makes one choice.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use records::scenario::Scenario;

/// Products 1 to 98 get load. Product 99 belongs to the documented tour of the shop, whose reader checks its stock; 100
/// stays untouched beside it.
const PRODUCTS: std::ops::RangeInclusive<i64> = 1..=98;

/// Products from 1,000,001 on don't exist: an order for one is accepted, and rejected later.
const UNSTOCKED: i64 = 1_000_000;

const QUANTITIES: std::ops::RangeInclusive<u32> = 1..=3;

/// A user's next action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    LogIn,
    LogInAndReadMe,
    ListUsers,
    ReadMe,
    ReadStock { product_id: i64 },
    CheckOut { product_id: i64 },
    Purchase { product_id: i64 },
    Order { product_id: i64, quantity: u32 },
    OrderAndCancel { product_id: i64, quantity: u32 },
}

/// An endless sequence of actions.
pub(crate) struct Mix {
    kind: Scenario,
    rng: StdRng,
}

impl Mix {
    pub(crate) fn new(kind: Scenario, seed: u64, index: usize) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&(index as u64).to_le_bytes());
        Self {
            kind,
            rng: StdRng::from_seed(bytes),
        }
    }

    /// The next action.
    pub(crate) fn next_action(&mut self) -> Action {
        match self.kind {
            Scenario::Login => Action::LogIn,
            Scenario::Browse => self.browse(),
            Scenario::Checkout => self.check_out(),
            Scenario::Mixed => match self.rng.random_range(0..5) {
                0 => self.check_out(),
                1 => self.purchase(),
                _ => self.browse(),
            },
            Scenario::Order => Action::Order {
                product_id: self.product(),
                quantity: self.quantity(),
            },
            Scenario::ChangeOfMind => self.change_mind(),
            Scenario::Purchase => self.purchase(),
            Scenario::Protected => Action::ReadMe,
            Scenario::Session => match self.rng.random_range(0..30) {
                0 => Action::LogInAndReadMe,
                _ => Action::ReadMe,
            },
            Scenario::Greedy => self.read_stock(),
            Scenario::Edge => match self.rng.random_range(0..3) {
                0 => self.purchase(),
                1 => Action::ReadMe,
                _ => self.read_stock(),
            },
        }
    }

    fn browse(&mut self) -> Action {
        match self.rng.random_range(0..3) {
            0 => Action::ListUsers,
            1 => Action::ReadMe,
            _ => self.read_stock(),
        }
    }

    fn read_stock(&mut self) -> Action {
        Action::ReadStock {
            product_id: self.product(),
        }
    }

    fn purchase(&mut self) -> Action {
        Action::Purchase {
            product_id: self.product(),
        }
    }

    fn check_out(&mut self) -> Action {
        Action::CheckOut {
            product_id: self.product(),
        }
    }

    fn change_mind(&mut self) -> Action {
        let kind = self.rng.random_range(0..5);
        let (product_id, quantity) = (self.product(), self.quantity());
        match kind {
            0 => Action::Order {
                product_id: UNSTOCKED + product_id,
                quantity,
            },
            1 | 2 => Action::OrderAndCancel {
                product_id,
                quantity,
            },
            _ => Action::Order {
                product_id,
                quantity,
            },
        }
    }

    fn quantity(&mut self) -> u32 {
        self.rng.random_range(QUANTITIES)
    }

    fn product(&mut self) -> i64 {
        self.rng.random_range(PRODUCTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(kind: Scenario, seed: u64, user_index: usize) -> Vec<Action> {
        let mut mix = Mix::new(kind, seed, user_index);
        (0..500).map(|_| mix.next_action()).collect()
    }

    #[test]
    fn a_seed_reproduces_each_users_choices() {
        let first = actions(Scenario::Mixed, 7, 3);
        assert_eq!(first, actions(Scenario::Mixed, 7, 3));
        assert_ne!(first, actions(Scenario::Mixed, 8, 3));
        assert_ne!(first, actions(Scenario::Mixed, 7, 4));
    }

    #[test]
    fn mixed_browses_three_times_as_often_as_it_checks_out() {
        let actions = actions(Scenario::Mixed, 1, 0);
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
            actions(Scenario::Login, 1, 0)
                .iter()
                .all(|a| *a == Action::LogIn)
        );
        assert!(
            !actions(Scenario::Browse, 1, 0)
                .iter()
                .any(|a| matches!(a, Action::CheckOut { .. } | Action::Purchase { .. }))
        );
    }

    #[test]
    fn edge_has_each_of_its_three_routes_equally_often() {
        let actions = actions(Scenario::Edge, 1, 0);
        let count = |wanted: fn(&Action) -> bool| actions.iter().filter(|a| wanted(a)).count();
        for kind in [
            count(|a| matches!(a, Action::Purchase { .. })),
            count(|a| matches!(a, Action::ReadMe)),
            count(|a| matches!(a, Action::ReadStock { .. })),
        ] {
            // 500 draws at a third: five standard deviations are 53.
            assert!((114..=219).contains(&kind), "{kind}");
        }
    }

    #[test]
    fn one_of_thirty_reads_of_a_session_uses_a_new_token() {
        let actions = actions(Scenario::Session, 1, 0);
        let new = actions.iter().filter(|a| **a == Action::LogInAndReadMe);
        // 500 draws at a thirtieth: four standard deviations are 16.
        let new = new.count();
        assert!((1..=33).contains(&new), "{new}");
        assert!(
            actions
                .iter()
                .all(|a| matches!(a, Action::LogInAndReadMe | Action::ReadMe))
        );
    }

    #[test]
    fn order_only_orders_one_to_three_stocked_products() {
        for action in actions(Scenario::Order, 1, 0) {
            let Action::Order {
                product_id,
                quantity,
            } = action
            else {
                panic!("{action:?}");
            };
            assert!(PRODUCTS.contains(&product_id) && QUANTITIES.contains(&quantity));
        }
    }

    #[test]
    fn of_five_orders_two_are_cancelled_and_one_is_for_an_unknown_product() {
        let (mut ordinary, mut unstocked, mut cancelled) = (0, 0, 0);
        for action in actions(Scenario::ChangeOfMind, 1, 0) {
            match action {
                Action::Order { product_id, .. } if PRODUCTS.contains(&product_id) => ordinary += 1,
                Action::Order { product_id, .. } if product_id > UNSTOCKED => unstocked += 1,
                Action::OrderAndCancel { product_id, .. } if PRODUCTS.contains(&product_id) => {
                    cancelled += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        // 500 draws at two fifths: five standard deviations are 55.
        assert!((145..=255).contains(&ordinary), "{ordinary}");
        assert!((145..=255).contains(&cancelled), "{cancelled}");
        assert!((55..=145).contains(&unstocked), "{unstocked}");
    }
}
