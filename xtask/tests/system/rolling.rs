//! Containers and keys are replaced under load without a failed request; a replacement that can't
//! work, or is killed, leaves as many containers as there were.

use std::time::Duration;

use records::load::RequestCount;
use serde_json::Value;

use crate::{
    client::{Client, TestUser},
    load::{self, RUN_ENDS_WITHIN},
    program::{Call, EXIT_INTERRUPTED, Running},
    reconciliation::reconcile,
    run::Run,
    system::System,
    wait,
};

/// A container is healthy within seconds; this is for busy machines.
const REPLACED_WITHIN: Duration = Duration::from_secs(120);
const LOAD_BEGINS_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn containers_come_go_and_are_replaced_under_load_and_no_request_fails() {
    let system = System::take_turn();
    let load = start_load(&system, "checkout");
    let scaled = json(&system, &["scale", "order-service", "2"], 0);
    assert_eq!(scaled["containers"], 2, "{scaled}");
    let before = ids(&system, "order-service");
    let report = json(&system, &["rollout", "order-service"], 0);
    let after = ids(&system, "order-service");
    assert_eq!(after.len(), 2, "{report}");
    assert!(after.iter().all(|id| !before.contains(id)), "{report}");
    let replaced = report["replaced"].as_array().expect("what was replaced");
    let graceful = replaced.iter().filter(|one| one["exit_code"] == 0);
    assert_eq!(graceful.count(), 2, "{report}");
    // `up` takes no container away.
    let up = system.start_xtask(&["up"]).end_within(REPLACED_WITHIN);
    up.expect_code(0);
    assert_eq!(ids(&system, "order-service"), after);
    let scaled = json(&system, &["scale", "order-service", "1"], 0);
    assert_eq!(scaled["left"], serde_json::json!([0]), "{scaled}");
    let run = end(load);
    let summary = run.summary();
    assert_eq!(summary.failed, 0, "{:?}", summary.requests);
    reconcile(&system, &run.ledger());
}

#[test]
fn keys_are_rotated_under_load_and_no_token_is_refused() {
    let system = System::take_turn();
    let gateway = &system.gateway;
    let ada = TestUser::new(gateway);
    let load = start_load(&system, "session");
    let before = json(&system, &["keys", "list"], 0);
    let after = json(&system, &["keys", "rotate"], 0);
    let signs = |report: &Value| report["keys"][0]["id"].clone();
    assert_ne!(signs(&after), signs(&before), "{after}");
    assert_eq!(after["keys"][1]["id"], signs(&before), "{after}");
    assert_eq!(
        after["keys"][0]["signing"], after["keys"][0]["of"],
        "{after}"
    );

    assert_eq!(me(gateway, &ada.authorization), 200, "a token from before");
    let eve = TestUser::new(gateway);
    assert_eq!(me(gateway, &eve.authorization), 200, "a token from after");
    let summary = end(load).summary();
    let failed: Vec<&RequestCount> = summary
        .requests
        .iter()
        .filter(|one| one.status.is_none_or(|status| status >= 400) && !was_shed(one))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");

    let refused = system.xtask(&["keys", "retire"]).expect_code(1);
    assert!(refused.stderr.contains("valid for"), "{}", refused.stderr);
    let retired = json(&system, &["keys", "retire", "--force"], 0);
    let keys = retired["keys"].as_array().expect("keys");
    assert_eq!(keys.len(), 1, "{retired}");
    assert_eq!(me(gateway, &ada.authorization), 401, "of the old key");
    assert_eq!(me(gateway, &eve.authorization), 200, "of the new key");
}

#[test]
fn containers_that_cannot_start_are_removed_and_the_old_ones_serve_on() {
    let system = System::take_turn();
    let ada = TestUser::new(&system.gateway);
    let before = ids(&system, "user-service");
    let broken = [("AGORA_JWT_KEYS", "too-short:00")];
    let rollout = ["rollout", "user-service"];
    let failed = Call::xtask_with(&broken, system.project(), system.env_file(), &rollout)
        .start()
        .end_within(REPLACED_WITHIN)
        .expect_code(1);
    // The service says why, and the command repeats it.
    for part in ["JWT_KEYS", "exit code 2", "the old ones serve on", "next: "] {
        assert!(failed.stderr.contains(part), "{part}: {}", failed.stderr);
    }
    assert_eq!(ids(&system, "user-service"), before);
    assert_eq!(me(&system.gateway, &ada.authorization), 200);
}

#[test]
fn a_rollout_that_is_killed_is_made_good_by_heal() {
    let system = System::take_turn();
    let before = ids(&system, "inventory-service");
    let rollout = system.start_xtask(&["rollout", "inventory-service"]);
    wait::until("a second container", REPLACED_WITHIN, || {
        match ids(&system, "inventory-service").len() {
            1 => Err("one container".to_owned()),
            _ => Ok(()),
        }
    });
    rollout.kill(REPLACED_WITHIN);
    let healed = system.start_xtask(&["heal"]).end_within(REPLACED_WITHIN);
    let healed = healed.expect_code(0).stdout;
    assert!(healed.contains("cut short"), "{healed}");
    assert_eq!(ids(&system, "inventory-service"), before);
    system.xtask(&["status"]).expect_code(0);
}

/// A sign-up or log-in that a service without capacity rejected, as one does whose cores have other work: hashing needs them. A
/// replacement that loses requests shows in the reads of the same service, which are thirty times as many.
fn was_shed(answers: &RequestCount) -> bool {
    ["/auth/login", "/auth/signup"].contains(&answers.route.as_str()) && answers.status == Some(503)
}

/// Starts a load that goes on until it is ended, and returns when its users are signed up and it is under way.
#[track_caller]
fn start_load(system: &System, scenario: &str) -> Running {
    let load = system.start_xtask(&[
        "load",
        scenario,
        "--run-time",
        "10m",
        "--users",
        "5",
        "--rate-limit",
        "40",
        "--format",
        "json",
    ]);
    wait::until("a load under way", LOAD_BEGINS_WITHIN, || {
        load.expect_running();
        match load::under_way(system) {
            Some(_) => Ok(()),
            None => Err("its users are being signed up".to_owned()),
        }
    });
    load
}

/// Ends a load, which has gone on until now.
#[track_caller]
fn end(load: Running) -> Run {
    let ended = load.interrupt(RUN_ENDS_WITHIN);
    Run::named_by(&ended.expect_code(EXIT_INTERRUPTED))
}

#[track_caller]
fn json(system: &System, command: &[&str], code: i32) -> Value {
    let args = [command, &["--format", "json"]].concat();
    let ended = system.start_xtask(&args).end_within(REPLACED_WITHIN);
    ended.expect_code(code).json()
}

/// The ids of a service's containers, sorted.
fn ids(system: &System, service: &str) -> Vec<String> {
    let mut ids = system.containers_of(service);
    ids.sort();
    ids
}

#[track_caller]
fn me(gateway: &Client, authorization: &str) -> u16 {
    let headers = [("authorization", authorization)];
    gateway.get("/users/me", &headers).status
}
