//! What inventory-service reads from its environment.

use chassis::config::{BrokerConfig, ConfigError, DatabaseConfig, Env, HttpConfig};

/// Configuration of inventory-service.
#[derive(Debug, Clone)]
pub struct Config {
    /// The stock.
    pub database: DatabaseConfig,
    /// Where orders come from.
    pub broker: BrokerConfig,
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
            http: HttpConfig::read(env)?,
        })
    }
}
