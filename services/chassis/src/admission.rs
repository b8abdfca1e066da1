//! Load shedding: each group of routes has a concurrency limit, and requests beyond it are rejected early.
//!
//! A group has a number of slots. Eight requests may wait for each slot, for a bounded time; a request that finds too many
//! waiting, or whose wait is over, gets a 503 with `Retry-After` before any work was done for it. Groups share no slots: the
//! limits are independent. With the pattern off every request is worked on, and all of them get slower.
//!
//! Slots are given in the order of arrival. tower's `ConcurrencyLimit` waits without a bound, and its `LoadShed` not at all.
//! Left out: limits that adapt to measurements, priorities, and fairness between clients, which the gateway's rate limit
//! provides.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio::sync::{Semaphore, SemaphorePermit};
use utoipa_axum::router::OpenApiRouter;

use crate::config::HttpConfig;
use crate::deadline;
use crate::metrics::{Metrics, ShedMetrics};
use crate::problem::Problem;

/// How many requests may wait for each slot.
const WAITING_PER_SLOT: usize = 8;

/// Routes that share a concurrency limit.
pub struct RouteGroup {
    name: &'static str,
    routes: OpenApiRouter,
}

/// The slots of a group, and the room to wait for one.
#[derive(Clone)]
struct ConcurrencyLimit {
    free: Arc<Semaphore>,
    /// Room to wait in.
    room: Arc<Semaphore>,
    max_wait: Duration,
    sheds: ShedMetrics,
}

/// Why a request was rejected, as in the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shed {
    /// All slots are taken, and as many requests wait as may.
    Full,
    /// No slot became free in time.
    Waited,
}

impl RouteGroup {
    /// Groups these routes; `name` is their label in the metric of rejected requests.
    pub fn new(name: &'static str, routes: OpenApiRouter) -> Self {
        Self { name, routes }
    }

    /// The routes, with the limit or, if the pattern is off, without.
    pub(crate) fn routes(self, config: &HttpConfig, metrics: &Metrics) -> OpenApiRouter {
        if !config.load_shedding.is_on() {
            return self.routes;
        }
        let limit = ConcurrencyLimit::new(
            config.max_in_flight,
            config.max_wait,
            metrics.sheds(self.name),
        );
        self.routes.route_layer(from_fn_with_state(limit, admit))
    }
}

async fn admit(State(limit): State<ConcurrencyLimit>, request: Request, next: Next) -> Response {
    match limit.acquire().await {
        Ok(_slot) => next.run(request).await,
        Err(shed) => {
            match shed {
                Shed::Full => limit.sheds.full.inc(),
                Shed::Waited => limit.sheds.waited.inc(),
            };
            Problem::overloaded("more is asked for than can be done: try again in a moment")
                .into_response()
        }
    }
}

impl ConcurrencyLimit {
    fn new(count: usize, max_wait: Duration, sheds: ShedMetrics) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count)),
            room: Arc::new(Semaphore::new(count * WAITING_PER_SLOT)),
            max_wait,
            sheds,
        }
    }

    async fn acquire(&self) -> Result<SemaphorePermit<'_>, Shed> {
        // It never overtakes those that wait: a slot that becomes free goes to them.
        if let Ok(slot) = self.free.try_acquire() {
            return Ok(slot);
        }
        let Ok(_room) = self.room.try_acquire() else {
            return Err(Shed::Full);
        };
        // No longer than the request's deadline: a request whose client is gone gets no slot.
        let wait = deadline::for_call(self.max_wait);
        match tokio::time::timeout(wait, self.free.acquire()).await {
            Ok(Ok(slot)) => Ok(slot),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(Shed::Waited),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(250);

    fn limit(slots: usize) -> ConcurrencyLimit {
        ConcurrencyLimit::new(slots, WAIT, Metrics::new("test").sheds("group"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_a_slot_waits_for_a_bounded_time() {
        let limit = limit(1);
        let held = limit.acquire().await.unwrap();
        let asked = tokio::time::Instant::now();
        assert_eq!(limit.acquire().await.err(), Some(Shed::Waited));
        assert_eq!(asked.elapsed(), WAIT);

        let (waiting, ()) = tokio::join!(limit.acquire(), async {
            tokio::time::sleep(WAIT / 2).await;
            drop(held);
        });
        assert!(waiting.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn when_enough_requests_wait_the_next_one_is_rejected_at_once() {
        let limit = limit(1);
        let held = limit.acquire().await.unwrap();
        let waiting: Vec<_> = (0..WAITING_PER_SLOT)
            .map(|_| {
                let limit = limit.clone();
                tokio::spawn(async move { limit.acquire().await.map(drop) })
            })
            .collect();
        tokio::time::sleep(WAIT / 2).await;
        let asked = tokio::time::Instant::now();
        assert_eq!(limit.acquire().await.err(), Some(Shed::Full));
        assert_eq!(asked.elapsed(), Duration::ZERO);
        drop(held);
        // Those that waited get the slot one after the other; then there is room again.
        for waited in waiting {
            assert_eq!(waited.await.unwrap(), Ok(()));
        }
        assert!(limit.acquire().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn no_request_waits_beyond_its_deadline() {
        let limit = limit(1);
        let _held = limit.acquire().await.unwrap();
        let asked = tokio::time::Instant::now();
        let own = deadline::ANSWER_RESERVE + Duration::from_millis(30);
        let refused = deadline::within(own, limit.acquire()).await.unwrap();
        assert_eq!(refused.err(), Some(Shed::Waited));
        assert_eq!(asked.elapsed(), Duration::from_millis(30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_dropped_frees_its_slot_and_its_room() {
        let limit = limit(1);
        let held = limit.acquire().await.unwrap();
        for _ in 0..3 * WAITING_PER_SLOT {
            let gone = tokio::time::timeout(WAIT / 10, limit.acquire()).await;
            assert!(gone.is_err());
        }
        drop(held);
        assert!(limit.acquire().await.is_ok());
    }
}
