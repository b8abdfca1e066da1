//! Reading users. An e-mail address is only shown to its owner.

use axum::extract::State;
use axum::routing::get;
use chassis::identity::Identity;
use chassis::paging::{Page, PageQuery};
use chassis::pool::Pool;
use chassis::problem::{Path, Problem, Query};
use chassis::telemetry::Statement;
use serde::Serialize;
use shared_events::UserId;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

/// A user's public profile.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
struct PublicUser {
    id: Uuid,
    name: String,
}

/// The authenticated user's own profile.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
struct OwnUser {
    id: Uuid,
    name: String,
    email: String,
}

/// `GET /users/`, `/users/me`, `/users/{id}`.
pub fn router(pool: Pool) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list_users))
        // The same without the trailing slash; the document lists one of them.
        .route("/users", get(list_users))
        .routes(routes!(read_me))
        .routes(routes!(read_user))
        .with_state(pool)
}

/// List users
///
/// Sorted by id.
#[utoipa::path(
    get, path = "/users/", tag = "users",
    params(PageQuery),
    responses((status = 200, description = "A page of users.", body = Page<PublicUser>))
)]
async fn list_users(
    State(pool): State<Pool>,
    _: Identity,
    Query(page): Query<PageQuery>,
) -> Result<axum::Json<Page<PublicUser>>, Problem> {
    let rows = page.rows()?;
    let users = sqlx::query_as(
        "SELECT id, name FROM users WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2",
    )
    .bind(page.after)
    .bind(rows)
    .fetch_all(&pool)
    .traced("SELECT users")
    .await?;
    Ok(axum::Json(Page::cut(users, rows, |user: &PublicUser| {
        user.id
    })))
}

/// Get the authenticated user
///
/// Includes the e-mail address.
#[utoipa::path(
    get, path = "/users/me", tag = "users",
    responses(
        (status = 200, description = "The authenticated user.", body = OwnUser),
        (status = 404, description = "`not-found`: the account no longer exists"),
    )
)]
async fn read_me(
    State(pool): State<Pool>,
    identity: Identity,
) -> Result<axum::Json<OwnUser>, Problem> {
    let user = sqlx::query_as("SELECT id, name, email FROM users WHERE id = $1")
        .bind(identity.user_id.0)
        .fetch_optional(&pool)
        .traced("SELECT users")
        .await?;
    user.map(axum::Json).ok_or_else(no_such_user)
}

/// Get a user's public profile
#[utoipa::path(
    get, path = "/users/{id}", tag = "users",
    params(("id" = UserId, Path, description = "The user's id.")),
    responses(
        (status = 200, description = "The user's public profile.", body = PublicUser),
        (status = 404, description = "`not-found`: there is no such user"),
    )
)]
async fn read_user(
    State(pool): State<Pool>,
    _: Identity,
    Path(id): Path<UserId>,
) -> Result<axum::Json<PublicUser>, Problem> {
    let user = sqlx::query_as("SELECT id, name FROM users WHERE id = $1")
        .bind(id.0)
        .fetch_optional(&pool)
        .traced("SELECT users")
        .await?;
    user.map(axum::Json).ok_or_else(no_such_user)
}

fn no_such_user() -> Problem {
    Problem::not_found("there is no such user")
}
