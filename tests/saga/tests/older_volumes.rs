//! Databases of an older version with orders that wait at every point of the saga: they are migrated, and every order ends.
//!
//! Left out: the broker's volume. The queues' arguments haven't changed, and a queue that has others is reported (the
//! services' own tests).

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::path::Path;

use saga_tests::{Promise, Promises, Shop, reconciliation};
use shared_events::{
    Event, EventData, OrderCancelled, OrderId, OrderPlaced, ProductId, Quantity, StockReleased,
    StockReserved, UserId,
};
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use uuid::Uuid;

/// The older version's last migration: with outbox and saga, without parking and recovery.
const OLDER: i64 = 2;
const PRODUCT: i64 = 7;
const QUANTITY: i32 = 3;

/// How far an event has come.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    /// It waits in the outbox.
    Stored,
    /// It was published, and its message was lost.
    Lost,
    /// The other service has handled it.
    Handled,
}

/// Creates the tables as the older version did.
async fn create_tables(pool: &PgPool, service: &str) {
    let services = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../services");
    let folder = services.join(service).join("migrations");
    let mut migrator = Migrator::new(folder).await.unwrap();
    let older = migrator.iter().filter(|it| it.version <= OLDER);
    migrator.migrations = older.cloned().collect::<Vec<_>>().into();
    migrator.run(pool).await.unwrap();
}

/// An order of the older version.
struct Order<'a> {
    shop: &'a Shop,
    id: OrderId,
}

impl<'a> Order<'a> {
    /// Stores an order that has had this status for an hour.
    async fn with_status(shop: &'a Shop, status: &str) -> Self {
        let id = OrderId(Uuid::now_v7());
        sqlx::query(
            "INSERT INTO orders (id, user_id, product_id, quantity, status, placed_at, changed_at)
             VALUES ($1, $2, $3, $4, $5, now() - interval '1 hour', now() - interval '1 hour')",
        )
        .bind(id.0)
        .bind(shop.user)
        .bind(PRODUCT)
        .bind(QUANTITY)
        .bind(status)
        .execute(&shop.orders)
        .await
        .unwrap();
        Self { shop, id }
    }

    /// Stores what inventory-service has decided, and the stock that this moved.
    async fn decided(self, outcome: &str, moved: &[i32]) -> Self {
        sqlx::query(
            "INSERT INTO reservations (order_id, product_id, quantity, outcome) VALUES ($1, $2, $3, $4)",
        )
        .bind(self.id.0)
        .bind(PRODUCT)
        .bind(QUANTITY)
        .bind(outcome)
        .execute(&self.shop.inventory)
        .await
        .unwrap();
        for quantity in moved {
            sqlx::query(
                "WITH moved AS (INSERT INTO stock_movements (order_id, product_id, quantity) VALUES ($1, $2, $3))
                 UPDATE stock SET available = available - $3, reserved = reserved + $3 WHERE product_id = $2",
            )
            .bind(self.id.0)
            .bind(PRODUCT)
            .bind(quantity)
            .execute(&self.shop.inventory)
            .await
            .unwrap();
        }
        self
    }

    async fn placed(self, told: Told) -> Self {
        let data = OrderPlaced {
            order_id: self.id,
            user_id: UserId(self.shop.user),
            product_id: product(),
            quantity: quantity(),
        };
        self.tell(&data, told).await
    }

    async fn reserved(self, told: Told) -> Self {
        let data = StockReserved {
            order_id: self.id,
            product_id: product(),
            quantity: quantity(),
        };
        self.tell(&data, told).await
    }

    async fn cancelled(self, told: Told) -> Self {
        let data = OrderCancelled {
            order_id: self.id,
            product_id: product(),
            quantity: quantity(),
        };
        self.tell(&data, told).await
    }

    async fn released(self, told: Told) -> Self {
        let data = StockReleased {
            order_id: self.id,
            product_id: product(),
            released: quantity().get().unsigned_abs(),
        };
        self.tell(&data, told).await
    }

    /// Stores an event in the outbox of the service that tells of it and, once it is handled, its id in the other's inbox.
    async fn tell<D: EventData>(self, data: &D, told: Told) -> Self {
        let (source, from, to) = if D::TYPE.starts_with("agora.order.") {
            ("order-service", &self.shop.orders, &self.shop.inventory)
        } else {
            ("inventory-service", &self.shop.inventory, &self.shop.orders)
        };
        let event = Event::new(source, data);
        sqlx::query(
            "INSERT INTO outbox (event_id, subject, event_type, routing_key, payload, published_at)
             VALUES ($1, $2, $3, $4, $5, CASE WHEN $6 THEN now() END)",
        )
        .bind(event.id)
        .bind(&event.subject)
        .bind(&event.event_type)
        .bind(event.routing_key())
        .bind(String::from_utf8(event.encode()).unwrap())
        .bind(told != Told::Stored)
        .execute(from)
        .await
        .unwrap();
        if told == Told::Handled {
            sqlx::query("INSERT INTO inbox (event_id) VALUES ($1)")
                .bind(event.id)
                .execute(to)
                .await
                .unwrap();
        }
        self
    }
}

fn product() -> ProductId {
    ProductId::try_from(PRODUCT).unwrap()
}

fn quantity() -> Quantity {
    Quantity::try_from(i64::from(QUANTITY)).unwrap()
}

#[tokio::test]
async fn every_order_that_waits_in_an_older_versions_databases_ends() {
    use Told::{Handled, Lost, Stored};
    let shop = Shop::open(saga_tests::binaries!()).await;
    create_tables(&shop.orders, "order-service").await;
    create_tables(&shop.inventory, "inventory-service").await;
    let at_start = reconciliation::stock_at_start(&shop).await;

    let pending = async || Order::with_status(&shop, "pending").await;
    let cancelling = async || {
        let order = Order::with_status(&shop, "cancelling").await;
        order.placed(Handled).await.reserved(Handled).await
    };
    let reserved = [QUANTITY];
    let released = [QUANTITY, -QUANTITY];
    let to_confirm = [
        pending().await.placed(Stored).await,
        pending().await.placed(Lost).await,
        // Its event was pruned.
        pending().await,
        pending()
            .await
            .placed(Handled)
            .await
            .decided("reserved", &reserved)
            .await
            .reserved(Stored)
            .await,
        pending()
            .await
            .placed(Handled)
            .await
            .decided("reserved", &reserved)
            .await
            .reserved(Lost)
            .await,
    ];
    let to_cancel = [
        cancelling()
            .await
            .decided("reserved", &reserved)
            .await
            .cancelled(Stored)
            .await,
        cancelling()
            .await
            .decided("reserved", &reserved)
            .await
            .cancelled(Lost)
            .await,
        cancelling()
            .await
            .decided("released", &released)
            .await
            .cancelled(Handled)
            .await
            .released(Stored)
            .await,
        cancelling()
            .await
            .decided("released", &released)
            .await
            .cancelled(Handled)
            .await
            .released(Lost)
            .await,
    ];
    let promise = |cancelled| {
        move |order: &Order| Promise {
            order_id: order.id.0,
            cancelled,
        }
    };
    let confirmed = to_confirm.iter().map(promise(false));
    let promises = Promises {
        made: confirmed
            .chain(to_cancel.iter().map(promise(true)))
            .collect(),
        unanswered: 0,
    };

    let soon = [("AGORA_SAGA_RECOVERY_INTERVAL_SECONDS", "1")];
    let inventory = shop.inventory_service(&[]).await;
    let orders = shop.order_service(&soon).await;
    reconciliation::reconcile(&shop, &at_start, &promises).await;
    let ended = "SELECT count(*) FROM orders WHERE status = 'confirmed'";
    assert_eq!(Shop::count(&shop.orders, ended).await, 5);
    drop((orders, inventory));
    shop.close().await;
}
