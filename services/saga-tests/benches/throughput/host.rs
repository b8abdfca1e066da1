//! What a measurement cost: processor time by command, commits, syncs of the write-ahead log.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use sqlx::PgPool;

/// Clock ticks a second in `/proc`: <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>.
const TICKS: f64 = 100.0;

/// Processor time so far, by command; of all processes that can be seen from here.
pub(crate) struct Usage {
    at: Instant,
    ticks: BTreeMap<String, u64>,
}

/// How many processors each command kept busy.
pub(crate) struct Used(Vec<(String, f64)>);

impl Usage {
    pub(crate) fn now() -> Self {
        let mut ticks = BTreeMap::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
                continue;
            };
            if let Some((command, used)) = command_and_ticks(&stat) {
                *ticks.entry(command).or_default() += used;
            }
        }
        Self {
            at: Instant::now(),
            ticks,
        }
    }

    pub(crate) fn until_now(&self) -> Used {
        let now = Self::now();
        let seconds = (now.at - self.at).as_secs_f64();
        let mut used: Vec<_> = now
            .ticks
            .into_iter()
            .map(|(command, ticks)| {
                let before = self.ticks.get(&command).copied().unwrap_or(0);
                (
                    command,
                    ticks.saturating_sub(before) as f64 / TICKS / seconds,
                )
            })
            .filter(|(_, processors)| *processors >= 0.02)
            .collect();
        used.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        Used(used)
    }
}

/// Field 2 is the command in parentheses, fields 14 and 15 are user and system time.
fn command_and_ticks(stat: &str) -> Option<(String, u64)> {
    let (start, rest) = stat.rsplit_once(')')?;
    let (_, command) = start.split_once('(')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((command.to_owned(), user + system))
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum: f64 = self.0.iter().map(|(_, processors)| processors).sum();
        write!(f, "{sum:.2} busy")?;
        for (command, processors) in self.0.iter().take(7) {
            write!(f, ", {command} {processors:.2}")?;
        }
        Ok(())
    }
}

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
