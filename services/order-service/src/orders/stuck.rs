//! Orders that wait too long for their outcome, as a figure: `agora_orders_stuck`.

use std::time::Duration;

use chassis::database::Database;
use chassis::lifecycle::Lifecycle;
use tracing::{debug, warn};

const INTERVAL: Duration = Duration::from_secs(5);

/// Counts, every few seconds, the orders that aren't decided `after` that time.
pub fn watch(lifecycle: &Lifecycle, database: Database, after: Duration) {
    let stuck = lifecycle.metrics().gauge(
        "agora_orders_stuck",
        "Orders that have waited for their outcome for longer than ORDER_STUCK_AFTER_SECONDS",
    );
    let closing = lifecycle.closing();
    lifecycle.spawn_watcher("stuck orders", async move {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let counted = async {
                ticks.tick().await;
                database.in_reach().await;
                count(&database, after).await
            };
            tokio::select! {
                counted = counted => match counted {
                    Ok(count) => {
                        if stuck.set(count) < count {
                            warn!(count, "orders are stuck: their outcome does not come");
                        }
                    }
                    Err(error) => debug!(%error, "stuck orders not counted"),
                },
                () = closing.cancelled() => return Ok(()),
            }
        }
    });
}

async fn count(database: &Database, after: Duration) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT count(*) FROM orders
         WHERE status IN ('pending', 'cancelling') AND changed_at < now() - make_interval(secs => $1)",
    )
    .bind(after.as_secs_f64())
    .fetch_one(&database.pool)
    .await
}
