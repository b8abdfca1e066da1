//! One dead letter: the facts that it is selected by, and its properties when it is replayed. Left out: its body's meaning.

use std::collections::BTreeMap;

use chassis::message::{MAX_HEADER_BYTES, copied, original_routing_key};
use chrono::{DateTime, SecondsFormat, Utc};
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use shared_events::dead_letters::Facts;
use shared_events::topology::headers;

/// The broker's history of a message's deaths; newest first.
const DEATHS: &str = "x-death";
/// Headers about how the message died, which a replay drops. The broker's history is among them, because a next death
/// would look like an old one. Each is a name, or with `*` a prefix.
const DEATH_HEADERS: [&str; 11] = [
    headers::REASON,
    headers::ERROR,
    headers::FAILED_AT,
    headers::CONSUMER,
    headers::ATTEMPTS,
    DEATHS,
    "x-first-death-*",
    "x-last-death-*",
    "x-delivery-count",
    // With these the broker would deliver the copy to other queues as well.
    "CC",
    "BCC",
];
/// The headers kept when all together exceed the limit.
const TRACE_CONTEXT: [&str; 2] = ["traceparent", "tracestate"];

/// The facts that a message is selected by.
pub(crate) fn facts(message: &Delivery) -> Facts {
    let owned = |text: &ShortString| text.to_string();
    let properties = &message.properties;
    Facts::gather(
        properties.message_id().as_ref().map(owned),
        properties.kind().as_ref().map(owned),
        &message.data,
        |name| text(message, name).map(str::to_owned),
        broker_time(message),
    )
}

/// How often it was replayed so far.
pub(crate) fn replays(message: &Delivery) -> i64 {
    let count = match header(message, headers::REPLAYS) {
        Some(AMQPValue::LongLongInt(count)) => *count,
        // The management API encodes smaller numbers like this.
        Some(AMQPValue::LongInt(count)) => i64::from(*count),
        _ => 0,
    };
    count.max(0)
}

/// Its properties for a replay: without the headers about its death, and without properties that the broker acts on (an
/// expiration, a user id, a priority).
pub(crate) fn properties(message: &Delivery) -> BasicProperties {
    copied(&message.properties).with_headers(next_headers(message))
}

fn next_headers(message: &Delivery) -> FieldTable {
    let kept = |keep: &dyn Fn(&str) -> bool| -> FieldTable {
        let all = message
            .properties
            .headers()
            .iter()
            .flat_map(FieldTable::inner);
        all.filter(|(name, _)| keep(name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<BTreeMap<_, _>>()
            .into()
    };
    let mut next = kept(&|name| !DEATH_HEADERS.iter().any(|pattern| matches(pattern, name)));
    let weight = serde_json::to_vec(&next).map_or(usize::MAX, |json| json.len());
    if weight > MAX_HEADER_BYTES {
        next = kept(&|name| {
            TRACE_CONTEXT.contains(&name)
                && text(message, name).is_some_and(|text| text.len() < MAX_HEADER_BYTES / 2)
        });
    }
    // The copy's routing key is the queue's name: should it die again, this header has the original one.
    let routing_key = AMQPValue::LongString(original_routing_key(message).into());
    next.insert(headers::ROUTING_KEY.into(), routing_key);
    let replays = AMQPValue::LongLongInt(replays(message).saturating_add(1));
    next.insert(headers::REPLAYS.into(), replays);
    // Each death overwrites the time of the last one.
    if let Some(time) = facts(message).first_failed_at {
        let time = time.to_rfc3339_opts(SecondsFormat::Millis, true);
        let time = AMQPValue::LongString(time.into());
        next.insert(headers::FIRST_FAILED_AT.into(), time);
    }
    next
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// When the broker itself dead-lettered it.
fn broker_time(message: &Delivery) -> Option<DateTime<Utc>> {
    let AMQPValue::FieldArray(deaths) = header(message, DEATHS)? else {
        return None;
    };
    let AMQPValue::FieldTable(last) = deaths.as_slice().first()? else {
        return None;
    };
    let AMQPValue::Timestamp(seconds) = last.inner().get("time")? else {
        return None;
    };
    DateTime::from_timestamp(i64::try_from(*seconds).ok()?, 0)
}

fn text<'a>(message: &'a Delivery, name: &str) -> Option<&'a str> {
    match header(message, name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        _ => None,
    }
}

fn header<'a>(message: &'a Delivery, name: &str) -> Option<&'a AMQPValue> {
    message.properties.headers().as_ref()?.inner().get(name)
}
