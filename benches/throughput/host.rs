//! What a measurement cost: commits, syncs of the write-ahead log.

use std::time::Duration;

use sqlx::PgPool;

/// The server's write-ahead log.
#[derive(Clone, Copy)]
pub(crate) struct Wal {
    pub(crate) syncs: i64,
}

impl Wal {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            syncs: self.syncs - before.syncs,
        }
    }
}

pub(crate) async fn wal(pool: &PgPool) -> Wal {
    let syncs = sqlx::query_scalar("SELECT wal_sync FROM pg_stat_wal")
        .fetch_one(pool)
        .await
        .unwrap();
    Wal { syncs }
}

/// Committed transactions of a database so far, those that only read included.
pub(crate) async fn commits(pool: &PgPool) -> i64 {
    // Statistics of sessions that end are there a moment later.
    tokio::time::sleep(Duration::from_millis(200)).await;
    sqlx::query_scalar(
        "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}
