//! Orders: types and rules.
//!
//! | from | on | to |
//! |---|---|---|
//! | `pending` | `StockReserved` | `confirmed` |
//! | `pending` | `StockRejected` | `rejected` |
//! | `pending`, `confirmed` | cancellation by its owner | `cancelling` |
//! | `cancelling` | `StockReleased` | `cancelled` |
//!
//! `confirmed`, `rejected` and `cancelled` are final; events that don't match a transition change nothing.
//! With the pattern `saga` off ([`Course::OPTIMISTIC`]) an order starts as `confirmed` and goes straight to `cancelled`.

pub mod http;
pub mod outcome;
pub mod recovery;
pub mod store;
pub mod stuck;

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared_events::{Event, OrderCancelled, OrderId, OrderPlaced, ProductId, Quantity, UserId};
use utoipa::ToSchema;
use uuid::Uuid;

/// A new order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlaceOrder {
    /// The product.
    #[serde(deserialize_with = "shared_events::whole_number")]
    pub product_id: ProductId,
    /// How many pieces; 1 by default.
    #[serde(default = "one", deserialize_with = "shared_events::whole_number")]
    pub quantity: Quantity,
}

/// An order as it is stored.
#[derive(Debug, Clone)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// Its owner.
    pub user_id: UserId,
    /// The product and the quantity.
    pub content: PlaceOrder,
    /// Its status.
    pub status: Status,
    /// Why it was rejected.
    pub reason: Option<String>,
    /// When it was placed.
    pub placed_at: DateTime<Utc>,
    /// Since when it has this status.
    pub changed_at: DateTime<Utc>,
    /// The event whose answer it waits for, or waited for last.
    pub event_id: Option<Uuid>,
}

/// The status of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Placed; its stock is not decided yet.
    Pending,
    /// Its stock is reserved.
    Confirmed,
    /// There was not enough stock.
    Rejected,
    /// Cancelled by its owner; its stock is not released yet.
    Cancelling,
    /// Its stock is released.
    Cancelled,
}

impl Status {
    const ALL: [Self; 5] = [
        Self::Pending,
        Self::Confirmed,
        Self::Rejected,
        Self::Cancelling,
        Self::Cancelled,
    ];

    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::Rejected => "rejected",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }
}

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        let found = Self::ALL.into_iter().find(|status| status.as_str() == text);
        found.ok_or_else(|| UnknownStatus(text.to_owned()))
    }
}

/// The status that an order gets before inventory-service has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    /// When it is placed.
    placed: Status,
    /// When its owner cancels it.
    cancelled: Status,
}

impl Course {
    /// It waits for inventory-service's answer in both cases.
    pub const SAGA: Self = Self {
        placed: Status::Pending,
        cancelled: Status::Cancelling,
    };

    /// The naive version: final at once; no stock is released.
    pub const OPTIMISTIC: Self = Self {
        placed: Status::Confirmed,
        cancelled: Status::Cancelled,
    };

    /// The event of a cancellation, if another service has to act on it.
    fn cancellation(self, order: &Order) -> Option<Event> {
        (self.cancelled == Status::Cancelling).then(|| order.cancelled())
    }
}

/// A status that no order has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown status {0:?}")]
pub struct UnknownStatus(String);

const SERVICE: &str = "order-service";

impl Order {
    /// A new order; it is stored with [`store::insert`].
    pub fn place(user_id: UserId, content: PlaceOrder, status: Status) -> Self {
        let id = OrderId::generate();
        let placed_at = id.generated_at().expect("a new id has its time");
        Self {
            id,
            user_id,
            content,
            status,
            reason: None,
            // The id's own time.
            placed_at,
            changed_at: placed_at,
            event_id: Some(Uuid::now_v7()),
        }
    }

    /// The event that it was placed.
    pub fn placed(&self) -> Event {
        let data = OrderPlaced {
            order_id: self.id,
            user_id: self.user_id,
            product_id: self.content.product_id,
            quantity: self.content.quantity,
        };
        let mut event = Event::new(SERVICE, &data);
        event.id = self.event_id.unwrap_or(event.id);
        event
    }

    /// The event that its owner cancelled it.
    pub fn cancelled(&self) -> Event {
        let data = OrderCancelled {
            order_id: self.id,
            product_id: self.content.product_id,
            quantity: self.content.quantity,
        };
        Event::new(SERVICE, &data)
    }

    /// The event whose answer it waits for, built again with its original id and time. `None` where it waits for nothing.
    pub fn awaited(&self) -> Option<Event> {
        let mut event = match self.status {
            Status::Pending => self.placed(),
            Status::Cancelling => self.cancelled(),
            Status::Confirmed | Status::Rejected | Status::Cancelled => return None,
        };
        event.id = self.event_id.unwrap_or(event.id);
        event.time = self.changed_at;
        Some(event)
    }
}

fn one() -> Quantity {
    Quantity::try_from(1).expect("1 is a valid quantity")
}
