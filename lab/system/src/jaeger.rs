//! A client of the project's trace store, through Jaeger's query API.
//!
//! A trace is returned in OpenTelemetry's terms ([`base::trace`]): parent, links and kind, which Jaeger's JSON has as
//! references and tags. Left out: durations, status and events within a span, which no check uses.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{anyhow, bail};
use base::{
    outcome,
    trace::{Kind, Link, Span, Trace},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Part,
    http::{Answer, Client, segment},
    members::{self, Member},
};

/// How many hexadecimal digits a trace id has; Jaeger leaves leading zeros out.
const TRACE_ID_DIGITS: usize = 32;

/// A client of the project's trace store.
#[derive(Debug)]
pub struct Jaeger {
    client: Client,
}

impl Jaeger {
    /// The trace store among these containers.
    pub fn new(members: &[Member]) -> anyhow::Result<Self> {
        Ok(Self {
            client: Client::new(&members::published_by(members, Part::Jaeger)?),
        })
    }

    /// The stored spans of a trace; `None` where there are none. Services export spans in batches: one that ended a few
    /// seconds ago may still be missing.
    pub fn trace(&self, id: &str) -> anyhow::Result<Option<Trace>> {
        let answer = self
            .client
            .get(&format!("/api/traces/{}", segment(id)), &[], &[])?;
        if answer.status == 404 {
            return Ok(None);
        }
        if answer.status != 200 {
            return Err(refused(&format!("trace {id}"), &answer.shown()));
        }
        trace_of(answer.json()?)
    }

    /// The traces in which a service has a span with this attribute, begun within `within` of a moment (microseconds
    /// since 1970), up to a limit.
    pub fn find(
        &self,
        service: &str,
        (tag, value): (&str, &str),
        around_us: u64,
        within: Duration,
        most: usize,
    ) -> anyhow::Result<Vec<Trace>> {
        let within_us = u64::try_from(within.as_micros()).unwrap_or(u64::MAX);
        let answer = self.client.get(
            "/api/traces",
            &[],
            &[
                ("service", service),
                ("tags", &json!({ tag: value }).to_string()),
                ("start", &around_us.saturating_sub(within_us).to_string()),
                ("end", &around_us.saturating_add(within_us).to_string()),
                ("limit", &most.to_string()),
            ],
        )?;
        Self::found(&answer, &format!("to look for {tag}"))
    }

    /// Whether the store has any span of a service from before this moment, in microseconds since 1970.
    pub fn remembers(&self, service: &str, before_us: u64) -> anyhow::Result<bool> {
        let answer = self.client.get(
            "/api/traces",
            &[],
            &[
                ("service", service),
                ("start", "0"),
                ("end", &before_us.to_string()),
                ("limit", "1"),
            ],
        )?;
        Ok(!Self::found(&answer, "to look back")?.is_empty())
    }

    /// What an answer to a search found.
    fn found(answer: &Answer, what: &str) -> anyhow::Result<Vec<Trace>> {
        match answer.status {
            200 => traces_of(answer.json()?),
            // Of a service that never sent a span nothing is known.
            404 => Ok(Vec::new()),
            _ => Err(refused(what, &answer.shown())),
        }
    }
}

#[derive(Deserialize)]
struct Envelope {
    data: Option<Vec<StoredTrace>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredTrace {
    #[serde(rename = "traceID")]
    trace_id: String,
    spans: Vec<StoredSpan>,
    processes: BTreeMap<String, Process>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredSpan {
    #[serde(rename = "spanID")]
    span_id: String,
    operation_name: String,
    #[serde(default)]
    references: Vec<Reference>,
    start_time: u64,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(rename = "processID")]
    process_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    ref_type: String,
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
}

#[derive(Deserialize)]
struct Tag {
    key: String,
    value: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    service_name: String,
}

/// The store has its own trouble: that says nothing of traces.
fn refused(what: &str, shown: &str) -> anyhow::Error {
    outcome::unavailable(
        format!("Jaeger refuses {what}: {shown}"),
        "`cargo xtask logs jaeger` says why",
    )
}

fn trace_of(envelope: Envelope) -> anyhow::Result<Option<Trace>> {
    Ok(traces_of(envelope)?.into_iter().next())
}

fn traces_of(envelope: Envelope) -> anyhow::Result<Vec<Trace>> {
    let stored = envelope.data.unwrap_or_default();
    stored.into_iter().map(read_trace).collect()
}

fn read_trace(stored: StoredTrace) -> anyhow::Result<Trace> {
    let id = full_id(&stored.trace_id);
    let mut spans = stored
        .spans
        .into_iter()
        .map(|span| span_of(span, &id, &stored.processes))
        .collect::<anyhow::Result<Vec<Span>>>()?;
    spans.sort_by_key(|span| span.start_us);
    Ok(Trace { id, spans })
}

fn span_of(
    stored: StoredSpan,
    trace_id: &str,
    processes: &BTreeMap<String, Process>,
) -> anyhow::Result<Span> {
    let process = processes.get(&stored.process_id).ok_or_else(|| {
        anyhow!(
            "span {} names process {}, which Jaeger's answer lacks",
            stored.span_id,
            stored.process_id
        )
    })?;
    let mut parent = None;
    let mut links = Vec::new();
    for reference in stored.references {
        let target = Link {
            trace_id: full_id(&reference.trace_id),
            span_id: reference.span_id,
        };
        let is_parent = reference.ref_type == "CHILD_OF" && target.trace_id == trace_id;
        if is_parent && parent.is_none() {
            parent = Some(target.span_id);
        } else {
            links.push(target);
        }
    }
    let tags: BTreeMap<String, String> = stored
        .tags
        .into_iter()
        .map(|tag| (tag.key, text(tag.value)))
        .collect();
    Ok(Span {
        service: process.service_name.clone(),
        name: stored.operation_name,
        id: stored.span_id,
        parent,
        links,
        kind: kind(&tags)?,
        start_us: stored.start_time,
        tags,
    })
}

fn full_id(trace_id: &str) -> String {
    format!("{trace_id:0>TRACE_ID_DIGITS$}")
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn kind(tags: &BTreeMap<String, String>) -> anyhow::Result<Kind> {
    match tags.get("span.kind").map(String::as_str) {
        None | Some("internal") => Ok(Kind::Internal),
        Some("server") => Ok(Kind::Server),
        Some("client") => Ok(Kind::Client),
        Some("producer") => Ok(Kind::Producer),
        Some("consumer") => Ok(Kind::Consumer),
        Some(other) => bail!("Jaeger answers with a span of the unknown kind {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Jaeger 2 answers: an order's first two hops, and a consumer that only links to who sent its message.
    fn answer() -> Value {
        json!({
            "data": [{
                "traceID": "0af7651916cd43dd8448eb211c80319c",
                "spans": [
                    {
                        "traceID": "0af7651916cd43dd8448eb211c80319c",
                        "spanID": "00f067aa0ba902b7",
                        "operationName": "POST /orders/",
                        "references": [{
                            "refType": "CHILD_OF",
                            "traceID": "0af7651916cd43dd8448eb211c80319c",
                            "spanID": "b7ad6b7169203331"
                        }],
                        "startTime": 1_795_671_823_000_200_u64,
                        "duration": 1500,
                        "tags": [
                            {"key": "span.kind", "type": "string", "value": "server"},
                            {"key": "http.response.status_code", "type": "int64", "value": 202},
                            {"key": "otel.status_code", "type": "string", "value": "OK"}
                        ],
                        "logs": [],
                        "processID": "p2",
                        "warnings": null
                    },
                    {
                        "traceID": "0af7651916cd43dd8448eb211c80319c",
                        "spanID": "b7ad6b7169203331",
                        "operationName": "web",
                        "references": [],
                        "startTime": 1_795_671_823_000_000_u64,
                        "duration": 2500,
                        "tags": [
                            {"key": "span.kind", "type": "string", "value": "server"},
                            {"key": "error", "type": "bool", "value": true}
                        ],
                        "logs": [],
                        "processID": "p1",
                        "warnings": null
                    },
                    {
                        "traceID": "0af7651916cd43dd8448eb211c80319c",
                        "spanID": "53995c3f42cd8ad8",
                        "operationName": "process order_events",
                        "references": [{
                            "refType": "FOLLOWS_FROM",
                            "traceID": "f067aa0ba902b7",
                            "spanID": "e457b5a2e4d86bd1"
                        }],
                        "startTime": 1_795_671_823_000_900_u64,
                        "duration": 300,
                        "tags": [{"key": "span.kind", "type": "string", "value": "consumer"}],
                        "logs": [],
                        "processID": "p2",
                        "warnings": null
                    }
                ],
                "processes": {
                    "p1": {"serviceName": "traefik", "tags": []},
                    "p2": {"serviceName": "order-service", "tags": []}
                },
                "warnings": null
            }],
            "total": 0, "limit": 0, "offset": 0, "errors": null
        })
    }

    fn read(answer: Value) -> anyhow::Result<Option<Trace>> {
        trace_of(serde_json::from_value(answer).unwrap())
    }

    #[test]
    fn a_trace_is_read_in_the_order_of_its_steps() {
        let trace = read(answer()).unwrap().unwrap();
        let steps: Vec<(&str, &str)> = trace
            .spans
            .iter()
            .map(|span| (span.service.as_str(), span.name.as_str()))
            .collect();
        assert_eq!(
            steps,
            [
                ("traefik", "web"),
                ("order-service", "POST /orders/"),
                ("order-service", "process order_events"),
            ]
        );
        let order = trace.span("00f067aa0ba902b7").unwrap();
        assert_eq!(order.parent.as_deref(), Some("b7ad6b7169203331"));
        assert_eq!(order.kind, Kind::Server);
        assert_eq!(order.tag("http.response.status_code"), "202");
        assert_eq!(order.tag("http.route"), "");
        assert_eq!(trace.spans[0].parent, None);
    }

    #[test]
    fn a_link_is_no_parent() {
        let trace = read(answer()).unwrap().unwrap();
        let consumer = trace.span("53995c3f42cd8ad8").unwrap();
        assert_eq!(consumer.parent, None);
        assert_eq!(
            consumer.links,
            [Link {
                trace_id: format!("{:0>32}", "f067aa0ba902b7"),
                span_id: "e457b5a2e4d86bd1".to_owned(),
            }]
        );
        assert_eq!(consumer.kind, Kind::Consumer);
    }

    #[test]
    fn a_child_of_another_trace_is_a_link() {
        let mut other = answer();
        other["data"][0]["spans"][0]["references"][0]["traceID"] = json!("1");
        let trace = read(other).unwrap().unwrap();
        let order = trace.span("00f067aa0ba902b7").unwrap();
        assert_eq!(order.parent, None);
        assert_eq!(order.links.len(), 1);
    }

    #[test]
    fn an_answer_may_hold_several_traces() {
        let mut both = answer();
        let mut other = both["data"][0].clone();
        other["traceID"] = json!("f067aa0ba902b7");
        both["data"].as_array_mut().unwrap().push(other);
        let traces = traces_of(serde_json::from_value(both).unwrap()).unwrap();
        let ids: Vec<&str> = traces.iter().map(|trace| trace.id.as_str()).collect();
        assert_eq!(
            ids,
            [
                "0af7651916cd43dd8448eb211c80319c",
                "000000000000000000f067aa0ba902b7"
            ]
        );
    }

    #[test]
    fn no_data_is_no_trace() {
        assert_eq!(read(json!({"data": []})).unwrap(), None);
        assert_eq!(read(json!({"data": null})).unwrap(), None);
    }

    #[test]
    fn a_span_without_its_process_is_refused() {
        let mut broken = answer();
        broken["data"][0]["processes"] = json!({});
        let error = read(broken).unwrap_err().to_string();
        assert!(error.contains("names process p"), "{error}");
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let mut broken = answer();
        broken["data"][0]["spans"][0]["tags"][0]["value"] = json!("observer");
        let error = read(broken).unwrap_err().to_string();
        assert!(error.contains("observer"), "{error}");
    }
}
