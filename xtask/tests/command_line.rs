//! The binary from outside, where nothing runs: exit codes, errors with a next step, clean JSON.

use std::process::{Command, Output};

/// Runs xtask against a container engine that can't be there.
fn xtask(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(args)
        .env("DOCKER_HOST", "tcp://127.0.0.1:1")
        .env("AGORA_PROJECT", "agora-nobody")
        .output()
        .expect("failed to start xtask")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    assert_eq!(xtask(&["no-such-command"]).status.code(), Some(2));
    assert_eq!(
        xtask(&["verify-dlq", "--expect", "some"]).status.code(),
        Some(2)
    );
    let logs = xtask(&["logs", "no-such-service"]);
    assert_eq!(logs.status.code(), Some(2));
    assert!(stderr(&logs).contains("order-service"), "{}", stderr(&logs));
}

#[test]
fn a_missing_engine_exits_with_3_and_a_next_step() {
    for command in [
        "up",
        "down",
        "status",
        "smoke",
        "load",
        "verify-dlq",
        "verify-metrics",
    ] {
        let output = xtask(&[command]);
        assert_eq!(
            output.status.code(),
            Some(3),
            "{command}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains("next: "),
            "{command}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn json_stands_alone_on_standard_output_even_for_errors() {
    for command in ["status", "smoke", "load", "verify-dlq", "verify-metrics"] {
        let output = xtask(&[command, "--format", "json"]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["outcome"], "unavailable", "{command}");
        assert!(json["next_step"].is_string(), "{command}");
    }
}

#[test]
fn outside_the_repository_it_says_where_to_go() {
    let elsewhere = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("status")
        .current_dir(elsewhere.path())
        .env_remove("CARGO_MANIFEST_DIR")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("not inside agora's repository"),
        "{}",
        stderr(&output)
    );
}
