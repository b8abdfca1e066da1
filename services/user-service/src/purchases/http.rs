//! Purchases over HTTP: one's own only.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use chassis::database::violated_constraint;
use chassis::idempotency::{IdempotencyKey, key_reused};
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
    #[serde(deserialize_with = "shared_events::whole_number")]
    product_id: ProductId,
    #[serde(deserialize_with = "shared_events::whole_number")]
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
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
struct Bought {
    #[serde(flatten)]
    #[sqlx(flatten)]
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
///
/// Repeating it with its `Idempotency-Key` repeats the answer, not the purchase, and asks nobody for a price.
#[utoipa::path(
    post, path = "/users/{id}/purchases", tag = "purchases", request_body = Buy,
    params(
        ("id" = UserId, Path, description = "Oneself."),
        (
            "Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[ -~]*[!-~][ -~]*$",
            description = "One's own name for this attempt: repeating it repeats the first answer, whatever the price is \
                           by then, and buys nothing. A request that was refused uses up no key.",
        ),
    ),
    responses(
        (status = 201, description = "Bought.", body = Bought),
        (status = 403, description = "`not-yours`: purchases are their owner's alone"),
        (status = 404, description = "`not-found`: there is no such user"),
        (status = 422, description = "`unknown-product`: there is no such product; `idempotency-key-reused`: its key was used for another purchase"),
    )
)]
async fn buy(
    State(purchases): State<Purchases>,
    identity: Identity,
    Path(user_id): Path<UserId>,
    headers: HeaderMap,
    Json(asked): Json<Buy>,
) -> Result<(StatusCode, axum::Json<Bought>), Problem> {
    only_oneself(&identity, user_id)?;
    let key = IdempotencyKey::of_request(&headers)?;
    if let Some(key) = &key
        && let Some(bought) = bought_before(&purchases.pool, user_id, &asked, key).await?
    {
        return Ok((StatusCode::CREATED, axum::Json(bought)));
    }
    let product = purchases.catalog.product(asked.product_id).await?;
    // A total that can't be counted is refused here, before it is stored.
    product
        .price
        .times(asked.quantity)
        .ok_or_else(|| Problem::invalid("the total is more than can be counted"))?;
    let inserted = sqlx::query_as(
        "INSERT INTO purchases (id, user_id, product_id, product_name, quantity, unit_price_cents,
                                price_as_of, stale, idempotency_key)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         RETURNING id, product_id, product_name, quantity, unit_price_cents,
                   unit_price_cents * quantity AS total_cents, purchased_at, price_as_of, stale",
    )
    .bind(Uuid::now_v7())
    .bind(user_id.0)
    .bind(asked.product_id.get())
    .bind(&product.name)
    .bind(asked.quantity.get())
    .bind(product.price.get())
    .bind(product.price_as_of)
    .bind(product.stale)
    .bind(key.as_ref().map(IdempotencyKey::as_str))
    .fetch_one(&purchases.pool)
    .traced("INSERT purchases")
    .await;
    let bought = match inserted {
        Ok(bought) => bought,
        Err(error) => match (violated_constraint(&error), &key) {
            // The same request at the same time was quicker; no purchase is ever deleted.
            (Some("purchases_idempotency_key"), Some(key)) => {
                let before = bought_before(&purchases.pool, user_id, &asked, key).await?;
                before.ok_or_else(Problem::internal)?
            }
            // The token outlived its account.
            (Some("purchases_user"), _) => {
                return Err(Problem::not_found("there is no such user"));
            }
            _ => return Err(error.into()),
        },
    };
    Ok((StatusCode::CREATED, axum::Json(bought)))
}

/// What the user bought with this key; 422 if it was something else.
async fn bought_before(
    pool: &PgPool,
    user_id: UserId,
    asked: &Buy,
    key: &IdempotencyKey,
) -> Result<Option<Bought>, Problem> {
    let found: Option<Bought> = sqlx::query_as(
        "SELECT id, product_id, product_name, quantity, unit_price_cents,
                unit_price_cents * quantity AS total_cents, purchased_at, price_as_of, stale
         FROM purchases WHERE user_id = $1 AND idempotency_key = $2",
    )
    .bind(user_id.0)
    .bind(key.as_str())
    .fetch_optional(pool)
    .traced("SELECT purchases")
    .await?;
    let the_same = |bought: &Bought| {
        let Purchase {
            product_id,
            quantity,
            ..
        } = &bought.purchase;
        *product_id == asked.product_id.get() && *quantity == asked.quantity.get()
    };
    match found {
        Some(bought) if !the_same(&bought) => Err(key_reused("purchase")),
        found => Ok(found),
    }
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
