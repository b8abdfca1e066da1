//! Reserving and releasing stock: the effects of [`OrderPlaced`] and [`OrderCancelled`].
//!
//! The two may arrive in any order. A cancellation that arrives first is recorded, and the order then reserves nothing. A
//! repeated event gets its recorded answer again: order-service republishes an event when the answer was lost. The
//! consumer's inbox recognises repeated deliveries for as long as it keeps event ids; after that an order's row in
//! `reservations` prevents a second reservation ([`Repeats`]).

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

/// How a repeated order is treated whose id is not in the inbox: pruned, or never kept because the pattern is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeats {
    /// `reservations` decides: nothing is reserved, and the earlier answer is repeated.
    Recognise,
    /// It reserves stock again.
    ReserveAgain,
}

impl Repeats {
    /// The business key is part of the pattern `inbox`: without it nothing recognises a repeated order.
    pub fn chosen(inbox: Switch) -> Self {
        if inbox.is_on() {
            Self::Recognise
        } else {
            Self::ReserveAgain
        }
    }
}

/// Applies the events of the order stream.
pub struct Reservations {
    repeats: Repeats,
    /// No outcome is published for these. Counted before the commit: a retried transaction counts again.
    overtaken: Counter,
}

impl Reservations {
    /// Registers the counter in `metrics`.
    pub fn new(metrics: &Metrics, repeats: Repeats) -> Self {
        let overtaken = metrics.counter(
            "agora_orders_overtaken",
            "Orders that arrived after their cancellation and got no outcome",
        );
        Self { repeats, overtaken }
    }

    /// Too little stock is an outcome, not a failure.
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
                    info!(order_id = %order.order_id, "cancelled before it arrived: nothing is reserved");
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
                    // Its stock is still reserved: this cancellation had no effect yet, although the inbox has its id.
                    None => release_stock(work, &order).await,
                }
            }
            _ => Ok(()),
        }
    }

    /// The product: all its orders change the same row in `stock`.
    fn lock_key(&self, event: &Event) -> i64 {
        match event.event_type.as_str() {
            OrderPlaced::TYPE => event.data().map(|order: OrderPlaced| order.product_id),
            _ => event.data().map(|order: OrderCancelled| order.product_id),
        }
        // An undecodable event fails in `apply`.
        .map_or(0, ProductId::get)
    }
}

/// The outcome of an order.
enum Decision {
    Reserved,
    Rejected(RejectReason),
    /// Its row in `reservations` exists: settled, or cancelled before it arrived.
    SettledBefore,
}

/// Records the order's outcome, and moves the quantity from available to reserved if enough is available.
///
/// One statement, because each is a round trip. The product's row is locked first, here and in [`release`]: events that
/// share a transaction all lock in the same order, and two events of one order queue up at it. The new quantities are
/// computed from the locked row: the version that the rest of the statement sees may be older, and would violate the
/// constraints.
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
    .bind(repeats == Repeats::ReserveAgain)
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

/// Publishes an earlier answer again, unless it still waits in the outbox.
async fn answer_again(work: &mut UnitOfWork<'_>, answer: Event) -> Result<(), Failure> {
    let (order_id, outcome) = (answer.subject.clone(), answer.event_type.clone());
    if work.republish(answer).await? {
        info!(order_id, outcome, "outcome published again");
    }
    Ok(())
}

/// The recorded outcome of an order.
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

/// The recorded answer to an order. `None` if it was cancelled since: then the answer to the cancellation counts.
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

/// The recorded answer to a cancellation; `None` while the order holds its stock, or is unknown.
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

/// Releases the stock that the order holds, if any; the event is published in any case.
async fn release_stock(work: &mut UnitOfWork<'_>, order: &OrderCancelled) -> Result<(), Failure> {
    let quantity = release(work.connection(), order).await?;
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

/// Moves reserved stock back to available; returns the quantity. An unknown order is recorded as cancelled.
async fn release(
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
