//! The catalogue's two gRPC methods.

use chassis::pool::Pool;
use chassis::telemetry::Statement;
use chassis::{database, failure};
use proto::catalog::catalog_server;
use proto::catalog::{GetProductRequest, ListProductsRequest, ListProductsResponse, Product};
use sqlx::error::DatabaseError;
use tonic::{Request, Response, Status};

const DEFAULT_PAGE_SIZE: i32 = 50;
const MAX_PAGE_SIZE: i32 = 100;

/// Answers from the database.
pub struct Catalog {
    pool: Pool,
}

#[derive(sqlx::FromRow)]
struct ProductRow {
    id: i64,
    name: String,
    price_cents: i64,
}

impl Catalog {
    /// Reads through this pool.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    async fn read(&self, id: i64) -> Result<Option<ProductRow>, sqlx::Error> {
        let mut transaction = database::begin_in_time(&self.pool).await?;
        let row = sqlx::query_as("SELECT id, name, price_cents FROM products WHERE id = $1")
            .bind(id)
            .fetch_optional(&mut *transaction)
            .traced("SELECT products")
            .await?;
        transaction.commit().await?;
        Ok(row)
    }
}

#[tonic::async_trait]
impl catalog_server::Catalog for Catalog {
    async fn get_product(
        &self,
        request: Request<GetProductRequest>,
    ) -> Result<Response<Product>, Status> {
        let id = request.into_inner().id;
        if id <= 0 {
            return Err(Status::invalid_argument(
                "a product id is a positive number",
            ));
        }
        let row = self.read(id).await.map_err(database_status)?;
        row.map(|row| Response::new(row.into()))
            .ok_or_else(|| Status::not_found(format!("there is no product {id}")))
    }

    async fn list_products(
        &self,
        request: Request<ListProductsRequest>,
    ) -> Result<Response<ListProductsResponse>, Status> {
        let request = request.into_inner();
        let page_size = match request.page_size {
            0 => DEFAULT_PAGE_SIZE,
            size @ 1..=MAX_PAGE_SIZE => size,
            _ => {
                return Err(Status::invalid_argument(format!(
                    "page_size is a number from 1 to {MAX_PAGE_SIZE}"
                )));
            }
        };
        // One row more than requested shows whether there is a next page.
        let mut rows: Vec<ProductRow> = sqlx::query_as(
            "SELECT id, name, price_cents FROM products WHERE id > $1 ORDER BY id LIMIT $2",
        )
        .bind(request.after_id)
        .bind(i64::from(page_size) + 1)
        .fetch_all(&self.pool)
        .traced("SELECT products")
        .await
        .map_err(database_status)?;
        let more = rows.len() > page_size as usize;
        rows.truncate(page_size as usize);
        let next_after_id = if more {
            rows.last().map_or(0, |row| row.id)
        } else {
            0
        };
        Ok(Response::new(ListProductsResponse {
            products: rows.into_iter().map(Product::from).collect(),
            next_after_id,
        }))
    }
}

impl From<ProductRow> for Product {
    fn from(row: ProductRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            price_cents: row.price_cents,
        }
    }
}

/// The one place where a database error becomes a gRPC status.
fn database_status(error: sqlx::Error) -> Status {
    const QUERY_CANCELED: &str = "57014";
    let code = error.as_database_error().and_then(DatabaseError::code);
    if code.is_some_and(|code| code == QUERY_CANCELED) {
        return Status::deadline_exceeded("the database did not answer before the deadline");
    }
    if failure::is_transient(&error) {
        tracing::warn!(%error, "database unreachable");
        return Status::unavailable("the database is unreachable");
    }
    tracing::error!(%error, "database query failed");
    Status::internal("internal error")
}
