//! A gateway with recorders in place of the services behind it.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

use crate::{
    client,
    recorder::{Recorder, Request, answer},
    traefik::{Configuration, Traefik},
};

/// A running gateway and all that stands behind it.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// What ForwardAuth asks.
    pub(crate) auth: Recorder,
    /// user-service as the routes reach it.
    pub(crate) users: Recorder,
    /// order-service.
    pub(crate) orders: Recorder,
    /// inventory-service.
    pub(crate) inventory: Recorder,
    /// Where ping and metrics are.
    pub(crate) ops: SocketAddr,
    /// Where ForwardAuth asks.
    pub(crate) inner: SocketAddr,
    /// Where the gateway's own dashboard is.
    pub(crate) dashboard: SocketAddr,
    pub(crate) web: SocketAddr,
    /// The names of its routers.
    pub(crate) routers: BTreeSet<String>,
    _traefik: Traefik,
}

impl Gateway {
    /// Starts one with the repository's configuration.
    pub(crate) fn start() -> Self {
        Self::start_with(Configuration::of_the_repository())
    }

    /// Starts one with a configuration of the test's own.
    pub(crate) fn start_with(configuration: Configuration) -> Self {
        Self::start_with_auth(configuration, Recorder::start(auth_answer))
    }

    /// Starts one that asks another auth service.
    pub(crate) fn start_with_auth(configuration: Configuration, auth: Recorder) -> Self {
        let service = || Recorder::start(|_| answer("200 OK", &[], ""));
        Self::start_before(configuration, auth, [service(), service(), service()])
    }

    /// Starts one before an auth service, user-service, order-service and inventory-service of the test's own.
    pub(crate) fn start_before(
        mut configuration: Configuration,
        auth: Recorder,
        [users, orders, inventory]: [Recorder; 3],
    ) -> Self {
        let [web, ops, inner, dashboard] = free_addresses();
        for (old, new) in [
            (r#"address: ":8080""#, format!("address: {web}")),
            (r#"address: ":8082""#, format!("address: {ops}")),
            (r#"address: ":8081""#, format!("address: {dashboard}")),
            ("127.0.0.1:8083", inner.to_string()),
            (
                "serversTransport: auth-service
        servers:
          - url: http://user-service:8000",
                format!(
                    "serversTransport: auth-service
        servers:
          - url: http://{}",
                    auth.address
                ),
            ),
            ("user-service:8000", users.address.to_string()),
            ("order-service:8000", orders.address.to_string()),
            ("inventory-service:8000", inventory.address.to_string()),
        ] {
            configuration = configuration.replacing(old, &new);
        }
        let traefik = Traefik::start(&configuration, web);
        // Forget what the wait for the routes asked.
        auth.take();
        Self {
            auth,
            users,
            orders,
            inventory,
            ops,
            inner,
            dashboard,
            web,
            routers: configuration.routers(),
            _traefik: traefik,
        }
    }

    /// Sends a request and gives the status of the answer.
    pub(crate) fn send(&self, request: &[u8]) -> u16 {
        client::send(self.web, request)
            .unwrap_or_else(|error| panic!("{error} to:\n{}", String::from_utf8_lossy(request)))
    }

    /// What arrived at the services by a route since they were last looked at.
    pub(crate) fn routed(&self) -> Vec<Request> {
        [&self.users, &self.orders, &self.inventory]
            .into_iter()
            .flat_map(Recorder::take)
            .collect()
    }

    /// Fails when anything arrived at the services since they were last looked at.
    pub(crate) fn assert_nothing_routed(&self) {
        let routed = self.routed();
        assert!(routed.is_empty(), "{routed:?}");
    }
}

/// `/auth/verify` for the clients that the tests know.
pub(crate) fn auth_answer(request: &Request) -> String {
    let identity = ["X-User-Id: alice", "X-User-Email: alice@example.org"];
    let bob = ["X-User-Id: bob", "X-User-Email: bob@example.org"];
    match request.header("Authorization") {
        Some("Bearer alice") => answer("200 OK", &identity, ""),
        Some("Bearer bob") => answer("200 OK", &bob, ""),
        Some("Bearer nobody") => answer("200 OK", &[], ""),
        Some("Bearer verbose") => answer("200 OK", &identity, &"x".repeat(10_000)),
        _ => answer("401 Unauthorized", &[], "{}"),
    }
}

/// Four addresses where nothing listens: of ports that the kernel gives to nobody who doesn't ask for them, and each
/// once. A port that it chose itself would be another connection's before Traefik gets to it, now and then.
fn free_addresses() -> [SocketAddr; 4] {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    [(); 4].map(|()| {
        let free = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed))
            .take(1_000)
            .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
        (Ipv4Addr::LOCALHOST, free.expect("no free port")).into()
    })
}
