//! What order-service reads from its environment.

use std::time::Duration;

use chassis::config::{BrokerConfig, ConsumerConfig, DatabaseConfig, HttpConfig, OutboxConfig};
use chassis::environment::{ConfigError, Env};
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
    /// How orders that are stuck are recovered.
    pub recovery: RecoveryConfig,
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
            recovery: RecoveryConfig::read(env)?,
            saga: env.switch(Pattern::Saga)?,
            http: HttpConfig::read(env)?,
        })
    }
}

/// Publishing the event of a stuck order again.
#[derive(Debug, Clone, Copy)]
pub struct RecoveryConfig {
    /// `AGORA_SAGA_RECOVERY_AFTER_SECONDS`: an order that isn't decided for longer has its event published again; twice as
    /// long after that once more, and so on. Longer than a message may take through all retries (31 s), or healthy orders
    /// are answered twice.
    pub after: Duration,
    /// `AGORA_SAGA_RECOVERY_INTERVAL_SECONDS`: the time between two sweeps.
    pub interval: Duration,
    /// `AGORA_SAGA_RECOVERY_BATCH_SIZE`: the most orders of a sweep.
    pub batch_size: u32,
    /// `AGORA_SAGA_RECOVERY_ATTEMPTS`: an order whose event was published again so often is left to an operator.
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
