//! How a command ends: the exit codes people and scripts rely on, and the failures that are expected.
//!
//! An expected failure is a [`Failure`]: it carries its exit code, its cause and the next step.
//! Everything else is a plain `anyhow` error and ends with [`Exit::Failed`].
//!
//! Left out: how a failure is printed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an exit code means, the same for every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// 0: what was asked was done, what was checked holds.
    Holds,
    /// 1: a check failed.
    Failed,
    /// 2: the command line or a setting is wrong.
    Usage,
    /// 3: the system isn't up, or a tool is missing.
    Unavailable,
    /// 4: nothing can be said either way.
    Inconclusive,
}

impl Exit {
    /// The number the process ends with.
    pub fn code(self) -> u8 {
        match self {
            Self::Holds => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unavailable => 3,
            Self::Inconclusive => 4,
        }
    }

    /// The exit that a child with these same codes reported; anything unknown is a failure.
    pub fn from_code(code: Option<i32>) -> Self {
        match code {
            Some(0) => Self::Holds,
            Some(2) => Self::Usage,
            Some(3) => Self::Unavailable,
            Some(4) => Self::Inconclusive,
            _ => Self::Failed,
        }
    }

    /// The exit code that an error ends with.
    pub fn of(error: &anyhow::Error) -> Self {
        error
            .downcast_ref::<Failure>()
            .map_or(Self::Failed, |failure| failure.exit)
    }

    /// What several results come to: a failure beats a missing system, which beats what can't be said.
    pub fn worst(exits: impl IntoIterator<Item = Self>) -> Self {
        let severity = |exit: &Self| match exit {
            Self::Holds => 0,
            Self::Inconclusive => 1,
            Self::Usage => 2,
            Self::Unavailable => 3,
            Self::Failed => 4,
        };
        exits
            .into_iter()
            .max_by_key(severity)
            .unwrap_or(Self::Holds)
    }

    /// One word for tables and summaries.
    pub fn word(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Failed => "FAILED",
            Self::Usage => "wrong usage",
            Self::Unavailable => "unavailable",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// A failure that was foreseen: what happened and what to do about it.
#[derive(Debug)]
pub struct Failure {
    /// The exit code's meaning.
    pub exit: Exit,
    /// What happened, naming the thing it happened to.
    pub cause: String,
    /// What the reader can do now.
    pub next_step: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  next: {}", self.cause, self.next_step)
    }
}

impl std::error::Error for Failure {}

/// A failure that ends with [`Exit::Failed`].
pub fn failed(cause: impl Into<String>, next_step: impl Into<String>) -> anyhow::Error {
    failure(Exit::Failed, cause, next_step)
}

/// A failure that ends with [`Exit::Usage`].
pub fn usage(cause: impl Into<String>, next_step: impl Into<String>) -> anyhow::Error {
    failure(Exit::Usage, cause, next_step)
}

/// A failure that ends with [`Exit::Unavailable`].
pub fn unavailable(cause: impl Into<String>, next_step: impl Into<String>) -> anyhow::Error {
    failure(Exit::Unavailable, cause, next_step)
}

fn failure(exit: Exit, cause: impl Into<String>, next_step: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Failure {
        exit,
        cause: cause.into(),
        next_step: next_step.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_beats_everything_and_nothing_beats_nothing() {
        assert_eq!(
            Exit::worst([Exit::Holds, Exit::Inconclusive, Exit::Failed]),
            Exit::Failed
        );
        assert_eq!(
            Exit::worst([Exit::Holds, Exit::Inconclusive]),
            Exit::Inconclusive
        );
        assert_eq!(Exit::worst([]), Exit::Holds);
    }

    #[test]
    fn an_error_keeps_its_exit_code_under_context() {
        let error = unavailable("nothing listens", "start it").context("while asking");
        assert_eq!(Exit::of(&error), Exit::Unavailable);
        assert_eq!(Exit::of(&anyhow::anyhow!("a bug")), Exit::Failed);
    }
}
