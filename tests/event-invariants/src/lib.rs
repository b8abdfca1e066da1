//! What holds for any bytes that reach a consumer, in one copy: `shared-events/tests/any_bytes.rs` runs it over hostile
//! shapes and mutations of the corpus, `fuzz/` over whatever libFuzzer comes up with.
//!
//! Left out: what the bytes should mean. That is `shared-events/tests/contract.rs`.

use std::fmt::Debug;

use serde_json::Value;
use shared_events::{
    DecodeError, Event, EventData, OrderCancelled, OrderPlaced, StockRejected, StockReleased,
    StockReserved,
};

/// Reads `bytes` as every event there is.
///
/// # Panics
/// When reading panics, when an event read, written and read again is another one, or when an error has
/// the wrong name.
pub fn check(bytes: &[u8]) {
    let Ok(event) = Event::decode(bytes) else {
        return;
    };
    let written = event.encode();
    let again = Event::decode(&written).expect("an event that was read can be written and read");
    // serde_json reads some floats one unit in the last place off, unless its feature float_roundtrip is on;
    // such a one may move again. No event has a float, so it only stands where nobody reads.
    if !has_float(&serde_json::from_slice(&written).expect("it was just read")) {
        assert_eq!(
            again, event,
            "the event changed when it was written and read"
        );
    }
    read_as::<OrderPlaced>(&event, &again);
    read_as::<OrderCancelled>(&event, &again);
    read_as::<StockReserved>(&event, &again);
    read_as::<StockRejected>(&event, &again);
    read_as::<StockReleased>(&event, &again);
}

fn read_as<D: EventData + PartialEq + Debug>(event: &Event, again: &Event) {
    match event.data::<D>() {
        Ok(data) => {
            assert_eq!(event.event_type, D::TYPE);
            assert_eq!(again.data::<D>().expect("the event is the same"), data);
            let said = Event::new("fuzz", &data);
            let travelled = Event::decode(&said.encode()).expect("what we say can be read");
            assert_eq!(travelled, said);
            assert_eq!(
                travelled.data::<D>().expect("what we say can be read"),
                data
            );
        }
        Err(DecodeError::Data { .. }) => assert_eq!(event.event_type, D::TYPE),
        Err(DecodeError::Type { .. }) => assert_ne!(event.event_type, D::TYPE),
        Err(other) => panic!("an error of the envelope, from its data: {other}"),
    }
}

fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(values) => values.iter().any(has_float),
        Value::Object(values) => values.values().any(has_float),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}
