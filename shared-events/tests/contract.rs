//! What is on the wire today must be read tomorrow: golden files hold the contract.
//!
//! A golden file changes only together with a new version of what it describes: messages written by
//! yesterday's services, and queues declared by them, are still there when today's start.

use proptest::prelude::*;
use serde_json::{Value, json};
use shared_events::topology::{ALL, Argument, Topology};
use shared_events::{DecodeError, Event, OrderPlaced};

const ORDER_PLACED: &str = include_str!("golden/order_placed.v1.json").trim_ascii_end();
const TOPOLOGY: &str = include_str!("golden/topology.json");

#[test]
fn an_order_placed_is_still_read_and_still_written_the_same() {
    let event = Event::decode(ORDER_PLACED.as_bytes()).unwrap();
    let order: OrderPlaced = event.data().unwrap();
    assert_eq!((order.product_id.get(), order.quantity.get()), (99, 2));
    assert_eq!(order.order_id.to_string(), event.subject);
    assert_eq!(event.routing_key(), "order.placed.v1");

    let written: Value = serde_json::from_slice(&event.encode()).unwrap();
    assert_eq!(
        written,
        serde_json::from_str::<Value>(ORDER_PLACED).unwrap()
    );
}

#[test]
fn exchanges_queues_and_their_arguments_are_as_they_were() {
    let exchanges: serde_json::Map<_, _> = ALL
        .iter()
        .flat_map(Topology::exchanges)
        .map(|exchange| (exchange.name, json!(format!("{:?}", exchange.kind))))
        .collect();
    let queues: serde_json::Map<_, _> = ALL
        .iter()
        .flat_map(Topology::queues)
        .map(|queue| {
            let mut shape =
                serde_json::Map::from_iter(queue.arguments.into_iter().map(|(name, value)| {
                    let value = match value {
                        Argument::Text(text) => json!(text),
                        Argument::Number(number) => json!(number),
                    };
                    (name.to_owned(), value)
                }));
            shape.insert(
                "bound to".to_owned(),
                json!(format!("{} with {}", queue.exchange, queue.binding)),
            );
            (queue.name, Value::Object(shape))
        })
        .collect();
    let found = json!({ "exchanges": exchanges, "queues": queues });
    assert_eq!(found, serde_json::from_str::<Value>(TOPOLOGY).unwrap());
}

#[test]
fn attributes_of_a_later_version_are_ignored() {
    let mut event: Value = serde_json::from_str(ORDER_PLACED).unwrap();
    event["dataschema"] = json!("https://example.com/schema");
    event["data"]["gift_wrap"] = json!(true);
    let event = Event::decode(event.to_string().as_bytes()).unwrap();
    assert!(event.data::<OrderPlaced>().is_ok());
}

#[test]
fn each_way_of_being_unreadable_is_named() {
    let with = |pointer: &str, value: Value| {
        let mut event: Value = serde_json::from_str(ORDER_PLACED).unwrap();
        *event.pointer_mut(pointer).unwrap() = value;
        event.to_string()
    };
    let read =
        |text: String| Event::decode(text.as_bytes()).and_then(|event| event.data::<OrderPlaced>());
    assert!(matches!(read(String::new()), Err(DecodeError::Envelope(_))));
    assert!(matches!(
        read("{}".to_owned()),
        Err(DecodeError::Envelope(_))
    ));
    assert!(matches!(
        read(with("/id", json!(7))),
        Err(DecodeError::Envelope(_))
    ));
    assert!(matches!(
        read(with("/specversion", json!("2.0"))),
        Err(DecodeError::SpecVersion(_))
    ));
    assert!(matches!(
        read(with("/type", json!("agora.order.placed.v2"))),
        Err(DecodeError::Type { .. })
    ));
    for (pointer, value) in [
        ("/data/quantity", json!(0)),
        ("/data/quantity", json!(1_001)),
        ("/data/quantity", json!("2")),
        ("/data/product_id", json!(-1)),
        ("/data/order_id", json!("not a uuid")),
        ("/data", Value::Null),
    ] {
        let found = read(with(pointer, value));
        assert!(
            matches!(found, Err(DecodeError::Data { .. })),
            "{pointer}: {found:?}"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Event::decode(&bytes).map(|event| event.data::<OrderPlaced>());
    }

    #[test]
    fn a_damaged_event_is_an_error_or_an_event_never_a_panic(
        cut in 0..ORDER_PLACED.len(),
        byte in any::<u8>(),
    ) {
        let mut bytes = ORDER_PLACED.as_bytes().to_vec();
        bytes[cut] = byte;
        let _ = Event::decode(&bytes).map(|event| event.data::<OrderPlaced>());
        bytes.truncate(cut);
        prop_assert!(Event::decode(&bytes).is_err());
    }
}
