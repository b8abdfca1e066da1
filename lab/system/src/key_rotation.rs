//! Rotates the keys that sign tokens, in two steps ([`Rotation::rotate`]), so that a token is never made with a key
//! that a replica doesn't know yet.
//!
//! Left out: the keys as values ([`crate::signing_keys`]), and when old keys are removed.

use base::outcome;

use crate::{
    members::{self, Member},
    project::Settings,
    rolling::{Left, Replaced, Rolling},
    running::RunningSystem,
    signing_keys::{JWT_KEYS, SERVICE, SigningKeys},
};

/// The signing keys of these settings.
///
/// # Errors
/// When there are none, or the setting can't be read.
pub fn keys_of(settings: &Settings) -> anyhow::Result<SigningKeys> {
    SigningKeys::parse(settings.require(JWT_KEYS)?)
}

/// A rotation of the signing keys, begun or not.
pub struct Rotation<'a> {
    /// The running system.
    pub system: &'a RunningSystem<'a>,
    /// What new containers are made with, besides the keys.
    pub settings: Settings,
    /// The keys that the env file has, or is about to have.
    pub keys: SigningKeys,
}

impl Rotation<'_> {
    /// A new key signs, and the old ones still verify: first every replica learns the new one, then it signs. `keep` is
    /// called before each step with the keys that the env file must have from then on. An interrupted rotation is
    /// finished, and no second one begun.
    pub fn rotate(
        &mut self,
        say: &dyn Fn(&str),
        keep: impl Fn(&SigningKeys) -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<Left>> {
        let mut left = Vec::new();
        if self.is_finishing()? && self.keys.pending().is_none() {
            keep(&self.keys)?;
        } else {
            let new = match self.keys.pending() {
                Some(pending) => pending.to_owned(),
                None => {
                    let new = SigningKeys::fresh()?;
                    let id = new.ids().remove(0);
                    self.keys.add(new);
                    id
                }
            };
            keep(&self.keys)?;
            left = self.hand_out("knows the new key", say)?;
            self.keys.promote(&new);
            keep(&self.keys)?;
        }
        left.extend(self.hand_out("signs with it", say)?);
        Ok(left)
    }

    /// Whether a rotation was interrupted: its key doesn't sign yet, or not in every replica.
    pub fn is_finishing(&self) -> anyhow::Result<bool> {
        let signs = self.keys.ids().into_iter().next();
        let elsewhere = |keys: &Vec<String>| keys.first() != signs.as_ref();
        Ok(self.keys.pending().is_some() || self.system.signing_keys()?.iter().any(elsewhere))
    }

    /// Replaces every container of user-service that has other keys than these, one by one. Returns when every
    /// container has them and is healthy. `what` tells in `say` what a new container can do: `signs with it`.
    pub fn hand_out(&self, what: &str, say: &dyn Fn(&str)) -> anyhow::Result<Vec<Left>> {
        let text = self.keys.text();
        let settings = self.settings.with([(JWT_KEYS, &text)]);
        let rolling = Rolling::new(self.system, SERVICE, settings);
        let others = |member: &Member| member.signing_keys != self.keys.ids();
        let mut olds = rolling.members()?;
        let all = olds.len();
        olds.retain(others);
        let mut left = Vec::new();
        for portion in rolling.portions(&olds) {
            for Replaced { new, left: one, .. } in rolling.replace(portion)? {
                left.push(one);
                say(&format!(
                    "{} {what}: {} of {all}",
                    members::name(&new),
                    left.len() + all - olds.len()
                ));
            }
        }
        // Asked of the engine, not of what was done here: a token must not be made that one of them doesn't know.
        match rolling.members()?.iter().find(|member| others(member)) {
            None => Ok(left),
            Some(member) => Err(outcome::failed(
                format!(
                    "a container of {SERVICE} has the keys {} instead of {}",
                    member.signing_keys.join(", "),
                    self.keys.ids().join(", ")
                ),
                "run it again",
            )),
        }
    }
}
