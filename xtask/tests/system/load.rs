//! Load runs, and whether `verify-metrics` can tell a good one from a bad one.

use std::{fs, time::Duration};

use records::load::{BEGUN_FILE, SUMMARY_FILE};

use crate::{run::Run, system::System, wait};

/// Building nothing, preparing users and two rounds of scrapes come on top of the run time.
pub(crate) const RUN_ENDS_WITHIN: Duration = Duration::from_secs(120);
/// Two scrapes, and some.
const SCRAPED_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn a_checkout_run_fails_no_request() {
    let system = System::take_turn();
    let summary = calm_run(&system).summary();
    assert_eq!(summary.failed, 0);
    assert!(summary.orders.accepted > 0);
    assert_eq!(summary.orders.tried, summary.orders.accepted);
}

#[test]
fn verify_metrics_agrees_with_a_calm_run() {
    let system = System::take_turn();
    let run = calm_run(&system);
    let text = system
        .xtask(&["verify-metrics", "--run", &run.id])
        .expect_code(0)
        .stdout;
    assert!(
        text.contains("Prometheus and the load generator agree"),
        "{text}"
    );
    let report = system
        .xtask(&["verify-metrics", "--run", &run.id, "--format", "json"])
        .expect_code(0)
        .json();
    assert_eq!(report["outcome"], "holds");
    let rows = report["rows"].as_array().expect("`rows` is a list");
    for counter in [
        "traefik",
        "user-service",
        "order-service",
        "inventory-service",
    ] {
        assert!(
            rows.iter().any(|row| row["counter"] == counter),
            "no {counter} in {report}"
        );
    }
    for events in [
        "orders accepted",
        "order_events: events published",
        "order_events: events applied",
        "inventory_events: events published",
        "inventory_events: events applied",
    ] {
        let counted = |row: &serde_json::Value| row["requests"] == events && row["counted"] != 0;
        assert!(rows.iter().any(counted), "no {events} in {report}");
    }
    assert!(rows.iter().all(|row| row["finding"] == "equal"), "{report}");
}

#[test]
fn verify_metrics_names_the_route_of_a_miscounted_request() {
    let system = System::take_turn();
    let run = calm_run(&system);
    let tampered = run.copy("tampered");
    let mut summary = run.summary();
    let orders = summary
        .requests
        .iter_mut()
        .find(|request| request.route == "/orders/")
        .expect("a checkout run places orders");
    orders.count += 1;
    let summary = serde_json::to_vec(&summary).expect("a summary is JSON");
    fs::write(tampered.folder().join(SUMMARY_FILE), summary).expect("a copied run can be written");

    let verdict = system.xtask(&["verify-metrics", "--run", &tampered.id]);
    fs::remove_dir_all(tampered.folder()).expect("a copied run can be removed");
    let text = verdict.expect_code(1).stdout;
    let differing: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("DIFFERS"))
        .collect();
    assert!(
        differing
            .iter()
            .any(|line| line.contains("POST orders@file 202")),
        "{text}"
    );
    assert!(
        differing
            .iter()
            .any(|line| line.contains("POST /orders/ 202")),
        "{text}"
    );
}

#[test]
fn verify_metrics_names_each_hop_at_which_an_event_is_missing() {
    let system = System::take_turn();
    let run = calm_run(&system);
    let tampered = run.copy("one-more-order");
    let mut ledger = run.ledger();
    let mut order = ledger[0].clone();
    order.order_id = Some("00000000-0000-0000-0000-000000000000".to_owned());
    ledger.push(order);
    tampered.write_ledger(&ledger);

    let verdict = system.xtask(&["verify-metrics", "--run", &tampered.id]);
    fs::remove_dir_all(tampered.folder()).expect("a copied run can be removed");
    let text = verdict.expect_code(1).stdout;
    for counter in [
        "orders accepted",
        "order_events: events published",
        "order_events: events applied",
        "inventory_events: events published",
        "inventory_events: events applied",
    ] {
        let names_it = |line: &str| line.contains(counter) && line.contains("DIFFERS: 1");
        assert!(text.lines().any(names_it), "{counter}: {text}");
    }
}

#[test]
fn verify_metrics_counts_the_events_of_cancellations() {
    let system = System::take_turn();
    let load = system.start_xtask(&[
        "load",
        "change-of-mind",
        "--run-time",
        "8s",
        "--arrivals",
        "10",
        "--format",
        "json",
    ]);
    let run = Run::of(&load.end_within(RUN_ENDS_WITHIN).expect_code(0).json());
    let report = system
        .xtask(&["verify-metrics", "--run", &run.id, "--format", "json"])
        .expect_code(0)
        .json();
    let rows = report["rows"].as_array().expect("`rows` is a list");
    let expected = |what: &str| {
        let row = rows.iter().find(|row| row["requests"] == what);
        let row = row.unwrap_or_else(|| panic!("no {what} in {report}"));
        row["sent"].as_u64().expect("a count")
    };
    let cancellations = expected("cancellations accepted");
    assert!(cancellations > 0, "{report}");
    assert_eq!(
        expected("order_events: events published"),
        expected("orders accepted") + cancellations
    );
}

#[test]
fn verify_metrics_names_a_target_that_is_down() {
    let system = System::take_turn();
    let run = calm_run(&system);
    let verify = || system.xtask(&["verify-metrics", "--run", &run.id, "--format", "json"]);
    let outage = system.kill("product-service");
    wait::until("a missing target", SCRAPED_WITHIN, || {
        let report = verify();
        if report.code == Some(1)
            && report.json()["targets_down"] == serde_json::json!(["product-service"])
        {
            Ok(())
        } else {
            Err(report.account())
        }
    });
    drop(outage);
    wait::until("all targets", SCRAPED_WITHIN, || {
        let report = verify();
        if report.code == Some(0) {
            Ok(())
        } else {
            Err(report.account())
        }
    });
}

#[test]
fn a_scenario_that_does_not_exist_is_wrong_usage() {
    let system = System::take_turn();
    let refused = system.xtask(&["load", "no-such-scenario"]).expect_code(2);
    assert!(
        refused.stderr.contains("no-such-scenario"),
        "{}",
        refused.stderr
    );
}

/// A run that nothing disturbed; made once for all tests on this system that only look at it.
fn calm_run(system: &System) -> &Run {
    system.checkout_run.get_or_init(|| {
        let load = system.start_xtask(&[
            "load",
            "checkout",
            "--run-time",
            "10s",
            "--users",
            "5",
            "--format",
            "json",
        ]);
        Run::of(&load.end_within(RUN_ENDS_WITHIN).expect_code(0).json())
    })
}

/// The command lines of the load generators that put load on this system.
pub(crate) fn generators(system: &System) -> Vec<Vec<String>> {
    let gateway = format!("http://{}", system.published("traefik", "8080"));
    let processes = fs::read_dir("/proc").expect("a process table");
    processes
        .filter_map(|process| fs::read_to_string(process.ok()?.path().join("cmdline")).ok())
        .map(|line| line.split('\0').map(str::to_owned).collect::<Vec<_>>())
        .filter(|words| words[0].ends_with("/loadtest") && words.contains(&gateway))
        .collect()
}

/// The run that puts load on this system now, if its measured part has begun.
pub(crate) fn under_way(system: &System) -> Option<Run> {
    let generator = generators(system).pop()?;
    let option = generator.iter().position(|word| word == "--run-id")?;
    let run = Run {
        id: generator.get(option + 1)?.clone(),
    };
    run.folder().join(BEGUN_FILE).is_file().then_some(run)
}
