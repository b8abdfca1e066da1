//! The gateway's public routes, read from Traefik's own file: which router serves a path, which service is behind it, and
//! whether the request is authenticated before.
//!
//! Only what this project's file uses is read: blocks by their indentation, `Path` and `PathPrefix` in a rule. Left out:
//! methods, and whether the routes are those of the OpenAPI documents (`tests/gateway`).

use std::sync::LazyLock;

const FILE: &str = include_str!("../../../observability/traefik/dynamic/agora.yaml");
/// The middlewares by which a request is authenticated; the second one is a chain with the first in it.
const AUTHENTICATING: [&str; 2] = ["authenticate", "protected"];

static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| routes(FILE));

/// A router of the gateway's public entry point, with a service behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The router's name with its provider, as in Traefik's metrics: `orders@file`.
    pub router: String,
    /// The service behind it, which is also the label `job` of the service's metrics.
    pub service: String,
    /// Whether the gateway asks `/auth/verify` first.
    pub is_protected: bool,
    paths: Vec<Matcher>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Matcher {
    Path(String),
    Prefix(String),
}

impl Matcher {
    /// How much of the path it names; `None` where it doesn't match.
    fn matched(&self, path: &str) -> Option<usize> {
        match self {
            Self::Path(exact) => (path == exact).then_some(exact.len()),
            Self::Prefix(prefix) => path.starts_with(prefix.as_str()).then_some(prefix.len()),
        }
    }
}

/// The route of a path or of a path's template, e.g. `/orders/{id}`: the most specific one.
pub fn of_path(path: &str) -> Option<&'static Route> {
    let matched = |route: &Route| route.paths.iter().filter_map(|it| it.matched(path)).max();
    let matching = ROUTES
        .iter()
        .filter_map(|route| Some((matched(route)?, route)));
    Some(matching.max_by_key(|(length, _)| *length)?.1)
}

/// The route of a router.
pub fn of_router(router: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| route.router == router)
}

/// The routes in a file of Traefik's.
fn routes(file: &str) -> Vec<Route> {
    let block = file
        .split_once("\n  routers:\n")
        .map_or("", |(_, rest)| rest);
    let lines = block
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let mut routers: Vec<(&str, Vec<(&str, &str)>)> = Vec::new();
    for line in lines.take_while(|line| line.is_empty() || line.starts_with("    ")) {
        let Some((key, value)) = line.trim().split_once(':') else {
            continue;
        };
        match (line.starts_with("      "), routers.last_mut()) {
            (false, _) => routers.push((key, Vec::new())),
            (true, Some((_, settings))) => settings.push((key, value.trim())),
            (true, None) => {}
        }
    }
    routers
        .into_iter()
        .filter_map(|(name, settings)| route(name, &settings))
        .collect()
}

/// `None` for a router of another entry point, or without a service of ours.
fn route(name: &str, settings: &[(&str, &str)]) -> Option<Route> {
    let setting = |key: &str| {
        settings
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, it)| *it)
    };
    let service = setting("service")?;
    if setting("entryPoints").is_some() || service.contains('@') {
        return None;
    }
    let middlewares = setting("middlewares").unwrap_or_default();
    let mut middlewares = middlewares.split(['[', ']', ',', ' ']);
    Some(Route {
        router: format!("{name}@file"),
        service: service.to_owned(),
        is_protected: middlewares.any(|name| AUTHENTICATING.contains(&name)),
        paths: matchers(setting("rule")?),
    })
}

/// What a rule says of paths: ``Path(`/users`) || PathPrefix(`/users/`)``.
fn matchers(rule: &str) -> Vec<Matcher> {
    let calls = rule.split("Path").skip(1);
    let matcher = |call: &str| {
        let (kind, path) = call.split_once("(`")?;
        let path = path.split_once('`')?.0.to_owned();
        match kind {
            "" => Some(Matcher::Path(path)),
            "Prefix" => Some(Matcher::Prefix(path)),
            _ => None,
        }
    };
    calls.filter_map(matcher).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_most_specific_route() {
        let route = |path| {
            let route = of_path(path)?;
            Some((&*route.router, &*route.service, route.is_protected))
        };
        for (path, expected) in [
            ("/auth/signup", ("signup@file", "user-service", false)),
            ("/auth/logout", ("logout@file", "user-service", true)),
            ("/users", ("users@file", "user-service", true)),
            (
                "/users/{id}/purchases",
                ("users@file", "user-service", true),
            ),
            (
                "/users/me/password",
                ("password@file", "user-service", true),
            ),
            ("/orders/", ("orders@file", "order-service", true)),
            (
                "/inventory/{product_id}",
                ("inventory@file", "inventory-service", true),
            ),
            ("/docs/", ("docs@file", "user-service", false)),
        ] {
            assert_eq!(route(path), Some(expected), "{path}");
        }
        // The entry point for the gateway itself, a path that only begins like another, and one that nobody routes.
        for path in ["/auth/verify", "/usersandmore", "/metrics"] {
            assert_eq!(of_path(path), None, "{path}");
        }
        assert_eq!(of_router("orders@file"), of_path("/orders/7"));
    }

    #[test]
    fn every_path_of_the_documents_has_a_route_to_its_service() {
        for (service, document) in [
            (
                "user-service",
                include_str!("../../../docs/openapi/user-service.json"),
            ),
            (
                "order-service",
                include_str!("../../../docs/openapi/order-service.json"),
            ),
            (
                "inventory-service",
                include_str!("../../../docs/openapi/inventory-service.json"),
            ),
        ] {
            let document: serde_json::Value = serde_json::from_str(document).unwrap();
            for path in document["paths"].as_object().unwrap().keys() {
                let route = of_path(path).unwrap_or_else(|| panic!("{path} has no route"));
                assert_eq!(route.service, service, "{path}");
            }
        }
    }
}
