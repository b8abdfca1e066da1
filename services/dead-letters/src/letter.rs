//! One dead letter: what it is chosen by, and what it looks like when it is sent again. Left out: its body's meaning.

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
/// What tells of the life that ended. Besides our own: the broker's history, or the next death would look like an
/// old one. Each is a name, or with `*` the beginning of some.
const OF_THE_LAST_LIFE: [&str; 11] = [
    headers::REASON,
    headers::ERROR,
    headers::FAILED_AT,
    headers::CONSUMER,
    headers::ATTEMPTS,
    DEATHS,
    "x-first-death-*",
    "x-last-death-*",
    "x-delivery-count",
    // These would have the broker deliver it to other queues as well.
    "CC",
    "BCC",
];
/// What is kept when all together is too much.
const TRACE_CONTEXT: [&str; 2] = ["traceparent", "tracestate"];

/// What the letter is chosen by.
pub(crate) fn facts(letter: &Delivery) -> Facts {
    let owned = |text: &ShortString| text.to_string();
    let properties = &letter.properties;
    Facts::gather(
        properties.message_id().as_ref().map(owned),
        properties.kind().as_ref().map(owned),
        &letter.data,
        |name| text(letter, name).map(str::to_owned),
        broker_time(letter),
    )
}

/// How often it was sent again so far.
pub(crate) fn replays(letter: &Delivery) -> i64 {
    let count = match header(letter, headers::REPLAYS) {
        Some(AMQPValue::LongLongInt(count)) => *count,
        // As the management API writes smaller numbers.
        Some(AMQPValue::LongInt(count)) => i64::from(*count),
        _ => 0,
    };
    count.max(0)
}

/// Its properties for another life: what the message is, and no trace of how it died. Left behind as well is what
/// acts on the broker (an expiration, a user id, a priority).
pub(crate) fn properties(letter: &Delivery) -> BasicProperties {
    copied(&letter.properties).with_headers(next_headers(letter))
}

fn next_headers(letter: &Delivery) -> FieldTable {
    let kept = |keep: &dyn Fn(&str) -> bool| -> FieldTable {
        let all = letter
            .properties
            .headers()
            .iter()
            .flat_map(FieldTable::inner);
        all.filter(|(name, _)| keep(name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<BTreeMap<_, _>>()
            .into()
    };
    let mut next = kept(&|name| {
        !OF_THE_LAST_LIFE
            .iter()
            .any(|pattern| matches(pattern, name))
    });
    let weight = serde_json::to_vec(&next).map_or(usize::MAX, |json| json.len());
    if weight > MAX_HEADER_BYTES {
        next = kept(&|name| {
            TRACE_CONTEXT.contains(&name)
                && text(letter, name).is_some_and(|text| text.len() < MAX_HEADER_BYTES / 2)
        });
    }
    // The message arrives with the queue's name as its routing key: should it die again, this tells the first one.
    let routing_key = AMQPValue::LongString(original_routing_key(letter).into());
    next.insert(headers::ROUTING_KEY.into(), routing_key);
    let replays = AMQPValue::LongLongInt(replays(letter).saturating_add(1));
    next.insert(headers::REPLAYS.into(), replays);
    // Each death writes its own time over the last one.
    if let Some(time) = facts(letter).first_failed_at {
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

/// When the broker itself called it dead.
fn broker_time(letter: &Delivery) -> Option<DateTime<Utc>> {
    let AMQPValue::FieldArray(deaths) = header(letter, DEATHS)? else {
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

fn text<'a>(letter: &'a Delivery, name: &str) -> Option<&'a str> {
    match header(letter, name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        _ => None,
    }
}

fn header<'a>(letter: &'a Delivery, name: &str) -> Option<&'a AMQPValue> {
    letter.properties.headers().as_ref()?.inner().get(name)
}
