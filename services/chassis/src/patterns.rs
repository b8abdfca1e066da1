//! The patterns that can be switched off, so that the naive way can be measured beside them.
//!
//! A switch is read once, at start, and picks a strategy where a service is composed; it is entered here, so
//! that `GET /patterns` on the ops port and the gauge `agora_pattern_enabled` tell what really runs. Left
//! out: the strategies themselves (`outbox`, `consumer`, `broker`, `lifecycle`, `telemetry`, `outbound`, `replicas`, `admission`), and changing one at run time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::environment::{ConfigError, Env};

/// A pattern with a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// Event and row in one transaction, a relay publishes. Off: commit, then publish.
    Outbox,
    /// The event's id in one transaction with its effect. Off: whatever arrives is applied.
    Inbox,
    /// Transient failures are tried again, with a backoff. Off: the first failure is dead.
    Retry,
    /// What can't be handled leaves the queue. Off: it is handed out again, for ever.
    DeadLetter,
    /// Publishing waits for the broker's word. Off: fire and forget.
    Confirms,
    /// SIGTERM lets what is under way finish. Off: the process ends at once.
    GracefulShutdown,
    /// Work over several services ends when all of them have done their part, or undone it. Off: the first one
    /// calls it done at once.
    Saga,
    /// The trace context travels in messages' headers. Off: each side starts a trace of its own.
    TracePropagation,
    /// Spans wait in a bounded queue and are exported from there. Off: whoever ends one sends it, and waits.
    AsyncExport,
    /// A target that keeps failing is not called for a while, and never by too many at once; what was read recently stands
    /// in. Off: everybody calls, and fails.
    CircuitBreaker,
    /// A call ends when its time is up, or its request's. Off: it takes as long as it takes.
    Deadline,
    /// So many requests are worked on at once, and what is too much is refused early. Off: whatever comes is worked on.
    LoadShedding,
    /// The event of an order that is stuck is published again. Off: an order whose message was lost waits for ever.
    SagaRecovery,
    /// Calls to another service are spread over its healthy replicas. Off: they go over a single connection, to one replica.
    ClientLoadBalancing,
}

/// The position of a pattern's switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// The pattern works.
    On,
    /// The naive way.
    Off,
}

impl Pattern {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Outbox,
        Self::Inbox,
        Self::Retry,
        Self::DeadLetter,
        Self::Confirms,
        Self::GracefulShutdown,
        Self::Saga,
        Self::TracePropagation,
        Self::AsyncExport,
        Self::CircuitBreaker,
        Self::Deadline,
        Self::LoadShedding,
        Self::SagaRecovery,
        Self::ClientLoadBalancing,
    ];

    /// As it stands in a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::Inbox => "inbox",
            Self::Retry => "retry",
            Self::DeadLetter => "dead_letter",
            Self::Confirms => "confirms",
            Self::GracefulShutdown => "graceful_shutdown",
            Self::Saga => "saga",
            Self::TracePropagation => "trace_propagation",
            Self::AsyncExport => "async_export",
            Self::CircuitBreaker => "circuit_breaker",
            Self::Deadline => "deadline",
            Self::LoadShedding => "load_shedding",
            Self::SagaRecovery => "saga_recovery",
            Self::ClientLoadBalancing => "client_load_balancing",
        }
    }

    fn variable(self) -> &'static str {
        match self {
            Self::Outbox => "AGORA_PATTERN_OUTBOX",
            Self::Inbox => "AGORA_PATTERN_INBOX",
            Self::Retry => "AGORA_PATTERN_RETRY",
            Self::DeadLetter => "AGORA_PATTERN_DEAD_LETTER",
            Self::Confirms => "AGORA_PATTERN_CONFIRMS",
            Self::GracefulShutdown => "AGORA_PATTERN_GRACEFUL_SHUTDOWN",
            Self::Saga => "AGORA_PATTERN_SAGA",
            Self::TracePropagation => "AGORA_PATTERN_TRACE_PROPAGATION",
            Self::AsyncExport => "AGORA_PATTERN_ASYNC_EXPORT",
            Self::CircuitBreaker => "AGORA_PATTERN_CIRCUIT_BREAKER",
            Self::Deadline => "AGORA_PATTERN_DEADLINE",
            Self::LoadShedding => "AGORA_PATTERN_LOAD_SHEDDING",
            Self::SagaRecovery => "AGORA_PATTERN_SAGA_RECOVERY",
            Self::ClientLoadBalancing => "AGORA_PATTERN_CLIENT_LOAD_BALANCING",
        }
    }
}

impl Switch {
    /// Reads a pattern's switch; unset, it is on.
    ///
    /// # Errors
    /// When it is set to anything but `on` or `off`: a switch that was mistyped must not look like one that
    /// changes nothing.
    pub fn read(env: &Env, pattern: Pattern) -> Result<Self, ConfigError> {
        let variable = pattern.variable();
        match env.optional::<String>(variable, "on or off")?.as_deref() {
            None | Some("on") => Ok(Self::On),
            Some("off") => Ok(Self::Off),
            Some(value) => Err(ConfigError::Invalid {
                variable,
                value: value.to_owned(),
                expected: "on or off".to_owned(),
            }),
        }
    }

    /// Whether the pattern works.
    pub fn is_on(self) -> bool {
        self == Self::On
    }
}

/// What a service was composed with; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    chosen: Arc<Mutex<BTreeMap<Pattern, Switch>>>,
}

impl Patterns {
    /// Enters what was chosen for a pattern.
    pub(crate) fn enter(&self, pattern: Pattern, switch: Switch) {
        self.lock().insert(pattern, switch);
    }

    /// All patterns that this service has, and how they stand.
    pub fn report(&self) -> BTreeMap<Pattern, Switch> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Pattern, Switch>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_on_unless_it_says_off_and_nonsense_is_refused() {
        let read = |value| {
            Switch::read(
                &Env::from_pairs([("AGORA_PATTERN_INBOX", value)]),
                Pattern::Inbox,
            )
        };
        assert_eq!(read(""), Ok(Switch::On));
        assert_eq!(read("on"), Ok(Switch::On));
        assert_eq!(read("off"), Ok(Switch::Off));
        for value in ["OFF", "false", "0", "no"] {
            let text = read(value).unwrap_err().to_string();
            assert!(
                text.contains("AGORA_PATTERN_INBOX") && text.contains("on or off"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_pattern_has_one_name_everywhere() {
        for pattern in Pattern::ALL {
            let variable = format!("AGORA_PATTERN_{}", pattern.name().to_uppercase());
            assert_eq!(pattern.variable(), variable);
            assert_eq!(serde_json::json!(pattern), pattern.name());
        }
    }
}
