//! Dashboards that ask for what there is: every figure of our own that a panel asks for is one that the services' code
//! names. A panel with a fallback (`or vector(0)`) shows data whatever it asks, so the running system can't tell.

use std::collections::BTreeSet;

use checks::own_metrics::PREFIXES;
use support::sources::{root, texts};

/// What the format adds to the name of a counter, with or without its unit, and of a histogram.
const SUFFIXES: [&str; 6] = ["_seconds_total", "_total", "_bucket", "_count", "_sum", ""];
/// Labels that look like metrics.
const LABELS: [&str; 5] = [
    "db_client_connection_pool_name",
    "db_client_connection_state",
    "messaging_destination_name",
    "rpc_method",
    "rpc_response_status_code",
];

/// The words of a text that begin like a figure of ours.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| PREFIXES.iter().any(|ours| word.starts_with(ours)))
        .filter(|word| !LABELS.contains(word) && !word.starts_with("http_request_"))
        .collect()
}

/// The metrics that no quoted name stands for.
fn unknown<'a>(asked: &BTreeSet<&'a str>, code: &str) -> Vec<&'a str> {
    let is_named = |figure: &str| {
        SUFFIXES.iter().any(|suffix| {
            let name = figure.strip_suffix(suffix);
            name.is_some_and(|name| code.contains(&format!("\"{name}\"")))
        })
    };
    let unknown = asked.iter().filter(|figure| !is_named(figure));
    unknown.copied().collect()
}

#[test]
fn every_figure_of_ours_that_a_panel_asks_for_is_named_in_the_services_code() {
    let code = texts(&root().join("services"), "rs");
    let code: String = code.into_values().collect();
    let dashboards = texts(&root().join("observability/grafana/dashboards"), "json");
    assert_eq!(dashboards.len(), 4);
    for (file, text) in &dashboards {
        // Descriptions speak of metrics in words, so all such words are in queries.
        let asked = metrics(text);
        assert!(asked.len() > 5, "{}: {asked:?}", file.display());
        assert_eq!(unknown(&asked, &code), [""; 0], "{}", file.display());
    }
}

#[test]
fn a_figure_that_nobody_counts_is_found() {
    let asked =
        metrics("sum(rate(agora_retries_total[1m])) or sum(agora_retires_total) or traefik_x");
    assert_eq!(asked.len(), 2);
    assert_eq!(
        unknown(&asked, "registry.register(\"agora_retries\", help)"),
        ["agora_retires_total"]
    );
}
