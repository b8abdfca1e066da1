//! What order-service reads from its environment.

use std::time::Duration;

use chassis::config::{
    BrokerConfig, ConfigError, ConsumerConfig, DatabaseConfig, Env, HttpConfig, OutboxConfig,
};
use chassis::patterns::{Pattern, Switch};

/// Configuration of order-service.
#[derive(Debug, Clone)]
pub struct Config {
    /// The orders.
    pub database: DatabaseConfig,
    /// Where orders are announced, and what became of them.
    pub broker: BrokerConfig,
    /// How the outcome is taken.
    pub consumer: ConsumerConfig,
    /// How orders are announced.
    pub outbox: OutboxConfig,
    /// `ORDER_STUCK_AFTER_SECONDS`: an order that isn't decided for longer is counted as stuck.
    pub stuck_after: Duration,
    /// Whether an order waits for its stock.
    pub saga: Switch,
    /// Where orders are taken.
    pub http: HttpConfig,
}

impl Config {
    /// Reads it.
    ///
    /// # Errors
    /// The first variable that can't be used.
    pub fn read(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            database: DatabaseConfig::read(env)?,
            broker: BrokerConfig::read(env)?,
            consumer: ConsumerConfig::read(env)?,
            outbox: OutboxConfig::read(env)?,
            stuck_after: env.seconds("ORDER_STUCK_AFTER_SECONDS", 60, 1..=86_400)?,
            saga: Switch::read(env, Pattern::Saga)?,
            http: HttpConfig::read(env)?,
        })
    }
}
