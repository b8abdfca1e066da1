//! Saga recovery: a stuck order has its event republished, so that a lost message (purged by an operator, expired, dropped
//! by a bug) doesn't leave it `pending` or `cancelling` for ever.
//!
//! | the order is | lost message | republished | then inventory-service |
//! |---|---|---|---|
//! | `pending` | `OrderPlaced` | `OrderPlaced` | settles it |
//! | `pending` | `StockReserved`, `StockRejected` | `OrderPlaced` | recognises the event, and repeats its answer |
//! | `cancelling` | `OrderCancelled` | `OrderCancelled` | releases the stock; none if `OrderPlaced` was lost too |
//! | `cancelling` | `StockReleased` | `OrderCancelled` | recognises the event, and repeats its answer |
//!
//! An event keeps its original id: if it was not lost after all, or is replayed from the dead letters later, the inbox
//! recognises the duplicate. A sweep takes a bounded number of orders, the longest waiting first, each locked with its row
//! and skipped by other replicas. An order is due again after twice the time, up to a maximum number of attempts; then it
//! is left to an operator (`agora_orders_stuck` still counts it, and so does `agora_orders_given_up`). An event that still
//! waits in the outbox is left alone, which preserves the order of an order's events.
//!
//! With the pattern off only orders requested by an operator are recovered (`cargo xtask orders repair`). Left out:
//! abandoned orders, and messages that are dead for a good reason: they are dead-lettered again.
//! Source: <https://learn.microsoft.com/en-us/azure/architecture/patterns/scheduler-agent-supervisor>.

use chassis::database::Database;
use chassis::lifecycle::Lifecycle;
use chassis::metrics::{Counter, Gauge};
use chassis::outbox::Outbox;
use chassis::patterns::Pattern;
use chassis::pool::Pool;
use chrono::Utc;
use tracing::warn;

use super::store::{self, ByAge};
use crate::config::RecoveryConfig;

/// Starts the sweeper.
pub fn start(lifecycle: &Lifecycle, database: &Database, outbox: Outbox, config: RecoveryConfig) {
    lifecycle.enter_pattern(Pattern::SagaRecovery, config.recovery);
    let sweeper = Sweeper {
        pool: database.pool.clone(),
        outbox,
        by_age: config.recovery.is_on().then_some(ByAge {
            after: config.after,
            attempts: config.attempts,
        }),
        config,
        recovered: lifecycle.metrics().counter(
            "agora_orders_recovered",
            "Events of stuck orders that were republished, once per attempt",
        ),
        given_up: lifecycle.metrics().gauge(
            "agora_orders_given_up",
            "Orders still stuck after AGORA_SAGA_RECOVERY_ATTEMPTS attempts at recovery",
        ),
    };
    database.every(lifecycle, "saga recovery", config.interval, move || {
        let sweeper = sweeper.clone();
        async move { sweeper.sweep().await }
    });
}

#[derive(Clone)]
struct Sweeper {
    pool: Pool,
    outbox: Outbox,
    /// `None` with the pattern off.
    by_age: Option<ByAge>,
    config: RecoveryConfig,
    recovered: Counter,
    given_up: Gauge,
}

impl Sweeper {
    async fn sweep(&self) -> Result<(), sqlx::Error> {
        let mut work = self.outbox.begin().await?;
        let stuck =
            store::to_recover(work.connection(), self.by_age, self.config.batch_size).await?;
        let mut recovered = Vec::new();
        if !stuck.damaged.is_empty() {
            store::note_damaged(work.connection(), &stuck.damaged).await?;
        }
        for (order, attempts) in &stuck.orders {
            let Some(event) = order.awaited() else {
                continue;
            };
            let (id, event_type) = (event.id, event.event_type.clone());
            if work.republish(event).await? {
                store::note_recovery(work.connection(), order.id, id).await?;
                recovered.push((order, event_type, attempts + 1));
            }
        }
        if recovered.is_empty() && stuck.damaged.is_empty() {
            // The usual case: nothing to write or publish.
            work.rollback().await?;
        } else {
            work.commit().await?;
        }
        for (order, event_type, attempt) in recovered {
            self.recovered.inc();
            warn!(
                order_id = %order.id,
                status = order.status.as_str(),
                event_type,
                attempt,
                waiting_seconds = (Utc::now() - order.changed_at).num_seconds(),
                "order is stuck: its event is published again"
            );
        }
        let given_up = store::count_given_up(&self.pool, self.config.attempts).await?;
        self.given_up.set(given_up);
        Ok(())
    }
}
