//! A client of RabbitMQ's management API.
//!
//! Left out: what is asked of it, and AMQP.

use crate::{
    engine::{self, Container},
    http::Client,
    project::Settings,
};

/// A client with the credentials of the settings. The port may change whenever the broker starts again.
pub fn management(settings: &Settings, containers: &[Container]) -> anyhow::Result<Client> {
    let address = engine::published_by(containers, "rabbitmq")?;
    let password = settings.require("AGORA_RABBITMQ_PASSWORD")?;
    Ok(Client::new(&format!("agora:{password}@{address}")))
}
