//! order-service: takes orders, keeps them for their owners, announces each as `OrderPlaced`, and follows what
//! becomes of it.
//!
//! An order is accepted (202) once it is committed, its event with it. Left out: stock; inventory-service
//! decides, and says so.

mod config;
pub mod orders;

use std::net::SocketAddr;

use chassis::admission::RouteGroup;
use chassis::http::App;
use chassis::lifecycle::Lifecycle;
use chassis::patterns::{Pattern, Switch};
use chassis::{broker, consumer, database, http, outbox};
use shared_events::topology;

pub use crate::config::Config;

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
    let publisher = broker.publisher(topology::ORDER_EVENTS);
    let outbox = outbox::start(lifecycle, config.outbox, &database, publisher);
    consumer::spawn(
        lifecycle,
        config.consumer,
        broker,
        topology::INVENTORY_EVENTS,
        database.clone(),
        outbox.clone(),
        orders::outcome::Outcomes,
    );
    orders::stuck::watch(lifecycle, &database, config.stuck_after);
    orders::recovery::start(lifecycle, &database, outbox.clone(), config.recovery);
    lifecycle.enter_pattern(Pattern::Saga, config.saga);
    let orders = orders::http::router(orders::http::Orders {
        pool: database.pool,
        outbox,
        course: match config.saga {
            Switch::On => orders::Course::SAGA,
            Switch::Off => orders::Course::OPTIMISTIC,
        },
    });
    let about = "Orders, from when they are placed to where they end.";
    let group = RouteGroup::new("orders", orders);
    Ok(http::compose(lifecycle, config.http, about, [group]))
}
