//! The Grafana dashboards as files: the queries of their panels, with Grafana's variables filled in, and the defects
//! that show without a Grafana.
//!
//! Left out: running the queries (`cargo xtask verify-dashboards`), whether they are PromQL (promtool), and how a panel
//! looks.

mod file;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use base::{SCRAPE_INTERVAL, outcome};

use self::file::parse;

/// The dashboards' folder, below the repository's root.
pub const FOLDER: &str = "observability/grafana/dashboards";
/// The file that names the data sources, below the repository's root.
pub const DATA_SOURCES: &str = "observability/grafana/provisioning/datasources/agora.yaml";

/// A dashboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dashboard {
    /// The file's name, without its folder.
    pub file: String,
    /// Grafana's id of the dashboard; fixed, so that links to it stay valid.
    pub uid: String,
    /// The time range that it shows when it is opened, until now.
    pub window: Duration,
    /// The variables that can be chosen at its top.
    pub variables: Vec<Variable>,
    /// Its panels, rows left out.
    pub panels: Vec<Panel>,
    /// The ids of everything that has one, rows included.
    ids: Vec<u64>,
    /// Whether it carries the number that one Grafana's database gave it.
    numbered: bool,
}

/// A variable whose values come from a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// The name, without the `$`.
    pub name: String,
    /// The query for its values: `label_values(metric, label)`.
    pub query: String,
}

/// A panel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panel {
    /// The panel's heading.
    pub title: String,
    /// Its queries; the panel shows their answers together.
    pub queries: Vec<Query>,
    description: String,
    /// Empty where values have none.
    unit: String,
    /// What Grafana shows as its data source: type and uid.
    source: Option<(String, String)>,
}

/// One query of a panel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The query language.
    pub language: Language,
    /// The query as the file has it, with variables.
    pub expr: String,
    /// Whether it is asked for one moment; otherwise over the shown time range.
    pub instant: bool,
    ref_id: String,
    /// Of its data source: type and uid.
    source: (String, String),
}

/// A query language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Prometheus's.
    PromQl,
    /// Loki's.
    LogQl,
}

/// The values that Grafana fills in for variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    /// The shown time range: `$__range`.
    pub window: Duration,
    /// The distance between two points: `$__interval`.
    pub step: Duration,
    /// The dashboard's own variables by name, as regular expressions.
    pub variables: BTreeMap<String, String>,
}

/// The dashboards in these files, each with its name and its text, in the same order.
///
/// # Errors
/// When a file isn't a dashboard; the error names it.
pub fn of_files(files: &[(String, String)]) -> anyhow::Result<Vec<Dashboard>> {
    let dashboards = files.iter().map(|(file, text)| {
        parse(file, text).map_err(|why| {
            outcome::failed(
                format!("{FOLDER}/{file} isn't a dashboard: {why}"),
                "correct the file; Grafana exports one under Share, Export",
            )
        })
    });
    dashboards.collect()
}

impl Values {
    /// The values of a dashboard that shows this time range with sixty points or so.
    pub fn of(window: Duration, variables: BTreeMap<String, String>) -> Self {
        Self {
            window,
            step: (window / 60).max(SCRAPE_INTERVAL),
            variables,
        }
    }

    /// `$__rate_interval` as Grafana computes it: long enough that a rate always finds two samples.
    fn rate_interval(&self) -> Duration {
        (self.step + SCRAPE_INTERVAL).max(4 * SCRAPE_INTERVAL)
    }

    fn get(&self, name: &str) -> Option<String> {
        let seconds = |duration: Duration| format!("{}s", duration.as_secs());
        match name {
            "__range" => Some(seconds(self.window)),
            "__interval" => Some(seconds(self.step)),
            "__rate_interval" => Some(seconds(self.rate_interval())),
            _ => self.variables.get(name).cloned(),
        }
    }

    /// The query with `$name` and `${name}` replaced.
    ///
    /// # Errors
    /// The unknown variable, in a sentence.
    pub fn fill_in(&self, expr: &str) -> Result<String, String> {
        let mut filled = String::with_capacity(expr.len());
        let mut rest = expr;
        while let Some((before, after)) = rest.split_once('$') {
            filled.push_str(before);
            let (braced, after) = match after.strip_prefix('{') {
                Some(after) => (true, after),
                None => (false, after),
            };
            let end = after
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(after.len());
            let (name, after) = after.split_at(end);
            if name.is_empty() && !braced {
                // the end of a line in a regular expression
                filled.push('$');
                rest = after;
                continue;
            }
            rest = match (braced, after.strip_prefix('}')) {
                (true, Some(after)) => after,
                (true, None) => return Err(format!("`${{{name}` has no end")),
                (false, _) => after,
            };
            let value = self
                .get(name)
                .ok_or_else(|| format!("nobody knows the variable `${name}`"))?;
            filled.push_str(&value);
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

/// Metric and label of `label_values(metric, label)`.
pub fn label_values(query: &str) -> Option<(&str, &str)> {
    let inner = query.trim().strip_prefix("label_values(")?;
    let (metric, label) = inner.strip_suffix(')')?.rsplit_once(',')?;
    Some((metric.trim(), label.trim()))
}

/// The data sources of the provisioning file: type by uid. Read line by line, without a YAML parser: `uid:` and
/// `type:` stand on lines of their own there.
pub fn data_sources(yaml: &str) -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    let mut uid = None;
    for line in yaml.lines().map(str::trim) {
        if let Some(value) = line.strip_prefix("uid:") {
            uid = Some(value.trim().to_owned());
        } else if let Some(value) = line.strip_prefix("type:")
            && let Some(uid) = uid.take()
        {
            sources.insert(uid, value.trim().to_owned());
        }
    }
    sources
}

/// The uids to which the provisioning file's links lead.
fn linked_sources(yaml: &str) -> impl Iterator<Item = &str> {
    let lines = yaml
        .lines()
        .map(|line| line.trim().trim_start_matches("- "));
    lines.filter_map(|line| line.strip_prefix("datasourceUid:").map(str::trim))
}

/// The defects of dashboards and data sources, each a sentence that names its place.
pub fn defects(dashboards: &[Dashboard], data_sources_yaml: &str) -> Vec<String> {
    let sources = data_sources(data_sources_yaml);
    let mut defects = Vec::new();
    for uid in linked_sources(data_sources_yaml) {
        if !sources.contains_key(uid) {
            defects.push(format!(
                "{DATA_SOURCES} links to the data source `{uid}`, which it doesn't define"
            ));
        }
    }
    let mut uids = BTreeSet::new();
    for dashboard in dashboards {
        let mut defect = |text: String| defects.push(format!("{}: {text}", dashboard.file));
        if !uids.insert(&dashboard.uid) {
            defect(format!(
                "another dashboard has the uid `{}` too",
                dashboard.uid
            ));
        }
        if dashboard.numbered {
            defect("it carries the `id` of one Grafana's database: remove it".to_owned());
        }
        let mut ids = BTreeSet::new();
        for id in &dashboard.ids {
            if !ids.insert(id) {
                defect(format!("two panels have the id {id}"));
            }
        }
        for variable in &dashboard.variables {
            if label_values(&variable.query).is_none() {
                defect(format!(
                    "the variable `{}` asks `{}`, expected label_values(metric, label)",
                    variable.name, variable.query
                ));
            }
        }
        for panel in &dashboard.panels {
            panel_defects(panel, &sources, &mut defect);
        }
    }
    defects
}

fn panel_defects(
    panel: &Panel,
    sources: &BTreeMap<String, String>,
    defect: &mut impl FnMut(String),
) {
    let title = &panel.title;
    if title.is_empty() {
        defect("a panel has no title".to_owned());
    }
    if panel.description.is_empty() {
        defect(format!("`{title}` has no description"));
    }
    if panel.queries.is_empty() {
        defect(format!("`{title}` asks nothing"));
    }
    let of_metrics = |query: &Query| query.language == Language::PromQl;
    if panel.queries.iter().any(of_metrics) {
        if panel.unit.is_empty() {
            defect(format!("`{title}` has no unit"));
        }
        if !panel.description.to_lowercase().contains("healthy") {
            defect(format!("`{title}` doesn't say what is healthy"));
        }
    }
    let mut ref_ids = BTreeSet::new();
    for query in &panel.queries {
        if !ref_ids.insert(&query.ref_id) {
            defect(format!("`{title}` has two queries {}", query.ref_id));
        }
    }
    let asked = panel.queries.iter().map(|query| &query.source);
    for (kind, uid) in asked.chain(&panel.source) {
        if sources.get(uid) != Some(kind) {
            defect(format!(
                "`{title}` asks the data source `{uid}` of type {kind}, which {DATA_SOURCES} doesn't define"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use support::sources;

    use super::*;
    use crate::promql;

    const SOURCES: &str = "datasources:\n  - name: P\n    uid: prometheus\n    type: prometheus\n    jsonData:\n      \
                           - name: trace_id\n        datasourceUid: jaeger\n  - name: J\n    uid: jaeger\n    type: jaeger\n";

    fn panel(id: u64, expr: &str) -> String {
        format!(
            r#"{{"id":{id},"type":"stat","title":"Panel {id}","description":"Healthy: 0.",
                "fieldConfig":{{"defaults":{{"unit":"short"}}}},
                "targets":[{{"refId":"A","datasource":{{"type":"prometheus","uid":"prometheus"}},"expr":"{expr}"}}]}}"#
        )
    }

    fn dashboard(panels: &str) -> Dashboard {
        let json = format!(
            r#"{{"uid":"agora-x","time":{{"from":"now-15m"}},"templating":{{"list":[
                {{"name":"service","definition":"label_values(up, job)"}}]}},"panels":[{panels}]}}"#
        );
        parse("x.json", &json).unwrap()
    }

    fn values() -> Values {
        let service = ("service".to_owned(), "(a|b)".to_owned());
        Values::of(Duration::from_secs(900), [service].into())
    }

    fn all() -> Vec<Dashboard> {
        let files = sources::texts(&sources::root().join(FOLDER), "json").into_iter();
        let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let files: Vec<_> = files.map(|(path, text)| (name(path), text)).collect();
        of_files(&files).unwrap()
    }

    #[test]
    fn the_dashboards_of_the_repository_have_no_defects() {
        let dashboards = all();
        let names: Vec<&str> = dashboards.iter().map(|found| &*found.uid).collect();
        assert_eq!(
            names,
            [
                "agora-load-run",
                "agora-messaging-and-patterns",
                "agora-overview",
                "agora-service"
            ]
        );
        let sources = fs::read_to_string(sources::root().join(DATA_SOURCES)).unwrap();
        assert_eq!(defects(&dashboards, &sources), [""; 0]);
        let panels: usize = dashboards.iter().map(|found| found.panels.len()).sum();
        assert!(panels > 60, "{panels}");
    }

    #[test]
    fn panels_in_a_collapsed_row_are_found_in_their_order() {
        let row = format!(
            r#"{{"id":1,"type":"row","title":"R","collapsed":true,"panels":[{},{}]}},{}"#,
            panel(2, "up"),
            panel(3, "up"),
            panel(4, "up")
        );
        let found = dashboard(&row);
        let titles: Vec<&str> = found.panels.iter().map(|panel| &*panel.title).collect();
        assert_eq!(titles, ["Panel 2", "Panel 3", "Panel 4"]);
        assert_eq!(found.ids, [1, 2, 3, 4]);
    }

    #[test]
    fn a_file_that_is_no_dashboard_is_refused_with_the_reason() {
        assert!(parse("x.json", "{").unwrap_err().contains("EOF"));
        let absolute = r#"{"uid":"x","time":{"from":"2026-01-01"},"panels":[]}"#;
        assert!(parse("x.json", absolute).unwrap_err().contains("now-15m"));
        let unknown = panel(1, "up").replace("\"prometheus\"", "\"mysql\"");
        let json = format!(r#"{{"uid":"x","time":{{"from":"now-1h"}},"panels":[{unknown}]}}"#);
        assert!(parse("x.json", &json).unwrap_err().contains("mysql"));
    }

    #[test]
    fn variables_are_filled_in_as_grafana_does() {
        let filled = |expr| values().fill_in(expr).unwrap();
        assert_eq!(
            filled(r#"rate(a{job=~"$service", b=~"x$"}[$__rate_interval])"#),
            r#"rate(a{job=~"(a|b)", b=~"x$"}[20s])"#
        );
        assert_eq!(filled("a[${__range}:$__interval]"), "a[900s:15s]");
    }

    #[test]
    fn a_variable_that_nobody_knows_is_named() {
        assert!(values().fill_in("a{b=\"$c\"}").unwrap_err().contains("$c"));
        assert!(
            values()
                .fill_in("a[${__range")
                .unwrap_err()
                .contains("__range")
        );
    }

    #[test]
    fn every_promql_query_is_about_some_metric() {
        for dashboard in all() {
            let queries = dashboard.panels.iter().flat_map(|panel| &panel.queries);
            for query in queries.filter(|query| query.language == Language::PromQl) {
                assert!(!promql::metrics(&query.expr).is_empty(), "{}", query.expr);
            }
        }
    }

    #[test]
    fn a_variables_query_is_read() {
        assert_eq!(
            label_values("label_values(up{a=\"b,c\"}, job)"),
            Some(("up{a=\"b,c\"}", "job"))
        );
        assert_eq!(label_values("query_result(up)"), None);
    }

    #[test]
    fn a_sound_dashboard_has_no_defects() {
        let sound = dashboard(&[panel(1, "up"), panel(2, "up")].join(","));
        assert_eq!(defects(&[sound], SOURCES), [""; 0]);
    }

    #[test]
    fn every_defect_is_seen_and_names_its_place() {
        let of = |panels: String| defects(&[dashboard(&panels)], SOURCES);
        let one = || panel(1, "up");
        let cases = [
            (of([one(), one()].join(",")), "two panels have the id 1"),
            (
                of(one().replace("\"uid\":\"prometheus\"", "\"uid\":\"prom\"")),
                "`prom`",
            ),
            (
                of(one().replace("\"uid\":\"prometheus\"", "\"uid\":\"jaeger\"")),
                "`jaeger`",
            ),
            (of(one().replace("Healthy: 0.", "")), "no description"),
            (of(one().replace("Healthy: 0.", "Some.")), "what is healthy"),
            (of(one().replace("short", "")), "no unit"),
            (of(one().replace("Panel 1", "")), "no title"),
            (
                of(r#"{"id":1,"type":"stat","title":"A","description":"b"}"#.to_owned()),
                "asks nothing",
            ),
        ];
        for (found, expected) in cases {
            assert!(
                found.iter().any(|defect| defect.contains(expected)),
                "{expected}: {found:?}"
            );
            assert!(
                found.iter().all(|defect| defect.starts_with("x.json: ")),
                "{found:?}"
            );
        }
        let twice = [dashboard(&one()), dashboard(&one())];
        assert!(defects(&twice, SOURCES)[0].contains("uid `agora-x`"));
        let mut odd = dashboard(&one());
        odd.numbered = true;
        odd.variables[0].query = "query_result(up)".to_owned();
        assert_eq!(defects(&[odd], SOURCES).len(), 2);
        let dangling = SOURCES.replace("    uid: jaeger\n", "    uid: tempo\n");
        assert!(defects(&[], &dangling)[0].contains("`jaeger`"));
    }
}
