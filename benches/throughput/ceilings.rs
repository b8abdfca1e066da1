//! The bare throughput of broker and database: the same messages and rows, without the services.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use chassis::pool::Pool;
use futures_util::StreamExt;
use futures_util::future::join_all;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use shared_events::topology::{Argument, INVENTORY_EVENTS, ORDER_EVENTS, Topology};
use shared_events::{
    CONTENT_TYPE, Event, OrderId, OrderPlaced, ProductId, Quantity, StockReserved, UserId,
};
use uuid::Uuid;

use crate::client::product;
use crate::{CONNECTIONS, POOL};

/// Events per batch, as the relay's; prefetched messages, as the consumer's.
const BATCH: usize = 100;

fn placed(number: usize) -> Event {
    let placed = OrderPlaced {
        order_id: OrderId::generate(),
        user_id: UserId::generate(),
        product_id: ProductId::try_from(product(number)).unwrap(),
        quantity: Quantity::try_from(1).unwrap(),
    };
    Event::new("order-service", &placed)
}

fn reserved(number: usize) -> Event {
    let reserved = StockReserved {
        order_id: OrderId::generate(),
        product_id: ProductId::try_from(product(number)).unwrap(),
        quantity: Quantity::try_from(1).unwrap(),
    };
    Event::new("inventory-service", &reserved)
}

/// Fills inventory-service's queue.
pub(crate) async fn fill(amqp_url: &str, orders: usize) {
    let link = Link::open(amqp_url).await;
    publish(&link.channel, ORDER_EVENTS, orders, placed).await;
}

/// Orders per second with nothing but each order's two messages: published, persistent and confirmed, consumed and
/// acknowledged, on queues with the same arguments, both streams at the same time.
pub(crate) async fn broker(orders: usize) -> f64 {
    let url = testkit::virtual_host().await;
    let setup = Link::open(&url).await;
    for topology in [ORDER_EVENTS, INVENTORY_EVENTS] {
        declare(&setup.channel, topology).await;
    }
    let started = Instant::now();
    tokio::join!(
        pump(&url, ORDER_EVENTS, orders, placed),
        pump(&url, INVENTORY_EVENTS, orders, reserved),
    );
    let took = started.elapsed();
    testkit::remove_virtual_host(&url).await;
    orders as f64 / took.as_secs_f64()
}

/// One stream: a connection that publishes and one that consumes.
async fn pump(url: &str, topology: Topology, messages: usize, event: fn(usize) -> Event) {
    let (publishing, consuming) = (Link::open(url).await, Link::open(url).await);
    let consume = async {
        let prefetch = BATCH as u16;
        consuming
            .channel
            .basic_qos(prefetch, BasicQosOptions::default())
            .await
            .unwrap();
        let mut deliveries = consuming
            .channel
            .basic_consume(
                topology.queue().into(),
                "bare".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
        for _ in 0..messages {
            let delivery = deliveries.next().await.unwrap().unwrap();
            let acknowledged = delivery.acker.ack(BasicAckOptions::default()).await;
            acknowledged.unwrap();
        }
    };
    tokio::join!(
        publish(&publishing.channel, topology, messages, event),
        consume
    );
}

async fn publish(
    channel: &Channel,
    topology: Topology,
    messages: usize,
    event: fn(usize) -> Event,
) {
    let exchange = topology.exchange();
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let mut left = messages;
    while left > 0 {
        let (first, batch) = (messages - left, left.min(BATCH));
        left -= batch;
        // Numbered across all batches: two of them must not have the same products in the same order.
        join_all((first..first + batch).map(async |number| {
            let event = event(number);
            let properties = BasicProperties::default()
                .with_content_type(CONTENT_TYPE.into())
                .with_message_id(event.id.to_string().into())
                .with_type(event.event_type.as_str().into())
                .with_delivery_mode(2);
            let confirmation = channel
                .basic_publish(
                    exchange.as_str().into(),
                    event.routing_key().into(),
                    options,
                    &event.encode(),
                    properties,
                )
                .await
                .unwrap()
                .await
                .unwrap();
            assert!(confirmation.is_ack());
        }))
        .await;
    }
}

/// A connection with one channel, in confirm mode.
struct Link {
    channel: Channel,
    _connection: Connection,
}

impl Link {
    async fn open(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default())
            .await
            .unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        Self {
            channel,
            _connection: connection,
        }
    }
}

/// The stream's own queue, with its arguments.
async fn declare(channel: &Channel, topology: Topology) {
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(
            topology.exchange().into(),
            ExchangeKind::Topic,
            durable,
            FieldTable::default(),
        )
        .await
        .unwrap();
    let queue = topology.queues().into_iter().next().unwrap();
    let mut arguments = FieldTable::default();
    for (name, value) in queue.arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.into()),
            Argument::Number(number) => AMQPValue::LongLongInt(number),
        };
        arguments.insert(name.into(), value);
    }
    let name = queue.name.as_str();
    channel
        .queue_declare(name.into(), QueueDeclareOptions::durable(), arguments)
        .await
        .unwrap();
    channel
        .queue_bind(
            name.into(),
            queue.exchange.as_str().into(),
            queue.binding.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
}

/// Orders per second with nothing but each order's two transactions in the services' own tables: the row of the order; the
/// stock and the reservation. Both kinds at the same time, each over a pool like the services'.
pub(crate) async fn database(orders: usize) -> f64 {
    let (orders_url, inventory_url) = (testkit::database().await, testkit::database().await);
    let (placing, reserving) = (pool(&orders_url), pool(&inventory_url));
    let migrations = [
        (
            &placing,
            sqlx::migrate!("../../services/order-service/migrations"),
        ),
        (
            &reserving,
            sqlx::migrate!("../../services/inventory-service/migrations"),
        ),
    ];
    for (pool, migrations) in migrations {
        let mut connection = pool.acquire().await.unwrap();
        migrations.run(&mut *connection).await.unwrap();
        connection.keep();
    }
    let started = Instant::now();
    tokio::join!(
        repeated(orders, |_| insert_order(&placing)),
        repeated(orders, |number| reserve(&reserving, number)),
    );
    let took = started.elapsed();
    drop((placing, reserving));
    testkit::remove_database(&orders_url).await;
    testkit::remove_database(&inventory_url).await;
    orders as f64 / took.as_secs_f64()
}

/// The services' own kind of pool, so that the bare database isn't slower because of its pool.
fn pool(url: &str) -> Pool {
    Pool::new(url.parse().unwrap(), POOL).with_acquire_timeout(crate::PATIENCE)
}

async fn repeated<F: Future<Output = ()>>(times: usize, once: impl Fn(usize) -> F) {
    let next = AtomicUsize::new(0);
    let (next, once) = (&next, &once);
    join_all((0..CONNECTIONS).map(|_| async move {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= times {
                return;
            }
            once(number).await;
        }
    }))
    .await;
}

async fn insert_order(pool: &Pool) {
    sqlx::query("INSERT INTO orders (id, user_id, product_id, quantity) VALUES ($1, $2, 1, 1)")
        .bind(Uuid::now_v7())
        .bind(Uuid::now_v7())
        .execute(pool)
        .await
        .unwrap();
}

async fn reserve(pool: &Pool, number: usize) {
    let product_id = product(number);
    let mut transaction = chassis::database::begin(pool).await.unwrap();
    sqlx::query(
        "UPDATE stock SET available = available - 1, reserved = reserved + 1
         WHERE product_id = $1 AND available >= 1",
    )
    .bind(product_id)
    .execute(&mut *transaction)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO reservations (order_id, product_id, quantity, outcome)
         VALUES ($1, $2, 1, 'reserved')",
    )
    .bind(Uuid::now_v7())
    .bind(product_id)
    .execute(&mut *transaction)
    .await
    .unwrap();
    transaction.commit().await.unwrap();
}
