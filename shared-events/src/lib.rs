//! The event contract between the services, in one place: the CloudEvents envelope ([`Event`]), what can
//! be said in it ([`OrderPlaced`]), and the names and arguments of the exchanges and queues it travels
//! through ([`topology`]).
//!
//! Left out on purpose: I/O. Nothing here connects, publishes or declares; `chassis` does that from this
//! data, and `xtask` reads the same names.

mod envelope;
mod ids;
mod orders;
pub mod topology;

pub use envelope::{CONTENT_TYPE, DecodeError, Event, EventData};
pub use ids::{InvalidValue, OrderId, ProductId, Quantity, UserId};
pub use orders::OrderPlaced;
