//! `bench`: the throughput of orders from end to end, beside that of the same broker and database alone; the cost of
//! telemetry; the throughput of the gateway, beside that of other gateways; and agora beside the shop that it began as.
//!
//! Left out: the benchmarks, in `benches/`. This command starts the test system for them.

mod comparison;

use base::{outcome::Exit, progress::Progress};
use clap::ValueEnum;
use system::{bring_up, members, project::Project};

use crate::commands::{
    test::{TestSystems, Variables},
    up::Consent,
};

/// The gateways of `compose.bench.yaml`, each with the variable that gives the benchmark its address.
const GATEWAYS: [(system::Part, &str); 6] = [
    (system::Part::TraefikReal, "AGORA_TEST_REAL_GATEWAY_URL"),
    (
        system::Part::TraefikTrivial,
        "AGORA_TEST_TRIVIAL_GATEWAY_URL",
    ),
    (system::Part::TraefikOpen, "AGORA_TEST_OPEN_GATEWAY_URL"),
    (
        system::Part::TraefikTrivialOpen,
        "AGORA_TEST_TRIVIAL_OPEN_GATEWAY_URL",
    ),
    (
        system::Part::TraefikBounded,
        "AGORA_TEST_BOUNDED_GATEWAY_URL",
    ),
    (
        system::Part::TraefikTrivialBounded,
        "AGORA_TEST_TRIVIAL_BOUNDED_GATEWAY_URL",
    ),
];

/// Options of `bench`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// This part alone
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    #[command(flatten)]
    consent: Consent,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    /// Orders placed to confirmed
    Whole,
    /// Broker and database by themselves
    Ceilings,
    /// Each stage of an order's way by itself
    Stages,
    /// Replicas of inventory-service, and batches
    Scaling,
    /// Orders per CPU second with traces off, sampled at 10 %, and full
    Telemetry,
    /// A protected GET through the gateway, beside a trivial auth and backend, and without the auth hop
    Gateway,
    /// agora beside the Python shop that it began as; not part of a run without `--only`
    Comparison,
}

impl Part {
    /// As the benchmark knows it.
    fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Ceilings => "ceilings",
            Self::Stages => "stages",
            Self::Scaling => "scaling",
            Self::Telemetry => "telemetry",
            Self::Gateway => "gateway",
            Self::Comparison => "comparison",
        }
    }
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options) -> anyhow::Result<Exit> {
    if let Some(Part::Comparison) = options.only {
        return comparison::run(project, options.consent);
    }
    let throughput = ["--package", "saga-tests", "--bench", "throughput"];
    let gateway = ["--package", "benches", "--bench", "gateway"];
    let benches = match options.only {
        None => [throughput, gateway].concat(),
        Some(Part::Gateway) => gateway.to_vec(),
        Some(_) => throughput.to_vec(),
    };
    let only = options.only.map(|part| ["--only", part.name()]);
    let cargo = ["bench", "--locked", "--no-fail-fast"]
        .into_iter()
        .chain(benches)
        .chain(["--"])
        .chain(only.into_iter().flatten());
    let beside = |system: &Project, progress: &Progress| match options.only {
        None | Some(Part::Gateway) => gateways(system, progress),
        Some(_) => Ok(Variables::new()),
    };
    let system = TestSystems {
        count: 1,
        keep: false,
        consent: options.consent,
        address: members::direct_address,
    };
    system.run_cargo(project, beside, cargo)
}

/// Starts the gateways to compare with, and what is behind them; returns their addresses as variables.
fn gateways(system: &Project, progress: &Progress) -> anyhow::Result<Variables> {
    progress.step("gateways to compare with", |step| {
        let services = GATEWAYS.map(|(service, _)| service);
        bring_up::gateways_to_compare_with(system, &services, step)?;
        let members = members::all(system)?;
        GATEWAYS
            .into_iter()
            .map(|(service, variable)| {
                let address = members::direct_address(&members, service, 8080)?;
                Ok((variable, format!("http://{address}")))
            })
            .collect()
    })
}
