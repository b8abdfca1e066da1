//! Purchases over HTTP. Users see and make only their own.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use chassis::database::violated_constraint;
use chassis::idempotency::{IdempotencyKey, key_reused};
use chassis::identity::Identity;
use chassis::paging::{Page, PageQuery};
use chassis::pool::Pool;
use chassis::problem::{Json, Path, Problem, Query};
use chassis::telemetry::Statement;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared_events::{ProductId, Quantity, UserId};
use tracing::warn;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::catalog::{Catalog, CatalogError};

/// What the handlers need.
#[derive(Clone)]
pub struct Purchases {
    /// The database of purchases.
    pub pool: Pool,
    /// The source of prices.
    pub catalog: Catalog,
}

#[derive(Debug, Deserialize, ToSchema)]
struct CreatePurchase {
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

/// A purchase that was just made, with the age of its price. `stale` is true when product-service didn't answer and the
/// price is the one from `price_as_of`, at most `CATALOG_MAX_STALE_SECONDS` ago.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
struct CreatedPurchase {
    #[serde(flatten)]
    #[sqlx(flatten)]
    purchase: Purchase,
    price_as_of: DateTime<Utc>,
    stale: bool,
}

/// `POST` and `GET /users/{id}/purchases`.
pub fn router(purchases: Purchases) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(create_purchase, list_purchases))
        .with_state(purchases)
}

/// Create a purchase
///
/// Buys at the current price. Repeating the request with the same `Idempotency-Key` returns the first answer and makes no
/// second purchase.
// The operation id is part of the API and keeps its first name.
#[utoipa::path(
    post, path = "/users/{id}/purchases", operation_id = "buy", tag = "purchases", request_body = CreatePurchase,
    params(
        ("id" = UserId, Path, description = "The id of the authenticated user."),
        (
            "Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[ -~]*[!-~][ -~]*$",
            description = "A client-generated key for this purchase. Repeating the request with it returns the first \
                           answer, whatever the price is by then. A refused request doesn't use up its key.",
        ),
    ),
    responses(
        (status = 201, description = "The purchase.", body = CreatedPurchase),
        (status = 403, description = "`not-yours`: purchases belong to another user"),
        (status = 404, description = "`not-found`: there is no such user"),
        (status = 422, description = "`unknown-product`: there is no such product; `idempotency-key-reused`: the key was used for a different purchase"),
    )
)]
async fn create_purchase(
    State(purchases): State<Purchases>,
    identity: Identity,
    Path(user_id): Path<UserId>,
    headers: HeaderMap,
    Json(request): Json<CreatePurchase>,
) -> Result<(StatusCode, axum::Json<CreatedPurchase>), Problem> {
    require_owner(&identity, user_id)?;
    let key = IdempotencyKey::of_request(&headers)?;
    if let Some(key) = &key
        && let Some(purchase) = earlier_purchase(&purchases.pool, user_id, &request, key).await?
    {
        return Ok((StatusCode::CREATED, axum::Json(purchase)));
    }
    let product = purchases.catalog.product(request.product_id).await?;
    // A total that overflows is refused before it is stored.
    product
        .price
        .times(request.quantity)
        .ok_or_else(|| Problem::invalid("the total is too large"))?;
    let inserted = sqlx::query_as(
        "INSERT INTO purchases (id, user_id, product_id, product_name, quantity, unit_price_cents,
                                price_as_of, stale, idempotency_key)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         RETURNING id, product_id, product_name, quantity, unit_price_cents,
                   unit_price_cents * quantity AS total_cents, purchased_at, price_as_of, stale",
    )
    .bind(Uuid::now_v7())
    .bind(user_id.0)
    .bind(request.product_id.get())
    .bind(&product.name)
    .bind(request.quantity.get())
    .bind(product.price.get())
    .bind(product.price_as_of)
    .bind(product.stale)
    .bind(key.as_ref().map(IdempotencyKey::as_str))
    .fetch_one(&purchases.pool)
    .traced("INSERT purchases")
    .await;
    let purchase = match inserted {
        Ok(purchase) => purchase,
        Err(error) => match (violated_constraint(&error), &key) {
            // A concurrent request with the same key was first; purchases are never deleted.
            (Some("purchases_idempotency_key"), Some(key)) => {
                let before = earlier_purchase(&purchases.pool, user_id, &request, key).await?;
                before.ok_or_else(Problem::internal)?
            }
            // The account was deleted after the token was issued.
            (Some("purchases_user"), _) => {
                return Err(Problem::not_found("there is no such user"));
            }
            _ => return Err(error.into()),
        },
    };
    Ok((StatusCode::CREATED, axum::Json(purchase)))
}

/// The user's earlier purchase with this key; 422 if it was a different one.
async fn earlier_purchase(
    pool: &Pool,
    user_id: UserId,
    request: &CreatePurchase,
    key: &IdempotencyKey,
) -> Result<Option<CreatedPurchase>, Problem> {
    let found: Option<CreatedPurchase> = sqlx::query_as(
        "SELECT id, product_id, product_name, quantity, unit_price_cents,
                unit_price_cents * quantity AS total_cents, purchased_at, price_as_of, stale
         FROM purchases WHERE user_id = $1 AND idempotency_key = $2",
    )
    .bind(user_id.0)
    .bind(key.as_str())
    .fetch_optional(pool)
    .traced("SELECT purchases")
    .await?;
    let is_same = |purchase: &CreatedPurchase| {
        let Purchase {
            product_id,
            quantity,
            ..
        } = &purchase.purchase;
        *product_id == request.product_id.get() && *quantity == request.quantity.get()
    };
    match found {
        Some(purchase) if !is_same(&purchase) => Err(key_reused("purchase")),
        found => Ok(found),
    }
}

/// List the user's purchases
///
/// Newest first.
#[utoipa::path(
    get, path = "/users/{id}/purchases", tag = "purchases",
    params(("id" = UserId, Path, description = "The id of the authenticated user."), PageQuery),
    responses(
        (status = 200, description = "A page of purchases.", body = Page<Purchase>),
        (status = 403, description = "`not-yours`: purchases belong to another user"),
        (status = 404, description = "`not-found`: the path names no user"),
    )
)]
async fn list_purchases(
    State(purchases): State<Purchases>,
    identity: Identity,
    Path(user_id): Path<UserId>,
    Query(page): Query<PageQuery>,
) -> Result<axum::Json<Page<Purchase>>, Problem> {
    require_owner(&identity, user_id)?;
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

fn require_owner(identity: &Identity, user_id: UserId) -> Result<(), Problem> {
    if identity.user_id == user_id {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "not-yours",
        "users can only access their own purchases",
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
                warn!(%error, "failed to look up a price");
                Self::unavailable("prices can't be read right now")
            }
            CatalogError::OutOfTime => {
                Self::unavailable("no price arrived before the request's deadline")
            }
        }
    }
}
