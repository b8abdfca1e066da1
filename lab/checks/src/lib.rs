//! Pure functions over what was read from the running system: whether metrics, events, traces, spans and dashboards hold,
//! and the attack corpus with its judgement.
//!
//! Left out: reading anything. Nothing here asks a system, and a check is tested by what it is given.

pub mod alloy;
pub mod attacks;
pub mod dashboards;
pub mod events_check;
pub mod logql;
pub mod metrics_check;
pub mod own_metrics;
pub mod promql;
pub mod spans_check;
pub mod traces_check;
pub mod words;
