//! Cutting a service off from one of its networks.

use std::time::Duration;

use records::evaluation::FaultEffect;
use system::{
    composed::Composed,
    control,
    engine::{self, Container},
    http::Client,
    project::{ALERT_RECEIVER, SERVICES},
    running::RunningSystem,
};

use super::{
    Fault, Injection,
    containers::{again, name, wait_until_healthy},
    declaration::{Argument, Declaration},
    not_observed, observed,
};

/// A service checks its database every second, and waits for two.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// Services with a shell, from which a connection can be tried.
const NEIGHBOURS: [&str; 3] = ["postgres", "rabbitmq", "prometheus"];

/// Asked for as `cut`.
pub(super) const CUT: Declaration = Declaration {
    name: "cut",
    does: "It is disconnected from one of its networks",
    proof: "it isn't in the network, and another container can't reach it",
    arguments: &[Argument::Service, Argument::Network],
    fault: |values| Fault::Cut {
        service: values.service,
        network: values.network,
    },
};

/// Containers without one of their networks.
#[derive(Debug)]
pub(super) struct Cut {
    before: Vec<Container>,
    service: &'static str,
    /// The engine's name of the network.
    network: String,
    composed: Composed,
    /// A container that could reach the first one over this network.
    neighbour: Option<Container>,
}

impl Cut {
    pub(super) fn new(
        system: &RunningSystem<'_>,
        service: &'static str,
        network: &'static str,
    ) -> anyhow::Result<Self> {
        let composed = Composed::read(system)?;
        let mut cut = Self {
            before: system.containers_of(service)?,
            service,
            network: composed.network(service, network)?.to_owned(),
            composed,
            neighbour: None,
        };
        for container in system.containers()? {
            let near = NEIGHBOURS.contains(&container.service.as_str())
                && container.service != service
                && container.state == "running"
                && container.networks.contains_key(&cut.network);
            if near && cut.reachable_from(&container)? {
                cut.neighbour = Some(container);
                break;
            }
        }
        Ok(cut)
    }

    /// Whether a neighbour can connect to the address that the first container had in this network.
    fn reachable_from(&self, neighbour: &Container) -> anyhow::Result<bool> {
        let port = match self.service {
            "postgres" => 5432,
            "rabbitmq" => 5672,
            "prometheus" => 9090,
            "alertmanager" => 9093,
            ALERT_RECEIVER => 8080,
            "jaeger" => 8888,
            "traefik" => 8082,
            // The ops port of agora's own services.
            _ => 9100,
        };
        let first = self.before.first();
        let address = first.and_then(|container| container.networks.get(&self.network));
        let Some(address) = address.filter(|address| !address.is_empty()) else {
            return Ok(false);
        };
        // Debian's images have bash; Prometheus's own has busybox.
        let connect = format!(
            "if command -v bash; then timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port}'; \
             else timeout 2 wget -q -O /dev/null http://{address}:{port}/metrics; fi"
        );
        let call = control::exec(neighbour, ["sh", "-c", &connect]).limit(ASK_LIMIT);
        Ok(call.output()?.status.success())
    }

    /// What shows that the service is cut off, in words; `None` while nothing does.
    fn noticed(&self, system: &RunningSystem<'_>) -> anyhow::Result<Option<String>> {
        if let Some(neighbour) = &self.neighbour
            && !self.reachable_from(neighbour)?
        {
            let neighbour = &neighbour.service;
            return Ok(Some(format!("{neighbour} can't reach it there any more")));
        }
        let containers = system.containers()?;
        if let Some(unready) = unready(&containers)? {
            return Ok(Some(format!(
                "{unready} isn't ready by its own health check"
            )));
        }
        if self.service == "traefik" && !gateway_answers(&containers) {
            return Ok(Some("the gateway doesn't answer".to_owned()));
        }
        Ok(None)
    }
}

/// The first service whose health check fails now: the engine asks every two seconds, and counts three failures.
fn unready(containers: &[Container]) -> anyhow::Result<Option<&str>> {
    let services = containers
        .iter()
        .filter(|container| SERVICES.contains(&container.service.as_str()))
        .filter(|container| container.state == "running");
    for container in services {
        let call = control::exec(container, ["/service", "healthcheck"]);
        if !call.limit(ASK_LIMIT).output()?.status.success() {
            return Ok(Some(&container.service));
        }
    }
    Ok(None)
}

fn gateway_answers(containers: &[Container]) -> bool {
    let gateway = engine::published_by(containers, "traefik");
    gateway.is_ok_and(|address| Client::new(&address).get("/", &[], &[]).is_ok())
}

impl Injection for Cut {
    fn inject(&mut self, _lab: &RunningSystem<'_>) -> anyhow::Result<()> {
        for container in &self.before {
            control::disconnect(container, &self.network)?;
        }
        Ok(())
    }

    fn effect(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        let now = again(system, &self.before)?;
        if let Some(connected) = now
            .iter()
            .find(|container| container.networks.contains_key(&self.network))
        {
            return Ok(not_observed(format!(
                "{} is in the network {}",
                name(connected),
                self.network
            )));
        }
        let without = format!("{} is not in the network {}", self.service, self.network);
        Ok(match self.noticed(system)? {
            Some(who) => observed(format!("{without}, and {who}")),
            None => not_observed(format!("{without}, but nobody misses it there")),
        })
    }

    fn patience(&self) -> Duration {
        NOTICED_WITHIN
    }

    fn heal(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        for container in again(system, &self.before)? {
            self.composed.reconnect(&container)?;
        }
        wait_until_healthy(system, &self.before)
    }
}
