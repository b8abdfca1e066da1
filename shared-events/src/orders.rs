//! What order-service says.

use serde::{Deserialize, Serialize};

use crate::{EventData, OrderId, ProductId, Quantity, UserId};

/// An order was taken; stock has to be reserved for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderPlaced {
    /// The order; also the event's subject.
    pub order_id: OrderId,
    /// Who ordered.
    pub user_id: UserId,
    /// What.
    pub product_id: ProductId,
    /// How many.
    pub quantity: Quantity,
}

impl EventData for OrderPlaced {
    const TYPE: &'static str = "agora.order.placed.v1";

    fn subject(&self) -> String {
        self.order_id.to_string()
    }
}

/// Its owner wants the order no more; what was reserved for it has to be released. It repeats what was
/// ordered, for the case that it arrives before [`OrderPlaced`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderCancelled {
    /// The order; also the event's subject.
    pub order_id: OrderId,
    /// What was ordered.
    pub product_id: ProductId,
    /// How many.
    pub quantity: Quantity,
}

impl EventData for OrderCancelled {
    const TYPE: &'static str = "agora.order.cancelled.v1";

    fn subject(&self) -> String {
        self.order_id.to_string()
    }
}
