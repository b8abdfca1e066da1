//! Messages that are lost for good: for a moment no service can apply a message, and half of the resulting dead letters
//! are purged, as by an operator's mistake.

use std::time::Duration;

use base::outcome::Exit;
use chrono::{DateTime, Utc};
use records::evaluation::FaultEffect;
use shared_events::{
    dead_letters::Selection,
    topology::{self, Topology},
};
use system::{
    dead_letters::tool::{Order, Task, Tool},
    running::RunningSystem,
    wait,
};

use super::{Injection, effect_if, messages};

/// The name of the constraint that makes an inbox refuse messages; healing finds it by that.
const CONSTRAINT: &str = "agora_evaluation_refuses";
/// How long messages are refused.
const REFUSED_FOR: Duration = Duration::from_secs(2);

/// Dead letters of both streams, half of which are purged; healed, the others are sent again.
#[derive(Debug)]
pub(super) struct PurgeDeadLetters {
    since: DateTime<Utc>,
    dead: usize,
    purged: usize,
}

impl PurgeDeadLetters {
    pub(super) fn new(since: DateTime<Utc>) -> Self {
        Self {
            since,
            dead: 0,
            purged: 0,
        }
    }

    /// Selects the messages that were dead-lettered since the load began.
    fn selection(&self) -> Selection {
        Selection {
            younger_than: Some((Utc::now() - self.since).to_std().unwrap_or_default()),
            ..Selection::default()
        }
    }

    fn run(&self, system: &RunningSystem<'_>, order: &Order<'_>) -> anyhow::Result<(usize, usize)> {
        let (report, exit) = Tool::new(system.project, &system.members()?)?.run(order)?;
        anyhow::ensure!(
            exit == Exit::Holds,
            "of {} dead letters in {} only {} were {}",
            report.selected,
            report.queue,
            report.done,
            order.task.done()
        );
        Ok((report.selected, report.done))
    }

    fn purge_half(
        &self,
        system: &RunningSystem<'_>,
        stream: Topology,
    ) -> anyhow::Result<(usize, usize)> {
        let selection = self.selection();
        let queue = stream.dead_letter_queue();
        let look = Order {
            task: Task::Purge,
            queue: &queue,
            selection: &selection,
            limit: None,
            dry_run: true,
        };
        let (dead, _) = self.run(system, &look)?;
        if dead < 2 {
            return Ok((dead, 0));
        }
        let half = Order {
            limit: Some(dead / 2),
            dry_run: false,
            ..look
        };
        Ok((dead, self.run(system, &half)?.1))
    }
}

impl Injection for PurgeDeadLetters {
    fn inject(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        for stream in topology::ALL {
            let refuse = format!(
                "SET lock_timeout = '10s'; ALTER TABLE inbox ADD CONSTRAINT {CONSTRAINT} CHECK (false) NOT VALID"
            );
            system.query(consumers_database(stream), &refuse)?;
        }
        wait::pass(REFUSED_FOR)?;
        accept(system)?;
        for stream in topology::ALL {
            let (dead, purged) = self.purge_half(system, stream)?;
            self.dead += dead;
            self.purged += purged;
        }
        Ok(())
    }

    fn effect(&mut self, _system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        let (dead, purged) = (self.dead, self.purged);
        let proof = format!("of {dead} dead letters {purged} were purged");
        Ok(effect_if(purged > 0, proof))
    }

    fn heal(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        accept(system)?;
        let selection = self.selection();
        for stream in topology::ALL {
            let queue = stream.dead_letter_queue();
            let all = Order {
                task: Task::Replay,
                queue: &queue,
                selection: &selection,
                limit: None,
                dry_run: false,
            };
            self.run(system, &all)?;
        }
        Ok(())
    }
}

/// Lets services apply messages again; returns how many of them could not.
pub(super) fn accept(system: &RunningSystem<'_>) -> anyhow::Result<usize> {
    let known = format!("SELECT conname FROM pg_constraint WHERE conname = '{CONSTRAINT}'");
    let mut accepting = 0;
    for stream in topology::ALL {
        let database = consumers_database(stream);
        if !system.query(database, &known)?.is_empty() {
            let accept = format!("ALTER TABLE inbox DROP CONSTRAINT IF EXISTS {CONSTRAINT}");
            system.query(database, &accept)?;
            accepting += 1;
        }
    }
    Ok(accepting)
}

/// The database of a stream's consumer, which is the publisher of the other stream.
fn consumers_database(stream: Topology) -> &'static str {
    let others = topology::ALL.into_iter().find(|other| *other != stream);
    messages::database(others.unwrap_or(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_is_consumed_by_the_other_service() {
        let consumers = topology::ALL.map(consumers_database);
        assert_eq!(consumers, ["inventory", "orders"]);
    }
}
