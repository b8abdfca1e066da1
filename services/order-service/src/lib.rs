//! order-service: accepts orders, shows them to their owners, publishes each as `OrderPlaced`, and tracks its outcome.
//!
//! An order is accepted (202) once it is committed together with its event. Left out: stock; inventory-service decides
//! whether an order gets it.

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

/// Composes and serves the service; returns its HTTP address.
///
/// # Errors
/// When a dependency can't be used or the address is in use.
pub async fn start(config: Config, lifecycle: &Lifecycle) -> anyhow::Result<SocketAddr> {
    compose(config, lifecycle).await?.serve().await
}

/// Composes the service: connects its dependencies, starts its background tasks, and returns its routes.
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
    let about = "Orders and their status, from placement to outcome.";
    let group = RouteGroup::new("orders", orders);
    Ok(http::compose(lifecycle, config.http, about, [group]))
}
