//! Runs the experiments of an evaluation.

use super::{
    evidence::{Evaluation, Sabotage},
    experiment::Experiment,
};
use crate::{output::Progress, project::Project};

/// What an evaluation is asked to do.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) experiments: Vec<&'static Experiment>,
    /// How often each of them is run.
    pub(crate) repeat: u32,
    pub(crate) seed: u64,
    pub(crate) sabotage: Option<Sabotage>,
}

/// Runs them.
pub(crate) fn run(
    _project: &Project,
    _plan: &Plan,
    _progress: &Progress,
) -> anyhow::Result<Evaluation> {
    anyhow::bail!("not there yet")
}
