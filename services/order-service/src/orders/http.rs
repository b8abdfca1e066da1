//! Orders over HTTP: placing one, and reading one's own.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use chassis::broker::Publisher;
use chassis::identity::Identity;
use chassis::paging::{Page, PageQuery};
use chassis::problem::{Path, Problem, Query};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared_events::{OrderId, ProductId, Quantity};
use sqlx::PgPool;
use tracing::{error, info, warn};

use super::store::{self, Inserted};
use super::{IdempotencyKey, InvalidKey, Order, PlaceOrder, Status};

/// What the handlers need.
#[derive(Clone)]
pub struct Orders {
    /// The orders' database.
    pub pool: PgPool,
    /// Into the stream of order events.
    pub publisher: Publisher,
}

/// How long the answer to an order waits for the note that it was announced.
const MARK_TIMEOUT: Duration = Duration::from_millis(500);

/// The answer to an order: a promise that it will be decided.
#[derive(Debug, Serialize)]
struct Accepted {
    order_id: OrderId,
    status: Status,
}

#[derive(Debug, Serialize)]
struct OrderDocument {
    order_id: OrderId,
    product_id: ProductId,
    quantity: Quantity,
    status: Status,
    placed_at: DateTime<Utc>,
}

/// The order, when it is given in the query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderQuery {
    product_id: Option<ProductId>,
    quantity: Option<Quantity>,
}

/// `POST` and `GET /orders/`, `GET /orders/{id}`.
pub fn router(orders: Orders) -> Router {
    Router::new()
        .route("/orders/", post(place_order).get(list_orders))
        .route("/orders", post(place_order).get(list_orders))
        .route("/orders/{id}", get(read_order))
        .with_state(orders)
}

async fn place_order(
    State(orders): State<Orders>,
    identity: Identity,
    headers: HeaderMap,
    Query(query): Query<OrderQuery>,
    body: Result<Option<axum::Json<PlaceOrder>>, JsonRejection>,
) -> Result<(StatusCode, axum::Json<Accepted>), Problem> {
    let content = asked_for(query, body?.map(|axum::Json(order)| order))?;
    let key = idempotency_key(&headers)?;
    let order = match store::insert(&orders.pool, identity.user_id, content, key.as_ref()).await? {
        Inserted::New(order) => order,
        Inserted::Before(order) if order.content == content => order,
        Inserted::Before(_) => {
            return Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "this Idempotency-Key belongs to another order of yours",
            ));
        }
    };
    if !order.announced {
        announce(&orders, &order).await?;
    }
    let accepted = Accepted {
        order_id: order.id,
        status: order.status,
    };
    Ok((StatusCode::ACCEPTED, axum::Json(accepted)))
}

/// Tells the world. What fails here leaves an order that is stored and was not promised to anybody; the
/// same Idempotency-Key announces it again, under the same event id.
async fn announce(orders: &Orders, order: &Order) -> Result<(), Problem> {
    if let Err(error) = orders.publisher.publish(&order.placed()).await {
        error!(order_id = %order.id, %error, "order stored, but not announced");
        return Err(Problem::unavailable(
            "the order could not be handed on; try again, with the same Idempotency-Key if you gave one",
        ));
    }
    info!(order_id = %order.id, "order placed");
    // The promise holds from the confirm on; a slow database must not turn it into a refusal. Without the
    // mark a repeated key announces once more, and the consumer knows the event's id.
    let mark = store::mark_announced(&orders.pool, order.id);
    match tokio::time::timeout(MARK_TIMEOUT, mark).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            warn!(order_id = %order.id, %error, "order announced, but not marked as such");
        }
        Err(_) => warn!(order_id = %order.id, "order announced, but not marked in time"),
    }
    Ok(())
}

async fn list_orders(
    State(orders): State<Orders>,
    identity: Identity,
    Query(page): Query<PageQuery>,
) -> Result<axum::Json<Page<OrderDocument>>, Problem> {
    let rows = page.rows()?;
    let list = store::list(&orders.pool, identity.user_id, page.after, rows).await?;
    let documents = list.into_iter().map(OrderDocument::from).collect();
    Ok(axum::Json(Page::cut(documents, rows, |order| {
        order.order_id.0
    })))
}

async fn read_order(
    State(orders): State<Orders>,
    identity: Identity,
    Path(id): Path<OrderId>,
) -> Result<axum::Json<OrderDocument>, Problem> {
    // Somebody else's order is as absent as one that never was.
    store::find(&orders.pool, identity.user_id, id)
        .await?
        .map(|order| axum::Json(order.into()))
        .ok_or_else(|| Problem::not_found("you have no such order"))
}

fn asked_for(query: OrderQuery, body: Option<PlaceOrder>) -> Result<PlaceOrder, Problem> {
    match (query, body) {
        (
            OrderQuery {
                product_id: None,
                quantity: None,
            },
            Some(order),
        ) => Ok(order),
        (_, Some(_)) => Err(Problem::invalid(
            "the order stands either in the query or in the body, not in both",
        )),
        (
            OrderQuery {
                product_id: Some(product_id),
                quantity,
            },
            None,
        ) => Ok(PlaceOrder {
            product_id,
            quantity: quantity.unwrap_or_else(super::one),
        }),
        (_, None) => Err(Problem::invalid("product_id is missing")),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::invalid("there is more than one Idempotency-Key"));
    }
    let key = value.to_str().map_err(|_| InvalidKey).and_then(str::parse);
    key.map(Some)
        .map_err(|error| Problem::invalid(error.to_string()))
}

impl From<Order> for OrderDocument {
    fn from(order: Order) -> Self {
        Self {
            order_id: order.id,
            product_id: order.content.product_id,
            quantity: order.content.quantity,
            status: order.status,
            placed_at: order.placed_at,
        }
    }
}
