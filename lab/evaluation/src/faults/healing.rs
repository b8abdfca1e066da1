//! Healing without a record: finds what an interrupted command left by looking at the system.
//!
//! Left out: configuration, which the run journal restores ([`crate::run_journal`]).

use std::time::Duration;

use base::{
    outcome::{self, Exit},
    progress::Step,
};
use shared_events::{dead_letters::Selection, topology};
use system::{
    Part, control,
    dead_letters::{
        self,
        tool::{Order, Task, Tool},
    },
    definition::Definition,
    health::{self, FOUNDATIONS},
    members::Member,
    rolling,
    running::RunningSystem,
};

use super::{POISON_TYPE, broker, database, limits, members::name, purge};

/// RabbitMQ takes ten seconds to boot; the services reconnect within five.
const HEALTHY_WITHIN: Duration = Duration::from_secs(120);

/// Undoes every fault, whoever injected it, and waits until all containers are healthy; returns what was repaired, in
/// words.
///
/// A healthy system is not touched. Configuration is left alone: which patterns are off, and how many replicas a
/// service has.
pub fn heal_everything(system: &RunningSystem<'_>, step: &Step) -> anyhow::Result<Vec<String>> {
    let mut repaired = Repaired {
        step,
        what: Vec::new(),
    };
    heal_containers(system, &mut repaired)?;
    wait_until_healthy(system, |member| FOUNDATIONS.contains(&member.service))?;
    match database::end_sessions(system)? {
        0 => {}
        ended => repaired.add(format!("{ended} database sessions of an evaluation ended")),
    }
    match purge::accept(system)? {
        0 => {}
        accepting => repaired.add(format!("{accepting} services can apply messages again")),
    }
    if broker::restore_watermark(system)? {
        repaired.add("the broker's memory watermark set back".to_owned());
    }
    for binding in broker::restore_bindings(system)? {
        repaired.add(format!("binding restored: {binding}"));
    }
    broker::require_no_alarm(system)?;
    wait_until_healthy(system, |_| true)?;
    for removed in remove_poison(system)? {
        repaired.add(removed);
    }
    Ok(repaired.what)
}

struct Repaired<'s> {
    step: &'s Step,
    what: Vec<String>,
}

impl Repaired<'_> {
    fn add(&mut self, what: String) {
        self.step.say(&what);
        self.what.push(what);
    }
}

fn heal_containers(system: &RunningSystem<'_>, repaired: &mut Repaired<'_>) -> anyhow::Result<()> {
    // First: a container that was about to be removed must not be started again.
    for service in Part::services() {
        for what in rolling::repair(system, service)? {
            repaired.add(what);
        }
    }
    let definition = Definition::read(system)?;
    for member in system.members()? {
        if control::unlimit_cpu(&member)? {
            repaired.add(format!(
                "{} has its share of the processor again",
                name(&member)
            ));
        }
        if limits::restore_memory(&member, definition.limits(&member)?)? {
            repaired.add(format!("{} has its memory again", name(&member)));
        }
        for network in definition.reconnect(&member)? {
            repaired.add(format!(
                "{} is back in the network {network}",
                name(&member)
            ));
        }
    }
    for started in system.bring_back()? {
        repaired.add(started);
    }
    // Read again: restoring a limit may have stopped a container.
    for member in system.members()? {
        if let Some(done) = control::resume(&member)? {
            repaired.add(format!("{} {done}", name(&member)));
        }
    }
    Ok(())
}

fn wait_until_healthy(
    system: &RunningSystem<'_>,
    concerned: impl Fn(&Member) -> bool,
) -> anyhow::Result<()> {
    let look = || {
        let mut members = system.members()?;
        members.retain(&concerned);
        Ok(members)
    };
    let members = health::wait(HEALTHY_WITHIN, look, |_| false)?;
    match members.iter().find(|member| !member.is_healthy()) {
        None => Ok(()),
        Some(sick) => Err(outcome::failed(
            format!(
                "{} is {}, {} s after everything was repaired",
                name(sick),
                sick.condition(),
                HEALTHY_WITHIN.as_secs()
            ),
            "`cargo xtask logs SERVICE` says why; `cargo xtask up` makes what is missing",
        )),
    }
}

/// Removes the dead letters of the type [`POISON_TYPE`]; returns how many from which queue, in words.
pub fn remove_poison(system: &RunningSystem<'_>) -> anyhow::Result<Vec<String>> {
    let selection = Selection {
        event_type: Some(POISON_TYPE.to_owned()),
        ..Selection::default()
    };
    let members = system.members()?;
    let reader = dead_letters::Reader::new(system.project, &members)?;
    let mut removed = Vec::new();
    for stream in topology::ALL {
        let queue = stream.dead_letter_queue();
        // A look first: the tool needs a container, and mostly there is nothing to remove.
        if reader.read(&queue, 1, 1)?.count == 0 {
            continue;
        }
        let (report, exit) = Tool::new(system.project, &members)?.run(&Order {
            task: Task::Purge,
            queue: &queue,
            selection: &selection,
            limit: None,
            dry_run: false,
        })?;
        if exit != Exit::Holds {
            return Err(outcome::failed(
                format!("the poison in {queue} could not be removed"),
                "run it again",
            ));
        }
        if report.done > 0 {
            removed.push(format!(
                "{} messages of poison removed from {queue}",
                report.done
            ));
        }
    }
    Ok(removed)
}
