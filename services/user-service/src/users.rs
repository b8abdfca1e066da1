//! Reading users. An e-mail address is shown to its owner only.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use chassis::identity::Identity;
use chassis::paging::{Page, PageQuery};
use chassis::problem::{Path, Problem, Query};
use chassis::telemetry::Statement;
use serde::Serialize;
use shared_events::UserId;
use sqlx::PgPool;
use uuid::Uuid;

/// A user, as others see them.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct PublicUser {
    id: Uuid,
    name: String,
}

/// A user, as they see themselves.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct OwnUser {
    id: Uuid,
    name: String,
    email: String,
}

/// `GET /users/`, `/users/me`, `/users/{id}`.
pub fn router(pool: PgPool) -> Router {
    Router::new()
        .route("/users/", get(list_users))
        .route("/users", get(list_users))
        .route("/users/me", get(read_me))
        .route("/users/{id}", get(read_user))
        .with_state(pool)
}

async fn list_users(
    State(pool): State<PgPool>,
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

async fn read_me(
    State(pool): State<PgPool>,
    identity: Identity,
) -> Result<axum::Json<OwnUser>, Problem> {
    let user = sqlx::query_as("SELECT id, name, email FROM users WHERE id = $1")
        .bind(identity.user_id.0)
        .fetch_optional(&pool)
        .traced("SELECT users")
        .await?;
    user.map(axum::Json).ok_or_else(no_such_user)
}

async fn read_user(
    State(pool): State<PgPool>,
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
