//! The binary from outside, where nothing runs: exit codes, errors with a next step, clean JSON.

#[cfg(target_os = "linux")]
mod engine;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use support::small_repository::small_repository;

/// Runs xtask against a container engine that can't be there.
fn xtask(args: &[&str]) -> Output {
    command()
        .args(args)
        .output()
        .expect("failed to start xtask")
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .env("DOCKER_HOST", "tcp://127.0.0.1:1")
        .env("AGORA_PROJECT", "agora-nobody");
    command
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
    // Without a history nothing is left out.
    let since = xtask(&["alerts", "--since", "10m"]);
    assert_eq!(since.status.code(), Some(2));
    assert!(stderr(&since).contains("--history"), "{}", stderr(&since));
    for wrong in [
        ["--orders", "0"],
        ["--min-share", "101"],
        ["--min-share", "NaN"],
    ] {
        let output = xtask(&["verify-traces", wrong[0], wrong[1]]);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
    for wrong in [
        "",
        "0af7",
        "not-a-trace-id",
        "0af7651916cd43dd8448eb211c80319c0",
    ] {
        let output = xtask(&["logs", "--trace", wrong]);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{wrong:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains("32 hexadecimal digits"),
            "{}",
            stderr(&output)
        );
    }
    for wrong in [
        &["orders", "stuck", "--older-than", "soon"][..],
        &["orders", "repair", "not-an-order"],
        &["outbox", "retry"],
        &["outbox", "drop"],
        &["outbox", "drop", "not-an-event"],
        &[
            "outbox",
            "drop",
            "--all",
            "0195a000-0000-7000-8000-000000000001",
        ],
    ] {
        let output = xtask(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
    let bench = xtask(&["bench", "--only", "nonsense"]);
    assert_eq!(bench.status.code(), Some(2));
    assert!(stderr(&bench).contains("telemetry"), "{}", stderr(&bench));
    let logs = xtask(&["logs", "no-such-service"]);
    assert_eq!(logs.status.code(), Some(2));
    assert!(stderr(&logs).contains("order-service"), "{}", stderr(&logs));
}

#[test]
fn one_option_chooses_the_form_wherever_it_stands() {
    for args in [
        ["--format", "json", "evaluate", "list"],
        ["evaluate", "list", "--format", "json"],
    ] {
        let output = xtask(&args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(list.as_array().is_some_and(|list| list.len() > 10));
    }
    let refused = xtask(&["up", "--format", "json"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        stderr(&refused).contains("no JSON form"),
        "{}",
        stderr(&refused)
    );
}

#[test]
fn a_shell_is_given_its_completions() {
    for (shell, part) in [
        ("bash", "complete -F _xtask"),
        ("zsh", "#compdef xtask"),
        ("fish", "complete -c xtask"),
    ] {
        let output = xtask(&["completions", shell]);
        assert!(output.status.success(), "{shell}: {}", stderr(&output));
        let script = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(
            script.contains(part) && script.contains("verify-traces"),
            "{shell}"
        );
    }
}

#[test]
fn letters_are_only_moved_when_it_is_said_which() {
    for task in ["replay", "purge"] {
        let output = xtask(&["dlq", task, "--limit", "5"]);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("or --all"), "{}", stderr(&output));
        let output = xtask(&["dlq", task, "--queue", "order_events"]);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("inventory_events.dead"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_port_that_is_none_keeps_up_from_starting_anything() {
    let folder = tempfile::tempdir().unwrap();
    // Grafana may not even start: what its port is, is known before.
    for variable in ["AGORA_HTTP_PORT", "AGORA_GRAFANA_PORT"] {
        let output = command()
            .arg("up")
            .env("AGORA_ENV_FILE", folder.path().join(".env"))
            .env(variable, "threethousand")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        for part in [variable, "threethousand"] {
            assert!(stderr(&output).contains(part), "{}", stderr(&output));
        }
    }
}

#[test]
fn a_fault_needs_a_service_that_there_is() {
    let output = xtask(&["fault", "pause", "orders"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("order-service"),
        "{}",
        stderr(&output)
    );
    let output = xtask(&["fault", "pause", "order-service"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert_eq!(xtask(&["fault", "list"]).status.code(), Some(0));
}

#[test]
fn only_the_shops_services_are_rolled_out_and_scaled() {
    for wrong in [
        &["rollout", "orders"][..],
        &["rollout", "postgres"],
        &["scale", "traefik", "2"],
    ] {
        let output = xtask(wrong);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("order-service"),
            "{}",
            stderr(&output)
        );
    }
    for wrong in ["0", "9", "two"] {
        let output = xtask(&["scale", "order-service", wrong]);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    }
    assert_eq!(xtask(&["keys"]).status.code(), Some(2));
}

#[test]
fn a_switch_that_cannot_be_read_keeps_up_from_starting_anything() {
    let folder = tempfile::tempdir().unwrap();
    let env_file = folder.path().join(".env");
    for (variable, value) in [
        ("AGORA_PATTERN_OUTBOXX", "off"),
        ("AGORA_PATTERN_OUTBOX", "false"),
    ] {
        let up = |command: &mut Command| command.arg("up").output().unwrap();
        let in_environment = up(command()
            .env("AGORA_ENV_FILE", &env_file)
            .env(variable, value));
        std::fs::write(&env_file, format!("{variable}={value}\n")).unwrap();
        let in_file = up(command().env("AGORA_ENV_FILE", &env_file));
        std::fs::remove_file(&env_file).unwrap();
        for output in [in_environment, in_file] {
            assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
            let text = stderr(&output);
            assert!(text.contains(variable), "{text}");
            assert!(text.contains("AGORA_PATTERN_OUTBOX"), "{text}");
        }
    }
}

/// The commands that ask a running system, and print what they found as JSON, too.
fn reports() -> impl Iterator<Item = Vec<&'static str>> {
    let commands = [
        "status",
        "smoke",
        "load",
        "verify-dlq",
        "verify-metrics",
        "verify-traces",
        "verify-dashboards",
        "alerts",
        "alerts --history",
        "heal",
        "orders stuck",
        "orders repair",
        "outbox parked",
        "outbox retry --all",
        "outbox drop --all",
    ];
    commands
        .into_iter()
        .map(|command| command.split(' ').collect())
}

#[test]
fn a_missing_engine_exits_with_3_and_a_next_step() {
    for command in ["up", "down"]
        .map(|one| vec![one])
        .into_iter()
        .chain(reports())
    {
        let output = xtask(&command);
        assert_eq!(
            output.status.code(),
            Some(3),
            "{command:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains("next: "),
            "{command:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn json_stands_alone_on_standard_output_even_for_errors() {
    for command in reports() {
        let output = xtask(&[&command[..], &["--format", "json"]].concat());
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["outcome"], "unavailable", "{command:?}");
        assert!(json["next_step"].is_string(), "{command:?}");
    }
}

#[test]
fn what_an_evaluation_is_asked_is_checked_before_anything_runs() {
    for wrong in [
        &["evaluate", "telepathy"][..],
        &["evaluate", "history", "telepathy"],
        &["evaluate", "--repeat", "0"],
        &["evaluate", "--repeat", "31"],
        &["evaluate", "--sabotage", "everything"],
        &["evaluate", "--compare", "one"],
        &["evaluate", "--compare", "one", "two", "--seed", "1"],
        &["evaluate", "--tolerance", "0.1"],
        &["evaluate", "--compare", "one", "two", "--tolerance", "-1"],
    ] {
        let output = xtask(wrong);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{wrong:?}: {}",
            stderr(&output)
        );
    }
    let unknown = stderr(&xtask(&["evaluate", "telepathy"]));
    assert!(unknown.contains("competing_consumers"), "{unknown}");
}

#[test]
fn an_evaluation_that_is_not_there_exits_with_3() {
    for missing in [
        &["evaluate", "judge"][..],
        &["evaluate", "judge", "no-such-run"],
        &["evaluate", "--compare", "no-such-run", "latest"],
    ] {
        let output = command()
            .args(missing)
            .args(["--format", "json"])
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(3),
            "{missing:?}: {}",
            stderr(&output)
        );
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["outcome"], "unavailable", "{missing:?}");
        assert!(json["next_step"].is_string(), "{missing:?}");
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

fn check(repository: &Path, only: &str) -> Output {
    command()
        .args(["check", "--only", only])
        .current_dir(repository)
        .env_remove("CARGO_MANIFEST_DIR")
        .output()
        .expect("failed to start xtask")
}

fn replace_in(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).expect("the file is there");
    assert!(text.contains(from), "{from}");
    fs::write(file, text.replacen(from, to, 1)).expect("the file can be written");
}

#[test]
fn a_broken_dashboard_fails_its_check_which_names_the_place() {
    let repository = small_repository();
    let sound = check(repository.path(), "dashboards");
    assert_eq!(sound.status.code(), Some(0), "{}", stderr(&sound));

    let dashboard = repository
        .path()
        .join("observability/grafana/dashboards/service.json");
    for (from, to, named) in [
        (
            r#"{service=~\"$service\"}"#,
            r#"{service=~\"$service\"} | jsn"#,
            "no stage `jsn`",
        ),
        (
            r#"{service=~\"$service\"}"#,
            r#"{service=~\"$servise\"}"#,
            "$servise",
        ),
        (r#""uid": "loki""#, r#""uid": "lokki""#, "lokki"),
        (r#""panels": ["#, r#""panels": "#, "isn't a dashboard"),
    ] {
        let sound = fs::read(&dashboard).expect("the file is there");
        replace_in(&dashboard, from, to);
        let broken = check(repository.path(), "dashboards");
        assert_eq!(broken.status.code(), Some(1), "{}", stderr(&broken));
        for part in [named, "service.json"] {
            assert!(
                stderr(&broken).contains(part),
                "{part}: {}",
                stderr(&broken)
            );
        }
        fs::write(&dashboard, sound).expect("the file can be written");
    }
}

#[test]
fn a_component_that_is_not_there_fails_the_check_of_alloys_configuration() {
    let repository = small_repository();
    let alloy = repository.path().join("observability/alloy/config.alloy");
    replace_in(
        &alloy,
        "loki.write.loki.receiver",
        "loki.write.lokki.receiver",
    );
    let broken = check(repository.path(), "loki, alloy, grafana");
    assert_eq!(broken.status.code(), Some(1), "{}", stderr(&broken));
    assert!(
        stderr(&broken).contains("`loki.write.lokki`"),
        "{}",
        stderr(&broken)
    );
}

#[test]
fn a_retired_word_fails_its_check_which_says_what_to_write() {
    let repository = small_repository();
    let list = repository.path().join("docs/reference/retired-words.txt");
    fs::create_dir_all(list.parent().expect("a folder")).expect("a folder");
    fs::write(&list, "\\bwhilst\\b\tobservability/\teffect\n").expect("a file");
    let sound = check(repository.path(), "words");
    assert_eq!(sound.status.code(), Some(0), "{}", stderr(&sound));
    let page = repository.path().join("observability/page.md");
    fs::write(&page, "No fault\nwhilst it lasts.\n").expect("a file");
    let broken = check(repository.path(), "words");
    assert_eq!(broken.status.code(), Some(1));
    let expected = "observability/page.md:2: `whilst`: write effect instead";
    assert!(stderr(&broken).contains(expected), "{}", stderr(&broken));
}

#[test]
fn a_broken_link_fails_its_check_which_names_the_place() {
    let repository = small_repository();
    let page = |text: &str| fs::write(repository.path().join("README.md"), text).expect("a file");
    fs::create_dir_all(repository.path().join("docs/explanation")).expect("a folder");
    let architecture = repository.path().join("docs/explanation/architecture.md");
    fs::write(architecture, "# Architecture\n").expect("a file");
    page("# Home\n[architecture](docs/explanation/architecture.md#architecture)\n");
    let sound = check(repository.path(), "links");
    assert_eq!(sound.status.code(), Some(0), "{}", stderr(&sound));
    page("# Home\n[architecture](docs/explanation/architecture.md#gone)\n");
    let broken = check(repository.path(), "links");
    assert_eq!(broken.status.code(), Some(1));
    let expected = "README.md:2: docs/explanation/architecture.md#gone:";
    assert!(stderr(&broken).contains(expected), "{}", stderr(&broken));
}

#[test]
fn a_check_that_is_not_there_is_refused() {
    let output = xtask(&["check", "--only", "everything"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("dashboard queries"),
        "{}",
        stderr(&output)
    );
}
