//! What the benchmarks share: the processor time that a measurement cost.
//!
//! Left out: what is measured; `throughput/` and `gateway/` say that.

pub mod usage;
