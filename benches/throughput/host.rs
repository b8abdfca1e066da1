//! The cost of a measurement: commits, and syncs of the write-ahead log.

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

/// Committed transactions of a database so far, including those that only read.
pub(crate) async fn commits(pool: &PgPool) -> i64 {
    // The statistics of a session appear shortly after its end.
    tokio::time::sleep(Duration::from_millis(200)).await;
    sqlx::query_scalar(
        "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}
