//! Ids and quantities shared by the services. Checked once, where they are made; decoding JSON makes them too, so an event
//! can't contain an invalid one.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// A value outside of its type's range; the text states the range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(String);

/// The id of an order. A UUIDv7, so that ids sort by the time of the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OrderId(pub Uuid);

/// The id of a user: the token's `sub`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UserId(pub Uuid);

/// The id of a product of the catalogue: a positive number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct ProductId(i64);

/// The quantity of a product in one order: 1 to [`Quantity::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Quantity(i32);

impl OrderId {
    /// A new id with the current time.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// The time encoded in it, to the millisecond; `None` for a UUID of a version without a time.
    pub fn generated_at(self) -> Option<DateTime<Utc>> {
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        DateTime::from_timestamp(seconds.try_into().ok()?, nanos)
    }
}

impl UserId {
    /// A new id with the current time.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl ProductId {
    /// The number, for a query.
    pub fn get(self) -> i64 {
        self.0
    }
}

impl Quantity {
    /// The maximum of one order.
    pub const MAX: i32 = 1_000;

    /// The number, for a query.
    pub fn get(self) -> i32 {
        self.0
    }
}

impl TryFrom<i64> for ProductId {
    type Error = InvalidValue;

    fn try_from(value: i64) -> Result<Self, InvalidValue> {
        if value > 0 {
            Ok(Self(value))
        } else {
            Err(InvalidValue(format!(
                "a product id is a positive number, not {value}"
            )))
        }
    }
}

impl TryFrom<i64> for Quantity {
    type Error = InvalidValue;

    fn try_from(value: i64) -> Result<Self, InvalidValue> {
        match i32::try_from(value) {
            Ok(quantity @ 1..=Self::MAX) => Ok(Self(quantity)),
            _ => Err(InvalidValue(format!(
                "a quantity is a number from 1 to {}, not {value}",
                Self::MAX
            ))),
        }
    }
}

impl From<ProductId> for i64 {
    fn from(id: ProductId) -> i64 {
        id.0
    }
}

impl From<Quantity> for i64 {
    fn from(quantity: Quantity) -> i64 {
        quantity.0.into()
    }
}

/// Reads a client's number, for serde's `deserialize_with`: an integer as JSON Schema defines it, that is a number without
/// a fraction, in any notation (99, 99.0, 9.9e1). A number with a point or an exponent is exact below 2^53 and refused from
/// there on. Events are written by services only, in plain digits.
/// Source: <https://json-schema.org/draft/2020-12/json-schema-core#section-4.2.1>.
///
/// # Errors
/// When it isn't such a number, or outside of the type's range.
pub fn whole_number<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64, Error = InvalidValue>,
{
    let value = deserializer.deserialize_i64(WholeNumber)?;
    value.try_into().map_err(de::Error::custom)
}

struct WholeNumber;

impl Visitor<'_> for WholeNumber {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<i64, E> {
        let out_of_range = |_| E::invalid_value(Unexpected::Unsigned(value), &self);
        i64::try_from(value).map_err(out_of_range)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<i64, E> {
        const EXACT: f64 = (1_i64 << f64::MANTISSA_DIGITS) as f64;
        if value.fract() == 0.0 && value.abs() < EXACT {
            return Ok(value as i64);
        }
        Err(E::invalid_value(Unexpected::Float(value), &self))
    }
}

impl FromStr for UserId {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Uuid::parse_str(text)
            .map(Self)
            .map_err(|_| InvalidValue("a user id is a UUID".to_owned()))
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ProductId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn an_order_id_contains_its_creation_time() {
        let before = Utc::now() - TimeDelta::milliseconds(1);
        let made = OrderId::generate().generated_at().unwrap();
        assert!(before <= made && made <= Utc::now(), "{made}");
        assert_eq!(OrderId(Uuid::nil()).generated_at(), None);
    }

    fn written<T: TryFrom<i64, Error = InvalidValue>>(json: &str) -> Option<T> {
        whole_number(&mut serde_json::Deserializer::from_str(json)).ok()
    }

    fn product(json: &str) -> Option<i64> {
        written(json).map(ProductId::get)
    }

    #[test]
    fn an_integer_is_accepted_in_every_notation_of_json_schema() {
        for json in ["99", "99.0", "9.9e1", "990e-1"] {
            assert_eq!(product(json), Some(99), "{json}");
            assert_eq!(written(json).map(Quantity::get), Some(99), "{json}");
        }
        assert_eq!(product(&i64::MAX.to_string()), Some(i64::MAX));
        assert_eq!(product("9007199254740991.0"), Some((1 << 53) - 1));
    }

    #[test]
    fn a_number_that_is_no_integer_or_not_exact_is_refused() {
        for json in [
            "99.5",
            "1e-1",
            "-99.0",
            "0.0",
            "1e300",
            "1e16",
            // Parsed as 2^53, like 9007199254740993.0.
            "9007199254740992.0",
            "9223372036854775808",
            "\"99\"",
            "null",
            "true",
        ] {
            assert_eq!(product(json), None, "{json}");
        }
    }
}
