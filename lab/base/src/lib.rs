//! What the crates of the laboratory share: exit codes and expected failures, the progress of long work, values that
//! are typed on the command line, and plain values that `system` reads and `checks` judges.
//!
//! Left out: anything that acts on a system, and the terminal.

pub mod durations;
pub mod outcome;
pub mod progress;
pub mod test_user;
pub mod trace;
pub mod uuids;

use std::time::Duration;

/// How often Prometheus scrapes each target: `scrape_interval` in `observability/prometheus/prometheus.yml`, and
/// `timeInterval` of Grafana's data source.
pub const SCRAPE_INTERVAL: Duration = Duration::from_secs(5);
