//! The number of orders that wait too long for their outcome: `agora_orders_stuck`.

use std::time::Duration;

use chassis::database::Database;
use chassis::lifecycle::Lifecycle;
use chassis::pool::Pool;
use tracing::warn;

const INTERVAL: Duration = Duration::from_secs(5);

/// Counts, every few seconds, the orders that stay undecided for longer than `after`, and those that changed in the future:
/// nobody knows their age since the clock was set back.
pub fn watch(lifecycle: &Lifecycle, database: &Database, after: Duration) {
    let stuck = lifecycle.metrics().gauge(
        "agora_orders_stuck",
        "Orders without an outcome for longer than ORDER_STUCK_AFTER_SECONDS",
    );
    let pool = database.pool.clone();
    database.every(lifecycle, "stuck orders", INTERVAL, move || {
        let (pool, stuck) = (pool.clone(), stuck.clone());
        async move {
            let count = count(&pool, after).await?;
            if stuck.set(count) < count {
                warn!(count, "orders are stuck without an outcome");
            }
            Ok(())
        }
    });
}

async fn count(pool: &Pool, after: Duration) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT count(*) FROM orders
         WHERE status IN ('pending', 'cancelling')
           AND changed_at NOT BETWEEN now() - make_interval(secs => $1) AND now() + make_interval(mins => 1)",
    )
    .bind(after.as_secs_f64())
    .fetch_one(pool)
    .await
}
