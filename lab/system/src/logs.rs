//! What the members of a system wrote.
//!
//! Left out: the lines of members that are gone, which only Loki has.

use std::time::Duration;

use base::outcome;

use crate::{
    Part, compose::Compose, engine::docker, members::Member, process::Call, project::Project,
};

/// The limit of a followed log: a day.
const LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// A call that writes the last lines of one service or of all; with `follow`, the new ones too.
///
/// # Errors
/// When the program for it is missing, or the system was never started.
pub fn shown(
    project: &Project,
    service: Option<Part>,
    last: usize,
    follow: bool,
) -> anyhow::Result<Call> {
    let compose = Compose::find()?.ok_or_else(|| {
        outcome::unavailable(
            "Docker Compose V2 is missing",
            "`cargo xtask doctor` says how to get it",
        )
    })?;
    let last = last.to_string();
    let mut args = vec!["logs", "--tail", &last];
    args.extend(follow.then_some("--follow"));
    args.extend(service.map(Part::name));
    Ok(compose
        .call(project, &project.settings()?, args)
        .limit(LIMIT))
}

/// All lines of a member, each behind the time at which it was written.
///
/// # Errors
/// When the engine can't be asked.
pub fn with_times(member: &Member) -> anyhow::Result<String> {
    let output = docker(["logs", "--timestamps", &member.id]).output()?;
    let both = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&both).into_owned())
}
