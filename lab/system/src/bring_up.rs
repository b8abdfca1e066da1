//! Starting the system: provides what is missing, builds what changed, starts everything, waits until all is healthy.
//!
//! A second time, with nothing changed, it asks the engine a few questions, touches no container and needs no network. On Kubernetes
//! only its last part differs.
//! Left out: what is printed about it (`xtask`).

use std::{
    thread,
    time::{Duration, Instant},
};

use base::{
    outcome,
    progress::{Progress, Step},
};

use crate::{
    Part,
    binaries::{self, Binaries},
    broker,
    compose::Compose,
    configuration, engine, engine_setup,
    env_file::{EnvFile, SECRETS_ID},
    extras, health, host, images,
    interrupt::Interrupted,
    known_causes,
    kubectl::{self, Target},
    kubernetes,
    lock::SystemLock,
    members::{self, Health, Member, State},
    ports,
    project::{PORTS, Project, Settings},
    service_images, switches,
    take_down::take_down,
    unhealthy::{explain, sick},
};

/// How long the containers may take until all are healthy.
const HEALTHY_WITHIN: Duration = Duration::from_secs(180);
/// How long the gateways of a benchmark may take until they are healthy.
const GATEWAYS_WITHIN: Duration = Duration::from_secs(60);

/// Brings the project up; interrupted, it takes down again what did not run before.
///
/// `source` says where third-party images come from; `consent` is asked before an engine is installed.
///
/// # Errors
/// What is missing, with its cause and the next step.
pub fn bring_up(
    project: &Project,
    source: images::Source,
    consent: impl FnOnce() -> anyhow::Result<()>,
    progress: &Progress,
) -> anyhow::Result<Vec<Member>> {
    // Before anything else: a switch with a typing error would leave its pattern on unnoticed, and a port with one
    // would be found when most of the system is up.
    let asked_for = project.settings_from(&EnvFile::read(&project.env_file)?);
    let off = switches::off(&asked_for)?;
    switches::check_overrides(&asked_for)?;
    ports::require_numbers(&asked_for)?;
    let _lock = SystemLock::take(project)?;
    // Before anything is built: without a cluster there is nothing to build for.
    let target = kubectl::target(project)?;
    target
        .as_deref()
        .map_or(Ok(()), kubernetes::require_usable)?;
    // Also where it is to run on Kubernetes: images are built by it.
    engine_setup::provide(project, consent, progress)?;
    let compose = progress.step("engine", |step| {
        let version = host::version()?;
        let compose = Compose::find_or_fetch(project, step)?;
        step.result(format!("docker {version}, compose {}", compose.version));
        Ok(compose)
    })?;
    let before = match target {
        Some(_) => Vec::new(),
        None => members::all(project)?,
    };
    let settings = progress.step("settings", |step| {
        if !off.is_empty() {
            step.say(&format!("patterns off: {}", off.join(", ")));
        }
        prepare_settings(project, target.as_deref(), &before, step)
    })?;
    let (references, binaries) = provide_parts(project, &compose, source, progress)?;
    let settings = record(project, &settings, &references)?;
    progress.step("service images", |step| {
        binaries::stage(project, &binaries)?;
        service_images::build(project, &compose, &settings, step)
    })?;
    if let Some(target) = target {
        let before = members::of_target(&target)?;
        let ran_before = before.iter().any(|member| member.state == State::Running);
        let started = kubernetes::bring_up(&target, &settings, &references, progress);
        return match started {
            Err(error) if error.is::<Interrupted>() && !ran_before => {
                progress.step("taking down what was started", |_| {
                    take_down(project, false)
                })?;
                Err(error)
            }
            started => started.and_then(|()| members::all(project)),
        };
    }
    let started = progress.step("containers", |step| {
        start(project, &compose, &settings, &before, step)
    });
    if let Err(error) = started {
        let ran_before = before.iter().any(|member| member.state == State::Running);
        if error.is::<Interrupted>() && !ran_before {
            progress.step("taking down what was started", |_| {
                take_down(project, false)
            })?;
        }
        return Err(error);
    }
    progress.step("optional parts", |step| {
        extras::start(project, &compose, &settings, source, &references, step)
    })?;
    members::all(project)
}

fn prepare_settings(
    project: &Project,
    target: Option<&Target>,
    before: &[Member],
    step: &Step,
) -> anyhow::Result<Settings> {
    let existed = project.env_file.exists();
    let mut file = EnvFile::read(&project.env_file)?;
    let defaults = PORTS.map(|port| (port.variable, port.default));
    file.complete(&defaults)?;
    // Checked before the file is saved: a completed file with a new id would hide the old volumes' secrets.
    let settings = project.settings_from(&file);
    match target {
        Some(target) => kubernetes::require_matching_volumes(target, &settings)?,
        None => {
            require_matching_volumes(project, &settings)?;
            ports::require_free(&settings, before)?;
        }
    }
    file.save()?;
    step.result(format!(
        "{}{}",
        project.env_file.display(),
        if existed {
            ""
        } else {
            ", made with new secrets"
        }
    ));
    Ok(settings)
}

/// Volumes keep the passwords they were made with: other secrets can't open them.
fn require_matching_volumes(project: &Project, settings: &Settings) -> anyhow::Result<()> {
    let ours = settings.require(SECRETS_ID)?;
    let volumes = engine::volumes(project)?;
    let stranger = volumes
        .iter()
        .find(|volume| volume.secrets_id().is_some_and(|theirs| theirs != ours));
    match stranger {
        None => Ok(()),
        Some(volume) => Err(outcome::unavailable(
            format!(
                "the volume {} was made with other secrets than the ones in {}",
                volume.name,
                project.env_file.display()
            ),
            "put the old .env back, or delete all data of the project with `cargo xtask down --volumes`",
        )),
    }
}

/// Third-party images and binaries, side by side: one waits for the network, the other for the compiler.
fn provide_parts(
    project: &Project,
    compose: &Compose,
    source: images::Source,
    progress: &Progress,
) -> anyhow::Result<(images::References, Binaries)> {
    thread::scope(|scope| {
        let references = scope.spawn(|| {
            progress.step("third-party images", |step| {
                let file = EnvFile::read(&project.env_file)?;
                let references = images::provide(project, compose, &file, source, step)?;
                if let Some(lacks) = images::lacks(&references) {
                    step.say(lacks);
                }
                anyhow::Ok(references)
            })
        });
        let binaries = progress.step("services and load generator", |step| {
            binaries::build(project, step)
        });
        let references = references
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((references?, binaries?))
    })
}

/// Records what Compose needs in `.env`, where a `docker compose` by hand finds it, too.
fn record(
    project: &Project,
    settings: &Settings,
    references: &images::References,
) -> anyhow::Result<Settings> {
    let configuration = configuration::hashes(project)?;
    let made = || references.iter().chain(&configuration);
    let mut file = EnvFile::read(&project.env_file)?;
    for (name, value) in made() {
        file.set(name, value);
    }
    file.save()?;
    Ok(settings.with(made()))
}

fn start(
    project: &Project,
    compose: &Compose,
    settings: &Settings,
    before: &[Member],
    step: &Step,
) -> anyhow::Result<()> {
    // Without this option Compose would leave one container of each.
    let scales = Part::services().map(|service| {
        let of_service = before
            .iter()
            .filter(|member| member.service == service && !member.provisional);
        format!("--scale={service}={}", of_service.count().max(1))
    });
    let began = Instant::now();
    let started = compose
        .up(project, settings, ["--remove-orphans"])
        .args(scales)
        .logged(&project.log("compose-up"), |line| step.update(line));
    if let Err(error) = started {
        if error.is::<Interrupted>() {
            return Err(error);
        }
        let mut members = members::all(project).unwrap_or_default();
        health::ask(&mut members)?;
        return Err(explain(settings, &members, &format!("{error:#}"), began));
    }
    step.update("waiting until all are healthy");
    let look = || {
        let mut members = members::all(project)?;
        members.retain(|member| !member.service.is_optional());
        Ok(members)
    };
    let members = health::wait(HEALTHY_WITHIN, look, |members| {
        !may_recover(members) || stays_so(settings, members)
    })?;
    if !may_recover(&members) || !members.iter().all(Member::is_healthy) {
        return Err(explain(settings, &members, "one is missing", began));
    }
    step.result(format!("{} healthy", members.len()));
    Ok(())
}

/// Whether nothing is missing and every container runs: those that aren't healthy may become so.
fn may_recover(members: &[Member]) -> bool {
    Part::required().all(|part| {
        let of_part = members.iter().filter(|member| member.service == part);
        let states: Vec<&State> = of_part.map(|member| &member.state).collect();
        !states.is_empty() && states.iter().all(|state| **state == State::Running)
    })
}

/// Whether one isn't healthy that should be, for a reason that doesn't end by itself. Not asked of one that is still starting:
/// it may not have tried yet. Without such a reason a service recovers whose database or broker this very call has started.
fn stays_so(settings: &Settings, members: &[Member]) -> bool {
    let fails = |member: &Member| {
        let tried = member.health == Some(Health::Unhealthy) || member.restarts > 0;
        tried && !member.is_healthy()
    };
    if !members.iter().any(fails) {
        return false;
    }
    let blocked = broker::alarms_of(settings, members).unwrap_or_default();
    !blocked.is_empty() || known_causes::of(&sick(members).join("\n")).is_some()
}

/// Starts the gateways of `compose.bench.yaml` beside a running system, and what is behind them.
///
/// # Errors
/// When they can't be started, or aren't healthy in time.
pub fn gateways_to_compare_with(
    system: &Project,
    gateways: &[Part],
    step: &Step,
) -> anyhow::Result<()> {
    let compose = Compose::find_or_fetch(system, step)?;
    let with_gateways = system.clone().with_compose_file("compose.bench.yaml");
    let services = gateways.iter().copied().chain([Part::TrivialService]);
    compose
        .up(
            &with_gateways,
            &system.settings()?,
            services.map(Part::name),
        )
        .logged(&system.log("compose-bench"), |line| step.update(line))?;
    let look = || {
        let mut members = members::all(system)?;
        members.retain(|member| gateways.contains(&member.service));
        Ok(members)
    };
    let members = health::wait(GATEWAYS_WITHIN, look, health::one_ended)?;
    match sick(&members).as_slice() {
        [] => Ok(()),
        sick => Err(outcome::failed(
            sick.join("\n"),
            "`docker logs CONTAINER` shows more",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(part: Part, state: &str) -> Member {
        members::inspected(&format!(
            r#"{{"Id":"abc","Image":"sha256:1","RestartCount":0,
            "State":{{"Status":"{state}"}},
            "Config":{{"Labels":{{"com.docker.compose.service":"{part}"}}}},"NetworkSettings":{{}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_service_that_runs_and_is_unhealthy_may_recover() {
        let running = || Part::required().map(|part| member(part, "running"));
        let mut members: Vec<Member> = running().collect();
        assert!(may_recover(&members));
        members[1] = member(members[1].service, "restarting");
        assert!(!may_recover(&members), "one ends again and again");
        assert!(
            !may_recover(&running().skip(1).collect::<Vec<_>>()),
            "one is missing"
        );
    }
}
