//! The environment variables of order-service.

use std::time::Duration;

use chassis::config::{BrokerConfig, ConsumerConfig, DatabaseConfig, HttpConfig, OutboxConfig};
use chassis::environment::{ConfigError, Env};
use chassis::patterns::{Pattern, Switch};

/// Configuration of order-service.
#[derive(Debug, Clone)]
pub struct Config {
    /// The database of orders.
    pub database: DatabaseConfig,
    /// The broker: orders are published there, and outcomes consumed.
    pub broker: BrokerConfig,
    /// The consumer of outcomes.
    pub consumer: ConsumerConfig,
    /// The outbox of order events.
    pub outbox: OutboxConfig,
    /// `ORDER_STUCK_AFTER_SECONDS`: an order that stays undecided for longer counts as stuck.
    pub stuck_after: Duration,
    /// Recovery of stuck orders.
    pub recovery: RecoveryConfig,
    /// Whether an order waits for its stock.
    pub saga: Switch,
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
            stuck_after: env.seconds("ORDER_STUCK_AFTER_SECONDS", 60, 1..=86_400)?,
            recovery: RecoveryConfig::read(env)?,
            saga: env.switch(Pattern::Saga)?,
            http: HttpConfig::read(env)?,
        })
    }
}

/// Republishing the events of stuck orders.
#[derive(Debug, Clone, Copy)]
pub struct RecoveryConfig {
    /// `AGORA_SAGA_RECOVERY_AFTER_SECONDS`: an order that stays undecided for longer has its event republished, then again
    /// after twice the time, and so on. It exceeds the time that a message may spend in retries (31 s), otherwise healthy
    /// orders would be answered twice.
    pub after: Duration,
    /// `AGORA_SAGA_RECOVERY_INTERVAL_SECONDS`: the time between two sweeps.
    pub interval: Duration,
    /// `AGORA_SAGA_RECOVERY_BATCH_SIZE`: the maximum number of orders per sweep.
    pub batch_size: u32,
    /// `AGORA_SAGA_RECOVERY_ATTEMPTS`: after so many attempts an order is left to an operator.
    pub attempts: u32,
    /// `AGORA_PATTERN_SAGA_RECOVERY`.
    pub recovery: Switch,
}

impl RecoveryConfig {
    fn read(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            after: env.seconds("AGORA_SAGA_RECOVERY_AFTER_SECONDS", 120, 1..=86_400)?,
            interval: env.seconds("AGORA_SAGA_RECOVERY_INTERVAL_SECONDS", 5, 1..=3_600)?,
            batch_size: env.number("AGORA_SAGA_RECOVERY_BATCH_SIZE", 50, 1..=1_000)?,
            attempts: env.number("AGORA_SAGA_RECOVERY_ATTEMPTS", 6, 1..=16)?,
            recovery: env.switch(Pattern::SagaRecovery)?,
        })
    }
}
