//! Faults of the broker: closed connections, a missing binding, the memory alarm.
//!
//! Left out: killing it, which is done to any member ([`super::members`]).

use std::{fs, time::Duration};

use anyhow::Context;
use records::evaluation::FaultEffect;
use serde::Deserialize;
use serde_json::{Value, json};
use shared_events::topology::{self, Topology};
use system::{
    Part, broker, control,
    http::{Answer, Client, segment},
    members::Member,
    project::Project,
    running::{self, RunningSystem},
    wait,
};

use super::{
    Fault, Injection,
    declaration::{Argument, Declaration},
    messages, not_observed, observed,
};

/// The broker's list of connections lags behind.
const LISTED_WITHIN: Duration = Duration::from_secs(8);
/// The broker checks its memory every 2.5 s.
const ALARM_WITHIN: Duration = Duration::from_secs(15);
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// `rabbitmqctl` starts an Erlang machine.
const CTL_LIMIT: Duration = Duration::from_secs(30);
/// The reason that the broker logs and gives to the client.
const REASON: &str = "agora evaluation";
/// The broker's settings, below the repository's root, and the one that the alarm depends on.
const SETTINGS: &str = "observability/rabbitmq/agora.conf";
const WATERMARK: &str = "vm_memory_high_watermark.absolute";

/// Asked for as `reset`.
pub(super) const RESET: Declaration = Declaration {
    name: "reset",
    does: "The broker closes its connections",
    proof: "the broker no longer lists them",
    arguments: &[Argument::Service],
    fault: |values| Fault::ResetConnections {
        service: values.service(),
    },
};

/// Asked for as `unbind`.
pub(super) const UNBIND: Declaration = Declaration {
    name: "unbind",
    does: "A stream's queue loses its binding",
    proof: "the broker has no queue for a message",
    arguments: &[Argument::Stream],
    fault: |values| Fault::Unbind {
        stream: values.stream,
    },
};

/// Asked for as `memory-alarm`.
pub(super) const MEMORY_ALARM: Declaration = Declaration {
    name: "memory-alarm",
    does: "The broker raises its memory alarm and accepts no messages",
    proof: "the broker reports the alarm",
    arguments: &[],
    fault: |_| Fault::MemoryAlarm,
};

/// Connections that the broker closes.
#[derive(Debug)]
pub(super) struct ResetConnections {
    service: Part,
    closed: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Connection {
    name: String,
    #[serde(default)]
    client_properties: Value,
}

impl ResetConnections {
    pub(super) fn new(service: Part) -> Self {
        Self {
            service,
            closed: Vec::new(),
        }
    }
}

/// A service names its connections `<service> publisher` and `<service> consumer`.
fn belongs_to(connection: &Connection, service: Part) -> bool {
    let name = connection.client_properties["connection_name"].as_str();
    name.and_then(|name| name.split(' ').next()) == Some(service.name())
}

impl Injection for ResetConnections {
    fn inject(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        let broker = system.broker()?;
        let found = wait::until(LISTED_WITHIN, LOOK_INTERVAL, || {
            let mut connections: Vec<Connection> = list(&broker, "/api/connections")?;
            connections.retain(|connection| belongs_to(connection, self.service));
            Ok((!connections.is_empty()).then_some(connections))
        })?;
        for connection in found.unwrap_or_default() {
            let path = format!("/api/connections/{}", segment(&connection.name));
            let answer = broker.delete(&path, &[("x-reason", REASON)])?;
            // One that ended by itself meanwhile isn't ours.
            if expect(&answer, &[204, 404], "close a connection")? == 204 {
                self.closed.push(connection.name);
            }
        }
        Ok(())
    }

    fn effect(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        let broker = system.broker()?;
        let mut open = 0;
        for name in &self.closed {
            let answer = broker.get(&format!("/api/connections/{}", segment(name)), &[], &[])?;
            if expect(&answer, &[200, 404], "look for a connection")? == 200 {
                open += 1;
            }
        }
        let (closed, service) = (self.closed.len() - open, self.service);
        Ok(match (closed, open) {
            (0, 0) => not_observed(format!("the broker knows no connection of {service}")),
            (_, 0) => observed(format!(
                "the broker closed {closed} connections of {service}"
            )),
            _ => not_observed(format!(
                "{open} of the connections of {service} that should be closed are open"
            )),
        })
    }

    fn heal(&mut self, _system: &RunningSystem<'_>) -> anyhow::Result<()> {
        // The service connects again by itself.
        Ok(())
    }
}

/// A stream's queue without its binding.
#[derive(Debug)]
pub(super) struct Unbind {
    stream: Topology,
}

#[derive(Debug, Deserialize)]
struct Binding {
    source: String,
    destination: String,
    routing_key: String,
    /// Names it among those of the same exchange and queue; to be escaped once more in a path.
    properties_key: String,
}

impl Unbind {
    pub(super) fn new(stream: Topology) -> Self {
        Self { stream }
    }

    fn path(&self) -> String {
        bindings_path(&self.stream.exchange(), &self.stream.queue())
    }
}

impl Injection for Unbind {
    fn inject(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        let broker = system.broker()?;
        for binding in list::<Binding>(&broker, &self.path())? {
            let path = format!("{}/{}", self.path(), segment(&binding.properties_key));
            expect(&broker.delete(&path, &[])?, &[204], "remove a binding")?;
        }
        Ok(())
    }

    fn effect(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        let broker = system.broker()?;
        let (exchange, queue) = (self.stream.exchange(), self.stream.queue());
        let bindings: Vec<Binding> = list(&broker, &self.path())?;
        if !bindings.is_empty() {
            return Ok(not_observed(format!("{queue} is bound to {exchange}")));
        }
        // If it is bound again in this moment, the message counts as one of poison, and is removed as such.
        let (payload, properties) = messages::poison("probe", 0);
        let key = messages::POISON_ROUTING_KEY;
        let routed = running::publish(&broker, &exchange, key, payload, &properties)?;
        Ok(if routed {
            not_observed(format!("the broker routes what is published to {exchange}"))
        } else {
            observed(format!(
                "{queue} has no binding, and the broker had no queue for a message to {exchange}"
            ))
        })
    }

    fn heal(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        restore_bindings(system)?;
        Ok(())
    }
}

/// Restores each missing binding of the topology; returns those, as `exchange → queue`.
pub(super) fn restore_bindings(system: &RunningSystem<'_>) -> anyhow::Result<Vec<String>> {
    let broker = system.broker()?;
    let bound: Vec<Binding> = list(&broker, "/api/bindings/%2F")?;
    let mut restored = Vec::new();
    for queue in topology::ALL.iter().flat_map(Topology::queues) {
        let is_bound = bound.iter().any(|binding| {
            binding.source == queue.exchange
                && binding.destination == queue.name
                && binding.routing_key == queue.binding
        });
        if is_bound {
            continue;
        }
        let path = bindings_path(&queue.exchange, &queue.name);
        let binding = json!({ "routing_key": queue.binding, "arguments": {} });
        let answer = broker.post(&path, &[], Some(&binding))?;
        expect(&answer, &[201], "bind a queue")?;
        restored.push(format!("{} → {}", queue.exchange, queue.name));
    }
    Ok(restored)
}

fn bindings_path(exchange: &str, queue: &str) -> String {
    format!(
        "/api/bindings/%2F/e/{}/q/{}",
        segment(exchange),
        segment(queue)
    )
}

/// A broker whose memory alarm is on, so that it accepts no messages.
#[derive(Debug)]
pub(super) struct MemoryAlarm;

impl Injection for MemoryAlarm {
    fn inject(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        set_watermark(system, &["0"])?;
        let broker = system.broker()?;
        // Whether it came in time is for `effect` to tell.
        wait::until(ALARM_WITHIN, LOOK_INTERVAL, || {
            Ok(alarm(&broker)?.then_some(()))
        })?;
        Ok(())
    }

    fn effect(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        Ok(if alarm(&system.broker()?)? {
            observed(
                "the broker reports its memory alarm: it reads nothing from who publishes"
                    .to_owned(),
            )
        } else {
            not_observed("the broker reports no memory alarm".to_owned())
        })
    }

    fn heal(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        set_watermark(system, &["absolute", &watermark(system.project)?])?;
        let healed = wait::until(ALARM_WITHIN, LOOK_INTERVAL, || {
            Ok((!alarm(&system.broker()?)?).then_some(()))
        })?;
        anyhow::ensure!(
            healed.is_some(),
            "the broker still reports its memory alarm {} s after its watermark was set back",
            ALARM_WITHIN.as_secs()
        );
        Ok(())
    }
}

/// Restores the configured memory watermark where it differs, or where the alarm is on; returns whether that was so.
pub(super) fn restore_watermark(system: &RunningSystem<'_>) -> anyhow::Result<bool> {
    if watermark_is_as_configured(system)? && !alarm(&system.broker()?)? {
        return Ok(false);
    }
    MemoryAlarm.heal(system)?;
    Ok(true)
}

/// Fails while an alarm is on that no fault raises: the disk's. The services that publish don't get healthy meanwhile.
pub(super) fn require_no_alarm(system: &RunningSystem<'_>) -> anyhow::Result<()> {
    let alarms = broker::alarms(&system.broker()?)?;
    broker::blocked_by(&alarms).map_or(Ok(()), Err)
}

/// Asks the broker itself: the statistics of its management API lag, the more the busier the machine is.
fn watermark_is_as_configured(system: &RunningSystem<'_>) -> anyhow::Result<bool> {
    let Some(configured) = bytes(&watermark(system.project)?) else {
        // What isn't known differs from nothing.
        return Ok(true);
    };
    let limits = ctl(system, &["eval", "vm_memory_monitor:get_memory_limit()."])?;
    Ok(limits
        .iter()
        .all(|limit| limit.trim() == configured.to_string()))
}

fn set_watermark(system: &RunningSystem<'_>, value: &[&str]) -> anyhow::Result<()> {
    ctl(system, &[&["set_vm_memory_high_watermark"], value].concat())?;
    Ok(())
}

/// What `rabbitmqctl` says in each of the broker's containers.
fn ctl(system: &RunningSystem<'_>, args: &[&str]) -> anyhow::Result<Vec<String>> {
    let run = |member: Member| {
        let ctl = ["rabbitmqctl", "--quiet"].into_iter();
        control::exec(&member, ctl.chain(args.iter().copied()))
            .limit(CTL_LIMIT)
            .read()
    };
    let members = system.members_of(Part::RabbitMq)?;
    members.into_iter().map(run).collect()
}

/// Whether the memory alarm is on.
fn alarm(client: &Client) -> anyhow::Result<bool> {
    let alarms = broker::alarms(client)?;
    Ok(alarms.iter().any(|resource| resource == broker::MEMORY))
}

/// The memory watermark that the broker starts with, e.g. `320MiB`.
fn watermark(project: &Project) -> anyhow::Result<String> {
    let path = project.root.join(SETTINGS);
    let settings =
        fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    watermark_in(&settings).with_context(|| format!("{} has no {WATERMARK}", path.display()))
}

fn watermark_in(settings: &str) -> Option<String> {
    settings.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == WATERMARK).then(|| value.trim().to_owned())
    })
}

/// A watermark in bytes; `None` for any unit but MiB, which the settings use.
fn bytes(watermark: &str) -> Option<u64> {
    let mebibytes: u64 = watermark.strip_suffix("MiB")?.parse().ok()?;
    Some(mebibytes * 1024 * 1024)
}

fn list<T: serde::de::DeserializeOwned>(broker: &Client, path: &str) -> anyhow::Result<Vec<T>> {
    let answer = broker.get(path, &[], &[])?;
    expect(&answer, &[200], &format!("list {path}"))?;
    answer.json()
}

/// The status, where it is one of these.
fn expect(answer: &Answer, statuses: &[u16], what: &str) -> anyhow::Result<u16> {
    anyhow::ensure!(
        statuses.contains(&answer.status),
        "RabbitMQ did not {what}: {}",
        answer.shown()
    );
    Ok(answer.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_owns_the_connections_that_bear_its_name() {
        let connection = |name: Value| Connection {
            name: "1 -> 2".to_owned(),
            client_properties: json!({ "connection_name": name }),
        };
        let is_of_orders = |name| belongs_to(&connection(name), Part::OrderService);
        assert!(is_of_orders(json!("order-service consumer")));
        assert!(!is_of_orders(json!("order-service-2 consumer")));
        assert!(!is_of_orders(Value::Null));
    }

    #[test]
    fn the_brokers_watermark_is_read_from_its_settings() {
        let settings = include_str!("../../../../observability/rabbitmq/agora.conf");
        let watermark = watermark_in(settings).unwrap();
        assert_eq!(bytes(&watermark), Some(320 * 1024 * 1024), "{watermark}");
        assert_eq!(
            watermark_in("# vm_memory_high_watermark.absolute = 1MiB"),
            None
        );
    }
}
