//! What the tests of several services share: a shop of its own for each test ([`Shop`]: two databases and a
//! virtual host), the services in it as real processes, customers that keep what they were promised
//! ([`Promises`]), the books ([`books`]), a cable to the broker that can be cut ([`Cable`]), and what callers decide
//! about traces ([`Sampling`]).
//!
//! The services are started from this package's own binaries: production's composition roots, with the
//! chassis's crash points compiled in. Left out: anything that a service's own tests can show.

pub mod books;
mod cable;
mod customers;
mod sampling;
mod shop;

pub use crate::cable::Cable;
pub use crate::customers::{Promise, Promises};
pub use crate::sampling::{Sampling, Spans};
pub use crate::shop::{Replica, Shop, within};

/// Where this package's binaries are.
#[derive(Debug, Clone, Copy)]
pub struct Binaries {
    /// order-service with crash points.
    pub order_service: &'static str,
    /// inventory-service with crash points.
    pub inventory_service: &'static str,
    /// The tool that replays dead letters, with its crash point.
    pub dead_letters: &'static str,
}

/// This package's [`Binaries`]; cargo tells only its tests and benchmarks where they are.
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
