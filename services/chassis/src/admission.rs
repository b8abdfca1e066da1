//! Admission: no more requests are worked on at once than a service can do well, and what is too much is told so early.
//!
//! A service's routes stand in lanes. A lane has so many places, and eight times as many may wait for one, for a moment;
//! whoever finds no room there, or whose moment is over, gets a 503 with `Retry-After` before anything was done for it. Lanes
//! don't share places: a full one takes nothing from the others. Off, whatever comes is worked on, and all of it gets slower.
//!
//! Places are given in the order of coming. tower's `ConcurrencyLimit` waits without a bound, and its `LoadShed` not at all.
//! Left out: places that follow what is measured (as in adaptive limits), priorities, and fairness between clients, which the
//! gateway's rate limit is for.

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

/// How many requests may wait for each place.
const WAITING_PER_PLACE: usize = 8;

/// Routes that share their places.
pub struct Lane {
    name: &'static str,
    routes: OpenApiRouter,
}

/// The places of a lane, and those who wait for one.
#[derive(Clone)]
struct Places {
    free: Arc<Semaphore>,
    /// Room to wait in.
    room: Arc<Semaphore>,
    max_wait: Duration,
    sheds: ShedMetrics,
}

/// Why a request was refused; as it stands in the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shed {
    /// All places are taken, and as many wait as may.
    Full,
    /// No place became free in time.
    Waited,
}

impl Lane {
    /// These routes; `name` is what they are called in the metric of what was refused.
    pub fn new(name: &'static str, routes: OpenApiRouter) -> Self {
        Self { name, routes }
    }

    /// The routes, as the switch says: with places, or without.
    pub(crate) fn routes(self, config: &HttpConfig, metrics: &Metrics) -> OpenApiRouter {
        if !config.load_shedding.is_on() {
            return self.routes;
        }
        let places = Places::new(
            config.max_in_flight,
            config.max_wait,
            metrics.sheds(self.name),
        );
        self.routes.route_layer(from_fn_with_state(places, admit))
    }
}

async fn admit(State(places): State<Places>, request: Request, next: Next) -> Response {
    match places.take().await {
        Ok(_place) => next.run(request).await,
        Err(shed) => {
            match shed {
                Shed::Full => places.sheds.full.inc(),
                Shed::Waited => places.sheds.waited.inc(),
            };
            Problem::overloaded("more is asked for than can be done: try again in a moment")
                .into_response()
        }
    }
}

impl Places {
    fn new(count: usize, max_wait: Duration, sheds: ShedMetrics) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count)),
            room: Arc::new(Semaphore::new(count * WAITING_PER_PLACE)),
            max_wait,
            sheds,
        }
    }

    async fn take(&self) -> Result<SemaphorePermit<'_>, Shed> {
        // Never past those who wait: to them a place goes as it becomes free.
        if let Ok(place) = self.free.try_acquire() {
            return Ok(place);
        }
        let Ok(_room) = self.room.try_acquire() else {
            return Err(Shed::Full);
        };
        // No longer than the request has: a place is not given to one whose client is gone.
        let wait = deadline::for_call(self.max_wait);
        match tokio::time::timeout(wait, self.free.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            // Nobody closes the semaphore.
            Ok(Err(_)) | Err(_) => Err(Shed::Waited),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(250);

    fn places(count: usize) -> Places {
        Places::new(count, WAIT, Metrics::new("test").sheds("lane"))
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_finds_no_place_waits_for_a_moment_and_no_longer() {
        let places = places(1);
        let held = places.take().await.unwrap();
        let asked = tokio::time::Instant::now();
        assert_eq!(places.take().await.err(), Some(Shed::Waited));
        assert_eq!(asked.elapsed(), WAIT);

        let (waiting, ()) = tokio::join!(places.take(), async {
            tokio::time::sleep(WAIT / 2).await;
            drop(held);
        });
        assert!(waiting.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn where_enough_wait_the_next_one_is_refused_at_once() {
        let places = places(1);
        let held = places.take().await.unwrap();
        let waiting: Vec<_> = (0..WAITING_PER_PLACE)
            .map(|_| {
                let places = places.clone();
                tokio::spawn(async move { places.take().await.map(drop) })
            })
            .collect();
        tokio::time::sleep(WAIT / 2).await;
        let asked = tokio::time::Instant::now();
        assert_eq!(places.take().await.err(), Some(Shed::Full));
        assert_eq!(asked.elapsed(), Duration::ZERO);
        drop(held);
        // Those who waited have their turn, one after the other, and then there is room again.
        for waited in waiting {
            assert_eq!(waited.await.unwrap(), Ok(()));
        }
        assert!(places.take().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_request_may() {
        let places = places(1);
        let _held = places.take().await.unwrap();
        let asked = tokio::time::Instant::now();
        let own = deadline::ANSWER_RESERVE + Duration::from_millis(30);
        let refused = deadline::within(own, places.take()).await.unwrap();
        assert_eq!(refused.err(), Some(Shed::Waited));
        assert_eq!(asked.elapsed(), Duration::from_millis(30));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_away_frees_the_place_and_the_room() {
        let places = places(1);
        let held = places.take().await.unwrap();
        for _ in 0..3 * WAITING_PER_PLACE {
            let gone = tokio::time::timeout(WAIT / 10, places.take()).await;
            assert!(gone.is_err());
        }
        drop(held);
        assert!(places.take().await.is_ok());
    }
}
