//! Rolling updates: replaces a service's containers one by one while it serves. A new one is started beside the old
//! ones; once it is healthy, an old one is stopped with its grace period and removed. A service is scaled in the same
//! way.
//!
//! Progress is not recorded; the engine shows it. A container that isn't relied on, because it is not healthy yet or is
//! about to be removed, is *provisional*: it has no restart policy, so that one that can't start ends instead of
//! restarting again and again. After an interruption between any two calls of the engine, these containers show what
//! has to be undone or finished ([`repair`]).
//!
//! On Kubernetes a Deployment does all of it by itself, and keeps no exit code of a pod that is gone. Left out: images
//! ([`crate::service_images`]), and routing. The gateway finds replicas by Docker's DNS, and tries the next one when a replica
//! doesn't accept connections.

use std::{
    slice::Chunks,
    time::{Duration, Instant},
};

use anyhow::Context;
use base::outcome;

use crate::{
    Part, control,
    engine::docker,
    health,
    interrupt::{self, Interrupted},
    kubernetes,
    members::{self, Health, Member, State},
    process::tail,
    project::Settings,
    running::RunningSystem,
    wait,
};

/// The most replicas that a service may have.
pub const MOST: u32 = 8;
/// Longer than STARTUP_TIMEOUT_SECONDS and `start_period` in compose.yaml, after which a failed check ends the wait.
const HEALTHY_WITHIN: Duration = Duration::from_secs(90);
/// When user-service calls a new container of product-service at the latest: it resolves the name every 2 s, and checks an
/// address every 0.3 s (services/chassis/src/replicas.rs). The old one has to serve until then.
const CALLED_WITHIN: Duration = Duration::from_millis(2_500);
/// As compose.yaml has it for all.
const RESTART: &str = "--restart=unless-stopped";
/// How much of its log an error repeats, of a container that did not get healthy.
const LOG_LINES: usize = 6;

/// One service's containers, to be changed.
#[derive(Debug)]
pub struct Rolling<'a> {
    system: &'a RunningSystem<'a>,
    service: Part,
    /// The settings of new containers.
    settings: Settings,
}

/// A container that was replaced by another.
#[derive(Debug)]
pub struct Replaced {
    /// The new container, which serves.
    pub new: Member,
    /// How long the new one took from its start until it was healthy; `None` where the engine replaced it by itself.
    pub healthy_after: Option<Duration>,
    /// The old container, which is gone.
    pub left: Left,
}

/// A container that was removed.
#[derive(Debug)]
pub struct Left {
    /// The container as it was last seen.
    pub member: Member,
    /// Its exit code after SIGTERM; `None` when it didn't run, and where the engine keeps none.
    pub exit_code: Option<i64>,
}

impl Left {
    /// One of whose end nothing was seen but that it is gone.
    fn unseen(member: &Member) -> Self {
        Self {
            member: member.clone(),
            exit_code: None,
        }
    }

    /// Whether it finished its work and ended within its grace period.
    pub fn gracefully(&self) -> bool {
        self.exit_code.is_none_or(|code| code == 0)
    }

    /// What it means that it was killed, in a sentence; `None` for one that ended gracefully.
    pub fn complaint(&self) -> Option<String> {
        (!self.gracefully()).then(|| {
            format!(
                "{} did not finish what it had: exit code {}.",
                members::name(&self.member),
                self.exit_code.unwrap_or_default()
            )
        })
    }
}

impl<'a> Rolling<'a> {
    /// For a service, whose new containers are made with these settings.
    pub fn new(system: &'a RunningSystem<'a>, service: Part, settings: Settings) -> Self {
        Self {
            system,
            service,
            settings,
        }
    }

    /// The service's containers, the oldest first; an error when there is none.
    pub fn members(&self) -> anyhow::Result<Vec<Member>> {
        Ok(by_age(self.system.members_of(self.service)?))
    }

    /// The containers that go when only so many are to stay: those that don't serve, and then the youngest, in the
    /// order in which they go. `members` stand in the order of their age, the oldest first, and were asked for their health.
    pub fn surplus(members: &[Member], stay: usize) -> Vec<&Member> {
        let mut leaving: Vec<_> = members.iter().rev().collect();
        leaving.sort_by_key(|member| member.is_healthy());
        leaving.truncate(members.len().saturating_sub(stay));
        leaving
    }

    /// The containers in the order in which they are replaced, in the portions that [`Self::replace`] takes: one at a time, or all
    /// where the engine itself goes from one to the next.
    pub fn portions<'m>(&self, olds: &'m [Member]) -> Chunks<'m, Member> {
        olds.chunks(match self.system.target() {
            None => 1,
            Some(_) => olds.len().max(1),
        })
    }

    /// Replaces one of the [`Self::portions`], one container after the other. When a new one doesn't get healthy, or at Ctrl-C,
    /// no further one is replaced.
    pub fn replace(&self, olds: &[Member]) -> anyhow::Result<Vec<Replaced>> {
        let Some(target) = self.system.target() else {
            return olds.iter().map(|old| self.replace_one(old)).collect();
        };
        let before = self.members()?;
        kubernetes::renew(target, &self.settings, self.service)?;
        let mut new = self.members()?;
        new.retain(|member| !has(&before, member));
        anyhow::ensure!(
            new.len() >= olds.len(),
            "{} has {} new pods for {} old ones",
            self.service,
            new.len(),
            olds.len()
        );
        Ok(olds
            .iter()
            .zip(new)
            .map(|(old, new)| Replaced {
                new,
                healthy_after: None,
                left: Left::unseen(old),
            })
            .collect())
    }

    /// Replaces one container. When the new one doesn't get healthy, or at Ctrl-C, nothing has changed; an old one that
    /// is leaving already leaves all the same.
    fn replace_one(&self, old: &Member) -> anyhow::Result<Replaced> {
        let (new, healthy_after) = self.start_one()?;
        let left = to_the_end(|| {
            // In this order: between the two, two containers look provisional, and the younger one is meant to stay.
            set_provisional(old)?;
            rely_on(&new)?;
            retire(self.system, old)
        })?;
        Ok(Replaced {
            new,
            healthy_after: Some(healthy_after),
            left,
        })
    }

    /// Adds one container, and returns when it is healthy. When it doesn't get so, or at Ctrl-C, nothing has changed.
    pub fn add(&self) -> anyhow::Result<Member> {
        if let Some(target) = self.system.target() {
            let before = self.members()?;
            kubernetes::add_replica(target, &self.settings, self.service)?;
            let mut new = self.members()?.into_iter();
            let new = new.find(|member| !has(&before, member));
            return new.with_context(|| format!("{} has no new pod", self.service));
        }
        let (new, _) = self.start_one()?;
        to_the_end(|| rely_on(&new))?;
        Ok(new)
    }

    /// Stops and removes a container.
    pub fn remove(&self, member: &Member) -> anyhow::Result<Left> {
        if let Some(target) = self.system.target() {
            kubernetes::remove_replica(target, &self.settings, self.service, &member.id)?;
            return Ok(Left::unseen(member));
        }
        to_the_end(|| {
            set_provisional(member)?;
            retire(self.system, member)
        })
    }

    /// All containers are replaced, one by one. Returns when all are healthy.
    pub fn replace_all(&self) -> anyhow::Result<()> {
        for olds in self.portions(&self.members()?) {
            self.replace(olds)?;
        }
        Ok(())
    }

    /// The naive way: all containers are ended and made anew, all at once. Returns when all are healthy, at Ctrl-C
    /// as well.
    pub fn replace_at_once(&self) -> anyhow::Result<Vec<Member>> {
        if let Some(target) = self.system.target() {
            kubernetes::recreate(target, &self.settings, self.service)?;
            return self.members();
        }
        let count = self.members()?.len();
        let up = |options: &[&str]| {
            let output = self
                .system
                .compose_up(&self.settings, self.service, count, options)
                .output()?;
            if !output.status.success() {
                return Err(self.not_again(String::from_utf8_lossy(&output.stderr).trim()));
            }
            let members = health::wait(HEALTHY_WITHIN, || self.members(), health::one_ended)?;
            match members.iter().find(|member| !member.is_healthy()) {
                None => Ok(members),
                Some(sick) => Err(self.not_again(&account(sick))),
            }
        };
        match up(&["--detach", "--force-recreate"]) {
            Err(error) if error.is::<Interrupted>() => {
                // Cut short, it has left nobody to serve.
                interrupt::set_aside(|| up(&["--detach"]))?;
                Err(error)
            }
            result => result,
        }
    }

    fn not_again(&self, why: &str) -> anyhow::Error {
        outcome::failed(
            format!("{} did not get healthy again: {why}", self.service),
            format!("`cargo xtask logs {}` shows more", self.service),
        )
    }

    /// One container more, healthy and still provisional, and how long it took from its start.
    fn start_one(&self) -> anyhow::Result<(Member, Duration)> {
        let before = self.members()?;
        let started = self.try_to_start_one(&before);
        if started.is_err() {
            // Also after Ctrl-C.
            interrupt::set_aside(|| self.remove_others_than(&before))?;
        }
        started
    }

    fn try_to_start_one(&self, before: &[Member]) -> anyhow::Result<(Member, Duration)> {
        let options = ["--no-start", "--no-recreate"];
        let count = before.len() + 1;
        self.system
            .compose_up(&self.settings, self.service, count, &options)
            .read()?;
        let mut made = self.members()?;
        made.retain(|member| !has(before, member));
        let new = made
            .pop()
            .with_context(|| format!("compose made no container of {}", self.service))?;
        set_provisional(&new)?;
        let started = Instant::now();
        docker(["start", &new.id]).read()?;
        let look = || {
            let mut now = self.members()?;
            now.retain(|member| member.id == new.id);
            let name = members::name(&new);
            anyhow::ensure!(!now.is_empty(), "{name} was removed by somebody else");
            Ok(now)
        };
        let now = health::wait(HEALTHY_WITHIN, look, |now| {
            let unhealthy = |member: &Member| member.health == Some(Health::Unhealthy);
            health::one_ended(now) || now.iter().any(unhealthy)
        })?;
        let healthy_after = started.elapsed();
        let new = now.into_iter().next().unwrap_or(new);
        if !new.is_healthy() {
            return Err(self.not_healthy(&new));
        }
        if self.service == Part::ProductService {
            wait::pass(CALLED_WITHIN)?;
        }
        Ok((new, healthy_after))
    }

    fn not_healthy(&self, new: &Member) -> anyhow::Error {
        outcome::failed(
            format!(
                "a new container of {} does not get healthy, and is removed; the old ones serve on. {}",
                self.service,
                account(new)
            ),
            "repair what its log says: its settings are in the env file, its image is what `cargo xtask up` built",
        )
    }

    /// Removes what is there besides these containers.
    fn remove_others_than(&self, before: &[Member]) -> anyhow::Result<()> {
        for member in self.members()? {
            if !has(before, &member) {
                retire(self.system, &member)?;
            }
        }
        Ok(())
    }
}

/// Finishes or undoes an interrupted replacement of a service's containers; returns what was done, in words.
pub fn repair(system: &RunningSystem<'_>, service: Part) -> anyhow::Result<Vec<String>> {
    let mut members = system.members()?;
    members.retain(|member| member.service == service);
    if members.iter().any(|member| member.provisional) {
        health::ask(&mut members)?;
    }
    let members = by_age(members);
    let left_over = left_over(&members);
    let mut done = Vec::new();
    if let Some(kept) = left_over.relied_on {
        rely_on(kept)?;
        done.push(format!("{} stays", members::name(kept)));
    }
    for member in left_over.superfluous {
        let left = retire(system, member)?;
        let exit = match left.exit_code {
            Some(code) => format!(", exit code {code}"),
            None => String::new(),
        };
        done.push(format!("{} removed{exit}", members::name(member)));
    }
    Ok(done
        .iter()
        .map(|done| format!("a replacement that was cut short: {done}"))
        .collect())
}

/// The containers that an interrupted replacement left.
#[derive(Debug, Default)]
struct LeftOver<'c> {
    /// Containers to remove: provisional ones, and ones that were never started.
    superfluous: Vec<&'c Member>,
    /// The provisional container that stays and has to be relied on.
    relied_on: Option<&'c Member>,
}

/// `members` stand in the order of their age, the oldest first.
fn left_over(members: &[Member]) -> LeftOver<'_> {
    let (unstarted, started): (Vec<_>, Vec<_>) = members
        .iter()
        .partition(|member| member.state == State::Created);
    let (mut provisional, relied_on): (Vec<_>, Vec<_>) =
        started.into_iter().partition(|member| member.provisional);
    if provisional.is_empty() && relied_on.is_empty() {
        // `cargo xtask up` starts what it made.
        return LeftOver::default();
    }
    // One is new, or about to leave: the others are enough without it. Of two, one was about to take the other's place.
    let stays = (provisional.len() > 1 || relied_on.is_empty()).then(|| {
        let healthy = provisional.iter().rposition(|member| member.is_healthy());
        provisional.remove(healthy.unwrap_or_default())
    });
    LeftOver {
        superfluous: unstarted.into_iter().chain(provisional).collect(),
        relied_on: stays,
    }
}

fn by_age(mut members: Vec<Member>) -> Vec<Member> {
    members.sort_by_key(|member| member.created_at);
    members
}

fn has(members: &[Member], member: &Member) -> bool {
    members.iter().any(|one| one.id == member.id)
}

/// One that is gone is as good as one that is about to go.
fn set_provisional(member: &Member) -> anyhow::Result<()> {
    let output = docker(["update", "--restart=no", &member.id]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success() || said.contains("No such container"),
        "the engine refused to take {} its restart policy: {}",
        members::name(member),
        said.trim()
    );
    Ok(())
}

fn rely_on(member: &Member) -> anyhow::Result<()> {
    docker(["update", RESTART, &member.id]).read()?;
    Ok(())
}

/// Stops a container with its grace period, and removes it. May be called again.
fn retire(system: &RunningSystem<'_>, member: &Member) -> anyhow::Result<Left> {
    let again = || -> anyhow::Result<Option<Member>> {
        let mut now = system.members()?;
        now.retain(|now| now.id == member.id);
        Ok(now.pop())
    };
    let mut exit_code = None;
    if again()?.is_some() {
        control::stop(member)?;
    }
    if let Some(stopped) = again()? {
        let ran = stopped.finished_at != member.finished_at;
        exit_code = ran.then_some(stopped.exit_code);
        docker(["rm", &member.id]).read()?;
    }
    Ok(Left {
        member: member.clone(),
        exit_code,
    })
}

/// Ctrl-C does not leave it half done: then it is done once more, from its beginning.
fn to_the_end<T>(work: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    match work() {
        Err(error) if error.is::<Interrupted>() => interrupt::set_aside(work),
        result => result,
    }
}

/// How a container is, with the end of its log.
fn account(member: &Member) -> String {
    let condition = match member.state {
        State::Exited => format!("ended with exit code {}", member.exit_code),
        _ => format!("is {}", member.condition()),
    };
    let log = tail(&members::last_lines(member, LOG_LINES), LOG_LINES);
    format!("It {condition}; its log ends with:\n{log}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The containers of a service, the oldest first, each in a word or two: `steady`, `new` (provisional, healthy),
    /// `starting` (provisional, not yet healthy), `stopped` (provisional, exited), `unstarted`.
    fn members(words: &[&str]) -> Vec<Member> {
        let member = |(age, word): (usize, &&str)| {
            let (status, health, policy) = match *word {
                "steady" => ("running", Some(Health::Healthy), "unless-stopped"),
                "new" => ("running", Some(Health::Healthy), "no"),
                "starting" => ("running", Some(Health::Starting), "no"),
                "stopped" => ("exited", None, "no"),
                "unstarted" => ("created", None, "unless-stopped"),
                other => panic!("{other}"),
            };
            let member = members::inspected(&format!(
                r#"{{"Id":"{age}","Image":"i","RestartCount":0,"Created":"2026-11-26T15:00:{age:02}Z",
                "State":{{"Status":"{status}"}},
                "Config":{{"Labels":{{"com.docker.compose.service":"order-service"}},
                    "Healthcheck":{{"Test":["CMD","true"]}}}},
                "HostConfig":{{"Memory":1,"RestartPolicy":{{"Name":"{policy}"}}}},
                "NetworkSettings":{{}}}}"#
            ));
            let mut member = member.unwrap();
            member.health = health;
            member
        };
        by_age(words.iter().enumerate().map(member).collect())
    }

    /// What is to be removed, and what is to stay, by age.
    fn repaired(words: &[&str]) -> (Vec<String>, Option<String>) {
        let members = members(words);
        let left_over = left_over(&members);
        let ids = left_over.superfluous.iter();
        (
            ids.map(|member| member.id.clone()).collect(),
            left_over.relied_on.map(|member| member.id.clone()),
        )
    }

    #[test]
    fn who_does_not_serve_goes_before_the_youngest() {
        let goes = |words: &[&str], stay| -> Vec<String> {
            let members = members(words);
            let surplus = Rolling::surplus(&members, stay);
            surplus.iter().map(|member| member.id.clone()).collect()
        };
        assert_eq!(goes(&["steady", "steady", "steady"], 1), ["2", "1"]);
        assert_eq!(goes(&["stopped", "steady"], 1), ["0"]);
        assert_eq!(goes(&["steady", "stopped", "steady"], 1), ["1", "2"]);
        assert!(goes(&["stopped"], 2).is_empty());
    }

    fn removes<const N: usize>(ids: [&str; N]) -> (Vec<String>, Option<String>) {
        (ids.map(str::to_owned).to_vec(), None)
    }

    #[test]
    fn what_is_relied_on_is_left_alone() {
        assert_eq!(repaired(&["steady"]), removes([]));
        assert_eq!(repaired(&["steady", "steady"]), removes([]));
    }

    #[test]
    fn wherever_a_replacement_is_cut_short_as_many_containers_remain_as_before() {
        // Made, started, healthy: nothing has changed yet, so it goes.
        for new in ["unstarted", "starting", "new"] {
            assert_eq!(
                repaired(&["steady", "steady", new]),
                removes(["2"]),
                "{new}"
            );
        }
        // The old one is about to leave, and the new one not relied on yet.
        assert_eq!(
            repaired(&["new", "steady", "new"]),
            (vec!["0".to_owned()], Some("2".to_owned()))
        );
        // The new one is relied on: the old one leaves, or has left already.
        for old in ["new", "stopped"] {
            assert_eq!(
                repaired(&[old, "steady", "steady"]),
                removes(["0"]),
                "{old}"
            );
        }
    }

    #[test]
    fn a_service_is_never_left_without_its_containers() {
        assert_eq!(repaired(&["unstarted"]), removes([]));
        assert_eq!(repaired(&["new"]), (vec![], Some("0".to_owned())));
        assert_eq!(repaired(&["stopped"]), (vec![], Some("0".to_owned())));
        assert_eq!(
            repaired(&["new", "stopped"]),
            (vec!["1".to_owned()], Some("0".to_owned()))
        );
    }

    #[test]
    fn compose_gives_every_container_the_policy_that_is_given_back_here() {
        let compose = include_str!("../../../compose.yaml");
        let policy = RESTART.strip_prefix("--restart=").unwrap();
        assert!(compose.contains(&format!("restart: {policy}")));
    }
}
