use dead_letters::{Cause, Task};
use tokio_util::sync::CancellationToken;

use crate::all;
use crate::broker::{Broker, Letter};

#[tokio::test]
async fn a_full_queue_refuses_and_nothing_is_lost() {
    let broker = Broker::empty().await;
    broker.declare("order_events.dead", 1_000).await;
    broker.declare("order_events", 1).await;
    // The bound is a soft one: the broker notices a moment later.
    let mut before = 0;
    while broker
        .try_put("order_events", &Letter::new("before", ""))
        .await
    {
        before += 1;
        assert!(before < 10_000, "the queue has no bound");
    }
    let letters: Vec<Letter> = (0..20)
        .map(|n| Letter::new(&format!("m-{n:02}"), "rejected"))
        .collect();
    broker.bury(&letters).await;

    let error = broker.run(&all(Task::Replay)).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Refused(_)), "{error}");
    assert!(
        error.to_string().contains("order_events refuses"),
        "{error}"
    );
    assert_eq!((error.report.selected, error.report.done), (1, 0));
    let ids: Vec<String> = letters.into_iter().map(|letter| letter.id).collect();
    assert_eq!(broker.dead().await, ids);
    assert_eq!(broker.alive().await.len(), before);
}

#[tokio::test]
async fn a_queue_that_is_gone_loses_nothing() {
    let broker = Broker::empty().await;
    broker.declare("order_events.dead", 1_000).await;
    broker
        .bury(&["1", "2", "3"].map(|id| Letter::new(id, "rejected")))
        .await;
    let error = broker.run(&all(Task::Replay)).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Unroutable(_)), "{error}");
    assert_eq!(broker.dead().await, ["1", "2", "3"]);
}

#[tokio::test]
async fn a_missing_dead_letter_queue_is_named() {
    let broker = Broker::empty().await;
    let error = broker.run(&all(Task::Purge)).await.unwrap_err();
    assert!(error.cause.is_unavailable());
    assert!(error.to_string().contains("order_events.dead"), "{error}");
}

#[tokio::test]
async fn without_a_broker_it_says_so() {
    let nobody = "amqp://nobody:x@127.0.0.1:9/%2f";
    let error = dead_letters::run(&all(Task::Purge), nobody, CancellationToken::new())
        .await
        .unwrap_err();
    assert!(error.cause.is_unavailable(), "{error}");
}
