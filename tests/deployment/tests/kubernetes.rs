//! `deploy/kubernetes` describes the same system as `compose.yaml`: one fact changed in one place is found. No test needs a
//! cluster; what only kubectl can make of the overlays is compared where there is kubectl.
//!
//! Left out: whether a cluster accepts the manifests (deploy/kubernetes/README.md), and whether the system runs there.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    process::Command,
};

use deployment::{
    compose::{self, Compose},
    facts::{self, Facts, Meant},
    kubernetes::{self, Manifests},
    reachability,
};
use serde_json::{Value, json};
use support::sources::root;

const SERVICES: &[&str] = &[
    "inventory-service",
    "order-service",
    "product-service",
    "user-service",
];

/// Where the two differ, and why.
const MEANT: &[Meant] = &[
    Meant {
        parts: SERVICES,
        subject: "environment AGORA_SHUTDOWN_DELAY_MS",
        compose: Some("0"),
        kubernetes: Some("5000"),
        reason: "SIGTERM comes while connections still do",
    },
    Meant {
        parts: SERVICES,
        subject: "grace period in seconds",
        compose: Some("30"),
        kubernetes: Some("35"),
        reason: "AGORA_SHUTDOWN_DELAY_MS is part of it",
    },
    Meant {
        parts: &["traefik"],
        subject: "grace period in seconds",
        compose: Some("15"),
        kubernetes: Some("20"),
        reason: "the pause of `preStop` is part of it",
    },
    Meant {
        parts: &["traefik"],
        subject: "environment AGORA_RATE_LIMIT_AVERAGE",
        compose: Some("500"),
        kubernetes: Some("250"),
        reason: "there are two gateways, and each counts by itself",
    },
    Meant {
        parts: &["traefik"],
        subject: "environment AGORA_RATE_LIMIT_BURST",
        compose: Some("1000"),
        kubernetes: Some("500"),
        reason: "there are two gateways, and each counts by itself",
    },
    Meant {
        parts: SERVICES,
        subject: "sysctl net.ipv4.tcp_retries2",
        compose: Some("5"),
        kubernetes: None,
        reason: "`restricted` doesn't allow it",
    },
    Meant {
        parts: &["postgres"],
        subject: "environment PGDATA",
        compose: None,
        kubernetes: Some("/var/lib/postgresql/data/pgdata"),
        reason: "a volume's own root hasn't the mode that PostgreSQL wants",
    },
    Meant {
        parts: &["postgres"],
        subject: "start in seconds",
        compose: Some("60"),
        kubernetes: Some("600"),
        reason: "Kubernetes restarts what takes longer, Compose doesn't",
    },
    Meant {
        parts: &["rabbitmq"],
        subject: "start in seconds",
        compose: Some("90"),
        kubernetes: Some("300"),
        reason: "Kubernetes restarts what takes longer, Compose doesn't",
    },
    Meant {
        parts: &["prometheus"],
        subject: "start in seconds",
        compose: Some("60"),
        kubernetes: Some("300"),
        reason: "Kubernetes restarts what takes longer, Compose doesn't",
    },
    Meant {
        parts: &["postgres", "rabbitmq"],
        subject: "size of /tmp",
        compose: None,
        kubernetes: Some("67108864"),
        reason: "an emptyDir without a limit may take the node's memory",
    },
    Meant {
        parts: &["postgres"],
        subject: "size of /var/run/postgresql",
        compose: None,
        kubernetes: Some("1048576"),
        reason: "an emptyDir without a limit may take the node's memory",
    },
    Meant {
        parts: &["rabbitmq"],
        subject: "hostname",
        compose: Some("rabbitmq"),
        kubernetes: None,
        reason: "a StatefulSet's pods have names that stay",
    },
    Meant {
        parts: &["user-service"],
        subject: "environment HOME_LINKS",
        compose: Some(HOME_LINKS),
        kubernetes: None,
        reason: "the other parts have no ports of their own beside the gateway's",
    },
];
const HOME_LINKS: &str = "Grafana, where it runs: dashboards, logs, traces=3001; Jaeger: the traces=16686; Prometheus=9090; \
    Alertmanager=9093; RabbitMQ management=15672; Traefik: the gateway's dashboard=8080";

fn differences(compose: &Compose, manifests: &Manifests) -> Vec<String> {
    facts::differences(&compose.facts(), &manifests.facts(), MEANT)
}

/// A part's only container, for a test to change.
fn container<'a>(manifests: &'a mut Manifests, kind: &str, part: &str) -> &'a mut Value {
    let object = manifests.object_mut(kind, part);
    &mut object["spec"]["template"]["spec"]["containers"][0]
}

/// A variable of a container, for a test to change.
fn variable<'a>(container: &'a mut Value, name: &str) -> &'a mut Value {
    let variables = container["env"].as_array_mut().expect("variables");
    let mut variables = variables.iter_mut();
    let found = variables.find(|variable| variable["name"] == name);
    found.unwrap_or_else(|| panic!("there is no variable {name}"))
}

#[test]
fn both_describe_one_system() {
    let (compose, manifests) = (compose::read(), kubernetes::read());
    let facts = compose.facts();
    assert!(facts.len() > 200, "{}", facts.len());
    let found = differences(&compose, &manifests);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn one_fact_changed_in_the_manifests_is_named() {
    type Change = fn(&mut Manifests);
    let changes: [(Change, &str); 13] = [
        (
            |it| {
                variable(container(it, "Deployment", "user-service"), "BCRYPT_COST")["value"] =
                    json!("10")
            },
            "user-service: environment BCRYPT_COST: \"12\" in compose.yaml, \"10\" in",
        ),
        (
            |it| {
                it.object_mut("ConfigMap", "patterns-order-service")["data"]["AGORA_PATTERN_INBOX"] =
                    json!("off")
            },
            "order-service: environment AGORA_PATTERN_INBOX: \"on\" in compose.yaml, \"off\" in",
        ),
        (
            |it| {
                let password = variable(
                    container(it, "Deployment", "order-service"),
                    "AGORA_ORDER_DB_PASSWORD",
                );
                password["valueFrom"]["secretKeyRef"]["key"] = json!("AGORA_USER_DB_PASSWORD");
            },
            "order-service: environment DATABASE_URL: \"postgres://order_service:${AGORA_ORDER_DB_PASSWORD}",
        ),
        (
            |it| {
                container(it, "Deployment", "order-service")["resources"]["limits"]["memory"] =
                    json!("256Mi")
            },
            "order-service: memory limit: \"134217728\" in compose.yaml, \"268435456\" in",
        ),
        (
            |it| container(it, "Deployment", "traefik")["resources"]["limits"]["cpu"] = json!("1"),
            "traefik: processor limit: nothing in compose.yaml",
        ),
        (
            |it| {
                it.object_mut("StatefulSet", "postgres")["spec"]["template"]["spec"]["securityContext"]
                    ["runAsUser"] = json!(70)
            },
            "postgres: user: \"999:999\" in compose.yaml, \"70:999\" in",
        ),
        (
            |it| {
                container(it, "StatefulSet", "rabbitmq")["image"] =
                    json!("docker.io/library/rabbitmq:4.3.0-management")
            },
            "rabbitmq: image: \"docker.io/library/rabbitmq:4.0.9-management\" in compose.yaml",
        ),
        (
            |it| {
                container(it, "StatefulSet", "prometheus")["args"][2] =
                    json!("--storage.tsdb.retention.time=1d")
            },
            "prometheus: arguments:",
        ),
        (
            |it| container(it, "Deployment", "jaeger")["ports"][0]["containerPort"] = json!(4318),
            "jaeger: port 4317: \"open\" in compose.yaml, nothing in",
        ),
        (
            |it| {
                it.object_mut("ConfigMap", "rabbitmq-configuration")["data"]["agora.conf"] =
                    json!("heartbeat = 60\n")
            },
            "rabbitmq: file /etc/rabbitmq/conf.d/50-agora.conf:",
        ),
        (
            |it| {
                container(it, "Deployment", "traefik")["volumeMounts"][0]["mountPath"] =
                    json!("/traefik")
            },
            "traefik: file /etc/traefik/dynamic/agora.yaml:",
        ),
        (
            |it| {
                let map = it.object_mut("ConfigMap", "prometheus-configuration");
                let text = map["data"]["prometheus.yml"].as_str().expect("a text");
                map["data"]["prometheus.yml"] = json!(text.replace("port: 9100", "port: 9101"));
            },
            "prometheus: file /etc/prometheus/prometheus.yml:",
        ),
        (
            |it| {
                variable(
                    container(it, "Deployment", "traefik"),
                    "AGORA_RATE_LIMIT_BURST",
                )["value"] = json!("1000")
            },
            "traefik: environment AGORA_RATE_LIMIT_BURST: \"1000\" in compose.yaml and \"1000\" in deploy/kubernetes isn't the difference",
        ),
    ];
    let compose = compose::read();
    for (change, expected) in changes {
        let mut manifests = kubernetes::read();
        change(&mut manifests);
        let found = differences(&compose, &manifests);
        assert!(
            found.iter().any(|it| it.starts_with(expected)),
            "{expected}: {found:#?}"
        );
    }
}

#[test]
fn one_fact_changed_in_compose_is_named() {
    let changes: [(&str, Value, &str); 7] = [
        (
            "/services/user-service/environment/JWT_TTL_SECONDS",
            json!("60"),
            "user-service: environment JWT_TTL_SECONDS:",
        ),
        (
            "/services/product-service/mem_limit",
            json!("64m"),
            "product-service: memory limit:",
        ),
        ("/services/jaeger/user", json!("0:0"), "jaeger: user:"),
        (
            "/services/postgres/command/2",
            json!("max_connections=100"),
            "postgres: arguments:",
        ),
        (
            "/services/alertmanager/ports/0",
            json!("127.0.0.1:9093:9999"),
            "alertmanager: port 9999:",
        ),
        (
            "/services/alert-receiver/read_only",
            json!(false),
            "alert-receiver: root file system:",
        ),
        (
            "/services/traefik/stop_grace_period",
            json!("25s"),
            "traefik: grace period in seconds: \"25\" in compose.yaml and",
        ),
    ];
    let manifests = kubernetes::read();
    for (place, value, expected) in changes {
        let mut compose = compose::read();
        *compose.document.pointer_mut(place).expect(place) = value;
        let found = differences(&compose, &manifests);
        assert!(
            found.iter().any(|it| it.starts_with(expected)),
            "{expected}: {found:#?}"
        );
    }
    let mut compose = compose::read();
    compose.document["services"]["new-service"] =
        compose.document["services"]["user-service"].clone();
    let found = differences(&compose, &manifests);
    assert!(
        found.iter().any(|it| it.starts_with("new-service: image:")),
        "{found:#?}"
    );
}

#[test]
#[should_panic(expected = "`ulimits` isn't compared")]
fn a_field_of_compose_that_nobody_compares_is_refused() {
    let mut compose = compose::read();
    compose.document["services"]["postgres"]["ulimits"] = json!({});
    compose.facts();
}

#[test]
#[should_panic(expected = "`hostNetwork` isn't compared")]
fn a_field_of_a_pod_that_nobody_compares_is_refused() {
    let mut manifests = kubernetes::read();
    manifests.object_mut("Deployment", "traefik")["spec"]["template"]["spec"]["hostNetwork"] =
        json!(true);
    manifests.facts();
}

#[test]
#[should_panic(expected = "`privileged` isn't compared")]
fn a_right_of_a_container_that_nobody_compares_is_refused() {
    let mut manifests = kubernetes::read();
    container(&mut manifests, "Deployment", "jaeger")["securityContext"]["privileged"] =
        json!(true);
    manifests.facts();
}

/// The addresses of parts that lead to no port of a Service.
fn dead_ends(manifests: &Manifests) -> Vec<String> {
    let services = manifests.service_ports();
    let names = services.keys().filter_map(|it| it.split(':').next());
    let names: BTreeSet<&str> = names.collect();
    // As Prometheus's file has them, without what is made of it for comparison.
    let mut facts = manifests.facts();
    facts.retain(|(part, _), _| part != "prometheus");
    let used = facts::addresses(&facts).into_iter();
    let used = used.map(|(host, port)| format!("{host}:{port}"));
    let used: BTreeSet<String> = used.chain(manifests.targets()).collect();
    let of_parts = used.into_iter().filter(|address| {
        let host = address.split(':').next().unwrap_or_default();
        names.contains(host) || host.ends_with("-replicas")
    });
    of_parts
        .filter(|address| !services.contains_key(address))
        .collect()
}

#[test]
fn every_address_in_use_leads_to_a_container() {
    let mut manifests = kubernetes::read();
    assert_eq!(dead_ends(&manifests), [""; 0]);
    let services = manifests.service_ports();
    for (address, part, port) in [
        ("traefik:80", "traefik", 8080),
        ("product-service:50051", "product-service", 50051),
        ("user-service-replicas:9100", "user-service", 9100),
    ] {
        assert_eq!(services[address], (part.to_owned(), port));
    }
    manifests.object_mut("Service", "postgres")["spec"]["ports"][0]["port"] = json!(5433);
    manifests.object_mut("Service", "user-service-replicas")["metadata"]["name"] =
        json!("user-service-pods");
    assert_eq!(
        dead_ends(&manifests),
        ["postgres:5432", "user-service-replicas:9100"]
    );
}

#[test]
fn clients_reach_the_gateways_port_for_them_alone() {
    let manifests = kubernetes::read();
    let of_traefik = manifests.service_ports().into_iter();
    let of_traefik = of_traefik.filter(|(address, _)| address.starts_with("traefik:"));
    assert!(of_traefik.eq([("traefik:80".to_owned(), ("traefik".to_owned(), 8080))]));
    // gRPC keeps a connection: behind one address a client would stay with one replica.
    let headless = |name: &str| {
        let mut services = manifests.of_kind("Service");
        services.any(|it| it["metadata"]["name"] == name && it["spec"]["clusterIP"] == "None")
    };
    assert!(headless("product-service") && !headless("user-service"));
    // The same goes for Prometheus, which has to see each replica.
    let services = manifests.service_ports();
    let replicas = services.keys().filter_map(|it| it.split(':').next());
    let replicas: Vec<&str> = replicas.filter(|it| it.ends_with("-replicas")).collect();
    assert_eq!(replicas.len(), SERVICES.len() + 1, "{replicas:?}");
    assert!(replicas.into_iter().all(headless));
}

#[test]
fn who_may_reach_whom_is_as_in_compose() {
    let networks = compose::read().networks();
    let found = reachability::differences(&kubernetes::read(), &networks);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_connection_too_many_or_too_few_is_named() {
    type Change = fn(&mut Manifests);
    let changes: [(Change, &str); 7] = [
        (
            |it| {
                it.object_mut("Deployment", "traefik")["spec"]["template"]["metadata"]["labels"]["agora.network.data"] =
                    json!("true")
            },
            "traefik may reach port 5432 of postgres",
        ),
        (
            |it| {
                let labels = &mut it.object_mut("StatefulSet", "prometheus")["spec"]["template"]["metadata"]
                    ["labels"];
                labels["agora.network.edge"] = json!("false");
            },
            "prometheus can't reach port 8082 of traefik",
        ),
        (
            |it| {
                it.objects
                    .retain(|it| it["metadata"]["name"] != "default-deny")
            },
            "an address outside of the cluster may reach port 1 of a pod without a network",
        ),
        (
            |it| it.objects.retain(|it| it["metadata"]["name"] != "dns"),
            "user-service can't reach port 53 of a pod of the namespace kube-system",
        ),
        (
            |it| it.object_mut("NetworkPolicy", "public")["spec"]["ingress"] = json!([{}]),
            "an address outside of the cluster may reach port 8081 of traefik",
        ),
        (
            |it| it.object_mut("NetworkPolicy", "data")["spec"]["egress"] = json!([{}]),
            "postgres may reach port 443 of an address outside of the cluster",
        ),
        (
            |it| {
                it.object_mut("NetworkPolicy", "data")["spec"]["ingress"][0]["ports"] =
                    json!([{ "port": 5432 }])
            },
            "order-service can't reach port 5672 of rabbitmq",
        ),
    ];
    let networks = compose::read().networks();
    for (change, expected) in changes {
        let mut manifests = kubernetes::read();
        change(&mut manifests);
        let found = reachability::differences(&manifests, &networks);
        assert!(
            found.iter().any(|it| it.starts_with(expected)),
            "{expected}: {found:#?}"
        );
    }
    let mut compose = compose::read();
    compose.document["services"]["alertmanager"]["networks"] = json!(["data"]);
    let found = reachability::differences(&kubernetes::read(), &compose.networks());
    let expected = "alertmanager can't reach port 5432 of postgres";
    assert!(
        found.iter().any(|it| it.starts_with(expected)),
        "{found:#?}"
    );
}

#[test]
fn every_pod_keeps_to_the_restricted_level() {
    let mut manifests = kubernetes::read();
    assert_eq!(manifests.defects(), [""; 0]);
    let namespace = manifests.object_mut("Namespace", "agora");
    let enforced = &namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"];
    assert_eq!(enforced, "restricted");
    let pod = &mut manifests.object_mut("Deployment", "jaeger")["spec"]["template"]["spec"];
    pod["automountServiceAccountToken"] = json!(true);
    pod["containers"][0]["securityContext"]["capabilities"] = json!({ "add": ["NET_ADMIN"] });
    assert_eq!(
        manifests.defects(),
        [
            "jaeger must have no capabilities",
            "jaeger must have no token"
        ]
    );
}

#[test]
fn the_readme_names_every_secret_and_no_file_has_one() {
    let manifests = kubernetes::read();
    assert_eq!(manifests.of_kind("Secret").count(), 0);
    let readme =
        std::fs::read_to_string(root().join("deploy/kubernetes/README.md")).expect("a README");
    let secrets = manifests.secrets();
    assert!(secrets.len() > 2, "{secrets:?}");
    for (secret, keys) in secrets {
        let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
        let row = format!("| `{secret}` | {} |", keys.join(", "));
        assert!(readme.contains(&row), "there is no {row}");
    }
}

/// What kubectl makes of a folder below `deploy/kubernetes`; none where there is no kubectl.
fn rendered(folder: &str) -> Option<Manifests> {
    let folder = root().join("deploy/kubernetes").join(folder);
    let output = match Command::new("kubectl")
        .arg("kustomize")
        .arg(folder)
        .output()
    {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Past the test's captured output: who reads the results sees what they don't cover.
            let skipped =
                "SKIPPED: kubectl isn't here, so the overlays of deploy/kubernetes aren't read\n";
            io::stderr()
                .write_all(skipped.as_bytes())
                .expect("a standard error");
            return None;
        }
        output => output.expect("kubectl runs"),
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(kubernetes::printed(
        &String::from_utf8(output.stdout).expect("UTF-8"),
    ))
}

/// The facts that differ between two manifests, without their values.
fn changed(from: &Facts, to: &Facts) -> BTreeSet<(String, String)> {
    let all: BTreeSet<_> = from.keys().chain(to.keys()).cloned().collect();
    all.into_iter()
        .filter(|key| from.get(key) != to.get(key))
        .collect()
}

#[test]
fn kubectl_reads_what_is_read_here() {
    let Some(rendered) = rendered("base") else {
        return;
    };
    let read = kubernetes::read();
    assert_eq!(rendered.facts(), read.facts());
    assert_eq!(rendered.service_ports(), read.service_ports());
    assert_eq!(rendered.objects.len(), read.objects.len());
    let mut namespaced = rendered
        .objects
        .iter()
        .filter(|it| it["kind"] != "Namespace");
    assert!(namespaced.all(|it| it["metadata"]["namespace"] == "agora"));
}

#[test]
fn overlays_change_what_they_are_there_for_and_nothing_else() {
    let base = kubernetes::read();
    let facts = base.facts();
    let networks = compose::read().networks();
    for (overlay, kind, subject) in [
        ("local", "NodePort", "memory request"),
        ("cloud", "LoadBalancer", "image"),
    ] {
        let Some(mut rendered) = rendered(&format!("overlays/{overlay}")) else {
            return;
        };
        let changed = changed(&facts, &rendered.facts());
        assert!(!changed.is_empty(), "{overlay}");
        assert!(
            changed.iter().all(|(_, changed)| changed == subject),
            "{overlay}: {changed:#?}"
        );
        assert_eq!(rendered.defects(), [""; 0], "{overlay}");
        assert_eq!(
            reachability::differences(&rendered, &networks),
            [""; 0],
            "{overlay}"
        );
        assert_eq!(rendered.service_ports(), base.service_ports(), "{overlay}");
        assert_eq!(
            rendered.object_mut("Service", "traefik")["spec"]["type"],
            kind
        );
        let open = rendered
            .of_kind("Service")
            .filter(|it| it["spec"].get("type").is_some());
        assert_eq!(open.count(), 1, "{overlay}");
    }
}
