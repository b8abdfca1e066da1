//! Messages that nobody can read: counted, explained, shown, sent again, removed, and in nobody's way.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use shared_events::topology::{INVENTORY_EVENTS, MAX_EVENT_BYTES, ORDER_EVENTS, headers};

use crate::{
    client::{TestUser, text},
    program::Call,
    reconciliation,
    system::System,
    wait,
};

const HANDLED_WITHIN: Duration = Duration::from_secs(20);
/// `max_message_size` of observability/rabbitmq/agora.conf.
const BROKER_LIMIT_BYTES: u32 = 327_680;

/// A lower limit of the broker's for channels that are opened from now on, until this is dropped.
struct LowerLimit {
    broker: String,
}

impl LowerLimit {
    fn of(system: &System, bytes: u32) -> Self {
        let lower = Self {
            broker: system.container("rabbitmq"),
        };
        lower.set(bytes).run().expect_code(0);
        lower
    }

    /// As RabbitMQ 3 keeps it, and as version 4 does.
    fn set(&self, bytes: u32) -> Call {
        let set = format!(
            "application:set_env(rabbit, max_message_size, {bytes}), persistent_term:put(max_message_size, {bytes})."
        );
        Call::new(
            "docker",
            ["exec", &self.broker, "rabbitmqctl", "eval", &set],
        )
    }
}

impl Drop for LowerLimit {
    fn drop(&mut self) {
        if let Err(error) = self.set(BROKER_LIMIT_BYTES).try_run() {
            eprintln!("the broker's limit is still lowered: {error}");
        }
    }
}

#[test]
fn a_message_whose_copy_the_broker_rejects_is_dead_and_holds_no_other_up() {
    let system = System::take_turn();
    let outage = system.kill("inventory-service");
    system.publish(ORDER_EVENTS, "order.placed.v1", &"x".repeat(200_000));
    let lower = LowerLimit::of(&system, 100_000);
    drop(outage);
    system.wait_until_healthy();
    // By the broker alone: after so short a time it isn't the limit of deliveries.
    wait_for_letters(&system, "1");
    reconciliation::an_order_is_confirmed(&system);

    // It can't be replayed, and the one behind it is.
    system.bury(ORDER_EVENTS, "behind it", &json!({}));
    wait_for_letters(&system, "2");
    let replay = ["dlq", "replay", "--all", "--format", "json"];
    let replayed = system.xtask(&replay).expect_code(1);
    assert!(
        replayed.stderr.contains("rejected"),
        "{}",
        replayed.account()
    );
    assert_eq!(replayed.json()["done"], 1, "{}", replayed.account());
    // It died again.
    wait_for_letters(&system, "2");
    drop(lower);
    system.purge_dead_letters();
}

#[test]
fn ten_malformed_messages_are_explained_and_hold_nobody_up() {
    let system = System::take_turn();
    system.xtask(&["verify-dlq"]).expect_code(0);
    let ada = TestUser::new(&system.gateway);
    let before = ada.available(&system.gateway);
    let messages = malformed();
    assert_eq!(messages.len(), 10);
    for message in &messages {
        system.publish(ORDER_EVENTS, "order.placed.v1", message);
        ada.order(&system.gateway);
    }

    wait_for_letters(&system, "10");
    let after = ada.wait_for_stock(&system.gateway, before - 10);
    assert_eq!(after, before - 10);

    let text = system.xtask(&["verify-dlq"]).expect_code(1).stdout;
    assert!(text.contains("10 dead letters, 0 expected"), "{text}");
    assert!(
        text.contains("oversized 1, unknown_type 3, unreadable 6"),
        "{text}"
    );
    let verdict = system
        .xtask(&["verify-dlq", "--format", "json"])
        .expect_code(1)
        .json();
    assert_eq!(verdict["outcome"], "failed");
    assert_eq!(verdict["total"], 10);
    let reasons = json!({ "oversized": 1, "unknown_type": 3, "unreadable": 6 });
    assert_eq!(verdict["reasons"]["order_events.dead"], reasons);
    assert!(
        verdict["oldest_age_seconds"]
            .as_u64()
            .is_some_and(|age| age < 120),
        "{verdict}"
    );

    look_at_them(&system);

    system.purge_dead_letters();
    system.xtask(&["verify-dlq"]).expect_code(0);
}

#[test]
fn a_letter_is_listed_and_removed_by_the_same_rule_however_long_it_is() {
    let system = System::take_turn();
    let long = "é".repeat(5_000);
    let (early, late) = ("agora.test.early.v1", "agora.test.late.v1");
    for body in [
        format!(r#"{{"id":"01","type":"{early}","data":"{long}"}}"#),
        // A byte more: the cut goes through a character in one of the two.
        format!(r#"{{"id":"002","type":"{early}","data":"{long}"}}"#),
        // Nobody reads as far as that.
        format!(r#"{{"id":"03","data":"{long}","type":"{late}"}}"#),
    ] {
        system.bury(ORDER_EVENTS, &body, &json!({}));
    }
    for (of_type, expected) in [(early, 2), (late, 0)] {
        let choice = ["--type", of_type, "--format", "json"];
        let listed = system.xtask(&[&["dlq", "list"][..], &choice].concat());
        let listed = listed.expect_code(0).json();
        assert_eq!(listed.as_array().map(Vec::len), Some(expected), "{of_type}");
        let removed = system.xtask(&[&["dlq", "purge"][..], &choice].concat());
        assert_eq!(removed.expect_code(0).json()["done"], expected, "{of_type}");
    }
    system.purge_dead_letters();
}

#[test]
fn no_dead_letter_writes_control_characters_to_the_terminal() {
    let system = System::take_turn();
    let reason = "\u{1b}]0;owned\u{7}\u{9b}2J\nholds: 0 dead letters, 0 expected";
    let headers = json!({ "x-agora-reason": reason, "x-agora-error": "\u{202e}\r\u{1b}[2K" });
    system.bury(ORDER_EVENTS, "\u{1b}[31m", &headers);
    for (command, code) in [("verify-dlq", 1), ("dlq list", 0), ("dlq peek 1", 0)] {
        let args: Vec<&str> = command.split(' ').collect();
        let shown = system.xtask(&args).expect_code(code).stdout;
        assert!(shown.contains("owned"), "{command}: {shown:?}");
        for obeyed in ['\u{1b}', '\u{7}', '\u{9b}', '\r', '\u{202e}'] {
            assert!(!shown.contains(obeyed), "{command}: {shown:?}");
        }
        assert!(!shown.contains("\nholds"), "{command}: {shown:?}");
    }
    let listed = system.xtask(&["dlq", "list", "--format", "json"]);
    assert_eq!(listed.expect_code(0).json()[0]["reason"], reason);
    system.purge_dead_letters();
}

/// Six that can't be read, three of an unknown type, one that is too large.
fn malformed() -> Vec<String> {
    let envelope = |event_type: &str, data: Value| {
        envelope("01938f6e-7d3c-7000-8000-000000000001", event_type, data)
    };
    vec![
        String::new(),
        "not JSON".to_owned(),
        "{\"specversion\":\"1.0\",".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        envelope("agora.order.placed.v1", json!({ "order_id": "not a uuid" })),
        envelope("agora.order.placed.v999", json!({})),
        envelope("agora.order.paid.v1", json!({})),
        envelope("", json!(null)),
        "x".repeat(MAX_EVENT_BYTES + 1),
    ]
}

fn envelope(id: &str, event_type: &str, data: Value) -> String {
    json!({
        "specversion": "1.0", "id": id, "type": event_type,
        "source": "/by-hand", "subject": "nothing", "time": "2026-01-01T00:00:00Z", "data": data,
    })
    .to_string()
}

#[track_caller]
fn wait_for_letters(system: &System, count: &str) {
    wait::until("dead letters", HANDLED_WITHIN, || {
        let verdict = system.xtask(&["verify-dlq", "--expect", count]);
        if verdict.code == Some(0) {
            Ok(())
        } else {
            Err(verdict.account())
        }
    });
}

#[track_caller]
fn letters(system: &System, conditions: &[&str]) -> Vec<Value> {
    let list = ["dlq", "list", "--format", "json"];
    let args: Vec<&str> = list.iter().chain(conditions).copied().collect();
    let list = system.xtask(&args).expect_code(0).json();
    list.as_array().expect("a list of dead letters").clone()
}

#[test]
fn letters_sent_again_die_again_as_the_same_ones_and_only_chosen_ones_are_removed() {
    let system = System::take_turn();
    let ids = [
        "01938f6e-7d3c-7000-8000-00000000000a",
        "01938f6e-7d3c-7000-8000-00000000000b",
        "01938f6f-7d3c-7000-8000-00000000000c",
    ];
    for id in ids {
        let unknown = envelope(id, "agora.order.paid.v1", json!({}));
        system.publish(ORDER_EVENTS, "order.paid.v1", &unknown);
    }
    for _ in 0..2 {
        system.publish(ORDER_EVENTS, "order.placed.v1", "not JSON");
    }
    wait_for_letters(&system, "5");

    let unknown = ["--reason", "unknown_type"];
    let replay = |more: &[&str]| {
        let args: Vec<&str> = ["dlq", "replay"]
            .iter()
            .chain(&unknown)
            .chain(more)
            .copied()
            .collect();
        system.xtask(&args).expect_code(0)
    };
    let look = replay(&["--dry-run", "--format", "json"]).json();
    assert_eq!(
        (&look["selected"], &look["done"]),
        (&json!(3), &json!(0)),
        "{look}"
    );
    let text_of_it = replay(&[]).stdout;
    assert!(
        text_of_it.contains("3 dead letters replayed"),
        "{text_of_it}"
    );
    assert!(text_of_it.contains("verify-dlq"), "{text_of_it}");

    // Nobody knows their type now either: dead again, as the same events, and as often tried as at first.
    let again = wait::until("the dead letters to be dead again", HANDLED_WITHIN, || {
        let again = letters(&system, &unknown);
        let all_again = again
            .iter()
            .all(|letter| letter["headers"][headers::REPLAYS] == 1);
        if again.len() == 3 && all_again {
            Ok(again)
        } else {
            Err(format!("{again:?}"))
        }
    });
    let found: BTreeSet<String> = again.iter().map(|letter| text(letter, "id")).collect();
    assert_eq!(found, BTreeSet::from(ids.map(str::to_owned)));
    for letter in &again {
        assert_eq!(letter["routing_key"], "order.paid.v1", "{letter}");
        assert_eq!(letter["attempts"], 1, "{letter}");
    }
    let settled = system.xtask(&[
        "verify-dlq",
        "--expect",
        "5",
        "--settled",
        "--format",
        "json",
    ]);
    assert_eq!(settled.expect_code(0).json()["waiting"], 0);

    let one = ["dlq", "purge", "--id", "01938f6f"];
    let removed = system.xtask(&one).expect_code(0).stdout;
    assert!(removed.contains("1 dead letter removed"), "{removed}");
    let purged = system.xtask(&[
        "dlq",
        "purge",
        "--reason",
        "unknown_type",
        "--format",
        "json",
    ]);
    assert_eq!(purged.expect_code(0).json()["done"], 2);
    let left = letters(&system, &[]);
    assert_eq!(left.len(), 2);
    assert!(
        left.iter().all(|letter| letter["reason"] == "unreadable"),
        "{left:?}"
    );
    let first = system
        .xtask(&["dlq", "peek", "--reason", "unreadable"])
        .expect_code(0);
    assert!(first.stdout.contains("not JSON"), "{}", first.stdout);
    system.xtask(&["dlq", "purge", "--all"]).expect_code(0);
    system.xtask(&["verify-dlq"]).expect_code(0);
}

#[test]
fn a_letter_that_consumers_forgot_is_only_sent_again_by_somebody_who_insists() {
    let system = System::take_turn();
    let old = json!({
        headers::REASON: "unknown_type",
        headers::FAILED_AT: "2020-01-01T00:00:00Z",
        headers::ROUTING_KEY: "stock.counted.v1",
    });
    let id = "01938f6e-7d3c-7000-8000-00000000000d";
    let letter = envelope(id, "agora.stock.counted.v1", json!({}));
    system.bury(INVENTORY_EVENTS, &letter, &old);
    let replay = ["dlq", "replay", "--queue", "inventory_events.dead"];
    let refused = system.xtask(&replay).expect_code(1).stderr;
    assert!(
        refused.contains("2020-01-01") && refused.contains("--beyond-inbox-window"),
        "{refused}"
    );
    assert_eq!(letters(&system, &["--older-than", "7d"]).len(), 1);

    let insist: Vec<&str> = replay
        .into_iter()
        .chain(["--beyond-inbox-window"])
        .collect();
    system.xtask(&insist).expect_code(0);
    wait::until(
        "the dead letter to be dead again",
        HANDLED_WITHIN,
        || match letters(&system, &["--younger-than", "10m"]).as_slice() {
            [letter] if letter["headers"][headers::REPLAYS] == 1 => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    system.purge_dead_letters();
}

fn look_at_them(system: &System) {
    let list = system
        .xtask(&["dlq", "list", "--format", "json"])
        .expect_code(0)
        .json();
    let letters = list.as_array().expect("a list of dead letters");
    assert_eq!(letters.len(), 10);
    for letter in letters {
        assert_eq!(letter["routing_key"], "order.placed.v1");
        assert_eq!(letter["attempts"], 1);
        assert!(
            letter["error"].is_string() && letter["failed_at"].is_string(),
            "{letter}"
        );
    }
    let unknown = system
        .xtask(&["dlq", "list", "--reason", "unknown_type"])
        .expect_code(0)
        .stdout;
    assert!(unknown.contains("agora.order.paid.v1"), "{unknown}");
    assert!(unknown.contains("3 shown of 10 read"), "{unknown}");

    let number = 1 + letters
        .iter()
        .position(|letter| letter["payload"] == "not JSON")
        .expect("one of them isn't JSON");
    let letter = system
        .xtask(&["dlq", "peek", &number.to_string()])
        .expect_code(0)
        .stdout;
    assert!(
        letter.contains("unreadable") && letter.contains("not JSON"),
        "{letter}"
    );
    let missing = system.xtask(&["dlq", "peek", "11"]).expect_code(1).stderr;
    assert!(missing.contains("cargo xtask dlq list"), "{missing}");
    system
        .xtask(&["verify-dlq", "--expect", "10"])
        .expect_code(0);
}
