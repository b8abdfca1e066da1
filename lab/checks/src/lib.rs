//! Pure functions that check what was read: metrics, events, traces and spans of the running system, dashboards,
//! queries and configuration files, links, retired words; and the attack corpus with its judgement.
//!
//! Left out: asking a running system, and reading files. A check is given what it judges, and so are its tests.

pub mod alloy;
pub mod attacks;
pub mod dashboards;
pub mod events_check;
pub mod links;
pub mod logql;
pub mod metrics_check;
pub mod own_metrics;
pub mod promql;
pub mod routes;
pub mod spans_check;
pub mod traces_check;
pub mod words;
