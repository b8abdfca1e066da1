//! The receiver of Alertmanager's notifications: instead of notifying somebody, it records which alerts fired and resolved.
//!
//! `POST /webhook` receives them, `GET /alerts` returns them, oldest first; `cargo xtask alerts --history` shows them. The
//! record is in memory and bounded: a new process starts with an empty one. `HTTP_ADDR` is the address to listen on
//! (0.0.0.0:8080). With the argument `healthcheck` the process checks the running one instead. Left out: notifying
//! anybody, storage, and access control (its port is published on this machine only).

mod history;
mod http;
mod webhook;

use std::{
    env,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use chrono::{SecondsFormat, Utc};
use serde_json::json;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

const EXIT_USAGE: u8 = 2;
const DEFAULT_ADDR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080);
/// The grace period of running requests at SIGTERM; longer than [`http::TIMEOUT`] allows a request.
const GRACE: Duration = Duration::from_secs(8);
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let addr = match address() {
        Ok(addr) => addr,
        Err(error) => {
            eprintln!("alert-receiver: configuration refused: {error:#}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match env::args().nth(1).as_deref() {
        None => {}
        Some("healthcheck") => return healthcheck(addr.port()),
        Some(other) => {
            eprintln!("alert-receiver: unknown argument `{other}`, expected none or `healthcheck`");
            return ExitCode::from(EXIT_USAGE);
        }
    }
    // One thread is enough for a few notifications a minute.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let served = runtime
        .context("failed to start the runtime")
        .and_then(|runtime| runtime.block_on(serve(addr)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log("error", &format!("{error:#}"), json!({}));
            ExitCode::FAILURE
        }
    }
}

fn address() -> anyhow::Result<SocketAddr> {
    match env::var("HTTP_ADDR") {
        Err(env::VarError::NotPresent) => Ok(DEFAULT_ADDR),
        Err(error) => Err(error).context("HTTP_ADDR"),
        Ok(value) => value.parse().with_context(|| {
            format!("HTTP_ADDR: `{value}` is no address, expected e.g. {DEFAULT_ADDR}")
        }),
    }
}

/// Serves until SIGTERM or SIGINT, then finishes running requests.
async fn serve(addr: SocketAddr) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to watch for SIGINT")?;
    let listener = TcpListener::bind(addr)
        .await
        .with_context(|| format!("failed to listen on {addr}"))?;
    let addr = listener.local_addr().context("no address of its own")?;
    log("info", "serving", json!({ "addr": addr.to_string() }));

    let (stop, stopped) = oneshot::channel::<()>();
    // A dropped sender also means shutdown.
    let graceful = async { drop(stopped.await) };
    let server = axum::serve(listener, http::router()).with_graceful_shutdown(graceful);
    let mut server = tokio::spawn(server.into_future());
    tokio::select! {
        ended = &mut server => {
            ended.context("the server task failed")?.context("the server ended")?;
            anyhow::bail!("the server ended unexpectedly");
        }
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    log("info", "draining", json!({}));
    drop(stop);
    // Past this time a client holds an idle connection open: no answer is lost with it.
    match tokio::time::timeout(GRACE, server).await {
        Ok(ended) => ended
            .context("the server task failed")?
            .context("the server ended")?,
        Err(_) => log("warn", "open connections were closed", json!({})),
    }
    log("info", "stopped", json!({}));
    Ok(())
}

/// Writes a line in the services' format. A closed standard output is no reason to stop.
fn log(level: &str, message: &str, mut fields: serde_json::Value) {
    fields["timestamp"] = Utc::now()
        .to_rfc3339_opts(SecondsFormat::Micros, true)
        .into();
    fields["level"] = level.to_uppercase().into();
    fields["service"] = "alert-receiver".into();
    fields["message"] = message.into();
    let _ = writeln!(std::io::stdout().lock(), "{fields}");
}

fn healthcheck(port: u16) -> ExitCode {
    match ask_health(port) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => ExitCode::SUCCESS,
        Ok(answer) => {
            eprintln!("unhealthy: {}", answer.lines().next().unwrap_or_default());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("no answer on port {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ask_health(port: u16) -> std::io::Result<String> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&addr, HEALTHCHECK_TIMEOUT)?;
    stream.set_read_timeout(Some(HEALTHCHECK_TIMEOUT))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
