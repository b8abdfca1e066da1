//! Orders in PostgreSQL.

use std::time::Duration;

use chassis::database::violated_constraint;
use chassis::idempotency::IdempotencyKey;
use chassis::outbox::Outbox;
use chassis::pool::Pool;
use chassis::telemetry::Statement;
use chrono::{DateTime, Utc};
use shared_events::{OrderId, ProductId, Quantity, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Order, PlaceOrder, Status};

const COLUMNS: &str =
    "id, user_id, product_id, quantity, status, reason, placed_at, changed_at, event_id";

#[derive(sqlx::FromRow)]
struct OrderRow {
    id: Uuid,
    user_id: Uuid,
    product_id: i64,
    quantity: i32,
    status: String,
    reason: Option<String>,
    placed_at: DateTime<Utc>,
    changed_at: DateTime<Utc>,
    event_id: Option<Uuid>,
}

/// Stores a new order with the event that tells of it; `false` when the user has already used the key: then nothing is
/// stored.
///
/// # Errors
/// The database's.
pub async fn insert(
    outbox: &Outbox,
    order: &Order,
    key: Option<&IdempotencyKey>,
) -> Result<bool, sqlx::Error> {
    let mut statement = outbox.with_event(order.placed());
    let sql = statement.sql();
    // `changed_at` is left to the database's clock, which ages are compared with.
    sql.push(
        "INSERT INTO orders (id, user_id, product_id, quantity, status, idempotency_key, event_id, placed_at) VALUES (",
    );
    let mut values = sql.separated(", ");
    values.push_bind(order.id.0);
    values.push_bind(order.user_id.0);
    values.push_bind(order.content.product_id.get());
    values.push_bind(order.content.quantity.get());
    values.push_bind(order.status.as_str());
    values.push_bind(key.map(|key| key.as_str().to_owned()));
    values.push_bind(order.event_id);
    values.push_bind(order.placed_at);
    sql.push(")");
    match statement.execute("INSERT orders").await {
        Ok(()) => Ok(true),
        Err(error) if violated_constraint(&error) == Some("orders_idempotency_key") => Ok(false),
        Err(error) => Err(error),
    }
}

/// The user's order with this idempotency key.
///
/// # Errors
/// The database's.
pub async fn find_by_key(
    pool: &Pool,
    user_id: UserId,
    key: &IdempotencyKey,
) -> Result<Option<Order>, sqlx::Error> {
    let row = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM orders WHERE user_id = $1 AND idempotency_key = $2"
    )))
    .bind(user_id.0)
    .bind(key.as_str())
    .fetch_optional(pool)
    .traced("SELECT orders")
    .await?;
    row.map(order).transpose()
}

/// The user's order with this id, locked until the transaction ends.
///
/// # Errors
/// The database's.
pub async fn find_for_update(
    connection: &mut PgConnection,
    user_id: UserId,
    id: OrderId,
) -> Result<Option<Order>, sqlx::Error> {
    let row = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM orders WHERE user_id = $1 AND id = $2 FOR UPDATE"
    )))
    .bind(user_id.0)
    .bind(id.0)
    .fetch_optional(connection)
    .traced("SELECT orders")
    .await?;
    row.map(order).transpose()
}

/// Moves an order from one status to another; returns whether it was in the first. `event_id` is the event whose answer it
/// waits for from now on, if any. Recovery attempts for the previous event are reset.
///
/// # Errors
/// The database's.
pub async fn change_status(
    connection: &mut PgConnection,
    id: OrderId,
    from: Status,
    to: Status,
    reason: Option<&str>,
    event_id: Option<Uuid>,
) -> Result<bool, sqlx::Error> {
    let changed = sqlx::query(
        "UPDATE orders SET status = $3, reason = $4, changed_at = now(), event_id = coalesce($5, event_id),
                recoveries = 0, recovered_at = NULL, recovery_requested = false
         WHERE id = $1 AND status = $2",
    )
    .bind(id.0)
    .bind(from.as_str())
    .bind(to.as_str())
    .bind(reason)
    .bind(event_id)
    .execute(connection)
    .traced("UPDATE orders")
    .await?;
    Ok(changed.rows_affected() == 1)
}

/// The status of an order, regardless of its owner.
///
/// # Errors
/// The database's.
pub async fn status(
    connection: &mut PgConnection,
    id: OrderId,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT status FROM orders WHERE id = $1")
        .bind(id.0)
        .fetch_optional(connection)
        .traced("SELECT orders")
        .await
}

/// The orders whose event is to be republished, locked until the transaction ends, so that no two sweeps have the same:
/// those requested by `repair`, and, with `by_age`, those that are stuck and not given up. An order that changed in the
/// future counts as stuck: the clock was set back since, and nobody knows its age. Orders whose event still waits in the
/// outbox are left out, because nothing was lost.
///
/// # Errors
/// The database's.
pub async fn to_recover(
    connection: &mut PgConnection,
    by_age: Option<ByAge>,
    rows: u32,
) -> Result<Stuck, sqlx::Error> {
    #[derive(sqlx::FromRow)]
    struct StuckRow {
        #[sqlx(flatten)]
        order: OrderRow,
        recoveries: i32,
    }
    let rows: Vec<StuckRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS}, recoveries FROM orders
         WHERE status IN ('pending', 'cancelling')
           AND (recovery_requested
                OR (recoveries < $2
                    AND coalesce(recovered_at, changed_at)
                        NOT BETWEEN now() - make_interval(secs => $1 * 2 ^ recoveries) AND now() + make_interval(mins => 1)))
           AND NOT EXISTS (SELECT FROM outbox WHERE subject = orders.id::text AND published_at IS NULL)
         ORDER BY recovery_requested DESC, changed_at LIMIT $3 FOR UPDATE OF orders SKIP LOCKED"
    )))
    .bind(by_age.map_or(0.0, |by_age| by_age.after.as_secs_f64()))
    .bind(by_age.map_or(0, |by_age| by_age.attempts as i32))
    .bind(i64::from(rows))
    .fetch_all(connection)
    .await?;
    let mut stuck = Stuck::default();
    for row in rows {
        let id = row.order.id;
        match order(row.order) {
            Ok(order) => stuck.orders.push((order, row.recoveries)),
            Err(error) => {
                tracing::error!(%error, "order can't be recovered");
                stuck.damaged.push(id);
            }
        }
    }
    Ok(stuck)
}

/// The orders of a sweep.
#[derive(Debug, Default)]
pub struct Stuck {
    /// With the number of earlier attempts.
    pub orders: Vec<(Order, i32)>,
    /// The ids of those whose rows are no valid orders.
    pub damaged: Vec<Uuid>,
}

/// Counts an attempt at damaged orders, so that they take no place in the next sweeps, and are given up like others.
///
/// # Errors
/// The database's.
pub async fn note_damaged(
    connection: &mut PgConnection,
    damaged: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE orders SET recoveries = recoveries + 1, recovered_at = now(), recovery_requested = false
         WHERE id = ANY($1)",
    )
    .bind(damaged)
    .execute(connection)
    .await?;
    Ok(())
}

/// When an order is recovered without a request.
#[derive(Debug, Clone, Copy)]
pub struct ByAge {
    /// It must have been in its status for longer than this; twice as long after each attempt.
    pub after: Duration,
    /// The maximum number of attempts.
    pub attempts: u32,
}

/// Records that an order's event, `event_id`, is republished.
///
/// # Errors
/// The database's.
pub async fn note_recovery(
    connection: &mut PgConnection,
    id: OrderId,
    event_id: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE orders SET recoveries = recoveries + 1, recovered_at = now(), recovery_requested = false,
                event_id = coalesce(event_id, $2)
         WHERE id = $1",
    )
    .bind(id.0)
    .bind(event_id)
    .execute(connection)
    .await?;
    Ok(())
}

/// The number of orders that still wait after `attempts` attempts.
///
/// # Errors
/// The database's.
pub async fn count_given_up(pool: &Pool, attempts: u32) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT count(*) FROM orders WHERE status IN ('pending', 'cancelling') AND recoveries >= $1",
    )
    .bind(attempts as i32)
    .fetch_one(pool)
    .await
}

/// The user's order with this id.
///
/// # Errors
/// The database's.
pub async fn find(pool: &Pool, user_id: UserId, id: OrderId) -> Result<Option<Order>, sqlx::Error> {
    let row = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM orders WHERE user_id = $1 AND id = $2"
    )))
    .bind(user_id.0)
    .bind(id.0)
    .fetch_optional(pool)
    .traced("SELECT orders")
    .await?;
    row.map(order).transpose()
}

/// The user's orders, newest first.
///
/// # Errors
/// The database's.
pub async fn list(
    pool: &Pool,
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
    .traced("SELECT orders")
    .await?;
    rows.into_iter().map(order).collect()
}

/// The table's constraints guarantee what is checked here; a row that violates them is corrupt.
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
        status: row.status.parse().map_err(|error| damaged(&error))?,
        reason: row.reason,
        placed_at: row.placed_at,
        changed_at: row.changed_at,
        event_id: row.event_id,
    })
}
