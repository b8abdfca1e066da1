//! Requests and the consumer, dropped at each of their awaits.

use std::cell::Cell;

use chassis::consumer::{Consumer, Handler};
use chassis::database::Database;
use chassis::environment::Env;
use chassis::failure::Failure;
use chassis::lifecycle::Lifecycle;
use chassis::outbox::{Outbox, UnitOfWork};
use chassis::{broker, database, outbox};
use inventory_service::reservations::{Repeats, Reservations};
use inventory_service::{Config, compose};
use serde_json::Value;
use shared_events::Event;
use shared_events::topology::{ALL, INVENTORY_EVENTS, ORDER_EVENTS};
use testkit::BrokerClient;
use testkit::cancellation::{Composed, Observer, drop_at_each_await, request_of, soon};
use uuid::Uuid;

use super::{event, order};

/// The publisher's two, and the test's; none of a consumer.
const CHANNELS: usize = 3;
const ORDERS: &str = "order_events";

#[tokio::test]
async fn a_dropped_request_leaves_nothing_behind() {
    let (database, broker) = (testkit::database().await, testkit::virtual_host().await);
    let variables = [("DATABASE_URL", &*database), ("AMQP_URL", &*broker)];
    let service = Composed::new("inventory-service", &variables, Config::read, compose).await;
    for path in ["/inventory/99", "/openapi/inventory-service.json"] {
        let dropped = service.drop_at_each_await(path, async || {
            request_of(Uuid::now_v7(), "GET", path, &Value::Null)
        });
        assert_eq!(dropped.await, 200);
    }
    service.stop().await;
}

/// A consumer's dependencies, without a consumer.
struct Stage {
    database_url: String,
    broker_url: String,
    config: Config,
    lifecycle: Lifecycle,
    database: Database,
    broker: broker::Broker,
    outbox: Outbox,
}

impl Stage {
    async fn set() -> Self {
        let (database_url, broker_url) = (testkit::database().await, testkit::virtual_host().await);
        let variables = [("DATABASE_URL", &*database_url), ("AMQP_URL", &*broker_url)];
        let config = Config::read(&Env::from_pairs(variables)).unwrap();
        let lifecycle = Lifecycle::new("inventory-service");
        let database = database::connect(&lifecycle, &config.database, &sqlx::migrate!()).await;
        let database = database.unwrap();
        let broker = broker::connect(&lifecycle, config.broker.clone(), &ALL).await;
        let broker = broker.unwrap();
        let publisher = broker.publisher(INVENTORY_EVENTS);
        let outbox = outbox::start(&lifecycle, config.outbox.clone(), &database, publisher);
        Self {
            database_url,
            broker_url,
            config,
            lifecycle,
            database,
            broker,
            outbox,
        }
    }

    /// Runs a consumer with this handler, dropped at each of its awaits, until it has counted messages with this outcome.
    /// Each run finds `count` new messages in its queue, and nothing else.
    async fn drop_consumer(
        self,
        handler: impl Handler,
        count: u32,
        message: impl Fn() -> Vec<u8>,
        outcome: &str,
    ) -> Observer {
        let Self {
            database_url,
            broker_url,
            config,
            lifecycle,
            database,
            broker,
            outbox,
        } = self;
        let consumer = Consumer::new(
            &lifecycle,
            config.consumer,
            broker,
            ORDER_EVENTS,
            database,
            outbox,
            handler,
        );
        let observer = Observer::new(&database_url, &lifecycle).await;
        let client = BrokerClient::connect(&broker_url).await;
        let series = format!(
            r#"messaging_process_duration_seconds_count{{messaging_destination_name="{ORDERS}",outcome="{outcome}"}}"#
        );
        let counted =
            || testkit::series(&lifecycle.metrics().encode(), &series).unwrap_or_default();
        let counted_before = Cell::new(0.0);
        let (polls, _) = drop_at_each_await(
            outcome,
            async || {
                // Messages that were requeued, and those that waited for a retry.
                while client.take(ORDERS).await.is_some() {}
                for _ in 0..count {
                    client.publish(ORDERS, "order.placed.v1", &message()).await;
                }
                counted_before.set(counted());
            },
            async |()| consumer.run().await,
            async || {
                let expected = counted_before.get() + f64::from(count);
                soon(|| outcome.to_owned(), async || counted() >= expected).await;
            },
            async |when: &str| {
                observer.clean(when).await;
                soon(
                    || format!("{when}: a channel with its unacknowledged messages is left"),
                    async || {
                        testkit::open_channels(&broker_url).await == CHANNELS
                            && client.consumers(ORDERS).await == 0
                    },
                )
                .await;
            },
        )
        .await;
        eprintln!("the consumer: {outcome} after {polls} polls");
        assert!(lifecycle.stop(testkit::PATIENCE).await);
        observer
    }
}

fn an_order() -> Vec<u8> {
    event(&order(99, 1)).encode()
}

/// Runs with this many messages at a time.
async fn drop_consumer_of(messages: u32) {
    let stage = Stage::set().await;
    let handler = Reservations::new(stage.lifecycle.metrics(), Repeats::Recognise);
    let observer = stage
        .drop_consumer(handler, messages, an_order, "applied")
        .await;
    // Committed effects are complete, whether or not their message was acknowledged.
    let count = async |sql| observer.count(sql).await;
    let reservations = count("SELECT count(*) FROM reservations").await;
    assert!(reservations > 0);
    for sql in [
        "SELECT count(*) FROM inbox",
        "SELECT count(*) FROM outbox",
        "SELECT sum(quantity)::bigint FROM stock_movements",
        "SELECT reserved FROM stock WHERE product_id = 99",
    ] {
        assert_eq!(count(sql).await, reservations, "{sql}");
    }
}

#[tokio::test]
async fn a_dropped_consumer_leaves_nothing_behind() {
    drop_consumer_of(1).await;
}

#[tokio::test]
async fn a_consumer_of_several_messages_leaves_nothing_behind_when_dropped() {
    drop_consumer_of(3).await;
}

/// Never succeeds.
struct Failing;

impl Handler for Failing {
    async fn apply(&self, _: &Event, work: &mut UnitOfWork<'_>) -> Result<(), Failure> {
        sqlx::query("SELECT 1").execute(work.connection()).await?;
        Err(Failure::Transient("try again".to_owned()))
    }
}

#[tokio::test]
async fn a_consumer_dropped_while_it_requeues_a_message_leaves_nothing_behind() {
    let dead = || b"no event".to_vec();
    let stage = Stage::set().await;
    stage.drop_consumer(Failing, 1, dead, "dead").await;
    let stage = Stage::set().await;
    stage.drop_consumer(Failing, 1, an_order, "retried").await;
}
