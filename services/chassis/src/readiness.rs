//! Whether a service can do its work: starting, ready, unavailable while a dependency is, draining.
//!
//! Each dependency's state is kept by the task that watches it (`database`, `broker`); nothing is probed
//! when somebody asks, so that asking is cheap and never hangs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

/// The state of one dependency, written by who watches it.
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

/// What `/readyz` answers with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In one word.
    pub status: Status,
    /// Each dependency that is needed.
    pub dependencies: BTreeMap<&'static str, Dependency>,
}

/// A service in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not yet composed.
    Starting,
    /// Can do all of its work.
    Ready,
    /// Runs, but a dependency is out of reach.
    Unavailable,
    /// Is stopping; takes no new work.
    Draining,
}

/// A dependency in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dependency {
    /// Answered when last asked.
    Ok,
    /// Did not.
    Unreachable,
}

impl Readiness {
    /// Adds a dependency; unreachable until its watcher says otherwise.
    pub fn depends_on(&self, name: &'static str) -> Health {
        let (health, state) = watch::channel(false);
        self.lock().dependencies.insert(name, state);
        health
    }

    /// As of now.
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
