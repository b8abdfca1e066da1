//! `status`: what runs, whether it is healthy, whether the broker accepts messages, how much memory it uses, and on Kubernetes whether
//! NetworkPolicies are enforced.

use std::thread;

use base::outcome::Exit;
use serde::Serialize;
use system::{
    Part, broker, health,
    members::{self, Member},
    network_policies::{self, Enforcement},
    project::Project,
    service_images,
};

use crate::output::{Format, print_json, table};

/// The most resident memory that an idle service may take.
const RESIDENT_LIMIT_KIB: u64 = 15 * 1024;

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    project: String,
    services: Vec<Service>,
    /// The resources that the broker is short of: it accepts no messages while there is one. `None` where it doesn't answer.
    broker_alarms: Option<Vec<String>>,
    /// What was seen of the NetworkPolicies; `None` on Compose, and where it can't be tried now.
    network_policies: Option<Enforcement>,
}

#[derive(Debug, Serialize)]
struct Service {
    service: Part,
    condition: String,
    healthy: bool,
    restarts: u64,
    image_bytes: Option<u64>,
    /// The patterns that it runs without.
    patterns_off: Vec<String>,
    /// Resident set of all processes, as `ps` on the engine's host gives it.
    resident_kib: Option<u64>,
}

/// Runs the command.
pub(crate) fn run(project: &Project, format: Format) -> anyhow::Result<Exit> {
    let mut members = members::running(project)?;
    health::ask(&mut members)?;
    let services = look_at_all(&members)?;
    let settings = project.settings();
    let broker_alarms = settings.and_then(|settings| broker::alarms_of(&settings, &members));
    let accepts_messages = matches!(&broker_alarms, Ok(none) if none.is_empty());
    let healthy = services.iter().all(|service| service.healthy) && accepts_messages;
    let report = Report {
        outcome: if healthy { Exit::Holds } else { Exit::Failed },
        project: project.name.clone(),
        services,
        broker_alarms: broker_alarms.as_ref().ok().cloned(),
        network_policies: network_policies::look(&members)?,
    };
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => {
            print_text(&report);
            match broker_alarms.map(|alarms| broker::blocked_by(&alarms)) {
                Ok(None) => {}
                Ok(Some(blocked)) => println!("{blocked}"),
                Err(unread) => println!("The broker's alarms can't be read: {unread:#}"),
            }
            let policies = report.network_policies.as_ref();
            if let Some(caution) = policies.and_then(Enforcement::caution) {
                println!("{caution}");
            }
        }
    }
    Ok(report.outcome)
}

/// Looks at every container, and at those that are expected and missing; at once, because each one costs the engine a
/// tenth of a second.
fn look_at_all(members: &[Member]) -> anyhow::Result<Vec<Service>> {
    let replicas = |service| {
        let of_service = members
            .iter()
            .filter(move |member| member.service == service);
        let found: Vec<_> = of_service.map(Some).collect();
        let missing = found.is_empty().then_some(None);
        found
            .into_iter()
            .chain(missing)
            .map(move |member| (service, member))
    };
    thread::scope(|scope| {
        let optional = Part::optional().filter(|service| {
            let is_it = |member: &Member| member.service == *service;
            members.iter().any(is_it)
        });
        let looks: Vec<_> = Part::required()
            .chain(optional)
            .flat_map(replicas)
            .map(|(service, member)| scope.spawn(move || look_at(service, member)))
            .collect();
        let results = looks.into_iter().map(|look| {
            look.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        results.collect()
    })
}

fn look_at(service: Part, member: Option<&Member>) -> anyhow::Result<Service> {
    let Some(member) = member else {
        return Ok(Service {
            service,
            condition: "not started".to_owned(),
            healthy: false,
            restarts: 0,
            image_bytes: None,
            patterns_off: Vec::new(),
            resident_kib: None,
        });
    };
    Ok(Service {
        service,
        condition: member.condition(),
        healthy: member.is_healthy(),
        restarts: member.restarts,
        image_bytes: service_images::size_bytes(&member.image)?,
        patterns_off: member.patterns_off.clone(),
        // Of ours only: each is one process. A sum over several counts what they share more than once.
        resident_kib: service
            .is_service()
            .then(|| members::resident_kib(member))
            .flatten(),
    })
}

fn print_text(report: &Report) {
    let mut rows = table([
        "service",
        "condition",
        "restarts",
        "image",
        "resident memory",
    ]);
    for service in &report.services {
        let ours = service.service.is_service();
        let image = service.image_bytes.map(|bytes| {
            let over = if ours && bytes > service_images::SIZE_LIMIT_BYTES {
                " OVER 20 MB"
            } else {
                ""
            };
            format!("{:.1} MB{over}", bytes as f64 / 1e6)
        });
        let memory = service.resident_kib.map(|kib| {
            let over = if ours && kib > RESIDENT_LIMIT_KIB {
                " over 15 MiB"
            } else {
                ""
            };
            format!("{:.1} MiB{over}", kib as f64 / 1024.0)
        });
        rows.add_row([
            service.service.to_string(),
            service.condition.clone(),
            service.restarts.to_string(),
            image.unwrap_or_else(|| "-".to_owned()),
            memory.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    println!("{rows}");
    println!(
        "Our services: images at most {} MB, idle at most {} MiB resident (`ps` on the engine's host).",
        service_images::SIZE_LIMIT_BYTES / 1_000_000,
        RESIDENT_LIMIT_KIB / 1024
    );
    for service in &report.services {
        if !service.patterns_off.is_empty() {
            println!(
                "{} runs without {}.",
                service.service,
                service.patterns_off.join(", ")
            );
        }
    }
    match report
        .services
        .iter()
        .filter(|service| !service.healthy)
        .count()
    {
        0 if report.outcome == Exit::Holds => println!("All healthy."),
        0 => {}
        sick => println!(
            "{sick} not healthy: `cargo xtask logs SERVICE` says why, `cargo xtask up` starts what is stopped."
        ),
    }
}
