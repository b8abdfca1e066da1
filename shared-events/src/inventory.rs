//! The events of inventory-service.

use serde::{Deserialize, Serialize};

use crate::{EventData, OrderId, ProductId, Quantity};

/// Stock is reserved for an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockReserved {
    /// The order; also the event's subject.
    pub order_id: OrderId,
    /// The product.
    pub product_id: ProductId,
    /// The quantity.
    pub quantity: Quantity,
}

impl EventData for StockReserved {
    const TYPE: &'static str = "agora.stock.reserved.v1";

    fn subject(&self) -> String {
        self.order_id.to_string()
    }
}

/// An order is rejected, and has no stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockRejected {
    /// The order; also the event's subject.
    pub order_id: OrderId,
    /// The product.
    pub product_id: ProductId,
    /// The quantity.
    pub quantity: Quantity,
    /// The reason.
    pub reason: RejectReason,
}

impl EventData for StockRejected {
    const TYPE: &'static str = "agora.stock.rejected.v1";

    fn subject(&self) -> String {
        self.order_id.to_string()
    }
}

/// A cancelled order holds no stock (any more), and never will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockReleased {
    /// The order; also the event's subject.
    pub order_id: OrderId,
    /// The product.
    pub product_id: ProductId,
    /// The released quantity; 0 if the order held none: it was rejected, or cancelled before it arrived.
    pub released: u32,
}

impl EventData for StockReleased {
    const TYPE: &'static str = "agora.stock.released.v1";

    fn subject(&self) -> String {
        self.order_id.to_string()
    }
}

/// Why an order is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// Less is available than was ordered.
    OutOfStock,
    /// inventory-service doesn't know the product.
    UnknownProduct,
}

impl RejectReason {
    /// The name in events, and in the services' tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutOfStock => "out_of_stock",
            Self::UnknownProduct => "unknown_product",
        }
    }
}
