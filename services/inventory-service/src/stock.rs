//! What is in stock, over HTTP.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use chassis::identity::Identity;
use chassis::problem::{Path, Problem};
use chassis::telemetry::Statement;
use serde::Serialize;
use shared_events::ProductId;
use sqlx::PgPool;

/// One product's stock.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Stock {
    product_id: i64,
    /// May still be ordered.
    available: i64,
    /// Taken by orders.
    reserved: i64,
}

/// `GET /inventory/{product_id}`.
pub fn router(pool: PgPool) -> Router {
    Router::new()
        .route("/inventory/{product_id}", get(read_stock))
        .with_state(pool)
}

async fn read_stock(
    State(pool): State<PgPool>,
    _: Identity,
    Path(product_id): Path<ProductId>,
) -> Result<axum::Json<Stock>, Problem> {
    let stock: Option<Stock> =
        sqlx::query_as("SELECT product_id, available, reserved FROM stock WHERE product_id = $1")
            .bind(product_id.get())
            .fetch_optional(&pool)
            .traced("SELECT stock")
            .await?;
    stock
        .map(axum::Json)
        .ok_or_else(|| Problem::not_found(format!("there is no product {product_id}")))
}
