//! The system lock: one command at a time changes a project's system.
//!
//! Left out: commands that only read, which take no lock.

use std::{
    fs::{self, File, TryLockError},
    path::PathBuf,
};

use anyhow::Context;
use base::outcome;

use crate::project::Project;

/// Held by a command that evaluates, heals or sets up a project's system, or replaces its containers. A second one
/// would heal the first one's arm as if a killed evaluation had left it, or set services up with keys that the first
/// one has replaced. Released when it is dropped, and by the kernel when its process is killed.
#[derive(Debug)]
pub struct SystemLock {
    _lock: File,
}

impl SystemLock {
    /// Takes the lock; an error when another process holds it.
    pub fn take(project: &Project) -> anyhow::Result<Self> {
        let path = path(project);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let lock =
            File::create(&path).with_context(|| format!("failed to open {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(outcome::unavailable(
                "an evaluation, a healing, an `up`, a rollout or a rotation of keys is under way in this system",
                "wait for its end, or end it with Ctrl-C",
            )),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("failed to lock {}", path.display()))
            }
        }
    }
}

/// A file of its own for each project: a test system's lock is not a user's.
fn path(project: &Project) -> PathBuf {
    let name = format!("system-{}.lock", project.name);
    project.outputs().join("evaluations").join(name)
}
