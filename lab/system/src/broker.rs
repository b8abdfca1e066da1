//! The way to RabbitMQ's management API.

use crate::{
    engine::{self, Container},
    http::Client,
    project::Settings,
};

/// A client of it, logged in. Its port may be another one after each start of the container.
pub fn management(settings: &Settings, containers: &[Container]) -> anyhow::Result<Client> {
    let address = engine::published_by(containers, "rabbitmq")?;
    let password = settings.require("AGORA_RABBITMQ_PASSWORD")?;
    Ok(Client::new(&format!("agora:{password}@{address}")))
}
