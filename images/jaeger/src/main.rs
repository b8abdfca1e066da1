//! Replaces Jaeger v2 where no registry is available: OTLP receivers, Jaeger's query API and UI.
//!
//! Traces are kept in memory only; the oldest are evicted. Left out: receivers other than OTLP, other storage, remote
//! sampling, the archive, service performance monitoring, `/api/v3`, and Jaeger's configuration file, which is accepted and
//! not read.

mod ingest;
mod jaeger_json;
mod ops;
mod query;
mod search;
mod span;
mod store;
#[cfg(test)]
mod tests;
mod ui;

use std::{
    env,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use crate::{
    ops::Metrics,
    store::{Limits, Store},
    ui::Ui,
};

const USAGE: &str = "usage: jaeger-linux [--config FILE]   serve; the file is not read
       jaeger-linux healthcheck         exit code 0 where it serves
       wget -q -O /dev/null URL         the same, for the probe that Jaeger's own image has a wget for";
/// The path of the UI's files in the image.
const UI_FOLDER: &str = "/usr/share/jaeger-ui";
const HEALTH_PORT: u16 = 13133;
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// The port of each server; Jaeger's own.
#[derive(Debug, Clone, Copy)]
struct Ports {
    otlp_grpc: u16,
    otlp_http: u16,
    query: u16,
    health: u16,
    metrics: u16,
}

const PORTS: Ports = Ports {
    otlp_grpc: 4317,
    otlp_http: 4318,
    query: 16686,
    health: HEALTH_PORT,
    metrics: 8888,
};

/// The state shared by all servers.
#[derive(Debug)]
struct State {
    store: Store,
    metrics: Metrics,
    ui: Ui,
    /// Permits of queries for many traces.
    queries: Semaphore,
}

/// The running servers.
struct Running {
    addresses: Addresses,
    tasks: JoinSet<anyhow::Result<()>>,
}

/// The bound address of each server.
#[derive(Debug, Clone, Copy)]
struct Addresses {
    otlp_grpc: SocketAddr,
    otlp_http: SocketAddr,
    query: SocketAddr,
    health: SocketAddr,
    metrics: SocketAddr,
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    let is_wget = args.first().is_some_and(|name| name.ends_with("wget"));
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let result = match words.as_slice() {
        _ if is_wget => probe(),
        ["healthcheck"] => probe(),
        [] | ["--config", _] => serve_until_signalled(),
        [word] if word.starts_with("--config=") => serve_until_signalled(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("jaeger: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Checks the health of the server in the same container.
fn probe() -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, HEALTH_PORT));
    let mut stream = TcpStream::connect_timeout(&address, PROBE_LIMIT)
        .with_context(|| format!("nothing listens on {address}"))?;
    stream.set_read_timeout(Some(PROBE_LIMIT))?;
    stream.write_all(b"GET /status HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if !answer.starts_with("HTTP/1.0 200") && !answer.starts_with("HTTP/1.1 200") {
        bail!("not healthy: {}", answer.lines().next().unwrap_or_default());
    }
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn serve_until_signalled() -> anyhow::Result<()> {
    let limits = Limits {
        traces: setting("MAX_TRACES", Limits::DEFAULT.traces)?,
        spans_per_trace: setting("MAX_SPANS_PER_TRACE", Limits::DEFAULT.spans_per_trace)?,
        bytes: setting("MAX_BYTES", Limits::DEFAULT.bytes)?,
        ..Limits::DEFAULT
    };
    let ui = PathBuf::from(env::var("UI_FOLDER").unwrap_or_else(|_| UI_FOLDER.to_owned()));
    // Before anything listens, so that an early signal is not lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut running = start(Ipv4Addr::UNSPECIFIED.into(), PORTS, limits, &ui).await?;
    let at = running.addresses;
    eprintln!(
        "jaeger: OTLP at {} (gRPC) and {} (HTTP), query API and UI at {}, health at {}, metrics at {}; keeps {limits:?}",
        at.otlp_grpc, at.otlp_http, at.query, at.health, at.metrics
    );
    tokio::select! {
        // The memory needs no flushing: open requests end with the process.
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        ended = running.tasks.join_next() => match ended {
            Some(result) => result?.and_then(|()| bail!("a listener ended by itself")),
            None => bail!("nothing is served"),
        },
    }
}

/// A limit from the environment: a positive number.
fn setting<T: FromStr + PartialOrd + From<u8>>(name: &str, default: T) -> anyhow::Result<T> {
    let Ok(text) = env::var(name) else {
        return Ok(default);
    };
    match text.parse() {
        Ok(number) if number >= T::from(1) => Ok(number),
        _ => bail!("{name} is {text:?}; expected a number from 1"),
    }
}

/// Binds every port and serves; port 0 binds any free one.
async fn start(
    host: IpAddr,
    ports: Ports,
    limits: Limits,
    ui: &std::path::Path,
) -> anyhow::Result<Running> {
    let state = Arc::new(State {
        store: Store::new(limits),
        metrics: Metrics::default(),
        ui: Ui::open(ui)?,
        queries: Semaphore::new(query::MAX_QUERIES),
    });
    let bind = async |port: u16| {
        TcpListener::bind((host, port))
            .await
            .with_context(|| format!("failed to listen on port {port}"))
    };
    let otlp_grpc = bind(ports.otlp_grpc).await?;
    let otlp_http = bind(ports.otlp_http).await?;
    let query = bind(ports.query).await?;
    let health = bind(ports.health).await?;
    let metrics = bind(ports.metrics).await?;
    let addresses = Addresses {
        otlp_grpc: otlp_grpc.local_addr()?,
        otlp_http: otlp_http.local_addr()?,
        query: query.local_addr()?,
        health: health.local_addr()?,
        metrics: metrics.local_addr()?,
    };

    let mut tasks = JoinSet::new();
    let grpc = Server::builder().add_service(ingest::grpc(Arc::clone(&state)));
    tasks.spawn(async move {
        let incoming = TcpListenerStream::new(otlp_grpc);
        grpc.serve_with_incoming(incoming)
            .await
            .context("OTLP/gRPC")
    });
    let http = [
        (otlp_http, ingest::http(Arc::clone(&state))),
        (query, query::router(Arc::clone(&state))),
        (health, ops::health()),
        (metrics, ops::metrics(state)),
    ];
    for (listener, router) in http {
        tasks.spawn(async move { axum::serve(listener, router).await.context("HTTP") });
    }
    Ok(Running { addresses, tasks })
}
