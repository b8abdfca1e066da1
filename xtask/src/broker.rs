//! The way to RabbitMQ's management API.

use anyhow::Context;

use crate::{
    engine::{self, Container},
    http::Client,
    project::{PORTS, Settings},
};

/// A client of it, logged in. Its port may be another one after each start of the container.
pub(crate) fn management(settings: &Settings, containers: &[Container]) -> anyhow::Result<Client> {
    let port = PORTS
        .iter()
        .find(|port| port.service == "rabbitmq")
        .context("no port for RabbitMQ")?;
    let address = engine::published(containers, port)?;
    let password = settings.require("AGORA_RABBITMQ_PASSWORD")?;
    Ok(Client::new(&format!("agora:{password}@{address}")))
}
