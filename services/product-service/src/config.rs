//! The environment variables of product-service.

use std::net::SocketAddr;

use chassis::config::{DatabaseConfig, any};
use chassis::environment::{ConfigError, Env};

/// Configuration of product-service.
#[derive(Debug, Clone)]
pub struct Config {
    /// `GRPC_ADDR`.
    pub grpc_addr: SocketAddr,
    /// The database of products.
    pub database: DatabaseConfig,
}

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// The first invalid variable.
    pub fn read(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            grpc_addr: env.listen_addr("GRPC_ADDR", any(50051))?,
            database: DatabaseConfig::read(env)?,
        })
    }
}
