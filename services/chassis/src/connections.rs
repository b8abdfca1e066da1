//! Accepting HTTP connections, and closing them without breaking a request.
//!
//! A client that keeps connections open, as a gateway does, may send its next request at the moment they are closed; then it
//! can't know whether the request was processed, and an order without an `Idempotency-Key` must not be sent twice. So the
//! service first accepts no new connections (a refused client has sent nothing, and uses another replica), serves the open
//! ones for a moment more, and ends each with an answer that has `Connection: close`. Connections that were idle for that
//! moment are closed at its end.
//!
//! The number of open connections is bounded; further ones wait in the kernel's queue, whose length is bounded, too. A
//! connection without a request is closed after a time, so that idle clients don't use up the limit. Left out: TLS and
//! HTTP/2.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How long open connections are served for after the last new one. Clients prefer the connection that they used last:
/// one that was idle for so long under load is not about to be used.
const LINGER: Duration = Duration::from_secs(1);
const CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// When the process has no file descriptors left, retrying at once doesn't help; the end of a connection does.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the head of a request may take, counted from the answer before it. Longer than the gateway keeps an idle
/// connection (30 s): the client must be the one that closes it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves `app` until `draining`, on `max_connections` at once, and returns when every request is answered.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    max_connections: usize,
    draining: CancellationToken,
) {
    let connections = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(max_connections));
    let next = async || {
        let slot = Arc::clone(&slots).acquire_owned().await;
        (listener.accept().await, slot)
    };
    loop {
        tokio::select! {
            // Connections that the kernel has accepted are served first: they are reset when the listener closes.
            biased;
            (accepted, slot) = next() => match accepted {
                Ok((stream, _)) => {
                    let service = TowerToHyperService::new(app.clone());
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_TIMEOUT)
                        .serve_connection(TokioIo::new(stream), service);
                    let connection = connections.watch(connection);
                    tokio::spawn(async move {
                        let _slot = slot;
                        if let Err(error) = connection.await {
                            debug!(%error, "a connection failed");
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = draining.cancelled() => break,
        }
    }
    drop(listener);
    let all_ended = async {
        while connections.count() > 0 {
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    };
    // At the limit the idle ones are closed; requests that take longer are finished.
    let _ = tokio::time::timeout(LINGER, all_ended).await;
    connections.shutdown().await;
}
