//! What decides how the system is set up: xtask's own settings, and no variable by which Compose is told what to do.

use std::{fs, time::Duration};

use crate::{
    program::{Call, docker},
    system::System,
};

/// With nothing to build.
const UP_WITHIN: Duration = Duration::from_secs(120);

/// Any one of these makes Compose do something else than it is called for.
const FOR_COMPOSE: [(&str, &str); 5] = [
    ("COMPOSE_PROFILES", "tools"),
    ("COMPOSE_FILE", "/nowhere/compose.yaml"),
    ("COMPOSE_PROJECT_NAME", "elsewhere"),
    ("COMPOSE_ENV_FILES", "/nowhere/.env"),
    ("COMPOSE_DISABLE_ENV_FILE", "1"),
];

/// The project's containers, stopped ones included, tools and all.
fn containers(system: &System) -> Vec<String> {
    let project = format!("label=com.docker.compose.project={}", system.project());
    let ids = docker(["ps", "--all", "--quiet", "--no-trunc", "--filter", &project]);
    let mut ids: Vec<String> = ids.lines().map(str::to_owned).collect();
    ids.sort();
    ids
}

#[test]
fn composes_variables_from_outside_change_nothing() {
    let system = System::take_turn();
    let before = containers(&system);
    Call::xtask_with(&FOR_COMPOSE, system.project(), system.env_file(), &["up"])
        .start()
        .end_within(UP_WITHIN)
        .expect_code(0);
    assert_eq!(containers(&system), before);
}

#[test]
fn composes_variables_in_the_env_file_change_nothing() {
    let system = System::take_turn();
    let before = containers(&system);
    let folder = tempfile::tempdir().expect("a folder for the test");
    let env_file = folder.path().join(".env");
    let mut text = fs::read_to_string(system.env_file()).expect("the system's settings");
    for (name, value) in FOR_COMPOSE {
        text += &format!("{name}={value} # for a compose by hand\n");
    }
    fs::write(&env_file, &text).expect("the env file can be written");
    Call::xtask_with(&[], system.project(), &env_file, &["up"])
        .start()
        .end_within(UP_WITHIN)
        .expect_code(0);
    assert_eq!(containers(&system), before);
    let kept = fs::read_to_string(&env_file).expect("the env file");
    assert!(kept.ends_with("COMPOSE_DISABLE_ENV_FILE=1 # for a compose by hand\n"));
}

/// What a tool's container that somebody left behind does to the commands that want a healthy system.
#[test]
fn a_tool_that_was_started_by_hand_is_no_part_of_the_system() {
    let system = System::take_turn();
    let labels = [
        format!("com.docker.compose.project={}", system.project()),
        "com.docker.compose.service=dead-letters".to_owned(),
        "com.docker.compose.oneoff=False".to_owned(),
    ];
    let mut run = vec!["run", "--detach"];
    run.extend(labels.iter().flat_map(|label| ["--label", label.as_str()]));
    // Without arguments it ends at once.
    run.push("agora/dead-letters:dev");
    let left = docker(run).trim().to_owned();
    docker(["wait", &left]);
    let load = ["load", "checkout", "--users", "1", "--run-time", "2s"];
    let loaded = system.start_xtask(&load).end_within(UP_WITHIN);
    let status = system.xtask(&["status"]);
    docker(["rm", "--force", &left]);
    loaded.expect_code(0);
    status.expect_code(0);
}
