//! Access tokens: JWT, HS256, with `exp`, `iss`, `aud`, `kid`. Only this service can make or read one.
//!
//! Several keys may be valid at once, told apart by their `kid`; the first signs. Sources: RFC 7519,
//! RFC 8725 (best current practices). Left out: revocation.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use shared_events::UserId;

/// Makes and verifies tokens.
#[derive(Clone)]
pub struct Tokens {
    keys: Keys,
    issuer: String,
    audience: String,
    time_to_live: Duration,
}

/// The signing keys, by their ids; never empty.
#[derive(Clone)]
pub struct Keys(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: String,
    signing: EncodingKey,
    verifying: DecodingKey,
}

/// What a token says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Claims {
    /// The user.
    pub sub: UserId,
    /// Their e-mail address when the token was made.
    pub email: String,
    iss: String,
    aud: String,
    iat: u64,
    exp: u64,
}

/// A token that isn't one of ours, or no longer. Why, is nobody's business but the log's.
#[derive(Debug, thiserror::Error)]
pub enum InvalidToken {
    /// Without a `kid`, or with one that no key has.
    #[error("signed with an unknown key")]
    UnknownKey,
    /// Malformed, forged, expired, or for somebody else.
    #[error(transparent)]
    Refused(#[from] jsonwebtoken::errors::Error),
}

impl Keys {
    /// The least length of a key, in bytes: that of the hash (RFC 7518, section 3.2).
    const MIN_BYTES: usize = 32;

    /// Reads `KID:HEX[,KID:HEX]`; `None` when that is not what it is.
    pub fn parse(text: &str) -> Option<Self> {
        let keys: Vec<Key> = text
            .split(',')
            .map(|entry| {
                let (id, hex) = entry.trim().split_once(':')?;
                let secret = hex::decode(hex).ok()?;
                (!id.is_empty() && secret.len() >= Self::MIN_BYTES).then(|| Key {
                    id: id.to_owned(),
                    signing: EncodingKey::from_secret(&secret),
                    verifying: DecodingKey::from_secret(&secret),
                })
            })
            .collect::<Option<_>>()?;
        let ids: std::collections::HashSet<_> = keys.iter().map(|key| &key.id).collect();
        (ids.len() == keys.len()).then_some(Self(keys))
    }
}

impl Tokens {
    /// Tokens of `issuer` for `audience`, valid for `time_to_live`.
    pub fn new(keys: Keys, issuer: String, audience: String, time_to_live: Duration) -> Self {
        Self {
            keys,
            issuer,
            audience,
            time_to_live,
        }
    }

    /// How long a token is valid.
    pub fn time_to_live(&self) -> Duration {
        self.time_to_live
    }

    /// A new token.
    ///
    /// # Errors
    /// When signing fails, which a checked key doesn't.
    pub fn issue(
        &self,
        user_id: UserId,
        email: &str,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let claims = Claims {
            sub: user_id,
            email: email.to_owned(),
            iss: self.issuer.clone(),
            aud: self.audience.clone(),
            iat: now.as_secs(),
            exp: (now + self.time_to_live).as_secs(),
        };
        let key = &self.keys.0[0];
        let header = Header {
            kid: Some(key.id.clone()),
            ..Header::new(Algorithm::HS256)
        };
        jsonwebtoken::encode(&header, &claims, &key.signing)
    }

    /// What a token says, if it is ours and still valid.
    ///
    /// # Errors
    /// [`InvalidToken`].
    pub fn verify(&self, token: &str) -> Result<Claims, InvalidToken> {
        let kid = jsonwebtoken::decode_header(token)?.kid;
        let key = self.keys.0.iter().find(|key| Some(&key.id) == kid.as_ref());
        let key = key.ok_or(InvalidToken::UnknownKey)?;
        // The algorithm is ours to say, never the token's.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        Ok(jsonwebtoken::decode(token, &key.verifying, &validation)?.claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_long_enough_and_distinct() {
        let key = "ab".repeat(32);
        assert!(Keys::parse(&format!("a:{key}")).is_some());
        assert!(Keys::parse(&format!("new:{key}, old:{key}")).is_some());
        for bad in [
            "".to_owned(),
            key.clone(),
            format!(":{key}"),
            format!("a:{}", "ab".repeat(31)),
            format!("a:{}", "xy".repeat(32)),
            format!("a:{key},a:{key}"),
            format!("a:{key},"),
        ] {
            assert!(Keys::parse(&bad).is_none(), "{bad:?}");
        }
    }
}
