//! The events of order-service.

use serde::{Deserialize, Serialize};

use crate::{EventData, OrderId, ProductId, Quantity, UserId};

/// An order was accepted; stock must be reserved for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderPlaced {
    /// The order; also the event's subject.
    pub order_id: OrderId,
    /// The user who placed it.
    pub user_id: UserId,
    /// The product.
    pub product_id: ProductId,
    /// The quantity.
    pub quantity: Quantity,
}

impl EventData for OrderPlaced {
    const TYPE: &'static str = "agora.order.placed.v1";

    fn subject(&self) -> String {
        self.order_id.to_string()
    }
}

/// An order was cancelled by its owner; its stock must be released. It repeats the order's content, in case it arrives
/// before [`OrderPlaced`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderCancelled {
    /// The order; also the event's subject.
    pub order_id: OrderId,
    /// The product.
    pub product_id: ProductId,
    /// The quantity.
    pub quantity: Quantity,
}

impl EventData for OrderCancelled {
    const TYPE: &'static str = "agora.order.cancelled.v1";

    fn subject(&self) -> String {
        self.order_id.to_string()
    }
}
