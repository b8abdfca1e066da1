//! `evaluate`: experiments with a pattern off and on, and what can be done with their evidence later.
//!
//! Left out: running, judging and reports (`evaluation`).

mod comparison;
mod history;
mod list;
mod noise_floors;
mod power_plan;
mod terminal;

use base::{
    outcome::{self, Exit},
    progress::warn,
};
use evaluation::{
    conclusion::Conclusion,
    effects,
    experiment::Experiment,
    experiments,
    history::Durations,
    noise, numbers,
    report::{compare::Comparison, list::entries},
    runner::{self, Plan, Stopping},
    statistics::sequential::Looks,
    store::{EvaluationFolder, LATEST},
};
use records::evaluation::{Design, Evaluation, Machine, NoiseRecord, Profile, Sabotage};
use system::{
    project::{Engine, Project},
    running,
};

use crate::output::{Format, one_of, print_json, progress};

/// Above it a seed is hard to type and says no more.
const MAX_SEED: u64 = 1_000_000;

/// How often equal arms are compared: with fewer pairs there is no interval, and so no noise floor.
const AA_PAIRS: u32 = 6;
/// How often a safety claim is tried in the profile `rigorous`: at 95 % it then fails in at most 63 % of all runs, and in each
/// of those tried it held.
const RIGOROUS_RUNS: u32 = 3;

/// Options of `evaluate`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes: 0 every claim that was judged was upheld, 1 a claim was refuted (--aa: equal arms \
                  seemed to differ; --compare: a regression), 2 wrong usage, 3 the system or the evidence is missing, 4 inconclusive, or \
                  nothing was judged. Magnitude claims are decided by six pairs of runs at least; one pair is shown and not \
                  judged. A run leaves evidence.json, verdicts.json, \
                  report.html, junit.xml and summary.md in target/agora/evaluations/<run>/; `history` writes history.html \
                  beside them."
)]
pub(crate) struct Options {
    #[command(subcommand)]
    task: Option<Task>,
    /// The experiments to run [default: all; `list` explains them]
    #[arg(value_name = "EXPERIMENT")]
    experiments: Vec<String>,
    /// How thorough the run is
    #[arg(long, default_value = Profile::Default.option(), value_parser = one_of(&Profile::ALL, Profile::option, Profile::explanation))]
    profile: Profile,
    /// How often each experiment is run, or a number for each in the order of `list`: 3,3,8
    /// [default: 1; --aa: 6; --profile rigorous: as the declared effects need]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=30))]
    repeat: Vec<u32>,
    /// End each experiment with declared effects as soon as they are decided; looks after each pair share the error
    #[arg(long, requires = "at_most", conflicts_with_all = ["repeat", "aa"])]
    until_decided: bool,
    /// With --until-decided: the most pairs
    #[arg(long, value_name = "N", requires = "until_decided", value_parser = clap::value_parser!(u32).range(1..=30))]
    at_most: Option<u32>,
    /// A/A: run every arm as shipped, and keep how far noise alone goes on this machine
    #[arg(long, conflicts_with_all = ["sabotage", "profile"])]
    aa: bool,
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
        conflicts_with_all = ["experiments", "profile", "repeat", "until_decided", "aa", "seed", "sabotage"]
    )]
    compare: Option<Vec<String>>,
    /// Allowed relative regression of a median [default: what noise makes of as many runs, or 0.2 where the noise isn't known]
    #[arg(long, value_name = "PART", value_parser = tolerance, requires = "compare")]
    tolerance: Option<f64>,
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
    /// Go on with a run that was interrupted, with the next trial that isn't whole
    Resume {
        /// A run's id, or `latest`
        #[arg(default_value = LATEST)]
        run: String,
    },
    /// Show the stored runs on the last run's machine: measurements and declared effects over time, and where they changed
    History {
        /// The experiments to print [default: all of them; the page always has all]
        #[arg(value_name = "EXPERIMENT")]
        experiments: Vec<String>,
    },
    /// Say how many pairs of runs the declared effects of an experiment need on this machine, and how long they take
    Plan {
        /// An experiment with declared effects [default: all of them]
        #[arg(value_name = "EXPERIMENT")]
        experiments: Vec<String>,
    },
}

impl Options {
    /// One run of one experiment, all else as usual.
    pub(crate) fn only(experiment: &str) -> Self {
        Self {
            task: None,
            experiments: vec![experiment.to_owned()],
            profile: Profile::Default,
            repeat: Vec::new(),
            until_decided: false,
            at_most: None,
            aa: false,
            seed: None,
            sabotage: None,
            compare: None,
            tolerance: None,
        }
    }
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    match (&options.task, options.compare.as_deref()) {
        (Some(Task::List { .. }), _) => explain(format),
        (Some(Task::Judge { run, .. }), _) => judge(project, run, format),
        (Some(Task::Resume { run }), _) => {
            let load_average = noise::load_average();
            let evaluation = runner::resume(project, run, &progress())?;
            conclude(project, &evaluation, load_average, format)
        }
        (Some(Task::History { experiments }), _) => history::run(project, experiments, format),
        (Some(Task::Plan { experiments }), _) => plan(project, experiments, format),
        (None, Some([before, after])) => compare(project, before, after, options.tolerance, format),
        (None, _) => evaluate(project, options, format),
    }
}

fn evaluate(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    let plan = what(options, &project.engine, |design| {
        known_noise(project, &running::machine(project)?, design)
    })?;
    warn_of_noise(&plan);
    // Before the run adds to it.
    let load_average = noise::load_average();
    let evaluation = runner::run(project, &plan, &progress())?;
    conclude(project, &evaluation, load_average, format)
}

/// What the options ask for; the noise is asked for once they are known to be right.
fn what(
    options: &Options,
    engine: &Engine,
    noise: impl FnOnce(Design) -> anyhow::Result<Vec<NoiseRecord>>,
) -> anyhow::Result<Plan> {
    let profile = options.profile;
    let design = if options.aa {
        Design::SameArms
    } else {
        Design::Pattern
    };
    let experiments = match options.experiments.as_slice() {
        [] => runner::chosen_by(design, profile, engine),
        names => chosen(names)?,
    };
    let obstacle = |it: &&'static Experiment| Some((it.name, it.obstacle(engine)?));
    if let Some((name, (why, next_step))) = experiments.iter().find_map(obstacle) {
        return Err(outcome::usage(format!("{name}: {why}"), next_step));
    }
    let asked = match (options.at_most, options.repeat.as_slice()) {
        (Some(at_most), _) => {
            if Looks::until(at_most as usize).is_none() {
                return Err(outcome::usage(
                    format!("with {at_most} pairs nothing can be decided"),
                    format!("--at-most takes {} to {}", Looks::LEAST, Looks::MOST),
                ));
            }
            Some(Stopping::UntilDecided { at_most })
        }
        (None, []) => None,
        (None, [repeat]) => Some(Stopping::After(*repeat)),
        (None, each) if each.len() == experiments.len() => Some(Stopping::AfterEach(each.to_vec())),
        (None, each) => {
            return Err(outcome::usage(
                format!(
                    "--repeat has {} numbers for {} experiments",
                    each.len(),
                    experiments.len()
                ),
                "give one number for all of them, or one for each",
            ));
        }
    };
    let noise = noise(design)?;
    let stopping = match (asked, design, profile) {
        (Some(asked), ..) => asked,
        (None, Design::SameArms, _) => Stopping::After(AA_PAIRS),
        (None, Design::Pattern, Profile::Rigorous) => {
            let each = experiments.iter();
            let each = each.map(|experiment| power_plan::repetitions(&noise, experiment));
            Stopping::AfterEach(each.collect::<anyhow::Result<_>>()?)
        }
        (None, Design::Pattern, Profile::Quick | Profile::Default) => Stopping::After(1),
    };
    Ok(Plan {
        experiments,
        stopping,
        profile,
        design,
        seed: options.seed.unwrap_or_else(random_seed),
        sabotage: options.sabotage,
        engine: engine.clone(),
        noise,
    })
}

/// What is known of the noise on this machine. Warns of what is missing, unless noise is what will be measured.
fn known_noise(
    project: &Project,
    machine: &Machine,
    design: Design,
) -> anyhow::Result<Vec<NoiseRecord>> {
    let (known, missing) = noise::here(project, machine)?;
    if let Some(missing) = missing.filter(|_| design == Design::Pattern) {
        warn(&missing);
    }
    Ok(known)
}

/// Says which declared effects are no larger than what noise alone makes here.
fn warn_of_noise(plan: &Plan) {
    if plan.design == Design::SameArms {
        return;
    }
    for experiment in &plan.experiments {
        for effect in experiment.effects {
            let known = effects::find(
                &plan.noise,
                experiment.name,
                effect.measurement,
                effect.ratio,
            );
            if let Some(floor) = known.filter(|noise| effect.bound.is_within(noise.factor)) {
                warn(&format!(
                    "{}: {}: {} can't be shown here, noise alone goes as far as {}",
                    experiment.name,
                    effect.measurement,
                    effects::declared(effect.bound),
                    numbers::ratio(floor.factor)
                ));
            }
        }
    }
}

fn conclude(
    project: &Project,
    evaluation: &Evaluation,
    load_average: Option<f64>,
    format: Format,
) -> anyhow::Result<Exit> {
    let folder = EvaluationFolder::new(project, &evaluation.run);
    folder.write_evidence(project, evaluation)?;
    let conclusion = Conclusion::of(evaluation)?;
    folder.write_reports(evaluation, &conclusion)?;
    if evaluation.design == Design::SameArms {
        let records = noise::keep(project, evaluation, &conclusion, load_average)?;
        if format == Format::Text {
            noise_floors::print(&records);
        }
    }
    show(&conclusion, &folder, format)
}

fn plan(project: &Project, names: &[String], format: Format) -> anyhow::Result<Exit> {
    let experiments = match names {
        [] => runner::chosen_by(Design::SameArms, Profile::Default, &project.engine),
        names => chosen(names)?,
    };
    let machine = running::machine(project)?;
    let noise = known_noise(project, &machine, Design::Pattern)?;
    let durations = Durations::read(project, &machine)?;
    let entries: Vec<_> = experiments
        .into_iter()
        .flat_map(|experiment| power_plan::entries(&noise, experiment, &durations))
        .collect();
    match format {
        Format::Json => print_json(&entries)?,
        Format::Text => power_plan::print(&entries),
    }
    Ok(Exit::Holds)
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
    tolerance: Option<f64>,
    format: Format,
) -> anyhow::Result<Exit> {
    let evidence = |run| EvaluationFolder::find(project, run)?.evidence();
    let before = Conclusion::of(&evidence(before)?)?;
    let after = evidence(after)?;
    let comparison = Comparison::of(&before, &Conclusion::of(&after)?, &after.noise, tolerance);
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

    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn the_command_of_a_plan_gives_the_plan_again() {
        let aa = chosen(&["load_shedding".to_owned()]).unwrap();
        let by = |design, profile| runner::chosen_by(design, profile, &Engine::Compose);
        let quick = by(Design::Pattern, Profile::Quick);
        let all = by(Design::Pattern, Profile::Rigorous);
        // As many as the profile chooses, but others.
        let others = all.iter().rev().copied();
        let mut others: Vec<_> = others.take(quick.len()).collect();
        others.reverse();
        let rigorous = (Design::Pattern, Profile::Rigorous);
        let each = (3..).take(all.len()).collect();
        for (experiments, (design, profile), stopping) in [
            (quick, (Design::Pattern, Profile::Quick), Stopping::After(1)),
            (
                others,
                (Design::Pattern, Profile::Quick),
                Stopping::After(2),
            ),
            (all.clone(), rigorous, Stopping::After(1)),
            (all.clone(), rigorous, Stopping::AfterEach(each)),
            (aa.clone(), rigorous, Stopping::AfterEach(vec![12])),
            (all, rigorous, Stopping::UntilDecided { at_most: 12 }),
            (aa, (Design::SameArms, Profile::Default), Stopping::After(1)),
            (
                by(Design::SameArms, Profile::Default),
                (Design::SameArms, Profile::Default),
                Stopping::After(6),
            ),
        ] {
            let plan = Plan {
                experiments,
                stopping,
                profile,
                design,
                seed: 11,
                sabotage: None,
                engine: Engine::Compose,
                noise: Vec::new(),
            };
            let command = plan.command();
            let words = command.split(' ').skip(2);
            let line = <CommandLine as clap::Parser>::try_parse_from(words).unwrap();
            let again = what(&line.options, &Engine::Compose, |_| Ok(Vec::new())).unwrap();
            assert_eq!(again.planned(), plan.planned(), "{command}");
            assert_eq!(again.command(), command);
            assert_eq!((again.design, again.profile), (design, profile));
        }
    }

    #[test]
    fn a_tolerance_is_a_part() {
        assert_eq!(tolerance("0.2"), Ok(0.2));
        assert!(tolerance("-1").is_err() && tolerance("20%").is_err() && tolerance("NaN").is_err());
    }
}
