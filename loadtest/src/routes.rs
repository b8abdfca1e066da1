//! The measurements per route, group of users and second, in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use records::load::{LATE_MS, RouteSecond};
use records::scenario::Scenario;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::gateway::Route;
use crate::pairs;
use crate::timeline::{percentile_ms, sorted};

/// The group of users, where the scenario distinguishes groups.
pub(crate) type Group = Option<&'static str>;

/// Every second with a request on a route.
#[derive(Debug, Default)]
pub(crate) struct Routes(BTreeMap<(Route, Group), BTreeMap<u32, Second>>);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Second {
    #[serde(with = "pairs")]
    answers: BTreeMap<Option<u16>, u64>,
    succeeded_us: Vec<u32>,
    failed_us: Vec<u32>,
    stale: u64,
}

impl Routes {
    /// Counts a request scheduled at `offset` from the beginning whose answer, or its absence, came after `latency`.
    pub(crate) fn count(
        &mut self,
        (route, group): (Route, Group),
        offset: Duration,
        (status, latency): (Option<u16>, Duration),
        failed: bool,
    ) {
        let second = self.second((route, group), offset);
        *second.answers.entry(status).or_default() += 1;
        let latencies_us = if failed {
            &mut second.failed_us
        } else {
            &mut second.succeeded_us
        };
        latencies_us.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    /// Counts one of those requests as answered from stale data.
    pub(crate) fn count_stale(&mut self, whose: (Route, Group), offset: Duration) {
        self.second(whose, offset).stale += 1;
    }

    fn second(&mut self, whose: (Route, Group), offset: Duration) -> &mut Second {
        // A run ends after a day.
        let number = offset.as_secs() as u32;
        self.0.entry(whose).or_default().entry(number).or_default()
    }

    /// Adds another worker's measurements: both count from the same beginning.
    pub(crate) fn add(&mut self, other: Self) {
        for (whose, seconds) in other.0 {
            let mine = self.0.entry(whose).or_default();
            for (number, second) in seconds {
                mine.entry(number).or_default().add(second);
            }
        }
    }

    /// The record's form.
    pub(crate) fn seconds(&self) -> impl Iterator<Item = RouteSecond> {
        self.0.iter().flat_map(|(&(route, group), seconds)| {
            seconds
                .iter()
                .map(move |(&number, second)| second.record(route, group, number))
        })
    }
}

impl Serialize for Routes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

impl<'de> Deserialize<'de> for Routes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        type Series = ((Route, Option<String>), BTreeMap<u32, Second>);
        let series = Vec::<Series>::deserialize(deserializer)?.into_iter();
        let known = |((route, group), seconds): Series| {
            let group = group.map(|name| known_group(&name)).transpose()?;
            Ok(((route, group), seconds))
        };
        let all: Result<_, String> = series.map(known).collect();
        all.map(Self).map_err(D::Error::custom)
    }
}

fn known_group(name: &str) -> Result<&'static str, String> {
    let mut groups = Scenario::ALL.iter().filter_map(|it| it.groups()).flatten();
    groups
        .find(|group| *group == name)
        .ok_or_else(|| format!("there is no group {name}"))
}

impl Second {
    fn add(&mut self, other: Self) {
        for (status, count) in other.answers {
            *self.answers.entry(status).or_default() += count;
        }
        self.succeeded_us.extend(other.succeeded_us);
        self.failed_us.extend(other.failed_us);
        self.stale += other.stale;
    }

    fn record(&self, route: Route, group: Group, number: u32) -> RouteSecond {
        let succeeded_us = sorted(self.succeeded_us.iter().copied());
        let all_us = sorted(succeeded_us.iter().chain(&self.failed_us).copied());
        let name =
            |status: Option<u16>| status.map_or_else(|| "none".to_owned(), |s| s.to_string());
        let answers = self.answers.iter();
        RouteSecond {
            second: number,
            method: route.method.as_str().to_owned(),
            route: route.template.to_owned(),
            group: group.map(str::to_owned),
            answers: answers
                .map(|(&status, &count)| (name(status), count))
                .collect(),
            succeeded: succeeded_us.len() as u64,
            stale: self.stale,
            late: Some(all_us.iter().filter(|us| **us > LATE_MS * 1_000).count() as u64),
            p50_ms: percentile_ms(&all_us, 0.50),
            p99_ms: percentile_ms(&all_us, 0.99),
            max_ms: percentile_ms(&all_us, 1.0),
            succeeded_p99_ms: percentile_ms(&succeeded_us, 0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_a_route_and_a_group_has_its_own_answers_and_latencies() {
        let ms = Duration::from_millis;
        let mut routes = Routes::default();
        for (group, offset, status, latency, failed) in [
            (Some("greedy"), 100, Some(200), 5, false),
            (Some("greedy"), 900, Some(429), 1, true),
            (Some("greedy"), 1100, None, 3_001, true),
            (Some("others"), 100, Some(200), 7, false),
        ] {
            let whose = (Route::READ_ME, group);
            routes.count(whose, ms(offset), (status, ms(latency)), failed);
        }
        routes.count_stale((Route::READ_ME, Some("others")), ms(100));
        let seconds: Vec<_> = routes.seconds().collect();
        let shown: Vec<_> = seconds
            .iter()
            .map(|s| (s.group.as_deref(), s.second, s.sent(), s.succeeded))
            .collect();
        assert_eq!(
            shown,
            [
                (Some("greedy"), 0, 2, 1),
                (Some("greedy"), 1, 1, 0),
                (Some("others"), 0, 1, 1)
            ]
        );
        assert_eq!(
            seconds[0].answers,
            BTreeMap::from([("200".to_owned(), 1), ("429".to_owned(), 1)])
        );
        assert_eq!(seconds[0].succeeded_p99_ms, Some(5.0));
        assert_eq!(
            (seconds[0].p50_ms, seconds[0].max_ms),
            (Some(1.0), Some(5.0))
        );
        assert_eq!(seconds[1].answers["none"], 1);
        assert_eq!((seconds[0].stale, seconds[2].stale), (0, 1));
        let late = seconds.iter().map(|second| second.late.unwrap());
        assert_eq!(late.collect::<Vec<_>>(), [0, 1, 0]);
        assert_eq!(seconds[1].succeeded_p99_ms, None);
    }
}
