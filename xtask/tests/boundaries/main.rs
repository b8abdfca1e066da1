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

/// The crates of the laboratory, without xtask.
const LABORATORY: [&str; 5] = ["base", "records", "checks", "system", "evaluation"];

/// The page with the table of crates, each with those of the workspace that it depends on.
const ARCHITECTURE: &str = "docs/explanation/architecture.md";

/// What cargo knows about the workspace and this machine.
fn metadata(more: &[&str]) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(more)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo writes JSON")
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Crates, and for each of them others.
type Edges = BTreeMap<String, BTreeSet<String>>;

/// The crates of the workspace, each with those that it depends on by itself, tests left aside.
fn direct() -> Edges {
    let packages = list(&metadata(&["--no-deps"])["packages"]);
    let names: BTreeSet<String> = packages.iter().map(|it| text(&it["name"])).collect();
    let edges = packages.iter().map(|package| {
        let dependencies = list(&package["dependencies"]).into_iter();
        let ours = dependencies
            .filter(|it| it["kind"].is_null())
            .map(|it| text(&it["name"]))
            .filter(|name| names.contains(name));
        (text(&package["name"]), ours.collect())
    });
    edges.collect()
}

/// The same as the table on the page has it. The first cell has crates, the second what each of them depends on.
fn drawn(page: &str) -> Edges {
    let code = |cell: &str| -> Vec<String> {
        let words = cell.split('`').skip(1).step_by(2);
        words.map(str::to_owned).collect()
    };
    let rows = page
        .lines()
        .skip_while(|line| !line.starts_with("| crate | depends on"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.trim_matches('|').split_once('|'));
    let edges = cells.flat_map(|(crates, dependencies)| {
        let dependencies: BTreeSet<String> = code(dependencies).into_iter().collect();
        code(crates)
            .into_iter()
            .map(move |krate| (krate, dependencies.clone()))
    });
    edges.collect()
}

/// A crate that depends on itself through others.
fn circle(edges: &Edges) -> Option<&str> {
    edges.keys().map(String::as_str).find(|start| {
        let mut reached = BTreeSet::new();
        let mut next = vec![*start];
        while let Some(krate) = next.pop() {
            for dependency in &edges[krate] {
                if reached.insert(dependency.as_str()) {
                    next.push(dependency);
                }
            }
        }
        reached.contains(start)
    })
}

#[test]
fn the_table_of_crates_is_what_cargo_resolves() {
    let page = fs::read_to_string(root().join(ARCHITECTURE)).expect("the page");
    let (direct, drawn) = (direct(), drawn(&page));
    assert!(direct.len() > 20, "{direct:?}");
    for (krate, dependencies) in &direct {
        assert_eq!(drawn.get(krate), Some(dependencies), "{krate}");
    }
    let gone: Vec<&String> = drawn
        .keys()
        .filter(|it| !direct.contains_key(*it))
        .collect();
    assert!(gone.is_empty(), "{gone:?}");
    assert_eq!(circle(&drawn), None);
}

#[test]
fn a_table_is_read_and_a_circle_in_it_is_found() {
    let page = "| a | b |\n\n| crate | depends on (x) |\n|---|---|\n| `a` | `b` |\n| `b`, `c` | `d` |\n| `d` | none |\n\n| `e` | `f` |\n";
    let mut edges = drawn(page);
    let crates: Vec<&str> = edges.keys().map(String::as_str).collect();
    assert_eq!(crates, ["a", "b", "c", "d"]);
    assert_eq!(edges["c"], BTreeSet::from(["d".to_owned()]));
    assert_eq!(circle(&edges), None);
    edges.insert("d".to_owned(), BTreeSet::from(["a".to_owned()]));
    assert_eq!(circle(&edges), Some("a"));
}

/// What a crate of the workspace links, directly or not, tests left aside: crate → crates.
fn linked() -> BTreeMap<String, BTreeSet<String>> {
    // For this machine alone: what only others need was never downloaded.
    let version = Command::new("rustc")
        .arg("-vV")
        .output()
        .expect("rustc runs");
    let version = String::from_utf8_lossy(&version.stdout);
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let metadata = metadata(&["--filter-platform", host.expect("a host")]);
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
fn the_terminal_and_the_command_line_are_xtasks_alone() {
    let linked = linked();
    for krate in ["clap", "comfy-table", "indicatif", "terminal"] {
        for part in LABORATORY {
            assert!(!linked[part].contains(krate), "{part} links {krate}");
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
const PROGRAMS: [(&str, &str); 7] = [
    ("lab/evaluation/src/load.rs", "loadtest)"),
    // Itself, as a worker.
    ("loadtest/src/workers.rs", "std::env::current_exe()?)"),
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

/// The folders of tests and benchmarks with several modules.
fn test_targets() -> Vec<PathBuf> {
    let mains = texts(&root(), "rs").into_keys();
    let folders = mains
        .filter(|path| path.ends_with("main.rs"))
        .filter_map(|path| {
            let folder = path.parent()?;
            (!folder.ends_with("src")).then(|| folder.to_owned())
        });
    let folders: Vec<PathBuf> = folders.collect();
    let system = root().join("xtask/tests/system");
    assert!(folders.contains(&system), "{folders:?}");
    folders
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
    let circles: Vec<String> = [crates(), test_targets()]
        .concat()
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
        .filter(|(_, text)| text.lines().any(includes_by_path))
        .map(|(path, _)| path)
        .collect();
    assert!(including.is_empty(), "{including:?}");
}

/// Whether a line gives a module another file than its name says.
fn includes_by_path(line: &str) -> bool {
    let line: String = line.split_whitespace().collect();
    let attribute = line.starts_with("#[path=") || line.starts_with("#![path=");
    attribute || (line.starts_with("#[cfg_attr(") && line.contains(",path="))
}

#[test]
fn a_module_included_by_its_path_is_seen() {
    for line in [
        "#[path = \"other.rs\"]",
        "    #[path=\"other.rs\"] mod other;",
        "#[cfg_attr(unix, path = \"unix.rs\")]",
    ] {
        assert!(includes_by_path(line), "{line}");
    }
    for line in ["#[utoipa::path(", "let path = 1;", "// #[path = \"x\"]"] {
        assert!(!includes_by_path(line), "{line}");
    }
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
