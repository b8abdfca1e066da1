//! Orders over HTTP: placing, reading and cancelling one's own.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use chassis::idempotency::{IdempotencyKey, key_reused};
use chassis::identity::Identity;
use chassis::outbox::Outbox;
use chassis::paging::{Page, PageQuery};
use chassis::pool::Pool;
use chassis::problem::{Json, Path, Problem, Query};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared_events::{OrderId, ProductId, Quantity};
use tracing::info;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::store;
use super::{Course, Order, PlaceOrder, Status};

/// What the handlers need.
#[derive(Clone)]
pub struct Orders {
    /// The database of orders.
    pub pool: Pool,
    /// Commits orders together with their events.
    pub outbox: Outbox,
    /// The status of new and of cancelled orders.
    pub course: Course,
}

/// An accepted order or cancellation. Its outcome will be decided.
#[derive(Debug, Serialize, ToSchema)]
struct Accepted {
    order_id: OrderId,
    status: Status,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Order)]
struct OrderDocument {
    order_id: OrderId,
    product_id: ProductId,
    quantity: Quantity,
    status: Status,
    /// Why it was rejected.
    #[schema(required)]
    reason: Option<String>,
    placed_at: DateTime<Utc>,
}

/// An order given as query parameters.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct OrderQuery {
    /// The product; here or in the body.
    product_id: Option<ProductId>,
    /// How many pieces; 1 by default.
    quantity: Option<Quantity>,
}

/// `POST` and `GET /orders/`, `GET /orders/{id}`, `POST /orders/{id}/cancel`.
pub fn router(orders: Orders) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(place_order, list_orders))
        // The same without the trailing slash; the document lists one of them.
        .route("/orders", post(place_order).get(list_orders))
        .routes(routes!(read_order))
        .routes(routes!(cancel_order))
        .with_state(orders)
}

/// Place an order
///
/// The order is given in the query or in the body. An accepted order (202) will be confirmed or rejected.
#[utoipa::path(
    post, path = "/orders/", tag = "orders",
    params(
        OrderQuery,
        (
            "Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[ -~]*[!-~][ -~]*$",
            description = "A client-generated key for this order. Repeating the request with it returns the first answer, \
                           whatever the order's status is by then. A refused request doesn't use up its key.",
        ),
    ),
    request_body = Option<PlaceOrder>,
    responses(
        (status = 202, description = "The order is accepted.", body = Accepted),
        (status = 422, description = "`idempotency-key-reused`: the key was used for a different order"),
    )
)]
async fn place_order(
    State(orders): State<Orders>,
    identity: Identity,
    headers: HeaderMap,
    Query(query): Query<OrderQuery>,
    body: Result<Option<Json<PlaceOrder>>, Problem>,
) -> Result<(StatusCode, axum::Json<Accepted>), Problem> {
    let content = order_of_request(query, body?.map(|Json(order)| order))?;
    let key = IdempotencyKey::of_request(&headers)?;
    let new = Order::place(identity.user_id, content, orders.course.placed);
    let is_stored = store::insert(&orders.outbox, &new, key.as_ref()).await?;
    let order = if is_stored {
        info!(order_id = %new.id, "order placed");
        new
    } else {
        // Only a key can have kept it from being stored.
        let key = key.as_ref().ok_or_else(Problem::internal)?;
        placed_before(&orders.pool, &identity, content, key).await?
    };
    // Also for an order placed before: a repeated request gets the first answer, whatever the order's status is by then.
    // (If the pattern `saga` was switched in between, it gets the status of the current setting.)
    Ok(accepted(order.id, orders.course.placed))
}

/// The order placed earlier with this key, if its content is the same.
async fn placed_before(
    pool: &Pool,
    identity: &Identity,
    content: PlaceOrder,
    key: &IdempotencyKey,
) -> Result<Order, Problem> {
    match store::find_by_key(pool, identity.user_id, key).await? {
        Some(order) if order.content == content => Ok(order),
        Some(_) => Err(key_reused("order")),
        // It existed a moment ago, and orders are never deleted.
        None => Err(Problem::internal()),
    }
}

/// Cancel an order
///
/// Idempotent: repeating it changes nothing and returns the current status.
#[utoipa::path(
    post, path = "/orders/{id}/cancel", tag = "orders",
    params(("id" = OrderId, Path, description = "The order's id.")),
    responses(
        (status = 202, description = "The cancellation is accepted, now or earlier.", body = Accepted),
        (status = 404, description = "`not-found`: you have no such order"),
        (status = 409, description = "`order-rejected`: there is nothing to cancel"),
    )
)]
async fn cancel_order(
    State(orders): State<Orders>,
    identity: Identity,
    Path(id): Path<OrderId>,
) -> Result<(StatusCode, axum::Json<Accepted>), Problem> {
    let mut work = orders.outbox.begin().await?;
    let mut order = store::find_for_update(work.connection(), identity.user_id, id)
        .await?
        .ok_or_else(no_such_order)?;
    match order.status {
        Status::Pending | Status::Confirmed => {
            let (from, to) = (order.status, orders.course.cancelled);
            let event = orders.course.cancellation(&order);
            let event_id = event.as_ref().map(|event| event.id);
            store::change_status(work.connection(), id, from, to, None, event_id).await?;
            if let Some(event) = event {
                work.record(event);
            }
            work.commit().await?;
            info!(order_id = %id, "order cancelled by its owner");
            order.status = to;
        }
        Status::Cancelling | Status::Cancelled => work.rollback().await?,
        Status::Rejected => {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "order-rejected",
                "the order was rejected: there is nothing to cancel",
            ));
        }
    }
    Ok(accepted(id, order.status))
}

fn accepted(order_id: OrderId, status: Status) -> (StatusCode, axum::Json<Accepted>) {
    (
        StatusCode::ACCEPTED,
        axum::Json(Accepted { order_id, status }),
    )
}

/// List your orders
///
/// Newest first.
#[utoipa::path(
    get, path = "/orders/", tag = "orders",
    params(PageQuery),
    responses((status = 200, description = "A page of orders.", body = Page<OrderDocument>))
)]
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

/// Get an order
#[utoipa::path(
    get, path = "/orders/{id}", tag = "orders",
    params(("id" = OrderId, Path, description = "The order's id.")),
    responses(
        (status = 200, description = "The order.", body = OrderDocument),
        (status = 404, description = "`not-found`: you have no such order"),
    )
)]
async fn read_order(
    State(orders): State<Orders>,
    identity: Identity,
    Path(id): Path<OrderId>,
) -> Result<axum::Json<OrderDocument>, Problem> {
    // Another user's order is answered like one that doesn't exist.
    store::find(&orders.pool, identity.user_id, id)
        .await?
        .map(|order| axum::Json(order.into()))
        .ok_or_else(no_such_order)
}

fn no_such_order() -> Problem {
    Problem::not_found("you have no such order")
}

fn order_of_request(query: OrderQuery, body: Option<PlaceOrder>) -> Result<PlaceOrder, Problem> {
    match (query, body) {
        (
            OrderQuery {
                product_id: None,
                quantity: None,
            },
            Some(order),
        ) => Ok(order),
        (_, Some(_)) => Err(Problem::invalid(
            "give the order either in the query or in the body, not in both",
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

impl From<Order> for OrderDocument {
    fn from(order: Order) -> Self {
        Self {
            order_id: order.id,
            product_id: order.content.product_id,
            quantity: order.content.quantity,
            status: order.status,
            reason: order.reason,
            placed_at: order.placed_at,
        }
    }
}
