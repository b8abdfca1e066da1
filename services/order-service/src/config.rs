//! What order-service reads from its environment.

use chassis::config::{BrokerConfig, ConfigError, DatabaseConfig, Env, HttpConfig};

/// Configuration of order-service.
#[derive(Debug, Clone)]
pub struct Config {
    /// The orders.
    pub database: DatabaseConfig,
    /// Where orders are announced.
    pub broker: BrokerConfig,
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
            http: HttpConfig::read(env)?,
        })
    }
}
