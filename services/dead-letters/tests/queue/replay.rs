//! Which messages are replayed, their properties in the queue, and what happens to the others.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use dead_letters::{Options, Task};
use lapin::types::{AMQPValue, FieldTable};
use shared_events::dead_letters::Selection;
use shared_events::topology::{ORDER_EVENTS, headers};
use testkit::{header_text, text_headers};
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, DeadLetter, text};
use crate::{all, with_reason};

#[tokio::test]
async fn a_replayed_message_is_the_same_event_without_its_death_headers() {
    let broker = Broker::declared().await;
    let mut message = DeadLetter::new("m-1", "retries_exhausted");
    for header in [
        headers::ERROR,
        headers::CONSUMER,
        "x-first-death-reason",
        "x-last-death-queue",
    ] {
        message.set(header, text("of the last death"));
    }
    message.set(headers::ATTEMPTS, AMQPValue::LongLongInt(4));
    message.set("x-delivery-count", AMQPValue::LongLongInt(2));
    message.set("CC", testkit::text_list(&["nowhere"]));
    message.set("traceparent", text("00-4bf92f35-00f0-01"));
    message.set("x-custom", text("kept"));
    message.properties = message.properties.with_expiration("3600000".into());
    let died = header_text(&message.headers, headers::FAILED_AT).unwrap();
    broker.put_dead(&[message]).await;

    let report = broker.run(&all(Task::Replay)).await.unwrap();
    assert_eq!(
        (report.examined, report.selected, report.done, report.kept),
        (1, 1, 1, 0)
    );
    assert!(!report.interrupted && !report.dry_run);
    let [replayed] = &broker.drain(&ORDER_EVENTS.queue()).await[..] else {
        panic!("exactly one message");
    };
    assert_eq!(replayed.data, b"m-1");
    let properties = &replayed.properties;
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "m-1");
    assert_eq!(
        properties.kind().as_ref().unwrap().as_str(),
        "agora.order.placed.v1"
    );
    assert_eq!(
        properties.content_type().as_ref().unwrap().as_str(),
        "application/cloudevents+json"
    );
    assert_eq!(properties.delivery_mode(), &Some(2));
    assert_eq!(properties.expiration(), &None);
    let mut expected = text_headers(&[
        ("traceparent", "00-4bf92f35-00f0-01"),
        ("x-custom", "kept"),
        (headers::ROUTING_KEY, "order.placed.v1"),
        // A dead letter without the header of its first failure.
        (headers::FIRST_FAILED_AT, &died),
    ]);
    expected.insert(headers::REPLAYS.into(), AMQPValue::LongLongInt(1));
    assert_eq!(properties.headers().as_ref().unwrap(), &expected);
    assert_eq!(broker.dead().await, [""; 0]);
}

#[tokio::test]
async fn the_time_of_the_first_failure_is_kept_and_reported() {
    let broker = Broker::declared().await;
    let (first, last) = (
        Utc::now() - Duration::from_secs(9 * 24 * 60 * 60),
        Utc::now(),
    );
    let mut message = DeadLetter::new("m-1", "rejected").failed_at(last);
    let first_text = first.to_rfc3339_opts(SecondsFormat::Millis, true);
    message.set(headers::FIRST_FAILED_AT, text(&first_text));
    broker.put_dead(&[message]).await;
    let report = broker.run(&all(Task::Replay)).await.unwrap();
    let seconds = |time: Option<DateTime<Utc>>| time.unwrap().timestamp();
    assert_eq!(seconds(report.oldest_failed_at), last.timestamp());
    assert_eq!(seconds(report.oldest_first_failed_at), first.timestamp());
    let [replayed] = &broker.drain(&ORDER_EVENTS.queue()).await[..] else {
        panic!("exactly one message");
    };
    let headers_now = replayed.properties.headers().as_ref().unwrap();
    assert_eq!(
        header_text(headers_now, headers::FIRST_FAILED_AT),
        Some(first_text)
    );
}

#[tokio::test]
async fn replays_are_counted() {
    let broker = Broker::declared().await;
    let mut message = DeadLetter::new("m-1", "rejected");
    message.set(headers::REPLAYS, AMQPValue::LongLongInt(2));
    broker.put_dead(&[message]).await;
    broker.run(&all(Task::Replay)).await.unwrap();
    let [replayed] = &broker.drain(&ORDER_EVENTS.queue()).await[..] else {
        panic!("exactly one message");
    };
    let replays = header_text(
        replayed.properties.headers().as_ref().unwrap(),
        headers::REPLAYS,
    );
    assert_eq!(replays.as_deref(), Some("3"));
}

#[tokio::test]
async fn a_message_dead_lettered_by_the_broker_keeps_its_routing_key() {
    let broker = Broker::declared().await;
    let mut message = DeadLetter::new("m-1", "none");
    message.headers = FieldTable::default();
    broker.put_dead(&[message]).await;
    broker.run(&all(Task::Replay)).await.unwrap();
    let [replayed] = &broker.drain(&ORDER_EVENTS.queue()).await[..] else {
        panic!("exactly one message");
    };
    let headers_now = replayed.properties.headers().as_ref().unwrap();
    // The test published it to its queue directly.
    assert_eq!(
        header_text(headers_now, headers::ROUTING_KEY).as_deref(),
        Some("order_events.dead")
    );
}

#[tokio::test]
async fn headers_too_large_for_a_replay_are_dropped_except_the_trace_context() {
    let broker = Broker::declared().await;
    let mut message = DeadLetter::new("m-1", "rejected");
    message.set("x-large", text(&"x".repeat(20 * 1024)));
    message.set("traceparent", text("00-4bf92f35-00f0-01"));
    broker.put_dead(&[message]).await;
    broker.run(&all(Task::Replay)).await.unwrap();
    let [replayed] = &broker.drain(&ORDER_EVENTS.queue()).await[..] else {
        panic!("exactly one message");
    };
    let headers_now = replayed.properties.headers().as_ref().unwrap();
    assert!(!headers_now.contains_key("x-large"));
    assert!(headers_now.contains_key("traceparent"));
}

#[tokio::test]
async fn messages_that_are_not_selected_keep_their_order() {
    let broker = Broker::declared().await;
    // More than twice the prefetch limit.
    let messages: Vec<DeadLetter> = (0..450)
        .map(|n| {
            let reason = if n % 3 == 0 { "unreadable" } else { "rejected" };
            DeadLetter::new(&format!("m-{n:03}"), reason)
        })
        .collect();
    broker.put_dead(&messages).await;
    let report = broker
        .run(&with_reason(Task::Replay, "unreadable"))
        .await
        .unwrap();
    assert_eq!(
        (report.examined, report.selected, report.done, report.kept),
        (450, 150, 150, 300)
    );
    let of = |unreadable: bool| -> Vec<String> {
        let chosen = messages
            .iter()
            .enumerate()
            .filter(|(n, _)| (n % 3 == 0) == unreadable);
        chosen.map(|(_, message)| message.id.clone()).collect()
    };
    assert_eq!(broker.alive().await, of(true));
    assert_eq!(broker.dead().await, of(false));
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let broker = Broker::declared().await;
    let messages: Vec<DeadLetter> = (0..250)
        .map(|n| DeadLetter::new(&format!("m-{n:03}"), "rejected"))
        .collect();
    broker.put_dead(&messages).await;
    let options = Options {
        dry_run: true,
        ..with_reason(Task::Replay, "rejected")
    };
    let report = broker.run(&options).await.unwrap();
    assert_eq!(
        (report.examined, report.selected, report.done, report.kept),
        (250, 250, 0, 250)
    );
    assert!(report.dry_run);
    assert_eq!(broker.alive().await, [""; 0]);
    let ids: Vec<String> = messages.into_iter().map(|message| message.id).collect();
    assert_eq!(broker.dead().await, ids);
}

#[tokio::test]
async fn each_condition_selects() {
    let broker = Broker::declared().await;
    let now = Utc::now();
    let old = now - Duration::from_secs(3_600);
    let mut other_type = DeadLetter::new("b-1", "rejected");
    other_type.properties = other_type
        .properties
        .with_type("agora.order.cancelled.v1".into());
    let messages = [
        DeadLetter::new("a-1", "rejected").failed_at(old),
        DeadLetter::new("a-2", "unreadable"),
        other_type,
    ];
    let oldest = |report: &shared_events::dead_letters::Report| {
        report.oldest_failed_at.map(|at| at.timestamp())
    };
    let minute = Some(Duration::from_secs(60));
    let choices = [
        (
            Selection {
                id: Some("a-".to_owned()),
                ..Selection::default()
            },
            2,
            Some(old),
        ),
        (
            Selection {
                reason: Some("rejected".to_owned()),
                ..Selection::default()
            },
            2,
            Some(old),
        ),
        (
            Selection {
                event_type: Some("agora.order.cancelled.v1".to_owned()),
                ..Selection::default()
            },
            1,
            None,
        ),
        (
            Selection {
                older_than: minute,
                ..Selection::default()
            },
            1,
            Some(old),
        ),
        (
            Selection {
                younger_than: minute,
                ..Selection::default()
            },
            2,
            None,
        ),
        (
            Selection {
                id: Some("c".to_owned()),
                ..Selection::default()
            },
            0,
            None,
        ),
    ];
    broker.put_dead(&messages).await;
    for (selection, selected, expected) in choices {
        let options = Options {
            selection,
            dry_run: true,
            ..all(Task::Replay)
        };
        let report = broker.run(&options).await.unwrap();
        assert_eq!(
            (report.examined, report.selected),
            (3, selected),
            "{options:?}"
        );
        if let Some(expected) = expected {
            assert_eq!(oldest(&report), Some(expected.timestamp()), "{options:?}");
        }
    }
}

#[tokio::test]
async fn the_limit_selects_the_oldest() {
    let broker = Broker::declared().await;
    let messages = ["1", "2", "3"].map(|id| DeadLetter::new(id, "rejected"));
    broker.put_dead(&messages).await;
    let options = Options {
        limit: Some(2),
        ..all(Task::Replay)
    };
    let report = broker.run(&options).await.unwrap();
    assert_eq!((report.examined, report.selected, report.done), (2, 2, 2));
    assert_eq!(broker.alive().await, ["1", "2"]);
    assert_eq!(broker.dead().await, ["3"]);
}

#[tokio::test]
async fn an_empty_queue_is_a_success() {
    let broker = Broker::declared().await;
    let report = broker.run(&all(Task::Replay)).await.unwrap();
    assert_eq!(
        (report.examined, report.done, report.interrupted),
        (0, 0, false)
    );
}

#[tokio::test]
async fn messages_that_fail_again_meanwhile_are_not_replayed_twice() {
    let broker = Broker::declared().await;
    let messages: Vec<DeadLetter> = (0..200)
        .map(|n| DeadLetter::new(&format!("m-{n:03}"), "rejected"))
        .collect();
    broker.put_dead(&messages).await;
    let stop = CancellationToken::new();
    let done = stop.clone();
    // Like a consumer that rejects every message.
    let rejecting = async {
        while !done.is_cancelled() {
            for replayed in broker.drain(&ORDER_EVENTS.queue()).await {
                let id = replayed
                    .properties
                    .message_id()
                    .as_ref()
                    .unwrap()
                    .to_string();
                let mut message = DeadLetter::new(&id, "rejected");
                let headers_now = replayed.properties.headers().as_ref().unwrap();
                message.set(
                    headers::REPLAYS,
                    headers_now.inner()[headers::REPLAYS].clone(),
                );
                broker.put_dead(&[message]).await;
            }
        }
    };
    let options = all(Task::Replay);
    let replaying = async {
        let report = broker.run(&options).await;
        stop.cancel();
        report
    };
    let (report, ()) = tokio::join!(replaying, rejecting);
    let report = report.unwrap();
    assert_eq!((report.examined, report.done), (200, 200));
    let mut left = broker.dead().await;
    left.extend(broker.alive().await);
    left.sort();
    let ids: Vec<String> = messages.into_iter().map(|message| message.id).collect();
    assert_eq!(left, ids);
}

#[tokio::test]
async fn when_stopped_it_reports_its_progress_and_keeps_the_rest() {
    let broker = Broker::declared().await;
    broker
        .put_dead(&["1", "2"].map(|id| DeadLetter::new(id, "rejected")))
        .await;
    let stop = CancellationToken::new();
    stop.cancel();
    let report = dead_letters::run(&all(Task::Replay), &broker.url, stop)
        .await
        .unwrap();
    assert!(report.interrupted);
    assert_eq!(report.done, 0);
    assert_eq!(broker.dead().await, ["1", "2"]);
}
