//! What a rate of orders takes, computed from the measured costs of an order: processors by part, and which limit is met first.
//!
//! Pure but for [`mod@measure`], which finds the costs on a running system, and the file that keeps them. Left out: latency, other requests
//! than orders, and a machine unlike the one that was measured: its cores are taken to be as quick.

pub mod measure;

use std::{fs, io::ErrorKind, path::PathBuf};

use anyhow::Context;
use base::outcome;
use records::capacity::FORMAT;
pub use records::capacity::{Costs, Held, PartCost};
use serde::Serialize;
use system::{Part, files::replace, project::Project};

/// The part of a core that is planned for: what is used all the time leaves nothing for peaks, and waiting grows without bound.
pub const UTILIZATION: f64 = 0.7;
/// How far a prediction may be from the measurement, as a part of it.
pub const PRECISION: f64 = 0.2;
/// Connections of the database that its superuser and other clients need.
const CONNECTIONS_FOR_OTHERS: u32 = 10;
/// Queues that each order passes: `order_events`, and `inventory_events` back.
const QUEUES: f64 = 2.0;
const MS_PER_SECOND: f64 = 1_000.0;
const BYTES_PER_MEGABYTE: f64 = 1e6;
/// The service whose processor is held where predictions are checked: it accepts, and has no rows that its replicas wait for.
const HELD: Part = Part::OrderService;

/// The largest machine that one process of the database or the broker may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// Its cores.
    pub cores: u32,
    /// What its disk writes, in megabytes (10⁶ bytes) a second.
    pub disk_megabytes: f64,
}

/// What a rate takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Orders a second.
    pub orders_per_second: f64,
    /// By part, the one with the most first.
    pub parts: Vec<Need>,
    /// The cores of all parts together.
    pub cores: f64,
    /// What the database writes to its log, in megabytes a second.
    pub wal_megabytes: f64,
    /// Database connections of all replicas.
    pub connections: u64,
    /// In the order in which they are met.
    pub limits: Vec<Limit>,
}

/// What one part needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Need {
    /// The part.
    pub part: Part,
    /// Cores, of which [`UTILIZATION`] is used.
    pub cores: f64,
    /// How many replicas of a core each; `None` where there is one process.
    pub replicas: Option<u64>,
}

/// What ends growth at some rate, unless something is changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Limit {
    /// The rate at which it is met, in orders a second.
    pub orders_per_second: f64,
    /// What is used up.
    pub what: String,
    /// The measured or assumed number that decides, in words.
    pub because: String,
    /// What one changes then.
    pub then: &'static str,
}

/// A prediction and what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Check {
    /// What was held, and the measured rate.
    pub held: Held,
    /// The predicted rate, in orders a second.
    pub predicted: f64,
    /// Predicted : measured.
    pub ratio: f64,
}

impl Check {
    /// Whether it is within [`PRECISION`].
    pub fn holds(&self) -> bool {
        (self.ratio - 1.0).abs() <= PRECISION
    }
}

/// The predictions for the points that the costs were not fitted to. Pure.
///
/// # Errors
/// When the costs lack the service that was held.
pub fn check(costs: &Costs) -> anyhow::Result<Vec<Check>> {
    let cost = cost_of(costs, HELD)?;
    let check = |held: &Held| {
        let each = (f64::from(held.millicores) - cost.idle_ms_per_second) / cost.ms_per_order;
        let predicted = f64::from(held.replicas) * each.max(0.0);
        Check {
            held: *held,
            predicted,
            ratio: predicted / held.orders_per_second,
        }
    };
    Ok(costs.held.iter().map(check).collect())
}

fn cost_of(costs: &Costs, part: Part) -> anyhow::Result<PartCost> {
    let cost = costs.parts.get(part.name()).copied();
    cost.with_context(|| format!("the costs have no {part}"))
}

/// What so many orders a second take. Pure.
///
/// # Errors
/// When the costs lack a part that an order passes.
pub fn plan(costs: &Costs, orders_per_second: f64, machine: Machine) -> anyhow::Result<Plan> {
    let mut parts = Vec::new();
    for (name, cost) in &costs.parts {
        let part: Part = name
            .parse()
            .map_err(|_| anyhow::anyhow!("the costs have an unknown part: {name}"))?;
        let used = cost.idle_ms_per_second + cost.ms_per_order * orders_per_second;
        let cores = used / MS_PER_SECOND / UTILIZATION;
        parts.push(Need {
            part,
            cores,
            replicas: is_replicated(part).then(|| whole(cores)),
        });
    }
    parts.sort_by(|a, b| b.cores.total_cmp(&a.cores));
    let connections = parts
        .iter()
        .filter_map(|need| {
            Some(u64::from(*costs.connections.get(need.part.name())?) * need.replicas?)
        })
        .sum();
    Ok(Plan {
        orders_per_second,
        cores: parts.iter().map(|need| need.cores).sum(),
        parts,
        wal_megabytes: costs.wal_bytes_per_order * orders_per_second / BYTES_PER_MEGABYTE,
        connections,
        limits: limits(costs, machine)?,
    })
}

/// Replicas of a core each.
fn whole(cores: f64) -> u64 {
    // At least one; a rate that needs more than 2^53 is none.
    cores.ceil().max(1.0) as u64
}

/// Whether more of it take more load, each with its own processor.
fn is_replicated(part: Part) -> bool {
    part.is_service() || part == Part::Traefik
}

/// What ends growth, in the order in which it does.
fn limits(costs: &Costs, machine: Machine) -> anyhow::Result<Vec<Limit>> {
    let (idle, ms) = costs.parts.values().fold((0.0, 0.0), |(idle, ms), cost| {
        (idle + cost.idle_ms_per_second, ms + cost.ms_per_order)
    });
    let database = cost_of(costs, Part::Postgres)?;
    let broker = cost_of(costs, Part::RabbitMq)?;
    // Of a core that is used as far as planned, what is left beside this much at rest, for orders of this cost.
    let at = |cores: f64, idle: f64, ms: f64| {
        ((cores * MS_PER_SECOND * UTILIZATION - idle) / ms).max(0.0)
    };
    let free = costs.max_connections.saturating_sub(CONNECTIONS_FOR_OTHERS);
    let per_order = connections_per_order(costs);
    let queue = broker.ms_per_order / QUEUES;
    let mut limits = vec![
        Limit {
            orders_per_second: at(f64::from(costs.cores), idle, ms),
            what: "the measured machine".to_owned(),
            because: format!(
                "all parts share {} cores, and an order takes {ms:.1} ms of one",
                costs.cores
            ),
            then: "several machines: gateways and services get replicas, database and broker a machine each",
        },
        Limit {
            orders_per_second: f64::from(free) / per_order,
            what: "database connections".to_owned(),
            because: format!(
                "{free} of {} are for services, which open {:.2} for each order a second",
                costs.max_connections, per_order
            ),
            then: "a pool in front of the database (PgBouncer, in transaction mode): only what is in a transaction needs one",
        },
        Limit {
            orders_per_second: at(1.0, 0.0, queue),
            what: "a quorum queue".to_owned(),
            because: format!(
                "a queue is one process on its leader, on one core at a time; {queue:.2} ms of an order are taken as its part"
            ),
            then: "several queues by a hash of the order's id (consistent-hash exchange), a group of consumers each",
        },
        Limit {
            orders_per_second: at(
                f64::from(machine.cores),
                database.idle_ms_per_second,
                database.ms_per_order,
            ),
            what: "the database's processors".to_owned(),
            because: format!(
                "one primary of {} cores has all four databases, and an order takes {:.2} ms of one",
                machine.cores, database.ms_per_order
            ),
            then: "a server for each service's database; then orders partitioned by user, and stock by product",
        },
        Limit {
            orders_per_second: machine.disk_megabytes * BYTES_PER_MEGABYTE
                / costs.wal_bytes_per_order,
            what: "the database's log".to_owned(),
            because: format!(
                "an order writes {:.0} bytes to it, and a disk {} megabytes a second",
                costs.wal_bytes_per_order, machine.disk_megabytes
            ),
            then: "the same partitions, each with a disk of its own",
        },
        Limit {
            orders_per_second: at(
                f64::from(machine.cores),
                broker.idle_ms_per_second,
                broker.ms_per_order,
            ),
            what: "the broker's processors".to_owned(),
            because: format!(
                "one node of {} cores leads every queue, and an order takes {:.2} ms of one",
                machine.cores, broker.ms_per_order
            ),
            then: "queues whose leaders are on several nodes, and then several clusters by partition",
        },
    ];
    limits.retain(|limit| limit.orders_per_second.is_finite());
    limits.sort_by(|a, b| a.orders_per_second.total_cmp(&b.orders_per_second));
    Ok(limits)
}

/// How many database connections the services open for each order a second, with as many replicas as their processors take.
fn connections_per_order(costs: &Costs) -> f64 {
    let of_service = |(name, connections): (&String, &u32)| {
        let cost = costs.parts.get(name)?;
        Some(f64::from(*connections) * cost.ms_per_order / MS_PER_SECOND / UTILIZATION)
    };
    costs.connections.iter().filter_map(of_service).sum()
}

/// Where the last measurement is kept.
pub fn file(project: &Project) -> PathBuf {
    project.outputs().join("capacity.json")
}

/// The last measurement.
///
/// # Errors
/// When there is none, or it can't be understood.
pub fn read(project: &Project) -> anyhow::Result<Costs> {
    let path = file(project);
    let next = "`cargo xtask capacity measure` measures them, in about two minutes, on a system that is up";
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(outcome::unavailable("no costs were measured yet", next));
        }
        text => text.with_context(|| format!("failed to read {}", path.display()))?,
    };
    understood(&text).map_err(|error| {
        outcome::unavailable(format!("{} can't be used: {error:#}", path.display()), next)
    })
}

/// The costs in a file's text. Pure.
fn understood(text: &str) -> anyhow::Result<Costs> {
    let costs: Costs = serde_json::from_str(text)?;
    anyhow::ensure!(
        costs.format == FORMAT,
        "its format is {}, not {FORMAT}",
        costs.format
    );
    let usable = |number: f64| number.is_finite() && number > 0.0;
    for (part, cost) in &costs.parts {
        let is_usable = cost.idle_ms_per_second.is_finite() && usable(cost.ms_per_order);
        anyhow::ensure!(is_usable, "an order costs {part} {} ms", cost.ms_per_order);
    }
    anyhow::ensure!(usable(costs.wal_bytes_per_order), "an order writes nothing");
    Ok(costs)
}

/// Keeps a measurement in the place of the last one.
fn write(project: &Project, costs: &Costs) -> anyhow::Result<()> {
    let path = file(project);
    replace(&path, &serde_json::to_vec_pretty(costs)?)
        .with_context(|| format!("failed to write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs() -> Costs {
        let part = |part: Part, idle, ms| {
            let cost = PartCost {
                idle_ms_per_second: idle,
                ms_per_order: ms,
            };
            (part.to_string(), cost)
        };
        Costs {
            format: FORMAT,
            measured_at: "2026-12-01T00:00:00Z".parse().unwrap(),
            agora: "abc".to_owned(),
            cores: 2,
            memory_bytes: 24 << 30,
            orders_per_second: 250.0,
            parts: [
                part(Part::Postgres, 5.0, 1.4),
                part(Part::RabbitMq, 20.0, 1.0),
                part(Part::OrderService, 4.0, 0.7),
                part(Part::Traefik, 1.0, 2.0),
                part(Part::Jaeger, 1.0, 0.3),
            ]
            .into(),
            wal_bytes_per_order: 5_000.0,
            connections: [(Part::OrderService.to_string(), 10)].into(),
            max_connections: 110,
            held: vec![
                Held {
                    replicas: 1,
                    millicores: 74,
                    orders_per_second: 100.0,
                },
                Held {
                    replicas: 2,
                    millicores: 74,
                    orders_per_second: 160.0,
                },
            ],
        }
    }

    const MACHINE: Machine = Machine {
        cores: 32,
        disk_megabytes: 125.0,
    };

    #[test]
    fn a_held_service_does_what_its_processor_is_enough_for() {
        let checks = check(&costs()).unwrap();
        // (74 - 4) / 0.7 for each replica.
        assert_eq!(checks[0].predicted, 100.0);
        assert!(checks[0].holds());
        assert_eq!(checks[1].predicted, 200.0);
        assert!(!checks[1].holds(), "{}", checks[1].ratio);
        let mut costs = costs();
        costs.parts.remove(HELD.name());
        assert!(check(&costs).is_err());
    }

    #[test]
    fn each_part_needs_its_cost_times_the_rate_and_some_are_one_process() {
        let plan = plan(&costs(), 1_000.0, MACHINE).unwrap();
        let need = |part: Part| plan.parts.iter().find(|need| need.part == part).unwrap();
        assert!((need(Part::OrderService).cores - 0.704 / 0.7).abs() < 1e-9);
        assert_eq!(need(Part::OrderService).replicas, Some(2));
        assert_eq!(need(Part::Traefik).replicas, Some(3));
        assert_eq!(need(Part::Postgres).replicas, None);
        assert_eq!(plan.parts[0].part, Part::Traefik);
        assert_eq!(plan.wal_megabytes, 5.0);
        assert_eq!(plan.connections, 20);
    }

    #[test]
    fn limits_come_in_the_order_in_which_they_are_met() {
        let plan = plan(&costs(), 1_000.0, MACHINE).unwrap();
        let at = |what: &str| {
            let mut limits = plan.limits.iter();
            limits
                .find(|limit| limit.what.contains(what))
                .unwrap()
                .orders_per_second
        };
        // (2 × 700 - 31) / 5.4.
        assert!((at("machine") - 253.5).abs() < 0.1);
        // 100 connections, 10 for each 1,000 orders a second.
        assert!((at("connections") - 10_000.0).abs() < 1e-6);
        assert!((at("queue") - 1_400.0).abs() < 1e-9);
        assert_eq!(at("log"), 25_000.0);
        let sorted = plan
            .limits
            .is_sorted_by(|a, b| a.orders_per_second <= b.orders_per_second);
        assert!(sorted, "{:?}", plan.limits);
    }

    #[test]
    fn a_file_that_says_nothing_usable_is_refused() {
        let text = |change: &dyn Fn(&mut Costs)| {
            let mut costs = costs();
            change(&mut costs);
            serde_json::to_string(&costs).unwrap()
        };
        assert!(understood(&text(&|_| ())).is_ok());
        let refused: [&dyn Fn(&mut Costs); 3] = [
            &|costs| costs.format = 0,
            &|costs| costs.wal_bytes_per_order = 0.0,
            &|costs| costs.parts.get_mut("postgres").unwrap().ms_per_order = 0.0,
        ];
        for change in refused {
            assert!(understood(&text(change)).is_err());
        }
        assert!(understood("{}").is_err());
    }
}
