//! Orders in PostgreSQL.

use chassis::database::violated_constraint;
use chrono::{DateTime, Utc};
use shared_events::{OrderId, ProductId, Quantity, UserId};
use sqlx::PgPool;
use uuid::Uuid;

use super::{IdempotencyKey, Order, PlaceOrder, Status};

const COLUMNS: &str = "id, user_id, product_id, quantity, status, placed_at, event_id, \
                       announced_at IS NOT NULL AS announced";

#[derive(sqlx::FromRow)]
struct OrderRow {
    id: Uuid,
    user_id: Uuid,
    product_id: i64,
    quantity: i32,
    status: String,
    placed_at: DateTime<Utc>,
    event_id: Uuid,
    announced: bool,
}

/// What became of an insert.
#[derive(Debug)]
pub enum Inserted {
    /// A new order.
    New(Order),
    /// The user used this key before; this is the order from then.
    Before(Order),
}

/// Stores a new order, unless the user used the key before.
///
/// # Errors
/// The database's.
pub async fn insert(
    pool: &PgPool,
    user_id: UserId,
    content: PlaceOrder,
    key: Option<&IdempotencyKey>,
) -> Result<Inserted, sqlx::Error> {
    let inserted = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "INSERT INTO orders (id, user_id, product_id, quantity, idempotency_key, event_id)
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING {COLUMNS}"
    )))
    .bind(OrderId::generate().0)
    .bind(user_id.0)
    .bind(content.product_id.get())
    .bind(content.quantity.get())
    .bind(key.map(IdempotencyKey::as_str))
    .bind(Uuid::now_v7())
    .fetch_one(pool)
    .await;
    match inserted {
        Ok(row) => Ok(Inserted::New(order(row)?)),
        Err(error) if violated_constraint(&error) == Some("orders_idempotency_key") => {
            let row = sqlx::query_as(sqlx::AssertSqlSafe(format!(
                "SELECT {COLUMNS} FROM orders WHERE user_id = $1 AND idempotency_key = $2"
            )))
            .bind(user_id.0)
            .bind(key.map(IdempotencyKey::as_str))
            .fetch_one(pool)
            .await?;
            Ok(Inserted::Before(order(row)?))
        }
        Err(error) => Err(error),
    }
}

/// Notes that the broker has the order's event.
///
/// # Errors
/// The database's.
pub async fn mark_announced(pool: &PgPool, id: OrderId) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE orders SET announced_at = now() WHERE id = $1 AND announced_at IS NULL")
        .bind(id.0)
        .execute(pool)
        .await?;
    Ok(())
}

/// The user's own order with this id.
///
/// # Errors
/// The database's.
pub async fn find(
    pool: &PgPool,
    user_id: UserId,
    id: OrderId,
) -> Result<Option<Order>, sqlx::Error> {
    let row = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM orders WHERE user_id = $1 AND id = $2"
    )))
    .bind(user_id.0)
    .bind(id.0)
    .fetch_optional(pool)
    .await?;
    row.map(order).transpose()
}

/// The user's orders, newest first.
///
/// # Errors
/// The database's.
pub async fn list(
    pool: &PgPool,
    user_id: UserId,
    after: Option<Uuid>,
    rows: i64,
) -> Result<Vec<Order>, sqlx::Error> {
    let rows: Vec<OrderRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM orders
         WHERE user_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3"
    )))
    .bind(user_id.0)
    .bind(after)
    .bind(rows)
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(order).collect()
}

/// The table's constraints promise what is checked here; a row that breaks them is damage.
fn order(row: OrderRow) -> Result<Order, sqlx::Error> {
    let damaged = |error: &dyn std::fmt::Display| {
        sqlx::Error::Decode(format!("order {}: {error}", row.id).into())
    };
    Ok(Order {
        id: OrderId(row.id),
        user_id: UserId(row.user_id),
        content: PlaceOrder {
            product_id: ProductId::try_from(row.product_id).map_err(|error| damaged(&error))?,
            quantity: Quantity::try_from(i64::from(row.quantity))
                .map_err(|error| damaged(&error))?,
        },
        status: match row.status.as_str() {
            "pending" => Status::Pending,
            other => return Err(damaged(&format!("unknown status {other:?}"))),
        },
        placed_at: row.placed_at,
        event_id: row.event_id,
        announced: row.announced,
    })
}
