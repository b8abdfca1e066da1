//! `logs`: the containers' logs; with `--trace`, the lines of one trace from all of them.
//!
//! Left out: logs of removed containers, which only Loki has.

use base::outcome::{self, Exit};
use system::{
    Part, logs,
    members::{self, Member},
    project::Project,
};

use crate::output::{print_stderr, print_stdout};

/// Options of `logs`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// One service [default: all]
    service: Option<String>,
    /// Keep showing new lines
    #[arg(long, short, conflicts_with = "trace")]
    follow: bool,
    /// Only the last lines of each service
    #[arg(
        long,
        value_name = "LINES",
        default_value_t = 200,
        conflicts_with = "trace"
    )]
    tail: usize,
    /// Only lines with this trace id, ordered by time
    #[arg(long, value_name = "ID")]
    trace: Option<String>,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options) -> anyhow::Result<Exit> {
    if let Some(trace) = &options.trace
        && !is_trace_id(trace)
    {
        return Err(outcome::usage(
            format!("`{trace}` is not a trace id"),
            "expected 32 hexadecimal digits, or at least the first 8 of them: `trace_id` in a log line or a problem \
             document, or the part of an answer's `traceresponse` header between the first two dashes",
        ));
    }
    let service = options.service.as_deref().map(service).transpose()?;
    let members = members::all(project)?;
    if members.is_empty() {
        return Err(outcome::unavailable(
            "there are no containers, hence no logs",
            "start them with `cargo xtask up`",
        ));
    }
    match &options.trace {
        Some(trace) => print_trace(&members, service, trace),
        None => print_logs(project, service, options),
    }
}

/// A part of the system that writes a log; or an error that names those.
fn service(name: &str) -> anyhow::Result<Part> {
    let parts = Part::required().chain(Part::optional());
    Part::among(parts, name).map_err(|unknown| {
        let known = unknown.known();
        outcome::usage(format!("there is no service `{name}`"), known)
    })
}

fn print_logs(project: &Project, service: Option<Part>, options: &Options) -> anyhow::Result<Exit> {
    let call = logs::shown(project, service, options.tail, options.follow)?;
    let code = call.run_by_line(print_stdout, print_stderr)?;
    Ok(if code == Some(0) {
        Exit::Holds
    } else {
        Exit::Failed
    })
}

/// A line and where it comes from; the engine's own timestamps order lines of different services.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    time: String,
    service: Part,
    text: String,
}

fn print_trace(members: &[Member], service: Option<Part>, trace: &str) -> anyhow::Result<Exit> {
    let mut lines = Vec::new();
    for member in members
        .iter()
        .filter(|member| service.is_none_or(|only| only == member.service))
    {
        let text = logs::with_times(member)?;
        lines.extend(
            text.lines()
                .filter_map(|line| of_trace(member.service, line, trace)),
        );
    }
    lines.sort();
    for line in &lines {
        println!("{} {:17} {}", line.time, line.service, line.text);
    }
    if lines.is_empty() {
        let of = service.map(|service| format!(" of {service}"));
        return Err(outcome::failed(
            format!(
                "no line{} carries the trace id {trace}",
                of.unwrap_or_default()
            ),
            "look at its spans at Jaeger (`cargo xtask up` prints the address); lines below LOG_LEVEL were never written, \
             and containers that were replaced took theirs along",
        ));
    }
    Ok(Exit::Holds)
}

/// Whether a text is a trace id, or enough of its beginning.
fn is_trace_id(text: &str) -> bool {
    (8..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The line, if it is JSON with this `trace_id`.
fn of_trace(service: Part, line: &str, trace: &str) -> Option<Line> {
    let (time, text) = line.split_once(' ')?;
    let entry: serde_json::Value = serde_json::from_str(text).ok()?;
    let matches = entry
        .get("trace_id")?
        .as_str()?
        .starts_with(&trace.to_ascii_lowercase());
    matches.then(|| Line {
        time: time.to_owned(),
        service,
        text: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_is_hexadecimal_and_neither_too_short_nor_too_long() {
        assert!(is_trace_id("0af7651916cd43dd8448eb211c80319c"));
        assert!(is_trace_id("0AF76519"));
        for wrong in [
            "",
            "0af7651",
            "0af7651g",
            "0af7651916cd43dd8448eb211c80319c0",
            "00-0af7651916cd43dd8448eb211c803",
            "ａｆ",
        ] {
            assert!(!is_trace_id(wrong), "{wrong}");
        }
    }

    #[test]
    fn only_lines_of_the_trace_are_taken() {
        let line = r#"2026-11-22T10:00:00.1Z {"trace_id":"0af7651916cd43dd8448eb211c80319c","message":"placed"}"#;
        assert!(of_trace(Part::OrderService, line, "0AF76519").is_some());
        assert!(of_trace(Part::OrderService, line, "ffffffff").is_none());
        assert!(
            of_trace(
                Part::OrderService,
                "2026-11-22T10:00:00.1Z plain 0af76519",
                "0af76519"
            )
            .is_none()
        );
    }
}
