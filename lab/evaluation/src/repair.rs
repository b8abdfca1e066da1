//! Repairs the data that an arm left inconsistent, so that the next arm, and whoever uses the system afterwards, finds
//! orders and stock that reconcile: dead letters are replayed or removed, and orders that can't end are deleted.
//!
//! Only orders of evaluations' test users are touched. All messages that were dead-lettered since the beginning are
//! replayed, as nobody else is supposed to use the system meanwhile. The evidence is recorded before. Left out: faults
//! ([`crate::faults::heal_everything`]).

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use base::outcome::Exit;
use chrono::{DateTime, Utc};
use shared_events::dead_letters::Selection;
use system::{
    dead_letters::{
        self, COUNTS_LAG, Reader,
        tool::{Order, Task, Tool},
    },
    running::RunningSystem,
    wait,
};

use super::{faults, reconciliation, test_users};

/// Longer than the retry tiers together.
const STILL_WITHIN: Duration = Duration::from_secs(90);
const INTERVAL: Duration = Duration::from_millis(500);
/// So few that a statement stays far below the longest argument of a program.
const IDS_PER_STATEMENT: usize = 500;

/// The id of a load run within an evaluation.
pub(crate) fn load_run_id(evaluation: &str, number: usize) -> String {
    format!("ev-{evaluation}-{number}")
}

/// What was repaired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Repaired {
    /// Sentences about a fault's unreadable messages that were removed.
    poison: Vec<String>,
    replayed: usize,
    erased: usize,
}

impl Repaired {
    /// A sentence for each kind of repair.
    pub(crate) fn said(self) -> Vec<String> {
        let sentences = [
            (self.replayed, "dead letters of an experiment replayed"),
            (self.erased, "inconsistent orders of an experiment deleted"),
        ];
        let sentences = sentences.into_iter().filter(|(count, _)| *count > 0);
        let sentences = sentences.map(|(count, what)| format!("{count} {what}"));
        self.poison.into_iter().chain(sentences).collect()
    }
}

/// Repairs everything that evaluations left inconsistent since `since`. `at_rest` says that nothing moves any more; else that is
/// waited for.
pub(crate) fn since(
    system: &RunningSystem<'_>,
    since: DateTime<Utc>,
    at_rest: bool,
) -> anyhow::Result<Repaired> {
    let mut repaired = Repaired::default();
    let mut wrong = wrong_for_good(system, since, at_rest)?;
    if !reconciliation::dead_letters_since(system, since)?.is_empty() {
        repaired.poison = faults::remove_poison(system)?;
        let ours = Selection {
            younger_than: Some((Utc::now() - since).to_std().unwrap_or_default()),
            ..Selection::default()
        };
        repaired.replayed = replay(system, &ours)?;
        if repaired.replayed > 0 {
            wrong = wrong_for_good(system, since, false)?;
        }
    }
    for ids in wrong.chunks(IDS_PER_STATEMENT) {
        erase(system, ids)?;
    }
    repaired.erased = wrong.len();
    Ok(repaired)
}

/// The ids of test users' orders that are inconsistent once nothing moves any more.
fn wrong_for_good(
    system: &RunningSystem<'_>,
    since: DateTime<Utc>,
    at_rest: bool,
) -> anyhow::Result<Vec<String>> {
    let query = format!(
        "SELECT id FROM users WHERE email LIKE '{}%' AND created_at >= '{}'",
        test_users::PREFIX,
        since.to_rfc3339()
    );
    let users: BTreeSet<String> = system
        .query("users", &query)?
        .into_iter()
        .flatten()
        .collect();
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let reader = Reader::new(system.project, &system.members()?)?;
    let mut last: Option<(Vec<String>, Instant)> = None;
    wait::until(STILL_WITHIN, INTERVAL, || {
        let holdings = reconciliation::read(system, &users, since)?;
        let wrong: Vec<String> = holdings.wrong().into_iter().map(str::to_owned).collect();
        if at_rest || wrong.is_empty() {
            return Ok(Some(wrong));
        }
        match &last {
            Some((before, since)) if *before == wrong => {
                let still = since.elapsed() > COUNTS_LAG && reader.waiting()? == 0;
                Ok(still.then_some(wrong))
            }
            _ => {
                last = Some((wrong, Instant::now()));
                Ok(None)
            }
        }
    })?
    .ok_or_else(|| {
        anyhow!(
            "messages are still under way after {} s, so nothing can be repaired: see `cargo xtask verify-dlq \
             --settled`, then `cargo xtask heal`",
            STILL_WITHIN.as_secs()
        )
    })
}

fn replay(system: &RunningSystem<'_>, selection: &Selection) -> anyhow::Result<usize> {
    let tool = Tool::new(system.project, &system.members()?)?;
    let mut done = 0;
    for queue in dead_letters::queues() {
        let order = Order {
            task: Task::Replay,
            queue: &queue,
            selection,
            limit: None,
            dry_run: false,
        };
        let (report, exit) = tool.run(&order)?;
        anyhow::ensure!(
            exit == Exit::Holds,
            "only {} of {} dead letters of {queue} were replayed",
            report.done,
            report.selected
        );
        done += report.done;
    }
    Ok(done)
}

/// Deletes orders from both databases, and releases their stock.
fn erase(system: &RunningSystem<'_>, orders: &[String]) -> anyhow::Result<()> {
    let ids = format!("ANY('{{{}}}'::uuid[])", orders.join(","));
    let inventory = format!(
        "WITH gone AS (DELETE FROM stock_movements WHERE order_id = {ids} RETURNING product_id, quantity),
              held AS (SELECT product_id, sum(quantity) AS quantity FROM gone GROUP BY product_id),
              forgotten AS (DELETE FROM reservations WHERE order_id = {ids})
         UPDATE stock SET available = available + held.quantity, reserved = reserved - held.quantity
         FROM held WHERE stock.product_id = held.product_id"
    );
    let orders = format!("DELETE FROM orders WHERE id = {ids}");
    system.query_all([("inventory", &inventory), ("orders", &orders)])?;
    Ok(())
}
