//! What the benchmarks share: the processor time that a measurement cost, and an HTTP client.
//!
//! Left out: what is measured; `throughput/`, `gateway/` and `comparison/` say that.

pub mod client;
pub mod usage;
