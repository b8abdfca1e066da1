//! The reference pages name every switch and setting of compose.yaml: a new one that no page describes is found.
//!
//! Left out: what the pages say about them, and the generated tables (`src/reference.rs`).

use std::{collections::BTreeSet, fs, path::Path};

use regex::Regex;

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
fn every_pattern_and_every_setting_is_described() {
    let compose = read("compose.yaml");
    for (name, switches) in [("patterns", true), ("settings", false)] {
        let missing = unexplained(&page(name), &compose, switches);
        assert!(missing.is_empty(), "{name}: {missing:?}");
    }
}

#[test]
fn what_is_not_described_is_found() {
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
