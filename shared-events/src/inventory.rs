//! What inventory-service says.

use serde::{Deserialize, Serialize};

use crate::{EventData, OrderId, ProductId, Quantity};

/// The stock that an order asked for is set aside for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockReserved {
    /// The order; also the event's subject.
    pub order_id: OrderId,
    /// What.
    pub product_id: ProductId,
    /// How many.
    pub quantity: Quantity,
}

impl EventData for StockReserved {
    const TYPE: &'static str = "agora.stock.reserved.v1";

    fn subject(&self) -> String {
        self.order_id.to_string()
    }
}

/// An order can't be served, and took no stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockRejected {
    /// The order; also the event's subject.
    pub order_id: OrderId,
    /// What.
    pub product_id: ProductId,
    /// How many.
    pub quantity: Quantity,
    /// Why.
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
    /// What.
    pub product_id: ProductId,
    /// How many went back; 0 where the order held none: it was rejected, or cancelled before it was seen.
    pub released: u32,
}

impl EventData for StockReleased {
    const TYPE: &'static str = "agora.stock.released.v1";

    fn subject(&self) -> String {
        self.order_id.to_string()
    }
}

/// Why an order can't be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// Less is available than was asked for.
    OutOfStock,
    /// Inventory knows no such product.
    UnknownProduct,
}

impl RejectReason {
    /// As it stands in the event, and in the services' tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutOfStock => "out_of_stock",
            Self::UnknownProduct => "unknown_product",
        }
    }
}
