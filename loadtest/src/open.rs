//! The open model: actions arrive at a constant rate, whether the system keeps up or not.
//!
//! An arrival's latency counts from its scheduled time, so that neither a stall of the system nor one of the generator is
//! hidden ("coordinated omission"). The timer's resolution of a millisecond is part of the latencies. An arrival beyond the
//! concurrency limit is never sent later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::actions::{Pace, Visitor};
use crate::gateway::{Answer, Route};
use crate::mix::{Action, Mix};
use crate::recorder::Recorder;
use crate::share::Share;
use records::scenario::Scenario;

/// The schedule of arrivals and their concurrency limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrivals {
    pub(crate) scenario: Scenario,
    pub(crate) seed: u64,
    pub(crate) per_second: usize,
    pub(crate) run_time: Duration,
    pub(crate) max_in_flight: usize,
    /// Which of the arrivals are this process's, and how many of them may be in flight.
    pub(crate) share: Share,
}

impl Arrivals {
    /// An arrival's action: from a mix of its own, independent of other arrivals and of whether they were sent.
    fn action(&self, index: usize) -> Action {
        Mix::new(self.scenario, self.seed, index).next_action()
    }

    /// The user of an arrival, among this process's: in turn, or four of five times the first one.
    fn user(&self, index: usize, users: usize) -> usize {
        let index = self.share.place(index);
        match self.scenario.groups() {
            None => index % users,
            Some(_) if !index.is_multiple_of(5) => 0,
            Some(_) => 1 + index / 5 % (users - 1),
        }
    }

    /// This process's arrivals: their numbers, and their scheduled times from the beginning. Not a sum of rounded intervals:
    /// an hour ends exactly after an hour.
    fn schedule(&self) -> impl Iterator<Item = (usize, Duration)> + use<> {
        let per_second = self.per_second;
        let count = per_second * self.run_time.as_secs() as usize;
        self.share.numbers(count).map(move |index| {
            let (seconds, rest) = (index / per_second, index % per_second);
            let rest = Duration::from_secs(rest as u64) / per_second as u32;
            (index, Duration::from_secs(seconds as u64) + rest)
        })
    }
}

/// Lets actions arrive for the run time, for one visitor after the other. Returns when the last has its answer.
pub(crate) async fn run(
    arrivals: &Arrivals,
    visitors: Vec<Visitor>,
    recorder: &Recorder,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let visitors: Vec<_> = visitors.into_iter().map(Arc::new).collect();
    let mut in_flight = JoinSet::new();
    let beginning = recorder.beginning().instant;
    let max_in_flight = arrivals.share.of_limit(arrivals.max_in_flight);
    for (index, offset) in arrivals.schedule() {
        let intended = beginning + offset;
        if intended > Instant::now() {
            tokio::select! {
                () = tokio::time::sleep_until(intended.into()) => {}
                () = stop.cancelled() => {}
            }
        }
        if stop.is_cancelled() {
            break;
        }
        while let Some(ended) = in_flight.try_join_next() {
            ended.context("an action failed")?;
        }
        if in_flight.len() >= max_in_flight {
            recorder.count_not_sent(intended);
            continue;
        }
        let action = arrivals.action(index);
        let visitor = Arc::clone(&visitors[arrivals.user(index, visitors.len())]);
        let mut pace = Arrival {
            due: Some(intended),
            stop: stop.clone(),
        };
        in_flight.spawn(async move {
            // Its requests are counted, so there is nothing to report about the action.
            let _ = visitor.act(action, &mut pace).await;
        });
    }
    // Each request has its timeout, and an action at most three requests; after a stop, only the current one.
    while let Some(ended) = in_flight.join_next().await {
        ended.context("an action failed")?;
    }
    Ok(())
}

/// The pace of one action: its first request was scheduled for its arrival, the others follow immediately.
struct Arrival {
    due: Option<Instant>,
    stop: CancellationToken,
}

/// The run is stopping: an action sends none of its later requests.
struct Stopped;

impl Pace for Arrival {
    type Over = Stopped;

    async fn ready(&mut self) -> Result<Instant, Stopped> {
        match self.due.take() {
            Some(due) => Ok(due),
            None if self.stop.is_cancelled() => Err(Stopped),
            None => Ok(Instant::now()),
        }
    }

    async fn answered<T: Sync>(&mut self, _: Route, _: &Answer<T>) -> Result<(), Stopped> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(per_second: usize, seconds: u64) -> Arrivals {
        Arrivals {
            scenario: Scenario::Order,
            seed: 1,
            per_second,
            run_time: Duration::from_secs(seconds),
            max_in_flight: 1,
            share: Share::WHOLE,
        }
    }

    fn offsets(arrivals: &Arrivals) -> Vec<Duration> {
        arrivals.schedule().map(|(_, offset)| offset).collect()
    }

    #[test]
    fn arrivals_are_evenly_spread_over_the_run_time() {
        let four = offsets(&arrivals(2, 2));
        let four: Vec<_> = four.iter().map(Duration::as_millis).collect();
        assert_eq!(four, [0, 500, 1000, 1500]);
    }

    #[test]
    fn workers_together_send_what_one_would() {
        let one = arrivals(7, 3);
        let mut all: Vec<_> = Share::all(3)
            .flat_map(|share| Arrivals { share, ..one }.schedule())
            .collect();
        all.sort_unstable();
        assert_eq!(all, one.schedule().collect::<Vec<_>>());
    }

    #[test]
    fn a_seed_reproduces_what_each_arrival_does() {
        let actions = |seed, per_second| {
            let arrivals = Arrivals {
                seed,
                ..arrivals(per_second, 1)
            };
            (0..200).map(|i| arrivals.action(i)).collect::<Vec<_>>()
        };
        assert_eq!(actions(7, 10), actions(7, 50), "at any rate");
        assert_ne!(actions(7, 10), actions(8, 10));
    }

    #[test]
    fn a_greedy_user_has_four_fifths_of_all_arrivals() {
        let greedy = Arrivals {
            scenario: Scenario::Greedy,
            ..arrivals(1, 1)
        };
        let users: Vec<_> = (0..16).map(|index| greedy.user(index, 4)).collect();
        assert_eq!(users, [1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 1]);
        let users: Vec<_> = (0..4).map(|index| arrivals(1, 1).user(index, 3)).collect();
        assert_eq!(users, [0, 1, 2, 0]);
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_does_not_drift() {
        let offsets = offsets(&arrivals(7, 3600));
        assert_eq!(offsets.len(), 7 * 3600);
        for (second, first) in offsets.iter().step_by(7).enumerate() {
            assert_eq!(*first, Duration::from_secs(second as u64));
        }
    }
}
