//! user-service: accounts, tokens and purchases; the only holder of the signing keys.
//!
//! Left out: roles. Prices come from product-service.

pub mod accounts;
pub mod attempts;
mod config;
mod docs;
pub mod home;
pub mod passwords;
pub mod purchases;
pub mod revocations;
pub mod tokens;
pub mod users;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chassis::admission::RouteGroup;
use chassis::http::App;
use chassis::lifecycle::Lifecycle;
use chassis::outbound::Outbound;
use chassis::patterns::Pattern;
use chassis::{database, http, replicas};

use crate::accounts::{AccountMetrics, Accounts};
use crate::attempts::Attempts;
pub use crate::config::{CatalogConfig, Config};
use crate::passwords::Passwords;
use crate::purchases::catalog::{Catalog, Recent};
use crate::purchases::http::Purchases;
use crate::revocations::Revocations;

/// How often expired attempts are pruned.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

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
    let pool = database.pool.clone();
    let passwords = Passwords::new(config.bcrypt_cost, config.bcrypt_concurrency)
        .await
        .context("failed to prepare password hashing")?;
    let revocations = Revocations::start(lifecycle, &database).await?;
    let attempts = Attempts::new(pool.clone());
    let pruned = attempts.clone();
    database.every(lifecycle, "attempts pruning", PRUNE_INTERVAL, move || {
        let attempts = pruned.clone();
        async move { attempts.prune().await }
    });
    let metrics = lifecycle.metrics();
    metrics.info(
        "agora_signing_key_info",
        "The token keys, by id and role: one signs, the others only verify",
        config
            .tokens
            .keys()
            .roles()
            .map(|(kid, role)| [("kid", kid.to_owned()), ("role", role.to_owned())]),
    );
    let catalog = catalog(config.catalog, lifecycle);
    let accounts = Arc::new(Accounts {
        pool: pool.clone(),
        passwords,
        password_min_chars: config.password_min_chars,
        tokens: config.tokens,
        revocations,
        attempts,
        metrics: AccountMetrics::new(metrics),
    });
    let about = "Accounts, tokens and purchases.";
    // Separate limits, so that neither hashing nor a product-service that hangs delays token checks or reads.
    let groups = [
        RouteGroup::new(
            "passwords",
            accounts::passwords_router(Arc::clone(&accounts)),
        ),
        RouteGroup::new("verify", accounts::verify_router(Arc::clone(&accounts))),
        RouteGroup::new(
            "users",
            accounts::log_out_router(accounts).merge(users::router(pool.clone())),
        ),
        RouteGroup::new(
            "purchases",
            purchases::http::router(Purchases { pool, catalog }),
        ),
        RouteGroup::new(
            "docs",
            docs::router()
                .merge(home::router(&config.home_links))
                .into(),
        ),
    ];
    Ok(http::compose(lifecycle, config.http, about, groups))
}

/// The service that owns the prices.
const PRODUCT_SERVICE: &str = "product-service";

/// The catalogue client, composed according to the switches.
fn catalog(config: CatalogConfig, lifecycle: &Lifecycle) -> Catalog {
    lifecycle.enter_pattern(Pattern::CircuitBreaker, config.circuit_breaker);
    lifecycle.enter_pattern(Pattern::Deadline, config.deadline);
    lifecycle.enter_pattern(Pattern::ClientLoadBalancing, config.client_load_balancing);
    let mut endpoint = config.product_service;
    let mut calls = Outbound::new(PRODUCT_SERVICE, lifecycle.metrics());
    if config.deadline.is_on() {
        endpoint = endpoint.connect_timeout(config.timeout);
        calls = calls.within(config.timeout);
    }
    let recent = config.circuit_breaker.is_on().then(|| {
        calls = calls.clone().guarded(config.limits);
        Recent::new(config.max_stale)
    });
    let channel = if config.client_load_balancing.is_on() {
        replicas::balanced(lifecycle, PRODUCT_SERVICE, &endpoint, config.replicas)
    } else {
        replicas::single(&endpoint)
    };
    Catalog::new(channel, lifecycle.metrics().clone(), calls, recent)
}
