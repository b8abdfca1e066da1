//! The process itself: its exit codes, its line of JSON, and the state of a queue after it was killed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use testkit::eventually;

use crate::broker::{Broker, DeadLetter};

const MESSAGES: usize = 3_000;

fn tool(broker: &Broker, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dead-letters"));
    command.env_clear().env("AMQP_URL", &broker.url).args(args);
    command
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("not one JSON object ({error}): {output:?}"))
}

async fn put_many_dead(broker: &Broker) -> BTreeSet<String> {
    let messages: Vec<DeadLetter> = (0..MESSAGES)
        .map(|n| {
            DeadLetter::new(
                &format!("m-{n:04}"),
                if n % 2 == 0 { "rejected" } else { "unreadable" },
            )
        })
        .collect();
    broker.put_dead(&messages).await;
    messages.into_iter().map(|message| message.id).collect()
}

/// Starts a replay of every second message and waits until it has moved some.
async fn running_replay(broker: &Broker) -> Child {
    let args = [
        "replay",
        "--queue",
        "order_events.dead",
        "--reason",
        "rejected",
    ];
    let child = tool(broker, &args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("a hundred messages are replayed", async || {
        broker.depth("order_events").await >= 100
    })
    .await;
    child
}

#[tokio::test]
async fn a_killed_replay_loses_no_message_and_repeats_at_most_one() {
    let broker = Broker::declared().await;
    let all = put_many_dead(&broker).await;
    let mut child = running_replay(&broker).await;
    child.kill().unwrap();
    child.wait().unwrap();

    // The broker requeues what the process held, once it notices.
    let enough = MESSAGES as u32;
    eventually("all messages are back", async || {
        broker.depth("order_events").await + broker.depth("order_events.dead").await >= enough
    })
    .await;
    let (alive, dead) = (broker.alive().await, broker.dead().await);
    assert!(
        alive.len() < MESSAGES / 2,
        "killed too late: {}",
        alive.len()
    );
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    for id in alive.iter().chain(&dead) {
        *counts.entry(id).or_default() += 1;
    }
    let found: BTreeSet<String> = counts.keys().map(|id| (*id).clone()).collect();
    assert_eq!(found, all);
    let twice = counts.values().filter(|count| **count > 1).count();
    assert!(
        twice <= 1 && counts.values().all(|count| *count <= 2),
        "{twice} twice"
    );
}

#[cfg(feature = "crash-points")]
#[tokio::test]
async fn killed_between_confirm_and_acknowledgement_a_message_is_in_both_queues_with_one_id() {
    let broker = Broker::declared().await;
    broker
        .put_dead(&["1", "2", "3"].map(|id| DeadLetter::new(id, "rejected")))
        .await;
    let output = tool(&broker, &["replay", "--queue", "order_events.dead"])
        .env("AGORA_CRASH_AT", "dead_letters.before_ack:2")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), None, "{output:?}");
    eventually("the messages are back", async || {
        broker.depth("order_events.dead").await == 2
    })
    .await;
    assert_eq!(broker.alive().await, ["1", "2"]);
    assert_eq!(broker.dead().await, ["2", "3"]);
}

#[tokio::test]
async fn sigterm_stops_a_replay_which_keeps_the_order_and_reports() {
    let broker = Broker::declared().await;
    put_many_dead(&broker).await;
    let child = running_replay(&broker).await;
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let report = report(&output);
    assert_eq!(report["interrupted"], true);
    let (alive, dead) = (broker.alive().await, broker.dead().await);
    assert_eq!(report["done"].as_u64(), Some(alive.len() as u64));
    assert_eq!(alive.len() + dead.len(), MESSAGES);
    assert!(dead.is_sorted(), "the rest is in its order");
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted after"));
}

#[tokio::test]
async fn it_reports_in_one_json_object() {
    let broker = Broker::declared().await;
    broker
        .put_dead(&["1", "2", "3"].map(|id| DeadLetter::new(id, "rejected")))
        .await;
    let args = [
        "purge",
        "--queue",
        "order_events.dead",
        "--limit",
        "2",
        "--younger-than-seconds",
        "600",
    ];
    let output = tool(&broker, &args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report = report(&output);
    for (field, value) in [("examined", 2), ("selected", 2), ("done", 2), ("kept", 0)] {
        assert_eq!(report[field], value, "{field}: {report}");
    }
    assert_eq!(report["queue"], "order_events.dead");
    assert_eq!(report["dry_run"], false);
    assert_eq!(report["interrupted"], false);
    assert_eq!(broker.dead().await, ["3"]);
}

#[tokio::test]
async fn wrong_usage_is_refused_before_the_queue_is_touched() {
    let broker = Broker::empty().await;
    for args in [
        &["replay"][..],
        &["replay", "--queue", "order_events"],
        &["purge", "--queue", "order_events.dead", "--id", ""],
        &["peek", "--queue", "order_events.dead"],
    ] {
        let output = tool(&broker, args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
    let unset = tool(&broker, &["purge", "--queue", "order_events.dead"])
        .env_remove("AMQP_URL")
        .output()
        .unwrap();
    assert_eq!(unset.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unset.stderr).contains("AMQP_URL"));
}

#[tokio::test]
async fn a_missing_queue_exits_with_3() {
    let broker = Broker::empty().await;
    let output = tool(&broker, &["purge", "--queue", "order_events.dead"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(report(&output)["done"], 0);
}
