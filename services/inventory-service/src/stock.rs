//! Stock levels over HTTP.

use axum::extract::State;
use chassis::identity::Identity;
use chassis::pool::Pool;
use chassis::problem::{Path, Problem};
use chassis::telemetry::Statement;
use serde::Serialize;
use shared_events::ProductId;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The stock of one product.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
struct Stock {
    #[schema(value_type = ProductId)]
    product_id: i64,
    /// The quantity that can be ordered.
    #[schema(minimum = 0)]
    available: i64,
    /// The quantity reserved for orders.
    #[schema(minimum = 0)]
    reserved: i64,
}

/// `GET /inventory/{product_id}`.
pub fn router(pool: Pool) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(read_stock))
        .with_state(pool)
}

/// Get a product's stock
#[utoipa::path(
    get, path = "/inventory/{product_id}", tag = "stock",
    params(("product_id" = ProductId, Path, description = "The product's id.")),
    responses(
        (status = 200, description = "The product's stock.", body = Stock),
        (status = 404, description = "`not-found`: there is no such product"),
    )
)]
async fn read_stock(
    State(pool): State<Pool>,
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
