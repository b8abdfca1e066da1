//! What an order costs, as `capacity measure` found it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The version of this format.
pub const FORMAT: u32 = 1;

/// The measured costs of a system, and the points by which predictions from them are checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// The version of the format.
    pub format: u32,
    /// When the measurement ended.
    pub measured_at: DateTime<Utc>,
    /// The commit that was built, as `evaluate` records it.
    pub agora: String,
    /// The cores of the machine.
    pub cores: u32,
    /// The machine's memory, in bytes.
    pub memory_bytes: u64,
    /// The load from which the costs are: as many orders a second as the machine takes.
    pub orders_per_second: f64,
    /// By part, in the order of their names.
    pub parts: BTreeMap<String, PartCost>,
    /// What the database writes to its log for an order, in bytes.
    pub wal_bytes_per_order: f64,
    /// The most database connections that one replica of a service had.
    pub connections: BTreeMap<String, u32>,
    /// How many connections the database accepts.
    pub max_connections: u32,
    /// Rates with order-service's processor held, which the costs were not fitted to.
    pub held: Vec<Held>,
}

/// What one part uses of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartCost {
    /// At rest, in milliseconds of a core each second.
    pub idle_ms_per_second: f64,
    /// For an order, beyond that, in milliseconds of a core.
    pub ms_per_order: f64,
}

/// Orders a second with each replica of order-service held to a part of a core.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// How many replicas.
    pub replicas: u32,
    /// What each of them may use, in thousandths of a core.
    pub millicores: u32,
    /// Orders accepted and decided a second.
    pub orders_per_second: f64,
}
