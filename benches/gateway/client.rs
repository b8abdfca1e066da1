//! The test user, the load and the count of its answers.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use benches::client::{Connection, PATIENCE, post};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;
use trivial_service::{Arm, Run};

/// The user that sends the requests.
pub(crate) struct TestUser {
    id: String,
    email: String,
    token: String,
}

/// Requests in sequence on each connection.
pub(crate) struct Load {
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// With its empty line.
    pub(crate) request: String,
    /// The length of the expected body.
    pub(crate) answer_bytes: usize,
    pub(crate) connections: usize,
}

/// The answers.
#[derive(Default)]
pub(crate) struct Tally {
    latencies: Vec<Duration>,
    /// The first unexpected answer.
    pub(crate) unexpected: Option<String>,
}

impl TestUser {
    /// Signs up and logs in.
    pub(crate) async fn sign_up(gateway: &str) -> Self {
        // Eight digits: the same length as trivial-service's.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let email = format!("bench-{:08x}@agora.example", now.as_secs() as u32);
        let password = "correct horse";
        let account = json!({ "name": "Ada", "email": email, "password": password });
        let account = post(gateway, "/auth/signup", &account).await;
        let login = json!({ "email": email, "password": password });
        let login = post(gateway, "/auth/login", &login).await;
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        Self {
            id: text(&account["id"]),
            token: text(&login["access_token"]),
            email,
        }
    }

    /// A request for the own account. Without the auth hop the identity headers decide who the user is.
    pub(crate) fn request(&self, arm: Arm) -> String {
        let Self { id, email, token } = self;
        let identity = if arm.asks() {
            format!("Authorization: Bearer {token}")
        } else {
            format!("X-User-Id: {id}\r\nX-User-Email: {email}")
        };
        format!("GET /users/me HTTP/1.1\r\nHost: agora\r\n{identity}\r\n\r\n")
    }
}

impl Load {
    /// Keeps all connections busy for this long.
    pub(crate) async fn run(&self, duration: Duration) -> Tally {
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(Connection::open(&self.address).await);
        }
        let until = Instant::now() + duration;
        let mut tasks = JoinSet::new();
        for connection in connections {
            tasks.spawn(in_sequence(
                connection,
                self.request.clone(),
                self.answer_bytes,
                until,
            ));
        }
        let mut all = Tally::default();
        for tally in tasks.join_all().await {
            all.latencies.extend(tally.latencies);
            all.unexpected = all.unexpected.or(tally.unexpected);
        }
        all
    }
}

async fn in_sequence(
    mut connection: Connection,
    request: String,
    answer_bytes: usize,
    until: Instant,
) -> Tally {
    let mut tally = Tally::default();
    let mut began = Instant::now();
    while began < until {
        let (status, body) = timeout(PATIENCE, connection.ask(&request))
            .await
            .unwrap_or_else(|_| panic!("no answer within {PATIENCE:?}"));
        let ended = Instant::now();
        if !status.starts_with("HTTP/1.1 200") || body.len() != answer_bytes {
            let body = String::from_utf8_lossy(body);
            tally.unexpected = Some(format!("{} {body}", status.trim_end()));
            // Nothing counted after this would be comparable.
            break;
        }
        tally.latencies.push(ended - began);
        began = ended;
    }
    tally
}

impl Tally {
    /// Requests per second and their latencies; zeros without any.
    pub(crate) fn measurements(&self, duration: Duration) -> Run {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
            sorted
                .get(index)
                .map_or(0.0, |latency| latency.as_secs_f64() * 1_000.0)
        };
        Run {
            per_second: sorted.len() as f64 / duration.as_secs_f64(),
            p50_ms: at(50),
            p99_ms: at(99),
        }
    }
}
