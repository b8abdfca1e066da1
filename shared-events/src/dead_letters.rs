//! How dead letters are selected, in one place: `cargo xtask dlq list` reads them through the broker's management API, and
//! the `dead-letters` tool moves them over AMQP; both must select the same messages. The API truncates bodies, so both use
//! the same prefix of a body ([`BODY_BEGINNING_BYTES`]).

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::topology::headers;

/// How much of a body is searched for the event's id and type. A list of a thousand messages requests no more of each from
/// the broker, and the tool searches no further: otherwise one would find a message that the other overlooks.
pub const BODY_BEGINNING_BYTES: usize = 2_048;

/// The facts that a message is selected by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The event's id, if it can be read.
    pub id: Option<String>,
    /// The event's type, if it can be read.
    pub event_type: Option<String>,
    /// Why it is dead.
    pub reason: Option<String>,
    /// When it was dead-lettered.
    pub failed_at: Option<DateTime<Utc>>,
    /// When handling it first failed: it can't have been applied before that. If the message doesn't have the time, the
    /// time when it was dead-lettered.
    pub first_failed_at: Option<DateTime<Utc>>,
}

/// What the tool did to a queue; it prints this and `xtask` parses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The dead-message queue.
    pub queue: String,
    /// The number of examined messages: at most as many as were in the queue at the start.
    pub examined: usize,
    /// How many of them were selected.
    pub selected: usize,
    /// How many of those were replayed or purged.
    pub done: usize,
    /// How many of the examined messages stay.
    pub kept: usize,
    /// Whether nothing was to be changed.
    pub dry_run: bool,
    /// Whether it was stopped before it was done.
    pub interrupted: bool,
    /// When the first of the selected messages died, as far as known.
    pub oldest_failed_at: Option<DateTime<Utc>>,
    /// The earliest first failure of the selected messages: earlier, where one was replayed and died again.
    #[serde(default)]
    pub oldest_first_failed_at: Option<DateTime<Utc>>,
}

/// The parts of an envelope that replace missing properties.
#[derive(Default)]
struct BodyFacts {
    id: Option<String>,
    event_type: Option<String>,
}

impl BodyFacts {
    /// Reads the prefix of a body, up to the cut or to the first invalid JSON.
    fn read(body: &[u8]) -> Self {
        let beginning = &body[..body.len().min(BODY_BEGINNING_BYTES)];
        let mut found = Self::default();
        // An error ends the reading; what was read before it stands.
        let _ = serde_json::Deserializer::from_slice(beginning).deserialize_map(&mut found);
        found
    }
}

impl<'de> Visitor<'de> for &mut BodyFacts {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key::<String>()? {
            let place = match name.as_str() {
                "id" => &mut self.id,
                "type" => &mut self.event_type,
                _ => {
                    members.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let value: serde_json::Value = members.next_value()?;
            *place = value.as_str().map(str::to_owned);
        }
        Ok(())
    }
}

impl Facts {
    /// Collects the facts from a message: properties take precedence over the body, this system's headers over the
    /// broker's. Only the first [`BODY_BEGINNING_BYTES`] of the body count, so it may be complete or truncated after them.
    ///
    /// `header` returns the text of a header, `broker_time` is when the broker itself dead-lettered the message (`x-death`),
    /// because its own reasons come without this system's headers.
    pub fn gather(
        message_id: Option<String>,
        event_type: Option<String>,
        body: &[u8],
        header: impl Fn(&str) -> Option<String>,
        broker_time: Option<DateTime<Utc>>,
    ) -> Self {
        let found = if message_id.is_none() || event_type.is_none() {
            BodyFacts::read(body)
        } else {
            BodyFacts::default()
        };
        let time = |name: &str| {
            header(name)
                .and_then(|time| DateTime::parse_from_rfc3339(&time).ok())
                .map(|time| time.with_timezone(&Utc))
        };
        let failed_at = time(headers::FAILED_AT).or(broker_time);
        Self {
            id: message_id.or(found.id),
            event_type: event_type.or(found.event_type),
            reason: header(headers::REASON).or_else(|| header(headers::LAST_DEATH_REASON)),
            failed_at,
            first_failed_at: time(headers::FIRST_FAILED_AT).or(failed_at),
        }
    }
}

/// Selects the messages that meet every condition that is set. An empty selection selects all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The reason, as in the header.
    pub reason: Option<String>,
    /// The event's type.
    pub event_type: Option<String>,
    /// A prefix of the event's id.
    pub id: Option<String>,
    /// Dead for at least this long.
    pub older_than: Option<Duration>,
    /// Dead for less than this.
    pub younger_than: Option<Duration>,
}

impl Selection {
    /// Whether a message is selected. A missing fact meets no condition.
    pub fn selects(&self, message: &Facts, now: DateTime<Utc>) -> bool {
        let equal =
            |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        let age = message
            .failed_at
            .map(|failed_at| (now - failed_at).to_std().unwrap_or_default());
        equal(&self.reason, &message.reason)
            && equal(&self.event_type, &message.event_type)
            && self
                .id
                .as_ref()
                .is_none_or(|start| message.id.as_ref().is_some_and(|id| id.starts_with(start)))
            && self
                .older_than
                .is_none_or(|least| age.is_some_and(|age| age >= least))
            && self
                .younger_than
                .is_none_or(|most| age.is_some_and(|age| age < most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(now: DateTime<Utc>) -> Facts {
        Facts {
            id: Some("01938f7a-6f8a".to_owned()),
            event_type: Some("agora.order.placed.v1".to_owned()),
            reason: Some("unreadable".to_owned()),
            failed_at: Some(now - Duration::from_secs(60)),
            first_failed_at: Some(now - Duration::from_secs(60)),
        }
    }

    #[test]
    fn every_condition_has_to_be_met() {
        let now = Utc::now();
        let with = |change: fn(&mut Selection)| {
            let mut selection = Selection::default();
            change(&mut selection);
            selection.selects(&message(now), now)
        };
        assert!(with(|_| ()));
        assert!(with(|all| all.reason = Some("unreadable".to_owned())));
        assert!(!with(|all| all.reason = Some("rejected".to_owned())));
        assert!(!with(|all| all.event_type = Some("agora.order".to_owned())));
        assert!(with(|all| all.id = Some("01938f7a".to_owned())));
        assert!(!with(|all| all.id = Some("0193ffff".to_owned())));
        assert!(with(|all| all.older_than = Some(Duration::from_secs(60))));
        assert!(!with(|all| all.older_than = Some(Duration::from_secs(61))));
        assert!(with(|all| all.younger_than = Some(Duration::from_secs(61))));
        assert!(!with(|all| {
            all.reason = Some("unreadable".to_owned());
            all.younger_than = Some(Duration::from_secs(60));
        }));
    }

    #[test]
    fn properties_take_precedence_over_the_body_and_our_headers_over_the_brokers() {
        let body = br#"{"id":"of the body","type":"of the body"}"#;
        let ours = |name: &str| match name {
            headers::REASON => Some("rejected".to_owned()),
            headers::LAST_DEATH_REASON => Some("delivery_limit".to_owned()),
            headers::FAILED_AT => Some("2026-11-22T10:00:00Z".to_owned()),
            _ => None,
        };
        let message = Facts::gather(Some("m-1".to_owned()), None, body, ours, Some(Utc::now()));
        assert_eq!(message.id.as_deref(), Some("m-1"));
        assert_eq!(message.event_type.as_deref(), Some("of the body"));
        assert_eq!(message.reason.as_deref(), Some("rejected"));
        assert_eq!(message.failed_at.unwrap().timestamp(), 1_795_341_600);

        let theirs =
            |name: &str| (name == headers::LAST_DEATH_REASON).then(|| "delivery_limit".to_owned());
        let time = DateTime::from_timestamp(1_700_000_000, 0);
        let message = Facts::gather(None, None, b"not JSON", theirs, time);
        assert_eq!(message.reason.as_deref(), Some("delivery_limit"));
        assert_eq!((message.id, message.failed_at), (None, time));
    }

    /// The facts from a body alone.
    fn facts_of(body: &[u8]) -> (Option<String>, Option<String>) {
        let facts = Facts::gather(None, None, body, |_| None, None);
        (facts.id, facts.event_type)
    }

    #[test]
    fn a_long_body_has_the_same_facts_complete_and_truncated() {
        let (early, late) = (
            "\"id\":\"e\",\"type\":\"t\"",
            "x".repeat(BODY_BEGINNING_BYTES),
        );
        let both = (Some("e".to_owned()), Some("t".to_owned()));
        for (body, expected) in [
            (format!("{{{early},\"data\":\"{late}\"}}"), both),
            (
                format!("{{\"id\":\"e\",\"data\":\"{late}\",\"type\":\"t\"}}"),
                (Some("e".to_owned()), None),
            ),
            // The cut is inside the value.
            (
                format!("{{\"id\":\"e\",\"type\":\"{late}\"}}"),
                (Some("e".to_owned()), None),
            ),
            (
                format!(
                    "{{\"id\":\"e\",\"data\":\"{}\"}}",
                    "é".repeat(BODY_BEGINNING_BYTES)
                ),
                (Some("e".to_owned()), None),
            ),
        ] {
            assert_eq!(facts_of(body.as_bytes()), expected, "{body:.60}");
            assert_eq!(
                facts_of(&body.as_bytes()[..BODY_BEGINNING_BYTES]),
                expected,
                "{body:.60}"
            );
        }
    }

    #[test]
    fn a_body_that_is_no_event_yields_the_facts_that_can_be_read() {
        assert_eq!(
            facts_of(br#"{"id":7,"type":"t"}"#),
            (None, Some("t".to_owned()))
        );
        assert_eq!(
            facts_of(br#"{"id":"e", and then"#),
            (Some("e".to_owned()), None)
        );
        for nothing in [&b"nope"[..], b"", b"[]", b"\"id\"", b"\xff\xfe"] {
            assert_eq!(facts_of(nothing), (None, None));
        }
    }

    #[test]
    fn a_missing_fact_meets_no_condition() {
        let selection = Selection {
            older_than: Some(Duration::ZERO),
            ..Selection::default()
        };
        assert!(!selection.selects(&Facts::default(), Utc::now()));
        assert!(Selection::default().selects(&Facts::default(), Utc::now()));
    }
}
