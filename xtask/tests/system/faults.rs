//! Faults by hand: each takes effect, proves it, and leaves a system in which orders are confirmed; one whose
//! process was killed is repaired by `heal`, which has nothing but the system to go by.

use std::time::Duration;

use serde_json::Value;
use shared_events::topology::{ORDER_EVENTS, Topology};

use crate::{
    client::{PASSWORD, TestUser},
    program::{EXIT_INTERRUPTED, Running, docker},
    reconciliation,
    system::System,
    wait,
};

/// A killed broker takes its time to boot.
const OVER_WITHIN: Duration = Duration::from_secs(150);
const INJECTED_WITHIN: Duration = Duration::from_secs(45);
/// Reconnecting takes at most five seconds.
const DECIDED_WITHIN: Duration = Duration::from_secs(30);
/// They take a service several times the milliseconds that it may have of each 100 ms.
const READS_AT_A_TIME: usize = 20;

/// Injects a fault for a moment; what is said of it.
#[track_caller]
fn fault(system: &System, line: &str, code: i32) -> Value {
    let call = format!("fault {line} --format json");
    let args: Vec<&str> = call.split(' ').collect();
    let ended = system.start_xtask(&args).end_within(OVER_WITHIN);
    println!("{}", ended.account());
    let report = ended.expect_code(code).json();
    assert_eq!(report["bit"], code == 0, "{line}: {report}");
    report
}

/// Injects a fault that lasts for longer than the test, and waits for its effect.
#[track_caller]
fn start(system: &System, line: &str, effect: impl Fn() -> bool) -> Running {
    let call = format!("fault {line} --for 10m");
    let args: Vec<&str> = call.split(' ').collect();
    let running = system.start_xtask(&args);
    wait::until(line, INJECTED_WITHIN, || {
        if effect() {
            return Ok(());
        }
        running.expect_running();
        Err("no effect yet".to_owned())
    });
    running
}

#[track_caller]
fn an_order_is_confirmed(system: &System) {
    system.wait_until_healthy();
    reconciliation::an_order_is_confirmed(system);
}

fn inspect(system: &System, service: &str, what: &str) -> String {
    docker(["inspect", "--format", what, &system.container(service)])
}

fn is_paused(system: &System, service: &str) -> bool {
    inspect(system, service, "{{.State.Status}}").trim() == "paused"
}

fn is_bound(system: &System, stream: Topology) -> bool {
    let path = format!(
        "/api/bindings/%2F/e/{}/q/{}",
        stream.exchange(),
        stream.queue()
    );
    let bindings = system.broker().get(&path, &[]).expect_status(200).json();
    bindings
        .as_array()
        .is_some_and(|bindings| !bindings.is_empty())
}

#[test]
fn a_fault_of_the_engine_takes_effect_and_is_gone_afterwards() {
    let system = System::take_turn();
    for line in [
        "pause inventory-service --for 1s",
        "pause product-service --one --for 1s",
        "stop order-service --for 1s",
        "restart inventory-service --for 0s",
        "cut order-service data --for 1s",
        "cut inventory-service edge --for 1s",
    ] {
        fault(&system, line, 0);
    }
    an_order_is_confirmed(&system);
    system.xtask(&["verify-dlq", "--settled"]).expect_code(0);
}

/// A service that has nothing to do uses less than the smallest quota, and isn't throttled.
#[test]
fn a_service_with_a_quota_is_throttled_while_it_works() {
    let system = System::take_turn();
    let ada = TestUser::new(&system.gateway);
    let starve = "fault starve-cpu inventory-service 10 --for 3s --format json";
    let starve = system.start_xtask(&starve.split(' ').collect::<Vec<_>>());
    wait::until("the fault is over", OVER_WITHIN, || {
        for _ in 0..READS_AT_A_TIME {
            // Whether it is answered isn't asked here.
            ada.try_to_read_the_stock(&system.gateway);
        }
        starve.is_over().then_some(()).ok_or("it is not".to_owned())
    });
    let report = starve.end_within(OVER_WITHIN).expect_code(0).json();
    assert_eq!(report["bit"], true, "{report}");
    an_order_is_confirmed(&system);
}

#[test]
fn a_fault_of_the_broker_takes_effect_and_is_gone_afterwards() {
    let system = System::take_turn();
    for line in [
        "reset order-service --for 1s",
        "unbind --for 1s",
        "memory-alarm --for 1s",
        "kill rabbitmq --for 1s",
    ] {
        fault(&system, line, 0);
    }
    assert!(is_bound(&system, ORDER_EVENTS));
    an_order_is_confirmed(&system);
    system.xtask(&["verify-dlq", "--settled"]).expect_code(0);
}

#[test]
fn a_held_table_is_waited_for_and_free_afterwards() {
    let system = System::take_turn();
    fault(&system, "lock-table orders outbox --for 2s", 0);
    an_order_is_confirmed(&system);
}

/// A sign-up waits for 5 s at most: at the end of the fault nobody waits any more.
#[test]
fn an_effect_that_is_over_before_the_fault_is_none_the_less_one() {
    let system = System::take_turn();
    let lock = ["fault", "lock-table", "users", "users", "--for", "12s"];
    let lock = system.start_xtask(&[&lock[..], &["--format", "json"]].concat());
    wait::until("the table is held", INJECTED_WITHIN, || {
        let held = "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock'
                    AND relation = 'users'::regclass";
        let held = system.query("users", held);
        (held == [["1"]])
            .then_some(())
            .ok_or_else(|| format!("{held:?}"))
    });
    let account =
        serde_json::json!({ "name": "Ada", "email": "ada@example.org", "password": PASSWORD });
    let answer = system.gateway.post("/auth/signup", &[], Some(&account));
    assert!(answer.status >= 500, "{}", answer.status);
    lock.expect_running();
    let report = lock.end_within(OVER_WITHIN).expect_code(0).json();
    let proof = report["proof"].as_str().expect("a proof");
    assert!(
        proof.contains("sessions wait for the table `users`, at ")
            && proof.ends_with("at the end: no session waits for the table `users`"),
        "{proof}"
    );
}

#[test]
fn poison_dies_and_heal_removes_it_and_nothing_else() {
    let system = System::take_turn();
    fault(&system, "poison --count 3 --for 1s", 0);
    system.publish(ORDER_EVENTS, "order.placed.v1", "somebody else's");
    wait::until("four dead letters", DECIDED_WITHIN, || {
        let verdict = system.xtask(&["verify-dlq", "--expect", "4"]);
        (verdict.code == Some(0))
            .then_some(())
            .ok_or(verdict.stdout)
    });
    let repaired = heal(&system);
    assert!(
        repaired == ["3 messages of poison removed from order_events.dead"],
        "{repaired:?}"
    );
    system
        .xtask(&["verify-dlq", "--expect", "1"])
        .expect_code(0);
    system.purge_dead_letters();
}

#[test]
fn an_event_that_comes_again_takes_no_stock() {
    let system = System::take_turn();
    for _ in 0..5 {
        an_order_is_confirmed(&system);
    }
    let taken = "SELECT sum(quantity) FROM stock_movements";
    let before = system.query("inventory", taken);
    let report = fault(
        &system,
        "redeliver --count 5 --published-within 10m --for 1s",
        0,
    );
    assert!(
        report["proof"].as_str().unwrap().contains("a second time"),
        "{report}"
    );
    an_order_is_confirmed(&system);
    let after = system.query("inventory", taken);
    let sum = |rows: &[Vec<String>]| rows[0][0].parse::<i64>().unwrap();
    assert_eq!(sum(&after), sum(&before) + 1);
}

#[test]
fn a_fault_without_an_effect_is_reported() {
    let system = System::take_turn();
    let report = fault(&system, "redeliver --published-within 0s --for 0s", 1);
    assert!(
        report["proof"].as_str().unwrap().contains("put 0 into"),
        "{report}"
    );
    // No service of ours has a connection under this name.
    fault(&system, "reset prometheus --for 0s", 1);
}

#[test]
fn ctrl_c_heals() {
    let system = System::take_turn();
    let pause = start(&system, "pause inventory-service", || {
        is_paused(&system, "inventory-service")
    });
    let ended = pause.interrupt(OVER_WITHIN).expect_code(EXIT_INTERRUPTED);
    assert!(ended.stderr.contains("healing"), "{}", ended.account());
    assert!(!is_paused(&system, "inventory-service"));
    an_order_is_confirmed(&system);
}

/// All of them at once: each has to be found beside the others.
#[test]
fn heal_mends_what_killed_processes_left_behind() {
    let system = System::take_turn();
    let starve = start(&system, "starve-cpu order-service 200", || {
        inspect(&system, "order-service", "{{.HostConfig.CpuQuota}}").trim() == "20000"
    });
    let unbind = start(&system, "unbind", || !is_bound(&system, ORDER_EVENTS));
    let lock = start(&system, "lock-table users users", || {
        let held = "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock'
                    AND relation = 'users'::regclass";
        system.query("users", held) == [["1"]]
    });
    let cut = start(&system, "cut inventory-service data", || {
        !inspect(
            &system,
            "inventory-service",
            "{{json .NetworkSettings.Networks}}",
        )
        .contains("_data")
    });
    let alarm = start(&system, "memory-alarm", || {
        let alarms = system.broker().get("/api/health/checks/alarms", &[]);
        alarms.status == 503
    });
    let pause = start(&system, "pause product-service", || {
        is_paused(&system, "product-service")
    });
    // Not one after the other: the next command would heal what the one before has left.
    for killed in [starve, unbind, lock, cut, alarm, pause] {
        killed.kill(OVER_WITHIN);
    }
    docker(["kill", &system.container("alertmanager")]);

    let repaired = heal(&system).join("; ");
    for expected in [
        "order-service (",
        "share of the processor",
        "binding restored: order_events → order_events",
        "1 database sessions",
        "back in the network data",
        "watermark",
        "unpaused",
        "alertmanager (",
    ] {
        assert!(repaired.contains(expected), "{expected}: {repaired}");
    }
    assert!(is_bound(&system, ORDER_EVENTS));
    an_order_is_confirmed(&system);
    assert_eq!(heal(&system), Vec::<String>::new());
}

/// Runs `heal`; what it repaired.
#[track_caller]
fn heal(system: &System) -> Vec<String> {
    let ended = system
        .start_xtask(&["heal", "--format", "json"])
        .end_within(OVER_WITHIN)
        .expect_code(0);
    serde_json::from_value(ended.json()["mended"].clone()).expect("a list of what was mended")
}
