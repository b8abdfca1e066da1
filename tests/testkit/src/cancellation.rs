//! Cancellation: a future is dropped at each of its awaits, and its leftovers are checked.
//!
//! [`drop_at_each_await`] polls a future once and drops it, then a new one twice, and so on, until they complete. The I/O
//! is real: between two polls it waits until the future is woken. Each number of polls is tried in two ways: dropped while
//! the awaited operation is in progress, and after it has completed. [`Observer`] checks for leftovers: no connection of a
//! pool is in use, no session of the database is in a transaction, and PostgreSQL issued no warning.
//!
//! Left out: threads. The warnings are those of the test's own thread, so the test's runtime has only that one.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use chassis::environment::{ConfigError, Env};
use chassis::http::App;
use chassis::lifecycle::Lifecycle;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::sync::Notify;
use tower::Service as _;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Metadata, Subscriber};
use uuid::Uuid;

use crate::PATIENCE;

/// A future that needs more polls than this never completes.
const MOST_POLLS: usize = 1_000;
/// One early completion isn't the last number of polls: on a busy machine an answer may arrive before it is awaited.
const ENDS_IN_A_ROW: usize = 6;
/// Leftovers are gone immediately; longer waits occur only on a busy machine.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// When a future is dropped after its last poll.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// At once: the operation that it awaits is in progress.
    Pending,
    /// After it was woken: the answer has arrived, and it hasn't read it.
    Woken,
}

/// How polling a future ended.
enum End<T> {
    Completed(T),
    /// It is still running, and has done everything that the test looks for.
    Enough,
    Dropped,
}

/// Wakes a task that polls a future by hand.
struct Alarm(Notify);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

/// Polls the future `polls` times, each time after it was woken, and drops it; earlier if it completes, or `enough`
/// resolves.
async fn polled<T>(
    future: impl Future<Output = T>,
    polls: usize,
    moment: Moment,
    enough: impl Future<Output = ()>,
) -> End<T> {
    let alarm = Arc::new(Alarm(Notify::new()));
    let waker = Waker::from(Arc::clone(&alarm));
    let (mut future, mut enough) = (pin!(future), pin!(enough));
    for poll in 1..=polls {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return End::Completed(output);
        }
        if poll == polls && matches!(moment, Moment::Pending) {
            break;
        }
        tokio::select! {
            () = alarm.0.notified() => {}
            () = &mut enough => return End::Enough,
            () = tokio::time::sleep(PATIENCE) => panic!("not woken within {PATIENCE:?} after {poll} polls"),
        }
    }
    End::Dropped
}

/// Runs `work` repeatedly, dropped after one poll, after two, and so on; calls `prepare` before and `check` after each
/// run, with its description. Ends when several runs in a row completed, or `enough` resolved, before all their polls.
/// Returns that number of polls and the result of `work`.
pub async fn drop_at_each_await<P, T>(
    what: &str,
    mut prepare: impl AsyncFnMut() -> P,
    mut work: impl AsyncFnMut(P) -> T,
    mut enough: impl AsyncFnMut(),
    mut check: impl AsyncFnMut(&str),
) -> (usize, Option<T>) {
    let mut ends_in_a_row = 0;
    for polls in 1..=MOST_POLLS {
        for moment in [Moment::Pending, Moment::Woken] {
            // Once to completion: opening a connection takes hundreds of polls, and isn't what is tested.
            let prepared = prepare().await;
            polled(work(prepared), usize::MAX, Moment::Pending, enough()).await;
            let prepared = prepare().await;
            let end = polled(work(prepared), polls, moment, enough()).await;
            check(&format!("{what}, dropped after {polls} polls ({moment:?})")).await;
            let output = match end {
                End::Completed(output) => Some(output),
                End::Enough => None,
                End::Dropped => {
                    ends_in_a_row = 0;
                    continue;
                }
            };
            ends_in_a_row += 1;
            if ends_in_a_row == ENDS_IN_A_ROW {
                return (polls, output);
            }
        }
    }
    panic!("{what}: not complete after {MOST_POLLS} polls");
}

/// Checks for the leftovers of dropped futures.
pub struct Observer {
    database: PgPool,
    lifecycle: Lifecycle,
    warnings: Warnings,
    _recording: DefaultGuard,
}

impl Observer {
    /// Of a service's pools and database. From now on it records PostgreSQL's warnings, as long as it lives.
    pub async fn new(database_url: &str, lifecycle: &Lifecycle) -> Self {
        let warnings = Warnings::default();
        let database = PgPoolOptions::new().max_connections(1);
        Self {
            database: database
                .connect(database_url)
                .await
                .expect("the database answers"),
            lifecycle: lifecycle.clone(),
            _recording: tracing::subscriber::set_default(warnings.clone()),
            warnings,
        }
    }

    /// Waits until there are no leftovers.
    ///
    /// # Panics
    /// When there still are some after [`PATIENCE`].
    pub async fn clean(&self, when: &str) {
        // First: a connection returns to its pool when the server has answered everything sent on it.
        soon(
            || format!("{when}: a connection is still in use"),
            async || connections_in_use(&self.lifecycle.metrics().encode()) == 0,
        )
        .await;
        soon(
            || format!("{when}: a session is in a transaction"),
            async || {
                let open: i64 = sqlx::query_scalar(
                    "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND pid <> pg_backend_pid()
                       AND backend_type = 'client backend' AND xact_start IS NOT NULL",
                )
                .fetch_one(&self.database)
                .await
                .expect("the sessions can be listed");
                open == 0
            },
        )
        .await;
        let warnings = self.warnings.take();
        assert!(warnings.is_empty(), "{when}: PostgreSQL warns {warnings:?}");
    }

    /// A number from the service's database.
    pub async fn count(&self, sql: &'static str) -> i64 {
        let number = sqlx::query_scalar(sql).fetch_one(&self.database).await;
        number.expect("a number")
    }

    /// The service's database.
    pub fn database(&self) -> &PgPool {
        &self.database
    }
}

/// Polls until the condition holds, more often than [`eventually`](crate::eventually); panics with `what` after
/// [`PATIENCE`].
pub async fn soon(what: impl Fn() -> String, condition: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "{}", what());
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn connections_in_use(metrics: &str) -> i64 {
    let used = metrics.lines().filter(|line| {
        line.starts_with("db_client_connection_count{")
            && line.contains(r#"db_client_connection_state="used""#)
    });
    let number = |line: &str| line.rsplit(' ').next()?.parse::<i64>().ok();
    used.map(|line| number(line).expect("a number at the end of the line"))
        .sum()
}

/// A service composed as in production that doesn't listen: its requests are futures of the test.
pub struct Composed {
    router: Router,
    lifecycle: Lifecycle,
    observer: Observer,
}

impl Composed {
    /// Composes a service with these variables, one of which is `DATABASE_URL`.
    pub async fn new<C>(
        name: &'static str,
        variables: &[(&str, &str)],
        read: impl FnOnce(&Env) -> Result<C, ConfigError>,
        compose: impl AsyncFnOnce(C, &Lifecycle) -> anyhow::Result<App>,
    ) -> Self {
        let config = read(&Env::from_pairs(variables.iter().copied())).expect("accepted");
        let database = variables.iter().find(|(name, _)| *name == "DATABASE_URL");
        let (_, database_url) = database.expect("DATABASE_URL is given");
        let lifecycle = Lifecycle::new(name);
        let app = compose(config, &lifecycle)
            .await
            .expect("the service can be composed");
        Self {
            router: app.router(),
            observer: Observer::new(database_url, &lifecycle).await,
            lifecycle,
        }
    }

    /// The answer to a request that is not dropped.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let Ok(response) = self.router.clone().call(request).await;
        response
    }

    /// Drops the request at each of its awaits, and checks each time that it leaves nothing behind; returns the status of
    /// its answer. `request` makes one for each run.
    pub async fn drop_at_each_await(
        &self,
        what: &str,
        request: impl AsyncFnMut() -> Request<Body>,
    ) -> u16 {
        let (polls, answer) = drop_at_each_await(
            what,
            request,
            async |request| self.answer(request).await,
            std::future::pending::<()>,
            async |when: &str| self.observer.clean(when).await,
        )
        .await;
        let status = answer.expect("a request has an end").status().as_u16();
        eprintln!("{what}: {status} after {polls} polls");
        status
    }

    /// The observer of the service.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Stops the service's background tasks.
    pub async fn stop(self) {
        assert!(self.lifecycle.stop(PATIENCE).await, "stopped in time");
    }
}

/// A request as the gateway forwards it for this user; `body` is sent as JSON unless it is null.
pub fn request_of(user: Uuid, method: &str, path: &str, body: &serde_json::Value) -> Request<Body> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("X-User-Id", user.to_string())
        .header("X-User-Email", format!("{user}@agora.example"));
    let request = if body.is_null() {
        request.body(Body::empty())
    } else {
        let request = request.header("Content-Type", "application/json");
        request.body(Body::from(body.to_string()))
    };
    request.expect("a request")
}

/// PostgreSQL's warnings, as sqlx logs them in this thread.
#[derive(Debug, Clone, Default)]
struct Warnings {
    recorded: Arc<Mutex<Vec<String>>>,
    spans: Arc<AtomicUsize>,
}

impl Warnings {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.recorded.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::postgres::notice" && *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed) as u64 + 1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
                self.0 = format!("{value:?}");
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.push(message.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
