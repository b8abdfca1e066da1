//! Which patterns a service runs with. They are declared in the crate `patterns`.
//!
//! A switch is read once, at start ([`crate::environment::Env::switch`]), and picks a strategy where a service is composed;
//! it is recorded here, so that `GET /patterns` on the ops port and the gauge `agora_pattern_enabled` show what really runs.
//! Left out: the strategies themselves (`outbox`, `consumer`, `broker`, `service`, `telemetry`, `outbound`, `replicas`,
//! `admission`), and changing one at run time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

pub use ::patterns::{Pattern, Switch};

/// What a service was composed with; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    chosen: Arc<Mutex<BTreeMap<Pattern, Switch>>>,
}

impl Patterns {
    /// Records what was chosen for a pattern.
    pub(crate) fn enter(&self, pattern: Pattern, switch: Switch) {
        self.lock().insert(pattern, switch);
    }

    /// All patterns that this service has, with the positions of their switches.
    pub fn report(&self) -> BTreeMap<Pattern, Switch> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Pattern, Switch>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
