//! The steady state: the measures of a system without a fault, each with its tolerance.
//!
//! Left out: alerts, which take minutes to be resolved ([`crate::alerts`]).

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use base::test_user::TestUser;
use records::evaluation::{Measure, Steadiness};
use serde_json::Value;
use system::{health, http::Client, members::Member, running::RunningSystem, wait};

use super::test_users;

/// How long an order may take from its 202 to its end while nothing else happens.
const DECIDED_WITHIN: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(50);
/// The pause between two looks at all measures.
const INTERVAL: Duration = Duration::from_millis(500);
/// A product that no load orders.
const PRODUCT: u32 = 100;

/// A test user who orders one piece now and then, to see whether orders are decided; signed up when there is something
/// to order. One for each arm: tokens expire, and what it ordered is repaired with the arm.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    user: Option<TestUser>,
}

impl Probe {
    fn order(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<Duration> {
        // Asked each time: a gateway that was reconfigured meanwhile may have another port.
        let client = Client::new(&system.gateway()?);
        let user = match self.user.take() {
            Some(user) => user,
            None => test_users::sign_up(&client, "probe")?,
        };
        let took = order(&client, &user)?;
        // Only one whose order went through is asked again: another's token may be of keys that are gone.
        self.user = Some(user);
        Ok(took)
    }
}

/// Orders one piece; returns how long it took until the order was confirmed.
fn order(client: &Client, user: &TestUser) -> anyhow::Result<Duration> {
    let authorization = format!("Bearer {}", user.token);
    let headers = [
        ("Authorization", authorization.as_str()),
        // The only identity that services get where the gateway verifies no token (`forward_auth` off); replaced
        // otherwise.
        ("X-User-Id", &user.id),
        ("X-User-Email", &user.email),
    ];
    let path = format!("/orders/?product_id={PRODUCT}&quantity=1");
    let answer = client.post(&path, &headers, None)?;
    anyhow::ensure!(
        answer.status == 202,
        "it was not accepted: {}",
        answer.shown()
    );
    let accepted = Instant::now();
    let order: Value = answer.json()?;
    let id = order["order_id"].as_str().context("no order_id")?;
    let path = format!("/orders/{id}");
    let decided = wait::until(DECIDED_WITHIN, TICK, || {
        let order: Value = client.get(&path, &headers, &[])?.json()?;
        Ok((order["status"] == "confirmed").then(|| accepted.elapsed()))
    })?;
    decided.ok_or_else(|| anyhow!("not within {} ms", DECIDED_WITHIN.as_millis()))
}

/// Waits until the system is steady or the limit has passed; returns its state then.
pub(crate) fn wait_for(
    system: &RunningSystem<'_>,
    probe: &mut Probe,
    limit: Duration,
) -> anyhow::Result<Steadiness> {
    let started = Instant::now();
    let mut measures = Vec::new();
    let reached = wait::until(limit, INTERVAL, || {
        measures = look(system, probe)?;
        Ok(measures.iter().all(|measure| measure.holds).then_some(()))
    })?;
    Ok(Steadiness {
        reached: reached.is_some(),
        waited_ms: started.elapsed().as_millis().try_into()?,
        measures,
    })
}

/// Takes all measures; an order is placed last, and only when all containers are healthy.
fn look(system: &RunningSystem<'_>, probe: &mut Probe) -> anyhow::Result<Vec<Measure>> {
    let mut members = system.members()?;
    health::ask(&mut members)?;
    let sick: Vec<String> = members
        .iter()
        .filter(|member| !member.is_healthy() && !member.service.is_optional())
        .map(|member: &Member| format!("{} {}", member.service, member.condition()))
        .collect();
    let healthy = Measure {
        what: "containers".to_owned(),
        tolerance: "all healthy".to_owned(),
        found: match sick.as_slice() {
            [] => format!("{} healthy", members.len()),
            sick => sick.join(", "),
        },
        holds: sick.is_empty(),
    };
    if !healthy.holds {
        return Ok(vec![healthy]);
    }
    let waiting = "SELECT count(*) FROM outbox WHERE published_at IS NULL";
    let unpublished = system.numbers([("orders", waiting), ("inventory", waiting)])?;
    let unpublished: u64 = unpublished.iter().sum();
    let ordered = probe.order(system);
    Ok(vec![
        healthy,
        Measure {
            what: "events that wait in the outboxes".to_owned(),
            tolerance: "0".to_owned(),
            found: unpublished.to_string(),
            holds: unpublished == 0,
        },
        Measure {
            what: "an order is confirmed".to_owned(),
            tolerance: format!("within {} ms", DECIDED_WITHIN.as_millis()),
            holds: ordered.is_ok(),
            found: match &ordered {
                Ok(took) => format!("{} ms", took.as_millis()),
                Err(error) => format!("{error:#}"),
            },
        },
    ])
}
