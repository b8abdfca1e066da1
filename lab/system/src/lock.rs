//! Locks: one command at a time changes a project's system, and one its cluster.
//!
//! Left out: commands that only read, which take no lock.

use std::fs::{self, File, TryLockError};

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
        let lock = take(
            project,
            "system",
            "an evaluation, a healing, an `up`, a rollout or a rotation of keys is under way in this system",
        )?;
        Ok(Self { _lock: lock })
    }
}

/// Held by a command that starts or removes a project's cluster; released as the [`SystemLock`] is.
#[derive(Debug)]
pub struct ClusterLock {
    _lock: File,
}

impl ClusterLock {
    /// Takes the lock; an error when another process holds it.
    pub fn take(project: &Project) -> anyhow::Result<Self> {
        let busy = "this cluster is being started or removed";
        Ok(Self {
            _lock: take(project, "cluster", busy)?,
        })
    }
}

/// A file of its own for each project and kind: a test system's lock is not a user's. A project's systems on several engines share it, as
/// they share settings, binaries and images.
fn take(project: &Project, kind: &str, busy: &str) -> anyhow::Result<File> {
    let folder = project.outputs().join("evaluations");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{kind}-{}.lock", project.compose_name()));
    let lock = File::create(&path).with_context(|| format!("failed to open {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(outcome::unavailable(
            busy,
            "wait for its end, or end it with Ctrl-C",
        )),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("failed to lock {}", path.display()))
        }
    }
}
