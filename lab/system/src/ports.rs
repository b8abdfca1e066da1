//! Ports on 127.0.0.1: whether they are free, and which program listens on them if not.
//!
//! Left out: which ports there are ([`crate::project::PORTS`]).

use std::{
    fmt,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use base::outcome;

use crate::{
    engine,
    members::{self, Member},
    process::Call,
    project::{GRAFANA, PORTS, PublishedPort, Settings},
};

/// A chosen port on which something else listens.
#[derive(Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The setting that chooses the port.
    pub variable: &'static str,
    /// The port.
    pub port: u16,
    /// The program or container that listens, where that can be found out.
    pub holder: Option<String>,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holder = self.holder.as_deref().unwrap_or("another program");
        write!(
            f,
            "port {} on 127.0.0.1 ({}) is taken by {holder}",
            self.port, self.variable
        )
    }
}

/// Fails on the first chosen port that something other than our own containers holds.
pub fn require_free(settings: &Settings, own: &[Member]) -> anyhow::Result<()> {
    match conflicts(settings, own)?.into_iter().next() {
        Some(conflict) => Err(outcome::unavailable(
            conflict.to_string(),
            format!(
                "stop it, or choose another port: `{}=<port> cargo xtask up`, or set it in .env",
                conflict.variable
            ),
        )),
        None => Ok(()),
    }
}

/// Fails on a chosen port that is no port, be it of a part that may not even start.
pub fn require_numbers(settings: &Settings) -> anyhow::Result<()> {
    let all = PORTS.iter().chain([&GRAFANA]);
    all.into_iter()
        .try_for_each(|published| settings.port(published).map(drop))
}

/// All chosen ports that something other than our own containers holds.
pub fn conflicts(settings: &Settings, own: &[Member]) -> anyhow::Result<Vec<Conflict>> {
    let conflicts = PORTS
        .iter()
        .map(|published| conflict(settings, own, published));
    conflicts.filter_map(Result::transpose).collect()
}

/// Whether something other than our own containers holds the port that was chosen.
pub fn conflict(
    settings: &Settings,
    own: &[Member],
    published: &PublishedPort,
) -> anyhow::Result<Option<Conflict>> {
    let port = settings.port(published)?;
    let taken = port != 0 && !is_ours(own, published, port) && is_taken(port);
    Ok(taken.then(|| Conflict {
        variable: published.variable,
        port,
        holder: holder(port),
    }))
}

fn is_ours(own: &[Member], published: &PublishedPort, port: u16) -> bool {
    members::published(own, published).is_ok_and(|address| address == format!("127.0.0.1:{port}"))
}

fn is_taken(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    // Connecting finds listeners on 0.0.0.0 that binding to 127.0.0.1 may overlook (macOS), and needs no
    // privilege for ports below 1024, which binding does.
    if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
        return true;
    }
    TcpListener::bind(address).is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

fn holder(port: u16) -> Option<String> {
    if let Some(container) = engine::publishers(port).into_iter().next() {
        return Some(format!("container {container}"));
    }
    let filter = format!("sport = :{port}");
    let sockets = Call::new("ss").args(["-Hltnp", &filter]).read().ok()?;
    process_name(&sockets).map(|name| format!("`{name}`"))
}

/// The program's name in the last column of `ss -p`: `users:(("nginx",pid=1,fd=6))`.
fn process_name(sockets: &str) -> Option<&str> {
    sockets.split_once("((\"")?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_makes_a_port_taken() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_taken(port));
        drop(listener);
        assert!(!is_taken(port));
    }

    #[test]
    fn a_conflict_names_port_setting_and_holder() {
        let conflict = Conflict {
            variable: "AGORA_HTTP_PORT",
            port: 80,
            holder: Some("nginx".to_owned()),
        };
        let error = conflict.to_string();
        assert!(
            error.contains("port 80")
                && error.contains("AGORA_HTTP_PORT")
                && error.contains("nginx"),
            "{error}"
        );
    }

    /// `(variable, default, port inside)` of each `- "127.0.0.1:${VARIABLE:-default}:inside"`.
    fn published_by_compose(compose: &str) -> Vec<(&str, &str, &str)> {
        let ports = compose
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- \"127.0.0.1:${"));
        let read = |port| {
            let (variable, rest) = str::split_once(port, ":-")?;
            let (default, inside) = rest.split_once("}:")?;
            Some((variable, default, inside.trim_end_matches('"')))
        };
        ports.filter_map(read).collect()
    }

    #[test]
    fn compose_publishes_the_ports_that_are_known_here() {
        let compose = concat!(env!("CARGO_MANIFEST_DIR"), "/../../compose.yaml");
        let compose = std::fs::read_to_string(compose).unwrap();
        let mut published = published_by_compose(&compose);
        let known = [&PORTS[..], &[GRAFANA]].concat();
        let inside: Vec<String> = known
            .iter()
            .map(|port| port.container_port.to_string())
            .collect();
        let known = known.iter().zip(&inside);
        let mut known: Vec<(&str, &str, &str)> = known
            .map(|(port, inside)| (port.variable, port.default, inside.as_str()))
            .collect();
        published.sort_unstable();
        known.sort_unstable();
        assert_eq!(published, known);
        // The two that people know from elsewhere; and whatever else names a port in the file means the same one.
        assert!(published.contains(&("AGORA_GRAFANA_PORT", "3001", "3000")));
        assert!(published.contains(&("AGORA_TRAEFIK_DASHBOARD_PORT", "8080", "8081")));
        for (variable, default, _) in published {
            let named = compose.matches(&format!("${{{variable}")).count();
            let with_default = format!("${{{variable}:-{default}}}");
            assert_eq!(compose.matches(&with_default).count(), named, "{variable}");
        }
    }

    #[test]
    fn the_holder_is_read_from_ss() {
        let line = r#"LISTEN 0 511 0.0.0.0:80 0.0.0.0:* users:(("nginx",pid=1,fd=6),("nginx",pid=2,fd=6))"#;
        assert_eq!(process_name(line), Some("nginx"));
        assert_eq!(process_name("LISTEN 0 511 0.0.0.0:80 0.0.0.0:*"), None);
    }
}
