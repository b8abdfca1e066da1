//! Cutting a service off from one of its networks.

use std::time::Duration;

use records::evaluation::FaultEffect;
use system::{
    Part, control,
    definition::Definition,
    health,
    http::Client,
    members::{self, Member, State},
    running::RunningSystem,
};

use super::{
    Fault, Injection,
    declaration::{Argument, Declaration},
    members::{again, name, wait_until_healthy},
    not_observed, observed,
};

/// A service checks its database every second, and waits for two.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// Services with a shell, from which a connection can be tried.
const NEIGHBOURS: [Part; 3] = [Part::Postgres, Part::RabbitMq, Part::Prometheus];

/// Asked for as `cut`.
pub(super) const CUT: Declaration = Declaration {
    name: "cut",
    does: "It is disconnected from one of its networks",
    proof: "it isn't in the network, and another container can't reach it",
    arguments: &[Argument::Service, Argument::Network],
    fault: |values| Fault::Cut {
        service: values.service(),
        network: values.network,
    },
};

/// Containers without one of their networks.
#[derive(Debug)]
pub(super) struct Cut {
    before: Vec<Member>,
    service: Part,
    /// The engine's name of the network.
    network: String,
    definition: Definition,
    /// A container that could reach the first one over this network.
    neighbour: Option<Member>,
}

impl Cut {
    pub(super) fn new(
        system: &RunningSystem<'_>,
        service: Part,
        network: &'static str,
    ) -> anyhow::Result<Self> {
        let definition = Definition::read(system)?;
        let mut cut = Self {
            before: system.members_of(service)?,
            service,
            network: definition.network(service, network)?.to_owned(),
            definition,
            neighbour: None,
        };
        for member in system.members()? {
            let near = NEIGHBOURS.contains(&member.service)
                && member.service != service
                && member.state == State::Running
                && member.networks.contains_key(&cut.network);
            if near && cut.reachable_from(&member)? {
                cut.neighbour = Some(member);
                break;
            }
        }
        Ok(cut)
    }

    /// Whether a neighbour can connect to the address that the first container had in this network.
    fn reachable_from(&self, neighbour: &Member) -> anyhow::Result<bool> {
        let port = match self.service {
            Part::Postgres => 5432,
            Part::RabbitMq => 5672,
            Part::Prometheus => 9090,
            Part::Alertmanager => 9093,
            Part::AlertReceiver => 8080,
            Part::Jaeger => 8888,
            Part::Traefik => 8082,
            // The ops port of agora's own services.
            _ => 9100,
        };
        let first = self.before.first();
        let address = first.and_then(|member| member.networks.get(&self.network));
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
            let neighbour = neighbour.service;
            return Ok(Some(format!("{neighbour} can't reach it there any more")));
        }
        let members = system.members()?;
        if let Some(unready) = unready(&members)? {
            return Ok(Some(format!(
                "{unready} isn't ready by its own health check"
            )));
        }
        if self.service == Part::Traefik && !gateway_answers(&members) {
            return Ok(Some("the gateway doesn't answer".to_owned()));
        }
        Ok(None)
    }
}

/// The first service that runs and whose health check has failed.
fn unready(members: &[Member]) -> anyhow::Result<Option<Part>> {
    let services = members.iter().filter(|member| member.service.is_service());
    let mut running: Vec<Member> = services
        .filter(|member| member.state == State::Running)
        .cloned()
        .collect();
    health::ask(&mut running)?;
    let unready = running.iter().find(|member| !member.is_healthy());
    Ok(unready.map(|member| member.service))
}

fn gateway_answers(members: &[Member]) -> bool {
    let gateway = members::published_by(members, Part::Traefik);
    gateway.is_ok_and(|address| Client::new(&address).get("/", &[], &[]).is_ok())
}

impl Injection for Cut {
    fn inject(&mut self, _system: &RunningSystem<'_>) -> anyhow::Result<()> {
        for member in &self.before {
            control::disconnect(member, &self.network)?;
        }
        Ok(())
    }

    fn effect(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        let now = again(system, &self.before)?;
        if let Some(connected) = now
            .iter()
            .find(|member| member.networks.contains_key(&self.network))
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
        for member in again(system, &self.before)? {
            self.definition.reconnect(&member)?;
        }
        wait_until_healthy(system, &self.before)
    }
}
