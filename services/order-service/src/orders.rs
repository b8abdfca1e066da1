//! Orders: types and rules.
//!
//! | from | on | to |
//! |---|---|---|
//! | `pending` | `StockReserved` | `confirmed` |
//! | `pending` | `StockRejected` | `rejected` |
//! | `pending`, `confirmed` | its owner cancels it | `cancelling` |
//! | `cancelling` | `StockReleased` | `cancelled` |
//!
//! `confirmed`, `rejected` and `cancelled` are where an order ends; whatever else arrives changes nothing.
//! With the pattern `saga` off ([`Course::OPTIMISTIC`]) an order begins as `confirmed` and goes straight to `cancelled`.

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

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlaceOrder {
    /// What.
    #[serde(deserialize_with = "shared_events::whole_number")]
    pub product_id: ProductId,
    /// How many; one if nothing is said.
    #[serde(default = "one", deserialize_with = "shared_events::whole_number")]
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
    /// Why it was rejected.
    pub reason: Option<String>,
    /// When it was taken.
    pub placed_at: DateTime<Utc>,
    /// Since when it stands there.
    pub changed_at: DateTime<Utc>,
    /// The event that it waits, or waited, for the answer to.
    pub event_id: Option<Uuid>,
}

/// Where an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Taken; its stock is not decided yet.
    Pending,
    /// Its stock is reserved.
    Confirmed,
    /// There is no stock for it.
    Rejected,
    /// Its owner wants it no more; its stock is not released yet.
    Cancelling,
    /// It holds nothing any more.
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

    /// As it is stored.
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

/// An order's status before inventory-service has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    /// As it is taken.
    placed: Status,
    /// As its owner cancels it.
    cancelled: Status,
}

impl Course {
    /// It waits for inventory-service, both times.
    pub const SAGA: Self = Self {
        placed: Status::Pending,
        cancelled: Status::Cancelling,
    };

    /// The naive version: it counts as done at once, and its stock is never released.
    pub const OPTIMISTIC: Self = Self {
        placed: Status::Confirmed,
        cancelled: Status::Cancelled,
    };

    /// The event of a cancellation by the owner, if stock has to be released.
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
    /// Tells that it was taken.
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

    /// Tells that its owner wants it no more.
    pub fn cancelled(&self) -> Event {
        let data = OrderCancelled {
            order_id: self.id,
            product_id: self.content.product_id,
            quantity: self.content.quantity,
        };
        Event::new(SERVICE, &data)
    }

    /// The event that it waits for the answer to, made anew: under its id, and with the time when it was first recorded. `None`
    /// where it waits for nothing.
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
    Quantity::try_from(1).expect("one is a quantity")
}
