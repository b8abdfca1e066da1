//! Ids and quantities that cross a service's border. Checked once, where they are made; decoding JSON
//! makes them too, so an event can't carry an impossible one.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A value outside of what its type allows; the text says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(String);

/// An order. A UUIDv7, so that ids sort by the time of the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OrderId(pub Uuid);

/// A user of the shop: who the token's `sub` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UserId(pub Uuid);

/// A product of the catalogue: a positive number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct ProductId(i64);

/// How many of a product one order takes: 1 to [`Quantity::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Quantity(i32);

impl OrderId {
    /// A new id, now.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// The time in it, to the millisecond; `None` for a UUID of a version that has none.
    pub fn generated_at(self) -> Option<DateTime<Utc>> {
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        DateTime::from_timestamp(seconds.try_into().ok()?, nanos)
    }
}

impl UserId {
    /// A new id, now.
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
    /// The most that one order may take.
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
    fn an_order_id_has_the_time_of_its_making() {
        let before = Utc::now() - TimeDelta::milliseconds(1);
        let made = OrderId::generate().generated_at().unwrap();
        assert!(before <= made && made <= Utc::now(), "{made}");
        assert_eq!(OrderId(Uuid::nil()).generated_at(), None);
    }
}
