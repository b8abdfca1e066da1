//! The networks and limits that a container should have, as Compose resolves them.
//!
//! Left out: everything else in its definition.

use std::collections::BTreeMap;

use anyhow::Context;
use base::outcome;
use serde::Deserialize;

use crate::{
    Part, control,
    members::{Limits, Member},
    running::RunningSystem,
};

/// What `docker compose config` prints: the fields that faults change.
#[derive(Debug, Default, Deserialize)]
pub struct Definition {
    services: BTreeMap<String, DefinedService>,
    networks: BTreeMap<String, DefinedNetwork>,
}

#[derive(Debug, Deserialize)]
struct DefinedService {
    #[serde(default)]
    networks: BTreeMap<String, Option<Attachment>>,
    /// The memory limit in bytes, as text.
    mem_limit: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Attachment {
    #[serde(default)]
    aliases: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct DefinedNetwork {
    name: String,
}

impl Definition {
    /// Reads it.
    ///
    /// # Errors
    /// When Compose fails, or says something else.
    pub fn read(system: &RunningSystem<'_>) -> anyhow::Result<Self> {
        if system.target().is_some() {
            // Nothing of it is changed by faults there.
            return Ok(Self::default());
        }
        let text = system.compose(["config", "--format", "json"]).read()?;
        // The text holds secrets: no error may repeat it.
        serde_json::from_str(&text).context("failed to read what `docker compose config` says")
    }

    /// The engine's name of a service's network.
    pub fn network(&self, service: Part, network: &str) -> anyhow::Result<&str> {
        let networks = self
            .services
            .get(service.name())
            .map(|service| &service.networks);
        let known = networks.filter(|networks| networks.contains_key(network));
        match (known, self.networks.get(network)) {
            (Some(_), Some(network)) => Ok(&network.name),
            _ => {
                let names = networks.into_iter().flat_map(BTreeMap::keys);
                let names: Vec<&str> = names.map(String::as_str).collect();
                Err(outcome::usage(
                    format!("{service} is not in the network `{network}`"),
                    format!("it is in {}", names.join(", ")),
                ))
            }
        }
    }

    /// Connects a container to the networks that it lacks, under its aliases; returns their names in compose.yaml.
    pub fn reconnect(&self, member: &Member) -> anyhow::Result<Vec<String>> {
        let Some(service) = self.services.get(member.service.name()) else {
            return Ok(Vec::new());
        };
        let mut reconnected = Vec::new();
        for (network, attachment) in &service.networks {
            let Some(DefinedNetwork { name }) = self.networks.get(network) else {
                continue;
            };
            if member.networks.contains_key(name) {
                continue;
            }
            let others = attachment.iter().flat_map(|attachment| &attachment.aliases);
            let aliases = [member.service.name()].into_iter();
            control::connect(member, name, aliases.chain(others.map(String::as_str)))?;
            reconnected.push(network.clone());
        }
        Ok(reconnected)
    }

    /// The memory limits that a container should have.
    pub fn limits(&self, member: &Member) -> anyhow::Result<Limits> {
        let service = self.services.get(member.service.name());
        let Some(text) = service.and_then(|service| service.mem_limit.as_ref()) else {
            return Ok(Limits::default());
        };
        let memory_bytes: i64 = text
            .parse()
            .with_context(|| format!("mem_limit of {}: {text}", member.service))?;
        Ok(Limits {
            memory_bytes,
            // The engine's default without a limit of swap.
            memory_and_swap_bytes: 2 * memory_bytes,
            ..Limits::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"name":"agora","networks":{"data":{"name":"agora_data","internal":true},
        "ui":{"name":"agora_ui"}},"services":{"rabbitmq":{"mem_limit":"536870912","environment":{"A":"b"},
        "networks":{"data":null,"ui":{"aliases":["bus"]}}}}}"#;

    #[test]
    fn a_services_networks_are_known_by_the_engines_names() {
        let definition: Definition = serde_json::from_str(CONFIG).unwrap();
        assert_eq!(
            definition.network(Part::RabbitMq, "data").unwrap(),
            "agora_data"
        );
        let error = definition.network(Part::RabbitMq, "edge").unwrap_err();
        assert_eq!(outcome::Exit::of(&error), outcome::Exit::Usage);
        assert!(error.to_string().contains("data, ui"), "{error}");
    }
}
