//! Reconciles the ledger of an arm, what clients were promised, with databases and queues, in both directions.
//!
//! From promises to stock, an order is followed hop by hop: its row, its event in the outbox, that event in
//! inventory-service's inbox, the reservation, the stock that it moved, the event with the outcome, and the order's last
//! status. From stock to promises, whatever was made of an order must have the order's row: without one it is a ghost. Left
//! out: what the services report about themselves.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use base::uuids;
use chrono::{DateTime, TimeDelta, Utc};
use records::{
    evaluation::{Configuration, Hop, Reconciliation},
    load::{CancellationEntry, LedgerEntry},
};
use serde_json::Value;
use shared_events::topology::DeadReason;
use system::{
    dead_letters::{self, DeadLetter, READ_LIMIT, Reader},
    running::RunningSystem,
};

/// Clocks of containers on one machine are one clock; a margin for times that are rounded.
const MARGIN: TimeDelta = TimeDelta::seconds(1);
const ACCEPTED: u16 = 202;
/// How much of a dead letter is read to find its order: an event is smaller.
const EVENT_BYTES: usize = 4_096;
/// So few that a statement stays far below the longest argument of a program.
const IDS_PER_STATEMENT: usize = 500;

const STOCK: &str = "SELECT product_id, available + reserved FROM stock";

/// How many pieces of each product there are, available and reserved together, by product id.
pub type Stock = BTreeMap<i64, i64>;

/// What the databases and queues hold of one arm.
#[derive(Debug, Default)]
pub struct Holdings {
    /// The orders of the arm's users, by id.
    orders: BTreeMap<String, OrderRow>,
    /// Orders whose `OrderPlaced` was published from the outbox: the event's id by order id.
    placed_events: BTreeMap<String, String>,
    /// Ids of the events in inventory-service's inbox.
    inbox: BTreeSet<String>,
    /// inventory-service's outcome of each order, by order id: `reserved`, `rejected` or `released`.
    reservations: BTreeMap<String, String>,
    /// The stock movements of each order, by order id.
    movements: BTreeMap<String, Moved>,
    /// Orders whose outcome was published from inventory-service's outbox.
    told: BTreeSet<String>,
    /// What was made of orders, whoever placed them, by order id: `reservation`, …
    made: BTreeMap<String, BTreeSet<&'static str>>,
    /// Those of them that have a row and aren't in `orders`: somebody else's.
    others: BTreeSet<String>,
    /// Dead letters of this arm.
    dead: Vec<DeadLetter>,
    stock: Stock,
    /// Products whose reserved stock isn't the sum of its movements.
    unexplained: Vec<String>,
}

#[derive(Debug)]
struct OrderRow {
    status: String,
    quantity: i64,
    product_id: i64,
    user_id: String,
    /// Empty without one.
    idempotency_key: String,
}

/// The stock movements of an order.
#[derive(Debug, Default)]
struct Moved {
    /// How many times it took stock.
    takings: u64,
    /// How many pieces it holds now.
    holds: i64,
}

impl OrderRow {
    fn ended(&self) -> bool {
        matches!(self.status.as_str(), "confirmed" | "rejected" | "cancelled")
    }
}

/// Reads the stock of each product.
pub fn stock(system: &RunningSystem<'_>) -> anyhow::Result<Stock> {
    stock_in(&system.query("inventory", STOCK)?)
}

fn stock_in(rows: &[Vec<String>]) -> anyhow::Result<Stock> {
    rows.iter()
        .map(|row| Ok((number(row, 0)?, number(row, 1)?)))
        .collect()
}

/// How many of the orders that were placed since `since` ended from `from` until `until`.
pub fn decided_between(
    system: &RunningSystem<'_>,
    since: DateTime<Utc>,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
) -> anyhow::Result<u64> {
    let sql = format!(
        "SELECT count(*) FROM orders WHERE placed_at >= '{}' AND changed_at >= '{}' AND changed_at < '{}'
         AND status NOT IN ('pending', 'cancelling')",
        since.to_rfc3339(),
        from.to_rfc3339(),
        until.to_rfc3339()
    );
    system.number("orders", &sql)
}

/// Reads what databases and queues hold of an arm: the orders of these users since it began.
pub fn read(
    system: &RunningSystem<'_>,
    users: &BTreeSet<String>,
    since: DateTime<Utc>,
) -> anyhow::Result<Holdings> {
    let since = since - MARGIN;
    let from = since.to_rfc3339();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let orders = format!(
        "SELECT id, status, quantity, product_id, user_id, coalesce(idempotency_key, '') FROM orders
         WHERE placed_at >= '{from}' AND user_id = ANY('{{{}}}')",
        users.join(",")
    );
    let published = |types: &str| {
        format!(
            "SELECT subject, event_id FROM outbox
             WHERE created_at >= '{from}' AND published_at IS NOT NULL AND event_type IN ({types})"
        )
    };
    let placed = published("'agora.order.placed.v1'");
    let told = published(
        "'agora.stock.reserved.v1', 'agora.stock.rejected.v1', 'agora.stock.released.v1'",
    );
    let subjects = format!("SELECT DISTINCT subject FROM outbox WHERE created_at >= '{from}'");
    let movements = format!(
        "SELECT order_id, count(*) FILTER (WHERE quantity > 0), sum(quantity) FROM stock_movements
         WHERE moved_at >= '{from}' GROUP BY order_id"
    );
    let inbox = format!("SELECT event_id FROM inbox WHERE received_at >= '{from}'");
    let reservations =
        format!("SELECT order_id, outcome FROM reservations WHERE settled_at >= '{from}'");
    let unexplained = "SELECT stock.product_id, stock.reserved, coalesce(sum(quantity), 0)
         FROM stock LEFT JOIN stock_movements USING (product_id) GROUP BY stock.product_id
         HAVING stock.reserved <> coalesce(sum(quantity), 0)";
    let [
        orders,
        placed,
        of_orders,
        of_inventory,
        movements,
        inbox,
        reservations,
        told,
        unexplained,
        stock,
    ] = system.query_all([
        ("orders", &orders),
        ("orders", &placed),
        ("orders", &subjects),
        ("inventory", &subjects),
        ("inventory", &movements),
        ("inventory", &inbox),
        ("inventory", &reservations),
        ("inventory", &told),
        ("inventory", unexplained),
        ("inventory", STOCK),
    ])?;
    let orders = orders.iter().map(|row| {
        let order = OrderRow {
            status: text(row, 1)?.to_owned(),
            quantity: number(row, 2)?,
            product_id: number(row, 3)?,
            user_id: text(row, 4)?.to_owned(),
            idempotency_key: text(row, 5)?.to_owned(),
        };
        Ok((text(row, 0)?.to_owned(), order))
    });
    let orders: BTreeMap<String, OrderRow> = orders.collect::<anyhow::Result<_>>()?;
    let movements = movements.iter().map(|row| {
        let moved = Moved {
            takings: number(row, 1)?.try_into()?,
            holds: number(row, 2)?,
        };
        Ok((text(row, 0)?.to_owned(), moved))
    });
    let movements: BTreeMap<String, Moved> = movements.collect::<anyhow::Result<_>>()?;
    let reservations = pairs(&reservations)?;
    let dead = dead_letters_of(system, since, EVENT_BYTES)?;
    let first = |rows: Vec<Vec<String>>| rows.into_iter().filter_map(|row| row.into_iter().next());
    let mut made: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    let mut note = |order: String, what| {
        made.entry(order).or_default().insert(what);
    };
    for (orders, what) in [
        (of_orders, "event in order-service's outbox"),
        (of_inventory, "event in inventory-service's outbox"),
    ] {
        first(orders).for_each(|order| note(order, what));
    }
    for order in reservations.keys() {
        note(order.clone(), "reservation");
    }
    for order in movements.keys() {
        note(order.clone(), "stock movement");
    }
    for order in dead.iter().filter_map(subject) {
        note(order, "dead letter");
    }
    let others = rows_of(system, made.keys().filter(|id| !orders.contains_key(*id)))?;
    Ok(Holdings {
        orders,
        made,
        others,
        placed_events: pairs(&placed)?,
        inbox: first(inbox).collect(),
        reservations,
        movements,
        told: first(told).collect(),
        dead,
        stock: stock_in(&stock)?,
        unexplained: unexplained
            .iter()
            .map(|row| {
                Ok(format!(
                    "product {}: {} reserved, its movements add up to {}",
                    text(row, 0)?,
                    text(row, 1)?,
                    text(row, 2)?
                ))
            })
            .collect::<anyhow::Result<_>>()?,
    })
}

fn pairs(rows: &[Vec<String>]) -> anyhow::Result<BTreeMap<String, String>> {
    rows.iter()
        .map(|row| Ok((text(row, 0)?.to_owned(), text(row, 1)?.to_owned())))
        .collect()
}

/// Which of these orders have a row.
fn rows_of<'a>(
    system: &RunningSystem<'_>,
    ids: impl Iterator<Item = &'a String>,
) -> anyhow::Result<BTreeSet<String>> {
    // Whoever writes to an outbox by hand may name anything.
    let ids: Vec<String> = ids.filter_map(|id| uuids::parse(id).ok()).collect();
    let mut found = BTreeSet::new();
    for ids in ids.chunks(IDS_PER_STATEMENT) {
        let sql = format!(
            "SELECT id FROM orders WHERE id = ANY('{{{}}}')",
            ids.join(",")
        );
        found.extend(system.query("orders", &sql)?.into_iter().flatten());
    }
    Ok(found)
}

/// The order that a dead letter is about, where it can be read.
fn subject(letter: &DeadLetter) -> Option<String> {
    let event: Value = serde_json::from_str(&letter.payload).ok()?;
    Some(event.get("subject")?.as_str()?.to_owned())
}

/// What a dead letter is counted as: its reason, and also that no order of it can be looked for. The word for an unreadable
/// event says that by itself.
fn counted_as(letter: &DeadLetter) -> String {
    let reason = letter.reason();
    if subject(letter).is_some() || reason == DeadReason::Unreadable.as_str() {
        return reason.to_owned();
    }
    format!("{reason}, of an order that can't be read")
}

/// The messages that were dead-lettered since `since`, and those without a time.
pub(super) fn dead_letters_since(
    system: &RunningSystem<'_>,
    since: DateTime<Utc>,
) -> anyhow::Result<Vec<DeadLetter>> {
    dead_letters_of(system, since, 0)
}

/// The same, with so much of each one's body.
fn dead_letters_of(
    system: &RunningSystem<'_>,
    since: DateTime<Utc>,
    body_bytes: usize,
) -> anyhow::Result<Vec<DeadLetter>> {
    let reader = Reader::new(system.project, &system.members()?)?;
    let mut dead = Vec::new();
    for queue in dead_letters::queues() {
        let content = reader.read(&queue, READ_LIMIT, body_bytes)?;
        anyhow::ensure!(
            content.count == content.letters.len(),
            "{queue} holds {} dead letters and only {} can be looked at: `cargo xtask dlq` makes room",
            content.count,
            content.letters.len()
        );
        let of_this_arm = |letter: &DeadLetter| letter.failed_at.is_none_or(|at| at >= since);
        dead.extend(content.letters.into_iter().filter(of_this_arm));
    }
    Ok(dead)
}

impl Holdings {
    /// The ids of orders that are inconsistent once nothing moves any more, promised or not: they have to be repaired
    /// before others can rely on the data.
    pub fn wrong(&self) -> BTreeSet<&str> {
        let reconciliation = self.judge_orders();
        [
            reconciliation.undecided,
            reconciliation.doubled,
            reconciliation.oversold,
            reconciliation.held,
        ]
        .concat()
        .into_iter()
        .collect()
    }

    fn judge_orders(&self) -> WrongOrders<'_> {
        let mut wrong = WrongOrders::default();
        let nothing = Moved::default();
        for (id, order) in &self.orders {
            let moved = self.movements.get(id).unwrap_or(&nothing);
            if !order.ended() {
                wrong.undecided.push(id);
            }
            if moved.takings > 1 {
                wrong.doubled.push(id);
            }
            if order.status == "confirmed" && moved.holds < order.quantity {
                wrong.oversold.push(id);
            }
            // Below 0 it gave back more than it took.
            if matches!(order.status.as_str(), "rejected" | "cancelled") && moved.holds != 0 {
                wrong.held.push(id);
            }
        }
        wrong
    }

    /// Reconciles a ledger with these holdings. `before` is the stock at the arm's beginning.
    pub fn reconcile(
        &self,
        ledger: &[LedgerEntry],
        cancellations: &[CancellationEntry],
        before: &Stock,
        configuration: &Configuration,
    ) -> Reconciliation {
        let promised: BTreeSet<&str> = ledger
            .iter()
            .filter_map(|entry| entry.order_id.as_deref())
            .collect();
        let cancelled: BTreeSet<&str> = cancellations
            .iter()
            .filter(|entry| entry.status == Some(ACCEPTED))
            .map(|entry| entry.order_id.as_str())
            .collect();
        let owned = |ids: Vec<&str>| ids.into_iter().map(str::to_owned).collect();
        let wrong = self.judge_orders();
        let without_end = |id: &&str| !self.orders.get(*id).is_some_and(OrderRow::ended);
        let uncancelled = |id: &&str| {
            let order = self.orders.get(*id);
            order.is_none_or(|order| order.status != "cancelled")
        };
        let mut statuses = BTreeMap::new();
        for order in self.orders.values() {
            *statuses.entry(order.status.clone()).or_default() += 1;
        }
        let mut dead_letters = BTreeMap::new();
        for letter in &self.dead {
            *dead_letters.entry(counted_as(letter)).or_default() += 1;
        }
        let stored = |id: &&String| !promised.contains(id.as_str());
        let indeterminate: Vec<&LedgerEntry> = ledger
            .iter()
            .filter(|entry| entry.is_indeterminate())
            .collect();
        let unpromised = self.orders.keys().filter(stored).count();
        let misanswered = ledger.iter().filter_map(|entry| self.misanswered(entry));
        // More than the requests of whose effect nothing is known: stored though it was refused, or twice.
        let unexplained = (unpromised > indeterminate.len()).then(|| {
            format!(
                "{unpromised} stored that nobody was promised, and {} requests that may have stored one",
                indeterminate.len()
            )
        });
        Reconciliation {
            undecided: owned(wrong.undecided),
            ghosts: self.ghosts(),
            misanswered: misanswered.chain(unexplained).collect(),
            indeterminate: indeterminate.len() as u64,
            indeterminate_stored: self.happened(&indeterminate),
            promised: promised.len() as u64,
            unpromised: unpromised as u64,
            cancellations: cancelled.len() as u64,
            hops: self.hops(&promised, configuration),
            statuses,
            lost: owned(promised.iter().copied().filter(without_end).collect()),
            doubled: owned(wrong.doubled),
            oversold: owned(wrong.oversold),
            held: owned(wrong.held),
            uncancelled: owned(cancelled.iter().copied().filter(uncancelled).collect()),
            dead_letters,
            unbalanced: self.unbalanced(before),
        }
    }

    /// What was made of orders without a row.
    fn ghosts(&self) -> Vec<String> {
        let rowless = self
            .made
            .iter()
            .filter(|(id, _)| !self.orders.contains_key(*id) && !self.others.contains(*id));
        let said = rowless.map(|(id, made)| {
            let made: Vec<&str> = made.iter().copied().collect();
            format!("{id}: {}", made.join(", "))
        });
        said.collect()
    }

    /// How a promised order is stored otherwise than its client was answered; one without a row is lost instead.
    fn misanswered(&self, entry: &LedgerEntry) -> Option<String> {
        let id = entry.order_id.as_ref()?;
        let order = self.orders.get(id)?;
        let answered = (i64::from(entry.quantity), entry.product_id, &entry.user_id);
        let stored = (order.quantity, order.product_id, &order.user_id);
        (answered != stored).then(|| {
            let said = |(quantity, product, user): (i64, i64, &String)| {
                format!("{quantity} of product {product} for {user}")
            };
            format!("{id}: answered {}, stored {}", said(answered), said(stored))
        })
    }

    /// How many of these requests happened: those whose key an order has. `None` where one has no key.
    fn happened(&self, indeterminate: &[&LedgerEntry]) -> Option<u64> {
        let key = |order: &OrderRow| (order.user_id.clone(), order.idempotency_key.clone());
        let stored: BTreeSet<(String, String)> = self.orders.values().map(key).collect();
        let mut happened = 0;
        for entry in indeterminate {
            let key = (entry.user_id.clone(), entry.idempotency_key.clone()?);
            happened += u64::from(stored.contains(&key));
        }
        Some(happened)
    }

    fn hops(&self, promised: &BTreeSet<&str>, configuration: &Configuration) -> Vec<Hop> {
        let is_off = |pattern: &str| {
            let off = configuration.patterns_off.values().flatten();
            off.into_iter().any(|off| off == pattern)
        };
        let (outbox, inbox) = (!is_off("outbox"), !is_off("inbox"));
        let hop = |name: &str, there: bool, came: &dyn Fn(&str) -> bool| {
            let missing = || promised.iter().filter(|id| !came(id));
            Hop {
                name: name.to_owned(),
                count: there.then(|| promised.len() as u64 - missing().count() as u64),
                missing: match there {
                    true => missing()
                        .take(Hop::NAMED)
                        .map(|id| (*id).to_owned())
                        .collect(),
                    false => Vec::new(),
                },
            }
        };
        vec![
            hop("order row", true, &|id| self.orders.contains_key(id)),
            hop("order event published from the outbox", outbox, &|id| {
                self.placed_events.contains_key(id)
            }),
            hop("order event in the inbox", outbox && inbox, &|id| {
                let event = self.placed_events.get(id);
                event.is_some_and(|event| self.inbox.contains(event))
            }),
            hop("decided by inventory-service", true, &|id| {
                self.reservations.contains_key(id)
            }),
            hop("stock moved, or none to move", true, &|id| match self
                .reservations
                .get(id)
                .map(String::as_str)
            {
                Some("reserved" | "released") => self.movements.contains_key(id),
                Some(_) => true,
                None => false,
            }),
            hop("outcome published from the outbox", outbox, &|id| {
                self.told.contains(id)
            }),
            hop("order ended", true, &|id| {
                self.orders.get(id).is_some_and(OrderRow::ended)
            }),
        ]
    }

    fn unbalanced(&self, before: &Stock) -> Vec<String> {
        let changed = before.iter().filter_map(|(product, before)| {
            let now = self.stock.get(product).copied().unwrap_or_default();
            (now != *before)
                .then(|| format!("product {product}: {before} in all before, {now} after"))
        });
        self.unexplained.iter().cloned().chain(changed).collect()
    }
}

#[derive(Debug, Default)]
struct WrongOrders<'a> {
    undecided: Vec<&'a str>,
    doubled: Vec<&'a str>,
    oversold: Vec<&'a str>,
    held: Vec<&'a str>,
}

fn text(row: &[String], column: usize) -> anyhow::Result<&str> {
    row.get(column)
        .map(String::as_str)
        .with_context(|| format!("a row with {} columns: {row:?}", row.len()))
}

fn number(row: &[String], column: usize) -> anyhow::Result<i64> {
    let text = text(row, column)?;
    text.parse()
        .with_context(|| format!("{text:?} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(ids: &[&str]) -> Vec<LedgerEntry> {
        ids.iter()
            .map(|id| LedgerEntry {
                at: DateTime::UNIX_EPOCH,
                intended_at: DateTime::UNIX_EPOCH,
                idempotency_key: None,
                user_id: "u".to_owned(),
                product_id: 1,
                quantity: 2,
                status: Some(ACCEPTED),
                order_id: Some((*id).to_owned()),
                trace_id: None,
                trace_sampled: None,
                latency_ms: 1,
                error: None,
            })
            .collect()
    }

    fn order(status: &str) -> OrderRow {
        OrderRow {
            status: status.to_owned(),
            quantity: 2,
            product_id: 1,
            user_id: "u".to_owned(),
            idempotency_key: String::new(),
        }
    }

    fn moved(takings: u64, holds: i64) -> Moved {
        Moved { takings, holds }
    }

    /// An order that went all the way, and what else is given.
    fn holdings(orders: &[(&str, &str, Moved)]) -> Holdings {
        let mut holdings = Holdings::default();
        for (id, status, _) in orders {
            holdings.orders.insert((*id).to_owned(), order(status));
            holdings
                .placed_events
                .insert((*id).to_owned(), format!("event of {id}"));
            holdings.inbox.insert(format!("event of {id}"));
            holdings
                .reservations
                .insert((*id).to_owned(), "reserved".to_owned());
            holdings.told.insert((*id).to_owned());
        }
        for (id, _, moved) in orders {
            let moved = Moved { ..*moved };
            holdings.movements.insert((*id).to_owned(), moved);
        }
        holdings
    }

    fn reconcile(holdings: &Holdings, promised: &[&str]) -> Reconciliation {
        holdings.reconcile(
            &ledger(promised),
            &[],
            &Stock::new(),
            &Configuration::default(),
        )
    }

    #[test]
    fn a_balanced_ledger_has_no_findings() {
        let holdings = holdings(&[
            ("a", "confirmed", moved(1, 2)),
            ("b", "rejected", moved(0, 0)),
            ("c", "cancelled", moved(1, 0)),
        ]);
        let reconciliation = reconcile(&holdings, &["a", "b", "c"]);
        assert!(reconciliation.lost.is_empty() && reconciliation.doubled.is_empty());
        assert!(reconciliation.oversold.is_empty() && reconciliation.held.is_empty());
        assert!(holdings.wrong().is_empty());
        assert!(
            reconciliation.hops.iter().all(|hop| hop.count == Some(3)),
            "{reconciliation:?}"
        );
    }

    #[test]
    fn what_was_made_of_an_order_without_a_row_is_a_ghost() {
        let mut holdings = holdings(&[("a", "confirmed", moved(1, 2))]);
        for (id, what) in [
            ("a", "reservation"),
            ("b", "stock movement"),
            ("b", "dead letter"),
            ("c", "reservation"),
        ] {
            holdings.made.entry(id.to_owned()).or_default().insert(what);
        }
        // Somebody else's order.
        holdings.others.insert("c".to_owned());
        let reconciliation = reconcile(&holdings, &["a"]);
        assert_eq!(reconciliation.ghosts, ["b: dead letter, stock movement"]);
        assert!(reconciliation.lost.is_empty());
    }

    #[test]
    fn a_dead_letter_whose_order_cannot_be_looked_for_is_counted_as_such() {
        let letter = |reason: Option<&str>, payload: &str| DeadLetter {
            queue: "order_events.dead".to_owned(),
            id: None,
            event_type: None,
            reason: reason.map(str::to_owned),
            error: None,
            attempts: None,
            routing_key: String::new(),
            failed_at: None,
            headers: serde_json::Map::new(),
            payload_bytes: payload.len(),
            payload: payload.to_owned(),
        };
        let event = r#"{"subject": "a", "data": {}}"#;
        assert_eq!(subject(&letter(None, event)).as_deref(), Some("a"));
        let holdings = Holdings {
            dead: vec![
                letter(Some("rejected"), event),
                // Longer than what is read of it.
                letter(Some("rejected"), &event[..20]),
                letter(None, "{}"),
                letter(Some("unreadable"), "not an event"),
            ],
            ..Holdings::default()
        };
        let found = reconcile(&holdings, &[]).dead_letters;
        let found: Vec<(&str, u64)> = found.iter().map(|(as_, n)| (as_.as_str(), *n)).collect();
        assert_eq!(
            found,
            [
                ("none given, of an order that can't be read", 1),
                ("rejected", 1),
                ("rejected, of an order that can't be read", 1),
                ("unreadable", 1)
            ]
        );
    }

    #[test]
    fn an_order_that_is_stored_otherwise_than_answered_is_found() {
        let mut holdings = holdings(&[("a", "confirmed", moved(1, 2))]);
        assert!(reconcile(&holdings, &["a"]).misanswered.is_empty());
        holdings.orders.get_mut("a").unwrap().quantity = 3;
        let reconciliation = reconcile(&holdings, &["a"]);
        assert_eq!(
            reconciliation.misanswered,
            ["a: answered 2 of product 1 for u, stored 3 of product 1 for u"]
        );
    }

    #[test]
    fn an_order_that_no_request_explains_is_stored_otherwise_than_answered() {
        let holdings = holdings(&[
            ("a", "confirmed", moved(1, 2)),
            ("b", "confirmed", moved(1, 2)),
        ]);
        let with_status = |status| LedgerEntry {
            status,
            order_id: None,
            ..ledger(&["x"]).remove(0)
        };
        let found = |status| {
            let mut ledger = ledger(&["a"]);
            ledger.push(with_status(status));
            let reconciled =
                holdings.reconcile(&ledger, &[], &Stock::new(), &Configuration::default());
            reconciled.misanswered
        };
        assert!(found(None).is_empty(), "it may have stored one");
        assert_eq!(
            found(Some(422)),
            ["1 stored that nobody was promised, and 0 requests that may have stored one"]
        );
    }

    #[test]
    fn a_request_without_an_answer_may_have_happened_and_its_key_says_so() {
        let mut holdings = holdings(&[("a", "pending", moved(0, 0))]);
        holdings.orders.get_mut("a").unwrap().idempotency_key = "k1".to_owned();
        let unanswered = |key: Option<&str>| LedgerEntry {
            status: None,
            order_id: None,
            idempotency_key: key.map(str::to_owned),
            ..ledger(&["x"]).remove(0)
        };
        let reconciled = |ledger: &[LedgerEntry]| {
            holdings.reconcile(ledger, &[], &Stock::new(), &Configuration::default())
        };
        let found = reconciled(&[unanswered(Some("k1")), unanswered(Some("k2"))]);
        assert_eq!(
            (found.indeterminate, found.indeterminate_stored),
            (2, Some(1))
        );
        assert_eq!(found.undecided, ["a"]);
        let answered = |status, error: &str| LedgerEntry {
            status: Some(status),
            error: Some(error.to_owned()),
            ..unanswered(Some("k1"))
        };
        for stored in [
            answered(504, "504, expected 202"),
            answered(503, "503 (urn:agora:problem:unavailable), expected 202"),
            answered(202, "202 with a broken body: unexpected end"),
        ] {
            let found = reconciled(&[stored]);
            assert_eq!(
                (found.indeterminate, found.indeterminate_stored),
                (1, Some(1))
            );
        }
        let refused = answered(503, "503 (urn:agora:problem:overloaded), expected 202");
        assert_eq!(reconciled(&[refused]).indeterminate, 0);
        let unknown = reconciled(&[unanswered(None)]);
        assert_eq!(
            (unknown.indeterminate, unknown.indeterminate_stored),
            (1, None)
        );
    }

    #[test]
    fn a_promise_without_a_row_or_an_end_is_lost_and_named_at_the_hop_where_it_was_last_seen() {
        let mut holdings = holdings(&[
            ("a", "confirmed", moved(1, 2)),
            ("b", "pending", moved(0, 0)),
        ]);
        holdings.inbox.remove("event of b");
        let reconciliation = reconcile(&holdings, &["a", "b", "c"]);
        assert_eq!(reconciliation.lost, ["b", "c"]);
        let missing = |name: &str| {
            let hop = reconciliation.hops.iter().find(|hop| hop.name == name);
            hop.map(|hop| hop.missing.clone()).unwrap_or_default()
        };
        assert_eq!(missing("order row"), ["c"]);
        assert_eq!(missing("order event in the inbox"), ["b", "c"]);
    }

    #[test]
    fn stock_taken_twice_not_at_all_or_kept_is_found() {
        let holdings = holdings(&[
            ("a", "confirmed", moved(2, 4)),
            ("b", "confirmed", moved(0, 0)),
            ("c", "cancelled", moved(1, 2)),
        ]);
        let reconciliation = reconcile(&holdings, &["a", "b", "c"]);
        assert_eq!(reconciliation.doubled, ["a"]);
        assert_eq!(reconciliation.oversold, ["b"]);
        assert_eq!(reconciliation.held, ["c"]);
        assert_eq!(holdings.wrong().len(), 3);
    }

    #[test]
    fn stock_that_vanished_is_found_by_its_product() {
        let mut holdings = holdings(&[]);
        holdings.stock = Stock::from([(1, 99), (2, 100)]);
        let before = Stock::from([(1, 100), (2, 100)]);
        let reconciliation = holdings.reconcile(&[], &[], &before, &Configuration::default());
        assert_eq!(
            reconciliation.unbalanced,
            ["product 1: 100 in all before, 99 after"]
        );
    }

    #[test]
    fn a_station_that_the_configuration_leaves_out_has_no_count() {
        let holdings = holdings(&[("a", "confirmed", moved(1, 2))]);
        let off = BTreeMap::from([("order-service".to_owned(), vec!["outbox".to_owned()])]);
        let configuration = Configuration {
            patterns_off: off,
            ..Configuration::default()
        };
        let reconciliation =
            holdings.reconcile(&ledger(&["a"]), &[], &Stock::new(), &configuration);
        let counts: Vec<Option<u64>> = reconciliation.hops.iter().map(|hop| hop.count).collect();
        assert_eq!(
            counts,
            [Some(1), None, None, Some(1), Some(1), None, Some(1)]
        );
    }
}
