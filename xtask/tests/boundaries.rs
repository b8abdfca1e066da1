//! The boundaries between the crates, as docs/explanation/architecture.md states them: held against what cargo resolves.

mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use sources::{root, texts};

/// The services, and the programs beside them.
const SERVICES: [&str; 6] = [
    "user-service",
    "product-service",
    "order-service",
    "inventory-service",
    "dead-letters",
    "alert-receiver",
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
        for record in ["load-record", "alert-record"] {
            assert!(!linked[record].contains(krate), "{record} links {krate}");
        }
    }
    assert_eq!(linking(&linked, "goose"), ["loadtest"]);
    // The check itself sees what it looks for.
    assert!(linked["order-service"].contains("lapin"));
    assert!(linked["dead-letters"].contains("lapin"));
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
