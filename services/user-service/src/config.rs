//! What user-service reads from its environment.

use std::time::Duration;

use chassis::config::{DatabaseConfig, HttpConfig};
use chassis::deadline::ANSWER_RESERVE;
use chassis::environment::{ConfigError, Env};
use chassis::outbound::Limits;
use chassis::patterns::{Pattern, Switch};
use chassis::replicas::Resolver;
use tonic::transport::Endpoint;

use crate::home::Link;
use crate::passwords::Password;
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
    /// Where prices come from.
    pub catalog: CatalogConfig,
    /// `BCRYPT_COST`: each step doubles the time of a hash.
    pub bcrypt_cost: u32,
    /// `PASSWORD_MIN_LENGTH`: how many characters a new password has at least. Seven, so that the story's `hunter2` passes;
    /// NIST SP 800-63B asks for eight, and for fifteen where there is no second factor.
    pub password_min_chars: usize,
    /// `HOME_LINKS`: what the page at `/` links to besides the API's documents.
    pub home_links: Vec<Link>,
    /// `BCRYPT_CONCURRENCY`: hashes at the same time; by default as many as take half of the processors.
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
        let http = HttpConfig::read(env)?;
        Ok(Self {
            database: DatabaseConfig::read(env)?,
            catalog: CatalogConfig::read(env, &http)?,
            http,
            tokens: Tokens::new(
                keys,
                name("JWT_ISSUER", "agora")?,
                name("JWT_AUDIENCE", "agora")?,
                env.seconds("JWT_TTL_SECONDS", 3600, 1..=MAX_TOKEN_TTL_SECONDS)?,
            ),
            // bcrypt itself takes 4 to 31; past 15 a login takes seconds.
            bcrypt_cost: env.number("BCRYPT_COST", 12, 4..=15)?,
            password_min_chars: env.number(
                "PASSWORD_MIN_LENGTH",
                7,
                1..=Password::MAX_BYTES as u32,
            )? as usize,
            home_links: Link::read(env)?,
            bcrypt_concurrency: env.number(
                "BCRYPT_CONCURRENCY",
                half_of_the_processors(),
                1..=64,
            )? as usize,
        })
    }
}

/// A hash keeps one of them busy; the rest is for everything else.
fn half_of_the_processors() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors as u32 / 2).clamp(1, 64)
}

/// Asking product-service.
#[derive(Clone)]
pub struct CatalogConfig {
    /// `PRODUCT_SERVICE_URL`.
    pub product_service: Endpoint,
    /// Resolves its replicas; by default the host name in that URL.
    pub replicas: Resolver,
    /// `CATALOG_TIMEOUT_MS`: a price that takes longer is no answer, retries and connecting included.
    pub timeout: Duration,
    /// `CATALOG_CONCURRENCY`: calls at the same time; `CATALOG_BREAKER_FAILURES` of the last 20 open the breaker, for
    /// `CATALOG_BREAKER_OPEN_MS`.
    pub limits: Limits,
    /// `CATALOG_MAX_STALE_SECONDS`: how old a price may be that stands in for one that can't be read.
    pub max_stale: Duration,
    /// `AGORA_PATTERN_DEADLINE`.
    pub deadline: Switch,
    /// `AGORA_PATTERN_CIRCUIT_BREAKER`.
    pub circuit_breaker: Switch,
    /// `AGORA_PATTERN_CLIENT_LOAD_BALANCING`.
    pub client_load_balancing: Switch,
}

impl CatalogConfig {
    /// Reads it. What a call may take leaves a request the time to answer.
    ///
    /// # Errors
    /// The first variable that can't be used.
    pub fn read(env: &Env, http: &HttpConfig) -> Result<Self, ConfigError> {
        let longest = http.timeout.saturating_sub(ANSWER_RESERVE);
        let longest_ms = u32::try_from(longest.as_millis()).map_or(u32::MAX, |ms| ms.max(1));
        let timeout = env.millis("CATALOG_TIMEOUT_MS", longest_ms.min(2_000), 1..=longest_ms)?;
        let product_service = env.required(
            "PRODUCT_SERVICE_URL",
            "a URL, like http://product-service:50051",
        )?;
        Ok(Self {
            replicas: Resolver::of(&product_service),
            product_service,
            timeout,
            limits: Limits {
                concurrency: env.number("CATALOG_CONCURRENCY", 16, 2..=256)? as usize,
                failures: env.number("CATALOG_BREAKER_FAILURES", 10, 1..=20)?,
                open_for: env.millis("CATALOG_BREAKER_OPEN_MS", 1_000, 1..=60_000)?,
                failure_timeout: timeout,
            },
            max_stale: env.seconds("CATALOG_MAX_STALE_SECONDS", 60, 0..=3_600)?,
            deadline: env.switch(Pattern::Deadline)?,
            circuit_breaker: env.switch(Pattern::CircuitBreaker)?,
            client_load_balancing: env.switch(Pattern::ClientLoadBalancing)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_may_take_longer_than_its_request_is_refused() {
        let read = |http_ms, catalog_ms| {
            let env = Env::from_pairs([
                ("PRODUCT_SERVICE_URL", "http://product-service:50051"),
                ("HTTP_TIMEOUT_MS", http_ms),
                ("CATALOG_TIMEOUT_MS", catalog_ms),
            ]);
            let config = CatalogConfig::read(&env, &HttpConfig::read(&env).unwrap());
            config.map(|config| config.timeout.as_millis())
        };
        assert_eq!(read("", ""), Ok(2_000));
        assert_eq!(read("1000", ""), Ok(950));
        assert_eq!(read("1000", "950"), Ok(950));
        let text = read("1000", "951").unwrap_err().to_string();
        assert!(
            text.starts_with("CATALOG_TIMEOUT_MS=") && text.contains("950"),
            "{text}"
        );
    }
}
