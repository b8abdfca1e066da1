//! `verify-metrics`: compares Prometheus's counts of a load run with those of the load generator, and with the events
//! that must follow from its ledger.
//!
//! Left out: judging the counts (`checks::metrics_check`, `checks::events_check`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Context;
use base::{SCRAPE_INTERVAL, outcome::Exit};
use checks::{
    events_check::{self, ORDERS, Promises},
    metrics_check::{self, Cause, Finding, GATEWAY_JOB, GatewayKey, Observed, Row, ServiceKey},
};
use serde::Serialize;
use system::{
    Part,
    load_runs::{RunFolder, Window},
    members,
    project::Project,
    prometheus::{Moment, Prometheus, Sample, fresh},
    wait,
};

use crate::output::{Format, print_json, progress, table};

/// The services without a metrics endpoint, and so without a scrape job.
const NOT_SCRAPED: [Part; 2] = [Part::Postgres, Part::AlertReceiver];

const SERVICE_COUNTER: &str = "http_server_request_duration_seconds_count";
const GATEWAY_COUNTER: &str = "traefik_router_requests_total";

const PUBLISHED_COUNTER: &str = "messaging_client_sent_messages_total";
const PROCESSED_COUNTER: &str = "messaging_process_duration_seconds_count";
const RETRY_COUNTER: &str = "agora_retries_total";
const DEAD_COUNTER: &str = "agora_dead_letters_total";
const DUPLICATE_COUNTER: &str = "agora_inbox_duplicates_total";
const OVERTAKEN_COUNTER: &str = "agora_orders_overtaken_total";

/// The distance between two moments that are looked at: counters don't change more often.
const LOOK_SECONDS: f64 = SCRAPE_INTERVAL.as_secs() as f64;
/// Messages count as settled when no counter of them moved for so long, in seconds; what waits for longer than that in
/// a retry tier is seen in the queue.
const CALM_SECONDS: f64 = 10.0;
/// How long after a run messages may be under way, in seconds: the retry tiers, one after the other, and handling.
const SETTLED_WITHIN_SECONDS: f64 = 45.0;
/// How long it waits when the run has only just ended; moments in the past need no waiting.
const WAIT_LIMIT: Duration = Duration::from_secs(60);
const WAIT_INTERVAL: Duration = Duration::from_millis(100);

/// Options of `verify-metrics`.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// The run to verify [default: the last one]
    #[arg(long, value_name = "RUN_ID")]
    run: Option<String>,
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
pub(crate) fn run(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    let members = members::running(project)?;
    let prometheus = Prometheus::new(&members)?;
    let run = RunFolder::find(project, options.run.as_deref())?;
    let summary = run.summary()?;
    let window = run.window_on(project)?;
    let promises = Promises::of(&run.ledger()?, &run.cancellations()?);
    let mut rows = metrics_check::compare(&summary.requests, &observe(&prometheus, &window)?);
    let settled = progress().step("messages settled", |_| settled(&prometheus, &window))?;
    let events = observe_events(&prometheus, &window, settled)?;
    rows.extend(events_check::compare(&promises, &events));
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
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => print_text(&report),
    }
    Ok(report.outcome)
}

fn observe(prometheus: &Prometheus, window: &Window) -> anyhow::Result<Observed> {
    let mut observed = Observed {
        restarted: prometheus.restarted(window.from, window.to)?,
        ..Observed::default()
    };
    let services = format!(
        "sum by (job, http_request_method, http_route, http_response_status_code) ({})",
        fresh(SERVICE_COUNTER)
    );
    for (labels, gain) in prometheus.gains(&services, window.from, window.to)? {
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
    for (labels, gain) in prometheus.gains(
        &format!("sum by (router, method, code) ({})", fresh(GATEWAY_COUNTER)),
        window.from,
        window.to,
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

/// The first moment after the run at which none of its messages was under way any more.
#[derive(Debug, Clone, Copy)]
struct Settled {
    at: Moment,
    /// Whether there was one in time; else `at` is the last one that was looked at.
    at_rest: bool,
}

/// Looks at one moment after the other, from the end of the window, be they past or to come.
fn settled(prometheus: &Prometheus, window: &Window) -> anyhow::Result<Settled> {
    let mut at = window.to;
    let settled = wait::until(WAIT_LIMIT, WAIT_INTERVAL, || {
        if prometheus.now()? < at {
            return Ok(None);
        }
        let at_rest = is_at_rest(prometheus, at)?;
        if at_rest || at + LOOK_SECONDS > window.to + SETTLED_WITHIN_SECONDS {
            return Ok(Some(Settled { at, at_rest }));
        }
        at += LOOK_SECONDS;
        Ok(None)
    })?;
    settled.context("Prometheus's clock stands still")
}

/// Whether no message was under way at this moment: none waited, and no counter of them had changed for a while.
pub(crate) fn is_at_rest(prometheus: &Prometheus, at: Moment) -> anyhow::Result<bool> {
    let counters = [
        PUBLISHED_COUNTER,
        PROCESSED_COUNTER,
        RETRY_COUNTER,
        DEAD_COUNTER,
    ];
    let moved = format!("sum({{__name__=~\"{}\"}})", counters.join("|"));
    // The broker may have other virtual hosts, with streams of the same names.
    let waiting = "sum(rabbitmq_queue_messages{vhost=\"/\",queue=~\"(order|inventory)_events(\\\\.retry\\\\..*)?\"}) \
                   + sum(agora_outbox_backlog)";
    let value = |query: &str, at: Moment| -> anyhow::Result<Option<f64>> {
        let samples = prometheus.query(query, at)?;
        Ok(samples.first().map(|sample| sample.value))
    };
    Ok(value(waiting, at)? == Some(0.0) && value(&moved, at)? == value(&moved, at - CALM_SECONDS)?)
}

fn observe_events(
    prometheus: &Prometheus,
    window: &Window,
    settled: Settled,
) -> anyhow::Result<events_check::Observed> {
    let mut observed = events_check::Observed {
        at_rest: settled.at_rest,
        disturbed: !is_at_rest(prometheus, window.from)?,
        restarted: prometheus.restarted(window.from, settled.at)?,
        ..events_check::Observed::default()
    };
    let mut restarted = Vec::new();
    // By job as well: each counter that fell is somebody's.
    let mut gains = |counter: &str, labels: [&str; 2]| -> anyhow::Result<BTreeMap<_, u64>> {
        let query = format!("sum by (job, {}) ({})", labels.join(", "), fresh(counter));
        let mut sums = BTreeMap::new();
        for (sample, gain) in prometheus.gains(&query, window.from, settled.at)? {
            match gain {
                Some(gain) => {
                    let key = labels.map(|label| sample.label(label).to_owned());
                    *sums.entry(key.into()).or_default() += gain;
                }
                None => restarted.push(sample.label("job").to_owned()),
            }
        }
        Ok(sums)
    };
    let by_outcome = ["messaging_destination_name", "outcome"];
    observed.published = gains(PUBLISHED_COUNTER, by_outcome)?;
    observed.processed = gains(PROCESSED_COUNTER, by_outcome)?;
    observed.dead = gains(DEAD_COUNTER, ["queue", "reason"])?;
    observed.overtaken = gains(OVERTAKEN_COUNTER, by_outcome)?.into_values().sum();
    for (counter, detail, counts) in [
        (DUPLICATE_COUNTER, "outcome", &mut observed.duplicates),
        (RETRY_COUNTER, "tier", &mut observed.retries),
    ] {
        for ((queue, _), gain) in gains(counter, ["queue", detail])? {
            *counts.entry(queue).or_default() += gain;
        }
    }
    let accepted = format!(
        "{SERVICE_COUNTER}{{job=\"{ORDERS}\",http_request_method=\"POST\",http_response_status_code=\"202\"}}"
    );
    for ((route, _), gain) in gains(&accepted, ["http_route", "http_response_status_code"])? {
        match route.as_str() {
            "/orders/" | "/orders" => observed.accepted += gain,
            "/orders/{id}/cancel" => observed.cancelled += gain,
            _ => {}
        }
    }
    observed.restarted.extend(restarted);
    let off = prometheus.query("agora_pattern_enabled == 0", settled.at)?;
    observed.patterns_off = off
        .iter()
        .map(|sample| {
            let label = |name| sample.label(name).to_owned();
            (label("job"), label("pattern"))
        })
        .collect();
    Ok(observed)
}

/// Expected jobs without a target that is up, and targets that are down.
fn targets_down(up: &[Sample]) -> Vec<String> {
    // A scrape job has its part's name.
    let expected = Part::required()
        .filter(|part| !NOT_SCRAPED.contains(part))
        .map(Part::name);
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
    let mut rows = table(["counter", "what", "expected", "counted", ""]);
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
    let verdict = conclusion(report);
    println!(
        "{}: run {}: {verdict}",
        report.outcome.word(),
        report.run_id
    );
}

/// The verdict in words, with the cause.
fn conclusion(report: &Report) -> String {
    let of = |exit: Exit| {
        let rows = report.rows.iter();
        rows.filter(move |row| row.finding.exit() == exit)
    };
    match report.outcome {
        Exit::Holds => "Prometheus and the load generator agree".to_owned(),
        Exit::Inconclusive => {
            let causes = of(Exit::Inconclusive).filter_map(|row| match &row.finding {
                Finding::Unsettled(unsettled) => Some(&unsettled.cause),
                _ => None,
            });
            let causes: BTreeSet<&Cause> = causes.collect();
            let advice: Vec<String> = causes.into_iter().map(Cause::advice).collect();
            format!("nothing can be said: {}", advice.join("; "))
        }
        _ => {
            let down = match report.targets_down.as_slice() {
                [] => String::new(),
                down => format!("not every target is up: {}", down.join(", ")),
            };
            let mut differ = of(Exit::Failed);
            let Some(first) = differ.next() else {
                return format!("no count differs, but {down}");
            };
            let Finding::Differs(why) = &first.finding else {
                return "Prometheus and the load generator do not agree".to_owned();
            };
            let others = match differ.count() {
                0 => String::new(),
                others => format!(", and {others} more differ"),
            };
            let (counter, requests) = (&first.counter, &first.requests);
            let down = if down.is_empty() {
                down
            } else {
                format!("; {down}")
            };
            format!(
                "Prometheus and the load generator do not agree: {counter}: {requests}: {why}{others}{down}"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: impl IntoIterator<Item = Finding>, targets_down: &[&str]) -> Report {
        let rows = findings.into_iter().map(|finding| Row {
            counter: "order-service".to_owned(),
            requests: "POST /orders/ 202".to_owned(),
            sent: 3,
            counted: 2,
            finding,
        });
        let rows: Vec<Row> = rows.collect();
        let targets = match targets_down {
            [] => Exit::Holds,
            _ => Exit::Failed,
        };
        Report {
            outcome: Exit::worst(rows.iter().map(|row| row.finding.exit()).chain([targets])),
            run_id: "one".to_owned(),
            window: Window {
                project: "agora".to_owned(),
                from: 0.0,
                to: 1.0,
            },
            unanswered: 0,
            targets_down: targets_down.iter().map(|&job| job.to_owned()).collect(),
            rows,
        }
    }

    #[test]
    fn the_last_line_names_the_cause_and_what_helps_against_that() {
        let restarted = Cause::Restarted("order-service".to_owned());
        for (cause, parts) in [
            (restarted, ["order-service restarted", "cargo xtask status"]),
            (
                Cause::EarlierMessages,
                ["when the run began", "verify-dlq --settled"],
            ),
            (Cause::NotAtRest, ["long after the run", "less load"]),
            (Cause::InboxOff, ["inbox is off", "the pattern on"]),
            (Cause::OtherTraffic, ["others used", "nobody else"]),
            (Cause::NothingToCompare, ["nothing to compare", "status"]),
        ] {
            let line = conclusion(&report([Finding::unsettled(cause.clone(), "")], &[]));
            for part in parts {
                assert!(line.contains(part), "{part}: {line}");
            }
            let blames_others = line.contains("nobody else");
            assert_eq!(blames_others, cause == Cause::OtherTraffic, "{line}");
        }
    }

    #[test]
    fn every_cause_is_named_once_and_the_restart_first() {
        let restarted = || Cause::Restarted("traefik".to_owned());
        let causes = [
            Cause::OtherTraffic,
            restarted(),
            Cause::OtherTraffic,
            restarted(),
        ];
        let line = conclusion(&report(
            causes.map(|cause| Finding::unsettled(cause, "")),
            &[],
        ));
        let at = |part: &str| {
            line.match_indices(part)
                .map(|(at, _)| at)
                .collect::<Vec<_>>()
        };
        let (restart, others) = (at("traefik restarted"), at("others used"));
        assert!(restart.len() == 1 && others.len() == 1, "{line}");
        assert!(restart < others, "{line}");
    }

    #[test]
    fn the_last_line_names_what_differs_and_what_is_down() {
        let differs = || Finding::Differs("1 answers that the service did not count".to_owned());
        let line = conclusion(&report(
            [Finding::Equal, differs(), differs()],
            &["rabbitmq"],
        ));
        for part in [
            "order-service: POST /orders/ 202: 1 answers",
            "and 1 more",
            "rabbitmq",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
        let line = conclusion(&report([Finding::Equal], &["rabbitmq"]));
        assert!(line.contains("not every target is up: rabbitmq"), "{line}");
    }

    fn up(job: &str, value: f64) -> Sample {
        Sample {
            labels: [("job".to_owned(), job.to_owned())].into(),
            value,
        }
    }

    fn all_up() -> Vec<Sample> {
        Part::required()
            .filter(|part| !NOT_SCRAPED.contains(part))
            .map(|part| up(part.name(), 1.0))
            .collect()
    }

    #[test]
    fn a_scrape_job_has_the_name_of_its_part() {
        let configuration = include_str!("../../../observability/prometheus/prometheus.yml");
        let jobs = configuration
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- job_name: "));
        let scraped = Part::required().filter(|part| !NOT_SCRAPED.contains(part));
        assert_eq!(
            jobs.collect::<BTreeSet<_>>(),
            scraped.map(Part::name).collect()
        );
        // What judges the counts knows these as text.
        let (orders, stock) = (Part::OrderService, Part::InventoryService);
        assert_eq!(
            [GATEWAY_JOB, ORDERS, events_check::STOCK],
            [Part::Traefik, orders, stock].map(Part::name)
        );
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
