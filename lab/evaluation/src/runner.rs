//! Runs experiments: this module and its child `arm` alone know the order of the steps, which is the same for every experiment.
//!
//! heal → journal what is there → for each arm, in counterbalanced order: configure → steady? → load → fault → did it take
//! effect? → heal → load ends → settled → reconcile → restore (between arms of a trial only where something is left) →
//! steady again? → at the end: restore, whatever happened, unless the container engine is gone.
//!
//! Left out: an arm's steps (`arm`), and what they do, each in a module of its own.

mod arm;

use std::{fmt, path::Path};

use anyhow::Context;
use base::{
    outcome,
    progress::{Progress, Step},
};
use chrono::{DateTime, Utc};
use records::evaluation::{
    Configuration, Design, Evaluation, FORMAT, Machine, NoiseRecord, PlannedExperiment, Profile,
    Sabotage, Trial, Versions,
};
use sha2::{Digest, Sha256};
use system::{
    binaries, interrupt,
    lock::SystemLock,
    operation_record,
    project::{self, Engine, Project},
    running::{self, RunningSystem, Wanted},
};

use self::arm::{ArmTask, account};
use super::{
    conclusion::ExperimentConclusion,
    experiment::{Experiment, Kind},
    experiments, faults,
    history::Durations,
    measurement::Outcome,
    run_journal::{self, RunJournal},
    statistics::order,
    store::EvaluationFolder,
    verdict,
};

/// What to evaluate.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The experiments, in the order in which they are run.
    pub experiments: Vec<&'static Experiment>,
    /// How often each of them is run.
    pub stopping: Stopping,
    /// How thorough the run is.
    pub profile: Profile,
    /// What the arms are compared for.
    pub design: Design,
    /// Reproduces the request mix and the moment of each fault.
    pub seed: u64,
    /// What to break on purpose, if anything.
    pub sabotage: Option<Sabotage>,
    /// What the system runs on.
    pub engine: Engine,
    /// How far noise alone goes on this machine, where that is known ([`super::noise::here`]).
    pub noise: Vec<NoiseRecord>,
}

/// When an experiment has been run often enough; declared before its first run.
#[derive(Debug, Clone)]
pub enum Stopping {
    /// After so many repetitions.
    After(u32),
    /// After so many repetitions, experiment by experiment, in their order.
    AfterEach(Vec<u32>),
    /// As soon as the declared effects are decided, and after so many repetitions at the latest.
    UntilDecided {
        /// The most repetitions.
        at_most: u32,
    },
}

impl Plan {
    /// The command that does the same again, whatever the noise of the machine is known to be by then.
    pub fn command(&self) -> String {
        let names = |of: &[&Experiment]| of.iter().map(|it| it.name.to_owned()).collect();
        let mut words = vec!["cargo xtask evaluate".to_owned()];
        let (own, default): (Vec<String>, Vec<String>) = (
            names(&self.experiments),
            names(&chosen_by(self.design, self.profile, &self.engine)),
        );
        if own != default {
            words.extend(own);
        }
        if self.design == Design::SameArms {
            words.push("--aa".to_owned());
        }
        words.push(format!("--seed {}", self.seed));
        if self.profile != Profile::Default {
            words.push(format!("--profile {}", self.profile.option()));
        }
        match &self.stopping {
            // As every profile has it but the one that asks the noise.
            Stopping::After(1)
                if self.design == Design::Pattern && self.profile != Profile::Rigorous => {}
            Stopping::After(repeat) => words.push(format!("--repeat {repeat}")),
            Stopping::AfterEach(each) => {
                let each: Vec<String> = each.iter().map(u32::to_string).collect();
                words.push(format!("--repeat {}", each.join(",")));
            }
            Stopping::UntilDecided { at_most } => {
                words.push(format!("--until-decided --at-most {at_most}"));
            }
        }
        if let Some(sabotage) = self.sabotage {
            words.push(format!("--sabotage {}", sabotage.option()));
        }
        words.extend(self.engine.options());
        words.join(" ")
    }

    /// The experiments with the number of their repetitions.
    pub fn planned(&self) -> Vec<PlannedExperiment> {
        let experiments = self.experiments.iter().enumerate();
        let planned = experiments.map(|(number, experiment)| {
            let (repetitions, until_decided) = match &self.stopping {
                Stopping::After(repeat) => (*repeat, false),
                Stopping::AfterEach(each) => (each.get(number).copied().unwrap_or(1), false),
                // Nothing but effects is decided by several runs.
                Stopping::UntilDecided { .. } if experiment.effects.is_empty() => (1, false),
                Stopping::UntilDecided { at_most } => (*at_most, true),
            };
            PlannedExperiment {
                name: experiment.name.to_owned(),
                repetitions,
                until_decided,
            }
        });
        planned.collect()
    }
}

/// The experiments that are run on this engine where none are named.
pub fn chosen_by(design: Design, profile: Profile, engine: &Engine) -> Vec<&'static Experiment> {
    let all = experiments::ALL.iter().copied();
    let all = all.filter(|experiment| experiment.obstacle(engine).is_none());
    match (design, profile) {
        // Those without a declared effect have nothing that noise could hide.
        (Design::SameArms, _) => all
            .filter(|experiment| !experiment.effects.is_empty())
            .collect(),
        (Design::Pattern, Profile::Quick) => all
            .filter(|experiment| experiment.kind == Kind::Safety)
            .collect(),
        (Design::Pattern, Profile::Default | Profile::Rigorous) => all.collect(),
    }
}

/// Runs the experiments, and keeps the evidence after each arm. The system is left as it was found.
///
/// # Errors
/// When a step fails that no arm can have as its evidence, and when the container engine doesn't answer any more: then nothing could
/// be restored, and [`resume`] does it.
pub fn run(project: &Project, plan: &Plan, progress: &Progress) -> anyhow::Result<Evaluation> {
    let system = RunningSystem::new(project)?;
    let _lock = SystemLock::take(project)?;
    heal_first(&system, progress)?;
    let evaluation = Evaluation {
        format: FORMAT,
        run: project::new_run_id()?,
        project: Some(project.name.clone()),
        command: plan.command(),
        seed: plan.seed,
        sabotage: plan.sabotage,
        design: plan.design,
        profile: plan.profile,
        planned: plan.planned(),
        noise: plan.noise.clone(),
        found: Some(system.configuration()?),
        started_at: Utc::now(),
        finished_at: Utc::now(),
        versions: versions(&system)?,
        trials: Vec::new(),
    };
    go_on(&system, evaluation, progress)
}

/// Goes on with an evaluation that was interrupted, with the next trial that isn't whole; one that refutes its claim
/// already stays as it is. Nothing is run twice.
///
/// # Errors
/// When the run is of another project, version or machine, found the system configured otherwise, or is too old to know what was
/// planned; else those of [`run`].
pub fn resume(project: &Project, run: &str, progress: &Progress) -> anyhow::Result<Evaluation> {
    let system = RunningSystem::new(project)?;
    let _lock = SystemLock::take(project)?;
    let folder = EvaluationFolder::find(project, run)?;
    let mut evaluation = folder.evidence()?;
    let refused = |what: &str| {
        outcome::unavailable(
            format!("run {} can't be resumed: {what}", evaluation.run),
            format!("start another one: {}", evaluation.command),
        )
    };
    if evaluation.planned.is_empty() {
        return Err(refused("its evidence doesn't say what was planned"));
    }
    if EvaluationFolder::new(project, &evaluation.run).path != folder.path {
        return Err(refused("it isn't one of this clone's runs"));
    }
    let of = evaluation.project.as_ref();
    if let Some(other) = of.filter(|name| **name != project.name) {
        return Err(refused(&format!("it is of the project `{other}`")));
    }
    // A killed run may have left members out.
    heal_first(&system, progress)?;
    let (now, then) = (versions(&system)?, &evaluation.versions);
    let same_code = (&now.agora, &now.images) == (&then.agora, &then.images);
    if !same_code || !now.machine().is_like(&then.machine()) {
        return Err(refused("code, images or machine are other ones now"));
    }
    if let Some(why) = configured_otherwise(&evaluation, &system.configuration()?) {
        return Err(refused(&why));
    }
    drop_unfinished(&mut evaluation);
    go_on(&system, evaluation, progress)
}

fn heal_first(system: &RunningSystem<'_>, progress: &Progress) -> anyhow::Result<()> {
    progress.step("heal", |step| {
        let repaired = heal(system, step)?;
        step.result(if repaired.is_empty() {
            "nothing to repair".to_owned()
        } else {
            repaired.join("; ")
        });
        Ok(())
    })
}

/// Removes trials of which an arm is missing, as their arms would not be run one after the other: but for those that refute a claim
/// already, which no other arm would change.
fn drop_unfinished(evaluation: &mut Evaluation) {
    let design = evaluation.design;
    evaluation.trials.retain(|trial| {
        experiments::find(&trial.experiment).is_some_and(|experiment| {
            experiment.is_whole(trial)
                || match design {
                    Design::Pattern => {
                        verdict::judge(experiment, trial).outcome == Outcome::Refuted
                    }
                    Design::SameArms => verdict::harm_for_good(&trial.arms).is_some(),
                }
        })
    });
}

/// Why the arms to come would not be like those that were run: overrides that were found are those of every arm. `None`
/// where they would be, and where the evidence doesn't say what was found.
fn configured_otherwise(evaluation: &Evaluation, now: &Configuration) -> Option<String> {
    let differences = evaluation.found.as_ref()?.differences(now);
    (!differences.is_empty()).then(|| {
        format!(
            "the system is configured otherwise: {}",
            differences.join("; ")
        )
    })
}

/// Runs what is planned and isn't in the evidence yet. The caller holds the [`SystemLock`].
fn go_on(
    system: &RunningSystem<'_>,
    mut evaluation: Evaluation,
    progress: &Progress,
) -> anyhow::Result<Evaluation> {
    let project = system.project;
    let binaries = progress.step("load generator", |step| binaries::build(project, step))?;
    let run_journal = RunJournal {
        run: evaluation.run.clone(),
        since: Utc::now(),
        found: system.configuration()?,
    };
    run_journal.begin(project)?;
    let folder = EvaluationFolder::new(project, &evaluation.run);
    let measured = system.without_engine_checks();
    let mut runner = Runner {
        system: &measured,
        loadtest: &binaries.loadtest,
        found: &run_journal.found,
        loads: folder.loads()?,
        folder,
        durations: Durations::read(project, &evaluation.versions.machine())?,
        loaded_until: Utc::now(),
    };
    // From its beginning on this is the last run, which `resume` goes on with also if no arm is over.
    let begun = runner.folder.write_evidence(project, &evaluation);
    // Before the first arm, which would otherwise keep the checks if its configuration is the one that was found.
    let begun = begun.and_then(|()| {
        progress.step("without the engine's health checks", |_| {
            measured.configure(&Wanted::found(&run_journal.found))
        })
    });
    let result = begun.and_then(|()| runner.trials(progress, &mut evaluation));
    // Nothing can be restored; the run journal stays for whoever finds an engine again.
    if let Some(stopped) = result.as_ref().err().and_then(|it| it.downcast_ref()) {
        return Err(ended_early(&evaluation.run, stopped));
    }
    // Ctrl-C ends the experiments, not the restoring.
    interrupt::acknowledge();
    // Reported before any other error.
    put_back(system, &run_journal, progress)?;
    result?;
    Ok(evaluation)
}

/// Heals faults that are left, and restores what the journal has of the system.
///
/// # Errors
/// When it can't: then it isn't as it was found, and the journal stays.
pub(crate) fn put_back(
    system: &RunningSystem<'_>,
    journal: &RunJournal,
    progress: &Progress,
) -> anyhow::Result<()> {
    let restored = progress.step("restore", |step| {
        let mut done = faults::heal_everything(system, step)?;
        done.extend(journal.restore(system)?);
        step.result(if done.is_empty() {
            "everything is as it was found".to_owned()
        } else {
            done.join("; ")
        });
        Ok(())
    });
    restored.map_err(|error: anyhow::Error| {
        outcome::unavailable(
            format!("the system is not as it was found: {error:#}"),
            "`cargo xtask heal` tries again; what was seen until then is kept",
        )
    })
}

/// The container engine doesn't answer any more: no further arm can be run.
#[derive(Debug)]
struct EngineStopped {
    /// What was said in place of an answer.
    said: String,
}

impl fmt::Display for EngineStopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the engine stopped answering: {}", self.said)
    }
}

impl std::error::Error for EngineStopped {}

fn ended_early(run: &str, stopped: &EngineStopped) -> anyhow::Error {
    outcome::unavailable(
        format!("evaluation {run} ended early, and the system is not as it was found: {stopped}"),
        format!(
            "start engine and system with the settings that they had (`cargo xtask up`), then `cargo xtask evaluate resume \
             {run}`: it restores the system, and runs the trial that was cut short again"
        ),
    )
}

/// Undoes what faults and an interrupted evaluation left; returns what was done, in words. The caller holds the
/// [`SystemLock`].
pub fn heal(system: &RunningSystem<'_>, step: &Step) -> anyhow::Result<Vec<String>> {
    let left_over = run_journal::left_over(system.project)?;
    step.update("waiting for what a killed command has set off");
    system.wait_for_abandoned_configuring()?;
    let mut done = faults::heal_everything(system, step)?;
    if let Some(left_over) = left_over {
        step.update("restoring what a killed evaluation found");
        done.extend(left_over.restore(system)?);
        done.push(format!("evaluation {} was cut short", left_over.run));
    }
    operation_record::forget_abandoned(system.project)?;
    Ok(done)
}

struct Runner<'a> {
    system: &'a RunningSystem<'a>,
    loadtest: &'a Path,
    folder: EvaluationFolder,
    found: &'a Configuration,
    /// How many loads were started, also by what was interrupted.
    loads: usize,
    /// How long trials took before, on this machine.
    durations: Durations,
    /// When the last load had ended. What was there before the evaluation counts as loaded.
    loaded_until: DateTime<Utc>,
}

impl Runner<'_> {
    /// Runs all trials that are planned and not there yet: all experiments once, then all of them again.
    fn trials(&mut self, progress: &Progress, evaluation: &mut Evaluation) -> anyhow::Result<()> {
        let mut planned = evaluation.planned.clone();
        for planned in &mut planned {
            end_if_decided(evaluation, planned)?;
        }
        let most = planned.iter().map(|planned| planned.repetitions).max();
        for repetition in 1..=most.unwrap_or(0) {
            for number in 0..planned.len() {
                let next = &planned[number];
                let there = evaluation
                    .trials
                    .iter()
                    .any(|trial| trial.experiment == next.name && trial.repetition == repetition);
                if !there && next.repetitions >= repetition {
                    self.trial(&planned, number, repetition, progress, evaluation)?;
                    end_if_decided(evaluation, &mut planned[number])?;
                }
            }
        }
        Ok(())
    }

    /// Runs a repetition of the experiment with this number among those that are `planned`.
    fn trial(
        &mut self,
        planned: &[PlannedExperiment],
        number: usize,
        repetition: u32,
        progress: &Progress,
        evaluation: &mut Evaluation,
    ) -> anyhow::Result<()> {
        let PlannedExperiment {
            name, repetitions, ..
        } = &planned[number];
        let experiment = experiments::find(name).context("a planned experiment")?;
        let seed = trial_seed(evaluation.seed, experiment.name, repetition);
        evaluation.trials.push(Trial {
            experiment: experiment.name.to_owned(),
            repetition,
            seed,
            arms: Vec::new(),
        });
        let order = order(evaluation.seed, experiment, repetition);
        for (position, index) in order.iter().copied().enumerate() {
            let plan = &experiment.arms[index];
            let of = match repetitions {
                1 => String::new(),
                most => format!(", {repetition} of {most}"),
            };
            let left = self.durations.left(planned, evaluation, position);
            let name = format!("{} {}{of}{left}", experiment.name, plan.name);
            let task = ArmTask {
                evaluation,
                experiment,
                plan,
                seed,
            };
            let arm = progress.step(&name, |step| {
                let arm = self.arm(&task, step)?;
                step.result(account(&arm));
                Ok(arm)
            })?;
            let trial = evaluation.trials.last_mut().context("a trial")?;
            trial.arms.insert(place_of(position, &order), arm);
            evaluation.finished_at = Utc::now();
            self.folder
                .write_evidence(self.system.project, evaluation)?;
        }
        Ok(())
    }
}

/// Plans no further repetition of an experiment that ends once it is decided, and has been.
fn end_if_decided(evaluation: &Evaluation, planned: &mut PlannedExperiment) -> anyhow::Result<()> {
    if !planned.until_decided {
        return Ok(());
    }
    let concluded = ExperimentConclusion::of(evaluation, &planned.name)?;
    let mut effects = concluded.effects.iter();
    let decided = concluded.outcome == Outcome::Refuted
        || effects.all(|effect| matches!(effect.outcome, Outcome::Upheld | Outcome::Refuted));
    if decided {
        planned.repetitions = u32::try_from(concluded.repetitions())?;
    }
    Ok(())
}

/// The same evaluation, experiment and repetition give the same seed.
fn trial_seed(evaluation: u64, experiment: &str, repetition: u32) -> u64 {
    let text = format!("{evaluation} {experiment} {repetition}");
    let hash = Sha256::digest(text.as_bytes());
    // Short enough to be typed.
    u64::from(u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]))
}

/// The order of an experiment's arms, as their indices: the evaluation's seed chooses the first repetition's row of the
/// design, and each further one takes the next.
fn order(evaluation: u64, experiment: &Experiment, repetition: u32) -> Vec<usize> {
    let first_row = trial_seed(evaluation, experiment.name, 1);
    order::of(experiment.arms.len(), first_row, repetition)
}

/// Where the arm that is run at this position of an order stands among those that were run before: evidence has the arms in the
/// experiment's order, whichever was run first.
fn place_of(position: usize, order: &[usize]) -> usize {
    let before = order[..position].iter();
    before.filter(|other| **other < order[position]).count()
}

fn versions(system: &RunningSystem<'_>) -> anyhow::Result<Versions> {
    let Machine {
        cores,
        memory_bytes,
        engine,
    } = running::machine(system.project)?;
    let images = system.members()?.into_iter();
    Ok(Versions {
        agora: running::commit(system.project),
        engine,
        cores,
        memory_bytes,
        images: images
            .map(|member| (member.service.to_string(), member.image))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::{arm::jitter, *};
    use crate::{
        conclusion::tests::consumers,
        experiment::FaultPlan,
        report::tests::{Sketch, evaluation},
    };

    #[test]
    fn a_seed_gives_each_trial_its_own_and_the_same_each_time() {
        assert_eq!(trial_seed(7, "outbox", 1), trial_seed(7, "outbox", 1));
        assert_ne!(trial_seed(7, "outbox", 1), trial_seed(7, "outbox", 2));
        assert_ne!(trial_seed(7, "outbox", 1), trial_seed(7, "inbox", 1));
        assert_ne!(trial_seed(7, "outbox", 1), trial_seed(8, "outbox", 1));
        assert!(jitter(trial_seed(7, "outbox", 1)) < FaultPlan::JITTER);
    }

    #[test]
    fn the_arms_take_turns_over_the_repetitions() {
        let outbox = crate::experiments::find("outbox").unwrap();
        for seed in 0..20 {
            let orders: Vec<_> = (1..=4).map(|it| order(seed, outbox, it)).collect();
            assert_ne!(orders[0], orders[1], "{seed}");
            assert_eq!(orders[..2], orders[2..], "{seed}");
        }
        let first = |seed| order(seed, outbox, 1)[0];
        assert!((0..20).any(|seed| first(seed) == 0) && (0..20).any(|seed| first(seed) == 1));
    }

    #[test]
    fn arms_stand_in_the_experiments_order_whichever_was_run_first() {
        for order in [[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]] {
            let mut arms = Vec::new();
            for (position, arm) in order.iter().enumerate() {
                arms.insert(place_of(position, &order), *arm);
            }
            assert_eq!(arms, [0, 1, 2, 3], "{order:?}");
        }
    }

    #[test]
    fn a_trial_that_was_cut_short_is_run_again_from_its_first_arm() {
        let trial = |repetition, arms: &[&str]| Trial {
            experiment: "outbox".to_owned(),
            repetition,
            seed: 1,
            arms: arms.iter().map(|name| Sketch::arm(name).build()).collect(),
        };
        let whole = trial(1, &["off", "on"]);
        let mut evaluation = evaluation(vec![whole.clone(), trial(2, &["off"])]);
        drop_unfinished(&mut evaluation);
        assert_eq!(evaluation.trials, [whole]);

        // Harm with the pattern stays, whatever the other arm would have been.
        let mut lossy = trial(2, &["on"]);
        let reconciliation = lossy.arms[0].reconciliation.as_mut().unwrap();
        reconciliation.doubled.push("one".to_owned());
        for (design, arm, stays) in [
            (Design::Pattern, "on", true),
            (Design::Pattern, "off", false),
            (Design::SameArms, "off", true),
        ] {
            lossy.arms[0].name = arm.to_owned();
            evaluation.trials = vec![lossy.clone()];
            evaluation.design = design;
            drop_unfinished(&mut evaluation);
            assert_eq!(!evaluation.trials.is_empty(), stays, "{design:?} {arm}");
        }
    }

    #[test]
    fn a_run_is_resumed_only_with_the_configuration_that_it_found() {
        let with = |burst: &str| Configuration {
            overrides: [("AGORA_RATE_LIMIT_BURST".to_owned(), burst.to_owned())].into(),
            ..Configuration::default()
        };
        let mut evaluation = evaluation(Vec::new());
        evaluation.found = Some(with("40"));
        assert_eq!(configured_otherwise(&evaluation, &with("40")), None);
        let why = configured_otherwise(&evaluation, &with("10")).unwrap();
        assert!(
            why.ends_with("AGORA_RATE_LIMIT_BURST: 40 before, 10 now"),
            "{why}"
        );
        // Evidence from before it was kept.
        let mut stored = serde_json::to_value(&evaluation).unwrap();
        stored.as_object_mut().unwrap().remove("found");
        let stored: Evaluation = serde_json::from_value(stored).unwrap();
        assert_eq!(configured_otherwise(&stored, &with("10")), None);
    }

    #[test]
    fn no_time_is_left_for_repetitions_of_what_is_decided() {
        let pairs = [
            (40, 60),
            (41, 61),
            (40, 62),
            (39, 60),
            (42, 62),
            (40, 61),
            (41, 62),
            (40, 60),
        ];
        let mut evaluation = consumers(&pairs);
        let mut planned = PlannedExperiment {
            name: "competing_consumers".to_owned(),
            repetitions: 12,
            until_decided: true,
        };
        evaluation.planned = vec![planned.clone()];
        let left = |planned: &PlannedExperiment| {
            Durations::default().left(std::slice::from_ref(planned), &evaluation, 2)
        };
        assert!(left(&planned).ends_with(" left"), "{}", left(&planned));
        end_if_decided(&evaluation, &mut planned).unwrap();
        assert_eq!((planned.repetitions, left(&planned)), (8, String::new()));
        // The first look is with eight pairs.
        evaluation.trials.truncate(7);
        planned.repetitions = 12;
        end_if_decided(&evaluation, &mut planned).unwrap();
        assert_eq!(planned.repetitions, 12);
    }

    #[test]
    fn the_command_repeats_the_plan() {
        let plan = Plan {
            experiments: crate::experiments::find("outbox").into_iter().collect(),
            stopping: Stopping::After(3),
            profile: Profile::Default,
            design: Design::Pattern,
            seed: 11,
            sabotage: Some(Sabotage::WithholdFault),
            engine: Engine::Compose,
            noise: Vec::new(),
        };
        assert_eq!(
            plan.command(),
            "cargo xtask evaluate outbox --seed 11 --repeat 3 --sabotage withhold-fault"
        );
    }
}
