//! What the crates of the laboratory share: how a command ends, how long work reports where it is, and plain values
//! that one crate reads and another one judges.
//!
//! Left out: anything that acts on a system, and the terminal.

pub mod durations;
pub mod outcome;
pub mod progress;
pub mod test_user;
pub mod trace;
pub mod uuids;

use std::time::Duration;

/// `scrape_interval` in `observability/prometheus/prometheus.yml`, and `timeInterval` of Grafana's data source.
pub const SCRAPE_INTERVAL: Duration = Duration::from_secs(5);
