//! The header `Idempotency-Key`: who repeats a request with its key gets the first one's answer, and no second effect. It is
//! the first one's to the letter, whatever became of its effect since: a client that retries can't tell which attempt it
//! hears of, and must not have to. A refused request made nothing, so its key is free, and the next attempt is the first.
//! Source: <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>.
//!
//! Left out: where keys are kept. That is a column beside what the request made, unique together with its user, so that
//! the two are committed together and the database decides between requests at the same time.

use std::str::FromStr;

use http::{HeaderMap, HeaderName, StatusCode};

use crate::problem::Problem;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A client's own name for one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

/// A key that can't be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an Idempotency-Key is 1 to {max} printable ASCII characters", max = IdempotencyKey::MAX_CHARS)]
pub struct InvalidKey;

impl IdempotencyKey {
    const MAX_CHARS: usize = 255;

    /// The request's key; `None` without one.
    ///
    /// # Errors
    /// 422 when there is more than one, or one that can't be kept.
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

/// 422: the key came with another request before. `what` it made then: "order".
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
