//! `up`: starts everything, and prints the addresses.
//!
//! Left out: starting it (`system::bring_up`).

use base::{outcome::Exit, progress::Progress};
use system::{
    bring_up, images, members,
    members::Member,
    project::{Engine, GRAFANA, PORTS, Project},
};

use crate::{
    confirm,
    output::{one_of, progress, table},
};

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

impl Options {
    /// Brings the project up.
    pub(crate) fn bring_up(
        self,
        project: &Project,
        progress: &Progress,
    ) -> anyhow::Result<Vec<Member>> {
        let consent = || confirm::install(self.consent.yes);
        bring_up::bring_up(project, self.images, consent, progress)
    }
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: Options) -> anyhow::Result<Exit> {
    options.bring_up(project, &progress())?;
    print_addresses(project)?;
    Ok(Exit::Holds)
}

/// Prints how to reach all parts on Kubernetes.
fn print_ways(project: &Project, members: &[Member]) -> anyhow::Result<()> {
    for port in &PORTS {
        println!("{}:\n  {}", port.what, members::way_to(members, port)?);
    }
    let password = project.settings()?;
    let password = password.require("AGORA_RABBITMQ_PASSWORD")?;
    println!("RabbitMQ's login: agora / {password}");
    let options = project.engine.options().join(" ");
    println!(
        "Next: `cargo xtask smoke {options}` walks the story once; `cargo xtask load {options}` puts load on it."
    );
    Ok(())
}

/// Prints the addresses of all parts, and their logins.
pub(crate) fn print_addresses(project: &Project) -> anyhow::Result<()> {
    let members = members::all(project)?;
    if matches!(project.engine, Engine::Kubernetes(_)) {
        return print_ways(project, &members);
    }
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
        let address = format!("http://{}/", members::published(&members, port)?);
        if port.variable == "AGORA_HTTP_PORT" {
            let docs = format!("{address}docs/");
            addresses.add_row([port.what.to_owned(), address, login]);
            addresses.add_row(["the API, browsable".to_owned(), docs, "none".to_owned()]);
            continue;
        }
        addresses.add_row([port.what.to_owned(), address, login]);
    }
    if let Ok(address) = members::published(&members, &GRAFANA) {
        let (what, address) = (GRAFANA.what, format!("http://{address}/"));
        addresses.add_row([what, &address, "none"]);
    }
    println!("{addresses}");
    println!("Next: `cargo xtask smoke` walks the story once; `cargo xtask load` puts load on it.");
    Ok(())
}
