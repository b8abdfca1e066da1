//! What tests across services share: a shop per test ([`Shop`]: two databases and a virtual host), the services as real
//! processes, a client that records what it was promised ([`Promises`]), the reconciliation of the ledgers
//! ([`reconciliation`]), a proxy to the broker that can be cut ([`Cable`]), and the callers' sampling of traces
//! ([`Sampling`]).
//!
//! The services are started from this package's own binaries: production's composition roots, with the chassis's crash
//! points compiled in. Left out: everything that a single service's tests can show.

mod cable;
mod promises;
pub mod reconciliation;
mod sampling;
mod shop;

pub use crate::cable::Cable;
pub use crate::promises::{Promise, Promises};
pub use crate::sampling::{Sampling, Spans};
pub use crate::shop::{Replica, Shop, within};

/// The paths of this package's binaries.
#[derive(Debug, Clone, Copy)]
pub struct Binaries {
    /// order-service with crash points.
    pub order_service: &'static str,
    /// inventory-service with crash points.
    pub inventory_service: &'static str,
    /// The tool that replays dead letters, with its crash point.
    pub dead_letters: &'static str,
}

/// This package's [`Binaries`]; cargo passes their paths only to its tests and benchmarks.
#[macro_export]
macro_rules! binaries {
    () => {
        $crate::Binaries {
            order_service: env!("CARGO_BIN_EXE_crashing-order-service"),
            inventory_service: env!("CARGO_BIN_EXE_crashing-inventory-service"),
            dead_letters: env!("CARGO_BIN_EXE_crashing-dead-letters"),
        }
    };
}
