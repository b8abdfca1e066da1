//! `cluster`: a Kubernetes cluster on this machine, for those who have none: started, looked at, removed.
//!
//! Left out: agora on it (`deploy/kubernetes`).

use std::time::Instant;

use base::{
    outcome::{self, Exit},
    progress::spell,
};
use clap::Subcommand;
use serde::Serialize;
use system::{
    cluster::{Cluster, Status},
    engine_setup,
    project::Project,
};

use crate::{
    commands::up,
    confirm,
    output::{Format, print_json, progress, table},
};

/// The most nodes: each takes 100 MB and more, and watches of files, of which one user may have 128.
const MOST_NODES: i64 = 5;
/// How many nodes have the volumes of agora's stateful parts.
const AGORAS_NODES: u32 = 2;

/// Options of `cluster`.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Options {
    /// Start a cluster and wait until every node is ready
    #[command(
        after_help = "Control plane and nodes are containers, with ports on loopback alone and a kubeconfig of their own: yours is neither \
                      read nor changed. The first time, Kubernetes' programs are built from their Go modules, which takes some minutes."
    )]
    Up(UpOptions),
    /// Remove the cluster and everything on it
    Down,
    /// Show the nodes
    #[command(
        after_help = "Exit codes: 0 all are ready; 1 one isn't, or the API server doesn't answer; 3 there is no cluster."
    )]
    Status,
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct UpOptions {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=MOST_NODES))]
    nodes: u32,
    #[command(flatten)]
    consent: up::Consent,
}

/// The result of `up` and `status` as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    #[serde(flatten)]
    status: Status,
}

/// The result of `down` as JSON.
#[derive(Debug, Serialize)]
struct Removed {
    outcome: Exit,
    was_there: bool,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: Options, format: Format) -> anyhow::Result<Exit> {
    let cluster = Cluster::new(project);
    match options {
        Options::Up(options) => start(project, &cluster, options, format),
        Options::Down => {
            let was_there = progress().step("cluster down", |step| {
                let was_there = cluster.down()?;
                step.result(if was_there {
                    "removed"
                } else {
                    "there is none"
                });
                Ok(was_there)
            })?;
            if format == Format::Json {
                print_json(&Removed {
                    outcome: Exit::Holds,
                    was_there,
                })?;
            }
            Ok(Exit::Holds)
        }
        Options::Status => {
            let status = cluster.status()?.ok_or_else(|| {
                outcome::unavailable(
                    "there is no cluster of this project",
                    "`cargo xtask cluster up` starts one",
                )
            })?;
            show(status, format)
        }
    }
}

fn start(
    project: &Project,
    cluster: &Cluster<'_>,
    options: UpOptions,
    format: Format,
) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let progress = progress();
    engine_setup::provide(project, || confirm::install(options.consent.yes), &progress)?;
    let status = cluster.up(options.nodes, &progress)?;
    let kubectl = status.kubectl.clone().unwrap_or_else(|| "kubectl".into());
    let kubectl = format!(
        "{} --kubeconfig {}",
        kubectl.display(),
        status.kubeconfig.display()
    );
    let exit = show(status, format)?;
    if format == Format::Text {
        println!("up in {}", spell(started.elapsed()));
        if options.nodes < AGORAS_NODES {
            println!(
                "agora has four volumes and a node two: it needs `--nodes {AGORAS_NODES}` or more."
            );
        }
        println!(
            "Next: `cargo xtask up --on kubernetes` starts agora on it; `{kubectl} get nodes` asks it yourself; `cargo xtask cluster down` \
             removes all of it."
        );
    }
    Ok(exit)
}

fn show(status: Status, format: Format) -> anyhow::Result<Exit> {
    let outcome = if status.is_ready() {
        Exit::Holds
    } else {
        Exit::Failed
    };
    match format {
        Format::Json => print_json(&Report { outcome, status })?,
        Format::Text => {
            let mut rows = table(["node", "state", "gateway's port"]);
            for node in &status.nodes {
                let state = if node.is_ready { "ready" } else { "not ready" };
                let gateway = node.gateway.as_deref().unwrap_or("none");
                rows.add_row([node.name.as_str(), state, gateway]);
            }
            println!("{rows}");
            let version = status.version.as_deref();
            let version = version.unwrap_or("the API server doesn't answer");
            println!("Kubernetes {version}, {}", status.kubeconfig.display());
        }
    }
    Ok(outcome)
}
