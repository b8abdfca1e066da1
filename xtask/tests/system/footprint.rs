//! What the services weigh, and what of the system can be reached from this machine.

use crate::{program::docker, system::System};

const SERVICES: [&str; 4] = [
    "user-service",
    "product-service",
    "order-service",
    "inventory-service",
];
const IMAGE_LIMIT_BYTES: u64 = 20_000_000;
const RESIDENT_LIMIT_KIB: u64 = 15 * 1024;

#[test]
fn an_idle_service_is_at_most_20_mb_on_disk_and_15_mib_in_memory() {
    let system = System::take_turn();
    // Idle is a process that has done nothing yet; these ones may have stood load and outages.
    for service in SERVICES {
        docker(["restart", &system.container(service)]);
    }
    system.wait_until_healthy();
    let report = system
        .xtask(&["status", "--format", "json"])
        .expect_code(0)
        .json();
    let services = report["services"].as_array().expect("`services` is a list");
    for name in SERVICES {
        let service = services
            .iter()
            .find(|service| service["service"] == name)
            .expect(name);
        let figure = |field: &str| service[field].as_u64().expect("a number");
        assert!(figure("image_bytes") <= IMAGE_LIMIT_BYTES, "{service}");
        assert!(figure("resident_kib") <= RESIDENT_LIMIT_KIB, "{service}");
    }
}

#[test]
fn services_publish_no_port_and_nothing_leaves_this_machine() {
    let system = System::take_turn();
    let published = |service: &str| docker(["port", &system.container(service)]);
    for service in SERVICES {
        assert_eq!(published(service), "", "{service}");
    }
    for service in [
        "traefik",
        "rabbitmq",
        "prometheus",
        "alertmanager",
        "alert-receiver",
        "postgres",
    ] {
        let ports = published(service);
        assert!(
            ports.lines().all(|port| port.contains("-> 127.0.0.1:")),
            "{service}: {ports}"
        );
    }
}
