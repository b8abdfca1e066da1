//! Taking HTTP connections, and letting go of them without breaking a request.
//!
//! Whoever keeps connections open, as a gateway does, may send its next request at the very moment at which they are
//! closed; nobody can tell then whether it was seen, and an order without an `Idempotency-Key` must not be sent twice.
//! So the service first takes no new connections (who is refused has sent nothing, and goes to another replica), serves
//! the open ones for a moment more, and ends each with an answer that says `Connection: close`. What was not used for
//! that moment is closed at its end.
//!
//! So many connections are open at once; whoever comes beyond them waits in the kernel's queue, whose length is bounded, too. One that
//! says nothing is closed, so that nobody keeps the places of others by being silent. Left out: TLS and HTTP/2.

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
/// one that lay idle for so long under load is not about to be used.
const LINGER: Duration = Duration::from_secs(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// When the process has no descriptors left, an end of a connection helps, and trying at once doesn't.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the head of a request may take, counted from the answer before it. Longer than the gateway keeps an idle connection (30 s): who
/// sends must be the one who closes.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves `app` until `draining`, on `max_connections` at once, and returns when every request that came is answered.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    max_connections: usize,
    draining: CancellationToken,
) {
    let connections = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(max_connections));
    let next = async || {
        let place = Arc::clone(&places).acquire_owned().await;
        (listener.accept().await, place)
    };
    loop {
        tokio::select! {
            // What the kernel has taken already is served first: it is reset when the listener goes.
            biased;
            (accepted, place) = next() => match accepted {
                Ok((stream, _)) => {
                    let service = TowerToHyperService::new(app.clone());
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_TIMEOUT)
                        .serve_connection(TokioIo::new(stream), service);
                    let connection = connections.watch(connection);
                    tokio::spawn(async move {
                        let _place = place;
                        if let Err(error) = connection.await {
                            debug!(%error, "a connection broke off");
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = draining.cancelled() => break,
        }
    }
    drop(listener);
    let all_ended = async {
        while connections.count() > 0 {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    // At the limit the idle ones are left, and requests that take longer; those are waited for.
    let _ = tokio::time::timeout(LINGER, all_ended).await;
    connections.shutdown().await;
}
