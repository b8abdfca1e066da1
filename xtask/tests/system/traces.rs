//! Traces of real orders, and whether `verify-traces` can tell whole ones from broken ones.

use std::{fs, time::Duration};

use serde_json::Value;
use support::schema;

use crate::{
    client::TestUser, load::RUN_ENDS_WITHIN, program::Ended, run::Run, system::System, wait,
};

/// Waiting for late spans, two rounds of scrapes, and a search for each message on a busy machine.
const VERIFIED_WITHIN: Duration = Duration::from_secs(300);
const LINES_WITHIN: Duration = Duration::from_secs(30);

#[test]
fn every_order_of_a_run_is_one_whole_trace() {
    let system = System::take_turn();
    let run = calm_run(&system);
    let report = report(verify(&system, run, &[]).expect_code(0));
    let count = |name: &str| report[name].as_u64().expect("a count");
    assert_eq!(report["outcome"], "holds", "{report}");
    assert!(count("accepted") >= 150, "{report}");
    assert_eq!(count("judged"), count("accepted"), "{report}");
    assert_eq!(count("whole"), count("judged"), "{report}");
    assert_eq!(report["missing"], serde_json::json!([]), "{report}");

    let spans = &report["spans"];
    assert_eq!(spans["finding"], "explained", "{report}");
    for service in ["user-service", "order-service", "inventory-service"] {
        assert!(spans["sent"][service].as_u64() > Some(0), "{report}");
    }
    let text = system
        .start_xtask(&["verify-traces", "--run", &run.id])
        .end_within(VERIFIED_WITHIN)
        .expect_code(0)
        .stdout;
    assert!(text.contains("100.00 %"), "{text}");
}

#[test]
fn orders_that_are_cancelled_have_whole_traces_too() {
    let system = System::take_turn();
    let run = load(&system, "change-of-mind");
    let report = report(verify(&system, &run, &[]).expect_code(0));
    assert_eq!(report["whole"], report["judged"], "{report}");
    assert!(report["judged"].as_u64() > Some(0), "{report}");
}

#[test]
fn a_trace_that_is_not_stored_is_named_with_its_order() {
    let system = System::take_turn();
    let run = calm_run(&system);
    let tampered = run.copy("tampered-trace");
    let mut ledger = run.ledger();
    let nobodys = "0123456789abcdef0123456789abcdef";
    ledger[7].trace_id = Some(nobodys.to_owned());
    tampered.write_ledger(&ledger);

    let verdict = verify(&system, &tampered, &[]);
    let tolerant = verify(&system, &tampered, &["--min-share", "90"]);
    fs::remove_dir_all(tampered.folder()).expect("a copied run can be removed");
    let report = report(verdict.expect_code(1));
    let lack = &report["missing"][0];
    assert_eq!(lack["defect"], "not_stored", "{report}");
    assert_eq!(lack["traces"], 1, "{report}");
    assert_eq!(lack["examples"][0]["trace_id"], nobodys, "{report}");
    tolerant.expect_code(0);
}

#[test]
fn a_ledger_without_trace_ids_is_inconclusive() {
    let system = System::take_turn();
    let run = calm_run(&system);
    let old = run.copy("old-ledger");
    let mut ledger = run.ledger();
    for entry in &mut ledger {
        (entry.trace_id, entry.trace_sampled) = (None, None);
    }
    old.write_ledger(&ledger);
    let verdict = verify(&system, &old, &[]);
    fs::remove_dir_all(old.folder()).expect("a copied run can be removed");
    assert_eq!(
        report(verdict.expect_code(4))["without_trace_id"],
        ledger
            .iter()
            .filter(|entry| entry.order_id.is_some())
            .count()
    );
}

#[test]
fn without_trace_propagation_every_trace_ends_at_the_broker() {
    let system = System::take_turn();
    let naive = system.without("TRACE_PROPAGATION");
    let run = load(&system, "order");
    let verdict = verify(&system, &run, &[]);
    drop(naive);
    let report = report(verdict.expect_code(1));
    assert_eq!(report["whole"], 0, "{report}");
    let missing = report["missing"].as_array().expect("`missing` is a list");
    let lack = missing
        .iter()
        .find(|lack| lack["hop"] == "process_order")
        .unwrap_or_else(|| panic!("inventory is not missed in {report}"));
    assert_eq!(lack["traces"], report["judged"], "{report}");
    for there in ["gateway", "verify", "accept", "store_order"] {
        assert!(missing.iter().all(|lack| lack["hop"] != there), "{report}");
    }
}

#[test]
fn traces_that_are_linked_are_followed() {
    let system = System::take_turn();
    let linking = system.with_setting("AGORA_TRACE_RELATION", "link");
    let run = load(&system, "order");
    let verdict = verify(&system, &run, &[]);
    drop(linking);
    let report = report(verdict.expect_code(0));
    assert_eq!(report["whole"], report["judged"], "{report}");
    let two_each = report["judged"].as_u64().map(|judged| judged * 2);
    assert!(report["linked"].as_u64() >= two_each, "{report}");
}

#[test]
fn the_log_lines_of_an_orders_trace_are_found_by_its_id() {
    let system = System::take_turn();
    let run = calm_run(&system);
    let ledger = run.ledger();
    let accepted = ledger.iter().find(|entry| entry.order_id.is_some());
    let accepted = accepted.expect("a run accepts orders");
    let trace_id = accepted
        .trace_id
        .as_deref()
        .expect("its answer names a trace");
    // The order is decided after its 202, and later on a busy machine.
    wait::until("lines of both services", LINES_WITHIN, || {
        let lines = system
            .xtask(&["logs", "--trace", trace_id])
            .expect_code(0)
            .stdout;
        let both = ["order-service", "inventory-service"];
        let found = both.iter().all(|service| lines.contains(service));
        found.then_some(()).ok_or(lines)
    });
    let nobody = system
        .xtask(&["logs", "--trace", "0123456789abcdef0123456789abcdef"])
        .expect_code(1);
    assert!(nobody.stderr.contains("next: "), "{}", nobody.account());
}

#[test]
fn each_answer_names_its_trace() {
    let system = System::take_turn();
    let user = TestUser::new(&system.gateway);
    let authorization = [("authorization", user.authorization.as_str())];
    let answer = system.gateway.get("/users/me", &authorization);
    let header = answer.expect_status(200).traceresponse;
    let header = header.expect("a `traceresponse` header");
    assert!(
        records::load::TraceResponse::parse(&header).is_some(),
        "{header}"
    );
}

/// Some two hundred orders that nothing disturbed; made once for all tests on this system that only look at them.
fn calm_run(system: &System) -> &Run {
    system.order_run.get_or_init(|| load(system, "order"))
}

#[track_caller]
fn load(system: &System, scenario: &str) -> Run {
    let load = system.start_xtask(&[
        "load",
        scenario,
        "--run-time",
        "10s",
        "--arrivals",
        "20",
        "--format",
        "json",
    ]);
    Run::of(&load.end_within(RUN_ENDS_WITHIN).expect_code(0).json())
}

#[track_caller]
fn verify(system: &System, run: &Run, more: &[&str]) -> Ended {
    let args = ["verify-traces", "--run", &run.id, "--format", "json"];
    let args: Vec<&str> = args.iter().chain(more).copied().collect();
    system.start_xtask(&args).end_within(VERIFIED_WITHIN)
}

/// The report, as its schema says.
#[track_caller]
fn report(verdict: Ended) -> Value {
    let report = verdict.json();
    let schema = include_str!("../../schemas/traces.schema.json");
    let schema = serde_json::from_str(schema).expect("a schema is JSON");
    let found = schema::violations(&schema, &report);
    assert!(found.is_empty(), "{found:?}");
    report
}
