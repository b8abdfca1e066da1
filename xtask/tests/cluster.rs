//! `cluster` on the real engine: nodes become ready and run pods, names are found, nothing is left behind, and the user's own
//! kubeconfig stays as it is. And agora on it: `--on kubernetes`.
//!
//! Without Go there is no cluster, and `up` has to say so. Run by name, as the first time builds Kubernetes:
//! `cargo test -p xtask --test cluster -- --ignored`, half an hour. Left out: clusters of others (`own_kubeconfig`).

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use records::load::BEGUN_FILE;
use serde_json::Value;

const PROJECT: &str = "agora-cluster-test";
const NODES: usize = 2;
/// Programs and image are built the first time.
const UP_WITHIN: Duration = Duration::from_secs(30 * 60);
const PODS_WITHIN: Duration = Duration::from_secs(90);
const EXIT_USAGE: i32 = 2;
const EXIT_UNAVAILABLE: i32 = 3;
const EXIT_INCONCLUSIVE: i32 = 4;
const ON_KUBERNETES: &str = "--on=kubernetes";
/// On each node a pod, and a service that leads to both.
const PODS: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: test}
spec:
  selector: {matchLabels: {app: test}}
  template:
    metadata: {labels: {app: test}}
    spec:
      containers: [{name: pause, image: "docker.io/agora-local/pause:1", imagePullPolicy: Never}]
---
apiVersion: v1
kind: Service
metadata: {name: test}
spec: {clusterIP: None, selector: {app: test}, ports: [{port: 80}]}
"#;

/// Two clusters at once would have half of the machine each.
static MACHINE: Mutex<()> = Mutex::new(());

fn xtask(args: &[&str]) -> Command {
    let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
    xtask
        .args(args)
        .env("AGORA_PROJECT", PROJECT)
        .env("KUBECONFIG", "/nonexistent/kubeconfig")
        .stdin(Stdio::null());
    xtask
}

fn shown(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

#[track_caller]
fn expect(args: &[&str], code: i32) -> Output {
    let output = xtask(args).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(code),
        "{args:?}: {}",
        shown(&output)
    );
    output
}

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Containers, networks and volumes of the cluster.
fn left() -> String {
    let filter = format!("label=agora.cluster={PROJECT}");
    [["ps", "--all"], ["network", "ls"], ["volume", "ls"]]
        .map(|list| docker(&[&list[..], &["--quiet", "--filter", &filter]].concat()))
        .concat()
}

#[track_caller]
fn wait_until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        #[expect(clippy::disallowed_methods, reason = "between two looks")]
        thread::sleep(Duration::from_millis(200));
    }
}

/// A cluster is removed however the test ends.
struct Removed;

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = xtask(&["cluster", "down"]).output();
    }
}

#[test]
#[ignore = "builds Kubernetes the first time, which takes ten minutes"]
fn a_cluster_comes_up_runs_pods_and_leaves_nothing() {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let _removed = Removed;
    expect(&["cluster", "status"], EXIT_UNAVAILABLE);
    if Command::new("go").arg("version").output().is_err() {
        let refused = expect(&["cluster", "up"], EXIT_UNAVAILABLE);
        assert!(
            shown(&refused).contains("install Go"),
            "{}",
            shown(&refused)
        );
        return;
    }

    // Killed when it has made the first container; what it left is no obstacle, and goes.
    let nodes = NODES.to_string();
    let up = ["cluster", "up", "--nodes", &nodes, "--format", "json"];
    let mut killed = xtask(&up)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let control = format!("name={PROJECT}-cluster-control");
    wait_until("a container", UP_WITHIN, || {
        assert_eq!(killed.try_wait().unwrap(), None, "`cluster up` has ended");
        // The engine may not run yet: `cluster up` starts it.
        let found = ["ps", "--quiet", "--filter", &control];
        let found = Command::new("docker").args(found).output();
        !found.unwrap().stdout.is_empty()
    });
    killed.kill().unwrap();
    killed.wait().unwrap();
    expect(&["cluster", "down"], 0);
    assert_eq!(left(), "");

    let started: Value = serde_json::from_slice(&expect(&up, 0).stdout).unwrap();
    assert_eq!(started["outcome"], "holds");
    let found = started["nodes"].as_array().unwrap();
    assert_eq!(found.len(), NODES);
    assert!(
        found.iter().all(|node| node["is_ready"] == true),
        "{started}"
    );
    // Again is no error, another number is.
    expect(&up, 0);
    expect(&["cluster", "up", "--nodes", "1"], 2);

    let kubeconfig = started["kubeconfig"].as_str().unwrap();
    let control = format!("{PROJECT}-cluster-control");
    let kubectl = [
        "exec",
        "--interactive",
        &control,
        "kubectl",
        "--kubeconfig",
        "/pki/admin.kubeconfig",
    ];
    let mut apply = Command::new("docker")
        .args(kubectl)
        .args(["apply", "--filename", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut manifests = apply.stdin.take().unwrap();
    manifests.write_all(PODS.as_bytes()).unwrap();
    drop(manifests);
    assert!(apply.wait().unwrap().success());
    let ask = |args: &[&str]| docker(&[&kubectl[..], args].concat());
    wait_until("a pod on each node", PODS_WITHIN, || {
        let ready = "jsonpath={.status.numberReady}";
        ask(&["get", "daemonset", "test", "--output", ready]) == nodes
    });
    // The name server knows each pod of the service, and a node reaches the other's.
    let node = format!("{PROJECT}-cluster-node1");
    let name = "test.default.svc.cluster.local";
    let look_up = format!(
        "server=$(getent hosts control | cut -d' ' -f1); echo nameserver $server >/etc/resolv.conf; getent ahostsv4 {name} | cut -d' ' -f1 | sort -u"
    );
    wait_until("the pods' addresses", PODS_WITHIN, || {
        let found = Command::new("docker")
            .args(["exec", &node, "bash", "-c", &look_up])
            .output()
            .unwrap();
        let found = String::from_utf8(found.stdout).unwrap();
        found.lines().filter(|it| it.starts_with("10.244.")).count() == NODES
    });

    // A node that is gone is said to be.
    docker(&["kill", &node]);
    let status = expect(&["cluster", "status", "--format", "json"], 1);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["nodes"][0]["is_ready"], false, "{status}");

    let down = expect(&["cluster", "down", "--format", "json"], 0);
    let down: Value = serde_json::from_slice(&down.stdout).unwrap();
    assert_eq!(down["was_there"], true);
    assert_eq!(left(), "");
    assert!(fs::metadata(kubeconfig).is_err());
    assert!(fs::metadata("/nonexistent").is_err());
}

/// The services of `status`, by name, each with one of its fields.
fn each_service(field: &str) -> Vec<(String, Value)> {
    let status = expect(&["status", ON_KUBERNETES, "--format", "json"], 0);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let services = status["services"].as_array().unwrap().iter();
    services
        .map(|it| {
            (
                it["service"].as_str().unwrap().to_owned(),
                it[field].clone(),
            )
        })
        .collect()
}

#[test]
#[ignore = "builds Kubernetes the first time, which takes ten minutes"]
fn agora_runs_on_the_cluster_and_is_checked_there() {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let _removed = Removed;
    if Command::new("go").arg("version").output().is_err() {
        println!("SKIPPED: there is no Go");
        return;
    }
    expect(&["status", ON_KUBERNETES], EXIT_UNAVAILABLE);
    expect(&["cluster", "up", "--nodes", "2"], 0);
    expect(&["status", ON_KUBERNETES], EXIT_UNAVAILABLE);
    expect(&["up", ON_KUBERNETES], 0);

    let replicas = |service: &str| {
        let found = each_service("healthy").into_iter();
        found.filter(|(name, _)| name == service).count()
    };
    assert_eq!(replicas("order-service"), 2);
    assert_eq!(replicas("postgres"), 1);
    for command in [
        &["smoke"][..],
        &["load", "--run-time", "10s"],
        &["verify-metrics"],
        &["verify-traces"],
        &["verify-dlq"],
        &["logs", "order-service", "--tail", "5"],
    ] {
        expect(&[command, &[ON_KUBERNETES]].concat(), 0);
    }

    // The same judge.
    expect(&["evaluate", "inbox", ON_KUBERNETES], 0);
    let without_fault = [
        "evaluate",
        "inbox",
        "--sabotage",
        "withhold-fault",
        ON_KUBERNETES,
    ];
    expect(&without_fault, EXIT_INCONCLUSIVE);
    assert_eq!(replicas("order-service"), 2, "as it was found");
    for (kind, service) in [
        ("pause", "jaeger"),
        ("kill", "order-service"),
        ("kill-node", "inventory-service"),
        ("pause-node", "rabbitmq"),
    ] {
        expect(&["fault", kind, service, "--for", "3s", ON_KUBERNETES], 0);
    }
    let cut = ["fault", "cut", "rabbitmq", "data", ON_KUBERNETES];
    let other = expect(&cut, EXIT_USAGE);
    let said = shown(&other);
    assert!(said.contains("can't be injected here"), "{said}");
    expect(&["dlq", "list", ON_KUBERNETES], 0);

    // What changes replicas and keys waits until all of them serve.
    expect(&["scale", "order-service", "3", ON_KUBERNETES], 0);
    assert_eq!(replicas("order-service"), 3);
    expect(&["scale", "order-service", "2", ON_KUBERNETES], 0);
    expect(&["keys", "rotate", ON_KUBERNETES], 0);
    expect(&["rollout", "order-service", ON_KUBERNETES], 0);
    expect(&["smoke", ON_KUBERNETES], 0);

    // A pattern that is off is off in the pods that read it, and on again.
    let mut off = xtask(&["up", ON_KUBERNETES]);
    let off = off.env("AGORA_PATTERN_INBOX", "off").output().unwrap();
    assert_eq!(off.status.code(), Some(0), "{}", shown(&off));
    let without_inbox = |of: &str| {
        let found = each_service("patterns_off").into_iter();
        let mut found = found.filter(|(name, _)| name == of);
        found.any(|(_, off)| off == serde_json::json!(["inbox"]))
    };
    assert!(without_inbox("inventory-service"));
    expect(&["up", ON_KUBERNETES], 0);
    assert!(!without_inbox("inventory-service"));

    // Data outlives the system, unless it is to go; and then another system can be made.
    expect(&["down", ON_KUBERNETES], 0);
    expect(&["status", ON_KUBERNETES], EXIT_UNAVAILABLE);
    expect(&["up", ON_KUBERNETES], 0);
    let folder = tempfile::tempdir().unwrap();
    let others = ("AGORA_ENV_FILE", folder.path().join("env"));
    let up = ["up", ON_KUBERNETES];
    let refused = xtask(&up).env(others.0, &others.1).output().unwrap();
    assert_eq!(
        refused.status.code(),
        Some(EXIT_UNAVAILABLE),
        "{}",
        shown(&refused)
    );
    assert!(
        shown(&refused).contains("other secrets"),
        "{}",
        shown(&refused)
    );
    expect(&["down", ON_KUBERNETES, "--volumes"], 0);
    let made = xtask(&up).env(others.0, &others.1).output().unwrap();
    assert_eq!(made.status.code(), Some(0), "{}", shown(&made));
}

/// What is killed, in an order that was shuffled once: all pods of a service, or the node of its first one.
const KILLS: [(&str, &str); 20] = [
    ("kill", "rabbitmq"),
    ("kill", "order-service"),
    ("kill-node", "inventory-service"),
    ("kill", "postgres"),
    ("kill", "traefik"),
    ("kill", "user-service"),
    ("kill-node", "postgres"),
    ("kill", "inventory-service"),
    ("kill", "rabbitmq"),
    ("kill", "product-service"),
    ("kill", "postgres"),
    ("kill-node", "order-service"),
    ("kill", "traefik"),
    ("kill", "inventory-service"),
    ("kill-node", "rabbitmq"),
    ("kill", "order-service"),
    ("kill", "rabbitmq"),
    ("kill", "user-service"),
    ("kill", "postgres"),
    ("kill", "product-service"),
];
/// The load refuses to begin once a part is killed.
const BEGUN_WITHIN: Duration = Duration::from_secs(60);
/// Each kill is healed before the next one, in 8 to 71 s.
const KILLED_WITHIN: &str = "11m";
/// What was promised is mostly promised between the kills: half of what is sent at least.
const PROMISED_AT_LEAST: u64 = 11 * 60 * 40 / 2;

/// Whether a load generator of this machine measures.
fn load_has_begun() -> bool {
    let processes = fs::read_dir("/proc").unwrap();
    let lines = processes
        .filter_map(|process| fs::read_to_string(process.ok()?.path().join("cmdline")).ok());
    let mut folders = lines.filter_map(|line| {
        let words: Vec<&str> = line.split('\0').collect();
        let option = words.iter().position(|word| *word == "--out-dir")?;
        let is_generator = words.first()?.ends_with("/loadtest");
        is_generator.then(|| Path::new(words[option + 1]).join(BEGUN_FILE))
    });
    folders.any(|begun| begun.is_file())
}

#[test]
#[ignore = "a quarter of an hour, and it builds Kubernetes the first time"]
fn twenty_kills_of_pods_and_nodes_under_orders_leave_a_balanced_ledger() {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let _removed = Removed;
    if Command::new("go").arg("version").output().is_err() {
        println!("SKIPPED: there is no Go");
        return;
    }
    expect(&["cluster", "up"], 0);
    expect(&["up", ON_KUBERNETES], 0);
    let load = [
        "load",
        "order",
        "--arrivals",
        "40",
        "--run-time",
        KILLED_WITHIN,
        "--max-error-rate",
        "1",
        ON_KUBERNETES,
    ];
    let mut load = xtask(&load)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the load begins", BEGUN_WITHIN, load_has_begun);
    for (kind, service) in KILLS {
        expect(&["fault", kind, service, "--for", "3s", ON_KUBERNETES], 0);
        if load.try_wait().unwrap().is_some() {
            let ended = load.wait_with_output().unwrap();
            panic!("the load ended before the kills: {}", shown(&ended));
        }
    }
    let load = load.wait_with_output().unwrap();
    assert_eq!(load.status.code(), Some(0), "{}", shown(&load));
    let verify = [
        "verify-ledger",
        "--within",
        "120s",
        "--format",
        "json",
        ON_KUBERNETES,
    ];
    let ledger = expect(&verify, 0);
    let ledger: Value = serde_json::from_slice(&ledger.stdout).unwrap();
    println!("{ledger:#}");
    assert!(
        ledger["promised"].as_u64().unwrap() >= PROMISED_AT_LEAST,
        "{ledger}"
    );
}
