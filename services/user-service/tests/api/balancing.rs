//! Prices from several replicas of product-service, one of which freezes, is added or is removed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chassis::replicas::Resolver;
use serde_json::{Value, json};
use testkit::{Service, answer, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use user_service::{Config, start};
use uuid::Uuid;

use super::{KEY, sign_up};

/// The deadline of a call to product-service (`CATALOG_TIMEOUT_MS`).
const DEADLINE: Duration = Duration::from_secs(2);
/// For a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// A replica of product-service behind a proxy that can be frozen: as with a stopped process, the kernel still accepts connections
/// and bytes, and nothing is answered.
struct Replica {
    service: Service,
    addr: SocketAddr,
    frozen: watch::Sender<bool>,
}

impl Replica {
    async fn start(database: &str) -> Self {
        let variables = [("DATABASE_URL", database)];
        let (read, start) = (product_service::Config::read, product_service::start);
        let service = Service::start("product-service", &variables, read, start).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (frozen, state) = watch::channel(false);
        tokio::spawn(relay(listener, service.addr, state));
        Self {
            service,
            addr,
            frozen,
        }
    }

    fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    /// How many calls it has answered.
    async fn served(&self) -> f64 {
        let served = r#"rpc_server_call_duration_seconds_count{rpc_method="agora.catalog.v1.Catalog/GetProduct",rpc_response_status_code="OK"}"#;
        self.service.metric(served).await
    }
}

async fn relay(listener: TcpListener, to: SocketAddr, frozen: watch::Receiver<bool>) {
    loop {
        thawed(&frozen).await;
        let (client, _) = listener.accept().await.unwrap();
        let Ok(server) = TcpStream::connect(to).await else {
            continue;
        };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::spawn(pump(from_client, to_server, frozen.clone()));
        tokio::spawn(pump(from_server, to_client, frozen.clone()));
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, frozen: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16_384];
    // Either side may close the connection at any time.
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        thawed(&frozen).await;
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
}

async fn thawed(frozen: &watch::Receiver<bool>) {
    // An error means that the test has ended.
    let _ = frozen.clone().wait_for(|frozen| !frozen).await;
}

/// The addresses that product-service's name resolves to.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<BTreeSet<SocketAddr>>>);

impl Names {
    fn add(&self, replica: &Replica) {
        self.0.lock().unwrap().insert(replica.addr);
    }

    fn remove(&self, replica: &Replica) {
        self.0.lock().unwrap().remove(&replica.addr);
    }

    fn resolver(&self) -> Resolver {
        let names = self.clone();
        Resolver::new(move || {
            let addresses = names.0.lock().unwrap().iter().copied().collect();
            async { Ok(addresses) }
        })
    }
}

/// A user-service that resolves product-service to `names`; its URL is that of `first`.
async fn open(first: &Replica, names: &Names, further: &[(&str, &str)]) -> Service {
    let (database, keys) = (testkit::database().await, format!("new:{KEY}"));
    let url = format!("http://{}", first.addr);
    let variables = [
        ("DATABASE_URL", &*database),
        ("JWT_KEYS", &keys),
        ("PRODUCT_SERVICE_URL", &url),
        ("BCRYPT_COST", "4"),
    ];
    let variables = [&variables, further].concat();
    let resolver = names.resolver();
    let read = |env: &chassis::environment::Env| {
        let mut config = Config::read(env)?;
        config.catalog.replicas = resolver;
        Ok(config)
    };
    Service::start("user-service", &variables, read, start).await
}

async fn two_replicas() -> (Replica, Replica, Names) {
    let database = testkit::database().await;
    let (one, other) = (
        Replica::start(&database).await,
        Replica::start(&database).await,
    );
    let names = Names::default();
    names.add(&one);
    names.add(&other);
    (one, other, names)
}

async fn purchase(service: &Service, user: Uuid) -> (u16, Value, Duration) {
    let request = service
        .as_user(user, "POST", &format!("/users/{user}/purchases"))
        .json(&json!({ "product_id": 99, "quantity": 1 }));
    let started = Instant::now();
    let (status, body) = answer(request).await;
    (status, body, started.elapsed())
}

/// Makes `count` purchases; each must succeed at a current price, within the deadline.
async fn purchase_at_current_price(service: &Service, user: Uuid, count: usize) {
    for _ in 0..count {
        let (status, body, took) = purchase(service, user).await;
        assert_eq!((status, &body["stale"]), (201, &json!(false)), "{body}");
        assert!(took < DEADLINE + SLACK, "{took:?}");
    }
}

async fn healthy(service: &Service, count: f64) {
    let series = r#"agora_target_replicas{target="product-service",state="used"}"#;
    let what = format!("{count} healthy replicas");
    eventually(&what, async || service.metric(series).await == count).await;
}

#[tokio::test]
async fn a_frozen_replica_is_skipped_and_returns_after_recovery() {
    let (one, other, names) = two_replicas().await;
    let service = open(&one, &names, &[]).await;
    let ada = sign_up(&service, "ada@example.com").await;
    healthy(&service, 2.0).await;
    purchase_at_current_price(&service, ada, 60).await;
    // Sixty fair draws give one side fewer than ten with a probability below 1e-7.
    for replica in [&one, &other] {
        assert!(replica.served().await >= 10.0);
    }

    // Until the failure is detected a call may be delayed, but none fails; afterwards none is delayed.
    one.freeze();
    let frozen = Instant::now();
    while frozen.elapsed() < DEADLINE {
        purchase_at_current_price(&service, ada, 1).await;
    }
    healthy(&service, 1.0).await;
    let (served, others) = (one.served().await, other.served().await);
    let begun = Instant::now();
    purchase_at_current_price(&service, ada, 20).await;
    // If it still got half of the calls, each of them would take more than a second.
    assert!(begun.elapsed() < 3 * DEADLINE, "{:?}", begun.elapsed());
    assert_eq!(one.served().await, served);
    assert_eq!(other.served().await, others + 20.0);
    let closed = r#"agora_circuit_breaker_state{target="product-service",state="closed"}"#;
    assert_eq!(service.metric(closed).await, 1.0);

    one.thaw();
    healthy(&service, 2.0).await;
    // It may first answer calls that were buffered while it was frozen.
    let served = one.served().await;
    eventually("the recovered replica gets calls", async || {
        purchase_at_current_price(&service, ada, 1).await;
        one.served().await > served + 5.0
    })
    .await;
}

#[tokio::test]
async fn a_frozen_replica_does_not_open_the_breaker_under_concurrent_calls() {
    let (one, other, names) = two_replicas().await;
    let service = open(&one, &names, &[]).await;
    let ada = sign_up(&service, "ada@example.com").await;
    healthy(&service, 2.0).await;
    purchase_at_current_price(&service, ada, 5).await;
    one.freeze();
    let storm = (0..8).map(async |_| {
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            let (status, body, _) = purchase(&service, ada).await;
            assert_eq!(status, 201, "{body}");
            // Without a pause the clients alone keep the machine busy.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    futures_util::future::join_all(storm).await;
    let opened = r#"agora_circuit_breaker_transitions_total{target="product-service",from="closed",to="open"}"#;
    assert_eq!(service.metric(opened).await, 0.0);
    assert!(other.served().await > 0.0);
}

#[tokio::test]
async fn new_replicas_are_discovered_and_removed_ones_get_no_calls() {
    let (one, other, names) = two_replicas().await;
    names.remove(&other);
    let service = open(&one, &names, &[]).await;
    let ada = sign_up(&service, "ada@example.com").await;
    healthy(&service, 1.0).await;
    purchase_at_current_price(&service, ada, 5).await;
    assert_eq!(other.served().await, 0.0);

    names.add(&other);
    healthy(&service, 2.0).await;
    eventually("the new replica gets calls", async || {
        purchase_at_current_price(&service, ada, 1).await;
        other.served().await > 5.0
    })
    .await;

    names.remove(&one);
    healthy(&service, 1.0).await;
    // A call in flight may still be counted.
    purchase_at_current_price(&service, ada, 1).await;
    let served = one.served().await;
    purchase_at_current_price(&service, ada, 20).await;
    assert_eq!(one.served().await, served);
}

#[tokio::test]
async fn calls_go_to_the_url_while_no_replica_is_known() {
    let (one, _other, _) = two_replicas().await;
    let service = open(&one, &Names::default(), &[]).await;
    let ada = sign_up(&service, "ada@example.com").await;
    purchase_at_current_price(&service, ada, 5).await;
    assert_eq!(one.served().await, 5.0);
}

#[tokio::test]
async fn without_balancing_calls_stay_with_the_frozen_replica() {
    let (one, other, names) = two_replicas().await;
    let off = [("AGORA_PATTERN_CLIENT_LOAD_BALANCING", "off")];
    let service = open(&one, &names, &off).await;
    let ada = sign_up(&service, "ada@example.com").await;
    purchase_at_current_price(&service, ada, 5).await;
    one.freeze();
    let (status, body, took) = purchase(&service, ada).await;
    assert_eq!((status, &body["stale"]), (201, &json!(true)));
    assert!(took >= DEADLINE, "{took:?}");
    assert_eq!(other.served().await, 0.0);
}
