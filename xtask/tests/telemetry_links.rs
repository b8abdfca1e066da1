//! Grafana's links between measurements, traces and log lines, followed without Grafana: what its source makes of the
//! provisioning file, asked of an exemplar, a trace and log lines that one run of the system recorded.
//!
//! Source of what Grafana does: grafana/grafana, `packages/grafana-prometheus/src/result_transformer.ts` (`getDataLinks`),
//! `public/app/features/explore/TraceView/createSpanLink.tsx`, and the Jaeger source's `querydata.go`. Left out: what a browser
//! shows.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use checks::logql;
use serde_json::{Value, json};

const DATA_SOURCES: &str = "observability/grafana/provisioning/datasources/agora.yaml";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What was recorded, and the file that links it.
struct Recorded {
    /// The provisioning file.
    links: String,
    /// Prometheus's answer about exemplars.
    exemplars: Value,
    /// Jaeger's answer about the trace that the first of them names.
    trace: Value,
    /// The lines as Alloy pushes them to Loki: labels, and with each line its structured metadata.
    lines: Value,
}

fn recorded() -> Recorded {
    let fixture = |name: &str| {
        let path = root().join("xtask/tests/fixtures/telemetry").join(name);
        let text = fs::read_to_string(path).expect("a fixture");
        serde_json::from_str(&text).expect("JSON")
    };
    Recorded {
        links: fs::read_to_string(root().join(DATA_SOURCES)).expect("the provisioning file"),
        exemplars: fixture("exemplars.json"),
        trace: fixture("trace.json"),
        lines: fixture("lines.json"),
    }
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The lines below a key, without comments.
fn section<'a>(yaml: &'a str, key: &str) -> Vec<&'a str> {
    let mut lines = yaml.lines().filter(|line| !line.trim().starts_with('#'));
    let head = lines.find(|line| line.trim() == format!("{key}:"));
    let depth = indentation(head.expect(key));
    lines.take_while(|line| indentation(line) > depth).collect()
}

/// A value of a section as Grafana reads it: unquoted, and with `$` for `$$`.
fn value(section: &[&str], key: &str) -> Option<String> {
    let of_key = |line: &&str| {
        let line = line.trim().trim_start_matches("- ");
        let value = line.strip_prefix(key)?.strip_prefix(':')?.trim();
        let unquoted = ['"', '\''].iter().find_map(|quote| {
            let value = value.strip_prefix(*quote)?;
            value.strip_suffix(*quote)
        });
        Some(unquoted.unwrap_or(value).replace("$$", "$"))
    };
    section.iter().find_map(of_key)
}

/// The type of a data source, by its uid.
fn kind(yaml: &str, uid: &str) -> Option<String> {
    let lines: Vec<&str> = yaml.lines().collect();
    let at = lines
        .iter()
        .position(|line| line.trim() == format!("uid: {uid}"))?;
    value(&lines[at..], "type")
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first == b'%' {
            let hex = std::str::from_utf8(&after[..2]).expect("two digits");
            bytes.push(u8::from_str_radix(hex, 16).expect("two hexadecimal digits"));
            rest = &after[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}

/// What is asked when an exemplar with this trace id is clicked: one query for each link that it has.
fn queries_of_an_exemplar(yaml: &str, trace_id: &str) -> Vec<Value> {
    let destination = section(yaml, "exemplarTraceIdDestinations");
    let mut queries = Vec::new();
    if let Some(uid) = value(&destination, "datasourceUid") {
        let datasource = json!({"uid": uid, "type": kind(yaml, &uid)});
        queries.push(json!({"query": trace_id, "queryType": "traceql", "datasource": datasource}));
    }
    if let Some(url) = value(&destination, "url") {
        let url = url.replace("${__value.raw}", trace_id);
        let (path, parameters) = url.split_once('?').expect("parameters");
        assert_eq!(path, "/explore");
        let parameter = |name: &str| {
            let mut all = parameters.split('&').filter_map(|one| one.split_once('='));
            all.find_map(|(found, value)| (found == name).then_some(value))
        };
        // Without these two Explore takes `panes` for something else.
        assert_eq!(parameter("schemaVersion"), Some("1"));
        assert_eq!(parameter("orgId"), Some("1"));
        let panes = percent_decoded(parameter("panes").expect("panes"));
        let panes: Value = serde_json::from_str(&panes).expect("JSON");
        for pane in panes.as_object().expect("panes").values() {
            for query in pane["queries"].as_array().expect("queries") {
                assert_eq!(pane["datasource"], query["datasource"]["uid"]);
                assert!(pane["range"]["from"].is_string() && pane["range"]["to"].is_string());
                queries.push(query.clone());
            }
        }
    }
    queries
}

/// The trace that Grafana's Jaeger source gets for a query.
fn trace_asked_for(yaml: &str, query: &Value) -> Result<String, String> {
    let uid = query["datasource"]["uid"].as_str().unwrap_or_default();
    match kind(yaml, uid) {
        Some(kind) if kind == "jaeger" && query["datasource"]["type"] == *kind => {}
        kind => return Err(format!("`{uid}` is of type {kind:?}")),
    }
    match query["queryType"].as_str() {
        None | Some("") => Ok(query["query"].as_str().unwrap_or_default().to_owned()),
        Some(other) => Err(format!(
            "no trace is fetched where `queryType` is `{other}`"
        )),
    }
}

/// The query for the lines of a span.
fn query_of_a_span(yaml: &str, span: &Value, process: &Value) -> String {
    let links = section(yaml, "tracesToLogsV2");
    let uid = value(&links, "datasourceUid").expect("a data source");
    assert_eq!(kind(yaml, &uid).as_deref(), Some("loki"));
    assert_eq!(value(&links, "customQuery").as_deref(), Some("true"));
    let mut tags = Vec::new();
    let mut wanted = links.iter().skip_while(|line| line.trim() != "tags:");
    while let Some(key) = wanted.find_map(|line| value(&[line], "key")) {
        let label = wanted.next().and_then(|line| value(&[line], "value"));
        let own = [&span["tags"], &process["tags"]];
        let mut own = own.into_iter().filter_map(Value::as_array).flatten();
        if let Some(tag) = own.find(|tag| tag["key"] == *key) {
            let label = label.unwrap_or(key);
            tags.push(format!("{label}={}", tag["value"]));
        }
    }
    let query = value(&links, "query").expect("a query");
    let query = query
        .replace("${__tags}", &tags.join(", "))
        .replace(
            "${__span.traceId}",
            span["traceID"].as_str().expect("an id"),
        )
        .replace("${__span.spanId}", span["spanID"].as_str().expect("an id"));
    assert!(!query.contains("${"), "nothing fills in {query}");
    query
}

/// The lines that Loki gives for `{label…} | name = "value"`: the matcher is of labels, the filter of structured metadata too.
fn lines_of<'a>(lines: &'a Value, query: &str) -> Vec<(&'a str, &'a str)> {
    assert_eq!(logql::defect(query), None, "{query}");
    let form = regex::Regex::new(r#"^\{(\w+)(=~|=)"([^"]+)"\} \| (\w+) = "([^"]+)"$"#)
        .expect("an expression");
    let parts = form
        .captures(query)
        .unwrap_or_else(|| panic!("a new form of query, which this test must learn: {query}"));
    let matches = |label: &str| match &parts[2] {
        "=" => label == &parts[3],
        _ => regex::Regex::new(&format!("^(?:{})$", &parts[3]))
            .expect("an expression")
            .is_match(label),
    };
    let streams = lines["streams"].as_array().expect("streams").iter();
    let streams = streams.filter(|one| one["stream"][&parts[1]].as_str().is_some_and(matches));
    let service = |stream: &'a Value| stream["stream"]["service"].as_str().expect("a service");
    streams
        .flat_map(|stream| {
            let values = stream["values"].as_array().expect("values").iter();
            values
                .filter(|value| value[2][&parts[4]] == parts[5])
                .map(move |value| (service(stream), value[1].as_str().expect("a line")))
        })
        .collect()
}

#[test]
fn an_exemplar_leads_to_the_trace_that_it_names() {
    let recorded = recorded();
    let labels = &recorded.exemplars["data"][0]["exemplars"][0]["labels"];
    let name = value(
        &section(&recorded.links, "exemplarTraceIdDestinations"),
        "name",
    );
    let trace_id = labels[name.expect("a label")].as_str().expect("a trace id");
    assert_eq!(trace_id.len(), 32);
    let queries = queries_of_an_exemplar(&recorded.links, trace_id);
    assert_eq!(queries.len(), 1, "{queries:?}");
    let asked = trace_asked_for(&recorded.links, &queries[0]);
    assert_eq!(asked.as_deref(), Ok(trace_id), "{queries:?}");
    assert_eq!(recorded.trace["data"][0]["traceID"], trace_id);
}

#[test]
fn each_span_leads_to_the_lines_of_its_trace() {
    let recorded = recorded();
    let trace = &recorded.trace["data"][0];
    let spans = trace["spans"].as_array().expect("spans");
    assert!(spans.len() > 10, "{}", spans.len());
    for span in spans {
        let process = &trace["processes"][span["processID"].as_str().expect("a process")];
        let query = query_of_a_span(&recorded.links, span, process);
        let found = lines_of(&recorded.lines, &query);
        let services: BTreeSet<&str> = found.iter().map(|(service, _)| *service).collect();
        assert_eq!(
            Vec::from_iter(services),
            ["inventory-service", "order-service", "traefik"],
            "{query}"
        );
        for (_, line) in &found {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let own = line.get("trace_id").or(line.get("TraceId"));
            assert_eq!(own, Some(&trace["traceID"]), "{line}");
        }
    }
}

/// The image has folders of its own there, which a mount of the whole would hide; and what keeps it within its memory.
#[test]
fn grafana_has_its_own_folders_and_enough_memory() {
    let compose = fs::read_to_string(root().join("compose.yaml")).expect("compose.yaml");
    let grafana = section(&compose, "grafana").join("\n");
    let mut folders = 0;
    let provisioning = "observability/grafana/provisioning";
    for folder in fs::read_dir(root().join(provisioning)).expect("a folder") {
        let name = folder.expect("an entry").file_name();
        let name = name.to_string_lossy();
        let mount = format!("./{provisioning}/{name}:/etc/grafana/provisioning/{name}:ro");
        assert!(grafana.contains(&mount), "{mount}");
        folders += 1;
    }
    assert!(folders > 0);
    assert!(!grafana.contains(":/etc/grafana/provisioning:"));
    let number = |name: &str, unit: &str| -> u32 {
        let value = value(&grafana.lines().collect::<Vec<_>>(), name).expect(name);
        value.strip_suffix(unit).expect(unit).parse().expect(name)
    };
    assert!(number("mem_limit", "m") >= 512);
    assert!(number("GOMEMLIMIT", "MiB") < number("mem_limit", "m"));
    let keys = "GF_PLUGINS_PUBLIC_KEY_RETRIEVAL_DISABLED: \"true\"";
    assert!(grafana.contains(keys));
}
