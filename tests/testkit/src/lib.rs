//! What the services' tests share: a database and a virtual host per test, and the service under test, composed as in
//! production and reached over HTTP.
//!
//! PostgreSQL and RabbitMQ are real; `cargo xtask test` starts them and sets `AGORA_TEST_DATABASE_URL`,
//! `AGORA_TEST_AMQP_URL` and `AGORA_TEST_RABBITMQ_API`. Databases and virtual hosts are removed with the system that
//! `cargo xtask test` takes down. Virtual hosts are expensive: those of earlier test processes are removed by the next one,
//! and tests that repeat a case many times remove their own.

pub mod cancellation;
mod documents;
mod process;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use chassis::environment::{ConfigError, Env};
use chassis::lifecycle::Lifecycle;
use chassis::pool::Pool;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Queue};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, PgPool};
use url::Url;
use uuid::Uuid;

pub use crate::documents::document_is_the_repositorys;
pub use crate::process::{Process, command, free_address};

/// The longest wait of a test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Creates a database for the test; returns its URL.
pub async fn database() -> String {
    let mut url = required_url("AGORA_TEST_DATABASE_URL");
    let name = format!("test_{}", Uuid::now_v7().simple());
    let server = PgPool::connect(url.as_str())
        .await
        .expect("the test database server answers");
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&server)
        .await
        .expect("a database can be created");
    server.close().await;
    url.set_path(&name);
    url.into()
}

/// One connection to the same database, through the services' own kind of pool, for what takes that: a transaction of a
/// test's own, for example.
pub fn lending_pool(pool: &PgPool) -> Pool {
    Pool::new(PgConnectOptions::clone(&pool.connect_options()), 1)
}

/// Removes a database that [`database`] created, even if clients are connected.
pub async fn remove_database(url: &str) {
    let url = Url::parse(url).expect("a URL");
    let name = url.path().trim_start_matches('/').to_owned();
    let server = PgPool::connect(required_url("AGORA_TEST_DATABASE_URL").as_str())
        .await
        .expect("the test database server answers");
    sqlx::query(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)")))
        .execute(&server)
        .await
        .expect("a database can be removed");
    server.close().await;
}

/// Removes a virtual host that [`virtual_host`] created.
pub async fn remove_virtual_host(url: &str) {
    let url = Url::parse(url).expect("a URL");
    let api = required_url("AGORA_TEST_RABBITMQ_API");
    let path = format!("/api/vhosts{}", url.path());
    let url = api.join(&path).expect("a path of the management API");
    let answer = reqwest::Client::new().delete(url).send().await;
    answer
        .expect("the management API answers")
        .error_for_status()
        .expect("a virtual host can be removed");
}

/// Creates a virtual host for the test; returns its AMQP URL.
pub async fn virtual_host() -> String {
    let mut url = required_url("AGORA_TEST_AMQP_URL");
    let api = required_url("AGORA_TEST_RABBITMQ_API");
    remove_abandoned(&api).await;
    let name = format!("test-{}-{}", std::process::id(), Uuid::now_v7().simple());
    let put = |path: String, body: Value| {
        let url = api.join(&path).expect("a path of the management API");
        // reqwest reads the credentials from the URL.
        reqwest::Client::new().put(url).json(&body).send()
    };
    let permissions = serde_json::json!({ "configure": ".*", "write": ".*", "read": ".*" });
    for (path, body) in [
        (format!("/api/vhosts/{name}"), serde_json::json!({})),
        (
            format!("/api/permissions/{name}/{}", api.username()),
            permissions,
        ),
    ] {
        let answer = put(path, body).await.expect("the management API answers");
        answer
            .error_for_status()
            .expect("a virtual host can be created");
    }
    url.set_path(&name);
    url.into()
}

/// Removes the virtual hosts of test processes that have ended, once per process. With ten queues each, they would fill
/// the broker's memory in a few runs, and a broker that is short of memory blocks publishers.
async fn remove_abandoned(api: &Url) {
    static ONCE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    ONCE.get_or_init(async || {
        // Where processes can't be listed, every virtual host may still be in use.
        if !std::path::Path::new("/proc/self").exists() {
            return;
        }
        let client = reqwest::Client::new();
        let list = api.join("/api/vhosts").expect("a path");
        let hosts: Vec<Value> = match client.get(list).send().await {
            Ok(answer) => answer.json().await.expect("a list of virtual hosts"),
            Err(error) => panic!("the management API answers: {error}"),
        };
        for name in hosts.iter().filter_map(|host| host["name"].as_str()) {
            let owner = name
                .strip_prefix("test-")
                .and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
            let Some(pid) = owner else { continue };
            if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
                let path = api.join(&format!("/api/vhosts/{name}")).expect("a path");
                // Another test process may be removing it at the same time.
                let _ = client.delete(path).send().await;
            }
        }
    })
    .await;
}

/// Lowers the length limit of a queue, as an operator would with a policy; of two limits the lower one applies.
pub async fn bound_queue(broker_url: &str, queue: &str, messages: u32) {
    let api = required_url("AGORA_TEST_RABBITMQ_API");
    let vhost = Url::parse(broker_url).expect("a URL");
    let path = format!("/api/policies{}/{queue}", vhost.path());
    let policy = serde_json::json!({
        "pattern": format!("^{}$", queue.replace('.', "\\.")),
        "definition": { "max-length": messages },
        "apply-to": "queues",
    });
    let url = api.join(&path).expect("a path of the management API");
    let answer = reqwest::Client::new().put(url).json(&policy).send().await;
    answer
        .and_then(reqwest::Response::error_for_status)
        .expect("a policy can be set");
}

/// Declares a queue with these arguments, as another version would have.
pub async fn declare_queue(broker_url: &str, queue: &str, arguments: Value) {
    let api = required_url("AGORA_TEST_RABBITMQ_API");
    let vhost = Url::parse(broker_url).expect("a URL");
    let path = format!("/api/queues{}/{queue}", vhost.path());
    let declared = serde_json::json!({ "durable": true, "arguments": arguments });
    let url = api.join(&path).expect("a path of the management API");
    let answer = reqwest::Client::new().put(url).json(&declared).send().await;
    answer
        .and_then(reqwest::Response::error_for_status)
        .expect("a queue can be declared");
}

/// The connections to a virtual host with this name, by the broker's ids: a connection that was lost and reopened has
/// another id.
pub async fn connections(broker_url: &str, name: &str) -> Vec<String> {
    let api = required_url("AGORA_TEST_RABBITMQ_API");
    let vhost = Url::parse(broker_url).expect("a URL");
    let path = format!("/api/vhosts{}/connections", vhost.path());
    let url = api.join(&path).expect("a path of the management API");
    let answer = reqwest::Client::new().get(url).send().await;
    let all: Vec<Value> = answer
        .expect("the management API answers")
        .json()
        .await
        .expect("a list of connections");
    all.iter()
        .filter(|connection| connection["user_provided_name"] == name)
        .filter_map(|connection| Some(connection["name"].as_str()?.to_owned()))
        .collect()
}

/// How many channels are open in a virtual host. Every unacknowledged message belongs to one.
pub async fn open_channels(broker_url: &str) -> usize {
    let api = required_url("AGORA_TEST_RABBITMQ_API");
    let vhost = Url::parse(broker_url).expect("a URL");
    let path = format!("/api/vhosts{}/channels", vhost.path());
    let url = api.join(&path).expect("a path of the management API");
    let answer = reqwest::get(url).await.expect("the management API answers");
    let channels: Vec<Value> = answer.json().await.expect("a list of channels");
    channels.len()
}

fn required_url(variable: &str) -> Url {
    let value = std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run the tests with `cargo xtask test`"));
    Url::parse(&value).unwrap_or_else(|error| panic!("{variable}: {error}"))
}

/// A service running in the test's process.
pub struct Service {
    /// Its HTTP or gRPC address.
    pub addr: SocketAddr,
    /// Its ops port.
    pub ops: SocketAddr,
    lifecycle: Lifecycle,
    client: reqwest::Client,
}

impl Service {
    /// Starts a service with these variables on free ports.
    pub async fn start<C>(
        name: &'static str,
        variables: &[(&str, &str)],
        read: impl FnOnce(&Env) -> Result<C, ConfigError>,
        start: impl AsyncFnOnce(C, &Lifecycle) -> anyhow::Result<SocketAddr>,
    ) -> Self {
        let free = [("HTTP_ADDR", "127.0.0.1:0"), ("GRPC_ADDR", "127.0.0.1:0")];
        let env = Env::from_pairs(free.iter().chain(variables).copied());
        let config = read(&env).expect("the configuration is accepted");
        let lifecycle = Lifecycle::new(name);
        let ops = chassis::ops::serve(&lifecycle, ([127, 0, 0, 1], 0).into())
            .await
            .expect("a free port");
        let addr = tokio::time::timeout(PATIENCE, start(config, &lifecycle))
            .await
            .expect("the service starts in time")
            .expect("the service starts");
        lifecycle.started();
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .build()
            .expect("a client without TLS");
        Self {
            addr,
            ops,
            lifecycle,
            client,
        }
    }

    /// A request without an identity, as the gateway's protected routes never forward one.
    pub fn anonymous(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.client
            .request(method, format!("http://{}{path}", self.addr))
    }

    /// A request as the gateway forwards it for this user.
    pub fn as_user(&self, user: Uuid, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.anonymous(method, path)
            .header("X-User-Id", user.to_string())
            .header("X-User-Email", format!("{user}@agora.example"))
    }

    /// The ops port's answer: status and body.
    pub async fn ops(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.ops);
        let answer = self
            .client
            .get(url)
            .send()
            .await
            .expect("the ops port answers");
        let status = answer.status().as_u16();
        (status, answer.text().await.expect("a body"))
    }

    /// The value of one series of `/metrics`, named as in the exposition; 0 when it is missing.
    pub async fn metric(&self, series: &str) -> f64 {
        let (_, text) = self.ops("/metrics").await;
        crate::series(&text, series).unwrap_or(0.0)
    }

    /// Drains and stops; returns whether all work was finished in time.
    pub async fn stop(self) -> bool {
        self.lifecycle.stop(PATIENCE).await
    }

    /// The service's tasks, for a test that stops it while it sends requests.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }
}

/// The value of one series in an exposition, named as in it; `None` when it is missing.
pub fn series(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| {
        line.strip_prefix(name)?
            .trim()
            .split(' ')
            .next()?
            .parse()
            .ok()
    })
}

/// Sends a request; returns the status and the JSON body.
pub async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.expect("the service answers");
    let status = answer.status().as_u16();
    let body = answer.text().await.expect("a body");
    let json = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status}: not JSON: {body}"));
    (status, json)
}

/// Sends a request; checks that the answer is a problem document with this status and type.
pub async fn refused(request: reqwest::RequestBuilder, status: u16, kind: &str) {
    let answer = request.send().await.expect("the service answers");
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let found = answer.status().as_u16();
    let problem: Value = answer.json().await.expect("a problem document");
    assert_eq!(
        (found, problem["type"].as_str(), problem["status"].as_u64()),
        (
            status,
            Some(&*format!("urn:agora:problem:{kind}")),
            Some(status.into())
        ),
        "{problem}"
    );
}

/// Polls until the condition holds; panics with `what` after [`PATIENCE`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let started = Instant::now();
    while !condition().await {
        assert!(
            started.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A second client of the broker, as an operator or another service would be.
pub struct BrokerClient {
    channel: Channel,
    connection: Connection,
}

impl BrokerClient {
    /// Connects to a virtual host.
    pub async fn connect(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default())
            .await
            .expect("the broker answers");
        let channel = connection.create_channel().await.expect("a channel");
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .expect("confirm mode");
        Self {
            channel,
            connection,
        }
    }

    /// Publishes these bytes, confirmed.
    pub async fn publish(&self, exchange: &str, routing_key: &str, payload: &[u8]) {
        let headers = FieldTable::default();
        self.publish_with(exchange, routing_key, payload, headers)
            .await;
    }

    /// The same, with headers.
    pub async fn publish_with(
        &self,
        exchange: &str,
        routing_key: &str,
        payload: &[u8],
        headers: FieldTable,
    ) {
        let properties = BasicProperties::default().with_headers(headers);
        let routed = self.send(exchange, routing_key, payload, properties).await;
        assert!(routed, "no queue is bound for {routing_key}");
    }

    /// The same, with an expiration in milliseconds.
    pub async fn publish_expiring(
        &self,
        exchange: &str,
        routing_key: &str,
        payload: &[u8],
        headers: FieldTable,
        expiration_ms: &str,
    ) {
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_expiration(expiration_ms.into());
        let routed = self.send(exchange, routing_key, payload, properties).await;
        assert!(routed, "no queue is bound for {routing_key}");
    }

    /// Returns whether a queue accepted it.
    pub async fn try_publish(&self, exchange: &str, routing_key: &str, payload: &[u8]) -> bool {
        let properties = BasicProperties::default();
        self.send(exchange, routing_key, payload, properties).await
    }

    async fn send(
        &self,
        exchange: &str,
        routing_key: &str,
        payload: &[u8],
        properties: BasicProperties,
    ) -> bool {
        let options = BasicPublishOptions {
            mandatory: true,
            ..Default::default()
        };
        let confirm = self
            .channel
            .basic_publish(
                exchange.into(),
                routing_key.into(),
                options,
                payload,
                properties,
            )
            .await
            .expect("published");
        let confirmation = confirm.await.expect("an answer");
        assert!(confirmation.is_ack());
        confirmation.take_message().is_none()
    }

    /// Deletes a queue, as by an operator's mistake.
    pub async fn delete_queue(&self, queue: &str) {
        self.channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await
            .expect("deleted");
    }

    /// Consumes one message of a queue, if there is one: payload and headers.
    pub async fn take(&self, queue: &str) -> Option<(Vec<u8>, FieldTable)> {
        let message = self
            .channel
            .basic_get(queue.into(), BasicGetOptions::default())
            .await
            .expect("the queue exists")?;
        message
            .delivery
            .acker
            .ack(BasicAckOptions::default())
            .await
            .expect("acknowledged");
        let headers = message
            .delivery
            .properties
            .headers()
            .clone()
            .unwrap_or_default();
        Some((message.delivery.data, headers))
    }

    /// Consumes a message and closes the connection without an acknowledgement, so that the broker redelivers it. Returns
    /// whether there was one.
    pub async fn take_and_die(self, queue: &str) -> bool {
        let taken = self
            .channel
            .basic_get(queue.into(), BasicGetOptions::default())
            .await
            .expect("the queue exists");
        // Dropping the connection alone would leave the socket to a background task for a while.
        self.connection
            .close(200, "dying".into())
            .await
            .expect("closed");
        taken.is_some()
    }

    /// Waits for a message.
    pub async fn wait_for_message(&self, queue: &str) -> (Vec<u8>, FieldTable) {
        let started = Instant::now();
        loop {
            if let Some(message) = self.take(queue).await {
                return message;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "nothing in {queue} within {PATIENCE:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Removes a binding, as by an operator's mistake.
    pub async fn unbind(&self, queue: &str, exchange: &str, pattern: &str) {
        let arguments = FieldTable::default();
        self.channel
            .queue_unbind(queue.into(), exchange.into(), pattern.into(), arguments)
            .await
            .expect("unbound");
    }

    /// Restores a binding.
    pub async fn bind(&self, queue: &str, exchange: &str, pattern: &str) {
        let options = QueueBindOptions::default();
        let arguments = FieldTable::default();
        self.channel
            .queue_bind(
                queue.into(),
                exchange.into(),
                pattern.into(),
                options,
                arguments,
            )
            .await
            .expect("bound");
    }

    /// How many messages a queue holds ready.
    pub async fn depth(&self, queue: &str) -> u32 {
        self.state(queue).await.message_count()
    }

    /// How many consumers a queue has.
    pub async fn consumers(&self, queue: &str) -> u32 {
        self.state(queue).await.consumer_count()
    }

    async fn state(&self, queue: &str) -> Queue {
        let options = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        self.channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .expect("the queue exists")
    }
}

/// Headers with text values.
pub fn text_headers(pairs: &[(&str, &str)]) -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, text) in pairs {
        headers.insert((*name).into(), AMQPValue::LongString((*text).into()));
    }
    headers
}

/// A header that is a list of texts.
pub fn text_list(texts: &[&str]) -> AMQPValue {
    let texts = texts
        .iter()
        .map(|text| AMQPValue::LongString((*text).into()));
    AMQPValue::FieldArray(texts.collect::<Vec<_>>().into())
}

/// A header's text value.
pub fn header_text(headers: &FieldTable, name: &str) -> Option<String> {
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::LongLongInt(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The names of an object's members, sorted, at every depth.
pub fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect(),
        _ => Value::Null,
    }
}
