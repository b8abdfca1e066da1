//! inventory-service: stock. Takes what was ordered, gives back what was cancelled, and tells what became of
//! each order.
//!
//! Left out: orders themselves; an order is an id here.

mod config;
pub mod reservations;
pub mod stock;

use std::net::SocketAddr;

use chassis::admission::Lane;
use chassis::lifecycle::Lifecycle;
use chassis::{broker, consumer, database, http, outbox};
use shared_events::topology;

pub use crate::config::Config;
use crate::reservations::{Repeats, Reservations};

/// Composes the service; returns the address it serves HTTP on.
///
/// # Errors
/// When a dependency can't be used or the address is taken.
pub async fn start(config: Config, lifecycle: &Lifecycle) -> anyhow::Result<SocketAddr> {
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
    let stock = Lane::new("stock", stock::router(database.pool));
    http::serve(lifecycle, &config.http, about, [stock]).await
}
