//! What an order takes from stock, and gives back: the effects of [`OrderPlaced`] and [`OrderCancelled`].
//!
//! The two may come in any order. A cancellation that is first leaves its mark, and the order then takes
//! nothing. An event that comes again is answered again, as recorded: order-service sends it again when the answer was
//! lost. That an event was delivered before is noticed by the consumer's inbox, for as long as it remembers ids; beyond
//! that an order's row in `reservations` protects its stock ([`Repeats`]).

use chassis::consumer::Handler;
use chassis::failure::Failure;
use chassis::metrics::{Counter, Metrics};
use chassis::outbox::UnitOfWork;
use chassis::patterns::Switch;
use chassis::telemetry::Statement;
use shared_events::{
    Event, EventData, OrderCancelled, OrderId, OrderPlaced, ProductId, RejectReason, StockRejected,
    StockReleased, StockReserved,
};
use sqlx::PgConnection;
use tracing::info;

const SERVICE: &str = "inventory-service";

/// What becomes of an order that comes again and isn't known to the inbox: its id was pruned there, or nobody keeps one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeats {
    /// It is settled as `reservations` says: nothing is taken, and the answer is the one that it got before.
    Recognised,
    /// It takes its stock once more.
    TakenAgain,
}

impl Repeats {
    /// The business key belongs to the pattern `inbox`: without it nothing recognises a repeated order.
    pub fn chosen(inbox: Switch) -> Self {
        if inbox.is_on() {
            Self::Recognised
        } else {
            Self::TakenAgain
        }
    }
}

/// Applies the events of the order stream.
pub struct Reservations {
    repeats: Repeats,
    /// No event is published for these. Counted before the commit: a transaction that is retried counts once more.
    overtaken: Counter,
}

impl Reservations {
    /// Counts in `metrics` what came too late.
    pub fn new(metrics: &Metrics, repeats: Repeats) -> Self {
        let overtaken = metrics.counter(
            "agora_orders_overtaken",
            "Orders that came after their cancellation, without an event of their outcome",
        );
        Self { repeats, overtaken }
    }

    /// Too little stock is no failure: it is an outcome, with an event of its own.
    async fn reserve_stock(
        &self,
        work: &mut UnitOfWork<'_>,
        order: &OrderPlaced,
    ) -> Result<(), Failure> {
        let event = match decide(work.connection(), order, self.repeats).await? {
            Decision::Reserved => reserved(order),
            Decision::Rejected(reason) => rejected(order, reason),
            Decision::SettledBefore => {
                let Some(answer) = settled_as(work.connection(), order).await? else {
                    self.overtaken.inc();
                    info!(order_id = %order.order_id, "cancelled before it came: nothing is reserved");
                    return Ok(());
                };
                return answer_again(work, answer).await;
            }
        };
        info!(order_id = %order.order_id, outcome = event.event_type, "order settled");
        work.record(event);
        Ok(())
    }
}

impl Handler for Reservations {
    async fn apply(&self, event: &Event, work: &mut UnitOfWork<'_>) -> Result<(), Failure> {
        match event.event_type.as_str() {
            OrderPlaced::TYPE => self.reserve_stock(work, &event.data()?).await,
            OrderCancelled::TYPE => release_stock(work, &event.data()?).await,
            _ => Err(Failure::unknown_type(event)),
        }
    }

    async fn repeat(&self, event: &Event, work: &mut UnitOfWork<'_>) -> Result<(), Failure> {
        match event.event_type.as_str() {
            OrderPlaced::TYPE => match settled_as(work.connection(), &event.data()?).await? {
                Some(answer) => answer_again(work, answer).await,
                None => Ok(()),
            },
            OrderCancelled::TYPE => {
                let order = event.data()?;
                match released_as(work.connection(), &order).await? {
                    Some(answer) => answer_again(work, answer).await,
                    // It holds its stock still: this cancellation had no effect yet, whatever the inbox says.
                    None => release_stock(work, &order).await,
                }
            }
            _ => Ok(()),
        }
    }

    /// The product, whose row in `stock` all its orders change.
    fn lock_key(&self, event: &Event) -> i64 {
        match event.event_type.as_str() {
            OrderPlaced::TYPE => event.data().map(|order: OrderPlaced| order.product_id),
            _ => event.data().map(|order: OrderCancelled| order.product_id),
        }
        // What can't be read fails when it is applied.
        .map_or(0, ProductId::get)
    }
}

/// What becomes of an order.
enum Decision {
    Reserved,
    Rejected(RejectReason),
    /// It has its row in `reservations` already: settled, or cancelled before it came.
    SettledBefore,
}

/// Notes what becomes of the order, and moves the quantity from available to reserved if there is so much.
///
/// One statement, as each is a round trip. The product's row is locked first, here and in [`give_back`]: where several
/// events share a transaction all of them lock in the same order, and two events of one order queue up at it. New
/// figures are made from that row as it was locked: the one that the rest of the statement sees may be older, and would
/// be held against the constraints first.
async fn decide(
    connection: &mut PgConnection,
    order: &OrderPlaced,
    repeats: Repeats,
) -> Result<Decision, sqlx::Error> {
    let reason: Option<Option<String>> = sqlx::query_scalar(
        "WITH held AS (SELECT * FROM stock WHERE product_id = $2 FOR UPDATE),
         decided AS (
             SELECT CASE WHEN available IS NULL THEN $4 WHEN available < $3 THEN $5 END AS reason
             FROM (SELECT) AS order_placed LEFT JOIN held ON true),
         recorded AS (
             INSERT INTO reservations (order_id, product_id, quantity, outcome, reason)
             SELECT $1, $2, $3, CASE WHEN reason IS NULL THEN 'reserved' ELSE 'rejected' END, reason FROM decided
             ON CONFLICT (order_id) DO UPDATE
                 SET outcome = excluded.outcome, reason = excluded.reason, settled_at = now()
                 WHERE $6 AND reservations.outcome NOT IN ('cancelled', 'released')
             RETURNING reason),
         taken AS (
             UPDATE stock SET available = held.available - $3, reserved = held.reserved + $3
             FROM held, recorded WHERE stock.product_id = held.product_id AND recorded.reason IS NULL
             RETURNING stock.product_id),
         moved AS (
             INSERT INTO stock_movements (order_id, product_id, quantity) SELECT $1, product_id, $3 FROM taken)
         SELECT reason FROM recorded",
    )
    .bind(order.order_id.0)
    .bind(order.product_id.get())
    .bind(order.quantity.get())
    .bind(RejectReason::UnknownProduct.as_str())
    .bind(RejectReason::OutOfStock.as_str())
    .bind(repeats == Repeats::TakenAgain)
    .fetch_optional(connection)
    .traced("INSERT reservations")
    .await?;
    Ok(match reason {
        None => Decision::SettledBefore,
        Some(None) => Decision::Reserved,
        Some(Some(reason)) if reason == RejectReason::UnknownProduct.as_str() => {
            Decision::Rejected(RejectReason::UnknownProduct)
        }
        Some(Some(_)) => Decision::Rejected(RejectReason::OutOfStock),
    })
}

/// Publishes an answer that was given before, unless it waits to be published anyway.
async fn answer_again(work: &mut UnitOfWork<'_>, answer: Event) -> Result<(), Failure> {
    let (order_id, outcome) = (answer.subject.clone(), answer.event_type.clone());
    if work.republish(answer).await? {
        info!(order_id, outcome, "answered again");
    }
    Ok(())
}

/// What became of an order.
#[derive(sqlx::FromRow)]
struct Reservation {
    outcome: String,
    quantity: i32,
    reason: Option<String>,
}

impl Reservation {
    async fn find(
        connection: &mut PgConnection,
        order_id: OrderId,
    ) -> Result<Option<Self>, sqlx::Error> {
        sqlx::query_as("SELECT outcome, quantity, reason FROM reservations WHERE order_id = $1")
            .bind(order_id.0)
            .fetch_optional(connection)
            .traced("SELECT reservations")
            .await
    }
}

/// The answer that an order got, as it is recorded. None where it was cancelled since: the answer to that is what counts.
async fn settled_as(
    connection: &mut PgConnection,
    order: &OrderPlaced,
) -> Result<Option<Event>, sqlx::Error> {
    let reservation = Reservation::find(connection, order.order_id).await?;
    let Some(Reservation {
        outcome, reason, ..
    }) = reservation
    else {
        return Ok(None);
    };
    Ok(match (outcome.as_str(), reason) {
        ("reserved", _) => Some(reserved(order)),
        ("rejected", Some(reason)) if reason == RejectReason::UnknownProduct.as_str() => {
            Some(rejected(order, RejectReason::UnknownProduct))
        }
        ("rejected", _) => Some(rejected(order, RejectReason::OutOfStock)),
        _ => None,
    })
}

/// The answer that a cancellation got, as it is recorded; none where the order holds its stock, or isn't known.
async fn released_as(
    connection: &mut PgConnection,
    order: &OrderCancelled,
) -> Result<Option<Event>, sqlx::Error> {
    let reservation = Reservation::find(connection, order.order_id).await?;
    Ok(
        reservation.and_then(|reservation| match reservation.outcome.as_str() {
            "reserved" => None,
            "released" => Some(released(order, reservation.quantity.unsigned_abs())),
            _ => Some(released(order, 0)),
        }),
    )
}

/// Releases the stock that the order holds, if any; the release is published in any case.
async fn release_stock(work: &mut UnitOfWork<'_>, order: &OrderCancelled) -> Result<(), Failure> {
    let quantity = give_back(work.connection(), order).await?;
    info!(order_id = %order.order_id, released = quantity, "order cancelled");
    work.record(released(order, quantity));
    Ok(())
}

fn reserved(order: &OrderPlaced) -> Event {
    let data = StockReserved {
        order_id: order.order_id,
        product_id: order.product_id,
        quantity: order.quantity,
    };
    Event::new(SERVICE, &data)
}

fn rejected(order: &OrderPlaced, reason: RejectReason) -> Event {
    let data = StockRejected {
        order_id: order.order_id,
        product_id: order.product_id,
        quantity: order.quantity,
        reason,
    };
    Event::new(SERVICE, &data)
}

fn released(order: &OrderCancelled, released: u32) -> Event {
    let data = StockReleased {
        order_id: order.order_id,
        product_id: order.product_id,
        released,
    };
    Event::new(SERVICE, &data)
}

/// Moves what was reserved back to available; how much. An order that isn't known yet is marked as cancelled.
async fn give_back(
    connection: &mut PgConnection,
    order: &OrderCancelled,
) -> Result<u32, sqlx::Error> {
    let released: Option<i32> = sqlx::query_scalar(
        "WITH held AS (SELECT * FROM stock WHERE product_id = $2 FOR UPDATE),
         settled AS (
             INSERT INTO reservations (order_id, product_id, quantity, outcome)
             SELECT $1, coalesce(held.product_id, $2), $3, 'cancelled'
             FROM (SELECT) AS order_cancelled LEFT JOIN held ON true
             ON CONFLICT (order_id) DO UPDATE SET outcome = 'released', settled_at = now()
                 WHERE reservations.outcome = 'reserved'
             RETURNING product_id, quantity, outcome),
         returned AS (
             UPDATE stock SET available = held.available + quantity, reserved = held.reserved - quantity
             FROM held, settled WHERE stock.product_id = held.product_id AND outcome = 'released'
             RETURNING stock.product_id, quantity),
         moved AS (
             INSERT INTO stock_movements (order_id, product_id, quantity)
             SELECT $1, product_id, -quantity FROM returned)
         SELECT quantity FROM settled WHERE outcome = 'released'",
    )
    .bind(order.order_id.0)
    .bind(order.product_id.get())
    .bind(order.quantity.get())
    .fetch_optional(connection)
    .traced("UPDATE reservations")
    .await?;
    Ok(released.unwrap_or(0).unsigned_abs())
}
