//! `verify-traces`: checks that the traces of a load run's accepted orders have every hop, and compares the spans that
//! were exported with those that the store accepted.
//!
//! Left out: judging them (`checks::traces_check`, `checks::spans_check`).

use std::{collections::BTreeSet, time::Duration};

use base::{SCRAPE_INTERVAL, outcome::Exit};
use checks::{
    metrics_check::Finding,
    spans_check::{self, SpanCounts},
    traces_check::{self, Defect, Examined, Order, Tally},
};
use evaluation::traces;
use serde::Serialize;
use system::{
    Part,
    jaeger::Jaeger,
    load_runs::{RunFolder, Window},
    members::{self, Member},
    project::Project,
    prometheus::{Moment, Prometheus, fresh},
};

use crate::output::{Format, print_json, progress};

/// How much of the traces has to be whole, in percent.
const MIN_SHARE_PERCENT: f64 = 99.9;
/// How many orders are looked up.
const ORDERS: usize = 1_000;
/// How many orders of each defect are named.
const EXAMPLES: usize = 3;

/// How many traces the store keeps, `MAX_TRACES` in `compose.yaml`; the oldest go first. A trace has a span at least.
const KEPT_TRACES: u64 = 20_000;
/// How long after its beginning a trace's first span may arrive: the store drops traces in the order of arrival.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

/// How long after its window a run's spans have been counted everywhere, in seconds.
const COUNTED_AFTER_SECONDS: f64 = 60.0;
const SCRAPE_SECONDS: f64 = SCRAPE_INTERVAL.as_secs() as f64;

const SPAN_COUNTER: &str = "agora_spans_total";
const STORED_COUNTER: &str = "otelcol_receiver_accepted_spans_total";
const REFUSED_COUNTER: &str = "otelcol_receiver_refused_spans_total";
const GATEWAY_COUNTER: &str = "traefik_entrypoint_requests_total";

/// Options of `verify-traces`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exit codes: 0 enough traces are whole, 1 too few are, or spans got lost in the store, 3 the system \
                        isn't up or there is no such run, 4 no trace could be judged."
)]
pub(crate) struct Options {
    /// The run to verify [default: the last one]
    #[arg(long, value_name = "RUN_ID")]
    run: Option<String>,
    /// The most orders that are looked up, evenly spread over the run
    #[arg(long, value_name = "N", default_value_t = ORDERS, value_parser = at_least_one)]
    orders: usize,
    /// How much of the traces has to be whole, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = MIN_SHARE_PERCENT, value_parser = percent)]
    min_share: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            run: None,
            orders: ORDERS,
            min_share: MIN_SHARE_PERCENT,
        }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("expected a number from 1".to_owned()),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("expected a number from 0 to 100".to_owned()),
    }
}

/// The result as JSON; `xtask/schemas/traces.schema.json` describes it.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    run_id: String,
    /// How many orders the run's clients were promised.
    accepted: usize,
    /// How many of them were looked up.
    examined: usize,
    min_share_percent: f64,
    #[serde(flatten)]
    tally: Tally,
    spans: Spans,
    /// The beginning of a trace's address in the store; its id follows.
    trace_url: String,
}

/// The spans of the run's time.
#[derive(Debug, Serialize)]
struct Spans {
    #[serde(flatten)]
    counts: SpanCounts,
    #[serde(flatten)]
    finding: Finding,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    let members = members::running(project)?;
    let jaeger = Jaeger::new(&members)?;
    let prometheus = Prometheus::new(&members)?;
    let run = RunFolder::find(project, options.run.as_deref())?;
    let window = run.window_on(project)?;
    let orders = traces_check::orders(&run.ledger()?, &run.cancellations()?);
    let chosen = traces_check::chosen(&orders, options.orders);
    let progress = progress();
    let mut results = progress.step("traces", |step| traces::look_up(&jaeger, &chosen, step))?;
    note_forgotten(&jaeger, &prometheus, &window, &mut results)?;
    let counts = progress.step("spans, counted on both sides", |_| {
        count_spans(&prometheus, &window)
    })?;

    let tally = traces_check::tally(&results, EXAMPLES);
    let finding = spans_check::compare(&counts, tally.gateway_spans);
    let report = Report {
        outcome: verdict(&tally, options.min_share, &finding),
        run_id: run.id,
        accepted: orders.len(),
        examined: chosen.len(),
        min_share_percent: options.min_share,
        tally,
        spans: Spans { counts, finding },
        trace_url: trace_url(&members)?,
    };
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => print!("{}", text(&report)),
    }
    Ok(report.outcome)
}

/// The verdict: that of the traces, and a failure if the store lost spans. Spans that can't be counted don't matter.
fn verdict(tally: &Tally, min_percent: f64, spans: &Finding) -> Exit {
    let traces = traces_check::judge(tally, min_percent);
    match spans.exit() {
        Exit::Failed => Exit::worst([traces, Exit::Failed]),
        _ => traces,
    }
}

fn trace_url(members: &[Member]) -> anyhow::Result<String> {
    Ok(format!(
        "http://{}/trace/",
        members::published_by(members, Part::Jaeger)?
    ))
}

/// Marks the orders whose traces the store has dropped: it was restarted after the run began, or has since accepted
/// enough to drop the oldest, and it has nothing older than them.
fn note_forgotten(
    jaeger: &Jaeger,
    prometheus: &Prometheus,
    window: &Window,
    results: &mut [(&Order, Option<Examined>)],
) -> anyhow::Result<()> {
    let is_gone = |(_, examined): &&mut (&Order, Option<Examined>)| {
        let defects = examined.as_ref().map(|examined| &examined.defects);
        defects.is_some_and(|defects| defects.contains(&Defect::NotStored))
    };
    let mut gone: Vec<_> = results.iter_mut().filter(is_gone).collect();
    if gone.is_empty() || !may_have_forgotten(prometheus, window)? {
        return Ok(());
    }
    gone.sort_by_key(|(order, _)| order.at);
    // What is older than one order is older than all later ones.
    for (order, examined) in gone {
        let first_came = order.at - ARRIVES_WITHIN;
        let before_us = u64::try_from(first_came.timestamp_micros()).unwrap_or_default();
        if jaeger.remembers(Part::Traefik.name(), before_us)? {
            break;
        }
        if let Some(examined) = examined {
            examined.forgotten = true;
        }
    }
    Ok(())
}

/// Whether the store can have dropped traces of the run.
fn may_have_forgotten(prometheus: &Prometheus, window: &Window) -> anyhow::Result<bool> {
    let now = prometheus.now()?;
    // Without a count it took in nothing since it started.
    let is_empty = prometheus.query(&stored_spans(), now)?.is_empty();
    if is_empty || store_restarted(prometheus, window.from, now)? {
        return Ok(true);
    }
    let stored = prometheus.gains(&stored_spans(), window.from, now)?;
    // One that fell began anew.
    Ok(stored
        .iter()
        .any(|(_, gain)| gain.is_none_or(|spans| spans >= KEPT_TRACES)))
}

/// Whether the store's counter was reset between two moments, even if it is higher than before by now: Jaeger doesn't
/// export when its process started.
fn store_restarted(prometheus: &Prometheus, from: Moment, to: Moment) -> anyhow::Result<bool> {
    let seconds = (to - from).ceil().max(1.0);
    let resets = prometheus.query(
        &format!("sum(resets({STORED_COUNTER}[{seconds}s])) > 0"),
        to,
    )?;
    Ok(!resets.is_empty())
}

/// A query for the number of spans that the store ever accepted.
fn stored_spans() -> String {
    format!("sum by (job) ({})", fresh(STORED_COUNTER))
}

/// The spans that were sent and stored since the run began: until a minute after it, or until now.
fn count_spans(prometheus: &Prometheus, window: &Window) -> anyhow::Result<SpanCounts> {
    let over = window.to + COUNTED_AFTER_SECONDS;
    // The store is asked about a little more than the services, at both ends: what they had sent by their scrape is
    // among what it had taken in by its own.
    let (sent_until, stored_until) = if prometheus.now()? > over {
        (over - SCRAPE_SECONDS, over)
    } else {
        (
            prometheus.wait_for_fresh_scrapes()?,
            prometheus.wait_for_fresh_scrapes()?,
        )
    };
    let stored_from = window.from - SCRAPE_SECONDS;
    let mut counts = SpanCounts {
        restarted: prometheus.restarted(window.from, stored_until)?,
        ..SpanCounts::default()
    };
    let by_outcome = format!("sum by (job, outcome) ({})", fresh(SPAN_COUNTER));
    counts.counted = !prometheus.query(&by_outcome, sent_until)?.is_empty();
    for (labels, gain) in prometheus.gains(&by_outcome, window.from, sent_until)? {
        let job = labels.label("job").to_owned();
        match (labels.label("outcome"), gain) {
            (_, None) => {
                counts.restarted.insert(job);
            }
            ("sent", Some(gain)) => {
                counts.sent.insert(job, gain);
            }
            ("dropped", Some(gain)) => {
                counts.dropped.insert(job, gain);
            }
            (_, Some(gain)) => {
                counts.failed.insert(job, gain);
            }
        }
    }
    let store = |counter: &str| format!("sum by (job) ({})", fresh(counter));
    counts.counted &= !prometheus.query(&stored_spans(), stored_until)?.is_empty();
    if store_restarted(prometheus, stored_from, stored_until)? {
        counts.restarted.insert(Part::Jaeger.to_string());
    }
    let mut gained = |query: &str, from: Moment| -> anyhow::Result<u64> {
        let mut sum = 0;
        for (labels, gain) in prometheus.gains(query, from, stored_until)? {
            match gain {
                Some(gain) => sum += gain,
                None => {
                    counts.restarted.insert(labels.label("job").to_owned());
                }
            }
        }
        Ok(sum)
    };
    let stored = gained(&stored_spans(), stored_from)?;
    let refused = gained(&store(REFUSED_COUNTER), stored_from)?;
    let web = format!("{GATEWAY_COUNTER}{{entrypoint=\"web\"}}");
    let gateway_requests = gained(&store(&web), window.from)?;
    // Others' restarts say nothing of spans.
    let senders = Part::services().chain([Part::Jaeger, Part::Traefik]);
    let senders: BTreeSet<&str> = senders.map(Part::name).collect();
    counts
        .restarted
        .retain(|job| senders.contains(job.as_str()));
    Ok(SpanCounts {
        stored,
        refused,
        gateway_requests,
        ..counts
    })
}

fn text(report: &Report) -> String {
    let mut lines = vec![format!(
        "orders    {} accepted, {} looked up{}",
        report.accepted,
        report.examined,
        if report.examined < report.accepted {
            " (evenly spread)"
        } else {
            ""
        }
    )];
    let tally = &report.tally;
    for (count, what) in [
        (
            tally.not_sampled,
            "were not sampled: their traces are not judged",
        ),
        (
            tally.without_trace_id,
            "have no trace id: no answer of the run named one",
        ),
        (
            tally.overtaken,
            "were cancelled before inventory came to them: nothing follows from those, so they are not judged",
        ),
        (
            tally.forgotten,
            "are not stored any more: the store keeps the latest 20,000 traces, and none over a restart",
        ),
        (
            tally.repeated,
            "times a message was sent or handled once more",
        ),
        (tally.retried, "messages were put back for a later attempt"),
        (tally.dead, "messages were given up"),
        (
            tally.linked,
            "traces were begun by consumers, with a link to what they were sent",
        ),
    ] {
        if count > 0 {
            lines.push(format!("          {count} {what}"));
        }
    }
    let wanted = report.min_share_percent;
    lines.push(match tally.whole_percent {
        Some(percent) => format!(
            "whole     {} of {} traces: {percent:.2} %, {wanted} % wanted",
            tally.whole, tally.judged
        ),
        None => "whole     nothing could be judged".to_owned(),
    });
    for lack in &tally.missing {
        lines.push(format!("  {:6}  {}", lack.traces, lack.what));
        for example in &lack.examples {
            let at = example.trace_id.as_ref().map_or_else(
                || "no trace id".to_owned(),
                |id| format!("{}{id}", report.trace_url),
            );
            lines.push(format!("          order {}: {at}", example.order_id));
        }
    }
    let counts = &report.spans.counts;
    let by_service = |of: &std::collections::BTreeMap<String, u64>| {
        let each: Vec<String> = of
            .iter()
            .map(|(who, count)| format!("{who} {count}"))
            .collect();
        each.join(", ")
    };
    lines.push(format!(
        "spans     {} sent by services ({}), {} stored",
        counts.sent_by_services(),
        by_service(&counts.sent),
        counts.stored
    ));
    lines.push(match &report.spans.finding {
        Finding::Equal => "          equal".to_owned(),
        Finding::Explained(why) => format!("          explained: {why}"),
        Finding::Unsettled(why) => format!("          unsettled: {why}"),
        Finding::Differs(why) => format!("          DIFFERS: {why}"),
    });
    for (of, what) in [
        (&counts.dropped, "dropped, as a queue was full"),
        (&counts.failed, "sent in vain"),
    ] {
        if !of.is_empty() {
            lines.push(format!("          {what}: {}", by_service(of)));
        }
    }
    if counts.refused > 0 {
        lines.push(format!(
            "          refused by the store: {}",
            counts.refused
        ));
    }
    lines.push(format!(
        "{}: run {}: {}",
        report.outcome.word(),
        report.run_id,
        summary(report)
    ));
    lines.join("\n") + "\n"
}

fn summary(report: &Report) -> String {
    let tally = &report.tally;
    if report.outcome == Exit::Inconclusive {
        // The last of those that keep the most orders from being judged.
        let causes = [
            (
                tally.overtaken,
                "every order was cancelled before inventory came to it: make another run",
            ),
            (
                tally.forgotten,
                "its traces are not stored any more: make another run, and look at it before the next",
            ),
            (
                tally.without_trace_id,
                "its ledger names no trace: make another run, against services that send `traceresponse`",
            ),
            (
                tally.not_sampled,
                "no trace was sampled: see `sampleRate` in observability/traefik/traefik.yaml, `cargo xtask up`, and make \
                 another run",
            ),
        ];
        let most = causes.into_iter().max_by_key(|(orders, _)| *orders);
        let (_, why) = most.filter(|_| report.accepted > 0).unwrap_or((
            0,
            "it accepted no order: make another run with `cargo xtask load`",
        ));
        return why.to_owned();
    }
    match traces_check::judge(tally, report.min_share_percent) {
        Exit::Failed => format!(
            "{} of {} traces are not whole",
            tally.judged - tally.whole,
            tally.judged
        ),
        _ if report.outcome == Exit::Failed => "the store lost spans".to_owned(),
        _ => format!("{} of {} traces are whole", tally.whole, tally.judged),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use support::schema;

    fn order(id: &str) -> Order {
        Order {
            id: id.to_owned(),
            trace_id: Some("0af7651916cd43dd8448eb211c80319c".to_owned()),
            sampled: true,
            at: chrono::DateTime::UNIX_EPOCH,
            cancelled: false,
        }
    }

    fn report(results: &[(&Order, Option<Examined>)]) -> Report {
        let tally = traces_check::tally(results, EXAMPLES);
        let counts = SpanCounts {
            sent: [("order-service".to_owned(), 7)].into(),
            failed: [("user-service".to_owned(), 2)].into(),
            stored: 10,
            gateway_requests: 1,
            counted: true,
            ..SpanCounts::default()
        };
        let finding = spans_check::compare(&counts, tally.gateway_spans);
        Report {
            outcome: verdict(&tally, MIN_SHARE_PERCENT, &finding),
            run_id: "20261126-101112-abcd".to_owned(),
            accepted: results.len(),
            examined: results.len(),
            min_share_percent: MIN_SHARE_PERCENT,
            tally,
            spans: Spans { counts, finding },
            trace_url: "http://127.0.0.1:16686/trace/".to_owned(),
        }
    }

    #[test]
    fn the_json_is_as_its_schema_says_and_the_schema_can_refuse() {
        let schema = include_str!("../../schemas/traces.schema.json");
        let schema = serde_json::from_str(schema).expect("a schema is JSON");
        let order = order("o");
        let gone = traces_check::examine(&order, &[]);
        for results in [
            vec![],
            vec![(&order, Some(Examined::default()))],
            vec![(&order, Some(gone)), (&order, None)],
        ] {
            let mut document = serde_json::to_value(report(&results)).unwrap();
            let found = schema::violations(&schema, &document);
            assert!(found.is_empty(), "{found:?}");
            document["more"] = json!(1);
            assert_eq!(schema::violations(&schema, &document).len(), 1);
        }
    }

    #[test]
    fn people_are_told_what_is_missing_and_where_to_look() {
        let order = order("o");
        let gone = traces_check::examine(&order, &[]);
        let shown = text(&report(&[(&order, Some(gone))]));
        for part in [
            "0 of 1 traces: 0.00 %, 99.9 % wanted",
            "nothing is stored of the trace",
            "order o: http://127.0.0.1:16686/trace/0af7651916cd43dd8448eb211c80319c",
            "7 sent by services (order-service 7), 10 stored",
            "3 of the gateway",
            "sent in vain: user-service 2",
            "FAILED: run 20261126-101112-abcd: 1 of 1 traces are not whole",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn a_run_of_which_nothing_can_be_judged_says_why() {
        let shown = text(&report(&[]));
        assert!(
            shown.contains("inconclusive") && shown.contains("accepted no order"),
            "{shown}"
        );
        let order = order("o");
        let shown = text(&report(&[(&order, None)]));
        assert!(shown.contains("sampleRate"), "{shown}");
        // Of several causes the one that most orders have.
        let mut mixed = report(&[(&order, None), (&order, None)]);
        mixed.tally.without_trace_id = 1;
        let shown = text(&mixed);
        assert!(shown.contains("sampleRate"), "{shown}");
        mixed.tally.without_trace_id = 3;
        let shown = text(&mixed);
        assert!(shown.contains("names no trace"), "{shown}");
    }

    #[test]
    fn what_the_store_forgot_is_said_and_decides_nothing() {
        let order = order("o");
        let forgotten = Examined {
            forgotten: true,
            ..traces_check::examine(&order, &[])
        };
        let shown = text(&report(&[(&order, Some(forgotten))]));
        for part in [
            "1 are not stored any more",
            "inconclusive",
            "make another run",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let compose = include_str!("../../../compose.yaml");
        assert!(compose.contains(&format!("MAX_TRACES: \"{KEPT_TRACES}\"")));
    }

    #[test]
    fn spans_that_the_store_lost_fail_whole_traces_and_uncounted_ones_do_not() {
        let order = order("o");
        let tally = traces_check::tally(&[(&order, Some(Examined::default()))], EXAMPLES);
        let differs = Finding::Differs(String::new());
        assert_eq!(verdict(&tally, 99.9, &differs), Exit::Failed);
        let unsettled =
            Finding::unsettled(checks::metrics_check::Cause::OtherTraffic, String::new());
        assert_eq!(verdict(&tally, 99.9, &unsettled), Exit::Holds);
    }
}
