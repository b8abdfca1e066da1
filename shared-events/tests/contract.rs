//! Golden files hold the wire format: messages encoded by older versions must stay readable.
//!
//! A golden file only changes together with a new version of its event: messages and queues of older services still exist
//! when newer ones start.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use serde_json::{Value, json};
use shared_events::topology::{ALL, Argument, Topology};
use shared_events::{
    DecodeError, Event, EventData, OrderCancelled, OrderId, OrderPlaced, ProductId, Quantity,
    RejectReason, StockRejected, StockReleased, StockReserved, UserId,
};
use uuid::{Uuid, uuid};

const TOPOLOGY: &str = include_str!("golden/topology.json");

/// The data of an event of any type.
#[derive(Debug, Clone, PartialEq)]
enum AnyData {
    OrderPlaced(OrderPlaced),
    OrderCancelled(OrderCancelled),
    StockReserved(StockReserved),
    StockRejected(StockRejected),
    StockReleased(StockReleased),
}

impl AnyData {
    fn to_event(&self, service: &str) -> Event {
        match self {
            Self::OrderPlaced(data) => Event::new(service, data),
            Self::OrderCancelled(data) => Event::new(service, data),
            Self::StockReserved(data) => Event::new(service, data),
            Self::StockRejected(data) => Event::new(service, data),
            Self::StockReleased(data) => Event::new(service, data),
        }
    }

    /// As a consumer decodes it that knows all current types; any other type is refused as one of them.
    fn in_event(event: &Event) -> Result<Self, DecodeError> {
        match event.event_type.as_str() {
            OrderCancelled::TYPE => event.data().map(Self::OrderCancelled),
            StockReserved::TYPE => event.data().map(Self::StockReserved),
            StockRejected::TYPE => event.data().map(Self::StockRejected),
            StockReleased::TYPE => event.data().map(Self::StockReleased),
            _ => event.data().map(Self::OrderPlaced),
        }
    }
}

fn read(bytes: impl AsRef<[u8]>) -> Result<AnyData, DecodeError> {
    Event::decode(bytes.as_ref()).and_then(|event| AnyData::in_event(&event))
}

/// A golden file, and its data.
struct Golden {
    text: &'static str,
    routing_key: &'static str,
    service: &'static str,
    data: AnyData,
}

impl Golden {
    fn json(&self) -> Value {
        serde_json::from_str(self.text).unwrap()
    }

    /// The event with another value at an existing place.
    fn with(&self, pointer: &str, value: Value) -> String {
        let mut event = self.json();
        *event.pointer_mut(pointer).unwrap() = value;
        event.to_string()
    }
}

fn goldens() -> [Golden; 5] {
    let order_id = OrderId(uuid!("01938f7a-6f80-7b11-8a2c-5d6e7f809102"));
    let product_id = ProductId::try_from(99).unwrap();
    let quantity = Quantity::try_from(2).unwrap();
    [
        Golden {
            text: include_str!("golden/order_placed.v1.json"),
            routing_key: "order.placed.v1",
            service: "order-service",
            data: AnyData::OrderPlaced(OrderPlaced {
                order_id,
                user_id: UserId(uuid!("01938f70-0000-7aaa-8bbb-ccccdddd0003")),
                product_id,
                quantity,
            }),
        },
        Golden {
            text: include_str!("golden/order_cancelled.v1.json"),
            routing_key: "order.cancelled.v1",
            service: "order-service",
            data: AnyData::OrderCancelled(OrderCancelled {
                order_id,
                product_id,
                quantity,
            }),
        },
        Golden {
            text: include_str!("golden/stock_reserved.v1.json"),
            routing_key: "stock.reserved.v1",
            service: "inventory-service",
            data: AnyData::StockReserved(StockReserved {
                order_id,
                product_id,
                quantity,
            }),
        },
        Golden {
            text: include_str!("golden/stock_rejected.v1.json"),
            routing_key: "stock.rejected.v1",
            service: "inventory-service",
            data: AnyData::StockRejected(StockRejected {
                order_id,
                product_id,
                quantity,
                reason: RejectReason::OutOfStock,
            }),
        },
        Golden {
            text: include_str!("golden/stock_released.v1.json"),
            routing_key: "stock.released.v1",
            service: "inventory-service",
            data: AnyData::StockReleased(StockReleased {
                order_id,
                product_id,
                released: 2,
            }),
        },
    ]
}

#[test]
fn each_golden_event_is_decoded_and_encoded_unchanged() {
    for golden in goldens() {
        let event = Event::decode(golden.text.as_bytes()).unwrap();
        assert_eq!(AnyData::in_event(&event).unwrap(), golden.data);
        assert_eq!(event.routing_key(), golden.routing_key);

        let mut encoded_today = golden.data.to_event(golden.service);
        (encoded_today.id, encoded_today.time) = (event.id, event.time);
        assert_eq!(encoded_today, event);
        for event in [encoded_today, event] {
            let written: Value = serde_json::from_slice(&event.encode()).unwrap();
            assert_eq!(written, golden.json());
        }
    }
}

#[test]
fn a_reason_is_encoded_as_its_name() {
    for (reason, name) in [
        (RejectReason::OutOfStock, "out_of_stock"),
        (RejectReason::UnknownProduct, "unknown_product"),
    ] {
        assert_eq!(reason.as_str(), name);
        assert_eq!(serde_json::to_value(reason).unwrap(), name);
        let read: RejectReason = serde_json::from_value(json!(name)).unwrap();
        assert_eq!(read, reason);
    }
}

#[test]
fn exchanges_queues_and_their_arguments_are_unchanged() {
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
fn unknown_attributes_and_fields_are_ignored() {
    for golden in goldens() {
        let mut event = golden.json();
        event["dataschema"] = json!("https://example.com/schema");
        event["traceparent"] = json!({ "of": ["another", "shape"] });
        event["data"]["gift_wrap"] = json!(true);
        assert_eq!(read(event.to_string()).unwrap(), golden.data);
    }
}

#[test]
fn an_unknown_version_or_type_decodes_as_an_event_that_no_consumer_accepts() {
    for golden in goldens() {
        let today = golden.json()["type"].as_str().unwrap().to_owned();
        let tomorrow = today.replace(".v1", ".v2");
        for found in [
            tomorrow.as_str(),
            &today.to_uppercase(),
            &format!("{today} "),
            &format!("{today}\0"),
            "agora.order.paid.v1",
            "com.example.order.placed.v1",
            "agora.",
            "",
        ] {
            let event = Event::decode(golden.with("/type", json!(found)).as_bytes()).unwrap();
            assert_eq!(event.event_type, found);
            for result in [
                event.data::<OrderPlaced>().map(drop),
                event.data::<OrderCancelled>().map(drop),
                event.data::<StockReserved>().map(drop),
                event.data::<StockRejected>().map(drop),
                event.data::<StockReleased>().map(drop),
            ] {
                assert!(
                    matches!(result, Err(DecodeError::Type { .. })),
                    "{found:?}: {result:?}"
                );
            }
        }
    }
}

#[test]
fn a_routing_key_is_the_type_without_its_prefix() {
    for (event_type, routing_key) in [
        ("agora.order.paid.v1", "order.paid.v1"),
        ("com.example.agora.v1", "com.example.agora.v1"),
        ("agora.", ""),
        ("agora.agora.v1", "agora.v1"),
    ] {
        let text = goldens()[0].with("/type", json!(event_type));
        let event = Event::decode(text.as_bytes()).unwrap();
        assert_eq!(event.routing_key(), routing_key);
    }
}

/// Asserts that each golden event is refused with the same error for each of these values at each of these places; a place
/// that an event doesn't have is skipped.
fn assert_refused(expected: fn(&DecodeError) -> bool, places: &[&str], values: &[Value]) {
    for place in places {
        let mut tried = 0;
        for golden in goldens() {
            if golden.json().pointer(place).is_none() {
                continue;
            }
            for value in values {
                let found = read(golden.with(place, value.clone()));
                assert!(
                    found.as_ref().is_err_and(expected),
                    "{} with {place} {value}: {found:?}",
                    golden.routing_key
                );
                tried += 1;
            }
        }
        assert_ne!(tried, 0, "no event has {place}");
    }
}

fn no_envelope(error: &DecodeError) -> bool {
    matches!(error, DecodeError::Envelope(_))
}

fn other_specversion(error: &DecodeError) -> bool {
    matches!(error, DecodeError::SpecVersion(_))
}

fn other_data(error: &DecodeError) -> bool {
    matches!(error, DecodeError::Data { .. })
}

#[test]
fn an_envelope_of_the_wrong_shape_is_refused_as_no_envelope() {
    for text in [
        "", " ", "null", "7", "{}", "[]", "\"\"", "[{}]", "{", "}", "\0",
    ] {
        let found = read(text);
        assert!(
            found.as_ref().is_err_and(no_envelope),
            "{text:?}: {found:?}"
        );
    }
    assert_refused(
        no_envelope,
        &[
            "/specversion",
            "/id",
            "/type",
            "/source",
            "/subject",
            "/time",
            "/datacontenttype",
        ],
        &[json!(7), json!(null), json!([]), json!({})],
    );
    assert_refused(
        no_envelope,
        &["/id"],
        &[
            json!(""),
            json!("not a uuid"),
            json!("01938f7a-6f8a-7c3e-9b1d-3f1e5a7c9d0"),
            json!("01938f7a-6f8a-7c3e-9b1d-3f1e5a7c9d01 "),
            json!("01938f7a-6f8a-7c3e-9b1d-3f1e5a7c9d0g"),
        ],
    );
    assert_refused(
        no_envelope,
        &["/time"],
        &[
            json!(""),
            json!("now"),
            json!("1763805600"),
            json!("2026-11-22"),
            json!("2026-11-22T10:00:00"),
            json!("2026-13-22T10:00:00Z"),
            json!("2026-02-29T10:00:00Z"),
            json!("2026-11-22T24:00:00Z"),
            json!("2026-11-22T10:00:00+25:00"),
            json!("999999-11-22T10:00:00Z"),
            json!("+999999-11-22T10:00:00Z"),
        ],
    );
    assert_refused(
        other_specversion,
        &["/specversion"],
        &[json!("2.0"), json!("1"), json!("1.0.0"), json!("")],
    );
}

#[test]
fn a_missing_field_is_reported_with_its_level() {
    for golden in goldens() {
        let attributes = golden.json();
        for name in attributes.as_object().unwrap().keys() {
            let mut event = golden.json();
            event.as_object_mut().unwrap().remove(name);
            let found = read(event.to_string());
            if name == "datacontenttype" {
                assert_eq!(found.unwrap(), golden.data, "JSON without a content type");
            } else {
                assert!(
                    found.as_ref().is_err_and(no_envelope),
                    "without {name}: {found:?}"
                );
            }
        }
        for name in attributes["data"].as_object().unwrap().keys() {
            let mut event = golden.json();
            event["data"].as_object_mut().unwrap().remove(name);
            let found = read(event.to_string());
            assert!(
                found.as_ref().is_err_and(other_data),
                "without {name}: {found:?}"
            );
        }
    }
}

#[test]
fn data_of_the_wrong_shape_is_refused_as_data_of_its_type() {
    let numbers = ["/data/product_id", "/data/quantity", "/data/released"];
    assert_refused(
        other_data,
        &["/data"],
        &[json!(null), json!(7), json!("{}"), json!([]), json!({})],
    );
    assert_refused(
        other_data,
        &["/data/order_id", "/data/user_id"],
        &[json!(null), json!(7), json!(""), json!("not a uuid")],
    );
    assert_refused(
        other_data,
        &numbers,
        &[
            json!(null),
            json!("2"),
            json!(true),
            json!([2]),
            json!(-1),
            json!(i64::MIN),
            json!(2.0),
            json!(0.5),
            json!(1e300),
            json!(u64::MAX),
        ],
    );
    assert_refused(
        other_data,
        &["/data/product_id", "/data/quantity"],
        &[json!(0)],
    );
    assert_refused(
        other_data,
        &["/data/quantity", "/data/released"],
        &[json!(u64::from(u32::MAX) + 1), json!(i64::MAX)],
    );
    assert_refused(
        other_data,
        &["/data/quantity"],
        &[json!(1_001), json!(u32::MAX)],
    );
    assert_refused(
        other_data,
        &["/data/reason"],
        &[
            json!(null),
            json!(0),
            json!(""),
            json!("sold_out"),
            json!("OutOfStock"),
            json!("out_of_stock "),
            json!({ "sold_out": null }),
        ],
    );
}

#[test]
fn numbers_too_large_or_not_written_as_integers_are_refused_as_data() {
    for golden in goldens() {
        for number in [
            "18446744073709551616",
            "-9223372036854775809",
            "1e3",
            "2e0",
            "-0",
        ] {
            let text = golden
                .text
                .replace(r#""product_id": 99"#, &format!(r#""product_id": {number}"#));
            assert_ne!(text, golden.text);
            let found = read(text);
            assert!(found.as_ref().is_err_and(other_data), "{number}: {found:?}");
        }
    }
}

#[test]
fn a_duplicate_attribute_is_refused_and_of_duplicate_fields_the_last_counts() {
    for golden in goldens() {
        let twice = golden.text.replacen('{', r#"{ "specversion": "1.0","#, 1);
        assert!(read(twice).is_err_and(|error| no_envelope(&error)));
        let twice = golden.text.replace(
            r#""product_id": 99"#,
            r#""product_id": -1, "product_id": 99"#,
        );
        assert_eq!(read(twice).unwrap(), golden.data);
    }
}

#[test]
fn an_id_is_the_same_in_every_spelling_of_a_uuid() {
    let golden = &goldens()[0];
    let id = Event::decode(golden.text.as_bytes()).unwrap().id;
    for spelling in [
        id.to_string().to_uppercase(),
        id.simple().to_string(),
        id.urn().to_string(),
        id.braced().to_string(),
    ] {
        let event = Event::decode(golden.with("/id", json!(spelling)).as_bytes()).unwrap();
        assert_eq!(event.id, id);
        let written: Value = serde_json::from_slice(&event.encode()).unwrap();
        assert_eq!(written, golden.json());
    }
}

#[test]
fn a_time_is_the_same_with_every_offset_and_encoded_in_utc() {
    let golden = &goldens()[0];
    for spelling in [
        "2026-11-22T11:00:00.123456+01:00",
        "2026-11-22T04:30:00.123456-05:30",
        "2026-11-23T09:59:00.123456+23:59",
        "2026-11-22T10:00:00.123456-00:00",
        "2026-11-22t10:00:00.123456z",
        "2026-11-22 10:00:00.123456Z",
    ] {
        let event = Event::decode(golden.with("/time", json!(spelling)).as_bytes()).unwrap();
        let written: Value = serde_json::from_slice(&event.encode()).unwrap();
        assert_eq!(written, golden.json(), "{spelling}");
    }
}

#[test]
fn a_time_is_truncated_to_microseconds() {
    let golden = &goldens()[0];
    let golden_event = Event::decode(golden.text.as_bytes()).unwrap();
    let finer = golden.with("/time", json!("2026-11-22T10:00:00.123456789Z"));
    assert_eq!(Event::decode(finer.as_bytes()).unwrap(), golden_event);

    let data = golden.data.to_event(golden.service);
    assert_eq!(data.time.timestamp_subsec_nanos() % 1_000, 0);
}

#[test]
fn an_array_is_neither_an_envelope_nor_data() {
    for golden in goldens() {
        // The order of the fields in the code, which must not become part of the contract.
        let event = golden.json();
        let data = &event["data"];
        let fields = [
            "order_id",
            "user_id",
            "product_id",
            "quantity",
            "released",
            "reason",
        ];
        let fields: Vec<_> = fields.iter().filter_map(|name| data.get(name)).collect();
        assert_eq!(fields.len(), data.as_object().unwrap().len());
        let found = read(golden.with("/data", json!(fields)));
        assert!(
            found.as_ref().is_err_and(other_data),
            "{}: {found:?}",
            golden.routing_key
        );

        let attributes = [
            "specversion",
            "id",
            "type",
            "source",
            "subject",
            "time",
            "datacontenttype",
            "data",
        ];
        let attributes = json!(attributes.map(|name| &event[name]));
        for text in [attributes.to_string(), format!("\n{attributes}")] {
            let found = read(text);
            assert!(found.as_ref().is_err_and(no_envelope), "{found:?}");
        }
    }
}

fn any_data() -> impl Strategy<Value = AnyData> {
    let order_id = any::<u128>().prop_map(|id| OrderId(Uuid::from_u128(id)));
    let product_id = (1..=i64::MAX).prop_map(|id| ProductId::try_from(id).unwrap());
    let quantity = (1..=i64::from(Quantity::MAX)).prop_map(|n| Quantity::try_from(n).unwrap());
    let reason = prop_oneof![
        Just(RejectReason::OutOfStock),
        Just(RejectReason::UnknownProduct)
    ];
    let any_values = (
        order_id,
        any::<u128>().prop_map(|id| UserId(Uuid::from_u128(id))),
        product_id,
        quantity,
        reason,
        any::<u32>(),
    );
    any_values.prop_flat_map(
        |(order_id, user_id, product_id, quantity, reason, released)| {
            prop_oneof![
                Just(AnyData::OrderPlaced(OrderPlaced {
                    order_id,
                    user_id,
                    product_id,
                    quantity,
                })),
                Just(AnyData::OrderCancelled(OrderCancelled {
                    order_id,
                    product_id,
                    quantity,
                })),
                Just(AnyData::StockReserved(StockReserved {
                    order_id,
                    product_id,
                    quantity,
                })),
                Just(AnyData::StockRejected(StockRejected {
                    order_id,
                    product_id,
                    quantity,
                    reason,
                })),
                Just(AnyData::StockReleased(StockReleased {
                    order_id,
                    product_id,
                    released,
                })),
            ]
        },
    )
}

/// With microseconds, from the year 1 to the year 9999.
fn time() -> impl Strategy<Value = DateTime<Utc>> {
    (-62_135_596_800..253_402_300_800_i64, 0..1_000_000_u32)
        .prop_map(|(seconds, micros)| DateTime::from_timestamp(seconds, micros * 1_000).unwrap())
}

proptest! {
    #[test]
    fn an_event_of_any_type_is_decoded_as_it_was_encoded(
        data in any_data(),
        service in "[a-z-]{1,20}",
        id in any::<u128>(),
        time in time(),
    ) {
        let mut other = data.to_event(&service);
        (other.id, other.time) = (Uuid::from_u128(id), time);
        for event in [data.to_event(&service), other] {
            let arrived = Event::decode(&event.encode()).unwrap();
            prop_assert_eq!(&arrived, &event);
            prop_assert_eq!(AnyData::in_event(&arrived).unwrap(), data.clone());
            prop_assert_eq!(arrived.encode(), event.encode());
            prop_assert_eq!(&arrived.source, &format!("/{service}"));
        }
    }
}
