//! Runs one arm of a trial: configure, settle, load and fault, reconcile, restore.
//!
//! Left out: which arms are run, and when ([`super`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use base::{outcome::Failure, progress::Step};
use chrono::{DateTime, Utc};
use records::evaluation::{
    Arm, Attacks, Configuration, Design, Evaluation, FaultEffect, FaultEvidence, InForce,
    Reconciliation, Sabotage, Sample, StepTime,
};
use system::{
    Part,
    dead_letters::Reader,
    interrupt::Interrupted,
    members::Member,
    running::{RunningSystem, Wanted},
    wait,
};

use super::{EngineStopped, Runner};
use crate::{
    alerts,
    experiment::{ArmFault, ArmPlan, Experiment, FaultPlan, Observed},
    faults,
    load::{Ledger, Load},
    reconciliation, repair,
    samples::Sampler,
    steady::{self, Probe},
    telemetry::Watch,
};

/// How long nothing has to move until queues are asked: longer than an order waits for its second attempt in `saga_recovery` (4 s), and
/// than the broker's counts lag.
const STILL_FOR: Duration = Duration::from_secs(5);
const STEADY_WITHIN: Duration = Duration::from_secs(30);
/// Longer than the retry tiers together.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// Services try to reconnect to a lost broker or database every ten seconds at the latest.
const RECONNECTED_WITHIN: Duration = Duration::from_secs(15);
/// Longer than an engine takes to restart.
const ENGINE_BACK_WITHIN: Duration = Duration::from_secs(60);
const ENGINE_INTERVAL: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);

/// What concerns one arm.
pub(super) struct ArmTask<'a> {
    pub(super) evaluation: &'a Evaluation,
    pub(super) experiment: &'a Experiment,
    pub(super) plan: &'a ArmPlan,
    pub(super) seed: u64,
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
    /// Runs one arm. What goes wrong in it is part of its evidence; what ends the evaluation says [`note`].
    pub(super) fn arm(&mut self, task: &ArmTask<'_>, step: &Step) -> anyhow::Result<Arm> {
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
    /// everything is as it was found; only where messages are left are the services configured as they were found for the repair.
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
            let is_found = configuration == *self.found;
            // Where no message is left and recovery is as slow as it was found, no service changes anything meanwhile.
            let is_slow = configuration.overrides == self.found.overrides;
            let is_idle = keys_are_found && is_slow && no_message_is_left(self.system, arm)?;
            if !is_idle && !is_found {
                self.system.configure(&Wanted::found(self.found))?;
            }
            // Processes that were started since decide what waited for them.
            let at_rest = arm.settled_after_ms.is_some() && is_found;
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
        if let Some(changed) =
            changed_image(&self.system.members()?, &task.evaluation.versions.images)
        {
            anyhow::bail!(
                "{changed} runs another image than when the run began: somebody's `up` has built one under the same tag"
            );
        }
        arm.steps.push(clock.lap("configure"));
        let observes_alerts = matches!(experiment.observed, Observed::Alerts { .. });
        // Its users are signed up while the system settles, unless much more is waited for: their tokens expire.
        let begun = (!observes_alerts).then(|| self.start_load(task, arm));
        let begun = begun.transpose()?;
        step.update("waiting for the steady state");
        let steady = steady::wait_for(self.system, probe, STEADY_WITHIN)?;
        let reached = steady.reached;
        arm.steady_before = Some(steady);
        if !reached {
            return Ok(());
        }
        if observes_alerts {
            step.update("waiting until no alert fires");
            alerts::wait_until_nothing_fires(self.system)?;
        }
        // A sign-up that met a system which wasn't steady yet has ended it.
        let load = match begun {
            Some(load) => load.or_again(|| self.start_load(task, arm))?,
            None => self.start_load(task, arm)?,
        };
        let traces = match experiment.observed {
            Observed::Traces | Observed::Spans => Some(Watch::begin(self.system)?),
            Observed::Reconciliation | Observed::Alerts { .. } => None,
        };
        arm.steps.push(clock.lap("steady"));
        let quiet_since = Utc::now();
        let stock = reconciliation::stock(self.system)?;
        let since = arm.started_at;
        let sampler = Sampler::default();
        let ledger = thread::scope(|scope| {
            scope.spawn(|| sampler.run(self.system, since));
            let ledger = self.load_and_fault(task, arm, load, &sampler, step);
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

    fn start_load(&mut self, task: &ArmTask<'_>, arm: &Arm) -> anyhow::Result<Load> {
        let experiment = task.experiment;
        self.loads += 1;
        let folder = format!("{:02}-{}-{}", self.loads, experiment.name, arm.name);
        Load::start(
            self.loadtest,
            &experiment.load,
            &self.system.gateways()?,
            &repair::load_run_id(&task.evaluation.run, self.loads),
            task.seed,
            self.folder.loads_path().join(folder),
        )
    }

    fn load_and_fault(
        &mut self,
        task: &ArmTask<'_>,
        arm: &mut Arm,
        mut load: Load,
        sampler: &Sampler,
        step: &Step,
    ) -> anyhow::Result<Ledger> {
        let experiment = task.experiment;
        let mut clock = StepClock::start();
        step.update("waiting for the load's users");
        let since = Utc::now();
        load.begin()?;
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
            if asked_lately || still_for <= STILL_FOR {
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

/// Whether an arm has settled, and left neither a dead letter nor a message that waits.
fn no_message_is_left(system: &RunningSystem<'_>, arm: &Arm) -> anyhow::Result<bool> {
    let found = arm.reconciliation.as_ref();
    let is_settled = arm.failure.is_none() && arm.settled_after_ms.is_some();
    if !is_settled || found.is_none_or(|found| found.dead_letters.values().any(|it| *it > 0)) {
        return Ok(false);
    }
    Ok(Reader::new(system.project, &system.members()?)?.waiting()? == 0)
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
pub(super) fn account(arm: &Arm) -> String {
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

/// How much later than planned the fault comes.
pub(super) fn jitter(seed: u64) -> Duration {
    let most = FaultPlan::JITTER.as_millis() as u64;
    Duration::from_millis(seed % most)
}

/// The services in which the arms of an experiment differ: those that read the switch of a pattern that not all have, or that
/// have several replicas.
fn compared(experiment: &Experiment) -> anyhow::Result<BTreeSet<Part>> {
    let mut compared = BTreeSet::new();
    for plan in experiment.arms {
        for pattern in plan.patterns_off {
            for service in pattern.read_by() {
                compared.insert(service.parse()?);
            }
        }
        compared.extend(plan.replicas.iter().map(|(service, _)| *service));
    }
    Ok(compared)
}

/// The first part that runs another image than at the beginning, by part; one that wasn't there then has none to compare.
fn changed_image(members: &[Member], at_first: &BTreeMap<String, String>) -> Option<Part> {
    let mut changed = members.iter().filter(|member| {
        let first = at_first.get(member.service.name());
        first.is_some_and(|first| *first != member.image)
    });
    changed.next().map(|member| member.service)
}

/// The configuration of an arm, on a system that was found with `found`.
fn wanted(experiment: &Experiment, plan: &ArmPlan, found: &Configuration) -> Wanted {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let mut overrides = found.overrides.clone();
    overrides.extend(plan.overrides.iter().map(owned));
    let patterns_off = plan.off_in(experiment).into_iter();
    let replicas = plan.replicas.iter();
    Wanted {
        patterns_off: patterns_off.map(|it| it.name().to_owned()).collect(),
        replicas: replicas
            .map(|(service, count)| (*service, *count))
            .collect(),
        overrides,
    }
}

#[cfg(test)]
mod tests {
    use base::outcome::{self, Exit};
    use system::interrupt::Interrupted;

    use super::{super::ended_early, *};
    use crate::{
        experiments,
        report::tests::{Sketch, evaluation},
    };

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
    fn an_image_that_changed_since_the_beginning_is_found() {
        let member = |image: &str| {
            let json = format!(
                r#"{{"Id":"a","Image":"{image}","RestartCount":0,"State":{{"Status":"running"}},
                "Config":{{"Labels":{{"com.docker.compose.service":"order-service"}}}},"NetworkSettings":{{}}}}"#
            );
            system::members::inspected(&json).unwrap()
        };
        let at_first = [("order-service".to_owned(), "one".to_owned())].into();
        assert_eq!(changed_image(&[member("one")], &at_first), None);
        let both = [member("one"), member("two")];
        assert_eq!(changed_image(&both, &at_first), Some(Part::OrderService));
        assert_eq!(changed_image(&both, &BTreeMap::new()), None);
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
}
