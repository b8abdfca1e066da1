//! What load runs, alerts, evaluations and measured costs write to disk or send to one another, as serde types.
//!
//! Left out: where the files are, and what they mean.

pub mod alerts;
pub mod capacity;
pub mod evaluation;
pub mod load;
pub mod scenario;
