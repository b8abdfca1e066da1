//! Reserving stock for orders: the effect of [`OrderPlaced`], once an event, in one transaction with the
//! event's id.

use chassis::consumer::Failure;
use shared_events::{Event, EventData, OrderPlaced};
use sqlx::{PgConnection, PgPool};
use tracing::{info, warn};

/// Applies an event of the order stream.
///
/// # Errors
/// [`Failure::Permanent`] for what is unknown or unreadable, [`Failure::Transient`] while the database is
/// out of reach. Too little stock is no failure: it is an outcome, and recorded as one.
pub async fn apply(pool: &PgPool, event: &Event) -> Result<(), Failure> {
    match event.event_type.as_str() {
        OrderPlaced::TYPE => reserve_stock(pool, event, &event.data()?).await,
        _ => Err(Failure::unknown_type(event)),
    }
}

async fn reserve_stock(pool: &PgPool, event: &Event, order: &OrderPlaced) -> Result<(), Failure> {
    let mut transaction = pool.begin().await?;
    let first_time = sqlx::query("INSERT INTO inbox (event_id) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(event.id)
        .execute(&mut *transaction)
        .await?
        .rows_affected()
        == 1;
    if !first_time {
        warn!(event_id = %event.id, order_id = %order.order_id, "delivered again: nothing to do");
        return Ok(());
    }
    let refused = take(&mut transaction, order).await?;
    sqlx::query(
        "INSERT INTO reservations (order_id, product_id, quantity, outcome, reason)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(order.order_id.0)
    .bind(order.product_id.get())
    .bind(order.quantity.get())
    .bind(if refused.is_none() {
        "reserved"
    } else {
        "rejected"
    })
    .bind(refused)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    match refused {
        None => info!(order_id = %order.order_id, "stock reserved"),
        Some(reason) => info!(order_id = %order.order_id, reason, "order rejected"),
    }
    Ok(())
}

/// Moves the quantity from available to reserved; answers why it could not.
async fn take(
    connection: &mut PgConnection,
    order: &OrderPlaced,
) -> Result<Option<&'static str>, sqlx::Error> {
    let taken = sqlx::query(
        "UPDATE stock SET available = available - $2, reserved = reserved + $2
         WHERE product_id = $1 AND available >= $2",
    )
    .bind(order.product_id.get())
    .bind(order.quantity.get())
    .execute(&mut *connection)
    .await?
    .rows_affected();
    if taken == 1 {
        return Ok(None);
    }
    let known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM stock WHERE product_id = $1)")
        .bind(order.product_id.get())
        .fetch_one(connection)
        .await?;
    Ok(Some(if known {
        "out_of_stock"
    } else {
        "unknown_product"
    }))
}
