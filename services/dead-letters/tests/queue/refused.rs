//! Failed replays: nothing is lost, and the cause is named.

use std::collections::BTreeMap;

use dead_letters::{Cause, Task};
use testkit::eventually;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::all;
use crate::broker::{Broker, DeadLetter};

#[tokio::test]
async fn a_full_queue_refuses_and_nothing_is_lost() {
    let broker = Broker::empty().await;
    broker.declare("order_events.dead", 1_000).await;
    broker.declare("order_events", 1).await;
    // The limit is a soft one: the broker applies it with a delay.
    let mut before = 0;
    while broker
        .try_put("order_events", &DeadLetter::new("before", ""))
        .await
    {
        before += 1;
        assert!(before < 10_000, "the queue has no length limit");
    }
    let messages: Vec<DeadLetter> = (0..20)
        .map(|n| DeadLetter::new(&format!("m-{n:02}"), "rejected"))
        .collect();
    broker.put_dead(&messages).await;

    let error = broker.run(&all(Task::Replay)).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Refused(_)), "{error}");
    assert!(
        error.to_string().contains("order_events refuses"),
        "{error}"
    );
    assert_eq!((error.report.selected, error.report.done), (1, 0));
    let ids: Vec<String> = messages.into_iter().map(|message| message.id).collect();
    assert_eq!(broker.dead().await, ids);
    assert_eq!(broker.alive().await.len(), before);
}

#[tokio::test]
async fn a_deleted_queue_loses_nothing() {
    let broker = Broker::empty().await;
    broker.declare("order_events.dead", 1_000).await;
    broker
        .put_dead(&["1", "2", "3"].map(|id| DeadLetter::new(id, "rejected")))
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
async fn an_unreachable_broker_is_named() {
    let nobody = "amqp://nobody:x@127.0.0.1:9/%2f";
    let error = dead_letters::run(&all(Task::Purge), nobody, CancellationToken::new())
        .await
        .unwrap_err();
    assert!(error.cause.is_unavailable(), "{error}");
}

/// A proxy to the broker that can be cut; the URL that leads through it.
async fn proxy(url: &str) -> (String, tokio::task::AbortHandle) {
    let address = url.rsplit_once('@').unwrap().1.split('/').next().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap().to_string();
    let to = address.to_owned();
    let way = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut broker = TcpStream::connect(to).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut client, &mut broker).await;
    });
    (url.replace(address, &proxy), way.abort_handle())
}

#[tokio::test]
async fn a_lost_connection_loses_no_message_and_repeats_at_most_one() {
    const MESSAGES: usize = 1_000;
    let broker = Broker::declared().await;
    let messages: Vec<DeadLetter> = (0..MESSAGES)
        .map(|n| DeadLetter::new(&format!("m-{n:03}"), "rejected"))
        .collect();
    broker.put_dead(&messages).await;
    let (url, way) = proxy(&broker.url).await;
    let options = all(Task::Replay);
    let replaying = dead_letters::run(&options, &url, CancellationToken::new());
    let cutting = async {
        eventually("a hundred messages are replayed", async || {
            broker.depth("order_events").await >= 100
        })
        .await;
        way.abort();
    };
    let (replayed, ()) = tokio::join!(replaying, cutting);
    let error = replayed.unwrap_err();
    // Some, but not all; the last confirm may not have arrived.
    assert!(
        (1..MESSAGES).contains(&error.report.done),
        "{error}: {:?}",
        error.report
    );

    eventually("all messages are back", async || {
        let both = broker.depth("order_events").await + broker.depth("order_events.dead").await;
        both >= MESSAGES as u32
    })
    .await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for id in broker.alive().await.into_iter().chain(broker.dead().await) {
        *counts.entry(id).or_default() += 1;
    }
    assert_eq!(counts.len(), MESSAGES);
    assert!(counts.values().sum::<usize>() <= MESSAGES + 1);
}
