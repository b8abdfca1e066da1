//! What the members of a system wrote.
//!
//! Left out: the lines of members that are gone, which only Loki has.

use std::time::Duration;

use anyhow::Context;
use base::outcome;

use crate::{
    Part,
    compose::Compose,
    kubectl,
    members::{self, Member},
    process::Call,
    project::Project,
};

/// What engines say of a member that is gone, or hasn't started.
const NO_LINES: [&str; 3] = ["No such container", "(NotFound)", "is waiting to start"];
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
    if let Some(target) = kubectl::target(project)? {
        return Ok(target.logs(service, last, follow).limit(LIMIT));
    }
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

/// All lines of a member, each behind the time at which it was written: those of its standard output, then those of its
/// standard error. A member that was removed meanwhile took its lines along.
///
/// # Errors
/// When the engine doesn't tell.
pub fn with_times(member: &Member) -> anyhow::Result<String> {
    let output = members::logs(member, &["--timestamps"]).output()?;
    lines_of(output.status.success(), &output.stdout, &output.stderr)
        .with_context(|| format!("failed to read the log of {}", members::name(member)))
}

/// The lines of both streams. After a failure standard error holds the engine's words instead.
fn lines_of(succeeded: bool, stdout: &[u8], stderr: &[u8]) -> anyhow::Result<String> {
    let (mut lines, stderr) = (
        String::from_utf8_lossy(stdout).into_owned(),
        String::from_utf8_lossy(stderr),
    );
    if !succeeded {
        anyhow::ensure!(
            NO_LINES.iter().any(|said| stderr.contains(said)),
            "the engine failed: {}",
            stderr.trim()
        );
        return Ok(String::new());
    }
    // The last line of a process that was killed may have no end.
    if !lines.is_empty() && !lines.ends_with('\n') {
        lines.push('\n');
    }
    lines.push_str(&stderr);
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_an_end_stays_a_line_of_its_own() {
        for (stdout, stderr, lines) in [
            ("1 a\n2 b", "3 c\n", "1 a\n2 b\n3 c\n"),
            ("1 a\n", "2 b", "1 a\n2 b"),
            ("", "1 a\n", "1 a\n"),
        ] {
            let found = lines_of(true, stdout.as_bytes(), stderr.as_bytes()).unwrap();
            assert_eq!(found, lines);
        }
    }

    #[test]
    fn a_log_that_cannot_be_read_is_an_error_and_no_empty_one() {
        let failed = |said: &str| lines_of(false, b"1 a\n", said.as_bytes());
        let error = failed("permission denied\n").unwrap_err();
        assert_eq!(error.to_string(), "the engine failed: permission denied");
        // Removed since it was listed: no failure, and no line.
        let gone = failed("Error response from daemon: No such container: abc");
        assert_eq!(gone.unwrap(), "");
    }
}
