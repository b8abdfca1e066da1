//! `test`: every test, on a system of its own that is brought up before and removed after.
//!
//! The system is the compose project `agora-test` (the project's own name with `-test`), with secrets and free ports of
//! its own; one that people use beside it stays as it is.

use std::time::Duration;

use base::{outcome::Exit, progress::Progress};
use system::{
    binaries,
    engine::{self, Container},
    engine_setup,
    env_file::EnvFile,
    project::{PORTS, Project},
};

use crate::{
    commands::{down, up},
    confirm,
    output::progress,
};

const LIMIT: Duration = Duration::from_secs(60 * 60);

/// Options of `test`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Leave the test system running
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    consent: up::Consent,
    /// Passed on to `cargo test`, e.g. `-- --package order-service`
    #[arg(last = true)]
    cargo_args: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options) -> anyhow::Result<Exit> {
    let args = [
        &["test", "--locked", "--no-fail-fast"],
        whole_workspace_unless_narrowed(&options.cargo_args),
    ];
    let args = args
        .concat()
        .into_iter()
        .chain(options.cargo_args.iter().map(String::as_str));
    // The published ports: tests stop containers and start them again.
    let nothing = |_: &Project, _: &Progress| Ok(Vec::new());
    cargo_on_a_test_system(
        project,
        options.consent,
        options.keep,
        engine::address,
        nothing,
        args,
    )
}

/// Variables for cargo's environment.
pub(crate) type Variables = Vec<(&'static str, String)>;

/// A function that finds the address of a service's port.
pub(crate) type Address = fn(&[Container], &str, u16) -> anyhow::Result<String>;

/// Starts the test system, runs cargo with its addresses in the environment, and removes it. `beside` starts what else
/// is needed, and returns variables for that.
pub(crate) fn cargo_on_a_test_system<'a>(
    project: &Project,
    consent: up::Consent,
    keep: bool,
    address: Address,
    beside: impl FnOnce(&Project, &Progress) -> anyhow::Result<Variables>,
    cargo_args: impl IntoIterator<Item = &'a str>,
) -> anyhow::Result<Exit> {
    let system = project.for_tests();
    let progress = progress();
    engine_setup::provide(project, || confirm::install(consent.yes), &progress)?;
    prepare_env_file(&system)?;
    let result = run_on(project, &system, address, beside, cargo_args, &progress);
    if keep {
        eprintln!(
            "the test system `{}` keeps running; its settings are in {}",
            system.name,
            system.env_file.display()
        );
        return result;
    }
    // Whatever happened, Ctrl-C included.
    let removed = progress.step("removing the test system", |_| {
        down::take_down(&system, true)
    });
    let exit = result?;
    removed?;
    Ok(exit)
}

/// Ports are any free ones; secrets come with `up`.
fn prepare_env_file(system: &Project) -> anyhow::Result<()> {
    let mut file = EnvFile::read(&system.env_file)?;
    for port in &PORTS {
        file.set(port.variable, "0");
    }
    file.save()
}

fn run_on<'a>(
    project: &Project,
    system: &Project,
    address: Address,
    beside: impl FnOnce(&Project, &Progress) -> anyhow::Result<Variables>,
    cargo_args: impl IntoIterator<Item = &'a str>,
    progress: &Progress,
) -> anyhow::Result<Exit> {
    // What an earlier run left behind, if it was killed.
    if !engine::every_container(system)?.is_empty() || !engine::volumes(system)?.is_empty() {
        progress.step("removing an earlier test system", |_| {
            down::take_down(system, true)
        })?;
    }
    let containers = up::bring_up(system, up::Options::default(), progress)?;
    let more = beside(system, progress)?;
    let mut cargo = binaries::cargo(project).args(cargo_args);
    let variables = environment(system, &containers, address)?;
    for (name, value) in variables.into_iter().chain(more) {
        cargo = cargo.env(name, value);
    }
    let code = cargo.limit(LIMIT).run_visibly()?;
    Ok(if code == Some(0) {
        Exit::Holds
    } else {
        Exit::Failed
    })
}

/// Cargo ignores `--package` beside `--workspace`.
fn whole_workspace_unless_narrowed(cargo_args: &[String]) -> &'static [&'static str] {
    let narrowed = cargo_args
        .iter()
        .any(|arg| arg.starts_with("-p") || arg.starts_with("--package"));
    if narrowed { &[] } else { &["--workspace"] }
}

/// The variables for tests and benchmarks: addresses of the parts, with their passwords, and the project itself.
fn environment(
    system: &Project,
    containers: &[Container],
    address: Address,
) -> anyhow::Result<Variables> {
    let settings = system.settings()?;
    let postgres = settings.require("AGORA_POSTGRES_PASSWORD")?;
    let rabbitmq = settings.require("AGORA_RABBITMQ_PASSWORD")?;
    let at = |service, port| address(containers, service, port);
    let mut variables = vec![
        (
            "AGORA_TEST_DATABASE_URL",
            format!(
                "postgres://postgres:{postgres}@{}/postgres",
                at("postgres", 5432)?
            ),
        ),
        (
            "AGORA_TEST_AMQP_URL",
            format!("amqp://agora:{rabbitmq}@{}", at("rabbitmq", 5672)?),
        ),
        (
            "AGORA_TEST_RABBITMQ_API",
            format!("http://agora:{rabbitmq}@{}", at("rabbitmq", 15672)?),
        ),
        (
            "AGORA_TEST_GATEWAY_URL",
            format!("http://{}", at("traefik", 8080)?),
        ),
        ("AGORA_TEST_PROJECT", system.name.clone()),
        ("AGORA_TEST_ENV_FILE", system.env_file.display().to_string()),
    ];
    // Published nowhere: there only where this machine has a way to containers, and only the benchmark asks for it.
    if let Some(store) = engine::own_address(containers, "jaeger", 4317) {
        variables.push(("AGORA_TEST_OTLP_URL", format!("http://{store}")));
    }
    Ok(variables)
}
