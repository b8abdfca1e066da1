//! Whether a cluster enforces NetworkPolicies: one whose network plugin doesn't implement them ignores them without a message.
//! The database tries to reach a part that it shares no network with.
//!
//! Left out: what the policies allow (`deploy/kubernetes`, compared with compose.yaml by `tests/deployment`).

use std::time::Duration;

use serde::Serialize;

use crate::{
    Part, control,
    interrupt::Interrupted,
    member::{Member, Place},
};

const FROM: Part = Part::Postgres;
/// Of another network than the database.
const TO: Part = Part::AlertReceiver;
const PORT: &str = "8080";
const CONNECT_TIMEOUT: &str = "PGCONNECT_TIMEOUT=3";
/// How long all of it may take.
const SEEN_WITHIN: Duration = Duration::from_secs(15);

/// What was seen of the NetworkPolicies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// What they forbid was not reached.
    Enforced,
    /// What they forbid was reached.
    NotEnforced,
    /// Neither was seen; why, in the words of the program that tried.
    Unknown(String),
}

impl Enforcement {
    /// What to know about it, in a sentence; `None` where they are enforced.
    pub fn caution(&self) -> Option<String> {
        match self {
            Self::Enforced => None,
            Self::NotEnforced => Some(format!(
                "This cluster doesn't enforce NetworkPolicies: {FROM} reaches {TO}, which they forbid."
            )),
            Self::Unknown(why) => Some(format!(
                "Whether this cluster enforces NetworkPolicies is unknown: {FROM} tried {TO}, and \"{why}\"."
            )),
        }
    }
}

/// Tries what the policies forbid; `None` where there are none, on Compose, and while one of the two isn't healthy.
///
/// # Errors
/// At Ctrl-C.
pub fn look(members: &[Member]) -> anyhow::Result<Option<Enforcement>> {
    let healthy = |part: Part| {
        let is_it = |member: &&Member| member.service == part && member.is_healthy();
        members.iter().find(is_it)
    };
    let (Some(from), Some(_)) = (healthy(FROM), healthy(TO)) else {
        return Ok(None);
    };
    if matches!(from.place, Place::Container { .. }) {
        return Ok(None);
    }
    // What each of its images has; whatever answers isn't a database, and is recognized by that.
    let psql = [
        "env",
        CONNECT_TIMEOUT,
        "psql",
        "--no-password",
        &format!("--host={TO}"),
        &format!("--port={PORT}"),
        "--command=",
    ];
    match control::exec(from, psql).limit(SEEN_WITHIN).output() {
        Ok(output) => Ok(Some(read(&String::from_utf8_lossy(&output.stderr)))),
        Err(error) if error.is::<Interrupted>() => Err(error),
        // A look on the side is no reason to show nothing else.
        Err(error) => Ok(Some(Enforcement::Unknown(format!("{error:#}")))),
    }
}

/// What psql says, read. Pure.
fn read(stderr: &str) -> Enforcement {
    let has = |part: &str| stderr.contains(part);
    if has("received invalid response") || has("server closed the connection unexpectedly") {
        Enforcement::NotEnforced
    } else if has("timeout expired") {
        Enforcement::Enforced
    } else {
        let line = stderr.lines().find(|line| line.contains("psql:"));
        Enforcement::Unknown(line.unwrap_or(stderr).trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_policy_that_is_not_enforced_and_a_silence_one_that_is() {
        let failed = "psql: error: connection to server at \"alert-receiver\" (10.96.1.7), port 8080 failed: ";
        let with = |reason: &str| read(&format!("{failed}{reason}\n"));
        assert_eq!(
            with("received invalid response to SSL negotiation: H"),
            Enforcement::NotEnforced
        );
        assert_eq!(with("timeout expired"), Enforcement::Enforced);
        // A plugin that rejects says the same as a part that is down.
        let refused = with("Connection refused\n\tIs the server running on that host?");
        assert_eq!(
            refused,
            Enforcement::Unknown(format!("{failed}Connection refused"))
        );
        assert!(refused.caution().unwrap().contains("Connection refused"));
    }
}
