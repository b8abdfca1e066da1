//! Purchases over HTTP: one's own only.

use axum::extract::State;
use axum::http::StatusCode;
use chassis::database::violated_constraint;
use chassis::identity::Identity;
use chassis::paging::{Page, PageQuery};
use chassis::problem::{Json, Path, Problem, Query};
use chassis::telemetry::Statement;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared_events::{ProductId, Quantity, UserId};
use sqlx::PgPool;
use tracing::warn;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::catalog::{Catalog, CatalogError};

/// What the handlers need.
#[derive(Clone)]
pub struct Purchases {
    /// The purchases' database.
    pub pool: PgPool,
    /// Knows the prices.
    pub catalog: Catalog,
}

#[derive(Debug, Deserialize, ToSchema)]
struct Buy {
    product_id: ProductId,
    quantity: Quantity,
}

#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
struct Purchase {
    id: Uuid,
    #[schema(value_type = ProductId)]
    product_id: i64,
    product_name: String,
    #[schema(value_type = Quantity)]
    quantity: i32,
    #[schema(minimum = 0)]
    unit_price_cents: i64,
    #[schema(minimum = 0)]
    total_cents: i64,
    purchased_at: DateTime<Utc>,
}

/// A purchase as it was just made: with the age of its price. `stale` is true where product-service didn't answer and the
/// price is the one that it gave at `price_as_of`, `CATALOG_MAX_STALE_SECONDS` ago at most.
#[derive(Debug, Serialize, ToSchema)]
struct Bought {
    #[serde(flatten)]
    purchase: Purchase,
    price_as_of: DateTime<Utc>,
    stale: bool,
}

/// `POST` and `GET /users/{id}/purchases`.
pub fn router(purchases: Purchases) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(buy, list_purchases))
        .with_state(purchases)
}

/// Buys for oneself, at the price of this moment.
#[utoipa::path(
    post, path = "/users/{id}/purchases", tag = "purchases", request_body = Buy,
    params(("id" = UserId, Path, description = "Oneself.")),
    responses(
        (status = 201, description = "Bought.", body = Bought),
        (status = 403, description = "`not-yours`: purchases are their owner's alone"),
        (status = 404, description = "`not-found`: there is no such user"),
        (status = 422, description = "`unknown-product`: there is no such product"),
    )
)]
async fn buy(
    State(purchases): State<Purchases>,
    identity: Identity,
    Path(user_id): Path<UserId>,
    Json(asked): Json<Buy>,
) -> Result<(StatusCode, axum::Json<Bought>), Problem> {
    only_oneself(&identity, user_id)?;
    let product = purchases.catalog.product(asked.product_id).await?;
    // A total that can't be counted is refused here, before it is stored.
    product
        .price
        .times(asked.quantity)
        .ok_or_else(|| Problem::invalid("the total is more than can be counted"))?;
    let purchase = sqlx::query_as(
        "INSERT INTO purchases (id, user_id, product_id, product_name, quantity, unit_price_cents)
         VALUES ($1, $2, $3, $4, $5, $6)
         RETURNING id, product_id, product_name, quantity, unit_price_cents,
                   unit_price_cents * quantity AS total_cents, purchased_at",
    )
    .bind(Uuid::now_v7())
    .bind(user_id.0)
    .bind(asked.product_id.get())
    .bind(&product.name)
    .bind(asked.quantity.get())
    .bind(product.price.get())
    .fetch_one(&purchases.pool)
    .traced("INSERT purchases")
    .await
    .map_err(|error| match violated_constraint(&error) {
        // The token outlived its account.
        Some("purchases_user") => Problem::not_found("there is no such user"),
        _ => error.into(),
    })?;
    let bought = Bought {
        purchase,
        price_as_of: product.price_as_of,
        stale: product.stale,
    };
    Ok((StatusCode::CREATED, axum::Json(bought)))
}

/// What oneself has bought, newest first.
#[utoipa::path(
    get, path = "/users/{id}/purchases", tag = "purchases",
    params(("id" = UserId, Path, description = "Oneself."), PageQuery),
    responses(
        (status = 200, description = "A page of purchases.", body = Page<Purchase>),
        (status = 403, description = "`not-yours`: purchases are their owner's alone"),
        (status = 404, description = "`not-found`: the path names no user"),
    )
)]
async fn list_purchases(
    State(purchases): State<Purchases>,
    identity: Identity,
    Path(user_id): Path<UserId>,
    Query(page): Query<PageQuery>,
) -> Result<axum::Json<Page<Purchase>>, Problem> {
    only_oneself(&identity, user_id)?;
    let rows = page.rows()?;
    let list = sqlx::query_as(
        "SELECT id, product_id, product_name, quantity, unit_price_cents,
                unit_price_cents * quantity AS total_cents, purchased_at
         FROM purchases WHERE user_id = $1 AND ($2::uuid IS NULL OR id < $2)
         ORDER BY id DESC LIMIT $3",
    )
    .bind(user_id.0)
    .bind(page.after)
    .bind(rows)
    .fetch_all(&purchases.pool)
    .traced("SELECT purchases")
    .await?;
    Ok(axum::Json(Page::cut(list, rows, |purchase: &Purchase| {
        purchase.id
    })))
}

fn only_oneself(identity: &Identity, user_id: UserId) -> Result<(), Problem> {
    if identity.user_id == user_id {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "not-yours",
        "purchases are their owner's alone",
    ))
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Unknown(_) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "unknown-product",
                error.to_string(),
            ),
            CatalogError::Unavailable(_) => {
                warn!(%error, "a purchase could not be priced");
                Self::unavailable("prices can't be read right now")
            }
            CatalogError::OutOfTime => {
                Self::unavailable("no price came within the time that the request has")
            }
        }
    }
}
