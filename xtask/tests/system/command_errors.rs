//! Commands that can't do their work: an exit code, a cause, and the next step. Nothing of this touches the
//! running system.

use std::{net::TcpListener, path::Path};

use crate::program::{Call, Ended, docker};

/// A project that nobody starts.
const NOBODY: &str = "agora-test-nobody";

#[test]
fn a_command_without_a_running_system_says_how_to_start_one() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let commands: [&[&str]; 17] = [
        &["status"],
        &["smoke"],
        &["load", "checkout"],
        &["verify-dlq"],
        &["verify-metrics"],
        &["verify-dashboards"],
        &["alerts"],
        &["alerts", "--history"],
        &["verify-traces"],
        &["dlq", "list"],
        &["dlq", "peek", "1"],
        &["dlq", "replay", "--all"],
        &["dlq", "purge", "--reason", "unreadable"],
        &["logs"],
        &["rollout", "order-service"],
        &["scale", "order-service", "2"],
        &["keys", "list"],
    ];
    for command in commands {
        let refused = xtask(&folder.path().join(".env"), command).expect_code(3);
        assert!(
            refused.stderr.contains("cargo xtask up"),
            "{}",
            refused.account()
        );
    }
}

#[test]
fn a_taken_port_keeps_up_from_starting_anything() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let env_file = folder.path().join(".env");
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = holder
        .local_addr()
        .expect("a bound listener has an address")
        .port();
    let ports = [
        "AGORA_RABBITMQ_UI_PORT",
        "AGORA_PROMETHEUS_PORT",
        "AGORA_ALERTMANAGER_PORT",
        "AGORA_ALERT_RECEIVER_PORT",
        "AGORA_JAEGER_PORT",
        "AGORA_TRAEFIK_DASHBOARD_PORT",
    ]
    .map(|name| format!("{name}=0\n"));
    std::fs::write(
        &env_file,
        format!("AGORA_HTTP_PORT={port}\n{}", ports.concat()),
    )
    .expect("the env file can be written");

    let refused = xtask(&env_file, &["up"]).expect_code(3);
    for part in [
        format!("port {port}"),
        "AGORA_HTTP_PORT".to_owned(),
        "next: ".to_owned(),
    ] {
        assert!(
            refused.stderr.contains(&part),
            "{part}: {}",
            refused.account()
        );
    }
    for kind in ["container", "network", "volume"] {
        let label = format!("label=com.docker.compose.project={NOBODY}");
        let all: &[&str] = if kind == "container" { &["--all"] } else { &[] };
        let made = docker(
            [kind, "ls", "--quiet", "--filter", &label]
                .into_iter()
                .chain(all.iter().copied()),
        );
        assert_eq!(made, "", "a {kind} was made");
    }
}

#[track_caller]
fn xtask(env_file: &Path, args: &[&str]) -> Ended {
    Call::xtask(NOBODY, env_file, args).run()
}
