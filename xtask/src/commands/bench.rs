//! `bench`: what the order's whole way costs, beside what the same broker and the same database do without it; and what
//! telemetry adds to that.
//!
//! The benchmark is `services/saga-tests/benches/throughput`; this gives it the test system.

use clap::ValueEnum;

use crate::{commands::test, engine, outcome::Exit, project::Project};

/// What `bench` can be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// This part alone
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
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
        }
    }
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options) -> anyhow::Result<Exit> {
    let cargo = ["bench", "--locked", "--package", "saga-tests"];
    // Not one of the libraries, whose own harness knows no `--only`.
    let bench = ["--bench", "throughput", "--"];
    let only = options.only.map(|part| ["--only", part.name()]);
    let cargo = cargo
        .into_iter()
        .chain(bench)
        .chain(only.into_iter().flatten());
    test::cargo_on_a_test_system(project, false, engine::direct_address, cargo)
}
