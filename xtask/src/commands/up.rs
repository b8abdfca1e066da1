//! `up`: builds what changed, starts everything, waits until all is healthy.
//!
//! A second `up` with nothing changed asks the engine a few questions, touches no container and needs no
//! network.

use std::thread;

use base::{
    outcome::{self, Exit},
    progress::{Progress, Step},
};
use system::{
    binaries::{self, Binaries},
    compose::Compose,
    configuration,
    engine::{self, Container},
    engine_setup,
    env_file::{EnvFile, SECRETS_ID},
    extras, images,
    interrupt::Interrupted,
    known_causes,
    lock::SystemLock,
    ports,
    process::tail,
    project::{GRAFANA, PORTS, Project, SERVICES, Settings},
    service_images, switches,
};

use crate::{
    commands::down,
    confirm,
    output::{one_of, progress, table},
};

/// How long the containers may take until all are healthy.
const HEALTHY_WITHIN_SECONDS: u64 = 180;
/// How much of an unhealthy container's log an error repeats.
const LOG_LINES: usize = 12;

/// Options of `up`.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Options {
    /// Where third-party images come from
    #[arg(
        long,
        default_value = "auto",
        value_parser = one_of(&images::Source::ALL, images::Source::name, images::Source::explanation)
    )]
    images: images::Source,
    #[command(flatten)]
    consent: Consent,
}

/// Options of a command that needs an engine.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Consent {
    /// Install a missing container engine without asking
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: Options) -> anyhow::Result<Exit> {
    bring_up(project, options, &progress())?;
    print_addresses(project)?;
    Ok(Exit::Holds)
}

/// Brings the project up; interrupted, it takes down again what did not run before.
pub(crate) fn bring_up(
    project: &Project,
    options: Options,
    progress: &Progress,
) -> anyhow::Result<Vec<Container>> {
    // Before anything else: a switch with a typing error would leave its pattern on unnoticed, and a port with one
    // would be found when most of the system is up.
    let asked_for = project.settings_from(&EnvFile::read(&project.env_file)?);
    let off = switches::off(&asked_for)?;
    switches::check_overrides(&asked_for)?;
    ports::require_numbers(&asked_for)?;
    let _lock = SystemLock::take(project)?;
    engine_setup::provide(project, || confirm::install(options.consent.yes), progress)?;
    let compose = progress.step("engine", |step| {
        let version = engine::version()?;
        let compose = Compose::find_or_fetch(project, step)?;
        step.result(format!("docker {version}, compose {}", compose.version));
        Ok(compose)
    })?;
    let before = engine::containers(project)?;
    let settings = progress.step("settings", |step| {
        if !off.is_empty() {
            step.say(&format!("patterns off: {}", off.join(", ")));
        }
        prepare_settings(project, &before, step)
    })?;
    let (references, binaries) = provide_parts(project, &compose, options.images, progress)?;
    let settings = record(project, &settings, &references)?;
    progress.step("service images", |step| {
        binaries::stage(project, &binaries)?;
        service_images::build(project, &compose, &settings, step)
    })?;
    let started = progress.step("containers", |step| {
        start(project, &compose, &settings, &before, step)
    });
    if let Err(error) = started {
        let ran_before = before.iter().any(|container| container.state == "running");
        if error.is::<Interrupted>() && !ran_before {
            progress.step("taking down what was started", |_| {
                down::take_down(project, false)
            })?;
        }
        return Err(error);
    }
    progress.step("optional parts", |step| {
        extras::start(
            project,
            &compose,
            &settings,
            options.images,
            &references,
            step,
        )
    })?;
    engine::containers(project)
}

fn prepare_settings(
    project: &Project,
    before: &[Container],
    step: &Step,
) -> anyhow::Result<Settings> {
    let existed = project.env_file.exists();
    let mut file = EnvFile::read(&project.env_file)?;
    let defaults = PORTS.map(|port| (port.variable, port.default));
    file.complete(&defaults)?;
    // Checked before the file is saved: a completed file with a new id would hide the old volumes' secrets.
    let settings = project.settings_from(&file);
    require_matching_volumes(project, &settings)?;
    ports::require_free(&settings, before)?;
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
    before: &[Container],
    step: &Step,
) -> anyhow::Result<()> {
    // Without this option Compose would leave one container of each.
    let scales = SERVICES.map(|service| {
        let of_service = before
            .iter()
            .filter(|container| container.service == service && !container.provisional);
        format!("--scale={service}={}", of_service.count().max(1))
    });
    let result = compose
        .up(
            project,
            settings,
            HEALTHY_WITHIN_SECONDS,
            ["--remove-orphans"],
        )
        .args(scales)
        .logged(&project.log("compose-up"), |line| step.update(line));
    let containers = match result {
        Ok(()) => engine::containers(project)?,
        Err(error) if error.is::<Interrupted>() => return Err(error),
        Err(error) => return Err(explain(project, &error)),
    };
    step.result(format!("{} healthy", containers.len()));
    Ok(())
}

/// Names the cause where it is known; else the containers that aren't healthy, each with the end of its log.
fn explain(project: &Project, error: &anyhow::Error) -> anyhow::Error {
    if let Some(known) = known_causes::of(&format!("{error:#}")) {
        return known;
    }
    let containers = engine::containers(project).unwrap_or_default();
    let sick: Vec<String> = containers
        .iter()
        .filter(|container| !container.is_healthy() && !extras::is_optional(container))
        .map(|container| {
            let log = tail(&engine::last_lines(container, LOG_LINES), LOG_LINES);
            format!(
                "{} is {}; its log ends with:\n{log}",
                container.service,
                container.condition()
            )
        })
        .collect();
    if let Some(known) = known_causes::of(&sick.join("\n")) {
        return known;
    }
    if sick.is_empty() {
        return outcome::failed(
            format!("the containers can't be started: {error:#}"),
            "`cargo xtask doctor`",
        );
    }
    outcome::failed(
        format!(
            "the system did not get healthy within {HEALTHY_WITHIN_SECONDS} s\n{}",
            sick.join("\n")
        ),
        "`cargo xtask logs SERVICE` shows more; `cargo xtask up` tries again",
    )
}

/// Prints the addresses of all parts, and their logins.
pub(crate) fn print_addresses(project: &Project) -> anyhow::Result<()> {
    let containers = engine::containers(project)?;
    let settings = project.settings()?;
    let mut addresses = table(["what", "address", "login"]);
    for port in &PORTS {
        let login = match port.variable {
            "AGORA_HTTP_PORT" => "POST /auth/signup, then /auth/login".to_owned(),
            "AGORA_RABBITMQ_UI_PORT" => {
                format!("agora / {}", settings.require("AGORA_RABBITMQ_PASSWORD")?)
            }
            _ => "none".to_owned(),
        };
        let address = format!("http://{}/", engine::published(&containers, port)?);
        if port.variable == "AGORA_HTTP_PORT" {
            let docs = format!("{address}docs/");
            addresses.add_row([port.what.to_owned(), address, login]);
            addresses.add_row(["the API, browsable".to_owned(), docs, "none".to_owned()]);
            continue;
        }
        addresses.add_row([port.what.to_owned(), address, login]);
    }
    if let Ok(address) = engine::published(&containers, &GRAFANA) {
        let (what, address) = (GRAFANA.what, format!("http://{address}/"));
        addresses.add_row([what, &address, "none"]);
    }
    println!("{addresses}");
    println!("Next: `cargo xtask smoke` walks the story once; `cargo xtask load` puts load on it.");
    Ok(())
}
