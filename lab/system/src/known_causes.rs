//! Known causes of a failed start, recognised by messages of the engine or of a service, each with its remedy.
//!
//! Left out: all other failures, which are reported with the end of a log.

use std::path::Path;

use base::{outcome, progress};
use shared_events::topology::OTHER_ARGUMENTS;

use crate::{
    engine::{self, docker},
    interrupt,
    project::Project,
};

/// The engine's message when it has no subnet left, up to version 26 and from then on.
const NO_SUBNET: [&str; 2] = [
    "could not find an available, non-overlapping IPv4 address pool",
    "all predefined address pools have been fully subnetted",
];
const MORE_SUBNETS: &str = "`docker network ls` shows the networks, `docker network prune` removes those that no \
                            container uses; or give the engine more: `default-address-pools` in /etc/docker/daemon.json";
/// What PostgreSQL and the kernel say, and the engine, which is written in Go.
const DISK_FULL: [&str; 2] = ["No space left on device", "no space left on device"];
/// What has the same error number and needs no disk: files that are watched, and a container's shared memory.
const NOT_THE_DISK: [&str; 3] = ["inotify", "fsnotify", "shared memory"];
/// The migrations of a database that another version of a service has written.
const OTHER_MIGRATIONS: &str = "was previously applied but";
/// The networks that `up` makes, at least: those of compose.yaml that a container without a profile is in.
const NETWORKS: [&str; 4] = ["public", "edge", "data", "ui"];
/// How the names of the networks begin that `doctor` makes to see whether it can.
const TRIAL: &str = "agora-doctor";

/// A full disk, where a message shows one. Not one of the causes that [`of`] knows: services recover from it by themselves, and
/// their logs still show it then.
pub fn full_disk(text: &str) -> Option<anyhow::Error> {
    let any_of = |said: &[&str], line: &str| said.iter().any(|said| line.contains(said));
    let mut lines = text.lines();
    let line = lines.find(|line| any_of(&DISK_FULL, line) && !any_of(&NOT_THE_DISK, line))?;
    Some(outcome::unavailable(
        format!("the disk is full: {}", line.trim()),
        "make room on the disk of the engine's containers and volumes: `docker system df` shows what the engine keeps, \
         `docker image prune` removes images without a name; then `cargo xtask up`",
    ))
}

/// The known cause that a message shows and that doesn't end by itself, as an error with its remedy; `None` for any other.
pub fn of(text: &str) -> Option<anyhow::Error> {
    if NO_SUBNET.iter().any(|said| text.contains(said)) {
        return Some(no_subnet());
    }
    if text.contains(OTHER_MIGRATIONS) {
        return Some(outcome::failed(
            "a database was written by another version of its service, with other migrations",
            "use that version; or delete all data with `cargo xtask down --volumes`",
        ));
    }
    let (before, _) = text.split_once(OTHER_ARGUMENTS)?;
    // The service puts the name in backquotes.
    let mut parts = before.rsplit('`').skip(1);
    let (name, kind) = (parts.next()?, parts.next()?.split_whitespace().last()?);
    let remove = match kind {
        "queue" => format!(
            "`docker exec CONTAINER rabbitmqctl delete_queue --if-empty {name}`, CONTAINER being rabbitmq's of `docker ps`"
        ),
        _ => "in RabbitMQ's management".to_owned(),
    };
    Some(outcome::failed(
        format!("the {kind} `{name}` {OTHER_ARGUMENTS}"),
        format!(
            "remove it once it is empty ({remove}), and its services declare it anew: see \"A queue with other arguments\" \
             in docs/runbook.md; or delete all data with `cargo xtask down --volumes`"
        ),
    ))
}

fn no_subnet() -> anyhow::Error {
    outcome::unavailable(
        "the engine has no address range left for another network",
        MORE_SUBNETS,
    )
}

/// Fails where the engine has not enough subnets for the networks that the project still lacks. It makes them, without
/// any container, and removes them: which ranges are free depends on the machine's own routes, and only the engine
/// knows.
pub fn require_subnets(project: &Project) -> anyhow::Result<()> {
    remove_abandoned_trials()?;
    let made = engine::networks(project)?.len();
    let mut trial = Trial { names: Vec::new() };
    for number in made..NETWORKS.len() {
        let name = format!("{TRIAL}-{}-{number}", std::process::id());
        let output = docker(["network", "create", "--internal", &name]).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(of(&said).unwrap_or_else(|| {
                outcome::unavailable(
                    format!("the engine makes no network: {}", said.trim()),
                    "`docker network create NAME` shows whether it does again",
                )
            }));
        }
        trial.names.push(name);
    }
    Ok(())
}

/// Removes the networks of commands that were killed: each holds a range of those that are looked for.
fn remove_abandoned_trials() -> anyhow::Result<()> {
    let named = format!("name={TRIAL}-");
    let list = ["network", "ls", "--format", "{{.Name}}", "--filter", &named];
    let names = docker(list).read()?;
    let abandoned = names.lines().filter(|name| is_abandoned(name, &is_alive));
    let abandoned: Vec<&str> = abandoned.collect();
    if !abandoned.is_empty() {
        // Another command may be removing them at the same time.
        if let Err(error) = docker(["network", "rm"].into_iter().chain(abandoned)).read() {
            progress::warn(&format!(
                "networks of `doctor` are left over ({TRIAL}-…): {error:#}"
            ));
        }
    }
    Ok(())
}

/// Whether there is a process with this id; where processes can't be listed, there may be one.
fn is_alive(pid: u32) -> bool {
    !Path::new("/proc/self").exists() || Path::new(&format!("/proc/{pid}")).exists()
}

/// Whether a trial's network is one of a process that is gone.
fn is_abandoned(name: &str, is_alive: &dyn Fn(u32) -> bool) -> bool {
    let of = name.strip_prefix(TRIAL).and_then(|rest| {
        let (pid, _) = rest.strip_prefix('-')?.split_once('-')?;
        pid.parse().ok()
    });
    of.is_some_and(|pid| !is_alive(pid))
}

/// Networks that are removed when this is dropped.
struct Trial {
    names: Vec<String>,
}

impl Drop for Trial {
    fn drop(&mut self) {
        if self.names.is_empty() {
            return;
        }
        let names = self.names.iter().map(String::as_str);
        let removed =
            interrupt::set_aside(|| docker(["network", "rm"].into_iter().chain(names)).read());
        if let Err(error) = removed {
            progress::warn(&format!(
                "networks of `doctor` are left over ({TRIAL}-…): {error:#}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(text: &str) -> (String, String) {
        let error = of(text).or_else(|| full_disk(text)).expect("a known cause");
        let failure = error.downcast_ref::<outcome::Failure>().unwrap();
        (failure.cause.clone(), failure.next_step.clone())
    }

    #[test]
    fn only_the_networks_of_processes_that_are_gone_are_removed() {
        let is_alive = |pid| pid == 7;
        assert!(is_abandoned("agora-doctor-8-0", &is_alive));
        for other in [
            "agora-doctor-7-0",
            "agora-doctor",
            "agora-doctor-x-0",
            "agora_edge",
            "my-agora-doctor-8-0",
        ] {
            assert!(!is_abandoned(other, &is_alive), "{other}");
        }
    }

    #[test]
    fn exhausted_address_pools_are_named_with_what_helps() {
        for text in [
            "failed to create network agora_public: Error response from daemon: could not find an available, \
             non-overlapping IPv4 address pool among the defaults to assign to the network",
            "Error response from daemon: all predefined address pools have been fully subnetted",
        ] {
            let (cause, next_step) = known(text);
            assert!(cause.contains("no address range left"), "{cause}");
            for part in ["docker network prune", "default-address-pools"] {
                assert!(next_step.contains(part), "{next_step}");
            }
        }
    }

    #[test]
    fn a_queue_with_other_arguments_is_named_with_what_helps() {
        let log = r#"order-service is unhealthy; its log ends with:
            {"level":"ERROR","error":"the queue `order_events.retry.5s` is in the broker with other arguments than this version declares: PRECONDITION_FAILED","message":"…"}"#;
        let (cause, next_step) = known(log);
        assert!(
            cause.starts_with("the queue `order_events.retry.5s` is in the broker"),
            "{cause}"
        );
        assert!(
            next_step.contains("delete_queue --if-empty order_events.retry.5s"),
            "{next_step}"
        );
        let runbook = include_str!("../../../docs/runbook.md");
        assert!(runbook.contains("A queue with other arguments"));
    }

    #[test]
    fn a_full_disk_is_named_with_what_helps() {
        for text in [
            "postgres is restarting; its log ends with:\n\
             FATAL:  could not write to file \"pg_wal/xlogtemp.8\": No space left on device",
            "Error response from daemon: mkdir /var/lib/docker/overlay2/1: no space left on device",
        ] {
            let (cause, next_step) = known(text);
            assert!(cause.starts_with("the disk is full: "), "{cause}");
            assert!(!cause.contains('\n'), "{cause}");
            assert!(next_step.contains("docker system df"), "{next_step}");
            assert!(of(text).is_none(), "it may be over: {text}");
        }
        for text in [
            "failed to add a watch: inotify_add_watch: no space left on device",
            "ERROR:  could not resize shared memory segment \"/PostgreSQL.1\": No space left on device",
        ] {
            assert!(full_disk(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_database_of_another_version_is_named_with_what_helps() {
        for text in [
            "failed to migrate the database: migration 5 was previously applied but is missing in the resolved migrations",
            "failed to migrate the database: migration 1 was previously applied but has been modified",
        ] {
            let (cause, next_step) = known(text);
            assert!(cause.contains("another version"), "{cause}");
            assert!(next_step.contains("down --volumes"), "{next_step}");
        }
    }

    #[test]
    fn what_is_not_known_is_left_as_it_is() {
        for text in ["", "connection refused", OTHER_ARGUMENTS] {
            assert!(of(text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_networks_that_up_makes_are_composes() {
        let compose = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../compose.yaml"));
        let compose = std::fs::read_to_string(compose).unwrap();
        let (_, networks) = compose.split_once("\nnetworks:\n").unwrap();
        for network in NETWORKS {
            assert!(networks.contains(&format!("  {network}:\n")), "{network}");
        }
    }
}
