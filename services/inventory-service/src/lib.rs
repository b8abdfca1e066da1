//! inventory-service: stock. Takes what was ordered, exactly once an order, and says what is there.
//!
//! Left out: telling anybody what became of an order, and giving stock back; that is the saga's part.

mod config;
pub mod reservations;
pub mod stock;

use std::net::SocketAddr;

use chassis::lifecycle::Lifecycle;
use chassis::{broker, consumer, database, http};
use shared_events::topology;

pub use crate::config::Config;

/// Composes the service; returns the address it serves HTTP on.
///
/// # Errors
/// When a dependency can't be used or the address is taken.
pub async fn start(config: Config, lifecycle: &Lifecycle) -> anyhow::Result<SocketAddr> {
    let database = database::connect(lifecycle, &config.database, &sqlx::migrate!()).await?;
    let broker = broker::connect(lifecycle, config.broker, &topology::ALL).await?;
    let pool = database.pool.clone();
    consumer::spawn(
        lifecycle,
        broker,
        topology::ORDER_EVENTS,
        database.clone(),
        move |event| {
            let pool = pool.clone();
            async move { reservations::apply(&pool, &event).await }
        },
    );
    http::serve(lifecycle, &config.http, stock::router(database.pool)).await
}
