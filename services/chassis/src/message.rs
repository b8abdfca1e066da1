//! The headers and properties of a failed message that is published again: to a retry tier, to the dead letters, or out of
//! them.
//!
//! Left out: where it is published to (`consumer`, and the tool `dead-letters`).

use std::collections::BTreeMap;

use chrono::DateTime;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use shared_events::topology::{RETRY_TIERS, headers};
use tracing::warn;

/// The most of an error's text in a log line and in a header: it may quote the message.
const MAX_ERROR_CHARS: usize = 1_000;

pub(crate) fn shortened(error: &str) -> String {
    error.chars().take(MAX_ERROR_CHARS).collect()
}

/// The limit of a message's headers when it is published again, in bytes of JSON. All of them travel in one frame, with the
/// ones added here, and the broker closes a connection that sends a larger frame than was negotiated.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Headers that have the broker deliver a message to more queues.
const SENDER_SELECTED: [&str; 2] = ["CC", "BCC"];

/// Other headers are kept, unless they would make the message impossible to publish, or deliver it to queues that its
/// sender chose.
pub(crate) fn drop_excess(table: &mut FieldTable) {
    let weight = serde_json::to_vec(table).map_or(usize::MAX, |json| json.len());
    if weight > MAX_HEADER_BYTES {
        warn!(weight, "headers too large to publish: dropped");
        *table = FieldTable::default();
    }
    if SENDER_SELECTED.iter().any(|name| table.contains_key(name)) {
        let kept = table.inner().iter();
        *table = kept
            .filter(|(name, _)| !SENDER_SELECTED.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<BTreeMap<_, _>>()
            .into();
    }
}

/// The properties that describe a message. Not those that act on the broker: an expiration would delete a dead letter, and
/// another user's id would have it refused.
pub fn copied(properties: &BasicProperties) -> BasicProperties {
    let mut copy = BasicProperties::default();
    if let Some(content_type) = properties.content_type() {
        copy = copy.with_content_type(content_type.clone());
    }
    if let Some(message_id) = properties.message_id() {
        copy = copy.with_message_id(message_id.clone());
    }
    if let Some(kind) = properties.kind() {
        copy = copy.with_type(kind.clone());
    }
    if let Some(timestamp) = properties.timestamp() {
        copy = copy.with_timestamp(*timestamp);
    }
    copy
}

pub(crate) fn insert_text(table: &mut FieldTable, header: &str, text: &str) {
    table.insert(header.into(), AMQPValue::LongString(text.into()));
}

/// From the header of the chassis; anything but a plausible number counts as none.
pub(crate) fn attempts_so_far(table: &FieldTable) -> i64 {
    match table.inner().get(headers::ATTEMPTS) {
        Some(AMQPValue::LongLongInt(attempts)) => (*attempts).clamp(0, RETRY_TIERS.len() as i64),
        _ => 0,
    }
}

/// When handling the message first failed, by its header; `None` if that isn't a time.
pub(crate) fn first_failure(table: &FieldTable) -> Option<String> {
    let Some(AMQPValue::LongString(time)) = table.inner().get(headers::FIRST_FAILED_AT) else {
        return None;
    };
    let time = std::str::from_utf8(time.as_bytes()).ok()?;
    DateTime::parse_from_rfc3339(time)
        .is_ok()
        .then(|| time.to_owned())
}

/// The longest routing key that AMQP has, in bytes.
const MAX_ROUTING_KEY_BYTES: usize = 255;

/// The routing key that a message was first published with. A message that comes from a retry queue, or from the dead
/// letters, has a queue's name as its routing key; the header has the first one, unless another program wrote it and it
/// can't be one.
pub fn original_routing_key(delivery: &Delivery) -> &str {
    let table = delivery.properties.headers().as_ref();
    let in_header = match table.and_then(|table| table.inner().get(headers::ROUTING_KEY)) {
        Some(AMQPValue::LongString(key)) => std::str::from_utf8(key.as_bytes()).ok(),
        _ => None,
    };
    in_header
        .filter(|key| key.len() <= MAX_ROUTING_KEY_BYTES)
        .unwrap_or(delivery.routing_key.as_str())
}
