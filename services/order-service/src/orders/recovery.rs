//! Saga recovery: an order that is stuck has its event published again, so that a message that was lost (purged by an
//! operator, expired, dropped by a bug) doesn't leave it `pending` or `cancelling` for ever.
//!
//! | the order is | lost is | published again | then inventory-service |
//! |---|---|---|---|
//! | `pending` | `OrderPlaced` | `OrderPlaced` | settles it |
//! | `pending` | `StockReserved`, `StockRejected` | `OrderPlaced` | knows the event, and repeats its answer |
//! | `cancelling` | `OrderCancelled` | `OrderCancelled` | releases the stock; where `OrderPlaced` was lost too, there is none |
//! | `cancelling` | `StockReleased` | `OrderCancelled` | knows the event, and repeats its answer |
//!
//! Each under the id that it had: what was not lost after all, or comes back out of the dead letters later, is a duplicate
//! for the inbox. A sweep takes so many orders, the longest waiting first, each locked with its row and skipped by other
//! replicas; an order's turn comes again after twice the time, so many times, and then it is left to an operator
//! (`agora_orders_stuck` goes on counting it, and so does `agora_orders_given_up`). An event that still waits in the outbox
//! is left alone, and so is the order of an order's events.
//!
//! With the pattern off only orders are recovered that somebody asked for (`cargo xtask orders repair`). Left out: orders
//! that nobody waits for any more, and messages that are dead for good reason: they die again, and are seen there.
//! Source: <https://learn.microsoft.com/en-us/azure/architecture/patterns/scheduler-agent-supervisor>.

use chassis::database::Database;
use chassis::lifecycle::Lifecycle;
use chassis::metrics::{Counter, Gauge};
use chassis::outbox::Outbox;
use chassis::patterns::Pattern;
use chrono::Utc;
use sqlx::PgPool;
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
            "Orders that were stuck and had their event published again; an order counts each time",
        ),
        given_up: lifecycle.metrics().gauge(
            "agora_orders_given_up",
            "Orders that are stuck although their event was published again AGORA_SAGA_RECOVERY_ATTEMPTS times",
        ),
    };
    database.every(lifecycle, "saga recovery", config.interval, move || {
        let sweeper = sweeper.clone();
        async move { sweeper.sweep().await }
    });
}

#[derive(Clone)]
struct Sweeper {
    pool: PgPool,
    outbox: Outbox,
    /// None with the pattern off.
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
        for (order, attempts) in &stuck {
            let Some(event) = order.awaited() else {
                continue;
            };
            let (id, event_type) = (event.id, event.event_type.clone());
            if work.republish(event).await? {
                store::note_recovery(work.connection(), order.id, id).await?;
                recovered.push((order, event_type, attempts + 1));
            }
        }
        if recovered.is_empty() {
            // Mostly: nothing is to be written, nor published.
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
