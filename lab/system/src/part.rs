//! The parts of the system: the services of compose.yaml and of compose.bench.yaml, by name, and what is fixed about
//! each.
//!
//! Left out: a part's containers ([`crate::members`]), its ports ([`crate::project::PORTS`]), and the labels of
//! Prometheus, Loki and Jaeger. Those are text that a system sent, even where they have the same names.

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// A part of the system. Parts are ordered by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The gateway.
    Traefik,
    /// The database of all services.
    Postgres,
    /// The broker.
    RabbitMq,
    /// The store of metrics; it decides which alerts fire.
    Prometheus,
    /// It sends notifications of alerts.
    Alertmanager,
    /// It receives Alertmanager's notifications: agora's own, and no part of the shop.
    AlertReceiver,
    /// The store of traces.
    Jaeger,
    /// Accounts, tokens, purchases.
    UserService,
    /// The catalogue.
    ProductService,
    /// Orders.
    OrderService,
    /// Stock.
    InventoryService,
    /// It replays dead letters or removes them.
    DeadLetters,
    /// It answers the gateway from a constant, in the services' place.
    TrivialService,
    /// The store of log lines.
    Loki,
    /// It sends log lines to Loki.
    Alloy,
    /// Dashboards.
    Grafana,
    /// A gateway like the system's, without its rate limit.
    TraefikReal,
    /// One without the auth hop.
    TraefikOpen,
    /// One before trivial-service.
    TraefikTrivial,
    /// One before trivial-service, without the auth hop.
    TraefikTrivialOpen,
    /// One with a part of a processor.
    TraefikBounded,
    /// One before trivial-service, with a part of a processor.
    TraefikTrivialBounded,
}

/// What a part is there for. Who starts it follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A service of the shop; started by `up`.
    Service,
    /// What the services or those who run them rely on; started by `up`.
    Infrastructure,
    /// What the system can do without; started by `up` where its image can be had.
    Optional,
    /// Run by a command beside the system.
    Tool,
    /// A gateway to compare with; started by `bench` from compose.bench.yaml.
    ComparedGateway,
}

impl Part {
    /// All parts, in the order of the Compose files.
    pub const ALL: [Self; 22] = [
        Self::Traefik,
        Self::Postgres,
        Self::RabbitMq,
        Self::Prometheus,
        Self::Alertmanager,
        Self::AlertReceiver,
        Self::Jaeger,
        Self::UserService,
        Self::ProductService,
        Self::OrderService,
        Self::InventoryService,
        Self::DeadLetters,
        Self::TrivialService,
        Self::Loki,
        Self::Alloy,
        Self::Grafana,
        Self::TraefikReal,
        Self::TraefikOpen,
        Self::TraefikTrivial,
        Self::TraefikTrivialOpen,
        Self::TraefikBounded,
        Self::TraefikTrivialBounded,
    ];

    /// The shop's services, in the order in which people read about them.
    pub fn services() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|part| part.is_service())
    }

    /// What `up` always starts.
    pub fn required() -> impl Iterator<Item = Self> {
        let parts = Self::ALL.into_iter();
        parts.filter(|part| matches!(part.role(), Role::Service | Role::Infrastructure))
    }

    /// What the system can do without.
    pub fn optional() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|part| part.is_optional())
    }

    /// The parts whose images are built from agora's own sources.
    pub fn built() -> impl Iterator<Item = Self> {
        let tools = Self::ALL.into_iter().filter(|part| part.is_tool());
        Self::services().chain([Self::AlertReceiver]).chain(tools)
    }

    /// The one of `known` with this name.
    ///
    /// # Errors
    /// When none has it.
    pub fn among(known: impl IntoIterator<Item = Self>, name: &str) -> Result<Self, UnknownPart> {
        let known: Vec<Self> = known.into_iter().collect();
        let found = known.iter().find(|part| part.name() == name);
        found.copied().ok_or_else(|| UnknownPart {
            name: name.to_owned(),
            known,
        })
    }

    /// The name of its service in the Compose files, which is also its host name in their networks.
    pub fn name(self) -> &'static str {
        match self {
            Self::Traefik => "traefik",
            Self::Postgres => "postgres",
            Self::RabbitMq => "rabbitmq",
            Self::Prometheus => "prometheus",
            Self::Alertmanager => "alertmanager",
            Self::AlertReceiver => "alert-receiver",
            Self::Jaeger => "jaeger",
            Self::UserService => "user-service",
            Self::ProductService => "product-service",
            Self::OrderService => "order-service",
            Self::InventoryService => "inventory-service",
            Self::DeadLetters => "dead-letters",
            Self::TrivialService => "trivial-service",
            Self::Loki => "loki",
            Self::Alloy => "alloy",
            Self::Grafana => "grafana",
            Self::TraefikReal => "traefik-real",
            Self::TraefikOpen => "traefik-open",
            Self::TraefikTrivial => "traefik-trivial",
            Self::TraefikTrivialOpen => "traefik-trivial-open",
            Self::TraefikBounded => "traefik-bounded",
            Self::TraefikTrivialBounded => "traefik-trivial-bounded",
        }
    }

    /// What it is there for.
    pub fn role(self) -> Role {
        match self {
            Self::UserService
            | Self::ProductService
            | Self::OrderService
            | Self::InventoryService => Role::Service,
            Self::Traefik
            | Self::Postgres
            | Self::RabbitMq
            | Self::Prometheus
            | Self::Alertmanager
            | Self::AlertReceiver
            | Self::Jaeger => Role::Infrastructure,
            Self::Loki | Self::Alloy | Self::Grafana => Role::Optional,
            Self::DeadLetters | Self::TrivialService => Role::Tool,
            Self::TraefikReal
            | Self::TraefikOpen
            | Self::TraefikTrivial
            | Self::TraefikTrivialOpen
            | Self::TraefikBounded
            | Self::TraefikTrivialBounded => Role::ComparedGateway,
        }
    }

    /// Whether it is one of the shop's services.
    pub fn is_service(self) -> bool {
        self.role() == Role::Service
    }

    /// Whether the system can do without it, so that its health doesn't count for the system's.
    pub fn is_optional(self) -> bool {
        self.role() == Role::Optional
    }

    /// Whether it belongs to a command and not to the system.
    pub fn is_tool(self) -> bool {
        self.role() == Role::Tool
    }

    /// The name of its database in PostgreSQL, if it has one.
    pub fn database(self) -> Option<&'static str> {
        match self {
            Self::UserService => Some("users"),
            Self::ProductService => Some("products"),
            Self::OrderService => Some("orders"),
            Self::InventoryService => Some("inventory"),
            _ => None,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Part {
    type Err = UnknownPart;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::among(Self::ALL, name)
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Ord for Part {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(other.name())
    }
}

impl PartialOrd for Part {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A name that none of the parts has that may be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownPart {
    name: String,
    known: Vec<Part>,
}

impl UnknownPart {
    /// Which names there are: `the services are user-service, …`.
    pub fn known(&self) -> String {
        let names: Vec<&str> = self.known.iter().map(|part| part.name()).collect();
        format!("the services are {}", names.join(", "))
    }
}

impl fmt::Display for UnknownPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no service `{}`: {}", self.name, self.known())
    }
}

impl std::error::Error for UnknownPart {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const COMPOSE: &str = include_str!("../../../compose.yaml");
    const BENCH: &str = include_str!("../../../compose.bench.yaml");
    const TEST: &str = include_str!("../../../compose.test.yaml");

    /// The services of a Compose file, each with its lines.
    fn services(compose: &str) -> BTreeMap<&str, Vec<&str>> {
        let lines = compose.lines().skip_while(|line| *line != "services:");
        let is_below = |line: &&str| line.is_empty() || line.starts_with([' ', '#']);
        let mut services = BTreeMap::<_, Vec<_>>::new();
        let mut current = None;
        for line in lines.skip(1).take_while(is_below) {
            match line.strip_prefix("  ") {
                Some(below) if !below.starts_with([' ', '#']) => {
                    let name = below.strip_suffix(':').expect("a service's name");
                    services.entry(name).or_default();
                    current = Some(name);
                }
                Some(below) => {
                    let lines = current.and_then(|service| services.get_mut(service));
                    lines.into_iter().for_each(|lines| lines.push(below.trim()));
                }
                None => {}
            }
        }
        services
    }

    /// Where these parts and the services of these Compose files differ.
    fn differences(parts: &[Part], files: &[&str]) -> Vec<String> {
        let defined: Vec<_> = files.iter().copied().flat_map(services).collect();
        let is_part = |name: &str| parts.iter().any(|part| part.name() == name);
        let is_defined = |part: &Part| defined.iter().any(|(name, _)| *name == part.name());
        let names = defined.iter().map(|(name, _)| *name);
        let no_parts = names.filter(|name| !is_part(name));
        let undefined = parts.iter().filter(|part| !is_defined(part));
        no_parts
            .map(|name| format!("{name} is no part"))
            .chain(undefined.map(|part| format!("{part} is in no Compose file")))
            .collect()
    }

    #[test]
    fn the_parts_are_the_services_of_the_compose_files() {
        assert_eq!(differences(&Part::ALL, &[COMPOSE, BENCH]), [""; 0]);
        // What changes services for tests adds none.
        assert_eq!(differences(&Part::ALL, &[COMPOSE, BENCH, TEST]), [""; 0]);
    }

    #[test]
    fn a_missing_part_and_a_missing_service_are_found() {
        for (missing, part) in Part::ALL.into_iter().enumerate() {
            let mut parts = Part::ALL.to_vec();
            parts.remove(missing);
            assert_eq!(
                differences(&parts, &[COMPOSE, BENCH]),
                [format!("{part} is no part")]
            );
            let name = format!("\n  {part}:\n");
            let without = |file: &str| file.replace(&name, "\n  # another's:\n");
            let (compose, bench) = (without(COMPOSE), without(BENCH));
            assert_eq!(
                differences(&Part::ALL, &[&compose, &bench]),
                [format!("{part} is in no Compose file")]
            );
        }
    }

    #[test]
    fn roles_images_and_databases_are_those_of_the_compose_file() {
        let services = services(COMPOSE);
        for part in Part::ALL {
            let Some(lines) = services.get(part.name()) else {
                assert_eq!(part.role(), Role::ComparedGateway, "{part}");
                continue;
            };
            let has = |start: &str| lines.iter().any(|line| line.starts_with(start));
            let profile = match part.role() {
                Role::Service | Role::Infrastructure => None,
                Role::Optional => Some("pulled"),
                Role::Tool => Some("tools"),
                Role::ComparedGateway => panic!("{part} is in compose.yaml"),
            };
            assert_eq!(has("profiles:"), profile.is_some(), "{part}");
            if let Some(profile) = profile {
                assert!(has(&format!("profiles: [{profile}]")), "{part}");
            }
            assert_eq!(lines.contains(&"<<: *service"), part.is_service(), "{part}");
            let is_built = Part::built().any(|built| built == part);
            assert_eq!(has("build:"), is_built, "{part}");
            assert_eq!(has(&format!("image: agora/{part}:dev")), is_built, "{part}");
            let address = lines
                .iter()
                .find(|line| line.starts_with("DATABASE_URL:"))
                .and_then(|line| line.rsplit('/').next());
            assert_eq!(part.database(), address, "{part}");
        }
    }

    #[test]
    fn a_part_is_written_and_read_by_its_name() {
        for part in Part::ALL {
            assert_eq!(part.name().parse::<Part>(), Ok(part));
            let json = serde_json::to_string(&part).unwrap();
            assert_eq!(json, format!("\"{part}\""));
        }
        assert_eq!(format!("{:9}|", Part::Loki), "loki     |");
        let mut parts = [Part::UserService, Part::Alloy];
        parts.sort();
        assert_eq!(parts, [Part::Alloy, Part::UserService]);
    }

    #[test]
    fn a_name_that_no_part_has_is_refused_with_those_that_there_are() {
        let error = "orders".parse::<Part>().unwrap_err();
        for part in Part::ALL {
            assert!(error.to_string().contains(part.name()), "{error}");
        }
        let error = Part::among(Part::services(), "postgres").unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no service `postgres`: the services are user-service, product-service, order-service, \
             inventory-service"
        );
    }
}
