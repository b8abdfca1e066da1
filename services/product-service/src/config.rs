//! What product-service reads from its environment.

use std::net::SocketAddr;

use chassis::config::{DatabaseConfig, any};
use chassis::environment::{ConfigError, Env};

/// Configuration of product-service.
#[derive(Debug, Clone)]
pub struct Config {
    /// `GRPC_ADDR`.
    pub grpc_addr: SocketAddr,
    /// The catalogue.
    pub database: DatabaseConfig,
}

impl Config {
    /// Reads it.
    ///
    /// # Errors
    /// The first variable that can't be used.
    pub fn read(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            grpc_addr: env.listen_addr("GRPC_ADDR", any(50051))?,
            database: DatabaseConfig::read(env)?,
        })
    }
}
