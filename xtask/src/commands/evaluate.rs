//! `evaluate`: experiments with a pattern off and on, and what can be done with their evidence later.
//!
//! Left out: running, judging and reports (`evaluation`).

mod comparison;
mod list;
mod terminal;

use base::outcome::{self, Exit};
use evaluation::{
    conclusion::Conclusion,
    experiment::Experiment,
    experiments,
    report::{compare::Comparison, list::entries},
    runner::{self, Plan},
    store::{EvaluationFolder, LATEST},
};
use records::evaluation::Sabotage;
use system::project::Project;

use crate::output::{Format, one_of, print_json, progress};

/// Above it a seed is hard to type and says no more.
const MAX_SEED: u64 = 1_000_000;

/// For `--compare`.
const DEFAULT_TOLERANCE: f64 = 0.2;

/// Options of `evaluate`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes: 0 every claim was upheld, 1 a claim was refuted (--compare: a regression), 2 wrong usage, \
                  3 the system or the evidence is missing, 4 inconclusive. A run leaves evidence.json, verdicts.json, \
                  report.html, junit.xml and summary.md in target/agora/evaluations/<run>/."
)]
pub(crate) struct Options {
    #[command(subcommand)]
    task: Option<Task>,
    /// The experiments to run [default: all; `list` explains them]
    #[arg(value_name = "EXPERIMENT")]
    experiments: Vec<String>,
    /// How often each experiment is run
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20))]
    repeat: u32,
    /// Reproduces the request mix and the moment of each fault [default: a random one, which is printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Break the experiments on purpose, to see their verdicts change
    #[arg(long, value_parser = one_of(&Sabotage::ALL, Sabotage::option, Sabotage::explanation))]
    sabotage: Option<Sabotage>,
    /// Run nothing: say what changed from the run A to the run B, and fail on a regression
    #[arg(
        long,
        num_args = 2,
        value_names = ["A", "B"],
        conflicts_with_all = ["experiments", "repeat", "seed", "sabotage"]
    )]
    compare: Option<Vec<String>>,
    /// Allowed relative regression of a median
    #[arg(long, default_value_t = DEFAULT_TOLERANCE, value_name = "PART", value_parser = tolerance, requires = "compare")]
    tolerance: f64,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Task {
    /// Explain each experiment: its claim, what would refute it, its load and its fault
    List {},
    /// Judge the evidence of a run again, without the system, and write its reports anew
    Judge {
        /// A run's id, `latest`, or the path of a folder with an evidence.json
        #[arg(default_value = LATEST)]
        run: String,
    },
}

impl Options {
    /// One run of one experiment, all else as usual.
    pub(crate) fn only(experiment: &str) -> Self {
        Self {
            task: None,
            experiments: vec![experiment.to_owned()],
            repeat: 1,
            seed: None,
            sabotage: None,
            compare: None,
            tolerance: DEFAULT_TOLERANCE,
        }
    }
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    match (&options.task, options.compare.as_deref()) {
        (Some(Task::List { .. }), _) => explain(format),
        (Some(Task::Judge { run, .. }), _) => judge(project, run, format),
        (None, Some([before, after])) => compare(project, before, after, options.tolerance, format),
        (None, _) => evaluate(project, options, format),
    }
}

fn evaluate(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    let plan = Plan {
        experiments: chosen(&options.experiments)?,
        repeat: options.repeat,
        seed: options.seed.unwrap_or_else(random_seed),
        sabotage: options.sabotage,
    };
    let evaluation = runner::run(project, &plan, &progress())?;
    let folder = EvaluationFolder::new(project, &evaluation.run);
    folder.write_evidence(project, &evaluation)?;
    let conclusion = Conclusion::of(&evaluation)?;
    folder.write_reports(&evaluation, &conclusion)?;
    show(&conclusion, &folder, format)
}

fn explain(format: Format) -> anyhow::Result<Exit> {
    match format {
        Format::Json => print_json(&entries())?,
        Format::Text => list::print(),
    }
    Ok(Exit::Holds)
}

fn judge(project: &Project, run: &str, format: Format) -> anyhow::Result<Exit> {
    let folder = EvaluationFolder::find(project, run)?;
    let evaluation = folder.evidence()?;
    let conclusion = Conclusion::of(&evaluation)?;
    folder.write_reports(&evaluation, &conclusion)?;
    show(&conclusion, &folder, format)
}

fn compare(
    project: &Project,
    before: &str,
    after: &str,
    tolerance: f64,
    format: Format,
) -> anyhow::Result<Exit> {
    let judged = |run| Conclusion::of(&EvaluationFolder::find(project, run)?.evidence()?);
    let comparison = Comparison::of(&judged(before)?, &judged(after)?, tolerance);
    match format {
        Format::Json => print_json(&comparison)?,
        Format::Text => comparison::print(&comparison),
    }
    Ok(comparison.outcome)
}

fn show(
    conclusion: &Conclusion,
    folder: &EvaluationFolder,
    format: Format,
) -> anyhow::Result<Exit> {
    match format {
        Format::Json => print_json(conclusion)?,
        Format::Text => terminal::print(conclusion, folder),
    }
    Ok(conclusion.outcome)
}

/// The experiments with these names, each once and in the order in which all are run; without names all.
fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Experiment>> {
    let known: Vec<&str> = experiments::ALL.iter().map(|known| known.name).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(outcome::usage(
            format!("there is no experiment `{unknown}`"),
            format!(
                "choose from {}; `cargo xtask evaluate list` explains them",
                known.join(", ")
            ),
        ));
    }
    let asked = |experiment: &&Experiment| {
        names.is_empty() || names.iter().any(|name| name == experiment.name)
    };
    Ok(experiments::ALL.iter().copied().filter(asked).collect())
}

fn random_seed() -> u64 {
    // Unlike the others of its kind: the clock, whose fast digits nobody chooses.
    let now = chrono::Utc::now();
    u64::from(now.timestamp_subsec_nanos()) % MAX_SEED
}

fn tolerance(text: &str) -> Result<f64, String> {
    let part: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=10.0).contains(&part) {
        Ok(part)
    } else {
        Err("expected a part from 0 to 10, e.g. 0.2 for 20 %".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experiments_are_run_once_in_their_own_order() {
        let names = |names: &[&str]| -> Vec<&str> {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            chosen(&names).unwrap().iter().map(|e| e.name).collect()
        };
        assert_eq!(names(&["inbox", "outbox", "inbox"]), ["outbox", "inbox"]);
        assert_eq!(names(&[]).len(), experiments::ALL.len());
    }

    #[test]
    fn a_tolerance_is_a_part() {
        assert_eq!(tolerance("0.2"), Ok(0.2));
        assert!(tolerance("-1").is_err() && tolerance("20%").is_err() && tolerance("NaN").is_err());
    }
}
