//! Messages as faults: unreadable ones, and events that are delivered a second time.
//!
//! Left out: losing messages ([`super::purge`]).

use chrono::{DateTime, SecondsFormat, Utc};
use records::evaluation::FaultEffect;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use shared_events::{
    CONTENT_TYPE,
    topology::{ORDER_EVENTS, Topology},
};
use system::running::{self, RunningSystem};

use super::{
    Fault, Injection, POISON_TYPE,
    declaration::{Argument, Declaration},
    effect_if,
};

/// The routing key of unreadable messages; the streams' bindings match every key.
pub(super) const POISON_ROUTING_KEY: &str = "evaluation.poison.v1";
const UNREADABLE: &str = "not an event";
/// AMQP's delivery mode of a persistent message.
const DELIVERY_MODE_PERSISTENT: u8 = 2;

/// Asked for as `poison`.
pub(super) const POISON: Declaration = Declaration {
    name: "poison",
    does: "Unreadable messages are published; `heal` removes what becomes of them",
    proof: "the broker put all of them into the queue",
    arguments: &[Argument::Stream, Argument::Count],
    fault: |values| Fault::Poison {
        stream: values.stream,
        count: values.count,
    },
};

/// Asked for as `redeliver`.
pub(super) const REDELIVER: Declaration = Declaration {
    name: "redeliver",
    does: "Published events are published again under the same ids",
    proof: "the broker put them into the queue",
    arguments: &[Argument::Stream, Argument::Count, Argument::PublishedWithin],
    fault: |values| Fault::Redeliver {
        stream: values.stream,
        count: values.count,
    },
};

/// Body and properties of an unreadable message; `batch` and `number` make its id.
pub(super) fn poison(batch: &str, number: u32) -> (&'static str, Value) {
    let now = Utc::now().timestamp_micros();
    let properties = json!({
        "delivery_mode": DELIVERY_MODE_PERSISTENT,
        "content_type": CONTENT_TYPE,
        "type": POISON_TYPE,
        "message_id": format!("agora-evaluation-{batch}-{now}-{number}"),
    });
    (UNREADABLE, properties)
}

/// Unreadable messages.
///
/// Healing leaves their dead letters alone, as these are the effect; [`super::heal_everything`] removes them.
#[derive(Debug)]
pub(super) struct Poison {
    stream: Topology,
    count: u32,
    routed: u32,
}

impl Poison {
    pub(super) fn new(stream: Topology, count: u32) -> Self {
        Self {
            stream,
            count,
            routed: 0,
        }
    }
}

impl Injection for Poison {
    fn inject(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        let (broker, exchange) = (system.broker()?, self.stream.exchange());
        for number in 1..=self.count {
            let (payload, properties) = poison("poison", number);
            let routed =
                running::publish(&broker, &exchange, POISON_ROUTING_KEY, payload, &properties)?;
            self.routed += u32::from(routed);
        }
        Ok(())
    }

    fn effect(&mut self, _system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        let (routed, count) = (self.routed, self.count);
        let proof = format!(
            "the broker put {routed} of {count} unreadable messages into {}",
            self.stream.queue()
        );
        Ok(effect_if(routed == count && routed > 0, proof))
    }

    fn heal(&mut self, _system: &RunningSystem<'_>) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Events that are delivered a second time. There is nothing to heal: an effect that was applied twice stays.
#[derive(Debug)]
pub(super) struct Redeliver {
    stream: Topology,
    count: u32,
    since: DateTime<Utc>,
    routed: u32,
}

/// A row of an outbox, with what its publisher makes a message of.
#[derive(Debug, Deserialize)]
struct Published {
    event_id: String,
    event_type: String,
    routing_key: String,
    payload: String,
    traceparent: Option<String>,
    tracestate: Option<String>,
}

impl Published {
    fn properties(&self) -> Value {
        let context = [
            ("traceparent", &self.traceparent),
            ("tracestate", &self.tracestate),
        ];
        let headers: Map<String, Value> = context
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value.clone()?.into())))
            .collect();
        json!({
            "delivery_mode": DELIVERY_MODE_PERSISTENT,
            "content_type": CONTENT_TYPE,
            "type": self.event_type,
            "message_id": self.event_id,
            "headers": headers,
        })
    }
}

impl Redeliver {
    pub(super) fn new(stream: Topology, count: u32, since: DateTime<Utc>) -> Self {
        Self {
            stream,
            count,
            since,
            routed: 0,
        }
    }

    /// The first of them, in the order in which they were said.
    fn published(&self, system: &RunningSystem<'_>) -> anyhow::Result<Vec<Published>> {
        let since = self.since.to_rfc3339_opts(SecondsFormat::Micros, true);
        let sql = format!(
            "SELECT json_build_object('event_id', event_id, 'event_type', event_type, 'routing_key', routing_key,
                'payload', payload, 'traceparent', traceparent, 'tracestate', tracestate)
             FROM outbox WHERE published_at >= '{since}' ORDER BY position LIMIT {}",
            self.count
        );
        system.objects(database(self.stream), &sql)
    }
}

/// The database whose outbox a stream's events come from.
pub(super) fn database(stream: Topology) -> &'static str {
    if stream == ORDER_EVENTS {
        "orders"
    } else {
        "inventory"
    }
}

impl Injection for Redeliver {
    fn inject(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        let published = self.published(system)?;
        let (broker, exchange) = (system.broker()?, self.stream.exchange());
        for event in &published {
            let properties = event.properties();
            let (key, payload) = (&event.routing_key, &event.payload);
            if running::publish(&broker, &exchange, key, payload, &properties)? {
                self.routed += 1;
            }
        }
        Ok(())
    }

    fn effect(&mut self, _system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        let (routed, count) = (self.routed, self.count);
        let proof = format!(
            "of the {count} first events published since {}, the broker put {routed} into {} a second time, under the \
             same ids",
            self.since.format("%F %T"),
            self.stream.queue()
        );
        Ok(effect_if(routed == count && routed > 0, proof))
    }

    fn heal(&mut self, _system: &RunningSystem<'_>) -> anyhow::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use shared_events::topology;

    use super::*;

    #[test]
    fn an_event_comes_again_as_its_publisher_sent_it() {
        let event: Published = serde_json::from_str(
            r#"{"event_id":"01","event_type":"agora.order.placed.v1","routing_key":"order.placed.v1",
                "payload":"{\"a\":\"x|y\\nz\"}","traceparent":"00-1-2-01","tracestate":null}"#,
        )
        .unwrap();
        let properties = event.properties();
        assert_eq!(properties["message_id"], "01");
        assert_eq!(properties["type"], "agora.order.placed.v1");
        assert_eq!(properties["headers"], json!({ "traceparent": "00-1-2-01" }));
    }

    #[test]
    fn every_stream_has_a_database() {
        assert_eq!(topology::ALL.map(database), ["orders", "inventory"]);
    }

    #[test]
    fn no_two_messages_of_poison_share_an_id() {
        let id = |number| poison("poison", number).1["message_id"].clone();
        assert_ne!(id(1), id(2));
    }
}
