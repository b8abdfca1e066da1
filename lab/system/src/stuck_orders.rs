//! Orders that wait for inventory-service: which there are, and having their events published again.
//!
//! Both happen in order-service's database: a flag there asks order-service, which alone publishes its events, to do it with
//! its next sweep. Left out: that sweep (order-service), and dead letters ([`crate::dead_letters`]).

use std::{fmt, time::Duration};

use base::outcome;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Part, health, members::Member, running::RunningSystem};

/// The most orders that are listed; all are counted.
pub const LISTED: usize = 100;
const DATABASE: &str = "orders";
/// The condition of an order that waits.
const WAITING: &str = "status IN ('pending', 'cancelling')";

/// An order that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingOrder {
    /// Its id.
    pub order_id: String,
    /// Its status.
    pub status: Status,
    /// Since when it has had this status.
    pub since: DateTime<Utc>,
    /// Whether its event still waits for the broker: then nothing is lost yet.
    pub unpublished: bool,
    /// Whether that event is parked: the broker rejects it.
    #[serde(default)]
    pub parked: bool,
    /// How often its event was published again.
    pub recoveries: u32,
    /// When its event was last published again.
    pub recovered_at: Option<DateTime<Utc>>,
    /// Whether it is to be published again at the next sweep.
    pub recovery_requested: bool,
}

/// The status of an order that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It waits for its stock.
    Pending,
    /// It waits for its stock to be released.
    Cancelling,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Cancelling => "cancelling",
        })
    }
}

impl WaitingOrder {
    /// What it waits for.
    pub fn waits_for(&self) -> &'static str {
        match (self.status, self.unpublished) {
            _ if self.parked => "its parked event",
            (Status::Pending, true) => "OrderPlaced to be published",
            (Status::Pending, false) => "StockReserved or StockRejected",
            (Status::Cancelling, true) => "OrderCancelled to be published",
            (Status::Cancelling, false) => "StockReleased",
        }
    }
}

/// Which of the orders that wait.
#[derive(Debug, Clone)]
pub enum Which {
    /// Those that have waited for longer than this, and those of whose age nothing is known since the clock was set back.
    OlderThan(Duration),
    /// Those with these ids.
    Ids(Vec<String>),
}

impl Which {
    fn condition(&self) -> String {
        match self {
            Self::OlderThan(age) => format!(
                "{WAITING} AND changed_at NOT BETWEEN now() - make_interval(secs => {}) AND now() + make_interval(mins => 1)",
                age.as_secs()
            ),
            Self::Ids(ids) => format!("{WAITING} AND id = ANY('{{{}}}'::uuid[])", ids.join(",")),
        }
    }
}

/// How many orders wait, and the first of them, the longest waiting first.
///
/// # Errors
/// When the database can't be asked.
pub fn waiting(
    system: &RunningSystem<'_>,
    which: &Which,
) -> anyhow::Result<(u64, Vec<WaitingOrder>)> {
    let condition = which.condition();
    let count = format!("SELECT count(*) FROM orders WHERE {condition}");
    let list = format!(
        "SELECT json_build_object('order_id', id, 'status', status, 'since', changed_at, 'recoveries', recoveries,
                'recovered_at', recovered_at, 'recovery_requested', recovery_requested,
                'unpublished', EXISTS (SELECT FROM outbox WHERE subject = orders.id::text AND published_at IS NULL),
                'parked', EXISTS (SELECT FROM outbox WHERE subject = orders.id::text AND parked_at IS NOT NULL))
         FROM orders WHERE {condition} ORDER BY changed_at, id LIMIT {LISTED}"
    );
    Ok((
        system.number(DATABASE, &count)?,
        system.objects(DATABASE, &list)?,
    ))
}

/// Asks for the events of these orders to be published again; earlier attempts don't count any more. Returns the orders'
/// ids.
///
/// # Errors
/// When order-service couldn't do it, when one of the given orders doesn't wait (nothing is changed then), and when the
/// database can't be asked.
pub fn request_recovery(system: &RunningSystem<'_>, which: &Which) -> anyhow::Result<Vec<String>> {
    let mut serving = system.members_of(Part::OrderService)?;
    health::ask(&mut serving)?;
    if !serving.iter().any(Member::is_healthy) {
        return Err(outcome::unavailable(
            "no container of order-service is healthy, and it alone publishes its events",
            "`cargo xtask up` starts what is stopped; `cargo xtask logs order-service` says why it isn't healthy",
        ));
    }
    if let Which::Ids(ids) = which {
        let (count, found) = waiting(system, which)?;
        let waits = |id: &&String| found.iter().any(|order| order.order_id == **id);
        if count < ids.len() as u64
            && let Some(other) = ids.iter().find(|id| !waits(id))
        {
            return Err(outcome::failed(
                format!(
                    "order {other} doesn't wait for anything, or there is none: nothing was changed"
                ),
                "`cargo xtask orders stuck` lists those that wait",
            ));
        }
    }
    let request = format!(
        "UPDATE orders SET recovery_requested = true, recoveries = 0 WHERE {} RETURNING id",
        which.condition()
    );
    let requested = system.query(DATABASE, &request)?;
    Ok(requested.into_iter().flatten().collect())
}
