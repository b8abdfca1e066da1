//! A client of the project's Prometheus.
//!
//! Left out: whether what it shows is right (`checks`).

use std::{
    collections::{BTreeMap, BTreeSet},
    slice,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use base::{SCRAPE_INTERVAL, outcome};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    Part,
    http::{self, Client},
    members::{self, Member},
    wait,
};

/// How long a scrape of every target may take to come round.
const SCRAPED_WITHIN: Duration = Duration::from_secs(30);

/// While it is up, every target was scraped within this time.
const FRESH_SECONDS: u64 = 3 * SCRAPE_INTERVAL.as_secs();

/// Seconds since 1970 on Prometheus's own clock, which may differ from this machine's.
pub type Moment = f64;

/// A sample of an instant query's result.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The labels by name.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// A label's value; empty where there is none, as Prometheus sees it.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// How many series a query's result has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeriesCounts {
    /// All series.
    pub series: usize,
    /// Series with at least one number: a series of NaN alone draws no line.
    pub with_numbers: usize,
}

impl SeriesCounts {
    fn of(answer: &Answered) -> Self {
        let series: Vec<&[(f64, String)]> = match answer {
            Answered::Vector(series) => series.iter().map(|s| slice::from_ref(&s.value)).collect(),
            Answered::Matrix(series) => series.iter().map(|s| s.values.as_slice()).collect(),
            Answered::Scalar(value) => vec![slice::from_ref(value)],
            Answered::String(_) => Vec::new(),
        };
        let is_number =
            |(_, value): &(f64, String)| value.parse::<f64>().is_ok_and(|value| !value.is_nan());
        let has_numbers = |values: &&&[(f64, String)]| values.iter().any(is_number);
        Self {
            series: series.len(),
            with_numbers: series.iter().filter(has_numbers).count(),
        }
    }
}

/// The time that a query is evaluated for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Span {
    /// One moment.
    At(Moment),
    /// From one moment to another, in steps of this many seconds.
    Over(Moment, Moment, u64),
}

/// An alert whose condition holds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// All labels, `alertname` and `severity` among them.
    pub labels: BTreeMap<String, String>,
    /// The annotations, with their values filled in.
    pub annotations: BTreeMap<String, String>,
    /// Whether it fires or is pending.
    pub state: AlertState,
    /// Since when its condition holds.
    pub active_at: DateTime<Utc>,
}

/// The state of an alert whose condition holds; firing sorts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// Its condition has held for as long as the rule demands.
    Firing,
    /// Its condition holds, but not yet for as long as the rule demands.
    Pending,
}

impl AlertState {
    /// The state in one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Pending => "pending",
        }
    }
}

/// A query for a counter's series without stale ones: a Prometheus that restarted shows the last values of series that
/// are gone for five minutes more, which would pass for the counts before a run.
pub fn fresh(counter: &str) -> String {
    format!("{counter} and time() - timestamp({counter}) < {FRESH_SECONDS}")
}

/// A client of the project's Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    client: Client,
}

#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum Envelope<T> {
    Success { data: T },
    Error { error: String },
}

#[derive(Deserialize)]
struct Vector {
    result: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    metric: BTreeMap<String, String>,
    value: (f64, String),
}

/// Any answer to a query, as far as [`SeriesCounts`] asks: the values of each series.
#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "snake_case")]
enum Answered {
    Vector(Vec<VectorSeries>),
    Matrix(Vec<MatrixSeries>),
    Scalar((f64, String)),
    String(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct VectorSeries {
    value: (f64, String),
}

#[derive(Deserialize)]
struct MatrixSeries {
    values: Vec<(f64, String)>,
}

/// The jobs that started at another time after than before, or that are gone.
fn replaced(before: &[Sample], after: &[Sample]) -> BTreeSet<String> {
    let is_the_same = |sample: &&Sample| {
        let job = sample.label("job");
        after
            .iter()
            .any(|later| later.label("job") == job && later.value == sample.value)
    };
    let replaced = before.iter().filter(|sample| !is_the_same(sample));
    replaced
        .map(|sample| sample.label("job").to_owned())
        .collect()
}

#[derive(Deserialize)]
struct Alerts {
    alerts: Vec<Alert>,
}

#[derive(Deserialize)]
struct Scalar {
    result: (f64, String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Targets {
    active_targets: Vec<Target>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    labels: BTreeMap<String, String>,
    last_scrape: DateTime<Utc>,
}

impl Prometheus {
    /// The Prometheus among these containers.
    pub fn new(members: &[Member]) -> anyhow::Result<Self> {
        Ok(Self::at(&members::published_by(members, Part::Prometheus)?))
    }

    /// The Prometheus at `host:port`.
    pub fn at(address: &str) -> Self {
        Self {
            client: Client::new(address),
        }
    }

    /// The time by Prometheus's clock.
    pub fn now(&self) -> anyhow::Result<Moment> {
        let scalar: Scalar = self.ask("/api/v1/query", &[("query", "time()")])?;
        scalar
            .result
            .1
            .parse()
            .context("Prometheus's time is no number")
    }

    /// Evaluates an instant query.
    pub fn query(&self, query: &str, at: Moment) -> anyhow::Result<Vec<Sample>> {
        let vector: Vector = self.ask(
            "/api/v1/query",
            &[("query", query), ("time", &format!("{at:.3}"))],
        )?;
        let samples = vector.result.into_iter().map(|series| {
            let value = series
                .value
                .1
                .parse()
                .with_context(|| format!("no number: {}", series.value.1))?;
            Ok(Sample {
                labels: series.metric,
                value,
            })
        });
        samples.collect()
    }

    /// What each series of a query gained between two moments; `None` for one that fell. Series that gained nothing are
    /// left out.
    pub fn gains(
        &self,
        query: &str,
        from: Moment,
        to: Moment,
    ) -> anyhow::Result<Vec<(Sample, Option<u64>)>> {
        let before: BTreeMap<_, _> = self
            .query(query, from)?
            .into_iter()
            .map(|sample| (sample.labels, sample.value))
            .collect();
        let after = self.query(query, to)?.into_iter();
        let gains = after.map(|sample| {
            // A series that wasn't there yet stood at nought.
            let gain = sample.value - before.get(&sample.labels).copied().unwrap_or_default();
            let gain = (gain >= 0.0).then_some(gain.round() as u64);
            (sample, gain)
        });
        Ok(gains.filter(|(_, gain)| *gain != Some(0)).collect())
    }

    /// Jobs that another process answers for at the end of a time than at its beginning, or none. Asked at both
    /// moments, not over the time: the last scrape before it lies outside of it.
    pub fn restarted(&self, from: Moment, to: Moment) -> anyhow::Result<BTreeSet<String>> {
        const STARTED: &str = "max by (job) (process_start_time_seconds)";
        Ok(replaced(
            &self.query(STARTED, from)?,
            &self.query(STARTED, to)?,
        ))
    }

    /// How much a query that may be wrong would show; the inner error is what Prometheus has against it.
    pub fn count_series(
        &self,
        query: &str,
        span: Span,
    ) -> anyhow::Result<Result<SeriesCounts, String>> {
        let (path, times) = match span {
            Span::At(at) => ("/api/v1/query", vec![("time", format!("{at:.3}"))]),
            Span::Over(from, to, step) => (
                "/api/v1/query_range",
                vec![
                    ("start", format!("{from:.3}")),
                    ("end", format!("{to:.3}")),
                    ("step", step.to_string()),
                ],
            ),
        };
        let times = times.iter().map(|(name, value)| (*name, value.as_str()));
        let parameters: Vec<_> = [("query", query)].into_iter().chain(times).collect();
        Ok(match self.envelope(path, &parameters)? {
            Envelope::Error { error } => Err(error),
            Envelope::Success { data } => Ok(SeriesCounts::of(&data)),
        })
    }

    /// The values that a label of these series had between two moments; the inner error is what Prometheus has against
    /// the question.
    pub fn label_values(
        &self,
        series: &str,
        label: &str,
        from: Moment,
        to: Moment,
    ) -> anyhow::Result<Result<Vec<String>, String>> {
        let path = format!("/api/v1/label/{}/values", http::segment(label));
        let times = (format!("{from:.3}"), format!("{to:.3}"));
        let parameters = [("match[]", series), ("start", &times.0), ("end", &times.1)];
        Ok(match self.envelope(&path, &parameters)? {
            Envelope::Success { data } => Ok(data),
            Envelope::Error { error } => Err(error),
        })
    }

    /// The alerts whose conditions hold.
    pub fn alerts(&self) -> anyhow::Result<Vec<Alert>> {
        let alerts: Alerts = self.ask("/api/v1/alerts", &[])?;
        Ok(alerts.alerts)
    }

    /// Waits until every target was scraped after this call began; returns a moment that sees those scrapes.
    pub fn wait_for_fresh_scrapes(&self) -> anyhow::Result<Moment> {
        let began = self.now()?;
        let mut behind = String::new();
        let fresh = wait::until(SCRAPED_WITHIN, Duration::from_millis(250), || {
            let targets: Targets = self.ask("/api/v1/targets", &[("state", "active")])?;
            let late = targets
                .active_targets
                .iter()
                .find(|target| target.last_scrape.timestamp_millis() as f64 / 1_000.0 <= began);
            behind = match late {
                Some(target) => target.labels.get("job").cloned().unwrap_or_default(),
                None if targets.active_targets.is_empty() => "any target".to_owned(),
                None => return self.now().map(Some),
            };
            Ok(None)
        })?;
        fresh.ok_or_else(|| {
            outcome::unavailable(
                format!("Prometheus did not scrape {behind} within {} s", SCRAPED_WITHIN.as_secs()),
                "look at the targets page of Prometheus; `cargo xtask logs prometheus` shows its log",
            )
        })
    }

    fn ask<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> anyhow::Result<T> {
        match self.envelope(path, query)? {
            Envelope::Success { data } => Ok(data),
            Envelope::Error { error } => bail!(anyhow!("Prometheus refuses {query:?}: {error}")),
        }
    }

    fn envelope<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> anyhow::Result<Envelope<T>> {
        self.client.get(path, &[], query)?.json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(data: &str) -> SeriesCounts {
        let json = format!(r#"{{"status":"success","data":{data}}}"#);
        match serde_json::from_str(&json).unwrap() {
            Envelope::Success { data } => SeriesCounts::of(&data),
            Envelope::Error { error } => panic!("{error}"),
        }
    }

    #[test]
    fn a_job_that_started_anew_or_is_gone_did_not_simply_count_nothing() {
        let started = |jobs: &[(&str, f64)]| -> Vec<Sample> {
            let samples = jobs.iter().map(|(job, value)| Sample {
                labels: [("job".to_owned(), (*job).to_owned())].into(),
                value: *value,
            });
            samples.collect()
        };
        let before = started(&[("same", 1.0), ("anew", 1.0), ("gone", 1.0)]);
        let after = started(&[("same", 1.0), ("anew", 2.0), ("new", 2.0)]);
        assert_eq!(
            replaced(&before, &after),
            ["anew".to_owned(), "gone".to_owned()].into()
        );
    }

    #[test]
    fn a_series_of_nothing_but_nan_shows_nothing() {
        let vector = r#"{"resultType":"vector","result":[
            {"metric":{"job":"a"},"value":[1,"NaN"]},{"metric":{"job":"b"},"value":[1,"+Inf"]}]}"#;
        assert_eq!(
            values(vector),
            SeriesCounts {
                series: 2,
                with_numbers: 1
            }
        );
        let matrix = r#"{"resultType":"matrix","result":[
            {"metric":{},"values":[[1,"NaN"],[2,"NaN"]]},{"metric":{"a":"b"},"values":[[1,"NaN"],[2,"0"]]}]}"#;
        assert_eq!(
            values(matrix),
            SeriesCounts {
                series: 2,
                with_numbers: 1
            }
        );
        let empty = r#"{"resultType":"matrix","result":[]}"#;
        assert_eq!(values(empty), SeriesCounts::default());
    }
}
