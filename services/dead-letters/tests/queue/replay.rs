//! What a letter looks like in its queue, which ones are sent there, and what becomes of the others.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use dead_letters::{Options, Task};
use lapin::types::{AMQPValue, FieldTable};
use shared_events::dead_letters::Selection;
use shared_events::topology::{ORDER_EVENTS, headers};
use testkit::{header_text, text_headers};
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Letter, text};
use crate::{all, with_reason};

#[tokio::test]
async fn a_replayed_letter_is_the_same_event_without_its_past() {
    let broker = Broker::declared().await;
    let mut letter = Letter::new("m-1", "retries_exhausted");
    for header in [
        headers::ERROR,
        headers::CONSUMER,
        "x-first-death-reason",
        "x-last-death-queue",
    ] {
        letter.set(header, text("of the last life"));
    }
    letter.set(headers::ATTEMPTS, AMQPValue::LongLongInt(4));
    letter.set("x-delivery-count", AMQPValue::LongLongInt(2));
    letter.set("CC", testkit::text_list(&["nowhere"]));
    letter.set("traceparent", text("00-4bf92f35-00f0-01"));
    letter.set("x-of-somebody-else", text("kept"));
    letter.properties = letter.properties.with_expiration("3600000".into());
    let died = header_text(&letter.headers, headers::FAILED_AT).unwrap();
    broker.bury(&[letter]).await;

    let report = broker.run(&all(Task::Replay)).await.unwrap();
    assert_eq!(
        (report.examined, report.selected, report.done, report.kept),
        (1, 1, 1, 0)
    );
    assert!(!report.interrupted && !report.dry_run);
    let [message] = &broker.drain(&ORDER_EVENTS.queue()).await[..] else {
        panic!("exactly one message");
    };
    assert_eq!(message.data, b"m-1");
    let properties = &message.properties;
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
        ("x-of-somebody-else", "kept"),
        (headers::ROUTING_KEY, "order.placed.v1"),
        // An old letter, which doesn't know of an earlier failure.
        (headers::FIRST_FAILED_AT, &died),
    ]);
    expected.insert(headers::REPLAYS.into(), AMQPValue::LongLongInt(1));
    assert_eq!(properties.headers().as_ref().unwrap(), &expected);
    assert_eq!(broker.dead().await, [""; 0]);
}

#[tokio::test]
async fn the_first_failure_is_kept_and_it_is_the_age_that_is_told() {
    let broker = Broker::declared().await;
    let (first, last) = (
        Utc::now() - Duration::from_secs(9 * 24 * 60 * 60),
        Utc::now(),
    );
    let mut letter = Letter::new("m-1", "rejected").failed_at(last);
    let first_text = first.to_rfc3339_opts(SecondsFormat::Millis, true);
    letter.set(headers::FIRST_FAILED_AT, text(&first_text));
    broker.bury(&[letter]).await;
    let report = broker.run(&all(Task::Replay)).await.unwrap();
    let seconds = |time: Option<DateTime<Utc>>| time.unwrap().timestamp();
    assert_eq!(seconds(report.oldest_failed_at), last.timestamp());
    assert_eq!(seconds(report.oldest_first_failed_at), first.timestamp());
    let [message] = &broker.drain(&ORDER_EVENTS.queue()).await[..] else {
        panic!("exactly one message");
    };
    let headers_now = message.properties.headers().as_ref().unwrap();
    assert_eq!(
        header_text(headers_now, headers::FIRST_FAILED_AT),
        Some(first_text)
    );
}

#[tokio::test]
async fn replays_are_counted_on() {
    let broker = Broker::declared().await;
    let mut letter = Letter::new("m-1", "rejected");
    letter.set(headers::REPLAYS, AMQPValue::LongLongInt(2));
    broker.bury(&[letter]).await;
    broker.run(&all(Task::Replay)).await.unwrap();
    let [message] = &broker.drain(&ORDER_EVENTS.queue()).await[..] else {
        panic!("exactly one message");
    };
    let replays = header_text(
        message.properties.headers().as_ref().unwrap(),
        headers::REPLAYS,
    );
    assert_eq!(replays.as_deref(), Some("3"));
}

#[tokio::test]
async fn a_letter_of_the_broker_goes_back_under_the_routing_key_it_came_with() {
    let broker = Broker::declared().await;
    let mut letter = Letter::new("m-1", "none");
    letter.headers = FieldTable::default();
    broker.bury(&[letter]).await;
    broker.run(&all(Task::Replay)).await.unwrap();
    let [message] = &broker.drain(&ORDER_EVENTS.queue()).await[..] else {
        panic!("exactly one message");
    };
    let headers_now = message.properties.headers().as_ref().unwrap();
    // By hand it was put into its queue directly.
    assert_eq!(
        header_text(headers_now, headers::ROUTING_KEY).as_deref(),
        Some("order_events.dead")
    );
}

#[tokio::test]
async fn headers_too_large_to_send_again_are_dropped_and_the_trace_is_kept() {
    let broker = Broker::declared().await;
    let mut letter = Letter::new("m-1", "rejected");
    letter.set("x-large", text(&"x".repeat(20 * 1024)));
    letter.set("traceparent", text("00-4bf92f35-00f0-01"));
    broker.bury(&[letter]).await;
    broker.run(&all(Task::Replay)).await.unwrap();
    let [message] = &broker.drain(&ORDER_EVENTS.queue()).await[..] else {
        panic!("exactly one message");
    };
    let headers_now = message.properties.headers().as_ref().unwrap();
    assert!(!headers_now.contains_key("x-large"));
    assert!(headers_now.contains_key("traceparent"));
}

#[tokio::test]
async fn what_is_not_selected_stays_in_its_order() {
    let broker = Broker::declared().await;
    // More than a consumer is handed out, twice over.
    let letters: Vec<Letter> = (0..450)
        .map(|n| {
            let reason = if n % 3 == 0 { "unreadable" } else { "rejected" };
            Letter::new(&format!("m-{n:03}"), reason)
        })
        .collect();
    broker.bury(&letters).await;
    let report = broker
        .run(&with_reason(Task::Replay, "unreadable"))
        .await
        .unwrap();
    assert_eq!(
        (report.examined, report.selected, report.done, report.kept),
        (450, 150, 150, 300)
    );
    let of = |unreadable: bool| -> Vec<String> {
        let chosen = letters
            .iter()
            .enumerate()
            .filter(|(n, _)| (n % 3 == 0) == unreadable);
        chosen.map(|(_, letter)| letter.id.clone()).collect()
    };
    assert_eq!(broker.alive().await, of(true));
    assert_eq!(broker.dead().await, of(false));
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let broker = Broker::declared().await;
    let letters: Vec<Letter> = (0..250)
        .map(|n| Letter::new(&format!("m-{n:03}"), "rejected"))
        .collect();
    broker.bury(&letters).await;
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
    let ids: Vec<String> = letters.into_iter().map(|letter| letter.id).collect();
    assert_eq!(broker.dead().await, ids);
}

#[tokio::test]
async fn each_condition_chooses() {
    let broker = Broker::declared().await;
    let now = Utc::now();
    let old = now - Duration::from_secs(3_600);
    let mut other_type = Letter::new("b-1", "rejected");
    other_type.properties = other_type
        .properties
        .with_type("agora.order.cancelled.v1".into());
    let letters = [
        Letter::new("a-1", "rejected").failed_at(old),
        Letter::new("a-2", "unreadable"),
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
    broker.bury(&letters).await;
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
async fn the_limit_takes_the_oldest() {
    let broker = Broker::declared().await;
    let letters = ["1", "2", "3"].map(|id| Letter::new(id, "rejected"));
    broker.bury(&letters).await;
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
async fn an_empty_queue_is_no_work() {
    let broker = Broker::declared().await;
    let report = broker.run(&all(Task::Replay)).await.unwrap();
    assert_eq!(
        (report.examined, report.done, report.interrupted),
        (0, 0, false)
    );
}

#[tokio::test]
async fn letters_that_fail_again_meanwhile_are_not_taken_a_second_time() {
    let broker = Broker::declared().await;
    let letters: Vec<Letter> = (0..200)
        .map(|n| Letter::new(&format!("m-{n:03}"), "rejected"))
        .collect();
    broker.bury(&letters).await;
    let stop = CancellationToken::new();
    let done = stop.clone();
    // As a consumer that rejects whatever comes.
    let rejecting = async {
        while !done.is_cancelled() {
            for message in broker.drain(&ORDER_EVENTS.queue()).await {
                let id = message
                    .properties
                    .message_id()
                    .as_ref()
                    .unwrap()
                    .to_string();
                let mut letter = Letter::new(&id, "rejected");
                let headers_now = message.properties.headers().as_ref().unwrap();
                letter.set(
                    headers::REPLAYS,
                    headers_now.inner()[headers::REPLAYS].clone(),
                );
                broker.bury(&[letter]).await;
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
    let ids: Vec<String> = letters.into_iter().map(|letter| letter.id).collect();
    assert_eq!(left, ids);
}

#[tokio::test]
async fn asked_to_stop_it_tells_what_was_done_and_keeps_the_rest() {
    let broker = Broker::declared().await;
    broker
        .bury(&["1", "2"].map(|id| Letter::new(id, "rejected")))
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
