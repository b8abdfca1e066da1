//! The boundaries between crates and between modules, as docs/explanation/architecture.md draws them: held against what
//! cargo resolves and what the sources import.

mod imports;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
};

use serde_json::Value;
use support::sources::{root, texts};

/// The services, and the programs beside them.
const SERVICES: [&str; 6] = [
    "user-service",
    "product-service",
    "order-service",
    "inventory-service",
    "dead-letters",
    "alert-receiver",
];

/// The crates of the laboratory, and which of the workspace's each may name: edges lead downward only.
const LABORATORY: [(&str, &[&str]); 6] = [
    ("base", &[]),
    ("records", &[]),
    ("checks", &["base", "records", "shared-events"]),
    ("system", &["base", "patterns", "records", "shared-events"]),
    (
        "evaluation",
        &[
            "base",
            "checks",
            "patterns",
            "records",
            "shared-events",
            "system",
        ],
    ),
    (
        "xtask",
        &[
            "base",
            "checks",
            "evaluation",
            "patterns",
            "records",
            "shared-events",
            "system",
            "terminal",
        ],
    ),
];

/// What a crate of the workspace links, directly or not, tests left aside: crate → crates.
fn linked() -> BTreeMap<String, BTreeSet<String>> {
    // For this machine alone: what only others need was never downloaded.
    let version = Command::new("rustc")
        .arg("-vV")
        .output()
        .expect("rustc runs");
    let version = String::from_utf8_lossy(&version.stdout);
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", host.expect("a host")])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();

    let names: BTreeMap<String, String> = list(&metadata["packages"])
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let edges: BTreeMap<String, Vec<String>> = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| {
            let normal = list(&node["deps"]).into_iter().filter(|dependency| {
                list(&dependency["dep_kinds"])
                    .iter()
                    .any(|kind| kind["kind"].is_null())
            });
            (
                text(&node["id"]),
                normal.map(|dependency| text(&dependency["pkg"])).collect(),
            )
        })
        .collect();
    list(&metadata["workspace_members"])
        .iter()
        .map(|member| {
            let mut reached = BTreeSet::new();
            let mut next = vec![text(member)];
            while let Some(id) = next.pop() {
                for dependency in &edges[&id] {
                    if reached.insert(dependency.clone()) {
                        next.push(dependency.clone());
                    }
                }
            }
            let crates = reached.iter().map(|id| names[id].clone()).collect();
            (names[&text(member)].clone(), crates)
        })
        .collect()
}

fn linking<'a>(linked: &'a BTreeMap<String, BTreeSet<String>>, krate: &str) -> Vec<&'a str> {
    let links = linked.iter().filter(|(_, crates)| crates.contains(krate));
    links.map(|(name, _)| name.as_str()).collect()
}

#[test]
fn only_user_service_can_read_or_make_a_token() {
    assert_eq!(linking(&linked(), "jsonwebtoken"), ["user-service"]);
}

#[test]
fn services_do_not_depend_on_one_another() {
    let linked = linked();
    for service in SERVICES {
        let mut users = linking(&linked, service);
        // No service, and in no image: it runs several of them side by side.
        users.retain(|user| *user != "saga-tests");
        assert!(users.is_empty(), "{service}: {users:?}");
    }
}

#[test]
fn crash_points_are_in_no_service() {
    for (package, expected) in [
        ("order-service", false),
        ("inventory-service", false),
        ("dead-letters", false),
        // The check itself sees what it looks for.
        ("saga-tests", true),
    ] {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--offline", "--edges", "normal"])
            .args(["--prefix", "none", "--package", package])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{package}");
        let crates = String::from_utf8_lossy(&output.stdout);
        let found = crates.lines().any(|line| line.starts_with("fail v"));
        assert_eq!(found, expected, "{package}");
    }
}

#[test]
fn xtask_stays_small_and_blocking_and_the_contract_does_no_io() {
    let linked = linked();
    for krate in ["lapin", "tokio", "goose", "sqlx", "rustls"] {
        assert!(!linked["xtask"].contains(krate), "xtask links {krate}");
        assert!(
            !linked["shared-events"].contains(krate),
            "shared-events links {krate}"
        );
        assert!(!linked["records"].contains(krate), "records links {krate}");
    }
    assert_eq!(linking(&linked, "goose"), ["loadtest"]);
    // The check itself sees what it looks for.
    assert!(linked["order-service"].contains("lapin"));
    assert!(linked["dead-letters"].contains("lapin"));
}

#[test]
fn the_laboratorys_edges_lead_downward() {
    let linked = linked();
    for (krate, allowed) in LABORATORY {
        let ours = linked[krate]
            .iter()
            .filter(|name| linked.contains_key(*name));
        let upward: Vec<&String> = ours
            .filter(|name| !allowed.contains(&name.as_str()))
            .collect();
        assert!(upward.is_empty(), "{krate} links {upward:?}");
    }
}

#[test]
fn the_terminal_and_the_command_line_are_xtasks_alone() {
    let linked = linked();
    for krate in ["clap", "comfy-table", "indicatif", "terminal"] {
        for (part, _) in &LABORATORY[..5] {
            assert!(!linked[*part].contains(krate), "{part} links {krate}");
        }
        assert!(linked["xtask"].contains(krate), "{krate}");
    }
}

#[test]
fn only_the_system_crate_speaks_to_the_engine() {
    // The compiler keeps these two from everybody else,
    let system = fs::read_to_string(root().join("lab/system/src/lib.rs")).expect("a text");
    for module in ["engine", "compose", "kubectl", "kubernetes"] {
        let private = format!("\nmod {module};\n");
        assert!(
            system.contains(&private),
            "{module} is for this crate alone"
        );
    }
    // and nobody goes round them: the programs that others start are known.
    let mut known: BTreeSet<(&str, &str)> = BTreeSet::from(PROGRAMS);
    let engine = root().join("lab/system");
    for (path, source) in crates().iter().flat_map(|sources| texts(sources, "rs")) {
        if path.starts_with(&engine) {
            continue;
        }
        let file = path.strip_prefix(root()).expect("a path of the repository");
        for program in started(&source) {
            let allowed = PROGRAMS
                .iter()
                .find(|(of, allowed)| file.ends_with(of) && program.starts_with(allowed));
            let shown: String = program.chars().take(40).collect();
            let allowed = allowed.unwrap_or_else(|| panic!("{}: {shown}", file.display()));
            known.remove(allowed);
        }
    }
    assert!(known.is_empty(), "nobody starts {known:?}");
}

/// The programs that are started outside of `lab/system`: the file, and how the call's arguments begin.
const PROGRAMS: [(&str, &str); 8] = [
    ("lab/evaluation/src/load.rs", "loadtest)"),
    // Itself, as a worker.
    ("loadtest/src/workers.rs", "std::env::current_exe()?)"),
    ("lab/evaluation/src/runner.rs", "\"git\")"),
    ("xtask/src/commands/load.rs", "&binaries.loadtest)"),
    // Reads scripts, and runs none.
    (
        "xtask/src/commands/check.rs",
        "\"bash\").args([Path::new(\"-n\"), script])",
    ),
    // Tests of a service as a process.
    ("tests/testkit/src/process.rs", "binary)"),
    ("tests/testkit/src/process.rs", "\"kill\")"),
    ("images/jaeger/src/tests.rs", "\"grep\")"),
];

/// What stands behind each beginning of a program, and each other name for what begins one. Commands of clap's are written
/// `clap::Command::new`.
fn started(source: &str) -> Vec<&str> {
    let beginnings = [
        "Call::new(",
        "Command::new(",
        "Command as ",
        "Call as ",
        "duct::",
    ];
    let of = |beginning: &'static str| {
        let found = source.match_indices(beginning).filter(|(at, _)| {
            let before = &source[..*at];
            let is_end_of_a_name = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
            !is_end_of_a_name && !before.ends_with("clap::")
        });
        found.map(move |(at, _)| source[at + beginning.len()..].trim_start())
    };
    beginnings.into_iter().flat_map(of).collect()
}

#[test]
fn a_program_is_found_however_it_is_started() {
    for source in [
        "Call::new(\"docker\").args([\"ps\"])",
        "Call::new(ENGINE)",
        "Call::new(\"sh\").args([\"-c\", \"docker ps\"])",
        "std::process::Command::new(\n    \"podman\",\n)",
        "use std::process::Command as Program;",
        "use system::process::{self, Call as Program};",
        "duct::cmd!(\"docker\", \"ps\")",
        "use duct::cmd;",
    ] {
        assert_eq!(started(source).len(), 1, "{source}");
    }
    assert_eq!(started("Call::new(\n    ENGINE)"), ["ENGINE)"]);
    for harmless in [
        "Path::new(\"docker\")",
        "Product::from",
        "clap::Command::new(\"docker\")",
    ] {
        assert!(started(harmless).is_empty(), "{harmless}");
    }
}

/// The folders with sources of every crate, the trace store's stand-in included.
fn crates() -> Vec<PathBuf> {
    let manifests = texts(&root(), "toml").into_keys();
    let crates: Vec<PathBuf> = manifests
        .filter(|path| path.ends_with("Cargo.toml"))
        .map(|path| path.with_file_name("src"))
        .filter(|sources| sources.is_dir())
        .collect();
    assert!(crates.len() > 20, "{crates:?}");
    crates
}

#[test]
fn no_modules_import_one_another_in_a_circle() {
    let circles: Vec<String> = crates()
        .iter()
        .flat_map(|sources| {
            let circles = imports::circles(&imports::of(sources));
            circles
                .into_iter()
                .map(move |circle| format!("{}: {circle}", sources.display()))
        })
        .collect();
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn a_circle_is_found_wherever_it_is_hidden() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let circles = |lib: &str, one: &str, other: &str| {
        let files = [
            ("lib.rs", lib),
            ("one.rs", one),
            ("other.rs", "mod below;"),
            ("other/below.rs", other),
        ];
        for (file, text) in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        imports::circles(&imports::of(folder.path()))
    };
    let names_one = "pub fn f() { crate::one::f(); }";
    for names_other in [
        "use crate::other::below::f;",
        "use super::{other, std::fmt};",
        "mod inside { use super::super::other; }",
        "fn g() { assert!(crate::other::below::f()); }",
        "impl crate::other::below::T for u8 {}",
        "fn g() { assert!(super::other::below::f()); }",
        "#[serde(with = \"crate::other::below\")] struct S;",
        "#[arg(value_parser = super::other::below::f)] struct S;",
    ] {
        let found = circles("mod one; mod other;", names_other, names_one);
        assert_eq!(found.len(), 2, "{names_other}: {found:?}");
    }
    // What a glob brings along is named by a bare name,
    for names_other in [
        "use super::*; fn g() { other::below::f(); }",
        "use crate::*; fn g() { assert!(other::below::f()); }",
        "use super::*; use other::below::f;",
        "mod inside { use super::super::*; fn g() { other::below::f(); } }",
    ] {
        let found = circles("mod one; mod other;", names_other, names_one);
        assert_eq!(found.len(), 2, "{names_other}: {found:?}");
    }
    // and what a parent re-exports by the parent's.
    for reexports in [
        "pub use other::below::f;",
        "pub use crate::other::below::f as f;",
        "pub use self::other::below::*;",
        "use other::below as b; pub use b::f;",
    ] {
        for names_other in [
            "use crate::f;",
            "use super::f as h;",
            "fn g() { crate::f(); }",
            "fn g() { assert!(super::f()); }",
            "use super::*; fn g() { f(); }",
        ] {
            let lib = format!("mod one; mod other; {reexports}");
            let found = circles(&lib, names_other, names_one);
            assert_eq!(found.len(), 2, "{reexports} {names_other}: {found:?}");
        }
    }
    for harmless in [
        "#[cfg(test)] mod tests { use crate::other::below::f; }",
        "use super::*; fn g() { f(); std::other::below::f(); }",
        "use crate::{*, one::*}; use one::h as h; fn g() { h(); }",
        "use self::below::f; use crate::f; use other::f;",
        "// use crate::other::below::f;",
    ] {
        let found = circles("mod one; mod other; use one::f;", harmless, names_one);
        assert!(found.is_empty(), "{harmless}: {found:?}");
    }
}

#[test]
fn no_module_is_included_by_its_path() {
    let including: Vec<PathBuf> = texts(&root(), "rs")
        .into_iter()
        .filter(|(_, text)| text.lines().any(|line| line.starts_with("#[path = ")))
        .map(|(path, _)| path)
        .collect();
    assert!(including.is_empty(), "{including:?}");
}

#[test]
fn the_chassis_knows_events_and_never_what_one_says() {
    let sources = texts(&root().join("services/chassis/src"), "rs");
    for (path, source) in &sources {
        for word in [
            "OrderPlaced",
            "OrderCancelled",
            "StockReserved",
            "StockRejected",
            "StockReleased",
            "OrderId",
            "ORDER_EVENTS",
            "INVENTORY_EVENTS",
            "ProductId",
            "Quantity",
        ] {
            assert!(!source.contains(word), "{} names {word}", path.display());
        }
    }
    assert!(sources.len() > 20);
}
