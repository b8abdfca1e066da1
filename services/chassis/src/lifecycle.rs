//! A service's tasks from its start to its end. [`crate::service`] drives it.
//!
//! Tasks come in two kinds. *Workers* ([`Lifecycle::spawn_worker`]) do
//! the service's work and stop taking more of it at shutdown; *watchers* ([`Lifecycle::spawn_watcher`])
//! keep connections and the ops port, and outlive the workers, who still need them to finish. A task of
//! either kind that ends early takes the process down, for the container engine to restart it.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::metrics::Metrics;
use crate::patterns::{Pattern, Patterns, Switch};
use crate::readiness::Readiness;

/// A running service's tasks, readiness and metrics; clones share them.
#[derive(Clone)]
pub struct Lifecycle {
    inner: Arc<Inner>,
}

struct Inner {
    service: &'static str,
    readiness: Readiness,
    metrics: Metrics,
    patterns: Patterns,
    /// Take no new work.
    draining: CancellationToken,
    /// The work is done, or the grace period over.
    closing: CancellationToken,
    workers: TaskTracker,
    watchers: TaskTracker,
    failed: AtomicBool,
}

impl Lifecycle {
    /// A service that has nothing running yet.
    pub fn new(service: &'static str) -> Self {
        Self {
            inner: Arc::new(Inner {
                service,
                readiness: Readiness::default(),
                metrics: Metrics::new(service),
                patterns: Patterns::default(),
                draining: CancellationToken::new(),
                closing: CancellationToken::new(),
                workers: TaskTracker::new(),
                watchers: TaskTracker::new(),
                failed: AtomicBool::new(false),
            }),
        }
    }

    /// The service's name.
    pub fn service(&self) -> &'static str {
        self.inner.service
    }

    /// The state of the dependencies.
    pub fn readiness(&self) -> &Readiness {
        &self.inner.readiness
    }

    /// The service's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Records the position of a pattern's switch.
    pub fn enter_pattern(&self, pattern: Pattern, switch: Switch) {
        self.inner.patterns.enter(pattern, switch);
        self.inner.metrics.pattern(pattern, switch);
    }

    /// The patterns that were recorded.
    pub fn patterns(&self) -> BTreeMap<Pattern, Switch> {
        self.inner.patterns.report()
    }

    /// Resolves when no new work may be taken.
    pub fn draining(&self) -> CancellationToken {
        self.inner.draining.clone()
    }

    /// Resolves when connections may be closed.
    pub fn closing(&self) -> CancellationToken {
        self.inner.closing.clone()
    }

    /// A task that does the service's work. It watches [`Lifecycle::draining`] and finishes the work in flight.
    pub fn spawn_worker(
        &self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let supervised = self.supervise(name, self.draining(), task);
        self.inner.workers.spawn(supervised);
    }

    /// A task that the workers depend on. It watches [`Lifecycle::closing`].
    pub fn spawn_watcher(
        &self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let supervised = self.supervise(name, self.closing(), task);
        self.inner.watchers.spawn(supervised);
    }

    /// A task of neither kind: it may end once `until` resolves, and the holder of the handle waits for that.
    pub(crate) fn spawn_until(
        &self,
        name: &'static str,
        until: CancellationToken,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) -> JoinHandle<()> {
        tokio::spawn(self.supervise(name, until, task))
    }

    /// Whether a task has ended the service.
    pub(crate) fn has_failed(&self) -> bool {
        self.inner.failed.load(Ordering::Relaxed)
    }

    /// Stops the service, for the container engine to restart it: it can't work without this task.
    pub(crate) fn fail(&self, task: &str, reason: &str) {
        error!(task, reason, "a task failed: stopping the service");
        self.inner.failed.store(true, Ordering::Relaxed);
        self.inner.draining.cancel();
    }

    /// Marks the service as composed; from here on readiness follows the dependencies.
    pub fn started(&self) {
        self.inner.readiness.running();
    }

    /// Drains and closes: readiness first, then the workers within `grace`, then the watchers. Returns whether all work was
    /// finished.
    pub async fn stop(&self, grace: Duration) -> bool {
        self.inner.readiness.draining();
        self.inner.draining.cancel();
        self.inner.workers.close();
        let drained = tokio::time::timeout(grace, self.inner.workers.wait())
            .await
            .is_ok();
        if !drained {
            warn!(
                grace_seconds = grace.as_secs(),
                "dropped work that did not finish in time"
            );
        }
        self.inner.closing.cancel();
        self.inner.watchers.close();
        // Watchers only have to close their connections.
        const CLOSE: Duration = Duration::from_secs(2);
        let closed = tokio::time::timeout(CLOSE, self.inner.watchers.wait())
            .await
            .is_ok();
        drained && closed
    }

    /// Stops the service when the task ends before `until`, by an error, a panic or by mistake.
    fn supervise(
        &self,
        name: &'static str,
        until: CancellationToken,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let lifecycle = self.clone();
        async move {
            let reason = match AssertUnwindSafe(task).catch_unwind().await {
                Ok(Ok(())) if until.is_cancelled() => return,
                Ok(Ok(())) => "ended before shutdown".to_owned(),
                Ok(Err(error)) => format!("{error:#}"),
                Err(panic) => format!("panicked: {}", panic_message(&*panic)),
            };
            lifecycle.fail(name, &reason);
        }
    }
}

/// Binds, and returns the address with its port.
pub(crate) async fn listen(addr: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(addr)
        .await
        .with_context(|| format!("failed to listen on {addr}"))?;
    let addr = listener
        .local_addr()
        .context("failed to read the bound address")?;
    Ok((listener, addr))
}

pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
