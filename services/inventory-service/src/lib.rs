//! inventory-service: stock. Takes what was ordered, gives back what was cancelled, and tells what became of
//! each order.
//!
//! Left out: orders themselves; an order is an id here.

mod config;
pub mod reservations;
pub mod stock;

use std::net::SocketAddr;

use chassis::admission::RouteGroup;
use chassis::http::App;
use chassis::lifecycle::Lifecycle;
use chassis::{broker, consumer, database, http, outbox};
use shared_events::topology;

pub use crate::config::Config;
use crate::reservations::{Repeats, Reservations};

/// Composes the service and serves it; returns the address it serves HTTP on.
///
/// # Errors
/// When a dependency can't be used or the address is taken.
pub async fn start(config: Config, lifecycle: &Lifecycle) -> anyhow::Result<SocketAddr> {
    compose(config, lifecycle).await?.serve().await
}

/// Composes the service: connects it, starts what it does by itself, and returns what it serves.
///
/// # Errors
/// When a dependency can't be used.
pub async fn compose(config: Config, lifecycle: &Lifecycle) -> anyhow::Result<App> {
    let database = database::connect(lifecycle, &config.database, &sqlx::migrate!()).await?;
    let broker = broker::connect(lifecycle, config.broker, &topology::ALL).await?;
    let publisher = broker.publisher(topology::INVENTORY_EVENTS);
    let outbox = outbox::start(lifecycle, config.outbox, &database, publisher);
    let repeats = Repeats::chosen(config.consumer.inbox);
    consumer::spawn(
        lifecycle,
        config.consumer,
        broker,
        topology::ORDER_EVENTS,
        database.clone(),
        outbox,
        Reservations::new(lifecycle.metrics(), repeats),
    );
    let about = "What is in stock.";
    let stock = RouteGroup::new("stock", stock::router(database.pool));
    Ok(http::compose(lifecycle, config.http, about, [stock]))
}
