//! The patterns that can be switched off, so that the naive version can be measured beside them: one declaration for each,
//! for the services that read a switch and for the laboratory that sets it.
//!
//! Left out: the strategies themselves (each where its service is composed), reading the environment, and the settings
//! beside a switch (a limit, an interval). It depends on nothing, as `cargo xtask` links it.

use std::fmt;
use std::str::FromStr;

/// A variable with this prefix is a pattern's switch, or wrong usage.
pub const PREFIX: &str = "AGORA_PATTERN_";

/// The services that are composed by the chassis.
const ALL_SERVICES: &[&str] = &[
    "user-service",
    "product-service",
    "order-service",
    "inventory-service",
];
/// Those with routes at the gateway.
const HTTP_SERVICES: &[&str] = &["user-service", "order-service", "inventory-service"];
/// Those that publish and consume events.
const MESSAGING_SERVICES: &[&str] = &["order-service", "inventory-service"];

macro_rules! patterns {
    ($($variant:ident {
        name: $name:literal,
        variable: $variable:literal,
        on: $on:literal,
        off: $off:literal,
        read_by: $read_by:expr,
    })+) => {
        /// A pattern with a switch.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Pattern {
            $(
                #[doc = concat!("On: ", $on, ".\n\nOff: ", $off, ".")]
                $variant,
            )+
        }

        impl Pattern {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            const fn declaration(self) -> Declaration {
                match self {
                    $(Self::$variant => Declaration {
                        name: $name,
                        variable: $variable,
                        on: $on,
                        off: $off,
                        read_by: $read_by,
                    },)+
                }
            }
        }
    };
}

struct Declaration {
    name: &'static str,
    variable: &'static str,
    on: &'static str,
    off: &'static str,
    read_by: &'static [&'static str],
}

patterns! {
    Outbox {
        name: "outbox",
        variable: "AGORA_PATTERN_OUTBOX",
        on: "row and event are committed in one transaction; a relay publishes the event",
        off: "commit, then publish; an event that fails in between is logged and lost, and the client has its 202",
        read_by: MESSAGING_SERVICES,
    }
    Inbox {
        name: "inbox",
        variable: "AGORA_PATTERN_INBOX",
        on: "the event's id is recorded in one transaction with its effect; a second delivery changes nothing",
        off: "every delivery is applied",
        read_by: MESSAGING_SERVICES,
    }
    Retry {
        name: "retry",
        variable: "AGORA_PATTERN_RETRY",
        on: "three tiers, 1 s, 5 s and 25 s, then dead-lettered",
        off: "dead-lettered at the first failure",
        read_by: MESSAGING_SERVICES,
    }
    DeadLetter {
        name: "dead_letter",
        variable: "AGORA_PATTERN_DEAD_LETTER",
        on: "a message that can't be handled leaves the queue with its reason",
        off: "it is handed to the handler again and again, and keeps its slot: `AMQP_CONCURRENCY` such messages stop the queue",
        read_by: MESSAGING_SERVICES,
    }
    Confirms {
        name: "confirms",
        variable: "AGORA_PATTERN_CONFIRMS",
        on: "publishing waits for the broker's confirm",
        off: "fire and forget, retries and dead letters included: what is returned, refused or lost counts as published",
        read_by: MESSAGING_SERVICES,
    }
    GracefulShutdown {
        name: "graceful_shutdown",
        variable: "AGORA_PATTERN_GRACEFUL_SHUTDOWN",
        on: "drain, finish, flush, exit 0",
        off: "exit at once (143)",
        read_by: ALL_SERVICES,
    }
    Saga {
        name: "saga",
        variable: "AGORA_PATTERN_SAGA",
        on: "an order is confirmed when its stock is reserved, and cancelled when its stock is released",
        off: "an order is confirmed when it is placed and cancelled when its owner asks; its stock is neither awaited nor released",
        read_by: &["order-service"],
    }
    TracePropagation {
        name: "trace_propagation",
        variable: "AGORA_PATTERN_TRACE_PROPAGATION",
        on: "the trace context travels in messages' headers",
        off: "producer and consumer each start a trace of their own",
        read_by: MESSAGING_SERVICES,
    }
    AsyncExport {
        name: "async_export",
        variable: "AGORA_PATTERN_ASYNC_EXPORT",
        on: "spans wait in a bounded queue; a span that finds no room is dropped and counted",
        off: "the thread that ends a span sends it and waits for the trace store (the SDK's \"simple\" processor)",
        read_by: ALL_SERVICES,
    }
    CircuitBreaker {
        name: "circuit_breaker",
        variable: "AGORA_PATTERN_CIRCUIT_BREAKER",
        on: "product-service isn't called while it keeps failing, nor by more than 16 requests at once; a price of the last minute is used instead, marked as stale",
        off: "every request calls, waits and fails",
        read_by: &["user-service"],
    }
    Deadline {
        name: "deadline",
        variable: "AGORA_PATTERN_DEADLINE",
        on: "a call ends after two seconds or with its request's deadline, which travels in `grpc-timeout`",
        off: "a call takes as long as it takes, up to the request's own limit of 10 s",
        read_by: &["user-service"],
    }
    LoadShedding {
        name: "load_shedding",
        variable: "AGORA_PATTERN_LOAD_SHEDDING",
        on: "each group of routes has a concurrency limit; a request that gets no slot within a quarter of a second, or finds too many waiting for one, gets a 503",
        off: "every request is worked on, and waits for the database behind all the others",
        read_by: HTTP_SERVICES,
    }
    SagaRecovery {
        name: "saga_recovery",
        variable: "AGORA_PATTERN_SAGA_RECOVERY",
        on: "the event of an order that is stuck for two minutes is published again, six times at growing intervals",
        off: "an order whose message was lost stays as it is until an operator acts (`cargo xtask orders repair`)",
        read_by: &["order-service"],
    }
    ClientLoadBalancing {
        name: "client_load_balancing",
        variable: "AGORA_PATTERN_CLIENT_LOAD_BALANCING",
        on: "user-service spreads its calls over the healthy replicas of product-service; a frozen one is skipped within a second",
        off: "all calls use one connection, to one replica",
        read_by: &["user-service"],
    }
    ForwardAuth {
        name: "forward_auth",
        variable: "AGORA_PATTERN_FORWARD_AUTH",
        on: "the gateway has user-service verify each protected request, and removes the identity headers that clients send",
        off: "no request is verified, and services trust `X-User-Id` from any client",
        read_by: &["traefik"],
    }
    RateLimit {
        name: "rate_limit",
        variable: "AGORA_PATTERN_RATE_LIMIT",
        on: "the gateway limits the requests that one user may send in a second",
        off: "one user may use all of the services' capacity",
        read_by: &["traefik"],
    }
    Alerting {
        name: "alerting",
        variable: "AGORA_PATTERN_ALERTING",
        on: "Alertmanager notifies a receiver of alerts that fire and that are resolved",
        off: "the same alerts fire, without any notification",
        read_by: &["alertmanager"],
    }
}

impl Pattern {
    /// As it is called in metrics, reports and `GET /patterns`.
    pub const fn name(self) -> &'static str {
        self.declaration().name
    }

    /// The environment variable that switches it: [`PREFIX`] and its name in capitals.
    pub const fn variable(self) -> &'static str {
        self.declaration().variable
    }

    /// What happens with the pattern on; a line of Markdown without a full stop.
    pub const fn on(self) -> &'static str {
        self.declaration().on
    }

    /// What happens with the pattern off, the same way.
    pub const fn off(self) -> &'static str {
        self.declaration().off
    }

    /// The services that read the switch, as Compose calls them.
    pub const fn read_by(self) -> &'static [&'static str] {
        self.declaration().read_by
    }

    /// The pattern with this name.
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|pattern| pattern.name() == name)
    }

    /// The pattern that this variable switches.
    pub fn of_variable(variable: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|pattern| pattern.variable() == variable)
    }
}

/// The position of a pattern's switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// The pattern works.
    On,
    /// The naive version runs.
    Off,
}

/// What a switch may be set to, for an error's text.
pub const POSITIONS: &str = "on or off";

/// A switch that is set to anything else: a mistyped one must not look like one that changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownPosition;

impl Switch {
    /// As it is set and reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }

    /// Whether the pattern works.
    pub const fn is_on(self) -> bool {
        matches!(self, Self::On)
    }
}

impl FromStr for Switch {
    type Err = UnknownPosition;

    fn from_str(text: &str) -> Result<Self, UnknownPosition> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(UnknownPosition),
        }
    }
}

impl fmt::Display for UnknownPosition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "expected {POSITIONS}")
    }
}

impl std::error::Error for UnknownPosition {}

/// All patterns as a table in Markdown, for the documents.
pub fn markdown_table() -> String {
    let rows = Pattern::ALL.iter().map(|pattern| {
        let (name, on, off) = (pattern.name(), pattern.on(), pattern.off());
        format!("| `{name}` | {on} | {off} |\n")
    });
    "| pattern | on | off |\n|---|---|---|\n".to_owned() + &rows.collect::<String>()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use support::documents::{expect_file, expect_table};

    use super::*;

    #[test]
    fn a_pattern_has_one_name_everywhere() {
        let mut names = BTreeSet::new();
        for pattern in Pattern::ALL {
            let name = pattern.name();
            assert!(names.insert(name), "{name} is there twice");
            assert_eq!(
                pattern.variable(),
                format!("{PREFIX}{}", name.to_uppercase())
            );
            assert_eq!(Pattern::named(name), Some(*pattern));
            assert_eq!(Pattern::of_variable(pattern.variable()), Some(*pattern));
        }
        assert_eq!(Pattern::named("outboxx"), None);
    }

    #[test]
    fn a_switch_is_on_or_off_and_nothing_else() {
        for switch in [Switch::On, Switch::Off] {
            assert_eq!(switch.name().parse(), Ok(switch));
        }
        for text in ["", "ON", "true", "1", "off "] {
            assert_eq!(text.parse::<Switch>(), Err(UnknownPosition), "{text:?}");
        }
    }

    #[test]
    fn the_reference_has_the_switches_of_each_service_on_kubernetes() {
        for service in ALL_SERVICES {
            let read = Pattern::ALL
                .iter()
                .filter(|it| it.read_by().contains(service));
            let lines: String = read.map(|it| format!("{}=on\n", it.variable())).collect();
            expect_file(
                &format!("deploy/kubernetes/base/settings/patterns-{service}.env"),
                &format!(
                    "# Made of the table in services/patterns/src/lib.rs: every switch that {service} reads.\n{lines}"
                ),
            );
        }
    }

    #[test]
    fn compose_passes_each_switch_to_the_services_that_read_it() {
        let passed = passed_on(include_str!("../../../compose.yaml"));
        for pattern in Pattern::ALL {
            let read_by: BTreeSet<_> = pattern.read_by().iter().copied().collect();
            let to = passed.iter().filter(|(_, variables)| {
                let variable = pattern.variable();
                variables.contains(variable)
            });
            let to: BTreeSet<_> = to.map(|(service, _)| *service).collect();
            assert_eq!(to, read_by, "{}", pattern.name());
        }
        for variable in passed.values().flatten() {
            assert!(Pattern::of_variable(variable).is_some(), "{variable}");
        }
    }

    #[test]
    fn the_reference_has_every_pattern() {
        expect_table("docs/reference/patterns.md", &markdown_table());
    }

    /// Each service's switches in a Compose file, with those of the fragments (`x-…: &name`) that it merges in.
    fn passed_on(compose: &str) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut fragments: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut services: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut fragment = None;
        let mut service = None;
        for line in compose.lines() {
            let text = line.trim();
            if let Some((_, anchor)) = line.strip_prefix("x-").and_then(|it| it.split_once(": &")) {
                fragment = Some(anchor);
            } else if line == "services:" {
                fragment = None;
            } else if let Some(key) = line.strip_prefix("  ").and_then(|it| it.strip_suffix(':'))
                && !key.starts_with([' ', '#'])
            {
                service = Some(key);
            }
            let mut variables = BTreeSet::new();
            if let Some((variable, _)) = text.split_once(": ")
                && variable.starts_with(PREFIX)
            {
                variables.insert(variable);
            } else if let Some(merged) = text.strip_prefix("<<:") {
                let names = merged.split(['[', ']', ',', ' ']);
                for name in names.filter_map(|name| name.strip_prefix('*')) {
                    variables.extend(fragments.get(name).into_iter().flatten());
                }
            }
            match (fragment, service) {
                (Some(name), _) => fragments.entry(name).or_default().extend(variables),
                (None, Some(name)) => services.entry(name).or_default().extend(variables),
                (None, None) => {}
            }
        }
        services.retain(|_, variables| !variables.is_empty());
        services
    }
}
