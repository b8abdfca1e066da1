//! Purchases: products bought at the price of that moment.

pub mod catalog;
pub mod http;

use serde::Serialize;
use shared_events::Quantity;

/// A non-negative amount of money in euro cents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PriceCents(i64);

impl PriceCents {
    /// `None` when the amount is negative.
    pub fn new(cents: i64) -> Option<Self> {
        (cents >= 0).then_some(Self(cents))
    }

    /// The number, for a query.
    pub fn get(self) -> i64 {
        self.0
    }

    /// The price of several; `None` on overflow.
    pub fn times(self, quantity: Quantity) -> Option<Self> {
        self.0.checked_mul(quantity.get().into()).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_not_negative_and_does_not_wrap() {
        let ten = Quantity::try_from(10).unwrap();
        assert_eq!(PriceCents::new(-1), None);
        assert_eq!(
            PriceCents::new(199).unwrap().times(ten),
            PriceCents::new(1_990)
        );
        assert_eq!(PriceCents::new(i64::MAX).unwrap().times(ten), None);
    }
}
