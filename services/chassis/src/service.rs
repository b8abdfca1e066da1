//! A service's whole `main`, the same for all: configuration → telemetry → dependencies → serve → drain → flush.
//! With the pattern `graceful_shutdown` off a signal ends the process at once: nothing is drained or flushed.
//!
//! Left out: tasks and how they end ([`crate::lifecycle`]).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::config::ServiceConfig;
use crate::environment::{ConfigError, Env};
use crate::lifecycle::Lifecycle;
use crate::patterns::Pattern;
use crate::{crash_points, ops, telemetry};

/// The process's exit code for a configuration that was refused.
const EXIT_CONFIGURATION: u8 = 2;
/// The exit code of a process that a signal ends at once: as for one that doesn't handle SIGTERM.
const EXIT_TERMINATED: i32 = 143;

/// Runs a service until SIGTERM or SIGINT; `main` returns what this returns.
///
/// `read` reads the service's configuration, `start` composes it: connects, spawns, and returns the address that it serves
/// on. With the argument `healthcheck` the process instead checks whether the running one is ready, for images without a
/// shell.
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
    let outcome = serve_until_stopped(&lifecycle, &common, config, start).await;
    if let Err(error) = &outcome {
        error!(error = format!("{error:#}"), "stopping: the service failed");
    }
    let drained = lifecycle.stop(common.shutdown_grace).await;
    if !telemetry.flush().await {
        warn!("spans were lost: the trace store did not take them in time");
    }
    let failed = lifecycle.has_failed();
    info!(drained, failed, "stopped");
    if outcome.is_ok() && drained && !failed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn serve_until_stopped<C>(
    lifecycle: &Lifecycle,
    common: &ServiceConfig,
    config: C,
    start: impl AsyncFnOnce(C, &Lifecycle) -> anyhow::Result<SocketAddr>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to watch SIGINT")?;
    lifecycle.enter_pattern(Pattern::GracefulShutdown, common.graceful_shutdown);
    lifecycle.enter_pattern(Pattern::AsyncExport, common.async_export);
    let draining = lifecycle.draining();
    let stopped = async {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = draining.cancelled() => return,
        };
        if !common.graceful_shutdown.is_on() {
            info!(signal, "ending at once");
            std::process::exit(EXIT_TERMINATED);
        }
        info!(signal, "draining");
        // Readiness first: load balancers stop sending before any request is refused.
        lifecycle.readiness().draining();
        tokio::time::sleep(common.shutdown_delay).await;
    };
    tokio::pin!(stopped);

    ops::serve(lifecycle, common.ops_addr).await?;
    let starting = tokio::time::timeout(common.startup_timeout, start(config, lifecycle));
    let addr = tokio::select! {
        started = starting => started.with_context(|| format!(
            "failed to start within {} s (STARTUP_TIMEOUT_SECONDS): {}",
            common.startup_timeout.as_secs(),
            serde_json::json!(lifecycle.readiness().report().dependencies),
        ))??,
        () = &mut stopped => return Ok(()),
    };
    lifecycle.started();
    info!(%addr, version = env!("CARGO_PKG_VERSION"), "serving");
    stopped.await;
    Ok(())
}

fn healthcheck(port: u16) -> ExitCode {
    match probe(port) {
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

fn probe(port: u16) -> std::io::Result<String> {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
