//! order-service: takes orders, keeps them for their owners, and announces each as `OrderPlaced`.
//!
//! An order is accepted (202) once the broker has confirmed its event. Left out: the outcome of an order,
//! which is the saga's part, and an outbox: see ARCHITECTURE for the window that this leaves.

mod config;
pub mod orders;

use std::net::SocketAddr;

use chassis::lifecycle::Lifecycle;
use chassis::{broker, database, http};
use shared_events::topology;

pub use crate::config::Config;

/// Composes the service; returns the address it serves HTTP on.
///
/// # Errors
/// When a dependency can't be used or the address is taken.
pub async fn start(config: Config, lifecycle: &Lifecycle) -> anyhow::Result<SocketAddr> {
    let database = database::connect(lifecycle, &config.database, &sqlx::migrate!()).await?;
    let broker = broker::connect(lifecycle, config.broker, &topology::ALL).await?;
    let orders = orders::http::router(orders::http::Orders {
        pool: database.pool,
        publisher: broker.publisher(topology::ORDER_EVENTS),
    });
    http::serve(lifecycle, &config.http, orders).await
}
