//! Alerts that help whoever gets them: each says how bad it is, what it is about and where it is explained, and is
//! tested. That the rules do what they say is `promtool`'s to test: see `cargo xtask check`.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The lines of each alert's rule, by its name.
fn alerts() -> BTreeMap<String, Vec<String>> {
    let rules = read("observability/prometheus/rules/agora.yml");
    let mut alerts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut alert = None;
    for line in rules.lines().map(str::trim) {
        if line.starts_with("- ") {
            alert = line.strip_prefix("- alert: ").map(str::to_owned);
        } else if let Some(name) = &alert {
            alerts
                .entry(name.clone())
                .or_default()
                .push(line.to_owned());
        }
    }
    assert!(alerts.len() > 5, "{alerts:?}");
    alerts
}

#[test]
fn every_alert_says_how_bad_it_is_and_where_it_is_explained() {
    let runbook = read("docs/runbook.md");
    for (name, rule) in alerts() {
        let has = |line: &str| rule.iter().any(|known| known.starts_with(line));
        assert!(
            has("severity: critical") || has("severity: warning"),
            "{name}"
        );
        assert!(has("summary: "), "{name}");
        let section = name.to_lowercase();
        assert!(
            has(&format!("runbook: docs/runbook.md#{section}")),
            "{name}"
        );
        assert!(runbook.contains(&format!("\n## {name}\n")), "{name}");
    }
}

#[test]
fn every_alert_is_tested_to_fire_and_not_to_fire() {
    let tests = read("observability/prometheus/tests/agora.yml");
    for name in alerts().into_keys() {
        let looks = tests.matches(&format!("alertname: {name}\n")).count();
        assert!(looks >= 2, "{name} is looked at {looks} times");
    }
}

#[test]
fn the_runbook_explains_no_alert_that_there_is_not() {
    let alerts = alerts();
    for line in read("docs/runbook.md").lines() {
        if let Some(name) = line.strip_prefix("## ") {
            assert!(alerts.contains_key(name), "{name}");
        }
    }
}

/// A scrape, an evaluation, and Alertmanager, 5 s each.
const ON_THE_WAY: Duration = Duration::from_secs(15);

#[test]
fn the_runbook_says_how_long_each_alert_takes_and_leaves_it_that_long() {
    let alerts = alerts();
    let bounds = support::runbook::bounds();
    let names: Vec<&String> = bounds.keys().collect();
    assert_eq!(names, alerts.keys().collect::<Vec<_>>());
    for (name, rule) in alerts {
        let waits = rule.iter().find_map(|line| line.strip_prefix("for: "));
        let waits = waits.map_or(Duration::ZERO, support::runbook::duration);
        let bound = bounds[&name];
        assert!(
            bound.fires_within >= waits + ON_THE_WAY,
            "{name}: {bound:?}"
        );
        assert!(bound.clears_within >= ON_THE_WAY, "{name}: {bound:?}");
    }
}
