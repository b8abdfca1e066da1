//! `attack`: sends the attack corpus to the running gateway and reports what was accepted, what broke, and what held.
//!
//! Left out: the attacks and their judgement (`checks::attacks`).

use std::fmt::Write as _;

use base::outcome::Exit;
use checks::attacks::{Ending, Family, Finding};
use evaluation::faults;
use serde::Serialize;
use system::{
    Part,
    members::{self, Member},
    project::Project,
};

use crate::output::{Format, print_json, progress, table};

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    families: Vec<Row>,
    /// Every attack that wasn't refused as expected.
    not_held: Vec<NotHeld>,
    /// Containers that no longer run as they did before: an attack whose connection just ends may have ended the
    /// gateway.
    fallen: Vec<String>,
}

/// The results of a family's attacks.
#[derive(Debug, Default, Serialize)]
struct Row {
    family: &'static str,
    tried: usize,
    held: usize,
    let_in: usize,
    server_errors: usize,
    unforeseen: usize,
}

#[derive(Debug, Serialize)]
struct NotHeld {
    family: &'static str,
    tries: String,
    statuses: Vec<u16>,
    ending: &'static str,
    why: String,
}

/// Runs the command.
pub(crate) fn run(project: &Project, format: Format) -> anyhow::Result<Exit> {
    let members = members::running(project)?;
    let gateway = members::published_by(&members, Part::Traefik)?;
    let findings = progress().step("attack", |step| {
        let findings = faults::attack(&gateway)?;
        step.result(format!("{} attacks", findings.len()));
        Ok(findings)
    })?;
    let fallen = fallen(&members, &members::all(project)?);
    let report = judge(&findings, fallen);
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => print!("{}", text(&report)),
    }
    Ok(report.outcome)
}

/// The names of containers that don't run any more, or were started again. Pure.
fn fallen(before: &[Member], after: &[Member]) -> Vec<String> {
    let runs_on = |member: &&Member| {
        after.iter().any(|now| {
            now.id == member.id && now.started_at == member.started_at && now.state == member.state
        })
    };
    let fallen = before.iter().filter(|member| !runs_on(member));
    fallen.map(members::name).collect()
}

/// Judges the findings: an attack that was accepted or broke something fails; unexpected statuses and missing answers are
/// inconclusive. Pure.
fn judge(findings: &[Finding], fallen: Vec<String>) -> Report {
    let mut not_held = Vec::new();
    let mut families: Vec<Row> = Family::ALL
        .iter()
        .map(|family| Row {
            family: family.name(),
            ..Row::default()
        })
        .collect();
    for finding in findings {
        let family = finding.family.name();
        let Some(row) = families.iter_mut().find(|row| row.family == family) else {
            continue;
        };
        row.tried += 1;
        let (count, ending, why) = match &finding.ending {
            Ending::Held => {
                row.held += 1;
                continue;
            }
            Ending::LetIn(why) => (&mut row.let_in, "let_in", why.clone()),
            Ending::ServerError(status) => (
                &mut row.server_errors,
                "server_error",
                format!("answered {status}"),
            ),
            Ending::Unforeseen(why) => (&mut row.unforeseen, "unforeseen", why.clone()),
        };
        *count += 1;
        not_held.push(NotHeld {
            family,
            tries: finding.tries.clone(),
            statuses: finding.statuses.clone(),
            ending,
            why,
        });
    }
    let any = |count: fn(&Row) -> usize| families.iter().any(|row| count(row) > 0);
    let outcome = if any(|row| row.let_in + row.server_errors) || !fallen.is_empty() {
        Exit::Failed
    } else if any(|row| row.unforeseen) || findings.is_empty() {
        Exit::Inconclusive
    } else {
        Exit::Holds
    };
    Report {
        outcome,
        families,
        not_held,
        fallen,
    }
}

fn text(report: &Report) -> String {
    let mut rows = table([
        "family",
        "tried",
        "held",
        "let in",
        "server errors",
        "unforeseen",
    ]);
    let mut tried = 0;
    for row in &report.families {
        tried += row.tried;
        rows.add_row([
            row.family.to_owned(),
            row.tried.to_string(),
            row.held.to_string(),
            row.let_in.to_string(),
            row.server_errors.to_string(),
            row.unforeseen.to_string(),
        ]);
    }
    let mut text = format!("{rows}\n");
    for finding in &report.not_held {
        // A String takes whatever is written.
        let _ = writeln!(
            text,
            "{}: {}: {}",
            finding.family, finding.tries, finding.why
        );
    }
    for member in &report.fallen {
        let _ = writeln!(text, "{member} ended, or was started again, meanwhile");
    }
    let verdict = match report.outcome {
        Exit::Holds => format!("None of {tried} attacks was accepted, and none broke anything."),
        Exit::Inconclusive => {
            "No attack is known to have been accepted, but not all were answered as expected."
                .to_owned()
        }
        _ => "The gateway does not hold.".to_owned(),
    };
    text + &verdict + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(ending: Ending) -> Finding {
        Finding {
            family: Family::Paths,
            tries: "it".to_owned(),
            statuses: vec![404],
            ending,
        }
    }

    #[test]
    fn what_got_in_or_broke_something_fails_and_what_nobody_foresaw_shows_nothing() {
        let outcome = |endings: &[Ending]| {
            let findings: Vec<Finding> = endings.iter().cloned().map(finding).collect();
            judge(&findings, Vec::new()).outcome
        };
        let unforeseen = || Ending::Unforeseen("silence".to_owned());
        assert_eq!(outcome(&[Ending::Held]), Exit::Holds);
        assert_eq!(outcome(&[]), Exit::Inconclusive);
        assert_eq!(outcome(&[Ending::Held, unforeseen()]), Exit::Inconclusive);
        let in_it = Ending::LetIn("answered 200".to_owned());
        assert_eq!(outcome(&[unforeseen(), in_it]), Exit::Failed);
        assert_eq!(outcome(&[Ending::ServerError(502)]), Exit::Failed);
    }

    #[test]
    fn the_text_counts_by_family_and_names_what_did_not_hold() {
        let findings = [finding(Ending::Held), finding(Ending::ServerError(502))];
        let report = judge(&findings, Vec::new());
        let text = text(&report);
        assert!(text.contains("paths: it: answered 502"), "{text}");
        assert!(text.contains("does not hold"), "{text}");
        assert_eq!(report.families[2].tried, 2);
    }

    #[test]
    fn a_gateway_that_fell_while_its_attackers_heard_nothing_does_not_hold() {
        let traefik = |started: &str, status: &str| {
            members::inspected(&format!(
                r#"{{"Id":"1","Image":"i","RestartCount":0,"Created":"2026-11-26T15:00:00Z",
                "State":{{"Status":"{status}","StartedAt":"2026-11-26T15:00:{started}Z"}},
                "Config":{{"Labels":{{"com.docker.compose.service":"traefik"}}}},
                "HostConfig":{{"Memory":1}},"NetworkSettings":{{}}}}"#
            ))
            .unwrap()
        };
        let before = [traefik("01", "running")];
        assert!(fallen(&before, &[traefik("01", "running")]).is_empty());
        for after in [
            vec![traefik("09", "running")],
            vec![traefik("01", "exited")],
            Vec::new(),
        ] {
            assert_eq!(fallen(&before, &after).len(), 1);
        }
        let report = judge(&[finding(Ending::Held)], fallen(&before, &[]));
        assert_eq!(report.outcome, Exit::Failed);
    }
}
