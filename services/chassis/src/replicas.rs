//! Client-side load balancing: calls to a service are spread over its healthy replicas.
//!
//! | part | what it does |
//! |---|---|
//! | discovery | the service's name is resolved every `RESOLVE_INTERVAL`; new addresses are added, addresses that are gone are removed |
//! | health checks | every `PROBE_INTERVAL` each address is checked through `grpc.health.v1`, and has to answer `SERVING` within `PROBE_TIMEOUT`. Calls go to the replicas with the fewest failed checks in a row |
//! | selection | power of two choices by pending requests (tower's [`Balance`]) |
//! | keepalive | a connection on which an HTTP/2 ping gets no answer is closed; its calls fail with `Unavailable` and may be retried on another replica ([`crate::outbound`]) |
//!
//! While no replica is known to be healthy, calls go to the service's name over a single connection, as they do without
//! balancing: with nothing to choose from, or without a health service, balancing must not make things worse.
//!
//! Why not tonic's `Channel::balance_channel`, or `ginepro`, which feeds it from DNS: they take every replica that accepts a connection
//! for ready. The kernel accepts connections for a frozen process, so a frozen replica would return with each
//! reconnect; and all of tonic's endpoints report a load of 0, so half of the calls would go to it. Health checks follow gRPC's
//! client-side health checking (<https://github.com/grpc/proposal/blob/master/A17-client-side-health-checking.md>), but poll
//! instead of watching, because a frozen replica ends no stream.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::balance::p2c::Balance;
use tower::buffer::Buffer;
use tower::discover::Change;
use tower::load::{CompleteOnResponse, PendingRequestsDiscover};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt};
use tracing::{info, warn};

use crate::lifecycle::Lifecycle;
use crate::metrics::CallMetrics;

/// Time between two resolutions of the name.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(2);
/// Time between two health checks of a replica.
const PROBE_INTERVAL: Duration = Duration::from_millis(300);
/// How long a health check may take.
const PROBE_TIMEOUT: Duration = Duration::from_millis(300);
/// A replica that failed this many checks in a row is unhealthy: it gets no calls even if every other one is, too.
const UNHEALTHY_AFTER: u32 = 6;
/// A connection that received nothing for this long is pinged.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(500);
/// How long the answer to a ping may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(800);
/// Replicas are in the same network; a slower one fails its health checks anyway.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Calls that may be queued for selection. There is always an endpoint, so the queue is almost always empty.
const BUFFER: usize = 1_024;

/// A channel to a service, for a generated client; clones share its connections. Transport errors are statuses.
pub type ClientChannel = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// Resolves the current addresses of a service.
#[derive(Clone)]
pub struct Resolver(Arc<dyn Fn() -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>);

impl Resolver {
    /// Resolves the host name of an endpoint's URL with the system's resolver.
    pub fn of(endpoint: &Endpoint) -> Self {
        let uri = endpoint.uri();
        // An IPv6 address has brackets in a URL, and none as a name.
        let host = uri.host().unwrap_or_default();
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = uri.port_u16().unwrap_or(80);
        Self::new(move || {
            let host = host.clone();
            async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) }
        })
    }

    /// Resolves with a custom function.
    pub fn new<F>(resolve: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        Self(Arc::new(move || resolve().boxed()))
    }
}

/// A member of the balanced set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Member {
    /// The service's name: the fallback while no replica is healthy.
    Name,
    Replica(SocketAddr),
}

type Members = BTreeMap<Member, Channel>;

/// One connection to whichever replica the name resolves to, opened on first use and kept.
pub fn single(endpoint: &Endpoint) -> ClientChannel {
    erased(endpoint.connect_lazy())
}

fn erased<S>(service: S) -> ClientChannel
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    ClientChannel::new(service.map_err(|error| Status::from_error(error.into())))
}

/// Balances over the healthy ones of the addresses that `resolver` returns, until the service closes.
pub fn balanced(
    lifecycle: &Lifecycle,
    target: &'static str,
    endpoint: &Endpoint,
    resolver: Resolver,
) -> ClientChannel {
    let by_name = Members::from([(Member::Name, endpoint.connect_lazy())]);
    let (members, wanted) = watch::channel(by_name.clone());
    let discover = PendingRequestsDiscover::new(
        Box::pin(changes(wanted)),
        // A request counts as pending until its response begins; ours are unary.
        CompleteOnResponse::default(),
    );
    let channel = erased(Buffer::new(Balance::new(discover), BUFFER));

    let (found, addresses) = watch::channel(BTreeSet::new());
    let closing = lifecycle.closing();
    lifecycle.spawn_watcher("replica discovery", async move {
        let resolving = keep_resolving(target, resolver, found);
        closing.run_until_cancelled_owned(resolving).await;
        Ok(())
    });
    let checker = Checker {
        endpoint: endpoint.clone(),
        metrics: lifecycle.metrics().calls(target),
        by_name,
        replicas: BTreeMap::new(),
        members,
    };
    let closing = lifecycle.closing();
    lifecycle.spawn_watcher("replica health", async move {
        let checking = checker.run(addresses);
        closing.run_until_cancelled_owned(checking).await;
        Ok(())
    });
    channel
}

/// The differences between successive member sets. Intermediate sets are skipped while the stream isn't polled, so nothing accumulates.
fn changes(
    mut wanted: watch::Receiver<Members>,
) -> impl Stream<Item = Result<Change<Member, Channel>, Infallible>> {
    wanted.mark_changed();
    let steps = stream::unfold((wanted, Members::new()), async |(mut wanted, known)| {
        if wanted.changed().await.is_err() {
            // The service is ending. The last members stay: an ended stream must not be polled again, and would be.
            return std::future::pending().await;
        }
        let now = wanted.borrow_and_update().clone();
        let come = now.iter().filter(|(who, _)| !known.contains_key(who));
        let come = come.map(|(who, channel)| Change::Insert(who.clone(), channel.clone()));
        let gone = known.keys().filter(|who| !now.contains_key(who));
        let gone = gone.cloned().map(Change::Remove);
        // Insert before removing: the set is never empty.
        let changes: Vec<_> = come.chain(gone).map(Ok).collect();
        Some((stream::iter(changes), (wanted, now)))
    });
    steps.flatten()
}

/// Keeps the last known addresses while resolution fails.
async fn keep_resolving(
    target: &'static str,
    resolver: Resolver,
    found: watch::Sender<BTreeSet<SocketAddr>>,
) {
    let mut ticks = tokio::time::interval(RESOLVE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        match (resolver.0)().await {
            Ok(addresses) => {
                failing = false;
                let addresses = BTreeSet::from_iter(addresses);
                found.send_if_modified(|known| {
                    let modified = *known != addresses;
                    *known = addresses;
                    modified
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(target_service = target, %error, "failed to resolve the replicas");
                }
            }
        }
    }
}

struct Replica {
    channel: Channel,
    /// Failed checks since the last successful one; a new replica has to pass one first.
    failed_probes: u32,
}

impl Replica {
    fn is_healthy(&self) -> bool {
        self.failed_probes < UNHEALTHY_AFTER
    }
}

struct Checker {
    endpoint: Endpoint,
    metrics: CallMetrics,
    /// The member set while no replica is healthy.
    by_name: Members,
    replicas: BTreeMap<SocketAddr, Replica>,
    members: watch::Sender<Members>,
}

impl Checker {
    /// Checks all replicas at each interval and publishes the member set.
    async fn run(mut self, addresses: watch::Receiver<BTreeSet<SocketAddr>>) {
        let mut ticks = tokio::time::interval(PROBE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let addresses = addresses.borrow().clone();
            self.update(&addresses);
            let probes = self.replicas.iter().map(|(addr, replica)| {
                let channel = replica.channel.clone();
                async move { (*addr, is_serving(channel).await) }
            });
            for (addr, passed) in join_all(probes).await {
                self.record(addr, passed);
            }
            self.publish();
        }
    }

    /// Adds new addresses and removes those that are gone.
    fn update(&mut self, addresses: &BTreeSet<SocketAddr>) {
        let target = self.metrics.target();
        self.replicas.retain(|address, _| {
            let stays = addresses.contains(address);
            if !stays {
                info!(target_service = target, %address, "replica removed");
            }
            stays
        });
        for address in addresses {
            if !self.replicas.contains_key(address)
                && let Some(endpoint) = towards(&self.endpoint, *address)
            {
                let replica = Replica {
                    channel: endpoint.connect_lazy(),
                    failed_probes: UNHEALTHY_AFTER,
                };
                self.replicas.insert(*address, replica);
            }
        }
    }

    fn record(&mut self, address: SocketAddr, passed: bool) {
        let Some(replica) = self.replicas.get_mut(&address) else {
            return;
        };
        let was = replica.is_healthy();
        replica.failed_probes = if passed {
            0
        } else {
            replica.failed_probes.saturating_add(1)
        };
        let target = self.metrics.target();
        match (was, replica.is_healthy()) {
            (false, true) => info!(target_service = target, %address, "replica healthy"),
            (true, false) => warn!(target_service = target, %address, "replica unhealthy"),
            (true, true) | (false, false) => {}
        }
    }

    /// Calls go to the replicas with the fewest failed checks in a row. So a frozen replica is left out after its first one, within
    /// `PROBE_INTERVAL` and `PROBE_TIMEOUT`, and on a busy machine a replica that is only slow isn't, when the others are frozen.
    fn publish(&self) {
        let healthy = || {
            self.replicas
                .iter()
                .filter(|(_, replica)| replica.is_healthy())
        };
        let fewest = healthy().map(|(_, replica)| replica.failed_probes).min();
        let best = healthy().filter(|(_, replica)| Some(replica.failed_probes) == fewest);
        let best: Members = best
            .map(|(address, replica)| (Member::Replica(*address), replica.channel.clone()))
            .collect();
        self.metrics.replicas(self.replicas.len(), best.len());
        let wanted = if best.is_empty() {
            self.by_name.clone()
        } else {
            best
        };
        self.members.send_if_modified(|known| {
            let modified = !known.keys().eq(wanted.keys());
            if modified {
                *known = wanted;
            }
            modified
        });
    }
}

/// The endpoint at one address, with the name as its authority.
fn towards(endpoint: &Endpoint, address: SocketAddr) -> Option<Endpoint> {
    let uri = endpoint.uri().clone();
    let scheme = uri.scheme_str().unwrap_or("http");
    let at = Endpoint::from_shared(format!("{scheme}://{address}")).ok()?;
    Some(
        at.origin(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true),
    )
}

async fn is_serving(channel: Channel) -> bool {
    // The empty name stands for the server as a whole.
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.set_timeout(PROBE_TIMEOUT);
    let mut health = HealthClient::new(channel);
    match tokio::time::timeout(PROBE_TIMEOUT, health.check(request)).await {
        Ok(Ok(answer)) => answer.get_ref().status() == ServingStatus::Serving,
        // The replica answers but has no health service: treated as healthy, as A17 says.
        Ok(Err(status)) => status.code() == Code::Unimplemented,
        Err(_) => false,
    }
}
