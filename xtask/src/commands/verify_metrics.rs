//! `verify-metrics`: holds Prometheus's figures against what the load generator counted.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{
    engine,
    load_runs::{RunFolder, Window},
    metrics_check::{self, Finding, GATEWAY_JOB, GatewayKey, Observed, Row, ServiceKey},
    outcome::{self, Exit},
    output::{Format, FormatOption, print_json, table},
    project::{ALERT_RECEIVER, CONTAINERS, Project},
    prometheus::{Prometheus, Sample},
};

/// Have no metrics endpoint of their own: the only containers without a scrape job.
const NOT_SCRAPED: [&str; 2] = ["postgres", ALERT_RECEIVER];

const SERVICE_COUNTER: &str = "http_server_request_duration_seconds_count";
const GATEWAY_COUNTER: &str = "traefik_router_requests_total";

/// Three scrape intervals: at both ends of a window every target was scraped within this time.
const FRESH_SECONDS: u32 = 15;

/// What `verify-metrics` can be told.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// The run to verify [default: the last one]
    #[arg(long, value_name = "RUN_ID")]
    run: Option<String>,
    #[command(flatten)]
    pub(crate) format: FormatOption,
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    run_id: String,
    window: Window,
    /// Requests of the run that got no answer.
    unanswered: u64,
    /// Scrape jobs that are not up, or that Prometheus doesn't know.
    targets_down: Vec<String>,
    rows: Vec<Row>,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options) -> anyhow::Result<Exit> {
    let containers = engine::running_system(project)?;
    let prometheus = Prometheus::new(&containers)?;
    let run = RunFolder::find(project, options.run.as_deref())?;
    let summary = run.summary()?;
    let window = run.window()?;
    if window.project != project.name {
        return Err(outcome::usage(
            format!(
                "the run {} was made on the system `{}`, not on `{}`",
                run.id, window.project, project.name
            ),
            "name a run of this system with `--run`, or make one with `cargo xtask load`",
        ));
    }
    let rows = metrics_check::compare(&summary.requests, &observe(&prometheus, &window)?);
    let targets_down = targets_down(&prometheus.query("up", prometheus.now()?)?);
    let targets = if targets_down.is_empty() {
        Exit::Holds
    } else {
        Exit::Failed
    };
    let unanswered = summary
        .requests
        .iter()
        .filter(|request| request.status.is_none())
        .map(|request| request.count);
    let report = Report {
        outcome: Exit::worst(rows.iter().map(|row| row.finding.exit()).chain([targets])),
        run_id: run.id,
        unanswered: unanswered.sum(),
        window,
        targets_down,
        rows,
    };
    match options.format.format {
        Format::Json => print_json(&report)?,
        Format::Text => print_text(&report),
    }
    Ok(report.outcome)
}

fn observe(prometheus: &Prometheus, window: &Window) -> anyhow::Result<Observed> {
    let mut observed = Observed {
        restarted: restarted(prometheus, window)?,
        ..Observed::default()
    };
    let services = format!(
        "sum by (job, http_request_method, http_route, http_response_status_code) ({})",
        fresh(SERVICE_COUNTER)
    );
    for (labels, gain) in gains(prometheus, &services, window)? {
        let Some(gain) = gain else {
            observed.restarted.insert(labels.label("job").to_owned());
            continue;
        };
        let key = ServiceKey {
            job: labels.label("job").to_owned(),
            method: labels.label("http_request_method").to_owned(),
            route: labels.label("http_route").to_owned(),
            status: labels
                .label("http_response_status_code")
                .parse()
                .unwrap_or_default(),
        };
        observed.services.insert(key, gain);
    }
    for (labels, gain) in gains(
        prometheus,
        &format!("sum by (router, method, code) ({})", fresh(GATEWAY_COUNTER)),
        window,
    )? {
        let Some(gain) = gain else {
            observed.restarted.insert(GATEWAY_JOB.to_owned());
            continue;
        };
        let key = GatewayKey {
            router: labels.label("router").to_owned(),
            method: labels.label("method").to_owned(),
            status: labels.label("code").parse().unwrap_or_default(),
        };
        observed.gateway.insert(key, gain);
    }
    Ok(observed)
}

/// A counter's series, without the ghosts: a Prometheus that restarted shows the last values of series that
/// are gone for five minutes more, and they would pass for the counts before a run.
fn fresh(counter: &str) -> String {
    format!("{counter} and time() - timestamp({counter}) < {FRESH_SECONDS}")
}

/// What each series gained in the window; `None` for one that fell. Series that gained nothing are left out.
fn gains(
    prometheus: &Prometheus,
    query: &str,
    window: &Window,
) -> anyhow::Result<Vec<(Sample, Option<u64>)>> {
    let before: BTreeMap<_, _> = prometheus
        .query(query, window.from)?
        .into_iter()
        .map(|sample| (sample.labels, sample.value))
        .collect();
    let after = prometheus.query(query, window.to)?.into_iter();
    let gains = after.map(|sample| {
        // A series that wasn't there yet stood at nought.
        let gain = sample.value - before.get(&sample.labels).copied().unwrap_or_default();
        let gain = (gain >= 0.0).then_some(gain.round() as u64);
        (sample, gain)
    });
    Ok(gains.filter(|(_, gain)| *gain != Some(0)).collect())
}

/// Jobs that another process answers for at the window's end than at its beginning. Asked at both moments, not
/// over the window: the last scrape before a window lies outside of it.
fn restarted(prometheus: &Prometheus, window: &Window) -> anyhow::Result<BTreeSet<String>> {
    const STARTED: &str = "max by (job) (process_start_time_seconds)";
    let before: BTreeMap<_, _> = prometheus
        .query(STARTED, window.from)?
        .into_iter()
        .map(|sample| (sample.label("job").to_owned(), sample.value))
        .collect();
    let after = prometheus.query(STARTED, window.to)?;
    let restarted = after.iter().filter(|sample| {
        let started = before.get(sample.label("job"));
        started.is_some_and(|started| *started != sample.value)
    });
    Ok(restarted
        .map(|sample| sample.label("job").to_owned())
        .collect())
}

/// Expected jobs without a target that is up, and targets that are down.
fn targets_down(up: &[Sample]) -> Vec<String> {
    let expected = CONTAINERS
        .into_iter()
        .filter(|job| !NOT_SCRAPED.contains(job));
    let unknown = expected
        .filter(|job| up.iter().all(|sample| sample.label("job") != *job))
        .map(str::to_owned);
    let down = up
        .iter()
        .filter(|sample| sample.value != 1.0)
        .map(|sample| sample.label("job").to_owned());
    unknown.chain(down).collect()
}

fn print_text(report: &Report) {
    let mut rows = table(["counter", "requests", "sent", "counted", ""]);
    for row in &report.rows {
        let finding = match &row.finding {
            Finding::Equal => "equal".to_owned(),
            Finding::Explained(why) => format!("explained: {why}"),
            Finding::Unsettled(why) => format!("unsettled: {why}"),
            Finding::Differs(why) => format!("DIFFERS: {why}"),
        };
        rows.add_row([
            row.counter.clone(),
            row.requests.clone(),
            row.sent.to_string(),
            row.counted.to_string(),
            finding,
        ]);
    }
    println!("{rows}");
    if report.unanswered > 0 {
        println!("{} requests of the run got no answer.", report.unanswered);
    }
    match report.targets_down.as_slice() {
        [] => println!("Every target of Prometheus is up."),
        down => println!("Targets that are not up: {}", down.join(", ")),
    }
    let verdict = match report.outcome {
        Exit::Holds => "Prometheus and the load generator agree",
        Exit::Inconclusive => {
            "nothing can be said: make another run while nobody else uses the system"
        }
        _ if report
            .rows
            .iter()
            .all(|row| row.finding.exit() == Exit::Holds) =>
        {
            "the counts agree, but not every target is up"
        }
        _ => "Prometheus and the load generator do not agree",
    };
    println!(
        "{}: run {}: {verdict}",
        report.outcome.word(),
        report.run_id
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(job: &str, value: f64) -> Sample {
        Sample {
            labels: [("job".to_owned(), job.to_owned())].into(),
            value,
        }
    }

    fn all_up() -> Vec<Sample> {
        CONTAINERS
            .into_iter()
            .filter(|job| !NOT_SCRAPED.contains(job))
            .map(|job| up(job, 1.0))
            .collect()
    }

    #[test]
    fn a_target_that_is_down_or_unknown_is_named() {
        assert!(targets_down(&all_up()).is_empty());
        let mut some = all_up();
        some.retain(|sample| sample.label("job") != "rabbitmq");
        some[0].value = 0.0;
        assert_eq!(targets_down(&some), ["rabbitmq", "traefik"]);
    }
}
