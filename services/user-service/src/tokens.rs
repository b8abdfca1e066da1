//! Access tokens: JWT, HS256, with `exp`, `iss`, `aud`, `jti`, `kid`. Only this service can make or read one.
//!
//! Several keys may be valid at once, told apart by their `kid`; the first signs. A token also says in which generation of
//! its user's tokens it was made: times in tokens are whole seconds, too coarse to tell one that was made just before a
//! change of the password from one just after. Sources: RFC 7519, RFC 8725 (best current practices). Left out: whether a
//! token was revoked (`revocations`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use shared_events::UserId;
use uuid::Uuid;

/// Makes and verifies tokens.
#[derive(Clone)]
pub struct Tokens {
    keys: Keys,
    issuer: String,
    audience: String,
    /// What a token must be besides well signed.
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

/// What a token says.
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

/// A token that isn't one of ours, or no longer. Why, is nobody's business but the log's.
#[derive(Debug, thiserror::Error)]
pub enum InvalidToken {
    /// Without a `kid`, or with one that no key has.
    #[error("signed with an unknown key")]
    UnknownKey,
    /// Ours, but over.
    #[error("expired")]
    Expired,
    /// Malformed, forged, or for somebody else.
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
    /// The least length of a key, in bytes: that of the hash (RFC 7518, section 3.2).
    const MIN_BYTES: usize = 32;
    /// The greatest length of an id. It stands in each token, and in a metric.
    const MAX_ID_CHARS: usize = 64;

    /// Reads `KID:HEX[,KID:HEX]`; `None` when that is not what it is.
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

    /// The id of each key and what it does: the first `signs` (and verifies), all others are there so that what they have
    /// signed still `verifies`.
    pub fn roles(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let roles = std::iter::once("signs").chain(std::iter::repeat("verifies"));
        self.0.iter().map(|key| key.id.as_str()).zip(roles)
    }
}

impl Tokens {
    /// Tokens of `issuer` for `audience`, valid for `time_to_live`.
    pub fn new(keys: Keys, issuer: String, audience: String, time_to_live: Duration) -> Self {
        // The algorithm is ours to say, never the token's.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        // Over at its `exp` and not a second after it, when nobody remembers any more that it was revoked.
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

    /// Which keys are in use.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// How long a token is valid.
    pub fn time_to_live(&self) -> Duration {
        self.time_to_live
    }

    /// A new token of this generation of its user's.
    ///
    /// # Errors
    /// When signing fails, which a checked key doesn't.
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

    /// What a token says, if it is ours and still valid.
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
    fn keys_are_named_long_enough_and_distinct() {
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
    fn a_token_is_over_at_its_end() {
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
    fn a_token_outlives_its_key_as_signer_but_not_the_key_itself() {
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
    fn every_token_has_an_id_of_its_own() {
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
