//! The reference pages name what there is: commands, scenarios, faults, experiments, patterns and settings. What is new
//! and not described is found, and, where a page has a table of them, what is described and no longer there.
//!
//! Left out: what the pages say about each of them.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use regex::Regex;
use serde_json::Value;

/// Variables of compose.yaml that `up` sets by itself, for nobody to change.
const INTERNAL: [&str; 4] = [
    "AGORA_IMAGE_",
    "AGORA_CONFIGURATION_",
    "AGORA_BIN_DIR",
    "AGORA_SECRETS_ID",
];
const SWITCH: &str = "AGORA_PATTERN_";

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn page(name: &str) -> String {
    read(&format!("docs/reference/{name}.md"))
}

/// What a table's first column names, up to the first blank: from the heading (or the page's beginning) to the next one.
fn described(page: &str, heading: Option<&str>) -> Vec<String> {
    let section = match heading {
        Some(heading) => page.split_once(heading).expect("the heading").1,
        None => page,
    };
    let section = section.split("\n## ").next().unwrap_or_default();
    let row = Regex::new(r"(?m)^\| `([^` ]+)").expect("a regular expression");
    let names = row.captures_iter(section).map(|row| row[1].to_owned());
    names.collect()
}

fn xtask(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(args)
        .env("DOCKER_HOST", "tcp://127.0.0.1:1")
        .output()
        .expect("xtask runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// One field of each entry of a list that a command prints, up to the first blank.
fn listed(args: &[&str], field: &str) -> Vec<String> {
    let list: Value = serde_json::from_str(&xtask(args)).expect("JSON");
    let list = list.as_array().expect("a list");
    let name = |entry: &Value| {
        let text = entry[field].as_str().expect("a text");
        text.split(' ').next().unwrap_or_default().to_owned()
    };
    list.iter().map(name).collect()
}

/// The names in a list of a help text, before its options.
fn helped(args: &[&str], row: &str) -> Vec<String> {
    let row = Regex::new(row).expect("a regular expression");
    let help = xtask(args);
    // Options may have values to choose from, too.
    let help = help.split("\nOptions:\n").next().unwrap_or_default();
    let names = row.captures_iter(help).map(|row| row[1].to_owned());
    names.filter(|name| name != "help").collect()
}

/// The commands that a page doesn't name; those of a group are named behind it.
fn undescribed<'a>(page: &str, commands: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let is_described = |command: &str| {
        let begins = format!("`{command}");
        page.match_indices(&begins).any(|(at, _)| {
            let rest = &page[at + begins.len()..];
            rest.starts_with([' ', '`'])
        })
    };
    commands.filter(|command| !is_described(command)).collect()
}

/// The switches or settings in compose.yaml that a page doesn't name.
fn unexplained(page: &str, compose: &str, switches: bool) -> BTreeSet<String> {
    let variable = Regex::new(r"\$\{(AGORA_[A-Z_]+)").expect("a regular expression");
    let variables = variable
        .captures_iter(compose)
        .filter_map(|found| found.get(1));
    let variables = variables.map(|found| found.as_str());
    let variables = variables
        .filter(|name| !INTERNAL.iter().any(|internal| name.starts_with(internal)))
        .filter(|name| name.starts_with(SWITCH) == switches);
    let named = |name: &&str| match name.strip_prefix(SWITCH) {
        Some(pattern) => page.contains(&format!("| `{}` |", pattern.to_lowercase())),
        None => page.contains(&format!("`{name}`")),
    };
    let missing = variables.filter(|name| !named(name));
    missing.map(str::to_owned).collect()
}

#[test]
fn every_command_is_described() {
    let commands = helped(&["--help"], r"(?m)^  ([a-z-]+)  ");
    assert!(commands.len() > 20, "{commands:?}");
    let mut all = commands.clone();
    for group in ["dlq", "keys", "orders", "outbox"] {
        let subcommands = helped(&[group, "--help"], r"(?m)^  ([a-z-]+)  ");
        assert!(subcommands.len() > 1, "{group}: {subcommands:?}");
        all.extend(subcommands.iter().map(|name| format!("{group} {name}")));
    }
    let missing = undescribed(&page("commands"), all.iter().map(String::as_str));
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn scenarios_and_faults_are_described_in_the_order_in_which_they_are_listed() {
    let commands = page("commands");
    let scenarios = helped(&["load", "--help"], r"(?m)^ +- ([a-z-]+): ");
    assert!(scenarios.len() > 5, "{scenarios:?}");
    assert_eq!(
        described(&commands, Some("\n## Load scenarios\n")),
        scenarios
    );
    assert_eq!(
        described(&commands, Some("\n## Faults\n")),
        listed(&["fault", "list", "--format", "json"], "usage")
    );
}

#[test]
fn experiments_are_described_in_the_order_in_which_they_run() {
    assert_eq!(
        described(&page("experiments"), None),
        listed(&["evaluate", "list", "--format", "json"], "name")
    );
}

#[test]
fn every_pattern_and_every_setting_is_described() {
    let compose = read("compose.yaml");
    for (name, switches) in [("patterns", true), ("settings", false)] {
        let missing = unexplained(&page(name), &compose, switches);
        assert!(missing.is_empty(), "{name}: {missing:?}");
    }
}

#[test]
fn what_is_not_described_is_found() {
    let page = "| `up` | … |\n| `dlq list`, `dlq peek` | … |\n\n## Faults\n\n| `pause SERVICE` | … |\n\n## More\n\n| `kill` | … |\n";
    let commands = ["up", "down", "dlq", "dlq peek", "dlq purge", "u"];
    assert_eq!(
        undescribed(page, commands.into_iter()),
        ["down", "dlq purge", "u"]
    );
    assert_eq!(described(page, Some("\n## Faults\n")), ["pause"]);
    let compose = "A: ${AGORA_HTTP_PORT:-80}\nB: ${AGORA_NEW:-1}\nC: ${AGORA_IMAGE_POSTGRES:?}\nD: ${AGORA_PATTERN_INBOX:-on}\n\
                   E: ${AGORA_PATTERN_NEW:-on}\n";
    let page = "| `AGORA_HTTP_PORT` | 80 |\n| `inbox` | … |\n";
    assert!(unexplained(page, compose, false).iter().eq(["AGORA_NEW"]));
    assert!(
        unexplained(page, compose, true)
            .iter()
            .eq(["AGORA_PATTERN_NEW"])
    );
}
