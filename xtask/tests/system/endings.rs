//! Commands that end before their time, on a running system: whatever ends them, nothing of theirs goes on, and what only
//! SIGKILL leaves behind is undone by the next command.

use std::time::Duration;

use crate::{
    load::generators,
    program::{Call, EXIT_HUNG_UP, Running, docker},
    system::System,
    wait,
};

const BEGUN_WITHIN: Duration = Duration::from_secs(90);
const OVER_WITHIN: Duration = Duration::from_secs(60);
/// As a shell has it: 128 and the number of SIGPIPE.
const EXIT_UNREAD: &str = "141";

fn is_paused(system: &System, service: &str) -> bool {
    let container = system.container(service);
    docker(["inspect", "--format", "{{.State.Status}}", &container]).trim() == "paused"
}

#[track_caller]
fn pause(system: &System, service: &str) -> Running {
    let fault = system.start_xtask(&["fault", "pause", service, "--for", "10m"]);
    wait::until("a paused container", BEGUN_WITHIN, || {
        fault.expect_running();
        match is_paused(system, service) {
            true => Ok(()),
            false => Err("it runs".to_owned()),
        }
    });
    fault
}

#[track_caller]
fn load(system: &System) -> Running {
    let load = system.start_xtask(&["load", "browse", "--run-time", "10m"]);
    wait::until("a load", BEGUN_WITHIN, || {
        load.expect_running();
        match generators(system).len() {
            0 => Err("no load generator runs".to_owned()),
            _ => Ok(()),
        }
    });
    load
}

#[test]
fn a_closed_terminal_leaves_no_fault_and_no_load() {
    let system = System::take_turn();
    let ended = pause(&system, "jaeger").hang_up(OVER_WITHIN);
    let ended = ended.expect_code(EXIT_HUNG_UP);
    assert!(ended.stderr.contains("healing"), "{}", ended.account());
    assert!(!is_paused(&system, "jaeger"));
    load(&system).hang_up(OVER_WITHIN).expect_code(EXIT_HUNG_UP);
    assert!(generators(&system).is_empty());
}

#[test]
fn a_killed_load_goes_on_for_a_moment_only() {
    let system = System::take_turn();
    load(&system).kill(OVER_WITHIN);
    wait::until("no load", OVER_WITHIN, || match generators(&system) {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    });
}

#[test]
fn the_next_command_undoes_what_a_killed_one_left() {
    let system = System::take_turn();
    for command in ["status", "verify-dlq", "alerts"] {
        pause(&system, "jaeger").kill(OVER_WITHIN);
        assert!(is_paused(&system, "jaeger"));
        let next = system.xtask(&[command]).expect_code(0);
        assert!(next.stderr.contains("cut short"), "{}", next.account());
        assert!(!is_paused(&system, "jaeger"), "{}", next.account());
        // Once.
        let next = system.xtask(&[command]).expect_code(0);
        assert!(!next.stderr.contains("cut short"), "{}", next.account());
    }
}

#[test]
fn a_fault_that_lasts_is_left_to_whoever_asked_for_it() {
    let system = System::take_turn();
    let lasting = pause(&system, "jaeger");
    // Killed, it leaves something to undo; but not now.
    pause(&system, "alert-receiver").kill(OVER_WITHIN);
    let status = system.xtask(&["status"]).expect_code(1);
    assert!(status.stderr.contains("lasts"), "{}", status.account());
    assert!(is_paused(&system, "jaeger"));
    lasting.interrupt(OVER_WITHIN).expect_code(130);
    system.xtask(&["status"]).expect_code(0);
    assert!(!is_paused(&system, "alert-receiver"));
}

#[test]
fn a_reader_that_goes_ends_a_command_and_heals_its_fault() {
    let system = System::take_turn();
    let before_a_reader = |lines, args: &[&str]| {
        let call = Call::xtask_before_a_reader(lines, system.project(), system.env_file(), args);
        let ended = call.run().expect_code(0);
        for word in ["panicked", "ipe", "interrupted", "error"] {
            assert!(!ended.stderr.contains(word), "{}", ended.account());
        }
        ended.stdout.trim().to_owned()
    };
    for args in [
        &["status"][..],
        &["status", "--format", "json"],
        &["logs"],
        &["logs", "order-service", "--tail", "100000"],
        &["dlq", "list"],
    ] {
        let code = before_a_reader(0, args);
        assert!(["0", EXIT_UNREAD].contains(&&*code), "{args:?}: {code}");
    }
    // It would go on for ever.
    assert_eq!(before_a_reader(1, &["logs", "--follow"]), EXIT_UNREAD);
    let load = ["load", "browse", "--users", "2", "--run-time", "3s"];
    let code = before_a_reader(0, &load);
    assert!(["0", EXIT_UNREAD].contains(&&*code), "{code}");
    before_a_reader(0, &["fault", "pause", "jaeger", "--for", "1s"]);
    assert!(!is_paused(&system, "jaeger"));
}
