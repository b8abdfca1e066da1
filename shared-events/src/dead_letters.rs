//! How a dead letter is chosen among others, in one place: `cargo xtask dlq list` looks at letters through
//! the broker's management API, and the `dead-letters` tool moves them over AMQP; both have to mean the same
//! ones. The API cuts bodies, so both go by the same beginning of a body ([`BODY_BEGINNING_BYTES`]).

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::topology::headers;

/// How much of a body is looked at for the event's id and type. A list of a thousand letters asks the broker for no more
/// of each, and nobody else looks further: a letter that one of them finds would be overlooked by the other.
pub const BODY_BEGINNING_BYTES: usize = 2_048;

/// What a letter is chosen by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The event's id, where it can be read.
    pub id: Option<String>,
    /// The event's type, where it can be read.
    pub event_type: Option<String>,
    /// Why it is dead.
    pub reason: Option<String>,
    /// When it was called dead.
    pub failed_at: Option<DateTime<Utc>>,
    /// When handling it first failed: before that nobody can have applied it for good. Where the letter doesn't say, when it
    /// was called dead.
    pub first_failed_at: Option<DateTime<Utc>>,
}

/// What the tool did to a queue, as it says it and `xtask` reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The dead-letter queue.
    pub queue: String,
    /// How many letters were looked at: at most as many as were there at the beginning.
    pub examined: usize,
    /// How many of them were selected.
    pub selected: usize,
    /// How many of those were replayed or purged.
    pub done: usize,
    /// How many of those looked at stay.
    pub kept: usize,
    /// Whether it was only a look.
    pub dry_run: bool,
    /// Whether it was asked to end before it was through.
    pub interrupted: bool,
    /// When the first of the selected ones died, as far as they tell.
    pub oldest_failed_at: Option<DateTime<Utc>>,
    /// The earliest first failure of the selected ones: earlier, where a letter was replayed and died again.
    #[serde(default)]
    pub oldest_first_failed_at: Option<DateTime<Utc>>,
}

/// The parts of an envelope that tell about a letter whose properties don't.
#[derive(Default)]
struct Told {
    id: Option<String>,
    event_type: Option<String>,
}

impl Told {
    /// What the beginning of a body tells: everything up to where it is cut, or is no JSON any more.
    fn by(body: &[u8]) -> Self {
        let beginning = &body[..body.len().min(BODY_BEGINNING_BYTES)];
        let mut told = Self::default();
        // An error says where reading had to end; what was told before it stands.
        let _ = serde_json::Deserializer::from_slice(beginning).deserialize_map(&mut told);
        told
    }
}

impl<'de> Visitor<'de> for &mut Told {
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
    /// From what a message carries: the properties before the body, our headers before the broker's. Of the body only
    /// the first [`BODY_BEGINNING_BYTES`] count, so that it may be given whole or cut behind them.
    ///
    /// `header` gives the text of a header, `broker_time` is when the broker itself called the message dead
    /// (`x-death`), as one of its own reasons comes without our headers.
    pub fn gather(
        message_id: Option<String>,
        event_type: Option<String>,
        body: &[u8],
        header: impl Fn(&str) -> Option<String>,
        broker_time: Option<DateTime<Utc>>,
    ) -> Self {
        let told = if message_id.is_none() || event_type.is_none() {
            Told::by(body)
        } else {
            Told::default()
        };
        let time = |name: &str| {
            header(name)
                .and_then(|time| DateTime::parse_from_rfc3339(&time).ok())
                .map(|time| time.with_timezone(&Utc))
        };
        let failed_at = time(headers::FAILED_AT).or(broker_time);
        Self {
            id: message_id.or(told.id),
            event_type: event_type.or(told.event_type),
            reason: header(headers::REASON).or_else(|| header(headers::LAST_DEATH_REASON)),
            failed_at,
            first_failed_at: time(headers::FIRST_FAILED_AT).or(failed_at),
        }
    }
}

/// Which letters are meant: those that meet every condition that is set. An empty selection means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The reason, as it stands in the header.
    pub reason: Option<String>,
    /// The event's type.
    pub event_type: Option<String>,
    /// The beginning of the event's id.
    pub id: Option<String>,
    /// Dead for at least so long.
    pub older_than: Option<Duration>,
    /// Dead for less than so long.
    pub younger_than: Option<Duration>,
}

impl Selection {
    /// Whether a letter is meant. What a letter doesn't tell meets no condition.
    pub fn selects(&self, letter: &Facts, now: DateTime<Utc>) -> bool {
        let equal =
            |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        let age = letter
            .failed_at
            .map(|failed_at| (now - failed_at).to_std().unwrap_or_default());
        equal(&self.reason, &letter.reason)
            && equal(&self.event_type, &letter.event_type)
            && self
                .id
                .as_ref()
                .is_none_or(|start| letter.id.as_ref().is_some_and(|id| id.starts_with(start)))
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

    fn letter(now: DateTime<Utc>) -> Facts {
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
            selection.selects(&letter(now), now)
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
    fn properties_are_believed_before_the_body_and_our_headers_before_the_brokers() {
        let body = br#"{"id":"of the body","type":"told"}"#;
        let ours = |name: &str| match name {
            headers::REASON => Some("rejected".to_owned()),
            headers::LAST_DEATH_REASON => Some("delivery_limit".to_owned()),
            headers::FAILED_AT => Some("2026-11-22T10:00:00Z".to_owned()),
            _ => None,
        };
        let letter = Facts::gather(Some("m-1".to_owned()), None, body, ours, Some(Utc::now()));
        assert_eq!(letter.id.as_deref(), Some("m-1"));
        assert_eq!(letter.event_type.as_deref(), Some("told"));
        assert_eq!(letter.reason.as_deref(), Some("rejected"));
        assert_eq!(letter.failed_at.unwrap().timestamp(), 1_795_341_600);

        let theirs =
            |name: &str| (name == headers::LAST_DEATH_REASON).then(|| "delivery_limit".to_owned());
        let time = DateTime::from_timestamp(1_700_000_000, 0);
        let letter = Facts::gather(None, None, b"not JSON", theirs, time);
        assert_eq!(letter.reason.as_deref(), Some("delivery_limit"));
        assert_eq!((letter.id, letter.failed_at), (None, time));
    }

    /// What a body alone tells.
    fn told(body: &[u8]) -> (Option<String>, Option<String>) {
        let facts = Facts::gather(None, None, body, |_| None, None);
        (facts.id, facts.event_type)
    }

    #[test]
    fn a_long_body_tells_the_same_whole_and_cut() {
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
            // The cut goes through the value.
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
            assert_eq!(told(body.as_bytes()), expected, "{body:.60}");
            assert_eq!(
                told(&body.as_bytes()[..BODY_BEGINNING_BYTES]),
                expected,
                "{body:.60}"
            );
        }
    }

    #[test]
    fn a_body_that_is_no_event_tells_what_it_can() {
        assert_eq!(
            told(br#"{"id":7,"type":"t"}"#),
            (None, Some("t".to_owned()))
        );
        assert_eq!(
            told(br#"{"id":"e", and then"#),
            (Some("e".to_owned()), None)
        );
        for nothing in [&b"nope"[..], b"", b"[]", b"\"id\"", b"\xff\xfe"] {
            assert_eq!(told(nothing), (None, None));
        }
    }

    #[test]
    fn what_a_letter_does_not_tell_meets_no_condition() {
        let selection = Selection {
            older_than: Some(Duration::ZERO),
            ..Selection::default()
        };
        assert!(!selection.selects(&Facts::default(), Utc::now()));
        assert!(Selection::default().selects(&Facts::default(), Utc::now()));
    }
}
