//! Whatever the order and number of deliveries, and whatever else is in the queue: the ledgers reconcile, and each message
//! is applied, or dead with its reason.
//!
//! Property tests with generated deliveries, on one process each. `AGORA_TEST_SEED` repeats a run.

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use saga_tests::{Replica, Shop};
use shared_events::topology::{DeadReason, MAX_EVENT_BYTES, headers};
use shared_events::{
    Event, EventData, OrderCancelled, OrderId, OrderPlaced, ProductId, Quantity, RejectReason,
    StockRejected, StockReleased, StockReserved, UserId,
};
use testkit::{eventually, header_text};
use uuid::Uuid;

const CASES: u32 = 24;
/// A product with stock for a few orders only.
const SCARCE: i64 = 5;
const UNKNOWN: i64 = 12_345;

/// Messages that don't belong into the queue.
#[derive(Debug, Clone)]
enum Noise {
    Garbage(Vec<u8>),
    FutureVersion,
    Oversized,
    Truncated(usize),
}

impl Noise {
    fn strategy() -> impl Strategy<Value = Self> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60).prop_map(Self::Garbage),
            Just(Self::FutureVersion),
            Just(Self::Oversized),
            (1..200_usize).prop_map(Self::Truncated),
        ]
    }

    /// Its bytes, made from a valid event's, and the reason of its dead letter.
    fn spoil(&self, event: &Event) -> (Vec<u8>, DeadReason) {
        let mut payload = event.encode();
        match self {
            // Random bytes that are valid JSON are a number or similar, and no event.
            Self::Garbage(bytes) => (bytes.clone(), DeadReason::Unreadable),
            Self::FutureVersion => {
                // With an id of its own: a known id would make it a redelivery.
                let mut event = event.clone();
                event.id = Uuid::now_v7();
                event.event_type = event.event_type.replace(".v1", ".v2");
                (event.encode(), DeadReason::UnknownType)
            }
            Self::Oversized => {
                payload.resize(MAX_EVENT_BYTES + 1, b' ');
                (payload, DeadReason::Oversized)
            }
            Self::Truncated(bytes) => {
                payload.truncate(*bytes);
                (payload, DeadReason::Unreadable)
            }
        }
    }
}

/// Runs a property; one case at a time, on one runtime.
fn check<S: Strategy>(
    runtime: &tokio::runtime::Runtime,
    strategy: S,
    case: impl AsyncFn(S::Value),
) {
    let seed = std::env::var("AGORA_TEST_SEED").map_or_else(
        |_| Uuid::new_v4().as_u64_pair().1,
        |seed| seed.parse().expect("AGORA_TEST_SEED is a number"),
    );
    println!("AGORA_TEST_SEED={seed}");
    let config = Config {
        cases: CASES,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        // Every step of shrinking waits for a timeout; a few are worth that.
        max_shrink_iters: 8,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&strategy, |value| {
            runtime.block_on(case(value));
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}\nAGORA_TEST_SEED={seed}"));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// How many messages of a queue have a final outcome.
async fn settled(replica: &Replica, queue: &str) -> f64 {
    let mut sum = 0.0;
    for outcome in ["applied", "duplicate", "dead"] {
        let series = format!(
            "messaging_process_duration_seconds_count{{messaging_destination_name=\"{queue}\",outcome=\"{outcome}\"}}"
        );
        sum += replica.metric(&series).await;
    }
    sum
}

/// The reasons of that many dead letters, sorted.
async fn death_reasons(shop: &Shop, queue: &str, count: usize) -> Vec<String> {
    let mut reasons = Vec::new();
    for _ in 0..count {
        let (_, table) = shop.broker.wait_for_message(queue).await;
        reasons.push(header_text(&table, headers::REASON).unwrap_or_default());
    }
    reasons.sort();
    reasons
}

fn sorted(reasons: impl IntoIterator<Item = DeadReason>) -> Vec<String> {
    let mut reasons: Vec<_> = reasons
        .into_iter()
        .map(|reason| reason.to_string())
        .collect();
    reasons.sort();
    reasons
}

/// An order, as deliveries to inventory-service.
#[derive(Debug, Clone)]
struct Ordered {
    product_id: i64,
    quantity: i64,
    placed: bool,
    cancelled: bool,
}

#[derive(Debug, Clone)]
enum Delivery {
    Placed(usize),
    Cancelled(usize),
    Noise(Noise),
}

fn deliveries() -> impl Strategy<Value = (Vec<Ordered>, Vec<Delivery>)> {
    let ordered = (
        prop_oneof![3 => 1..4_i64, 1 => Just(SCARCE), 1 => Just(UNKNOWN)],
        1..4_i64,
        0..4_usize,
        0..3_usize,
    );
    let orders = prop::collection::vec(ordered, 1..8);
    let noise = prop::collection::vec(Noise::strategy(), 0..5);
    (orders, noise).prop_flat_map(|(orders, noise)| {
        let mut deliveries: Vec<_> = noise.into_iter().map(Delivery::Noise).collect();
        for (index, (_, _, placed, cancelled)) in orders.iter().enumerate() {
            deliveries.extend((0..*placed).map(|_| Delivery::Placed(index)));
            deliveries.extend((0..*cancelled).map(|_| Delivery::Cancelled(index)));
        }
        let orders: Vec<_> = orders
            .into_iter()
            .map(|(product_id, quantity, placed, cancelled)| Ordered {
                product_id,
                quantity,
                placed: placed > 0,
                cancelled: cancelled > 0,
            })
            .collect();
        (Just(orders), Just(deliveries).prop_shuffle())
    })
}

/// The events of one generated order.
struct Events {
    id: Uuid,
    placed: Event,
    cancelled: Event,
}

fn events(order: &Ordered) -> Events {
    let order_id = OrderId::generate();
    let product_id = ProductId::try_from(order.product_id).unwrap();
    let quantity = Quantity::try_from(order.quantity).unwrap();
    let placed = OrderPlaced {
        order_id,
        user_id: UserId::generate(),
        product_id,
        quantity,
    };
    let cancelled = OrderCancelled {
        order_id,
        product_id,
        quantity,
    };
    Events {
        id: order_id.0,
        placed: Event::new("order-service", &placed),
        cancelled: Event::new("order-service", &cancelled),
    }
}

#[test]
fn the_stock_ledger_is_correct_for_any_deliveries_in_any_order() {
    let runtime = runtime();
    let (shop, inventory) = runtime.block_on(async {
        let shop = Shop::open(saga_tests::binaries!()).await;
        let inventory = shop.inventory_service(&[]).await;
        shop.stock_up(SCARCE, 6).await;
        (shop, inventory)
    });
    let delivered = Cell::new(0);
    let total = runtime.block_on(stock_in_total(&shop));
    check(&runtime, deliveries(), async |(orders, deliveries)| {
        let events: Vec<_> = orders.iter().map(events).collect();
        let mut deaths = Vec::new();
        for delivery in &deliveries {
            let (payload, routing_key) = match delivery {
                Delivery::Placed(index) => (events[*index].placed.encode(), "order.placed.v1"),
                Delivery::Cancelled(index) => {
                    (events[*index].cancelled.encode(), "order.cancelled.v1")
                }
                Delivery::Noise(noise) => {
                    let (payload, reason) = noise.spoil(&events[0].placed);
                    deaths.push(reason);
                    (payload, "order.strange")
                }
            };
            shop.broker
                .publish("order_events", routing_key, &payload)
                .await;
        }
        delivered.set(delivered.get() + deliveries.len());
        eventually("each message has its outcome", async || {
            settled(&inventory, "order_events").await == delivered.get() as f64
        })
        .await;
        let reasons = death_reasons(&shop, "order_events.dead", deaths.len()).await;
        assert_eq!(reasons, sorted(deaths));
        assert_eq!(shop.broker.depth("order_events.dead").await, 0);
        for (order, events) in orders.iter().zip(&events) {
            check_reservation(&shop, order, events).await;
        }
        assert_eq!(stock_in_total(&shop).await, total);
        assert_eq!(wrong_stock(&shop).await, 0);
        assert!(inventory.is_ready().await);
    });
    runtime.block_on(async {
        inventory.stop().await;
        shop.close().await;
    });
}

async fn stock_in_total(shop: &Shop) -> Vec<(i64, i64)> {
    sqlx::query_as("SELECT product_id, available + reserved FROM stock ORDER BY product_id")
        .fetch_all(&shop.inventory)
        .await
        .unwrap()
}

/// Products whose reserved pieces are not what their movements say, or that are oversold.
async fn wrong_stock(shop: &Shop) -> i64 {
    Shop::count(
        &shop.inventory,
        "SELECT count(*) FROM stock WHERE available < 0 OR reserved <>
             coalesce((SELECT sum(quantity) FROM stock_movements AS moved
                       WHERE moved.product_id = stock.product_id), 0)",
    )
    .await
}

async fn check_reservation(shop: &Shop, order: &Ordered, events: &Events) {
    let outcome: Option<String> =
        sqlx::query_scalar("SELECT outcome FROM reservations WHERE order_id = $1")
            .bind(events.id)
            .fetch_optional(&shop.inventory)
            .await
            .unwrap();
    let moved: Vec<i32> =
        sqlx::query_scalar("SELECT quantity FROM stock_movements WHERE order_id = $1 ORDER BY id")
            .bind(events.id)
            .fetch_all(&shop.inventory)
            .await
            .unwrap();
    let answers: Vec<String> =
        sqlx::query_scalar("SELECT payload FROM outbox WHERE subject = $1 ORDER BY position")
            .bind(events.id.to_string())
            .fetch_all(&shop.inventory)
            .await
            .unwrap();
    let applied: BTreeSet<Uuid> =
        sqlx::query_scalar("SELECT event_id FROM inbox WHERE event_id IN ($1, $2)")
            .bind(events.placed.id)
            .bind(events.cancelled.id)
            .fetch_all(&shop.inventory)
            .await
            .unwrap()
            .into_iter()
            .collect();
    assert_eq!(
        applied.contains(&events.placed.id),
        order.placed,
        "{order:?}"
    );
    assert_eq!(
        applied.contains(&events.cancelled.id),
        order.cancelled,
        "{order:?}"
    );

    let outcome = outcome.as_deref().unwrap_or("absent");
    let possible: &[&str] = match (order.placed, order.cancelled, order.product_id) {
        (false, false, _) => &["absent"],
        (true, false, UNKNOWN) => &["rejected"],
        (true, false, SCARCE) => &["reserved", "rejected"],
        (true, false, _) => &["reserved"],
        (false, true, _) => &["cancelled"],
        (true, true, UNKNOWN) => &["cancelled", "rejected"],
        (true, true, SCARCE) => &["released", "cancelled", "rejected"],
        (true, true, _) => &["released", "cancelled"],
    };
    assert!(possible.contains(&outcome), "{outcome}: {order:?}");
    let taken = order.quantity as i32;
    let expected: &[i32] = match outcome {
        "reserved" => &[taken],
        "released" => &[taken, -taken],
        _ => &[],
    };
    assert_eq!(moved, expected, "{outcome}: {order:?}");

    let answers: Vec<Event> = answers
        .iter()
        .map(|payload| Event::decode(payload.as_bytes()).unwrap())
        .collect();
    let kinds: Vec<&str> = answers.iter().map(|event| &*event.event_type).collect();
    let expected: &[&str] = match outcome {
        "reserved" => &[StockReserved::TYPE],
        "rejected" if order.cancelled => &[StockRejected::TYPE, StockReleased::TYPE],
        "rejected" => &[StockRejected::TYPE],
        "released" => &[StockReserved::TYPE, StockReleased::TYPE],
        "cancelled" => &[StockReleased::TYPE],
        _ => &[],
    };
    assert_eq!(kinds, expected, "{outcome}: {order:?}");
    if let Some(Ok(released)) = answers.last().map(Event::data::<StockReleased>) {
        let held = if outcome == "released" {
            order.quantity
        } else {
            0
        };
        assert_eq!(i64::from(released.released), held, "{outcome}: {order:?}");
    }
}

/// An order, as outcomes delivered to order-service.
#[derive(Debug, Clone)]
struct Decided {
    rejected: bool,
    cancelled: bool,
}

#[derive(Debug, Clone)]
enum Outcome {
    Decided(usize),
    Released(usize),
    Noise(Noise),
}

fn outcomes() -> impl Strategy<Value = (Vec<Decided>, Vec<Outcome>)> {
    let decided = (any::<bool>(), any::<bool>(), 0..3_usize, 1..4_usize);
    let orders = prop::collection::vec(decided, 1..6);
    let noise = prop::collection::vec(Noise::strategy(), 0..4);
    (orders, noise).prop_flat_map(|(orders, noise)| {
        let mut outcomes: Vec<_> = noise.into_iter().map(Outcome::Noise).collect();
        for (index, (_, cancelled, some, least_one)) in orders.iter().enumerate() {
            // A cancelled order may never have been decided: then there is only its release.
            let decided = if *cancelled { *some } else { *least_one };
            let released = if *cancelled { *least_one } else { 0 };
            outcomes.extend((0..decided).map(|_| Outcome::Decided(index)));
            outcomes.extend((0..released).map(|_| Outcome::Released(index)));
        }
        let orders: Vec<_> = orders
            .into_iter()
            .map(|(rejected, cancelled, ..)| Decided {
                rejected,
                cancelled,
            })
            .collect();
        (Just(orders), Just(outcomes).prop_shuffle())
    })
}

#[test]
fn each_order_ends_in_one_state_for_any_outcomes_in_any_order() {
    let runtime = runtime();
    // No service consumes order-service's events: the test plays inventory-service.
    let (shop, service) = runtime.block_on(async {
        let shop = Shop::open(saga_tests::binaries!()).await;
        let service = shop.order_service(&[]).await;
        (shop, service)
    });
    let at = service.addr;
    let delivered = Cell::new(0);
    check(&runtime, outcomes(), async |(orders, outcomes)| {
        let mut ids = Vec::new();
        for order in &orders {
            let id = shop.place(at, 1, 2).await.unwrap();
            if order.cancelled {
                assert_eq!(shop.cancel(at, id).await, Some(true));
            }
            ids.push(id);
        }
        let events: Vec<_> = orders
            .iter()
            .zip(&ids)
            .map(|(order, id)| inventory_events(order, OrderId(*id)))
            .collect();
        let mut deaths = Vec::new();
        for outcome in &outcomes {
            let payload = match outcome {
                Outcome::Decided(index) => events[*index].0.encode(),
                Outcome::Released(index) => events[*index].1.encode(),
                Outcome::Noise(noise) => {
                    let (payload, reason) = noise.spoil(&events[0].0);
                    deaths.push(reason);
                    payload
                }
            };
            shop.broker
                .publish("inventory_events", "stock.whatever", &payload)
                .await;
        }
        delivered.set(delivered.get() + outcomes.len());
        eventually("each message has its outcome", async || {
            settled(&service, "inventory_events").await == delivered.get() as f64
        })
        .await;
        let reasons = death_reasons(&shop, "inventory_events.dead", deaths.len()).await;
        assert_eq!(reasons, sorted(deaths));
        assert_eq!(shop.broker.depth("inventory_events.dead").await, 0);
        let found: BTreeMap<Uuid, (String, Option<String>)> =
            sqlx::query_as("SELECT id, status, reason FROM orders WHERE id = ANY($1)")
                .bind(&ids)
                .fetch_all(&shop.orders)
                .await
                .unwrap()
                .into_iter()
                .map(|(id, status, reason)| (id, (status, reason)))
                .collect();
        for (order, id) in orders.iter().zip(&ids) {
            let expected = match order {
                Decided {
                    cancelled: true, ..
                } => ("cancelled", None),
                Decided { rejected: true, .. } => ("rejected", Some("out_of_stock")),
                _ => ("confirmed", None),
            };
            let (status, reason) = &found[id];
            assert_eq!((status.as_str(), reason.as_deref()), expected, "{order:?}");
        }
        assert!(service.is_ready().await);
    });
    runtime.block_on(async {
        service.stop().await;
        shop.close().await;
    });
}

/// The events that inventory-service would publish: its decision, and its answer to a cancellation.
fn inventory_events(order: &Decided, order_id: OrderId) -> (Event, Event) {
    let product_id = ProductId::try_from(1).unwrap();
    let quantity = Quantity::try_from(2).unwrap();
    let decision = if order.rejected {
        let rejected = StockRejected {
            order_id,
            product_id,
            quantity,
            reason: RejectReason::OutOfStock,
        };
        Event::new("inventory-service", &rejected)
    } else {
        let reserved = StockReserved {
            order_id,
            product_id,
            quantity,
        };
        Event::new("inventory-service", &reserved)
    };
    let released = StockReleased {
        order_id,
        product_id,
        released: if order.rejected { 0 } else { 2 },
    };
    (decision, Event::new("inventory-service", &released))
}
