//! What inventory-service reads from its environment.

use chassis::config::{BrokerConfig, ConsumerConfig, DatabaseConfig, HttpConfig, OutboxConfig};
use chassis::environment::{ConfigError, Env};

/// Configuration of inventory-service.
#[derive(Debug, Clone)]
pub struct Config {
    /// The stock.
    pub database: DatabaseConfig,
    /// Where orders come from, and where their outcome goes.
    pub broker: BrokerConfig,
    /// How orders are taken.
    pub consumer: ConsumerConfig,
    /// How their outcome is told.
    pub outbox: OutboxConfig,
    /// Where stock is asked for.
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
            http: HttpConfig::read(env)?,
        })
    }
}
