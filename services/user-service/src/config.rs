//! What user-service reads from its environment.

use chassis::config::{ConfigError, DatabaseConfig, Env, HttpConfig};
use tonic::transport::Endpoint;

use crate::tokens::{Keys, Tokens};

/// The most that `JWT_TTL_SECONDS` may be: what revokes older tokens of a user is kept for as long.
pub(crate) const MAX_TOKEN_TTL_SECONDS: u32 = 86_400;

/// Configuration of user-service.
#[derive(Clone)]
pub struct Config {
    /// Accounts and purchases.
    pub database: DatabaseConfig,
    /// Where both are asked for.
    pub http: HttpConfig,
    /// `JWT_KEYS`, `JWT_ISSUER`, `JWT_AUDIENCE`, `JWT_TTL_SECONDS`.
    pub tokens: Tokens,
    /// `PRODUCT_SERVICE_URL`.
    pub product_service: Endpoint,
    /// `BCRYPT_COST`: each step doubles the time of a hash.
    pub bcrypt_cost: u32,
    /// `BCRYPT_CONCURRENCY`: hashes at the same time.
    pub bcrypt_concurrency: usize,
}

impl Config {
    /// Reads it.
    ///
    /// # Errors
    /// The first variable that can't be used.
    pub fn read(env: &Env) -> Result<Self, ConfigError> {
        let keys = env.secret(
            "JWT_KEYS",
            "KID:HEX[,KID:HEX], ids of letters, digits, - and _, keys of 32 bytes or more, the first of which signs",
            Keys::parse,
        )?;
        let name = |variable, default: &str| {
            let set: Option<String> = env.optional(variable, "a name")?;
            Ok::<_, ConfigError>(set.unwrap_or_else(|| default.to_owned()))
        };
        Ok(Self {
            database: DatabaseConfig::read(env)?,
            http: HttpConfig::read(env)?,
            tokens: Tokens::new(
                keys,
                name("JWT_ISSUER", "agora")?,
                name("JWT_AUDIENCE", "agora")?,
                env.seconds("JWT_TTL_SECONDS", 3600, 1..=MAX_TOKEN_TTL_SECONDS)?,
            ),
            product_service: env.required(
                "PRODUCT_SERVICE_URL",
                "a URL, like http://product-service:50051",
            )?,
            // bcrypt itself takes 4 to 31; past 15 a login takes seconds.
            bcrypt_cost: env.number("BCRYPT_COST", 12, 4..=15)?,
            bcrypt_concurrency: env.number("BCRYPT_CONCURRENCY", 2, 1..=64)? as usize,
        })
    }
}
