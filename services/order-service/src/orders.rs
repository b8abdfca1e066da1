//! Orders: types and rules.

pub mod http;
pub mod store;

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared_events::{Event, OrderId, OrderPlaced, ProductId, Quantity, UserId};
use uuid::Uuid;

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceOrder {
    /// What.
    pub product_id: ProductId,
    /// How many; one if nothing is said.
    #[serde(default = "one")]
    pub quantity: Quantity,
}

/// An order as it is kept.
#[derive(Debug, Clone)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// Whose it is.
    pub user_id: UserId,
    /// What and how many.
    pub content: PlaceOrder,
    /// Where it stands.
    pub status: Status,
    /// When it was taken.
    pub placed_at: DateTime<Utc>,
    /// The id of its `OrderPlaced`.
    pub event_id: Uuid,
    /// Whether the broker has confirmed that event.
    pub announced: bool,
}

/// Where an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Taken; its stock is not decided yet.
    Pending,
}

/// A client's own name for one attempt to order: repeating it repeats the answer, not the order.
/// Source: <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

/// A key that can't be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an Idempotency-Key is 1 to {max} printable ASCII characters", max = IdempotencyKey::MAX_CHARS)]
pub struct InvalidKey;

impl Order {
    /// The event that announces it; the same one however often it is said.
    pub fn placed(&self) -> Event {
        let data = OrderPlaced {
            order_id: self.id,
            user_id: self.user_id,
            product_id: self.content.product_id,
            quantity: self.content.quantity,
        };
        Event::new("order-service", &data).made_before(self.event_id, self.placed_at)
    }
}

impl IdempotencyKey {
    const MAX_CHARS: usize = 255;

    /// As it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if text.trim().is_empty() || text.len() > Self::MAX_CHARS || !printable {
            return Err(InvalidKey);
        }
        Ok(Self(text.to_owned()))
    }
}

fn one() -> Quantity {
    Quantity::try_from(1).expect("one is a quantity")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idempotency_key_is_printable_and_bounded() {
        assert!("2f0c-1".parse::<IdempotencyKey>().is_ok());
        for bad in ["", "  ", "a\tb", "é", &"x".repeat(256)] {
            assert_eq!(bad.parse::<IdempotencyKey>(), Err(InvalidKey), "{bad:?}");
        }
    }
}
