//! `bench`: what the order's whole way costs, beside what the same broker and the same database do without it.
//!
//! The benchmark is `services/saga-tests/benches/throughput`; this gives it the test system.

use crate::{commands::test, engine, outcome::Exit, project::Project};

/// What `bench` can be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Passed on to the benchmark
    #[arg(last = true)]
    benchmark_args: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options) -> anyhow::Result<Exit> {
    let cargo = ["bench", "--locked", "--package", "saga-tests", "--"];
    let args = options.benchmark_args.iter().map(String::as_str);
    let cargo = cargo.into_iter().chain(args);
    test::cargo_on_a_test_system(project, false, engine::direct_address, cargo)
}
