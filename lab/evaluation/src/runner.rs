//! Runs experiments: the only module that knows the order of the steps, which is the same for every experiment.
//!
//! heal → journal what is there → for each arm, in counterbalanced order: configure → steady? → load → fault → did it take
//! effect? → heal → load ends → settled → reconcile → restore (between arms of a trial only where something is left) →
//! steady again? → at the end: restore, whatever happened, unless the container engine is gone.
//!
//! Left out: what the steps do, each in a module of its own.

use std::{
    collections::BTreeSet,
    fmt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use base::{
    outcome::{self, Failure},
    progress::{Progress, Step},
};
use chrono::{DateTime, Utc};
use patterns::Pattern;
use records::evaluation::{
    Arm, Attacks, Configuration, Design, Evaluation, FORMAT, FaultEffect, FaultEvidence, InForce,
    Machine, NoiseRecord, PlannedExperiment, Profile, Reconciliation, Sabotage, Sample, StepTime,
    Trial, Versions,
};
use sha2::{Digest, Sha256};
use system::{
    Part, binaries,
    dead_letters::{Reader, STATISTICS_LAG},
    interrupt::{self, Interrupted},
    lock::SystemLock,
    operation_record,
    process::Call,
    project::{self, Engine, Project},
    running::{self, RunningSystem, Wanted},
    wait,
};

use super::{
    alerts,
    conclusion::ExperimentConclusion,
    experiment::{ArmFault, ArmPlan, Experiment, FaultPlan, Kind, Observed},
    experiments, faults,
    history::Durations,
    load::{Ledger, Load},
    measurement::Outcome,
    reconciliation, repair,
    run_journal::{self, RunJournal},
    samples::Sampler,
    statistics::order,
    steady::{self, Probe},
    store::EvaluationFolder,
    telemetry::Watch,
};

const STEADY_WITHIN: Duration = Duration::from_secs(30);
/// Longer than the retry tiers together.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// Services try to reconnect to a lost broker or database every ten seconds at the latest.
const RECONNECTED_WITHIN: Duration = Duration::from_secs(15);
/// Longer than an engine takes to restart.
const ENGINE_BACK_WITHIN: Duration = Duration::from_secs(60);
const ENGINE_INTERVAL: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);

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
            names(&chosen_by(self.design, self.profile)),
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

/// The experiments that are run where none are named.
pub fn chosen_by(design: Design, profile: Profile) -> Vec<&'static Experiment> {
    let all = experiments::ALL.iter().copied();
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

/// Goes on with an evaluation that was interrupted, with the next trial that isn't whole. Nothing is run twice.
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

/// Removes trials of which an arm is missing: their arms would not be run one after the other.
fn drop_unfinished(evaluation: &mut Evaluation) {
    evaluation
        .trials
        .retain(|trial| experiments::find(&trial.experiment).is_some_and(|it| it.is_whole(trial)));
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
    let restored = progress.step("restore", |step| {
        let mut done = faults::heal_everything(system, step)?;
        done.extend(run_journal.restore(system)?);
        step.result(if done.is_empty() {
            "everything is as it was found".to_owned()
        } else {
            done.join("; ")
        });
        Ok(())
    });
    // Reported before any other error.
    if let Err(error) = restored {
        return Err(outcome::unavailable(
            format!("the system is not as it was found: {error:#}"),
            "`cargo xtask heal` tries again; `cargo xtask evaluate judge latest` shows what was seen",
        ));
    }
    result?;
    Ok(evaluation)
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

/// What concerns one arm.
struct ArmTask<'a> {
    evaluation: &'a Evaluation,
    experiment: &'a Experiment,
    plan: &'a ArmPlan,
    seed: u64,
}

impl ArmTask<'_> {
    /// How the system is configured: with equal arms each is the last, as shipped; broken on purpose, each is the first.
    fn configured(&self) -> &ArmPlan {
        match (
            self.evaluation.sabotage,
            self.evaluation.design,
            self.experiment.arms,
        ) {
            (_, Design::SameArms, [.., shipped]) => shipped,
            (Some(Sabotage::BreakPattern), _, [without, ..]) => without,
            _ => self.plan,
        }
    }

    /// Whose fault is injected: broken on purpose, an arm gets the first arm's where that stands for a missing pattern.
    fn harmed_as(&self) -> &ArmPlan {
        match (
            self.evaluation.sabotage,
            self.evaluation.design,
            self.experiment.arms,
        ) {
            (_, Design::SameArms, [.., shipped]) => shipped,
            (Some(Sabotage::BreakPattern), _, [without, ..])
                if matches!(without.fault, ArmFault::Instead(_)) =>
            {
                without
            }
            _ => self.plan,
        }
    }
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

    /// Runs one arm. What goes wrong in it is part of its evidence; what ends the evaluation says [`note`].
    fn arm(&mut self, task: &ArmTask<'_>, step: &Step) -> anyhow::Result<Arm> {
        let mut probe = Probe::default();
        let since = Utc::now();
        let mut arm = Arm {
            name: task.plan.name.to_owned(),
            configuration: Configuration::default(),
            started_at: since,
            finished_at: since,
            steady_before: None,
            load: None,
            fault: None,
            samples: Vec::new(),
            settled_after_ms: None,
            reconciliation: None,
            telemetry: None,
            alerts: None,
            attacks: None,
            steady_after: None,
            steps: Vec::new(),
            failure: None,
        };
        let steps = self.steps(task, &mut probe, &mut arm, step);
        self.loaded_until = Utc::now();
        let broke_off = steps.is_err();
        note(&mut arm, steps, || engine(self.system))?;
        let mut clock = StepClock::start();
        let restored = self.restore(broke_off, &mut probe, &mut arm, step);
        arm.steps.push(clock.lap("restore"));
        note(&mut arm, restored, || engine(self.system))?;
        arm.finished_at = Utc::now();
        Ok(arm)
    }

    /// Repairs what the arm left, and waits for the steady state. The next arm is configured anyway, and after the last one
    /// everything is as it was found; only what an arm left is repaired by services as they were found.
    fn restore(
        &self,
        broke_off: bool,
        probe: &mut Probe,
        arm: &mut Arm,
        step: &Step,
    ) -> anyhow::Result<()> {
        if broke_off {
            step.update("healing");
            faults::heal_everything(self.system, step)?;
        }
        let configuration = self.system.configuration()?;
        let keys_are_found = configuration.signing_keys == self.found.signing_keys;
        if !(leaves_nothing(arm) && keys_are_found) {
            step.update("restoring");
            if configuration != *self.found {
                self.system.configure(&Wanted::found(self.found))?;
            }
            // Processes that were started since decide what waited for them.
            let at_rest = arm.settled_after_ms.is_some() && configuration == *self.found;
            repair::since(self.system, arm.started_at, at_rest)?;
        }
        arm.steady_after = Some(steady::wait_for(self.system, probe, STEADY_WITHIN)?);
        Ok(())
    }

    fn steps(
        &mut self,
        task: &ArmTask<'_>,
        probe: &mut Probe,
        arm: &mut Arm,
        step: &Step,
    ) -> anyhow::Result<()> {
        let experiment = task.experiment;
        let mut clock = StepClock::start();
        step.update("configuring");
        let wanted = wanted(experiment, task.configured(), self.found);
        arm.configuration = self.system.configuration()?;
        if Wanted::found(&arm.configuration) != wanted {
            self.system.configure(&wanted)?;
        }
        self.refresh(experiment, &wanted)?;
        arm.configuration = self.system.configuration()?;
        anyhow::ensure!(
            Wanted::found(&arm.configuration) == wanted,
            "the services run as {:?}, which isn't what was asked for",
            arm.configuration
        );
        arm.steps.push(clock.lap("configure"));
        step.update("waiting for the steady state");
        let steady = steady::wait_for(self.system, probe, STEADY_WITHIN)?;
        let reached = steady.reached;
        arm.steady_before = Some(steady);
        if !reached {
            return Ok(());
        }
        let traces = match experiment.observed {
            Observed::Traces | Observed::Spans => Some(Watch::begin(self.system)?),
            Observed::Reconciliation | Observed::Alerts { .. } => None,
        };
        let observes_alerts = matches!(experiment.observed, Observed::Alerts { .. });
        if observes_alerts {
            step.update("waiting until no alert fires");
            alerts::wait_until_nothing_fires(self.system)?;
        }
        arm.steps.push(clock.lap("steady"));
        let quiet_since = Utc::now();
        let stock = reconciliation::stock(self.system)?;
        let since = arm.started_at;
        let sampler = Sampler::default();
        let ledger = thread::scope(|scope| {
            scope.spawn(|| sampler.run(self.system, since));
            let ledger = self.load_and_fault(task, arm, &sampler, step);
            sampler.stop();
            ledger
        });
        arm.samples = sampler.samples();
        let ledger = ledger?;
        let mut clock = StepClock::start();
        step.update("reconciling");
        let users = ledger.orders.iter().map(|entry| entry.user_id.clone());
        let holdings = reconciliation::read(self.system, &users.collect(), since)?;
        arm.reconciliation = Some(holdings.reconcile(
            &ledger.orders,
            &ledger.cancellations,
            &stock,
            &arm.configuration,
        ));
        if let Some(traces) = traces {
            step.update("looking at the traces");
            let seen = traces.end(
                self.system,
                experiment.observed,
                &ledger.orders,
                &ledger.cancellations,
                step,
            )?;
            arm.telemetry = Some(seen);
        }
        if observes_alerts {
            step.update("waiting until no alert fires any more");
            arm.alerts = Some(alerts::fired_since(self.system, quiet_since)?);
        }
        arm.steps.push(clock.lap("reconcile"));
        arm.load = Some(ledger.evidence);
        let fault = arm.fault.as_mut();
        if let Some(in_force) = fault.and_then(|fault| fault.in_force.as_mut()) {
            let (from, until) = (in_force.from, in_force.until);
            in_force.decided = reconciliation::decided_between(self.system, since, from, until)?;
        }
        Ok(())
    }

    /// Replaces the processes in which the arms differ and that were there under a load: each arm begins with fresh ones, also
    /// one whose configuration was there already.
    fn refresh(&self, experiment: &Experiment, wanted: &Wanted) -> anyhow::Result<()> {
        let members = self.system.members()?;
        let was_loaded = |part: &Part| {
            let mut of_part = members.iter().filter(|member| member.service == *part);
            of_part.any(|member| member.created_at.is_some_and(|at| at < self.loaded_until))
        };
        let compared = compared(experiment)?.into_iter();
        let loaded: Vec<Part> = compared.filter(was_loaded).collect();
        if loaded.is_empty() {
            return Ok(());
        }
        self.system.recreate(wanted, &loaded)
    }

    fn load_and_fault(
        &mut self,
        task: &ArmTask<'_>,
        arm: &mut Arm,
        sampler: &Sampler,
        step: &Step,
    ) -> anyhow::Result<Ledger> {
        let experiment = task.experiment;
        let mut clock = StepClock::start();
        step.update("starting the load");
        self.loads += 1;
        let folder = format!("{:02}-{}-{}", self.loads, experiment.name, arm.name);
        let since = Utc::now();
        let mut load = Load::start(
            self.loadtest,
            &experiment.load,
            &self.system.gateway()?,
            &repair::load_run_id(&task.evaluation.run, self.loads),
            task.seed,
            self.folder.loads_path().join(folder),
        )?;
        load.wait_until_begun()?;
        if let Some(fault) = task.harmed_as().fault_of(experiment) {
            let (fault, attacks) = self.fault(task, &fault, since, step)?;
            let was_injected = fault.injected_at.is_some();
            (arm.fault, arm.attacks) = (Some(fault), attacks);
            if let Some(longer) = experiment.load.outlasts_fault.filter(|_| was_injected) {
                step.update("the load goes on without the fault");
                wait::pass(longer)?;
                load.end_early();
            }
        }
        step.update("waiting for the end of the load");
        let ledger = load.finish()?;
        arm.steps.push(clock.lap("load"));
        step.update("waiting until all is settled");
        arm.settled_after_ms = self.settled(sampler, ledger.evidence.summary.finished_at)?;
        arm.steps.push(clock.lap("settle"));
        Ok(ledger)
    }

    /// Injects the fault when its time has come, holds it, looks for its effect, and heals it; returns its evidence,
    /// and that of attacks where these are the fault. `since` is when the load began.
    fn fault(
        &self,
        task: &ArmTask<'_>,
        plan: &FaultPlan,
        since: DateTime<Utc>,
        step: &Step,
    ) -> anyhow::Result<(FaultEvidence, Option<Attacks>)> {
        let description = plan.fault.describe();
        if task.evaluation.sabotage == Some(Sabotage::WithholdFault) {
            let withheld = FaultEvidence {
                description,
                injected_at: None,
                healed_at: None,
                in_force: None,
                effect: FaultEffect {
                    observed: false,
                    proof: "it was withheld".to_owned(),
                },
            };
            return Ok((withheld, None));
        }
        step.update("waiting for the moment of the fault");
        wait::pass(plan.after + jitter(task.seed))?;
        step.update(&description);
        let injected_at = Utc::now();
        let mut injected = plan.fault.inject(self.system, since)?;
        let from = Utc::now();
        let effect = match task.experiment.observed {
            Observed::Alerts { raised } => {
                let names = raised(task.harmed_as().name);
                let mut raised = alerts::Raised::new(self.system, names, injected_at)?;
                injected.hold_until(plan.lasts, || raised.were_seen())?
            }
            _ => injected.hold(plan.lasts)?,
        };
        let until = Utc::now();
        let attacks = injected.attacks();
        step.update("healing");
        injected.heal()?;
        let fault = FaultEvidence {
            description,
            injected_at: Some(injected_at),
            healed_at: Some(Utc::now()),
            in_force: Some(InForce {
                from,
                until,
                // Counted at reconciliation.
                decided: 0,
            }),
            effect,
        };
        Ok((fault, attacks))
    }

    /// Waits until every order has ended and every event is published, or until nothing moves any more. Returns how
    /// many milliseconds that took from the end of the load; `None` when it never came.
    fn settled(&self, sampler: &Sampler, load_ended: DateTime<Utc>) -> anyhow::Result<Option<u64>> {
        // A standstill before was the fault's effect.
        let healed = Utc::now();
        let reader = Reader::new(self.system.project, &self.system.members()?)?;
        let mut checked: Option<Instant> = None;
        let took = |sample: &Sample| {
            let after = (sample.at - load_ended).num_milliseconds();
            u64::try_from(after).unwrap_or_default()
        };
        wait::until(SETTLED_WITHIN, TICK, || {
            let mut samples = sampler.samples();
            samples.retain(|sample| sample.at > healed);
            let Some(last) = samples.last() else {
                return Ok(None);
            };
            let counts = |sample: &Sample| (sample.decided, sample.undecided, sample.unpublished);
            let still = samples.iter().rev();
            let still = still.take_while(|sample| counts(sample) == counts(last));
            let Some(first_still) = still.last() else {
                return Ok(None);
            };
            if last.unpublished > 0 {
                return Ok(None);
            }
            if last.undecided == 0 {
                return Ok(Some(took(first_still)));
            }
            let asked_lately = checked.is_some_and(|at| at.elapsed() < Duration::from_secs(1));
            let still_for = (last.at - first_still.at).to_std()?;
            if asked_lately || still_for <= STATISTICS_LAG {
                return Ok(None);
            }
            checked = Some(Instant::now());
            // What waits for a retry moves again; what waits in a queue may have a consumer that reconnects.
            let at_rest = reader.waiting_for_retry()? == 0
                && (reader.waiting()? == 0 || still_for > RECONNECTED_WITHIN);
            Ok(at_rest.then(|| took(first_still)))
        })
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

/// Measures the steps of an arm, one after the other.
struct StepClock(Instant);

impl StepClock {
    fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the last step ended.
    fn lap(&mut self, step: &str) -> StepTime {
        let took = self.0.elapsed();
        self.0 = Instant::now();
        StepTime {
            step: step.to_owned(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Whether the next arm may begin where this one ended: its ledger reconciles, and nothing died.
fn leaves_nothing(arm: &Arm) -> bool {
    let is_clean = |found: &Reconciliation| {
        found.balances() && found.dead_letters.values().all(|count| *count == 0)
    };
    arm.failure.is_none() && arm.reconciliation.as_ref().is_some_and(is_clean)
}

/// Asks the engine for its version until it answers: one that restarts is back within seconds.
fn engine(system: &RunningSystem<'_>) -> anyhow::Result<String> {
    let mut said = None;
    let answer = wait::until(ENGINE_BACK_WITHIN, ENGINE_INTERVAL, || {
        match system.engine_version() {
            Ok(version) => Ok(Some(version)),
            Err(error) if error.is::<Interrupted>() => Err(error),
            Err(error) => {
                said = Some(error);
                Ok(None)
            }
        }
    })?;
    answer.ok_or_else(|| said.unwrap_or_else(|| anyhow::anyhow!("no answer")))
}

/// Records the first error of an arm in its evidence. Only Ctrl-C and an engine that doesn't answer any more end the
/// evaluation: every arm after it would break off, too. `engine` asks it, within its own limit.
fn note(
    arm: &mut Arm,
    result: anyhow::Result<()>,
    engine: impl FnOnce() -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let Err(error) = result else {
        return Ok(());
    };
    if error.is::<Interrupted>() {
        return Err(error);
    }
    match engine() {
        Ok(_) => {
            arm.failure.get_or_insert(format!("{error:#}"));
            Ok(())
        }
        Err(interrupted) if interrupted.is::<Interrupted>() => Err(interrupted),
        Err(silent) => Err(EngineStopped {
            said: silent
                .downcast_ref::<Failure>()
                .map_or_else(|| format!("{silent:#}"), |failure| failure.cause.clone()),
        }
        .into()),
    }
}

/// One line about an arm, for the progress.
fn account(arm: &Arm) -> String {
    if let Some(failure) = &arm.failure {
        return format!("broke off: {failure}");
    }
    let Some(reconciliation) = &arm.reconciliation else {
        return "not steady".to_owned();
    };
    let observed = arm
        .fault
        .as_ref()
        .is_some_and(|fault| fault.effect.observed);
    let failed = arm.load.as_ref().map_or(0, |load| load.summary.failed);
    let dead: u64 = reconciliation.dead_letters.values().sum();
    format!(
        "{} orders accepted, {} lost, {} doubled, {dead} dead letters, {failed} requests failed{}",
        reconciliation.promised,
        reconciliation.lost.len(),
        reconciliation.doubled.len(),
        if observed {
            ""
        } else {
            "; the fault had no observed effect"
        }
    )
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

/// How much later than planned the fault comes.
fn jitter(seed: u64) -> Duration {
    let most = FaultPlan::JITTER.as_millis() as u64;
    Duration::from_millis(seed % most)
}

fn versions(system: &RunningSystem<'_>) -> anyhow::Result<Versions> {
    let commit = Call::new("git")
        .args(["describe", "--always", "--dirty"])
        .dir(&system.project.root)
        .read();
    let Machine {
        cores,
        memory_bytes,
        engine,
    } = running::machine(system.project)?;
    let images = system.members()?.into_iter();
    Ok(Versions {
        agora: commit.map_or_else(|_| "unknown".to_owned(), |commit| commit.trim().to_owned()),
        engine,
        cores,
        memory_bytes,
        images: images
            .map(|member| (member.service.to_string(), member.image))
            .collect(),
    })
}

/// The services in which the arms of an experiment differ: those that read the switch of a pattern that not all have, or that
/// have several replicas.
fn compared(experiment: &Experiment) -> anyhow::Result<BTreeSet<Part>> {
    let mut compared = BTreeSet::new();
    for plan in experiment.arms {
        for name in plan.patterns_off {
            let pattern = Pattern::named(name).with_context(|| format!("no pattern `{name}`"))?;
            for service in pattern.read_by() {
                compared.insert(service.parse()?);
            }
        }
        compared.extend(plan.replicas.iter().map(|(service, _)| *service));
    }
    Ok(compared)
}

/// The configuration of an arm, on a system that was found with `found`.
fn wanted(experiment: &Experiment, plan: &ArmPlan, found: &Configuration) -> Wanted {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let mut overrides = found.overrides.clone();
    overrides.extend(plan.overrides.iter().map(owned));
    let patterns_off = plan.off_in(experiment).into_iter();
    let replicas = plan.replicas.iter();
    Wanted {
        patterns_off: patterns_off.map(str::to_owned).collect(),
        replicas: replicas
            .map(|(service, count)| (*service, *count))
            .collect(),
        overrides,
    }
}

#[cfg(test)]
mod tests {
    use base::outcome::Exit;

    use super::*;
    use crate::{
        conclusion::tests::consumers,
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
    fn an_arm_that_left_something_is_repaired() {
        let clean = || Sketch::arm("on").build();
        assert!(leaves_nothing(&clean()));
        let mut failed = clean();
        failed.failure = Some("it broke off".to_owned());
        let mut unread = clean();
        unread.reconciliation = None;
        let mut dead = clean();
        let reconciliation = dead.reconciliation.as_mut().unwrap();
        reconciliation.dead_letters = [("rejected".to_owned(), 1)].into();
        let mut undecided = clean();
        let reconciliation = undecided.reconciliation.as_mut().unwrap();
        reconciliation.undecided.push("one".to_owned());
        for arm in [failed, unread, dead, undecided] {
            assert!(!leaves_nothing(&arm), "{arm:?}");
        }
    }

    #[test]
    fn an_arm_that_broke_off_is_evidence_unless_the_engine_stopped_answering() {
        let broke_off = || Err(anyhow::anyhow!("postgres has no container"));
        let mut arm = Sketch::arm("on").build();
        note(&mut arm, broke_off(), || Ok("28.2.2".to_owned())).unwrap();
        assert_eq!(arm.failure.as_deref(), Some("postgres has no container"));

        let mut arm = Sketch::arm("on").build();
        let silent = || Err(outcome::unavailable("no daemon", "start it"));
        let ended = note(&mut arm, broke_off(), silent).unwrap_err();
        let ended = ended_early("7", ended.downcast_ref().unwrap());
        assert_eq!(Exit::of(&ended), Exit::Unavailable);
        let said = ended.to_string();
        for part in ["engine stopped answering: no daemon\n", "evaluate resume 7"] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(arm.failure, None);
    }

    #[test]
    fn the_engine_is_asked_only_about_an_arm_that_broke_off_by_itself() {
        let never = || panic!("the engine was asked");
        let mut arm = Sketch::arm("on").build();
        note(&mut arm, Ok(()), never).unwrap();
        let interrupted = note(&mut arm, Err(Interrupted.into()), never).unwrap_err();
        assert!(interrupted.is::<Interrupted>());
        let meanwhile = || Err(Interrupted.into());
        let broke_off = Err(anyhow::anyhow!("no answer in time"));
        let interrupted = note(&mut arm, broke_off, meanwhile).unwrap_err();
        assert!(interrupted.is::<Interrupted>());
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
    fn equal_arms_are_all_as_shipped_and_broken_ones_all_without_the_pattern() {
        let experiment = experiments::find("outbox").unwrap();
        let configured = |design, sabotage| {
            let evaluation = Evaluation {
                design,
                sabotage,
                ..evaluation(Vec::new())
            };
            let names = experiment.arms.iter().map(|plan| {
                let task = ArmTask {
                    evaluation: &evaluation,
                    experiment,
                    plan,
                    seed: 1,
                };
                task.configured().name
            });
            names.collect::<Vec<_>>()
        };
        assert_eq!(configured(Design::Pattern, None), ["off", "on"]);
        assert_eq!(configured(Design::SameArms, None), ["on", "on"]);
        let broken = Some(Sabotage::BreakPattern);
        assert_eq!(configured(Design::Pattern, broken), ["off", "off"]);
    }

    #[test]
    fn arms_are_compared_by_processes_of_the_services_in_which_they_differ() {
        let compared = |name| compared(experiments::find(name).unwrap()).unwrap();
        let messaging = [Part::OrderService, Part::InventoryService];
        assert_eq!(compared("outbox"), messaging.into());
        assert_eq!(compared("forward_auth"), [Part::Traefik].into());
        let balancing = [Part::UserService, Part::ProductService];
        assert_eq!(compared("client_load_balancing"), balancing.into());
        for experiment in experiments::ALL {
            super::compared(experiment).unwrap();
        }
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
