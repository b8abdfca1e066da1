//! The environment variables of inventory-service.

use chassis::config::{BrokerConfig, ConsumerConfig, DatabaseConfig, HttpConfig, OutboxConfig};
use chassis::environment::{ConfigError, Env};

/// Configuration of inventory-service.
#[derive(Debug, Clone)]
pub struct Config {
    /// The database of stock.
    pub database: DatabaseConfig,
    /// The broker: orders are consumed from it, and outcomes published.
    pub broker: BrokerConfig,
    /// The consumer of orders.
    pub consumer: ConsumerConfig,
    /// The outbox of outcomes.
    pub outbox: OutboxConfig,
    /// The HTTP server.
    pub http: HttpConfig,
}

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// The first invalid variable.
    pub fn read(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            database: DatabaseConfig::read(env)?,
            broker: BrokerConfig::read(env)?,
            consumer: ConsumerConfig::read(env)?,
            outbox: OutboxConfig::read(env)?,
            http: HttpConfig::read(env)?,
        })
    }
}
