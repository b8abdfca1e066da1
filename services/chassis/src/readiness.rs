//! Whether a service can do its work: starting, ready, unavailable while a dependency is, draining.
//!
//! Each dependency's state is updated by the task that watches it (`database`, `broker`); a readiness request probes nothing,
//! so that it is cheap and never hangs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

/// The state of one dependency, written by the task that watches it.
pub type Health = watch::Sender<bool>;

/// Shared by all tasks of a service.
#[derive(Clone, Default)]
pub struct Readiness {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    phase: Phase,
    dependencies: BTreeMap<&'static str, watch::Receiver<bool>>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Starting,
    Running,
    Draining,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The service's state.
    pub status: Status,
    /// Each dependency's state.
    pub dependencies: BTreeMap<&'static str, Dependency>,
}

/// A service's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not yet composed.
    Starting,
    /// Can do all of its work.
    Ready,
    /// Runs, but a dependency is unreachable.
    Unavailable,
    /// Is stopping; accepts no new work.
    Draining,
}

/// A dependency's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dependency {
    /// Answered the last probe.
    Ok,
    /// Did not answer it.
    Unreachable,
}

impl Readiness {
    /// Adds a dependency; unreachable until its watcher reports otherwise.
    pub fn depends_on(&self, name: &'static str) -> Health {
        let (health, state) = watch::channel(false);
        self.lock().dependencies.insert(name, state);
        health
    }

    /// The current state.
    pub fn report(&self) -> Report {
        let inner = self.lock();
        let dependencies: BTreeMap<_, _> = inner
            .dependencies
            .iter()
            .map(|(name, state)| {
                let dependency = if *state.borrow() {
                    Dependency::Ok
                } else {
                    Dependency::Unreachable
                };
                (*name, dependency)
            })
            .collect();
        let status = match inner.phase {
            Phase::Starting => Status::Starting,
            Phase::Draining => Status::Draining,
            Phase::Running if dependencies.values().all(|d| *d == Dependency::Ok) => Status::Ready,
            Phase::Running => Status::Unavailable,
        };
        Report {
            status,
            dependencies,
        }
    }

    pub(crate) fn running(&self) {
        self.lock().phase = Phase::Running;
    }

    pub(crate) fn draining(&self) {
        self.lock().phase = Phase::Draining;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_while_running_with_every_dependency() {
        let readiness = Readiness::default();
        let postgres = readiness.depends_on("postgres");
        let rabbitmq = readiness.depends_on("rabbitmq");
        postgres.send_replace(true);
        rabbitmq.send_replace(true);
        assert_eq!(readiness.report().status, Status::Starting);
        readiness.running();
        assert_eq!(readiness.report().status, Status::Ready);
        rabbitmq.send_replace(false);
        assert_eq!(readiness.report().status, Status::Unavailable);
        assert_eq!(
            readiness.report().dependencies["rabbitmq"],
            Dependency::Unreachable
        );
        rabbitmq.send_replace(true);
        assert_eq!(readiness.report().status, Status::Ready);
        readiness.draining();
        assert_eq!(readiness.report().status, Status::Draining);
    }
}
