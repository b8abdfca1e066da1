//! The dashboards against the running system: after a load run every panel shows something, and a panel that doesn't is
//! found. What a dashboard's file must look like is tested without a system, in `xtask/src/dashboards.rs`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use support::small_repository::small_repository;

use crate::{
    client::text,
    program::{Call, Ended},
    system::System,
};

const OVERVIEW: &str = "observability/grafana/dashboards/overview.json";
const REQUESTS_BY_ANSWER: &str =
    "sum by (code) (rate(traefik_router_requests_total[$__rate_interval]))";

/// A repository of nothing but what these commands read, for it to be broken.
struct Copy(tempfile::TempDir);

impl Copy {
    fn new() -> Self {
        Self(small_repository())
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// The overview asks this in place of the requests by answer.
    fn ask_instead(&self, query: &str) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let dashboard = fs::read_to_string(root.join(OVERVIEW)).expect("the dashboard");
        assert_eq!(dashboard.matches(REQUESTS_BY_ANSWER).count(), 1);
        let broken = dashboard.replace(REQUESTS_BY_ANSWER, query);
        fs::write(self.path(OVERVIEW), broken).expect("the dashboard can be written");
    }

    fn xtask(&self, system: &System, args: &[&str]) -> Ended {
        let place = self.path("xtask");
        let here = [("CARGO_MANIFEST_DIR", place.to_str().expect("UTF-8"))];
        Call::xtask_with(&here, system.project(), system.env_file(), args).run()
    }
}

#[test]
fn every_panel_shows_something_after_a_load_run_and_a_broken_one_is_found() {
    let system = System::take_turn();
    let load = ["load", "mixed", "--run-time", "20s", "--users", "5"];
    system.xtask(&load).expect_code(0);
    let report = system
        .xtask(&["verify-dashboards", "--format", "json"])
        .expect_code(0)
        .json();
    assert_eq!(report["dashboards"], 4);
    let queries = report["queries"].as_array().expect("a list");
    assert!(queries.len() > 80, "{}", queries.len());

    let copy = Copy::new();
    for (query, finding) in [
        ("sum by (code) (rate(traefik_no_such_metric[1m]))", "empty"),
        (
            "sum by (code) (rate(traefik_router_requests_total))",
            "refused",
        ),
        (
            "sum by (code) (rate(traefik_router_requests_total[$intervall]))",
            "refused",
        ),
    ] {
        copy.ask_instead(query);
        let report = copy
            .xtask(&system, &["verify-dashboards", "--format", "json"])
            .expect_code(1)
            .json();
        let queries = report["queries"].as_array().expect("a list");
        let red: Vec<(String, String)> = queries
            .iter()
            .filter(|asked| asked["why"].is_string())
            .map(|asked| (text(asked, "panel"), text(asked, "finding")))
            .collect();
        let expected = ("Requests by answer".to_owned(), finding.to_owned());
        assert_eq!(red, [expected], "{query}");
    }
}

#[test]
fn a_query_that_is_no_promql_fails_the_check_of_the_dashboards() {
    let system = System::take_turn();
    let copy = Copy::new();
    let check = ["check", "--only", "dashboard queries"];
    copy.xtask(&system, &check).expect_code(0);
    copy.ask_instead("sum by (code) (rate(traefik_router_requests_total[1m])");
    let red = copy.xtask(&system, &check).expect_code(1);
    for part in ["overview_json___Requests_by_answer", "parenthesis"] {
        assert!(red.stderr.contains(part), "{part}: {}", red.account());
    }
}

#[test]
fn a_file_that_is_no_yaml_fails_the_check_of_the_optional_parts() {
    let system = System::take_turn();
    let copy = Copy::new();
    let check = ["check", "--only", "loki, alloy, grafana"];
    copy.xtask(&system, &check).expect_code(0);
    let loki = copy.path("observability/loki/loki.yaml");
    let text = fs::read_to_string(&loki).expect("the configuration");
    fs::write(&loki, format!("{text}auth_enabled: true\n")).expect("it can be written");
    let red = copy.xtask(&system, &check).expect_code(1);
    for part in ["loki.yaml", "auth_enabled"] {
        assert!(red.stderr.contains(part), "{part}: {}", red.account());
    }
}
