//! Events that the broker rejects: `outbox` lists them, has them published again, and drops them.

use std::time::Duration;

use crate::{client::text, system::System, wait};

/// Five attempts, a second apart, on a busy machine.
const PARKED_WITHIN: Duration = Duration::from_secs(60);
const DEAD_WITHIN: Duration = Duration::from_secs(20);
/// More than the broker accepts: `max_message_size`.
const TOO_LARGE_BYTES: usize = 2_000_000;

/// Events of a type that only this test has, in order-service's outbox; removed when this is dropped.
struct Stored<'a>(&'a System);

impl Stored<'_> {
    /// Stores an event with this payload, in SQL; returns its id.
    fn add(&self, subject: &str, payload: &str) -> String {
        let insert = format!(
            "INSERT INTO outbox (event_id, subject, event_type, routing_key, payload)
             VALUES (gen_random_uuid(), '{subject}', 'agora.test.v1', 'test.v1', {payload}) RETURNING event_id"
        );
        self.0.query("orders", &insert)[0][0].clone()
    }
}

impl Drop for Stored<'_> {
    fn drop(&mut self) {
        let remove = "DELETE FROM outbox WHERE event_type = 'agora.test.v1'";
        // It has complained already.
        let _ = self.0.put_back(&[("orders", remove)]);
    }
}

#[test]
fn an_event_that_the_broker_rejects_is_listed_retried_and_dropped_by_hand() {
    let system = System::take_turn();
    let stored = Stored(&system);
    let too_large = format!("repeat('x', {TOO_LARGE_BYTES})");
    let repaired = stored.add("repaired", &too_large);
    stored.add("repaired", "'behind it'");
    let dropped = stored.add("dropped", &too_large);

    let parked = || {
        let list = system.xtask(&["outbox", "parked", "--format", "json"]);
        list.expect_code(0).json()
    };
    let until_parked = |count: u64| {
        wait::until("parked events", PARKED_WITHIN, || match parked() {
            list if list["parked"] == count => Ok(list),
            list => Err(list.to_string()),
        })
    };
    let list = until_parked(2);
    let event = |id: &str| {
        let mut events = list["events"].as_array().expect("events").iter();
        events.find(|event| event["event_id"] == id).expect(id)
    };
    assert!(text(event(&repaired), "error").contains("PRECONDITION"));
    assert_eq!(event(&repaired)["payload_bytes"], TOO_LARGE_BYTES);
    assert_eq!(event(&repaired)["waiting_behind"], 1);
    assert_eq!(event(&dropped)["waiting_behind"], 0);

    // Both then reach inventory-service, which can't read them.
    let repair = format!("UPDATE outbox SET payload = 'repaired' WHERE event_id = '{repaired}'");
    system.query("orders", &repair);
    system.xtask(&["outbox", "retry", &repaired]).expect_code(0);
    until_parked(1);
    wait::until("both to be published", DEAD_WITHIN, || {
        let verdict = system.xtask(&["verify-dlq", "--expect", "2"]);
        match verdict.code {
            Some(0) => Ok(()),
            _ => Err(verdict.account()),
        }
    });

    system.xtask(&["outbox", "drop", &dropped]).expect_code(0);
    until_parked(0);
    // What is gone can't be dropped.
    let again = system.xtask(&["outbox", "drop", &dropped]).expect_code(1);
    assert!(again.stderr.contains(&dropped), "{}", again.account());
    system.purge_dead_letters();
}
