//! What an order takes from stock, and gives back: the effects of [`OrderPlaced`] and [`OrderCancelled`].
//!
//! The two may come in any order. A cancellation that is first leaves its mark, and the order then takes
//! nothing. Left out: noticing that an event was delivered before; the consumer's inbox does.

use chassis::consumer::Handler;
use chassis::failure::Failure;
use chassis::outbox::UnitOfWork;
use shared_events::{
    Event, EventData, OrderCancelled, OrderPlaced, RejectReason, StockRejected, StockReleased,
    StockReserved,
};
use sqlx::PgConnection;
use tracing::info;

const SERVICE: &str = "inventory-service";

/// Applies the events of the order stream.
pub struct Reservations;

impl Handler for Reservations {
    async fn apply(&self, event: &Event, work: &mut UnitOfWork<'_>) -> Result<(), Failure> {
        match event.event_type.as_str() {
            OrderPlaced::TYPE => reserve_stock(work, &event.data()?).await,
            OrderCancelled::TYPE => release_stock(work, &event.data()?).await,
            _ => Err(Failure::unknown_type(event)),
        }
    }
}

/// Too little stock is no failure: it is an outcome, and told as one.
async fn reserve_stock(work: &mut UnitOfWork<'_>, order: &OrderPlaced) -> Result<(), Failure> {
    if !record_reservation(work.connection(), order).await? {
        info!(order_id = %order.order_id, "cancelled before it came: nothing is reserved");
        return Ok(());
    }
    let outcome = if take(work.connection(), order).await? {
        Event::new(
            SERVICE,
            &StockReserved {
                order_id: order.order_id,
                product_id: order.product_id,
                quantity: order.quantity,
            },
        )
    } else {
        let reason = reject(work.connection(), order).await?;
        Event::new(
            SERVICE,
            &StockRejected {
                order_id: order.order_id,
                product_id: order.product_id,
                quantity: order.quantity,
                reason,
            },
        )
    };
    info!(order_id = %order.order_id, outcome = outcome.event_type, "order settled");
    Ok(work.say(outcome).await?)
}

/// Notes the reservation, before stock is moved: its row is what two events of one order queue up at. Answers
/// whether the order still wants it.
async fn record_reservation(
    connection: &mut PgConnection,
    order: &OrderPlaced,
) -> Result<bool, sqlx::Error> {
    let recorded = sqlx::query(
        "INSERT INTO reservations (order_id, product_id, quantity, outcome) VALUES ($1, $2, $3, 'reserved')
         ON CONFLICT (order_id) DO UPDATE SET outcome = 'reserved', reason = NULL, settled_at = now()
         WHERE reservations.outcome <> 'cancelled'",
    )
    .bind(order.order_id.0)
    .bind(order.product_id.get())
    .bind(order.quantity.get())
    .execute(connection)
    .await?;
    Ok(recorded.rows_affected() == 1)
}

/// Moves the quantity from available to reserved, if there is so much.
async fn take(connection: &mut PgConnection, order: &OrderPlaced) -> Result<bool, sqlx::Error> {
    let taken = sqlx::query(
        "WITH taken AS (UPDATE stock SET available = available - $2, reserved = reserved + $2
                        WHERE product_id = $1 AND available >= $2 RETURNING product_id)
         INSERT INTO stock_movements (order_id, product_id, quantity) SELECT $3, product_id, $2 FROM taken",
    )
    .bind(order.product_id.get())
    .bind(order.quantity.get())
    .bind(order.order_id.0)
    .execute(connection)
    .await?;
    Ok(taken.rows_affected() == 1)
}

/// Notes that there was too little, or nothing of the kind.
async fn reject(
    connection: &mut PgConnection,
    order: &OrderPlaced,
) -> Result<RejectReason, sqlx::Error> {
    let known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM stock WHERE product_id = $1)")
        .bind(order.product_id.get())
        .fetch_one(&mut *connection)
        .await?;
    let reason = if known {
        RejectReason::OutOfStock
    } else {
        RejectReason::UnknownProduct
    };
    sqlx::query("UPDATE reservations SET outcome = 'rejected', reason = $2 WHERE order_id = $1")
        .bind(order.order_id.0)
        .bind(reason.as_str())
        .execute(connection)
        .await?;
    Ok(reason)
}

/// Gives back what the order holds, if anything; that it holds nothing is told in any case.
async fn release_stock(work: &mut UnitOfWork<'_>, order: &OrderCancelled) -> Result<(), Failure> {
    let first = sqlx::query(
        "INSERT INTO reservations (order_id, product_id, quantity, outcome) VALUES ($1, $2, $3, 'cancelled')
         ON CONFLICT (order_id) DO NOTHING",
    )
    .bind(order.order_id.0)
    .bind(order.product_id.get())
    .bind(order.quantity.get())
    .execute(work.connection())
    .await?;
    let released = if first.rows_affected() == 1 {
        0
    } else {
        give_back(work.connection(), order).await?
    };
    info!(order_id = %order.order_id, released, "order cancelled");
    let event = Event::new(
        SERVICE,
        &StockReleased {
            order_id: order.order_id,
            product_id: order.product_id,
            released,
        },
    );
    Ok(work.say(event).await?)
}

/// Moves what was reserved back to available; how much.
async fn give_back(
    connection: &mut PgConnection,
    order: &OrderCancelled,
) -> Result<u32, sqlx::Error> {
    let held: Option<(i64, i32)> = sqlx::query_as(
        "UPDATE reservations SET outcome = 'released', settled_at = now()
         WHERE order_id = $1 AND outcome = 'reserved' RETURNING product_id, quantity",
    )
    .bind(order.order_id.0)
    .fetch_optional(&mut *connection)
    .await?;
    let Some((product_id, quantity)) = held else {
        return Ok(0);
    };
    sqlx::query(
        "WITH released AS (UPDATE stock SET available = available + $2, reserved = reserved - $2
                           WHERE product_id = $1 RETURNING product_id)
         INSERT INTO stock_movements (order_id, product_id, quantity) SELECT $3, product_id, -$2 FROM released",
    )
    .bind(product_id)
    .bind(quantity)
    .bind(order.order_id.0)
    .execute(connection)
    .await?;
    Ok(quantity.unsigned_abs())
}
