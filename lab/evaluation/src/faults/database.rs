//! Faults of databases: a locked table. Also which container used a database last, and the sessions that an evaluation
//! leaves behind.

use std::time::Duration;

use base::outcome;
use records::evaluation::FaultEffect;
use system::{
    Part, control,
    members::Member,
    running::{APPLICATION, RunningSystem},
    wait,
};

use super::{
    Fault, Injection,
    declaration::{Argument, Declaration},
    not_observed, observed,
};

/// What the session with the lock adds to its `application_name`: healing must end it, and not other sessions.
const HOLDER: &str = "holds a table";
/// The lock is released after this time even if nothing heals it.
pub(super) const HELD_AT_MOST: Duration = Duration::from_secs(15 * 60);
/// A statement of a service takes at most 5 s.
const HELD_WITHIN: Duration = Duration::from_secs(15);
/// A waiting statement fails after some seconds and is retried: a look may fall in between.
const WANTED_WITHIN: Duration = Duration::from_secs(3);
/// Under load a table is read many times a second.
const READ_WITHIN: Duration = Duration::from_secs(5);
const ENDED_WITHIN: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Asked for as `lock-table`.
pub(super) const LOCK_TABLE: Declaration = Declaration {
    name: "lock-table",
    does: "A session holds a table exclusively, for 15 minutes at most",
    proof: "other sessions wait for it",
    arguments: &[Argument::Database, Argument::Table],
    fault: |values| Fault::LockTable {
        database: values.database,
        table: values.table,
    },
};

/// A table with an exclusive lock.
#[derive(Debug)]
pub(super) struct LockTable {
    database: &'static str,
    table: &'static str,
}

impl LockTable {
    pub(super) fn new(
        system: &RunningSystem<'_>,
        database: &'static str,
        table: &'static str,
    ) -> anyhow::Result<Self> {
        let name = table.replace('\'', "''");
        let known = format!(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename = '{name}'"
        );
        if system.number(database, &known)? == 0 {
            return Err(outcome::usage(
                format!("the database `{database}` has no table `{table}`"),
                "e.g. `orders` in the database `orders`, `stock` in `inventory`",
            ));
        }
        Ok(Self { database, table })
    }
}

impl Injection for LockTable {
    fn inject(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        let database = self.database;
        let identifier = self.table.replace('"', "\"\"");
        let hold = format!(
            "BEGIN; LOCK TABLE \"{identifier}\" IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep({}); ROLLBACK",
            HELD_AT_MOST.as_secs()
        );
        let postgres = system.members_of(Part::Postgres)?.remove(0);
        let application = format!("PGAPPNAME={APPLICATION} {HOLDER}");
        // The session runs in the container, so that it needs no thread here; healing ends it by its name.
        let psql = [
            "psql",
            "--no-psqlrc",
            "--username=postgres",
            "--dbname",
            database,
            "--command",
            &hold,
        ];
        control::exec_in_background(&postgres, &application, psql)?;
        let held = format!(
            "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock'
               AND relation = '\"{identifier}\"'::regclass AND pid IN ({})",
            holders("pid")
        );
        let held = wait::until(HELD_WITHIN, LOOK_INTERVAL, || {
            Ok((system.number(database, &held)? > 0).then_some(()))
        })?;
        anyhow::ensure!(
            held.is_some(),
            "no session locked the table `{}` within {} s",
            self.table,
            HELD_WITHIN.as_secs()
        );
        Ok(())
    }

    fn effect(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pg_blocking_pids(pid) && ARRAY({})",
            holders("pid")
        );
        let table = self.table;
        Ok(match system.number(self.database, &waiting)? {
            0 => not_observed(format!("no session waits for the table `{table}`")),
            waiting => observed(format!("{waiting} sessions wait for the table `{table}`")),
        })
    }

    fn patience(&self) -> Duration {
        WANTED_WITHIN
    }

    fn heal(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        end(
            system,
            &holders("pg_terminate_backend(pid)"),
            &holders("pid"),
        )?;
        Ok(())
    }
}

/// Of these containers, the one with the latest statement in a database within the last second. Pings, which have no
/// text, don't count.
pub(super) fn in_use(
    system: &RunningSystem<'_>,
    mut members: Vec<Member>,
    database: &str,
) -> anyhow::Result<Vec<Member>> {
    let latest = format!(
        "SELECT host(client_addr) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name NOT LIKE '{APPLICATION}%'
           AND query <> '' AND query_start > clock_timestamp() - interval '1 second'
         ORDER BY query_start DESC LIMIT 1"
    );
    let reader = wait::until(READ_WITHIN, LOOK_INTERVAL, || {
        let rows = system.query(database, &latest)?;
        let address = rows.into_iter().flatten().next();
        Ok(address.and_then(|address| {
            let has_it = |c: &Member| c.networks.values().any(|own| *own == address);
            members.iter().position(has_it)
        }))
    })?;
    let Some(reader) = reader else {
        anyhow::bail!(
            "no container has asked the database `{database}` anything within the last second"
        );
    };
    Ok(vec![members.swap_remove(reader)])
}

/// A query for `what` of the sessions that hold a lock for an evaluation, in any database.
fn holders(what: &str) -> String {
    format!("SELECT {what} FROM pg_stat_activity WHERE application_name = '{APPLICATION} {HOLDER}'")
}

/// Ends every session of an evaluation but the one that asks; how many there were.
pub(super) fn end_sessions(system: &RunningSystem<'_>) -> anyhow::Result<usize> {
    let ours = |what| {
        format!(
            "SELECT {what} FROM pg_stat_activity
             WHERE application_name LIKE '{APPLICATION}%' AND pid <> pg_backend_pid()"
        )
    };
    end(system, &ours("pg_terminate_backend(pid)"), &ours("pid"))
}

fn end(system: &RunningSystem<'_>, terminate: &str, look: &str) -> anyhow::Result<usize> {
    let ended = system.query("postgres", terminate)?.len();
    if ended > 0 {
        let gone = wait::until(ENDED_WITHIN, LOOK_INTERVAL, || {
            Ok(system.query("postgres", look)?.is_empty().then_some(()))
        })?;
        anyhow::ensure!(
            gone.is_some(),
            "a session of an evaluation is still there {} s after it was ended",
            ENDED_WITHIN.as_secs()
        );
    }
    Ok(ended)
}
