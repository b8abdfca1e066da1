//! A shop per test: its databases, its virtual host, and its services as processes.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, PgPool};
use testkit::{BrokerClient, PATIENCE, Process, eventually};
use uuid::Uuid;

use crate::Binaries;

/// Two databases and a virtual host. Nothing runs in it until a service is started.
pub struct Shop {
    /// order-service's database.
    pub orders: PgPool,
    /// inventory-service's database.
    pub inventory: PgPool,
    /// A client of the broker.
    pub broker: BrokerClient,
    /// The one user.
    pub user: Uuid,
    binaries: Binaries,
    orders_url: String,
    inventory_url: String,
    amqp_url: String,
}

/// A running service process.
pub struct Replica {
    process: Process,
    /// Its HTTP address.
    pub addr: SocketAddr,
}

impl Shop {
    /// Creates the databases and the virtual host.
    pub async fn open(binaries: Binaries) -> Self {
        let (orders_url, inventory_url) = (testkit::database().await, testkit::database().await);
        let amqp_url = testkit::virtual_host().await;
        let pool = async |url: &str| PgPool::connect(url).await.expect("the database answers");
        Self {
            orders: pool(&orders_url).await,
            inventory: pool(&inventory_url).await,
            broker: BrokerClient::connect(&amqp_url).await,
            user: Uuid::now_v7(),
            binaries,
            orders_url,
            inventory_url,
            amqp_url,
        }
    }

    /// The virtual host's URL.
    pub fn amqp_url(&self) -> &str {
        &self.amqp_url
    }

    /// Starts order-service and waits until it is ready.
    pub async fn order_service(&self, more: &[(&str, &str)]) -> Replica {
        self.start(self.binaries.order_service, &self.orders_url, more)
            .await
    }

    /// Starts inventory-service and waits until it is ready.
    pub async fn inventory_service(&self, more: &[(&str, &str)]) -> Replica {
        self.start(self.binaries.inventory_service, &self.inventory_url, more)
            .await
    }

    /// Runs the tool that replays the messages of `order_events.dead`; returns its exit status.
    pub async fn replay_dead_letters(&self, more: &[(&str, &str)]) -> ExitStatus {
        let mut variables = vec![("AMQP_URL", &*self.amqp_url)];
        variables.extend(more);
        Process::start(self.binaries.dead_letters, &variables)
            .ended()
            .await
    }

    async fn start(&self, binary: &str, database: &str, more: &[(&str, &str)]) -> Replica {
        let mut variables = vec![
            ("DATABASE_URL", database),
            ("AMQP_URL", &self.amqp_url),
            // Several tests share one server.
            ("DATABASE_MAX_CONNECTIONS", "6"),
        ];
        variables.extend(more);
        let mut process = Process::start(binary, &variables);
        let addr = process.serving().await;
        let replica = Replica { process, addr };
        eventually("the replica is ready", async || replica.is_ready().await).await;
        replica
    }

    /// Makes the next `count` deliveries that a service handles fail with a serialization failure, as after a lost race for
    /// a row: only a later attempt succeeds. `pool` is the service's database. A sequence counts them, because a rollback
    /// doesn't reset it.
    pub async fn fail_next_deliveries(pool: &PgPool, count: u32) {
        let failing = format!(
            "CREATE SEQUENCE failures;
             CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF nextval('failures') <= {count} THEN
                     RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '40001';
                 END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER fail BEFORE INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION fail();"
        );
        sqlx::raw_sql(AssertSqlSafe(failing))
            .execute(pool)
            .await
            .expect("a trigger can be installed");
    }

    /// Sets a product's stock, after inventory-service has created its table and before the first order.
    pub async fn stock_up(&self, product_id: i64, available: i64) {
        sqlx::query("UPDATE stock SET available = $2 WHERE product_id = $1")
            .bind(product_id)
            .bind(available)
            .execute(&self.inventory)
            .await
            .expect("the stock can be set");
    }

    /// A count from one of the databases.
    pub async fn count(pool: &PgPool, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql)
            .fetch_one(pool)
            .await
            .expect("a count")
    }

    /// Removes the databases and the virtual host. A test that panics keeps them for inspection.
    pub async fn close(self) {
        self.orders.close().await;
        self.inventory.close().await;
        testkit::remove_virtual_host(&self.amqp_url).await;
        testkit::remove_database(&self.orders_url).await;
        testkit::remove_database(&self.inventory_url).await;
    }
}

impl Replica {
    /// Whether its readiness endpoint answers 200.
    pub async fn is_ready(&self) -> bool {
        self.process
            .ready()
            .await
            .is_some_and(|(status, _)| status == 200)
    }

    /// Sends SIGTERM and waits for a clean exit.
    pub async fn stop(mut self) {
        self.process.terminate();
        let status = self.process.ended().await;
        assert_eq!(status.code(), Some(0), "it exits cleanly: {status}");
    }
}

impl Deref for Replica {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Replica {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Polls until the condition holds or the time is over; returns whether it held, and the elapsed time.
pub async fn within<F: Future<Output = bool>>(
    limit: Duration,
    condition: impl Fn() -> F,
) -> Result<Duration, Duration> {
    assert!(limit <= PATIENCE);
    let started = Instant::now();
    loop {
        if condition().await {
            return Ok(started.elapsed());
        }
        if started.elapsed() >= limit {
            return Err(started.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
