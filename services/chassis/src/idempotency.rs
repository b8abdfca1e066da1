//! The header `Idempotency-Key`: a repeated request with the same key gets the answer of the first one, and has no second
//! effect. The answer is exactly the first one's, even if its effect has changed since: a client that retries can't tell which
//! attempt the answer is of, and doesn't need to. A refused request had no effect, so its key is free, and the next attempt
//! is the first.
//! Source: <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>.
//!
//! Left out: where keys are stored. That is a column of the row that the request made, unique together with its user, so that
//! both are committed together and the database decides between concurrent requests.

use std::str::FromStr;

use http::{HeaderMap, HeaderName, StatusCode};

use crate::problem::Problem;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A client's key for one request and its retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

/// A key that can't be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an Idempotency-Key is 1 to {max} printable ASCII characters", max = IdempotencyKey::MAX_CHARS)]
pub struct InvalidKey;

impl IdempotencyKey {
    const MAX_CHARS: usize = 255;

    /// The request's key; `None` without one.
    ///
    /// # Errors
    /// 422 when there is more than one, or one that can't be stored.
    pub fn of_request(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(Problem::invalid("there is more than one Idempotency-Key"));
        }
        let key = value.to_str().map_err(|_| InvalidKey).and_then(str::parse);
        key.map(Some)
            .map_err(|error| Problem::invalid(error.to_string()))
    }

    /// As it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if text.trim().is_empty() || text.len() > Self::MAX_CHARS || !printable {
            return Err(InvalidKey);
        }
        Ok(Self(text.to_owned()))
    }
}

/// 422: the key was used with another request before. `what` that one made: "order".
pub fn key_reused(what: &str) -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "idempotency-key-reused",
        format!("this Idempotency-Key belongs to another {what} of yours"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_printable_and_bounded() {
        assert!("2f0c-1".parse::<IdempotencyKey>().is_ok());
        for bad in ["", "  ", "a\tb", "é", &"x".repeat(256)] {
            assert_eq!(bad.parse::<IdempotencyKey>(), Err(InvalidKey), "{bad:?}");
        }
    }
}
