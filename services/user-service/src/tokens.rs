//! Access tokens: JWT, HS256, with `exp`, `iss`, `aud`, `jti`, `kid`. Only this service can issue or verify one.
//!
//! Several keys may be valid at once, distinguished by their `kid`; the first signs. A token also carries the generation
//! of its user's tokens: times in tokens are whole seconds, too coarse to order a token and a password change within the
//! same second. Sources: RFC 7519, RFC 8725 (best current practices). Left out: whether a token was revoked
//! (`revocations`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use shared_events::UserId;
use uuid::Uuid;

/// Issues and verifies tokens.
#[derive(Clone)]
pub struct Tokens {
    keys: Keys,
    issuer: String,
    audience: String,
    /// The requirements on a token besides its signature.
    validation: Validation,
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

/// The claims of a token.
#[derive(Debug, Serialize, Deserialize)]
pub struct Claims {
    /// The user.
    pub sub: UserId,
    /// Their e-mail address when the token was made.
    pub email: String,
    /// The token's own id.
    pub jti: Uuid,
    /// `users.token_generation` when it was made.
    #[serde(rename = "gen")]
    pub generation: i64,
    iss: String,
    aud: String,
    iat: u64,
    exp: u64,
}

/// A token that is not valid. The reason is only logged, never sent to the client.
#[derive(Debug, thiserror::Error)]
pub enum InvalidToken {
    /// Without a `kid`, or with an unknown one.
    #[error("signed with an unknown key")]
    UnknownKey,
    /// Valid until it expired.
    #[error("expired")]
    Expired,
    /// Malformed, forged, or issued for another audience.
    #[error(transparent)]
    Refused(Error),
}

impl From<Error> for InvalidToken {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::ExpiredSignature => Self::Expired,
            _ => Self::Refused(error),
        }
    }
}

impl Claims {
    /// When it expires.
    pub fn expires_at(&self) -> DateTime<Utc> {
        let seconds = i64::try_from(self.exp).ok();
        let time = seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        time.unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    #[cfg(test)]
    pub(crate) fn for_test(user_id: UserId, generation: i64) -> Self {
        Self {
            sub: user_id,
            email: String::new(),
            jti: Uuid::now_v7(),
            generation,
            iss: String::new(),
            aud: String::new(),
            iat: 0,
            exp: 0,
        }
    }
}

impl Keys {
    /// The minimum length of a key, in bytes: that of the hash (RFC 7518, section 3.2).
    const MIN_BYTES: usize = 32;
    /// The maximum length of an id. It is part of each token, and a metric's label.
    const MAX_ID_CHARS: usize = 64;

    /// Reads `KID:HEX[,KID:HEX]`; `None` when malformed.
    pub fn parse(text: &str) -> Option<Self> {
        let keys: Vec<Key> = text
            .split(',')
            .map(|entry| {
                let (id, hex) = entry.trim().split_once(':')?;
                let secret = hex::decode(hex).ok()?;
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
                let named = (1..=Self::MAX_ID_CHARS).contains(&id.len()) && id.bytes().all(plain);
                (named && secret.len() >= Self::MIN_BYTES).then(|| Key {
                    id: id.to_owned(),
                    signing: EncodingKey::from_secret(&secret),
                    verifying: DecodingKey::from_secret(&secret),
                })
            })
            .collect::<Option<_>>()?;
        let ids: std::collections::HashSet<_> = keys.iter().map(|key| &key.id).collect();
        (ids.len() == keys.len()).then_some(Self(keys))
    }

    /// The id and role of each key: the first `signs` (and verifies), the others only `verifies`, so that tokens signed with
    /// them stay valid.
    pub fn roles(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let roles = std::iter::once("signs").chain(std::iter::repeat("verifies"));
        self.0.iter().map(|key| key.id.as_str()).zip(roles)
    }
}

impl Tokens {
    /// Tokens of `issuer` for `audience`, valid for `time_to_live`.
    pub fn new(keys: Keys, issuer: String, audience: String, time_to_live: Duration) -> Self {
        // The algorithm is fixed here and never taken from the token.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        // Expired exactly at its `exp`: a second later its revocation may already be dropped.
        validation.reject_tokens_expiring_in_less_than = 1;
        validation.set_issuer(&[&issuer]);
        validation.set_audience(&[&audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        Self {
            keys,
            issuer,
            audience,
            validation,
            time_to_live,
        }
    }

    /// The keys in use.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// How long a token is valid.
    pub fn time_to_live(&self) -> Duration {
        self.time_to_live
    }

    /// A new token of this generation of its user's tokens.
    ///
    /// # Errors
    /// When signing fails, which it doesn't with a checked key.
    pub fn issue(&self, user_id: UserId, email: &str, generation: i64) -> Result<String, Error> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let claims = Claims {
            sub: user_id,
            email: email.to_owned(),
            jti: Uuid::now_v7(),
            generation,
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

    /// The claims of a token, if it is valid.
    ///
    /// # Errors
    /// [`InvalidToken`].
    pub fn verify(&self, token: &str) -> Result<Claims, InvalidToken> {
        let kid = jsonwebtoken::decode_header(token)?.kid;
        let key = self.keys.0.iter().find(|key| Some(&key.id) == kid.as_ref());
        let key = key.ok_or(InvalidToken::UnknownKey)?;
        Ok(jsonwebtoken::decode(token, &key.verifying, &self.validation)?.claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_ids_a_minimum_length_and_are_distinct() {
        let key = "ab".repeat(32);
        assert!(Keys::parse(&format!("a:{key}")).is_some());
        assert!(Keys::parse(&format!("new:{key}, old:{key}")).is_some());
        for bad in [
            "".to_owned(),
            key.clone(),
            format!(":{key}"),
            format!("a b:{key}"),
            format!("{}:{key}", "a".repeat(65)),
            format!("a:{}", "ab".repeat(31)),
            format!("a:{}", "xy".repeat(32)),
            format!("a:{key},a:{key}"),
            format!("a:{key},"),
        ] {
            assert!(Keys::parse(&bad).is_none(), "{bad:?}");
        }
    }

    fn tokens(keys: &str) -> Tokens {
        let keys = Keys::parse(keys).unwrap();
        let hour = Duration::from_secs(3600);
        Tokens::new(keys, "agora".to_owned(), "agora".to_owned(), hour)
    }

    #[test]
    fn a_token_is_refused_from_its_expiry_on() {
        let keys = Keys::parse(&format!("a:{}", "ab".repeat(32))).unwrap();
        let lasting =
            |time| Tokens::new(keys.clone(), "agora".to_owned(), "agora".to_owned(), time);
        let issue = |tokens: &Tokens| tokens.issue(UserId::generate(), "ada@example.com", 0);
        let tokens = lasting(Duration::ZERO);
        let token = issue(&tokens).unwrap();
        assert!(matches!(tokens.verify(&token), Err(InvalidToken::Expired)));
        let tokens = lasting(Duration::from_secs(60));
        let token = issue(&tokens).unwrap();
        assert!(tokens.verify(&token).is_ok());
    }

    #[test]
    fn a_token_stays_valid_until_its_key_is_removed() {
        let (old, new) = ("ab".repeat(32), "cd".repeat(32));
        let user = UserId::generate();
        let before = tokens(&format!("old:{old}"));
        let token = before.issue(user, "ada@example.com", 3).unwrap();

        let overlap = tokens(&format!("new:{new},old:{old}"));
        let claims = overlap.verify(&token).unwrap();
        assert_eq!((claims.sub, claims.generation), (user, 3));
        let fresh = overlap.issue(user, "ada@example.com", 3).unwrap();
        let unknown = |refused| matches!(refused, Err(InvalidToken::UnknownKey));
        assert!(unknown(before.verify(&fresh)));

        let after = tokens(&format!("new:{new}"));
        assert!(after.verify(&fresh).is_ok());
        assert!(unknown(after.verify(&token)));
        let renamed = tokens(&format!("old:{new}"));
        assert!(matches!(
            renamed.verify(&token),
            Err(InvalidToken::Refused(_))
        ));
    }

    #[test]
    fn every_token_has_a_unique_id() {
        let tokens = tokens(&format!("a:{}", "ab".repeat(32)));
        let user = UserId::generate();
        let [one, other] = [(); 2].map(|()| {
            let token = tokens.issue(user, "ada@example.com", 0).unwrap();
            tokens.verify(&token).unwrap().jti
        });
        assert_ne!(one, other);
    }

    #[test]
    fn the_first_key_signs() {
        let key = "ab".repeat(32);
        let keys = Keys::parse(&format!("b:{key},a:{key},c:{key}")).unwrap();
        let roles: Vec<_> = keys.roles().collect();
        assert_eq!(
            roles,
            [("b", "signs"), ("a", "verifies"), ("c", "verifies")]
        );
    }
}
