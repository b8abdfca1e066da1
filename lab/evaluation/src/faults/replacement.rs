//! Replaced containers and replaced signing keys, as in everyday operation. Both faults are over when they are
//! injected. What they change belongs to the arm's configuration, which is restored after the load, not by healing.

use records::evaluation::FaultEffect;
use system::{
    Part, health,
    http::Client,
    key_rotation::{self, Rotation},
    members::Member,
    rolling::{self, Rolling},
    running::RunningSystem,
    signing_keys::{self, SERVICE, SigningKeys},
};

use super::{Injection, effect_if, members};
use crate::test_users;

/// How containers are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    OneByOne,
    AtOnce,
}

/// A service whose containers were replaced.
#[derive(Debug)]
pub(super) struct Replaced {
    how: How,
    service: Part,
    before: Vec<Member>,
}

impl Replaced {
    pub(super) fn new(how: How, service: Part, before: Vec<Member>) -> Self {
        Self {
            how,
            service,
            before,
        }
    }
}

impl Injection for Replaced {
    fn inject(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        let settings = system.settings_as_configured(self.service)?;
        let rolling = Rolling::new(system, self.service, settings);
        match self.how {
            How::AtOnce => {
                rolling.replace_at_once()?;
            }
            How::OneByOne => rolling.replace_all()?,
        }
        Ok(())
    }

    fn effect(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        let old = members::again(system, &self.before)?.len();
        let mut now = system.members_of(self.service)?;
        health::ask(&mut now)?;
        now.retain(Member::is_healthy);
        let proof = format!(
            "of {} containers {old} are still there; {} are healthy",
            self.before.len(),
            now.len()
        );
        let all = old == 0 && now.len() == self.before.len();
        Ok(effect_if(all, proof))
    }

    fn heal(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        rolling::repair(system, self.service)?;
        Ok(())
    }
}

/// Signing keys that replace the env file's in containers; the env file keeps its own, from which they are restored.
#[derive(Debug)]
pub(super) struct NewKeys {
    /// Whether the old keys still verify.
    overlap: bool,
    /// The ids of the keys that every container should have afterwards.
    after: Vec<String>,
}

impl NewKeys {
    pub(super) fn new(overlap: bool) -> Self {
        Self {
            overlap,
            after: Vec::new(),
        }
    }
}

impl Injection for NewKeys {
    fn inject(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        let silent = |_: &str| {};
        let mut rotation = Rotation {
            system,
            settings: system.settings_as_configured(SERVICE)?,
            keys: key_rotation::keys_of(system.settings())?,
        };
        if self.overlap {
            rotation.rotate(&silent, |_| Ok(()))?;
        } else {
            rotation.keys = SigningKeys::fresh()?;
            rotation.hand_out("has the new key", &silent)?;
        }
        self.after = rotation.keys.ids();
        Ok(())
    }

    fn effect(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        let in_use = system.signing_keys()?;
        let token = test_users::sign_up(&Client::new(&system.gateway()?), "keys")?.token;
        let signed_by = signing_keys::id_in(&token);
        let sets: Vec<String> = in_use.iter().map(|keys| keys.join(", ")).collect();
        let proof = format!(
            "a new token is signed by {}; the containers' keys are {}",
            signed_by.as_deref().unwrap_or("nobody knows what"),
            sets.join(" and ")
        );
        let all = !self.after.is_empty() && in_use.iter().all(|keys| *keys == self.after);
        let signs = signed_by.as_ref() == self.after.first();
        Ok(effect_if(all && signs, proof))
    }

    fn heal(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        rolling::repair(system, SERVICE)?;
        Ok(())
    }
}
