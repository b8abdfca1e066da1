//! Finds what an order costs on a running system: each part's processor time at rest and under as much load as the machine takes, by the
//! kernel's count; and the rates with a service's processor held.
//!
//! Left out: what follows from it ([`super`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use base::{outcome, progress::Progress};
use chrono::{DateTime, Utc};
use records::{
    capacity::{Costs, FORMAT, Held, PartCost},
    scenario::Scenario,
};
use system::{
    Part, binaries, control, host, interrupt,
    lock::SystemLock,
    project::{self, Project},
    running::{self, RunningSystem, Wanted},
    wait,
};

use super::HELD;
use crate::{
    experiment::{LoadPlan, Model},
    faults::Fault,
    load::Load,
    reconciliation, repair,
    run_journal::RunJournal,
    runner,
    steady::{self, Probe},
};

/// How long the system is looked at while nothing happens.
const AT_REST: Duration = Duration::from_secs(10);
/// How long a load lasts from which costs or a rate are taken.
const LOADED: Duration = Duration::from_secs(20);
/// What a load begins with isn't counted: connections are made, and pools filled.
const WARM_UP: Duration = Duration::from_secs(4);
/// So many that what is held always has something to do: with fewer, what they wait for is their own latency.
const USERS: u32 = 64;
/// What each replica gets where the rate is held. Of one core's tenth it decides hundreds of orders a second, many in a batch, as it does
/// under the load that costs are from: with less, batches are smaller and each order costs up to twice as much.
const MILLICORES: u32 = 100;
/// What takes less than this of a core for an order, in milliseconds, has no part in one: what it does at rest isn't always the same.
const LEAST_MS: f64 = 0.01;
/// The part of the requests that may be refused, as where a load begins all at once: far below what a prediction may be off.
const MOST_FAILED: f64 = 0.01;
const STEADY_WITHIN: Duration = Duration::from_secs(30);
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(200);

/// Measures, and keeps what was found. The system is left as it was found.
///
/// # Errors
/// When the system isn't steady, or a step of it fails.
pub fn measure(project: &Project, seed: u64, progress: &Progress) -> anyhow::Result<Costs> {
    let system = RunningSystem::new(project)?;
    let _lock = SystemLock::take(project)?;
    progress.step("heal", |step| {
        let repaired = runner::heal(&system, step)?;
        step.result(repaired.join("; "));
        anyhow::Ok(())
    })?;
    let binaries = progress.step("load generator", |step| binaries::build(project, step))?;
    let journal = RunJournal {
        run: project::new_run_id()?,
        since: Utc::now(),
        found: system.configuration()?,
    };
    journal.begin(project)?;
    let measured = system.without_engine_checks();
    let measurement = Measurement {
        system: &measured,
        loadtest: &binaries.loadtest,
        folder: project.outputs().join("capacity").join(&journal.run),
        run: &journal.run,
        since: journal.since,
        seed,
        // What it costs is what ships.
        wanted: Wanted {
            patterns_off: BTreeSet::new(),
            ..Wanted::found(&journal.found)
        },
    };
    let costs = measurement.run(progress);
    interrupt::acknowledge();
    // Reported before any other error.
    runner::put_back(&system, &journal, progress)?;
    let costs = costs?;
    super::write(project, &costs)?;
    Ok(costs)
}

struct Measurement<'a> {
    system: &'a RunningSystem<'a>,
    loadtest: &'a PathBuf,
    folder: PathBuf,
    run: &'a str,
    /// When it began.
    since: DateTime<Utc>,
    seed: u64,
    wanted: Wanted,
}

/// What was used in a while.
struct Used {
    seconds: f64,
    /// Of a core, in milliseconds, by part.
    processor_ms: BTreeMap<Part, f64>,
    wal_bytes: f64,
    /// Orders that ended.
    decided: u64,
    /// Database connections by role, at the end.
    connections: BTreeMap<String, u32>,
}

impl Used {
    fn orders_per_second(&self) -> f64 {
        self.decided as f64 / self.seconds
    }
}

impl Measurement<'_> {
    fn run(&self, progress: &Progress) -> anyhow::Result<Costs> {
        progress.step("configure", |_| {
            self.system.configure(&self.with_replicas(1))?;
            self.wait_until_steady()
        })?;
        let at_rest = progress.step("at rest", |_| self.window(AT_REST))?;
        let loaded = progress.step("as much load as the machine takes", |step| {
            let loaded = self.under_load(1)?;
            step.result(format!("{:.0} orders a second", loaded.orders_per_second()));
            anyhow::Ok(loaded)
        })?;
        let mut held = Vec::new();
        for replicas in [1, 2] {
            let name = format!("{HELD} held, {replicas} of them");
            held.push(progress.step(&name, |step| {
                self.system.configure(&self.with_replicas(replicas))?;
                self.wait_until_steady()?;
                let fault = Fault::StarveCpu {
                    service: HELD,
                    millicores: MILLICORES,
                };
                let injected = fault.inject(self.system, Utc::now())?;
                let since = Utc::now();
                self.under_load(1 + replicas as usize)?;
                let orders_per_second = self.rate_since(since)?;
                injected.heal()?;
                step.result(format!("{orders_per_second:.0} orders a second"));
                Ok(Held {
                    replicas,
                    millicores: MILLICORES,
                    orders_per_second,
                })
            })?);
        }
        self.costs(&at_rest, &loaded, held)
    }

    fn costs(&self, at_rest: &Used, loaded: &Used, held: Vec<Held>) -> anyhow::Result<Costs> {
        anyhow::ensure!(loaded.decided > 0, "under load no order was decided");
        let orders = loaded.decided as f64;
        let mut parts = BTreeMap::new();
        for (part, used) in &loaded.processor_ms {
            let idle = at_rest.processor_ms.get(part).copied().unwrap_or_default();
            let idle = idle / at_rest.seconds;
            let ms_per_order = (used - idle * loaded.seconds) / orders;
            if ms_per_order >= LEAST_MS {
                let cost = PartCost {
                    idle_ms_per_second: idle,
                    ms_per_order,
                };
                parts.insert(part.to_string(), cost);
            }
        }
        let host = host::capacity()?;
        Ok(Costs {
            format: FORMAT,
            measured_at: Utc::now(),
            agora: running::commit(self.system.project),
            cores: host.cores,
            memory_bytes: host.memory_bytes,
            orders_per_second: loaded.orders_per_second(),
            parts,
            wal_bytes_per_order: loaded.wal_bytes / orders,
            connections: loaded.connections.clone(),
            max_connections: self.max_connections()?,
            held,
        })
    }

    fn with_replicas(&self, count: u32) -> Wanted {
        Wanted {
            replicas: [(HELD, count)].into(),
            ..self.wanted.clone()
        }
    }

    fn wait_until_steady(&self) -> anyhow::Result<()> {
        let steady = steady::wait_for(self.system, &mut Probe::default(), STEADY_WITHIN)?;
        if steady.reached {
            return Ok(());
        }
        let mut measures = steady.measures.iter();
        let why = measures.find(|measure| !measure.holds);
        Err(outcome::failed(
            match why {
                Some(measure) => format!(
                    "the system isn't steady: {} is {}",
                    measure.what, measure.found
                ),
                None => "the system isn't steady".to_owned(),
            },
            "`cargo xtask status` shows what runs; another load on it has to end first",
        ))
    }

    /// What is used in the middle of a load that always has something to answer. Returns when all its orders have ended.
    fn under_load(&self, number: usize) -> anyhow::Result<Used> {
        let plan = LoadPlan {
            scenario: Scenario::Order,
            model: Model::Closed { users: USERS },
            run_time: WARM_UP + LOADED,
            outlasts_fault: None,
            idempotency_keys: true,
        };
        let mut load = Load::start(
            self.loadtest,
            &plan,
            &self.system.gateways()?,
            &repair::load_run_id(self.run, number),
            self.seed,
            self.folder.join(number.to_string()),
        )?;
        load.begin()?;
        wait::pass(WARM_UP)?;
        let used = self.window(LOADED.saturating_sub(TICK))?;
        let ledger = load.finish()?;
        let summary = &ledger.evidence.summary;
        let (failed, all) = (summary.failed, summary.measured);
        anyhow::ensure!(
            failed as f64 <= all as f64 * MOST_FAILED,
            "{failed} of {all} requests failed: their cost isn't an order's"
        );
        self.settle()?;
        Ok(used)
    }

    /// Waits until every order has ended, which would else be part of the next measurement.
    fn settle(&self) -> anyhow::Result<()> {
        let settled = wait::until(SETTLED_WITHIN, TICK, || {
            let pending = format!(
                "SELECT count(*) FROM orders WHERE status = 'pending' AND placed_at >= '{}'",
                self.since.to_rfc3339()
            );
            Ok((self.system.number("orders", &pending)? == 0).then_some(()))
        })?;
        settled.context("orders wait that don't end")
    }

    /// What is used in this time.
    fn window(&self, time: Duration) -> anyhow::Result<Used> {
        let (begun, since) = (Instant::now(), Utc::now());
        let (before, wal_before) = (self.processor_times()?, self.wal()?);
        wait::pass(time)?;
        let (after, wal, until) = (self.processor_times()?, self.wal()?, Utc::now());
        let seconds = begun.elapsed().as_secs_f64();
        let mut processor_ms = BTreeMap::new();
        for (id, (part, now)) in after {
            let (_, then) = before
                .get(&id)
                .with_context(|| format!("{part} was replaced meanwhile"))?;
            let used = now.saturating_sub(*then).as_secs_f64() * 1_000.0;
            *processor_ms.entry(part).or_default() += used;
        }
        Ok(Used {
            seconds,
            processor_ms,
            wal_bytes: wal.saturating_sub(wal_before) as f64,
            decided: reconciliation::decided_between(self.system, since - LOADED, since, until)?,
            connections: self.connections()?,
        })
    }

    /// By member.
    fn processor_times(&self) -> anyhow::Result<BTreeMap<String, (Part, Duration)>> {
        let members = self.system.members()?.into_iter();
        let times = members.map(|member| {
            let used = control::processor_time(&member).ok_or_else(|| {
                outcome::unavailable(
                    format!("the processor time of {} can't be read", member.service),
                    "run this on the machine of the container engine",
                )
            })?;
            Ok((member.id, (member.service, used)))
        });
        times.collect()
    }

    fn wal(&self) -> anyhow::Result<u64> {
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint";
        self.system.number("orders", sql)
    }

    /// Orders a second, from the first that was placed since then to the last one's end: what is accepted sooner than decided only
    /// moves work to later.
    fn rate_since(&self, since: DateTime<Utc>) -> anyhow::Result<f64> {
        let sql = format!(
            "SELECT (count(*) / extract(epoch FROM max(changed_at) - min(placed_at)))::text FROM orders WHERE placed_at >= '{}'",
            since.to_rfc3339()
        );
        let rows = self.system.query("orders", &sql)?;
        let rate = rows
            .first()
            .and_then(|row| row.first())
            .context("no rate")?;
        rate.parse()
            .with_context(|| format!("the rate is {rate:?}"))
    }

    /// How many database connections a replica of each service has; of the one that may have several, at most.
    fn connections(&self) -> anyhow::Result<BTreeMap<String, u32>> {
        let sql = "SELECT usename, max(count) FROM (SELECT usename, client_addr, count(*) FROM pg_stat_activity
                   WHERE client_addr IS NOT NULL GROUP BY 1, 2) AS by_client GROUP BY 1";
        let rows = self.system.query("orders", sql)?;
        let mut connections = BTreeMap::new();
        for row in rows {
            let [role, count] = &row[..] else {
                anyhow::bail!("the database answered {row:?}");
            };
            // A service's role has its name, as far as SQL lets it.
            connections.insert(role.replace('_', "-"), count.parse()?);
        }
        Ok(connections)
    }

    fn max_connections(&self) -> anyhow::Result<u32> {
        let sql = "SELECT current_setting('max_connections')::bigint";
        Ok(self.system.number("orders", sql)?.try_into()?)
    }
}
