//! One lifecycle for all services: configuration → telemetry → dependencies → serve → drain → flush. With the
//! pattern `graceful_shutdown` off a signal ends the process where it stands: nothing is drained or flushed.
//!
//! [`run`] is a service's whole `main`. Tasks come in two kinds. *Workers* ([`Lifecycle::spawn_worker`]) do
//! the service's work and stop taking more of it at shutdown; *watchers* ([`Lifecycle::spawn_watcher`])
//! keep connections and the ops port, and outlive the workers, who still need them to finish. A task of
//! either kind that ends before its time takes the process down, for the container engine to restart it.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::config::{ConfigError, Env, ServiceConfig};
use crate::crash_points;
use crate::metrics::Metrics;
use crate::patterns::{Pattern, Patterns, Switch};
use crate::readiness::Readiness;
use crate::{ops, telemetry};

/// The process's exit code for a configuration that was refused.
const EXIT_CONFIGURATION: u8 = 2;
/// The exit code of a process that a signal ends at once: as for one that doesn't handle SIGTERM.
const EXIT_TERMINATED: i32 = 143;

/// A running service's tasks, readiness and figures; clones share them.
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

/// Runs a service until SIGTERM or SIGINT; `main` returns what this returns.
///
/// `read` makes the service's configuration, `start` composes it: connects, spawns, and returns the
/// address that it serves on. With the argument `healthcheck` the process instead asks the running one
/// whether it is ready, for images that have no shell.
pub fn run<C>(
    service: &'static str,
    read: impl FnOnce(&Env) -> Result<C, ConfigError>,
    start: impl AsyncFnOnce(C, &Lifecycle) -> anyhow::Result<SocketAddr>,
) -> ExitCode {
    let env = Env::process();
    let configured = ServiceConfig::read(&env).and_then(|common| Ok((common, read(&env)?)));
    let (common, config) = match configured {
        Ok(configured) => configured,
        Err(refused) => {
            eprintln!("{service}: configuration refused: {refused}");
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    if std::env::args().nth(1).as_deref() == Some("healthcheck") {
        return healthcheck(common.ops_addr.port());
    }
    crash_points::arm();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{service}: failed to start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(live(service, common, config, start))
}

async fn live<C>(
    service: &'static str,
    common: ServiceConfig,
    config: C,
    start: impl AsyncFnOnce(C, &Lifecycle) -> anyhow::Result<SocketAddr>,
) -> ExitCode {
    let lifecycle = Lifecycle::new(service);
    let telemetry = match telemetry::start(&common, &lifecycle) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("{service}: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = lifecycle.serve_until_stopped(&common, config, start).await;
    if let Err(error) = &outcome {
        error!(error = format!("{error:#}"), "stopping: the service failed");
    }
    let drained = lifecycle.stop(common.shutdown_grace).await;
    if !telemetry.flush().await {
        warn!("spans were lost: the trace store did not take them in time");
    }
    let failed = lifecycle.inner.failed.load(Ordering::Relaxed);
    info!(drained, failed, "stopped");
    if outcome.is_ok() && drained && !failed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
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

    /// Where dependencies are entered.
    pub fn readiness(&self) -> &Readiness {
        &self.inner.readiness
    }

    /// Where the service counts.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Enters which way a pattern's switch was found, for those who ask.
    pub fn enter_pattern(&self, pattern: Pattern, switch: Switch) {
        self.inner.patterns.enter(pattern, switch);
        self.inner.metrics.pattern(pattern, switch);
    }

    /// The patterns that were entered.
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

    /// A task that does the service's work. It watches [`Lifecycle::draining`] and finishes what it has.
    pub fn spawn_worker(
        &self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let guarded = self.guard(name, self.draining(), task);
        self.inner.workers.spawn(guarded);
    }

    /// A task that the workers lean on. It watches [`Lifecycle::closing`].
    pub fn spawn_watcher(
        &self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let guarded = self.guard(name, self.closing(), task);
        self.inner.watchers.spawn(guarded);
    }

    /// A task of neither kind: it may end once `until` resolves, and whoever holds the handle waits for that.
    pub(crate) fn spawn_until(
        &self,
        name: &'static str,
        until: CancellationToken,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) -> JoinHandle<()> {
        tokio::spawn(self.guard(name, until, task))
    }

    /// Stops the service, for the container engine to start it again: it can't go on without this part of it.
    pub(crate) fn fail(&self, task: &str, reason: &str) {
        error!(task, reason, "a task failed: stopping the service");
        self.inner.failed.store(true, Ordering::Relaxed);
        self.inner.draining.cancel();
    }

    /// Opens the ops port.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn serve_ops(&self, addr: SocketAddr) -> anyhow::Result<SocketAddr> {
        let (listener, addr) = listen(addr).await?;
        let closing = self.closing();
        let router = ops::router(self.clone());
        self.spawn_watcher("ops", async move {
            axum::serve(listener, router)
                .with_graceful_shutdown(closing.cancelled_owned())
                .await
                .context("failed to serve the ops port")
        });
        Ok(addr)
    }

    /// Says that everything is composed; from here on readiness follows the dependencies.
    pub fn started(&self) {
        self.inner.readiness.running();
    }

    /// Drains and closes: readiness first, then the workers within `grace`, then the watchers. Answers
    /// whether all work was finished.
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
                "gave up on work that did not finish in time"
            );
        }
        self.inner.closing.cancel();
        self.inner.watchers.close();
        // Watchers have nothing to finish but closing their connection.
        const CLOSE: Duration = Duration::from_secs(2);
        let closed = tokio::time::timeout(CLOSE, self.inner.watchers.wait())
            .await
            .is_ok();
        drained && closed
    }

    async fn serve_until_stopped<C>(
        &self,
        common: &ServiceConfig,
        config: C,
        start: impl AsyncFnOnce(C, &Lifecycle) -> anyhow::Result<SocketAddr>,
    ) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("failed to watch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("failed to watch SIGINT")?;
        self.enter_pattern(Pattern::GracefulShutdown, common.graceful_shutdown);
        self.enter_pattern(Pattern::AsyncExport, common.async_export);
        let stopped = async {
            let signal = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                () = self.inner.draining.cancelled() => return,
            };
            if !common.graceful_shutdown.is_on() {
                info!(signal, "ending at once");
                std::process::exit(EXIT_TERMINATED);
            }
            info!(signal, "draining");
            // Readiness first: who balances over replicas stops coming before anybody is refused.
            self.inner.readiness.draining();
            tokio::time::sleep(common.shutdown_delay).await;
        };
        tokio::pin!(stopped);

        self.serve_ops(common.ops_addr).await?;
        let starting = tokio::time::timeout(common.startup_timeout, start(config, self));
        let addr = tokio::select! {
            started = starting => started.with_context(|| format!(
                "failed to start within {} s (STARTUP_TIMEOUT_SECONDS): {}",
                common.startup_timeout.as_secs(),
                serde_json::json!(self.readiness().report().dependencies),
            ))??,
            () = &mut stopped => return Ok(()),
        };
        self.started();
        info!(%addr, version = env!("CARGO_PKG_VERSION"), "serving");
        stopped.await;
        Ok(())
    }

    /// Lets no task end before `until` unnoticed, be it by an error, a panic or by mistake.
    fn guard(
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

/// Binds, and says which port it became.
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

fn healthcheck(port: u16) -> ExitCode {
    match ask_ready(port) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => ExitCode::SUCCESS,
        Ok(answer) => {
            eprintln!("not ready: {}", answer.lines().last().unwrap_or_default());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("no answer on port {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ask_ready(port: u16) -> std::io::Result<String> {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
