//! What is configured for every service, read once at start from environment variables ([`crate::environment`]).
//!
//! Left out: files, flags, reloading, and a service's own settings.

use std::net::SocketAddr;
use std::time::Duration;

use lapin::uri::AMQPUri;
use opentelemetry_sdk::trace::Sampler;
use secrecy::SecretString;
use shared_events::topology::INBOX_WINDOW;
use sqlx::postgres::PgConnectOptions;

use crate::environment::{ConfigError, Env};
use crate::patterns::{Pattern, Switch};

/// The configuration that every service has.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// `OPS_ADDR`: health, readiness and metrics.
    pub ops_addr: SocketAddr,
    /// `LOG_LEVEL`: a tracing filter, like `info` or `info,sqlx=debug`.
    pub log_level: String,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`: where spans go over OTLP/gRPC; unset, they go nowhere.
    pub otlp_endpoint: Option<String>,
    /// `OTEL_TRACES_SAMPLER`: which of the traces that begin here are sampled. A caller's decision is always kept.
    pub traces_sampler: Sampler,
    /// `STARTUP_TIMEOUT_SECONDS`: how long the start may wait for dependencies before the process exits.
    pub startup_timeout: Duration,
    /// `AGORA_SHUTDOWN_DELAY_MS`: how long readiness is `draining` before connections are refused, so that load balancers have
    /// seen it.
    pub shutdown_delay: Duration,
    /// `SHUTDOWN_GRACE_SECONDS`: how long work in flight may take to finish.
    pub shutdown_grace: Duration,
    /// `AGORA_PATTERN_GRACEFUL_SHUTDOWN`.
    pub graceful_shutdown: Switch,
    /// `AGORA_PATTERN_ASYNC_EXPORT`.
    pub async_export: Switch,
}

impl ServiceConfig {
    /// Reads it.
    ///
    /// # Errors
    /// The first variable that can't be used.
    pub fn read(env: &Env) -> Result<Self, ConfigError> {
        let log_level = env
            .optional("LOG_LEVEL", "a tracing filter, like info")?
            .unwrap_or_else(|| "info".to_owned());
        if tracing_subscriber::EnvFilter::try_new(&log_level).is_err() {
            return Err(ConfigError::Invalid {
                variable: "LOG_LEVEL",
                value: log_level,
                expected: "a tracing filter, like info".to_owned(),
            });
        }
        Ok(Self {
            ops_addr: env.listen_addr("OPS_ADDR", any(9100))?,
            log_level,
            otlp_endpoint: env
                .optional::<url::Url>(
                    "OTEL_EXPORTER_OTLP_ENDPOINT",
                    "a URL, like http://jaeger:4317",
                )?
                .map(String::from),
            traces_sampler: traces_sampler(env)?,
            startup_timeout: env.seconds("STARTUP_TIMEOUT_SECONDS", 60, 1..=3600)?,
            shutdown_delay: env.millis("AGORA_SHUTDOWN_DELAY_MS", 0, 0..=60_000)?,
            shutdown_grace: env.seconds("SHUTDOWN_GRACE_SECONDS", 20, 0..=600)?,
            graceful_shutdown: env.switch(Pattern::GracefulShutdown)?,
            async_export: env.switch(Pattern::AsyncExport)?,
        })
    }
}

/// By OpenTelemetry's environment variables; only the samplers that keep the caller's decision, as a trace that some services
/// sample and others don't is of no use.
fn traces_sampler(env: &Env) -> Result<Sampler, ConfigError> {
    const VARIABLE: &str = "OTEL_TRACES_SAMPLER";
    const EXPECTED: &str =
        "parentbased_always_on, parentbased_always_off or parentbased_traceidratio";
    const SHARE: &str = "OTEL_TRACES_SAMPLER_ARG";
    const EXPECTED_SHARE: &str = "a share from 0 to 1, like 0.1";
    let root = match env.optional::<String>(VARIABLE, EXPECTED)?.as_deref() {
        None | Some("parentbased_always_on") => Sampler::AlwaysOn,
        Some("parentbased_always_off") => Sampler::AlwaysOff,
        Some("parentbased_traceidratio") => {
            let share: f64 = env.required(SHARE, EXPECTED_SHARE)?;
            if !(0.0..=1.0).contains(&share) {
                return Err(ConfigError::Invalid {
                    variable: SHARE,
                    value: share.to_string(),
                    expected: EXPECTED_SHARE.to_owned(),
                });
            }
            Sampler::TraceIdRatioBased(share)
        }
        Some(value) => {
            return Err(ConfigError::Invalid {
                variable: VARIABLE,
                value: value.to_owned(),
                expected: EXPECTED.to_owned(),
            });
        }
    };
    Ok(Sampler::ParentBased(Box::new(root)))
}

/// A server for HTTP.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// `HTTP_ADDR`.
    pub addr: SocketAddr,
    /// `HTTP_MAX_BODY_BYTES`: a longer body is answered with 413.
    pub max_body_bytes: usize,
    /// `HTTP_TIMEOUT_MS`: a request that takes longer is answered with 503.
    pub timeout: Duration,
    /// `HTTP_MAX_CONNECTIONS`: further ones wait until one ends.
    pub max_connections: usize,
    /// `HTTP_MAX_IN_FLIGHT`: the concurrency limit of each route group.
    pub max_in_flight: usize,
    /// `HTTP_MAX_WAIT_MS`: how long a request may wait for a slot, until it is answered with 503.
    pub max_wait: Duration,
    /// `AGORA_PATTERN_LOAD_SHEDDING`.
    pub load_shedding: Switch,
}

impl HttpConfig {
    /// Reads it.
    ///
    /// # Errors
    /// The first variable that can't be used.
    pub fn read(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            addr: env.listen_addr("HTTP_ADDR", any(8000))?,
            max_body_bytes: env.number("HTTP_MAX_BODY_BYTES", 64 * 1024, 1..=16 * 1024 * 1024)?
                as usize,
            timeout: env.millis("HTTP_TIMEOUT_MS", 10_000, 1..=600_000)?,
            max_connections: env.number("HTTP_MAX_CONNECTIONS", 1_024, 1..=65_536)? as usize,
            max_in_flight: env.number("HTTP_MAX_IN_FLIGHT", 32, 1..=10_000)? as usize,
            max_wait: env.millis("HTTP_MAX_WAIT_MS", 250, 0..=60_000)?,
            load_shedding: env.switch(Pattern::LoadShedding)?,
        })
    }
}

/// The service's own database.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// `DATABASE_URL`.
    pub url: SecretString,
    /// `DATABASE_MAX_CONNECTIONS`: the bound of the pool that requests share.
    pub max_connections: u32,
}

impl DatabaseConfig {
    /// Reads it.
    ///
    /// # Errors
    /// The first variable that can't be used.
    pub fn read(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            url: env.secret_url::<PgConnectOptions>("DATABASE_URL", &["postgres", "postgresql"])?,
            max_connections: env.number("DATABASE_MAX_CONNECTIONS", 10, 1..=1000)?,
        })
    }
}

/// The broker.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// `AMQP_URL`.
    pub url: SecretString,
    /// `AMQP_PUBLISH_TIMEOUT_MS`: the wait for a connection and the broker's confirm together.
    pub publish_timeout: Duration,
    /// `AGORA_PATTERN_CONFIRMS`.
    pub confirms: Switch,
    /// `AGORA_PATTERN_TRACE_PROPAGATION` and `AGORA_TRACE_RELATION`.
    pub traces: MessageTraces,
}

impl BrokerConfig {
    /// Reads it.
    ///
    /// # Errors
    /// The first variable that can't be used.
    pub fn read(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            url: env.secret_url::<AMQPUri>("AMQP_URL", &["amqp"])?,
            publish_timeout: env.millis("AMQP_PUBLISH_TIMEOUT_MS", 5_000, 1..=30_000)?,
            confirms: env.switch(Pattern::Confirms)?,
            traces: MessageTraces::read(env)?,
        })
    }
}

/// How the trace of a message's consumer is related to that of its producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageTraces {
    /// The consumer's span is a child of the producer's.
    Parent,
    /// The consumer's span begins a trace, and links to the producer's.
    Link,
    /// Each side begins a trace of its own: the pattern is off.
    Separate,
}

impl MessageTraces {
    /// Reads `AGORA_PATTERN_TRACE_PROPAGATION` and `AGORA_TRACE_RELATION` (`parent`, or `link`).
    ///
    /// # Errors
    /// When one of them is set to anything else.
    pub fn read(env: &Env) -> Result<Self, ConfigError> {
        const VARIABLE: &str = "AGORA_TRACE_RELATION";
        const EXPECTED: &str = "parent or link";
        let relation = match env.optional::<String>(VARIABLE, EXPECTED)?.as_deref() {
            None | Some("parent") => Self::Parent,
            Some("link") => Self::Link,
            Some(value) => {
                return Err(ConfigError::Invalid {
                    variable: VARIABLE,
                    value: value.to_owned(),
                    expected: EXPECTED.to_owned(),
                });
            }
        };
        Ok(match env.switch(Pattern::TracePropagation)? {
            Switch::On => relation,
            Switch::Off => Self::Separate,
        })
    }

    /// The pattern's position.
    pub fn switch(self) -> Switch {
        match self {
            Self::Parent | Self::Link => Switch::On,
            Self::Separate => Switch::Off,
        }
    }
}

/// Consuming a stream.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// `AMQP_PREFETCH`: messages that the broker delivers ahead, unacknowledged; at least as many as are handled at the
    /// same time, `AMQP_CONCURRENCY` × `AMQP_BATCH_SIZE`, which is also its default.
    pub prefetch: u16,
    /// `AMQP_CONCURRENCY`: transactions of messages at the same time, each on a database connection of its own.
    pub concurrency: usize,
    /// `AMQP_BATCH_SIZE`: the most messages that are handled in one transaction.
    pub batch_size: usize,
    /// `INBOX_WINDOW_HOURS`: how long the ids of applied events are kept; [`INBOX_WINDOW`] or longer.
    pub inbox_window: Duration,
    /// `AGORA_PATTERN_INBOX`.
    pub inbox: Switch,
    /// `AGORA_PATTERN_RETRY`.
    pub retry: Switch,
    /// `AGORA_PATTERN_DEAD_LETTER`.
    pub dead_letter: Switch,
}

impl ConsumerConfig {
    /// Reads it.
    ///
    /// # Errors
    /// The first variable that can't be used.
    pub fn read(env: &Env) -> Result<Self, ConfigError> {
        const HOUR_SECONDS: u64 = 60 * 60;
        let window_hours = (INBOX_WINDOW.as_secs() / HOUR_SECONDS) as u32;
        // Not less: `dlq replay` relies on it.
        let window_hours =
            env.number("INBOX_WINDOW_HOURS", window_hours, window_hours..=24 * 365)?;
        let concurrency = env.number("AMQP_CONCURRENCY", 4, 1..=100)?;
        let batch_size = env.number("AMQP_BATCH_SIZE", 50, 1..=100)?;
        // A message that isn't prefetched can't be handled.
        let at_once = concurrency * batch_size;
        Ok(Self {
            prefetch: env.number("AMQP_PREFETCH", at_once, at_once..=10_000)? as u16,
            concurrency: concurrency as usize,
            batch_size: batch_size as usize,
            inbox_window: Duration::from_secs(u64::from(window_hours) * HOUR_SECONDS),
            inbox: env.switch(Pattern::Inbox)?,
            retry: env.switch(Pattern::Retry)?,
            dead_letter: env.switch(Pattern::DeadLetter)?,
        })
    }
}

/// Publishing the events of transactions.
#[derive(Debug, Clone)]
pub struct OutboxConfig {
    /// `OUTBOX_BATCH_SIZE`: the most events that the relay publishes in one transaction.
    pub batch_size: u32,
    /// `OUTBOX_POLL_INTERVAL_MS`: how long an event may wait whose notification was lost.
    pub poll_interval: Duration,
    /// `OUTBOX_MAX_REJECTIONS`: after this many attempts an event that the broker rejects is parked.
    pub max_rejections: u32,
    /// `OUTBOX_RETENTION_MINUTES`: how long a published row is kept.
    pub retention: Duration,
    /// `AGORA_PATTERN_OUTBOX`.
    pub outbox: Switch,
}

impl OutboxConfig {
    /// Reads it.
    ///
    /// # Errors
    /// The first variable that can't be used.
    pub fn read(env: &Env) -> Result<Self, ConfigError> {
        let minutes = env.number("OUTBOX_RETENTION_MINUTES", 24 * 60, 1..=365 * 24 * 60)?;
        Ok(Self {
            batch_size: env.number("OUTBOX_BATCH_SIZE", 100, 1..=10_000)?,
            poll_interval: env.millis("OUTBOX_POLL_INTERVAL_MS", 1_000, 50..=60_000)?,
            max_rejections: env.number("OUTBOX_MAX_REJECTIONS", 5, 1..=100)?,
            retention: Duration::from_secs(u64::from(minutes) * 60),
            outbox: env.switch(Pattern::Outbox)?,
        })
    }
}

/// All interfaces: inside a container that is the container's own networks.
pub fn any(port: u16) -> SocketAddr {
    ([0, 0, 0, 0], port).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_variable_is_named_with_what_was_expected() {
        let error = DatabaseConfig::read(&Env::from_pairs::<&str, &str>([])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "DATABASE_URL is not set: expected a URL of the form postgres://USER:PASSWORD@HOST:PORT/NAME"
        );
    }

    #[test]
    fn the_largest_messages_fill_half_of_a_consumers_memory_at_most() {
        let number = |text: &str, setting: &str| -> usize {
            let mut values = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix(setting));
            let value = values.next().expect("the setting");
            value
                .trim_matches(|c: char| !c.is_ascii_digit())
                .parse()
                .expect("a number")
        };
        let broker = include_str!("../../../observability/rabbitmq/agora.conf");
        let largest = number(broker, "max_message_size =");
        let compose = include_str!("../../../compose.yaml");
        let (_, services) = compose
            .split_once("x-service: &service")
            .expect("the services' part");
        let memory = number(services, "mem_limit:") << 20;
        let config = ConsumerConfig::read(&Env::from_pairs::<&str, &str>([])).unwrap();
        assert!(usize::from(config.prefetch) * largest <= memory / 2);
        assert!(largest > shared_events::topology::MAX_EVENT_BYTES);
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let env = Env::from_pairs([("HTTP_TIMEOUT_MS", "")]);
        assert_eq!(
            HttpConfig::read(&env).unwrap().timeout,
            Duration::from_secs(10)
        );
    }

    #[test]
    fn a_secret_is_refused_without_being_shown() {
        let env = Env::from_pairs([("AMQP_URL", "http://agora:hunter2@rabbitmq/")]);
        let text = BrokerConfig::read(&env).unwrap_err().to_string();
        assert!(
            text.contains("AMQP_URL") && !text.contains("hunter2"),
            "{text}"
        );
    }

    #[test]
    fn numbers_are_held_to_their_range() {
        for value in ["0", "-1", "70000000", "many"] {
            let env = Env::from_pairs([("HTTP_MAX_BODY_BYTES", value)]);
            let text = HttpConfig::read(&env).unwrap_err().to_string();
            assert!(text.contains("a number from 1 to 16777216"), "{text}");
        }
    }

    #[test]
    fn a_trace_backend_that_is_no_url_is_refused() {
        let env = Env::from_pairs([("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense")]);
        let text = ServiceConfig::read(&env).unwrap_err().to_string();
        assert!(text.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT="), "{text}");
    }

    #[test]
    fn a_sampler_that_breaks_traces_or_has_no_share_is_refused() {
        let read = |sampler, share| {
            let env = Env::from_pairs([
                ("OTEL_TRACES_SAMPLER", sampler),
                ("OTEL_TRACES_SAMPLER_ARG", share),
            ]);
            ServiceConfig::read(&env).map_err(|error| error.to_string())
        };
        assert!(read("", "").is_ok());
        assert!(read("parentbased_traceidratio", "0.1").is_ok());
        for (sampler, share, named) in [
            ("traceidratio", "0.1", "OTEL_TRACES_SAMPLER="),
            ("parentbased_traceidratio", "", "OTEL_TRACES_SAMPLER_ARG"),
            ("parentbased_traceidratio", "10", "OTEL_TRACES_SAMPLER_ARG="),
            (
                "parentbased_traceidratio",
                "NaN",
                "OTEL_TRACES_SAMPLER_ARG=",
            ),
        ] {
            let text = read(sampler, share).unwrap_err();
            assert!(text.starts_with(named), "{text}");
        }
    }

    #[test]
    fn the_relation_is_parent_by_default_and_nonsense_is_refused() {
        let read = |relation, pattern| {
            MessageTraces::read(&Env::from_pairs([
                ("AGORA_TRACE_RELATION", relation),
                ("AGORA_PATTERN_TRACE_PROPAGATION", pattern),
            ]))
        };
        assert_eq!(read("", ""), Ok(MessageTraces::Parent));
        assert_eq!(read("link", "on"), Ok(MessageTraces::Link));
        assert_eq!(read("link", "off"), Ok(MessageTraces::Separate));
        let text = read("child", "").unwrap_err().to_string();
        assert_eq!(
            text,
            "AGORA_TRACE_RELATION=\"child\": expected parent or link"
        );
    }

    #[test]
    fn a_log_filter_that_cannot_be_read_is_refused() {
        let env = Env::from_pairs([("LOG_LEVEL", "info,sqlx=loud")]);
        let text = ServiceConfig::read(&env).unwrap_err().to_string();
        assert!(text.starts_with("LOG_LEVEL="), "{text}");
    }
}
