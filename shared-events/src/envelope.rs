//! The envelope: CloudEvents 1.0 in structured JSON.
//! Source: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>.

use chrono::{DateTime, SecondsFormat, SubsecRound, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use uuid::Uuid;

/// The media type of an encoded [`Event`].
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

const SPEC_VERSION: &str = "1.0";
/// Type names start with this; what follows is the routing key.
const TYPE_PREFIX: &str = "agora.";

/// The payload of an [`Event`].
pub trait EventData: Serialize + DeserializeOwned {
    /// The CloudEvents `type`, with its version: an incompatible change gets a new one.
    const TYPE: &'static str;

    /// The CloudEvents `subject`: the id of the order that this is about.
    fn subject(&self) -> String;
}

/// One event: CloudEvents context attributes around `data` that is still untyped.
///
/// Unknown attributes are ignored, as CloudEvents requires of consumers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    specversion: String,
    /// UUIDv7, generated once by the producer; every delivery of the event has the same.
    pub id: Uuid,
    /// The kind of event: an [`EventData::TYPE`].
    #[serde(rename = "type")]
    pub event_type: String,
    /// The producing service, as a URI reference: `/order-service`.
    pub source: String,
    /// The order's id.
    pub subject: String,
    /// When it happened, to the microsecond.
    #[serde(serialize_with = "rfc3339_micros", deserialize_with = "to_the_micro")]
    pub time: DateTime<Utc>,
    #[serde(default = "json_media_type")]
    datacontenttype: String,
    data: Value,
}

/// Why bytes are not an event, or an event's data doesn't match its type.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or not the envelope.
    #[error("not a CloudEvents envelope: {0}")]
    Envelope(serde_json::Error),
    /// Another version of CloudEvents.
    #[error("CloudEvents specversion {0:?} instead of \"1.0\"")]
    SpecVersion(String),
    /// The event has another type than expected.
    #[error("event type {found:?} instead of {expected:?}")]
    Type {
        /// The envelope's type.
        found: String,
        /// The type that the caller expects.
        expected: &'static str,
    },
    /// The type is the expected one, but the data doesn't match it.
    #[error("data of {event_type}: {source}")]
    Data {
        /// The event's type.
        event_type: &'static str,
        /// serde's error.
        source: serde_json::Error,
    },
}

impl Event {
    /// Wraps `data` in a new event of `service` (its name, without a slash).
    pub fn new<D: EventData>(service: &str, data: &D) -> Self {
        Self {
            specversion: SPEC_VERSION.to_owned(),
            id: Uuid::now_v7(),
            event_type: D::TYPE.to_owned(),
            source: format!("/{service}"),
            subject: data.subject(),
            time: micros(Utc::now()),
            datacontenttype: json_media_type(),
            data: serde_json::to_value(data).expect("event data has string keys only"),
        }
    }

    /// Decodes an envelope.
    ///
    /// # Errors
    /// [`DecodeError::Envelope`] or [`DecodeError::SpecVersion`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        // serde also reads a struct from an array, which would make the order of the fields in the code a part of the
        // contract; the same applies to the data.
        if bytes.trim_ascii_start().starts_with(b"[") {
            return Err(DecodeError::Envelope(not_an_object()));
        }
        let event: Self = serde_json::from_slice(bytes).map_err(DecodeError::Envelope)?;
        if event.specversion != SPEC_VERSION {
            return Err(DecodeError::SpecVersion(event.specversion));
        }
        Ok(event)
    }

    /// Encodes the event as JSON.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an event has string keys only")
    }

    /// The data, as `D`.
    ///
    /// # Errors
    /// [`DecodeError::Type`] when the event has another type, [`DecodeError::Data`] when its data isn't a `D`.
    pub fn data<D: EventData>(&self) -> Result<D, DecodeError> {
        if self.event_type != D::TYPE {
            return Err(DecodeError::Type {
                found: self.event_type.clone(),
                expected: D::TYPE,
            });
        }
        self.data
            .as_object()
            .ok_or_else(not_an_object)
            .and_then(D::deserialize)
            .map_err(|source| DecodeError::Data {
                event_type: D::TYPE,
                source,
            })
    }

    /// The AMQP routing key: the type without its prefix, `order.placed.v1`.
    pub fn routing_key(&self) -> &str {
        self.event_type
            .strip_prefix(TYPE_PREFIX)
            .unwrap_or(&self.event_type)
    }
}

fn not_an_object() -> serde_json::Error {
    serde::de::Error::custom("not an object")
}

fn json_media_type() -> String {
    "application/json".to_owned()
}

/// Microseconds, because that is PostgreSQL's precision: an event read back from a row must equal the original. Truncated
/// where an event is made and where it is decoded, otherwise it would change when it is first stored.
fn micros(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(6)
}

fn to_the_micro<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    DateTime::deserialize(deserializer).map(micros)
}

fn rfc3339_micros<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
}
