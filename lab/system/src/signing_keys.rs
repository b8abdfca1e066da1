//! The keys that user-service signs and verifies tokens with, as the env file and a container's environment have them.
//!
//! Left out: rotating them ([`crate::key_rotation`]), and reading tokens, which only user-service can.

use std::fmt;

use base::outcome;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL};
use chrono::{DateTime, NaiveDateTime, Utc};
use serde_json::Value;

use crate::{Part, random};

/// The setting: `kid:hex[,kid:hex]`, the one that signs first.
pub const JWT_KEYS: &str = "AGORA_JWT_KEYS";
/// The service that has the keys.
pub const SERVICE: Part = Part::UserService;
/// The variable in a container's environment.
pub(crate) const VARIABLE: &str = "JWT_KEYS";
/// How the id of a key that was made here begins: with the time; what follows tells keys of one second apart.
const TIME: &str = "%Y%m%dT%H%M%S";
const BYTES: usize = 32;

/// The keys of one setting; the first signs. The secrets are printed nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKeys(Vec<SigningKey>);

#[derive(Clone, PartialEq, Eq)]
struct SigningKey {
    id: String,
    secret: String,
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKeys").field(&self.ids()).finish()
    }
}

impl SigningKeys {
    /// One new key.
    pub fn fresh() -> anyhow::Result<Self> {
        let id = format!("{}-{}", Utc::now().format(TIME), random::hex(2)?);
        let secret = random::hex(BYTES)?;
        Ok(Self(vec![SigningKey { id, secret }]))
    }

    /// Reads `KID:HEX[,KID:HEX]`. Whether user-service would take it is for user-service to say.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let key = |entry: &str| {
            let (id, secret) = entry.trim().split_once(':')?;
            Some(SigningKey {
                id: id.to_owned(),
                secret: secret.to_owned(),
            })
        };
        let keys: Option<Vec<_>> = text.split(',').map(key).collect();
        keys.map(Self).ok_or_else(|| {
            outcome::usage(
                format!("{JWT_KEYS} is not `KID:HEX[,KID:HEX]`"),
                "correct it in the env file, or remove the line: `cargo xtask up` makes a new key",
            )
        })
    }

    /// The setting's value: `kid:hex[,kid:hex]`.
    pub fn text(&self) -> String {
        let keys = self
            .0
            .iter()
            .map(|key| format!("{}:{}", key.id, key.secret));
        keys.collect::<Vec<_>>().join(",")
    }

    /// The keys' ids; the first one's key signs.
    pub fn ids(&self) -> Vec<String> {
        self.0.iter().map(|key| key.id.clone()).collect()
    }

    /// The key that was made last, where it doesn't sign yet: a rotation stands between its steps.
    pub fn pending(&self) -> Option<&str> {
        let (signs, others) = self.0.split_first()?;
        let newest = others.iter().max_by_key(|key| made_at(&key.id))?;
        (made_at(&newest.id) > made_at(&signs.id)).then_some(&newest.id)
    }

    /// Adds a key, which verifies only.
    pub fn add(&mut self, new: Self) {
        self.0.extend(new.0);
    }

    /// Makes the key with this id the one that signs.
    pub fn promote(&mut self, id: &str) {
        self.0.sort_by_key(|key| key.id != id);
    }

    /// Removes all keys but the one that signs.
    pub fn drop_old(&mut self) {
        self.0.truncate(1);
    }
}

/// When a key was made, by its id; `None` for an id of another form.
pub fn made_at(id: &str) -> Option<DateTime<Utc>> {
    let (time, _) = id.split_once('-')?;
    let time = NaiveDateTime::parse_from_str(time, TIME).ok()?;
    Some(time.and_utc())
}

/// The ids in a container's environment, as `NAME=value`; the keys themselves go nowhere.
pub fn ids_in(environment: &[String]) -> Vec<String> {
    let keys = environment
        .iter()
        .find_map(|variable| variable.strip_prefix(VARIABLE)?.strip_prefix('='));
    keys.and_then(|keys| SigningKeys::parse(keys).ok())
        .map_or_else(Vec::new, |keys| keys.ids())
}

/// The id of the key that a token says to be signed with; `None` where it says nothing that can be read.
pub fn id_in(token: &str) -> Option<String> {
    let (header, _) = token.split_once('.')?;
    let header: Value = serde_json::from_slice(&BASE64_URL.decode(header).ok()?).ok()?;
    Some(header["kid"].as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> SigningKeys {
        SigningKeys::parse(text).unwrap()
    }

    #[test]
    fn a_new_key_says_when_it_was_made_and_keeps_its_secret() {
        let new = SigningKeys::fresh().unwrap();
        let id = new.ids().remove(0);
        let age = Utc::now() - made_at(&id).unwrap();
        assert!((0..60).contains(&age.num_seconds()), "{id}");
        let secret = new.text().split_once(':').unwrap().1.to_owned();
        assert_eq!(secret.len(), 2 * BYTES);
        assert!(!format!("{new:?}").contains(&secret));
        assert_eq!(made_at("8a6b7c1d"), None);
    }

    #[test]
    fn a_key_that_is_newer_than_the_one_that_signs_is_pending() {
        let (old, new) = ("20261126T150000-aaaa", "20261126T160000-bbbb");
        assert_eq!(keys("8a6b7c1d:00").pending(), None);
        assert_eq!(keys(&format!("8a6b7c1d:00,{old}:11")).pending(), Some(old));
        assert_eq!(keys(&format!("{old}:00,{new}:11")).pending(), Some(new));
        assert_eq!(
            keys(&format!("{new}:11,{old}:00,8a6b7c1d:22")).pending(),
            None
        );
        // Two that nobody dated: whoever wrote them decides.
        assert_eq!(keys("one:00,other:11").pending(), None);
    }

    #[test]
    fn the_promoted_key_signs_and_the_others_keep_their_order() {
        let mut three = keys("a:00,b:11,c:22");
        three.promote("c");
        assert_eq!(three.text(), "c:22,a:00,b:11");
        three.drop_old();
        assert_eq!(three.text(), "c:22");
    }

    #[test]
    fn a_containers_environment_tells_the_ids_alone() {
        let environment = ["PATH=/".to_owned(), "JWT_KEYS=b:11, a:00".to_owned()];
        assert_eq!(ids_in(&environment), ["b", "a"]);
        assert!(ids_in(&environment[..1]).is_empty());
    }

    #[test]
    fn a_token_names_its_key() {
        let header = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InN0cmFuZ2VyIn0";
        assert_eq!(
            id_in(&format!("{header}.e30.x")).as_deref(),
            Some("stranger")
        );
        for none in ["", "e30.e30.x", "!!.e30.x", header] {
            assert_eq!(id_in(none), None, "{none}");
        }
    }

    #[test]
    fn a_setting_that_holds_no_keys_is_wrong_usage_and_not_repeated() {
        let error = SigningKeys::parse("secretsecret").unwrap_err();
        assert_eq!(outcome::Exit::of(&error), outcome::Exit::Usage);
        assert!(!format!("{error:#}").contains("secretsecret"));
    }
}
