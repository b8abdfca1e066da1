//! Messages that nobody can read: counted, explained, shown, and in nobody's way.

use std::time::Duration;

use serde_json::json;
use shared_events::topology::{MAX_EVENT_BYTES, ORDER_EVENTS};

use crate::{client::Person, system::System, wait};

const HANDLED_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn ten_malformed_messages_are_explained_and_hold_nobody_up() {
    let system = System::take_turn();
    system.xtask(&["verify-dlq"]).expect_code(0);
    let ada = Person::new(&system.gateway);
    let before = ada.available(&system.gateway);
    let messages = malformed();
    assert_eq!(messages.len(), 10);
    for message in &messages {
        system.publish(ORDER_EVENTS, "order.placed.v1", message);
        ada.order(&system.gateway);
    }

    wait::until("ten dead letters", HANDLED_WITHIN, || {
        let verdict = system.xtask(&["verify-dlq", "--expect", "10"]);
        if verdict.code == Some(0) {
            Ok(())
        } else {
            Err(verdict.account())
        }
    });
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

/// Six that can't be read, three of an unknown type, one that is too large.
fn malformed() -> Vec<String> {
    let envelope = |event_type: &str, data: serde_json::Value| {
        json!({
            "specversion": "1.0", "id": "01938f6e-7d3c-7000-8000-000000000001", "type": event_type,
            "source": "/by-hand", "subject": "nothing", "time": "2026-01-01T00:00:00Z", "data": data,
        })
        .to_string()
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

fn look_at_them(system: &System) {
    let list = system
        .xtask(&["dlq", "list", "--format", "json"])
        .expect_code(0)
        .json();
    let letters = list.as_array().expect("a list of letters");
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
