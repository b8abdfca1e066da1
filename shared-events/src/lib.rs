//! The event contract between the services, in one place: the CloudEvents envelope ([`Event`]), its payloads
//! ([`OrderPlaced`] and the others), the names and arguments of exchanges and queues ([`topology`]), and how dead letters
//! are selected ([`dead_letters`]).
//!
//! Left out: I/O. Nothing here connects, publishes or declares; `chassis` does that with this data, and `xtask` reads the
//! same names.

pub mod dead_letters;
mod envelope;
mod ids;
mod inventory;
mod orders;
#[cfg(feature = "schema")]
mod schema;
pub mod topology;

pub use envelope::{CONTENT_TYPE, DecodeError, Event, EventData};
pub use ids::{InvalidValue, OrderId, ProductId, Quantity, UserId, whole_number};
pub use inventory::{RejectReason, StockRejected, StockReleased, StockReserved};
pub use orders::{OrderCancelled, OrderPlaced};
