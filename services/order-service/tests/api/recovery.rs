//! Recovery of stuck orders: events are republished a bounded number of times, by one replica.

use super::*;

/// The shortest delay and interval.
const SOON: [(&str, &str); 2] = [
    ("AGORA_SAGA_RECOVERY_AFTER_SECONDS", "1"),
    ("AGORA_SAGA_RECOVERY_INTERVAL_SECONDS", "1"),
];

async fn recovered(shop: &Shop) -> f64 {
    shop.service.metric("agora_orders_recovered_total").await
}

async fn given_up(shop: &Shop) -> f64 {
    shop.service.metric("agora_orders_given_up").await
}

#[tokio::test]
async fn a_stuck_orders_event_is_republished_with_the_same_id() {
    let shop = Shop::open_with(&SOON).await;
    let user = Uuid::now_v7();
    let id = shop.place(user, "/orders/?product_id=99&quantity=2").await;
    // Taken from the queue by the test: the message is lost.
    let (placed, _) = shop.announced().await;
    assert_eq!(shop.announced().await.0, placed);
    assert!(recovered(&shop).await >= 1.0);

    let path = format!("/orders/{id}/cancel");
    answer(shop.service.as_user(user, "POST", &path)).await;
    let cancelled = shop.announced().await.0;
    assert_eq!(cancelled.event_type, "agora.order.cancelled.v1");
    assert_eq!(shop.announced().await.0, cancelled);

    shop.publish_outcome(&released(&id)).await;
    shop.wait_for_status(user, &id, "cancelled").await;
}

#[tokio::test]
async fn a_damaged_order_keeps_no_other_from_being_recovered() {
    let shop = Shop::open_with(&SOON).await;
    let damaged = "INSERT INTO orders (id, user_id, product_id, quantity, changed_at)
                   VALUES (gen_random_uuid(), gen_random_uuid(), 99, 5000, now() - interval '1 hour')";
    sqlx::query(damaged).execute(&shop.pool).await.unwrap();
    shop.place(Uuid::now_v7(), "/orders/?product_id=99").await;
    let (placed, _) = shop.announced().await;
    assert_eq!(shop.announced().await.0, placed);
}

#[tokio::test]
async fn an_order_from_before_the_clock_was_set_back_is_recovered() {
    let [_, interval] = SOON;
    let shop = Shop::open_with(&[interval, ("AGORA_SAGA_RECOVERY_AFTER_SECONDS", "600")]).await;
    shop.place(Uuid::now_v7(), "/orders/?product_id=99").await;
    let (placed, _) = shop.announced().await;
    let ahead = "UPDATE orders SET changed_at = changed_at + interval '1 hour'";
    sqlx::query(ahead).execute(&shop.pool).await.unwrap();
    assert_eq!(shop.announced().await.0, placed);
    eventually("it is counted as stuck", async || {
        shop.service.metric("agora_orders_stuck").await == 1.0
    })
    .await;
    // By the clock as it is now it is no longer due.
    let due = "SELECT count(*) FROM orders WHERE recoveries <> 1 OR recovered_at > now()";
    assert_eq!(shop.count(due).await, 0);
}

#[tokio::test]
async fn a_pruned_or_never_stored_event_is_rebuilt_with_its_original_id() {
    for outbox in ["on", "off"] {
        let [after, interval] = SOON;
        let shop = Shop::open_with(&[after, interval, ("AGORA_PATTERN_OUTBOX", outbox)]).await;
        let user = Uuid::now_v7();
        let mut lost = Vec::new();
        let id = shop.place(user, "/orders/?product_id=99&quantity=2").await;
        lost.push(shop.announced().await.0);
        sqlx::query("DELETE FROM outbox")
            .execute(&shop.pool)
            .await
            .unwrap();
        let same = |event: &Event, lost: &Event| {
            (event.id, &event.event_type, &event.subject)
                == (lost.id, &lost.event_type, &lost.subject)
        };
        let again = shop.announced().await.0;
        assert!(same(&again, &lost[0]), "{again:?} {lost:?}");
        let (data, before): (OrderPlaced, OrderPlaced) =
            (again.data().unwrap(), lost[0].data().unwrap());
        assert_eq!(data, before);

        let path = format!("/orders/{id}/cancel");
        answer(shop.service.as_user(user, "POST", &path)).await;
        let cancelled = shop.announced().await.0;
        sqlx::query("DELETE FROM outbox")
            .execute(&shop.pool)
            .await
            .unwrap();
        let again = shop.announced().await.0;
        assert!(same(&again, &cancelled), "{again:?} {cancelled:?}");
    }
}

#[tokio::test]
async fn an_order_is_given_up_after_the_maximum_number_of_attempts() {
    let [after, interval] = SOON;
    let once = [after, interval, ("AGORA_SAGA_RECOVERY_ATTEMPTS", "1")];
    let shop = Shop::open_with(&once).await;
    let user = Uuid::now_v7();
    // A second attempt at the first order would be due when the third one is given up.
    for count in 1..=3 {
        shop.place(user, "/orders/?product_id=99").await;
        eventually("it is given up", async || {
            given_up(&shop).await == f64::from(count)
        })
        .await;
    }
    assert_eq!(recovered(&shop).await, 3.0);
    eventually("each was announced twice", async || {
        shop.broker.depth("order_events").await == 6
    })
    .await;

    // An operator may request more attempts.
    sqlx::query("UPDATE orders SET recoveries = 0, recovery_requested = true")
        .execute(&shop.pool)
        .await
        .unwrap();
    eventually("each is announced once more", async || {
        shop.broker.depth("order_events").await == 9
    })
    .await;
}

#[tokio::test]
async fn a_sweep_is_bounded_and_two_replicas_never_recover_the_same_order() {
    let [after, interval] = SOON;
    let more = [
        after,
        interval,
        ("AGORA_SAGA_RECOVERY_ATTEMPTS", "1"),
        ("AGORA_SAGA_RECOVERY_BATCH_SIZE", "4"),
    ];
    let (database, broker) = (testkit::database().await, testkit::virtual_host().await);
    let shop = Shop::open_on(&database, broker.clone(), &more).await;
    let other = Shop::open_on(&database, broker, &more).await;
    let user = Uuid::now_v7();
    for _ in 0..20 {
        shop.place(user, "/orders/?product_id=99").await;
    }
    eventually("all are given up", async || {
        shop.count("SELECT count(*) FROM orders WHERE recoveries = 1")
            .await
            == 20
    })
    .await;
    eventually("each is counted once", async || {
        recovered(&shop).await + recovered(&other).await == 20.0
    })
    .await;
    // All rows of a transaction have the same time.
    let largest = "SELECT max(number) FROM (SELECT count(*) AS number FROM orders GROUP BY recovered_at) AS sweeps";
    assert!(shop.count(largest).await <= 4);
    eventually("each was announced twice", async || {
        shop.broker.depth("order_events").await == 40
    })
    .await;
}

#[tokio::test]
async fn an_event_that_still_waits_in_the_outbox_is_not_republished() {
    let [after, interval] = SOON;
    let more = [after, interval, ("OUTBOX_POLL_INTERVAL_MS", "100")];
    let shop = Shop::open_with(&more).await;
    let user = Uuid::now_v7();
    let lost = shop.place(user, "/orders/?product_id=1").await;
    shop.announced().await;
    shop.broker
        .unbind("order_events", "order_events", "#")
        .await;
    shop.place(user, "/orders/?product_id=99").await;
    // The first order's event is republished while no queue is bound; the second order is at most two seconds older.
    eventually("both wait in the outbox", async || {
        shop.count("SELECT count(*) FROM outbox WHERE published_at IS NULL AND created_at < now() - interval '2 seconds'")
            .await
            == 2
    })
    .await;
    let attempts = "SELECT sum(recoveries) FROM orders";
    assert_eq!(shop.count(attempts).await, 1, "{lost} alone, once");
    shop.broker.bind("order_events", "order_events", "#").await;
    shop.announced().await;
    shop.announced().await;
}

#[tokio::test]
async fn with_the_pattern_off_only_requested_orders_are_recovered() {
    let [after, interval] = SOON;
    let off = [after, interval, ("AGORA_PATTERN_SAGA_RECOVERY", "off")];
    let shop = Shop::open_with(&off).await;
    let user = Uuid::now_v7();
    shop.place(user, "/orders/?product_id=1").await;
    let asked_for = shop.place(user, "/orders/?product_id=2").await;
    for _ in 0..2 {
        shop.announced().await;
    }
    // Both are old enough then.
    eventually("both are stuck", async || {
        let old = "SELECT count(*) FROM orders WHERE changed_at < now() - interval '2 seconds'";
        shop.count(old).await == 2
    })
    .await;
    sqlx::query("UPDATE orders SET recovery_requested = true WHERE id = $1::uuid")
        .bind(asked_for.parse::<Uuid>().unwrap())
        .execute(&shop.pool)
        .await
        .unwrap();
    assert_eq!(shop.announced().await.0.subject, asked_for);
    assert_eq!(shop.count("SELECT sum(recoveries) FROM orders").await, 1);
    let waiting = "SELECT count(*) FROM orders WHERE recovery_requested";
    assert_eq!(shop.count(waiting).await, 0);
}
