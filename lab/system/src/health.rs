//! The health of containers, asked for on demand: a container's own health check is run in it, now.
//!
//! The engine runs the checks as well, but rarely (`interval` in compose.yaml), because each run starts a process in a
//! container. Nobody here waits for its next run, or reports what its last one found.
//!
//! Left out: what is done about a container that isn't healthy.

use std::{collections::BTreeSet, thread, time::Duration};

use chrono::{DateTime, Utc};

use crate::{
    Part, control,
    interrupt::Interrupted,
    members::{Health, Member, State},
    wait,
};

/// The setting that says how often the engine runs the checks of the services.
pub(crate) const INTERVAL: &str = "AGORA_HEALTH_INTERVAL";

/// The services that all others depend on.
pub const FOUNDATIONS: [Part; 2] = [Part::Postgres, Part::RabbitMq];

/// How long a check may take. The commands have limits of 2 s of their own; to start one takes a moment on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Runs the checks of those that run, all at once, and sets what they found.
///
/// # Errors
/// After Ctrl-C. A check that can't be run, or doesn't end in time, has failed.
pub fn ask(members: &mut [Member]) -> anyhow::Result<()> {
    ask_at_once(&mut askable(members))
}

/// Waits until all containers that `look` returns are healthy, `give_up` says that they won't be, or the limit has
/// passed; returns them as they are then. One that was healthy is not asked again, unless it was started again since.
///
/// # Errors
/// Those of `look`, and after Ctrl-C.
pub fn wait(
    limit: Duration,
    look: impl FnMut() -> anyhow::Result<Vec<Member>>,
    give_up: impl FnMut(&[Member]) -> bool,
) -> anyhow::Result<Vec<Member>> {
    wait_by(ask_at_once, limit, look, give_up)
}

/// Whether one of them doesn't run: a reason for [`wait()`] to give up where nobody starts it again.
pub fn one_ended(members: &[Member]) -> bool {
    members.iter().any(|member| member.state != State::Running)
}

fn wait_by(
    mut ask: impl FnMut(&mut [&mut Member]) -> anyhow::Result<()>,
    limit: Duration,
    mut look: impl FnMut() -> anyhow::Result<Vec<Member>>,
    mut give_up: impl FnMut(&[Member]) -> bool,
) -> anyhow::Result<Vec<Member>> {
    let mut healthy = BTreeSet::new();
    let mut members = Vec::new();
    wait::until(limit, LOOK_INTERVAL, || {
        members = look()?;
        for member in &mut members {
            if member.health.is_none() && healthy.contains(&start_of(member)) {
                member.health = Some(Health::Healthy);
            }
        }
        let mut pending = askable(&mut members);
        pending.sort_by_key(|member| !FOUNDATIONS.contains(&member.service));
        // While the first isn't healthy it alone is asked: each check costs what all of them need to get ready.
        if let Some((first, others)) = pending.split_first_mut() {
            ask(std::slice::from_mut(first))?;
            if first.is_healthy() {
                ask(others)?;
            }
        }
        let now_healthy = members.iter().filter(|member| member.is_healthy());
        healthy.extend(now_healthy.map(start_of));
        let over = members.iter().all(Member::is_healthy) || give_up(&members);
        Ok(over.then_some(()))
    })?;
    // Those whose turn did not come.
    ask(&mut askable(&mut members))?;
    Ok(members)
}

/// A container and when it was started.
fn start_of(member: &Member) -> (String, Option<DateTime<Utc>>) {
    (member.id.clone(), member.started_at)
}

/// Those that run, have a check, and weren't asked.
fn askable(members: &mut [Member]) -> Vec<&mut Member> {
    let asked = |member: &Member| member.health.is_some() || member.health_check.is_none();
    let members = members.iter_mut();
    members
        .filter(|member| member.state == State::Running && !asked(member))
        .collect()
}

fn ask_at_once(members: &mut [&mut Member]) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let asked: Vec<_> = members
            .iter_mut()
            .map(|member| scope.spawn(|| ask_one(member)))
            .collect();
        asked.into_iter().try_for_each(|asked| {
            asked
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

fn ask_one(member: &mut Member) -> anyhow::Result<()> {
    let Some(check) = &member.health_check else {
        return Ok(());
    };
    let command = check.command.iter().map(String::as_str);
    let passes = match control::exec(member, command).limit(ANSWER_LIMIT).output() {
        Ok(output) => output.status.success(),
        Err(error) if error.is::<Interrupted>() => return Err(error),
        Err(_) => false,
    };
    member.health = Some(if passes {
        Health::Healthy
    } else if check.may_still_fail(member.started_at, Utc::now()) {
        Health::Starting
    } else {
        Health::Unhealthy
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members;

    /// A running container, started in this minute of an hour.
    fn member(part: Part, started: u32) -> Member {
        members::inspected(&format!(
            r#"{{"Id":"{part}","Image":"i","RestartCount":0,
            "State":{{"Status":"running","StartedAt":"2026-11-29T15:{started:02}:00Z"}},
            "Config":{{"Labels":{{"com.docker.compose.service":"{part}"}},"Healthcheck":{{"Test":["CMD","true"]}}}},
            "NetworkSettings":{{}}}}"#
        ))
        .unwrap()
    }

    /// Waits for what `looks` returns, one after the other and then the last one again and again. Returns who was asked in
    /// each call, and the containers at the end. Each fails its check so many times first.
    fn waited(
        looks: &[Vec<Member>],
        failures: &[(Part, usize)],
        give_up: impl FnMut(&[Member]) -> bool,
    ) -> (Vec<String>, Vec<Member>) {
        let mut failures: std::collections::BTreeMap<_, _> = failures.iter().copied().collect();
        let mut asked = Vec::new();
        let ask = |members: &mut [&mut Member]| {
            for member in members.iter_mut() {
                let left = failures.entry(member.service).or_default();
                member.health = Some(match *left {
                    0 => Health::Healthy,
                    _ => Health::Starting,
                });
                *left = left.saturating_sub(1);
            }
            let names: Vec<&str> = members.iter().map(|one| one.service.name()).collect();
            if !names.is_empty() {
                asked.push(names.join(" "));
            }
            Ok(())
        };
        let mut looks = looks.iter();
        let mut last = None;
        let look = || {
            last = looks.next().or(last);
            Ok(last.unwrap().clone())
        };
        let members = wait_by(ask, LOOK_INTERVAL, look, give_up).unwrap();
        (asked, members)
    }

    #[test]
    fn others_are_asked_once_what_they_depend_on_is_healthy() {
        let all = vec![
            member(Part::OrderService, 0),
            member(Part::RabbitMq, 0),
            member(Part::Traefik, 0),
        ];
        let (asked, members) = waited(&[all], &[(Part::RabbitMq, 1)], |_| false);
        assert_eq!(asked, ["rabbitmq", "rabbitmq", "order-service traefik"]);
        assert!(members.iter().all(Member::is_healthy));
    }

    #[test]
    fn one_that_was_healthy_is_asked_again_only_after_another_start() {
        let two = |started| {
            vec![
                member(Part::OrderService, started),
                member(Part::Traefik, 0),
            ]
        };
        let fails_once = [(Part::Traefik, 1)];
        let (asked, _) = waited(&[two(0)], &fails_once, |_| false);
        assert_eq!(asked, ["order-service", "traefik", "traefik"]);
        let (asked, _) = waited(&[two(0), two(1)], &fails_once, |_| false);
        assert_eq!(
            asked,
            ["order-service", "traefik", "order-service", "traefik"]
        );
    }

    #[test]
    fn a_wait_that_is_given_up_tells_how_each_of_them_is() {
        let all = vec![member(Part::Postgres, 0), member(Part::Traefik, 0)];
        let (asked, members) = waited(&[all], &[(Part::Postgres, 9)], |_| true);
        assert_eq!(asked, ["postgres", "traefik"]);
        let conditions: Vec<String> = members.iter().map(Member::condition).collect();
        assert_eq!(conditions, ["starting", "healthy"]);
    }

    #[test]
    fn one_that_does_not_run_is_not_asked() {
        let mut ended = member(Part::OrderService, 0);
        ended.state = State::Exited;
        let all = vec![ended, member(Part::Traefik, 0)];
        let (asked, members) = waited(&[all], &[], one_ended);
        assert_eq!(asked, ["traefik"]);
        assert_eq!(members[0].condition(), "exited");
    }

    #[test]
    fn the_engine_itself_checks_rarely() {
        let compose = include_str!("../../../compose.yaml");
        let intervals = compose
            .lines()
            .filter_map(|line| line.trim().strip_prefix("interval: "));
        let intervals: BTreeSet<&str> = intervals.collect();
        let of_services = format!("${{{INTERVAL}:-15s}}");
        assert_eq!(Vec::from_iter(intervals), [&*of_services, "15s"]);
    }
}
