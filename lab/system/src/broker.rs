//! A client of RabbitMQ's management API.
//!
//! Left out: what is asked of it, and AMQP.

use crate::{
    Part,
    http::Client,
    members::{self, Member},
    project::Settings,
};

/// A client with the credentials of the settings. The port may change whenever the broker starts again.
pub fn management(settings: &Settings, members: &[Member]) -> anyhow::Result<Client> {
    let address = members::published_by(members, Part::RabbitMq)?;
    let password = settings.require("AGORA_RABBITMQ_PASSWORD")?;
    Ok(Client::new(&format!("agora:{password}@{address}")))
}
