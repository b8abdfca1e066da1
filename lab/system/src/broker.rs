//! A client of RabbitMQ's management API, and the alarms that make the broker accept no messages.
//!
//! Left out: what else is asked of it, and AMQP.

use base::outcome;
use serde::Deserialize;

use crate::{
    Part,
    http::Client,
    members::{self, Member},
    project::Settings,
};

/// The resource of the memory alarm, as the broker names it.
pub const MEMORY: &str = "memory";
/// The resource of the disk alarm, as the broker names it.
const DISK: &str = "disk space";

/// A client with the credentials of the settings. The port may change whenever the broker starts again.
pub fn management(settings: &Settings, members: &[Member]) -> anyhow::Result<Client> {
    let address = members::published_by(members, Part::RabbitMq)?;
    let password = settings.require("AGORA_RABBITMQ_PASSWORD")?;
    Ok(Client::new(&format!("agora:{password}@{address}")))
}

/// The resources whose alarms are on: the broker reads nothing from connections that publish while there is one. By its own
/// health check and not by its statistics, which lag.
///
/// # Errors
/// When the broker doesn't answer.
pub fn alarms(broker: &Client) -> anyhow::Result<Vec<String>> {
    let answer = broker.get("/api/health/checks/alarms", &[], &[])?;
    match answer.status {
        200 => Ok(Vec::new()),
        503 => Ok(resources(answer.json()?)),
        _ => anyhow::bail!("RabbitMQ refuses to name its alarms: {}", answer.shown()),
    }
}

/// The alarms of a system's broker; none where it isn't healthy, which is shown elsewhere. `members` were asked for their
/// health.
///
/// # Errors
/// When a healthy broker doesn't answer.
pub fn alarms_of(settings: &Settings, members: &[Member]) -> anyhow::Result<Vec<String>> {
    let is_healthy = |member: &Member| member.service == Part::RabbitMq && member.is_healthy();
    if !members.iter().any(is_healthy) {
        return Ok(Vec::new());
    }
    alarms(&management(settings, members)?)
}

/// What alarms mean, with the next step; `None` without any.
pub fn blocked_by(alarms: &[String]) -> Option<anyhow::Error> {
    if alarms.is_empty() {
        return None;
    }
    let next_step = if alarms.iter().any(|resource| resource == DISK) {
        "make room on the disk of the engine's volumes (`docker system df`): it accepts messages again by itself above \
         disk_free_limit (observability/rabbitmq/agora.conf)"
    } else {
        "`cargo xtask heal` sets its memory watermark back"
    };
    Some(outcome::failed(
        format!(
            "rabbitmq accepts no messages: its alarm for {} is on",
            alarms.join(" and ")
        ),
        next_step,
    ))
}

#[derive(Deserialize)]
struct Alarms {
    alarms: Vec<Alarm>,
}

#[derive(Deserialize)]
struct Alarm {
    resource: String,
}

/// Each resource once, whichever nodes are short of it.
fn resources(answer: Alarms) -> Vec<String> {
    let mut resources: Vec<String> = answer
        .alarms
        .into_iter()
        .map(|alarm| alarm.resource)
        .collect();
    resources.sort();
    resources.dedup();
    resources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_named_with_what_helps() {
        let answer = r#"{"reason":"There are alarms in effect in the cluster","status":"failed",
            "alarms":[{"node":"rabbit@rabbitmq","resource":"disk space"}]}"#;
        let alarms = resources(serde_json::from_str(answer).unwrap());
        assert_eq!(alarms, [DISK]);
        let error = blocked_by(&alarms).unwrap().to_string();
        for part in ["accepts no messages", "disk space", "make room"] {
            assert!(error.contains(part), "{error}");
        }
        let error = blocked_by(&[MEMORY.to_owned()]).unwrap().to_string();
        assert!(error.contains("cargo xtask heal"), "{error}");
        assert!(blocked_by(&[]).is_none());
    }
}
