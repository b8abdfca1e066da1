//! Why members aren't healthy, as an error with the next step.
//!
//! Left out: waiting for them ([`crate::bring_up`]), and the causes that are known ([`crate::known_causes`]).

use std::time::Instant;

use base::outcome;

use crate::{
    broker, known_causes,
    members::{self, Member},
    process::tail,
    project::Settings,
};

/// How much of an unhealthy container's log an error repeats.
const LOG_LINES: usize = 12;

/// The members that aren't healthy, each with the end of its log.
pub(crate) fn sick(members: &[Member]) -> Vec<String> {
    members
        .iter()
        .filter(|member| !member.is_healthy() && !member.service.is_optional())
        .map(|member| {
            let log = tail(&members::last_lines(member, LOG_LINES), LOG_LINES);
            format!(
                "{} is {}; its log ends with:\n{log}",
                member.service,
                member.condition()
            )
        })
        .collect()
}

/// Names the cause where it is known; else the containers that aren't healthy, each with the end of its log; else what
/// `error` says.
pub(crate) fn explain(
    settings: &Settings,
    members: &[Member],
    error: &str,
    began: Instant,
) -> anyhow::Error {
    let sick = sick(members);
    let said = format!("{error}\n{}", sick.join("\n"));
    // Alarms that can't be read are no known cause.
    let alarms = || broker::alarms_of(settings, members).unwrap_or_default();
    let known = known_causes::of(&said)
        .or_else(|| known_causes::full_disk(&said))
        .or_else(|| broker::blocked_by(&alarms()));
    if let Some(known) = known {
        return known;
    }
    if sick.is_empty() {
        return outcome::failed(
            format!("the containers can't be started: {error}"),
            "`cargo xtask doctor`",
        );
    }
    outcome::failed(
        format!(
            "the system did not get healthy in {} s\n{}",
            began.elapsed().as_secs(),
            sick.join("\n")
        ),
        "`cargo xtask logs SERVICE` shows more; `cargo xtask up` tries again",
    )
}
