//! Cutting a service off from one of its networks.

use std::time::Duration;

use super::{
    Effect, bit,
    composed::Composed,
    containers::{again, name, wait_until_healthy},
    did_not_bite,
};
use crate::{
    engine::{self, Container, docker},
    evaluation::{evidence::Bite, lab::Lab},
    http::Client,
    project::{PORTS, SERVICES},
    wait,
};

/// A service looks at its database every second, and waits for two.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// Containers without one of their networks.
#[derive(Debug)]
pub(super) struct Cut {
    before: Vec<Container>,
    service: &'static str,
    /// As the engine calls it.
    network: String,
    composed: Composed,
}

impl Cut {
    pub(super) fn new(
        lab: &Lab<'_>,
        service: &'static str,
        network: &'static str,
    ) -> anyhow::Result<Self> {
        let composed = Composed::read(lab)?;
        Ok(Self {
            before: lab.containers_of(service)?,
            service,
            network: composed.network(service, network)?.to_owned(),
            composed,
        })
    }

    /// Who misses it, in words.
    fn noticed(&self, lab: &Lab<'_>) -> anyhow::Result<Option<String>> {
        let containers = lab.containers()?;
        if let Some(neighbour) = self.unreachable_for(&containers)? {
            return Ok(Some(format!("{neighbour} can't reach it any more")));
        }
        if let Some(unready) = unready(&containers)? {
            return Ok(Some(format!("{unready} says that it isn't ready")));
        }
        if ["user-service", "traefik"].contains(&self.service) && gateway_fails(&containers) {
            return Ok(Some("a login through the gateway fails".to_owned()));
        }
        Ok(None)
    }

    /// A neighbour with a shell, of whom nothing but this network leads to the service.
    fn unreachable_for(&self, containers: &[Container]) -> anyhow::Result<Option<String>> {
        let port = match self.service {
            "postgres" => 5432,
            "rabbitmq" => 5672,
            service if SERVICES.contains(&service) => 9100,
            _ => return Ok(None),
        };
        let only_here = |container: &&Container| {
            let others = self.before.iter().flat_map(|cut| &cut.networks);
            let mut others = others.filter(|network| **network != self.network);
            ["postgres", "rabbitmq"].contains(&container.service.as_str())
                && container.service != self.service
                && container.state == "running"
                && container.networks.contains(&self.network)
                && !others.any(|network| container.networks.contains(network))
        };
        let Some(neighbour) = containers.iter().find(only_here) else {
            return Ok(None);
        };
        let connect = format!("exec 3<>/dev/tcp/{}/{port}", self.service);
        let call = docker([
            "exec",
            &neighbour.id,
            "timeout",
            "2",
            "bash",
            "-c",
            &connect,
        ]);
        let reached = call.limit(ASK_LIMIT).output()?.status.success();
        Ok((!reached).then(|| neighbour.service.clone()))
    }
}

/// The first service whose own health check fails now: the engine asks every two seconds, and believes the third time.
fn unready(containers: &[Container]) -> anyhow::Result<Option<&str>> {
    let services = containers
        .iter()
        .filter(|container| SERVICES.contains(&container.service.as_str()))
        .filter(|container| container.state == "running");
    for container in services {
        let call = docker(["exec", &container.id, "/service", "healthcheck"]);
        if !call.limit(ASK_LIMIT).output()?.status.success() {
            return Ok(Some(&container.service));
        }
    }
    Ok(None)
}

/// An empty login is refused by user-service, and by nobody else.
fn gateway_fails(containers: &[Container]) -> bool {
    let gateway = PORTS.iter().find(|port| port.service == "traefik");
    let address = gateway.and_then(|port| engine::published(containers, port).ok());
    let answer = address.map(|address| {
        let body = serde_json::json!({});
        Client::new(&address).post("/auth/login", &[], Some(&body))
    });
    !matches!(answer, Some(Ok(answer)) if answer.status < 500)
}

impl Effect for Cut {
    fn inject(&mut self, _lab: &Lab<'_>) -> anyhow::Result<()> {
        for container in &self.before {
            docker(["network", "disconnect", &self.network, &container.id]).read()?;
        }
        Ok(())
    }

    fn bite(&mut self, lab: &Lab<'_>) -> anyhow::Result<Bite> {
        let now = again(lab, &self.before)?;
        if let Some(connected) = now
            .iter()
            .find(|container| container.networks.contains(&self.network))
        {
            return Ok(did_not_bite(format!(
                "{} is in the network {}",
                name(connected),
                self.network
            )));
        }
        let noticed = wait::until(NOTICED_WITHIN, LOOK_INTERVAL, || self.noticed(lab))?;
        let without = format!("{} is not in the network {}", self.service, self.network);
        Ok(match noticed {
            Some(who) => bit(format!("{without}, and {who}")),
            None => did_not_bite(format!("{without}, but nobody misses it there")),
        })
    }

    fn heal(&mut self, lab: &Lab<'_>) -> anyhow::Result<()> {
        for container in again(lab, &self.before)? {
            self.composed.reconnect(&container)?;
        }
        wait_until_healthy(lab, &self.before)
    }
}
