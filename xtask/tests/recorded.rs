//! Evidence of real runs, judged again without any system: one as shipped, one in which every pattern was broken on
//! purpose, and one without any fault; the first and the last also tampered with.
//!
//! To record `tests/fixtures/evaluations/` anew, on a running system: `cargo xtask evaluate --seed 7`, and the same with
//! `--sabotage break-pattern` and `--sabotage withhold-fault`; the evidence of a run is in
//! `target/agora/evaluations/<run>/`. `as-shipped.json` is the run of 2026-12-01 whose results the documents give; `outbox`, `retry`,
//! `saga_recovery` and `trace_propagation` are of a later run of that day. The other two files were put together from several runs; `broken-patterns.json` is older than `in_force`, which was put in later, from the samples of the same run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Every experiment that runs on Compose, as the recorded runs did; a new one has to be recorded.
fn experiments() -> Vec<String> {
    let list = xtask(&["evaluate", "list", "--format", "json"]).1;
    let list = list.as_array().expect("a list").iter();
    list.filter(|entry| entry["kubernetes_alone"].is_null())
        .map(|entry| entry["name"].as_str().expect("a name").to_owned())
        .collect()
}

fn xtask(args: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(args)
        .env("DOCKER_HOST", "tcp://127.0.0.1:1")
        .output()
        .expect("failed to start xtask");
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), json)
}

fn recorded(run: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/evaluations");
    fixtures.join(format!("{run}.json"))
}

/// Judges evidence in a folder of its own, since judging writes the reports beside it.
fn judge(evidence: &str) -> (Option<i32>, Value) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("evidence.json"), evidence).expect("a copy of the evidence");
    let path = format!("{}/", folder.path().display());
    let judged = xtask(&["evaluate", "judge", &path, "--format", "json"]);
    for report in ["report.html", "verdicts.json", "junit.xml", "summary.md"] {
        assert!(folder.path().join(report).is_file(), "{report}");
    }
    judged
}

/// One run of a magnitude claim decides nothing, whatever it shows.
fn expected<'a>(experiment: &Value, outcome: &'a str) -> &'a str {
    match experiment["kind"].as_str() {
        Some("magnitude") => "not_judged",
        _ => outcome,
    }
}

#[track_caller]
fn expect_all(run: &str, outcome: &str, code: i32) {
    let evidence = fs::read_to_string(recorded(run)).expect("recorded evidence");
    let (exit, conclusion) = judge(&evidence);
    let mut judged = Vec::new();
    for experiment in conclusion["experiments"].as_array().expect("experiments") {
        judged.push(experiment["name"].as_str().expect("a name").to_owned());
        assert_eq!(
            experiment["outcome"],
            expected(experiment, outcome),
            "{}",
            experiment["reason"]
        );
    }
    assert_eq!(judged, experiments());
    assert_eq!(exit, Some(code));
}

#[test]
fn every_claim_is_upheld_by_a_real_run() {
    expect_all("as-shipped", "upheld", 0);
}

#[test]
fn every_claim_is_refuted_when_its_pattern_is_broken() {
    expect_all("broken-patterns", "refuted", 1);
}

#[test]
fn no_claim_is_decided_without_its_fault() {
    expect_all("withheld-faults", "inconclusive", 4);
}

/// Changes the run as shipped in one place, which has to change the verdict on that experiment and no other.
#[track_caller]
fn tamper(experiment: &str, arm: usize, change: impl Fn(&mut Value), outcome: &str) {
    tamper_with(("as-shipped", "upheld"), experiment, arm, change, outcome);
}

/// The same with another run, all of whose verdicts are known.
#[track_caller]
fn tamper_with(
    (run, all): (&str, &str),
    experiment: &str,
    arm: usize,
    change: impl Fn(&mut Value),
    outcome: &str,
) {
    let evidence = fs::read_to_string(recorded(run)).expect("recorded evidence");
    let mut evidence: Value = serde_json::from_str(&evidence).expect("JSON");
    let trials = evidence["trials"].as_array_mut().expect("trials");
    let trial = trials
        .iter_mut()
        .find(|trial| trial["experiment"] == experiment)
        .expect("the experiment");
    change(&mut trial["arms"][arm]);
    let (_, conclusion) = judge(&evidence.to_string());
    for judged in conclusion["experiments"].as_array().expect("experiments") {
        let expected = if judged["name"] == experiment {
            outcome
        } else {
            expected(judged, all)
        };
        assert_eq!(judged["outcome"], expected, "{}", judged["reason"]);
    }
}

#[test]
fn harm_without_any_fault_is_a_false_alarm() {
    let control = ("withheld-faults", "inconclusive");
    let lose = |arm: &mut Value| arm["books"]["lost"] = serde_json::json!(["one"]);
    tamper_with(control, "outbox", 1, lose, "refuted");
    let fail = |arm: &mut Value| arm["load"]["summary"]["failed"] = 1.into();
    tamper_with(control, "graceful_shutdown", 1, fail, "refuted");
    // Books that were read too early say nothing.
    let early = |arm: &mut Value| {
        lose(arm);
        arm["settled_after_ms"] = Value::Null;
    };
    tamper_with(control, "outbox", 1, early, "inconclusive");
}

#[test]
fn one_lost_order_with_the_outbox_refutes_it() {
    let lose = |arm: &mut Value| arm["books"]["lost"] = serde_json::json!(["one"]);
    tamper("outbox", 1, lose, "refuted");
}

#[test]
fn an_order_that_nobody_was_promised_and_that_never_ends_refutes_too() {
    let stuck = |arm: &mut Value| arm["books"]["undecided"] = serde_json::json!(["one"]);
    tamper("outbox", 1, stuck, "refuted");
}

#[test]
fn an_order_that_stays_stuck_or_takes_stock_twice_refutes_saga_recovery() {
    let stuck = |arm: &mut Value| arm["books"]["lost"] = serde_json::json!(["one"]);
    tamper("saga_recovery", 1, stuck, "refuted");
    let doubled = |arm: &mut Value| arm["books"]["doubled"] = serde_json::json!(["one"]);
    tamper("saga_recovery", 1, doubled, "refuted");
    let none = |arm: &mut Value| arm["books"]["lost"] = serde_json::json!([]);
    tamper("saga_recovery", 0, none, "inconclusive");
}

#[test]
fn an_arm_without_the_pattern_that_did_not_suffer_decides_nothing() {
    let spare = |arm: &mut Value| arm["books"]["doubled"] = serde_json::json!([]);
    tamper("inbox", 0, spare, "inconclusive");
}

#[test]
fn an_arm_that_broke_off_or_was_not_steady_decides_nothing() {
    let break_off = |arm: &mut Value| arm["failure"] = "a check crashed".into();
    tamper("confirms", 1, break_off, "inconclusive");
    for moment in ["steady_before", "steady_after"] {
        let unsettle = |arm: &mut Value| arm[moment] = Value::Null;
        tamper("saga", 0, unsettle, "inconclusive");
    }
    let still_moving = |arm: &mut Value| arm["settled_after_ms"] = Value::Null;
    tamper("retry", 1, still_moving, "inconclusive");
}

/// Six pairs, each the recorded one with what `change` does to its arms, on a machine without noise.
#[track_caller]
fn tamper_six(run: &str, experiment: &str, change: impl Fn(&mut Value), outcome: &str) {
    let evidence = fs::read_to_string(recorded(run)).expect("recorded evidence");
    let mut evidence: Value = serde_json::from_str(&evidence).expect("JSON");
    let trials = evidence["trials"].as_array().expect("trials").iter();
    let mut trials = trials.filter(|trial| trial["experiment"] == experiment);
    let mut trial = trials.next().expect("the experiment").clone();
    change(&mut trial["arms"]);
    let pairs = (1..=6).map(|repetition| {
        let mut pair = trial.clone();
        pair["repetition"] = repetition.into();
        pair
    });
    evidence["trials"] = pairs.collect();
    let list = xtask(&["evaluate", "list", "--format", "json"]).1;
    let measurements = list.as_array().expect("a list").iter();
    let measurements = measurements.filter(|entry| entry["name"] == experiment);
    let measurements = measurements.flat_map(|entry| entry["counts"].as_array().expect("counts"));
    evidence["noise"] = measurements
        .map(|measurement| {
            serde_json::json!({
                "experiment": experiment, "measurement": measurement, "factor": 1.0, "log_deviation": 0.01,
                "pairs": 6, "run": "none", "at": "2026-11-29T00:00:00Z", "cores": 2, "memory_bytes": 1,
                "engine": "none", "load_average": null,
            })
        })
        .collect();
    let (_, conclusion) = judge(&evidence.to_string());
    let judged = &conclusion["experiments"][0];
    assert_eq!(judged["outcome"], outcome, "{}", judged["reason"]);
}

#[test]
fn consumers_that_gain_nothing_refute_competing_consumers() {
    let name = "competing_consumers";
    let gains = |part: f64| {
        move |arms: &mut Value| {
            let decided = |arm: usize| arms[arm]["fault"]["in_force"]["decided"].as_f64();
            let one = decided(0).expect("a count");
            arms[1]["fault"]["in_force"]["decided"] = ((one * part) as u64).into();
        }
    };
    tamper_six("as-shipped", name, gains(1.5), "upheld");
    tamper_six("as-shipped", name, gains(1.0), "refuted");
    tamper_six("broken-patterns", name, |_| (), "refuted");
    tamper_six("withheld-faults", name, |_| (), "inconclusive");
}

#[test]
fn consumers_that_keep_up_with_the_load_decide_nothing() {
    let little = |arms: &mut Value| {
        for arm in arms.as_array_mut().expect("arms") {
            let decided = arm["fault"]["in_force"]["decided"].clone();
            arm["load"]["summary"]["orders"]["accepted"] = decided;
        }
    };
    tamper_six("as-shipped", "competing_consumers", little, "inconclusive");
}

fn divide(count: &mut Value, by: u64) {
    *count = (count.as_u64().expect("a count") / by).into();
}

#[test]
fn requests_refused_without_the_outbox_are_harm_and_with_it_refute_it() {
    let refuse = |arm: &mut Value| {
        let summary = &mut arm["load"]["summary"];
        summary["failed"] = summary["measured"].clone();
        arm["books"]["promised"] = 0.into();
        arm["books"]["lost"] = serde_json::json!([]);
    };
    tamper("outbox", 0, refuse, "upheld");
    tamper("outbox", 1, refuse, "refuted");
}

#[test]
fn an_arm_with_nothing_to_lose_decides_nothing() {
    for promised in [0, 10] {
        let idle = |arm: &mut Value| arm["books"]["promised"] = promised.into();
        tamper("outbox", 1, idle, "inconclusive");
    }
}

#[test]
fn a_trace_that_is_not_whole_refutes_trace_propagation() {
    let tear = |arm: &mut Value| {
        let whole = arm["telemetry"]["whole"].as_u64().expect("a count");
        arm["telemetry"]["whole"] = (whole - 1).into();
    };
    tamper("trace_propagation", 1, tear, "refuted");
    let unseen = |arm: &mut Value| {
        arm["telemetry"]["traces"] = 0.into();
        arm["telemetry"]["whole"] = 0.into();
    };
    tamper("trace_propagation", 1, unseen, "inconclusive");
}

#[test]
fn lost_spans_that_nobody_counts_or_memory_without_bounds_refute_telemetry_loss() {
    let uncounted = |arm: &mut Value| {
        let spans = arm["telemetry"]["spans"].as_object_mut().expect("counts");
        spans.retain(|outcome, _| outcome == "sent");
    };
    tamper("telemetry_loss", 1, uncounted, "refuted");
    let heavy = |arm: &mut Value| arm["telemetry"]["most_memory_bytes"] = 200_000_000.into();
    tamper("telemetry_loss", 1, heavy, "refuted");
}

#[test]
fn an_alert_that_comes_late_or_for_nothing_or_stays_refutes_alerting() {
    let late = |arm: &mut Value| {
        for alert in arm["alerts"].as_array_mut().expect("alerts") {
            alert["told_at"] = "2099-01-01T00:00:00Z".into();
        }
    };
    tamper("alerting", 1, late, "refuted");
    let stays = |arm: &mut Value| {
        for alert in arm["alerts"].as_array_mut().expect("alerts") {
            alert["over_at"] = Value::Null;
        }
    };
    tamper("alerting", 2, stays, "refuted");
    let quiet = 3;
    let for_nothing = |arm: &mut Value| {
        arm["alerts"] = serde_json::json!([{
            "name": "TargetDown", "told_at": arm["started_at"], "over_at": arm["finished_at"],
        }]);
    };
    tamper("alerting", quiet, for_nothing, "refuted");
    tamper_with(
        ("withheld-faults", "inconclusive"),
        "alerting",
        quiet,
        for_nothing,
        "refuted",
    );
}

#[test]
fn an_attack_that_gets_in_or_breaks_something_refutes_forward_auth_and_harmless_ones_decide_nothing()
 {
    let one = || serde_json::json!(["tokens: one"]);
    tamper(
        "forward_auth",
        1,
        |arm| arm["attacks"]["let_in"] = one(),
        "refuted",
    );
    tamper(
        "forward_auth",
        1,
        |arm| arm["attacks"]["server_errors"] = one(),
        "refuted",
    );
    let harmless = |arm: &mut Value| arm["attacks"]["let_in"] = serde_json::json!([]);
    tamper("forward_auth", 0, harmless, "inconclusive");
}

#[test]
fn a_request_that_fails_or_is_refused_refutes_rolling_update_and_key_rotation() {
    let fail = |arm: &mut Value| arm["load"]["summary"]["failed"] = 1.into();
    let spare = |arm: &mut Value| arm["load"]["summary"]["failed"] = 0.into();
    tamper("rolling_update", 1, fail, "refuted");
    tamper("rolling_update", 0, spare, "inconclusive");
    tamper("key_rotation", 1, fail, "refuted");
    let unrefused = |arm: &mut Value| {
        let requests = arm["load"]["summary"]["requests"].as_array_mut();
        let requests = requests.expect("counts of requests");
        requests.retain(|request| request["status"] != 401);
    };
    tamper("key_rotation", 0, unrefused, "inconclusive");
    // Replaced when nobody was there to notice.
    let late = |arm: &mut Value| arm["fault"]["healed_at"] = arm["finished_at"].clone();
    tamper("rolling_update", 1, late, "inconclusive");
    tamper("key_rotation", 1, late, "inconclusive");
}

#[test]
fn purchases_that_fail_or_hang_refute_the_breaker_and_the_deadline() {
    let purchases = |arm: &mut Value, change: fn(&mut Value)| {
        let seconds = arm["load"]["routes"].as_array_mut().expect("routes");
        let purchases = seconds
            .iter_mut()
            .filter(|second| second["method"] == "POST");
        purchases.for_each(change);
    };
    let fail = |second: &mut Value| {
        second["succeeded"] = 0.into();
        second["succeeded_p99_ms"] = Value::Null;
    };
    tamper("circuit_breaker", 1, |arm| purchases(arm, fail), "refuted");
    let hang = |second: &mut Value| second["max_ms"] = 9_000.into();
    tamper("deadline", 1, |arm| purchases(arm, hang), "refuted");
    let hurry = |second: &mut Value| second["max_ms"] = 900.into();
    tamper("deadline", 0, |arm| purchases(arm, hurry), "inconclusive");
}

#[test]
fn failed_stale_or_slow_purchases_refute_client_load_balancing_and_fresh_ones_decide_nothing() {
    let each = |arm: &mut Value, change: fn(&mut Value)| {
        let seconds = arm["load"]["routes"].as_array_mut().expect("routes");
        seconds.iter_mut().for_each(change);
    };
    let name = "client_load_balancing";
    let fail = |second: &mut Value| second["succeeded"] = 0.into();
    tamper(name, 1, |arm| each(arm, fail), "refuted");
    let stale = |second: &mut Value| second["stale"] = second["succeeded"].clone();
    tamper(name, 1, |arm| each(arm, stale), "refuted");
    // The same in every second, so that the recovery is late as well; either refutes.
    let slow = |second: &mut Value| second["max_ms"] = 1_200.into();
    tamper(name, 1, |arm| each(arm, slow), "refuted");
    let fresh = |second: &mut Value| {
        let answers = second["answers"].as_object().expect("answers").values();
        let sent: u64 = answers.filter_map(Value::as_u64).sum();
        second["succeeded"] = sent.into();
        second["stale"] = 0.into();
    };
    tamper(name, 0, |arm| each(arm, fresh), "inconclusive");
}

#[test]
fn slow_or_few_orders_refute_load_shedding_and_harmless_overload_decides_nothing() {
    let each = |arm: &mut Value, change: fn(&mut Value)| {
        let seconds = arm["load"]["routes"].as_array_mut().expect("routes");
        seconds.iter_mut().for_each(change);
    };
    let name = "load_shedding";
    tamper_six("as-shipped", name, |_| (), "upheld");
    tamper_six("broken-patterns", name, |_| (), "refuted");
    tamper_six("withheld-faults", name, |_| (), "inconclusive");
    let slow = |second: &mut Value| second["succeeded_p99_ms"] = 3_600.into();
    tamper_six(
        "as-shipped",
        name,
        |arms| each(&mut arms[1], slow),
        "refuted",
    );
    let few = |arms: &mut Value| divide(&mut arms[1]["fault"]["in_force"]["decided"], 3);
    tamper_six("as-shipped", name, few, "refuted");
    let quick = |second: &mut Value| second["succeeded_p99_ms"] = 300.into();
    tamper_six(
        "as-shipped",
        name,
        |arms| each(&mut arms[0], quick),
        "inconclusive",
    );
    // Damage that no pattern may do refutes in a single run.
    let lose = |arm: &mut Value| arm["books"]["lost"] = serde_json::json!(["one"]);
    tamper(name, 1, lose, "refuted");
}

#[test]
fn others_who_pay_for_the_greedy_one_refute_rate_limit() {
    let others = |arm: &mut Value, change: fn(&mut Value)| {
        let seconds = arm["load"]["routes"].as_array_mut().expect("routes");
        let others = seconds
            .iter_mut()
            .filter(|second| second["group"] == "others");
        others.for_each(change);
    };
    let fail = |second: &mut Value| second["succeeded"] = 0.into();
    tamper("rate_limit", 1, |arm| others(arm, fail), "refuted");
    let limit = |second: &mut Value| second["answers"]["429"] = 1.into();
    tamper("rate_limit", 1, |arm| others(arm, limit), "refuted");
    let serve = |second: &mut Value| {
        let answers = second["answers"].as_object().expect("answers").values();
        let sent: u64 = answers.filter_map(Value::as_u64).sum();
        second["succeeded"] = sent.into();
    };
    let not_sent = |arm: &mut Value, count: u64| {
        others(arm, serve);
        let timeline = arm["load"]["timeline"].as_array_mut().expect("seconds");
        timeline
            .iter_mut()
            .for_each(|second| second["not_sent"] = count.into());
    };
    tamper("rate_limit", 0, |arm| not_sent(arm, 0), "inconclusive");
    // Who could not even ask was not served either.
    tamper("rate_limit", 0, |arm| not_sent(arm, 100), "upheld");
}
