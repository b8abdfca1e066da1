//! Any input is an event or an error: no bytes make a consumer panic, and a decoded event stays the same when it is encoded
//! and decoded again. `fuzz/` searches for counterexamples for longer than a test may.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use shared_events::Event;
use shared_events::topology::MAX_EVENT_BYTES;

use event_invariants::check;

const ORDER: &str = include_str!("golden/order_placed.v1.json");

fn files(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = fs::read_dir(folder).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    // A failing case is stored by its position in this list.
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// The starting points of mutations: golden files and the fuzzer's seeds.
fn corpus() -> Vec<Vec<u8>> {
    [files("tests/golden"), files("../fuzz/seeds")].concat()
}

/// The golden files of events.
fn events() -> Vec<Vec<u8>> {
    let mut events = files("tests/golden");
    events.retain(|bytes| Event::decode(bytes).is_ok());
    assert!(events.len() >= 5, "only {} events found", events.len());
    events
}

/// `text` as an unknown attribute, as an attribute, as the data, and in the data of an event.
fn at_each_place(text: &str) -> [String; 4] {
    let data = ORDER.find(r#""data": "#).unwrap() + r#""data": "#.len();
    [
        ORDER.replacen('{', &format!(r#"{{ "unknown": {text},"#), 1),
        ORDER.replacen(r#""/order-service""#, text, 1),
        format!("{}{text} }}", &ORDER[..data]),
        ORDER.replacen(r#""quantity": 2"#, &format!(r#""quantity": {text}"#), 1),
    ]
}

#[test]
fn the_corpus_keeps_the_invariants() {
    corpus().iter().for_each(|bytes| check(bytes));
}

#[test]
fn an_event_damaged_at_any_byte_is_an_event_or_an_error() {
    for event in events() {
        for at in 0..event.len() {
            let (before, after) = (&event[..at], &event[at + 1..]);
            check(&[before, after].concat());
            let flipped = (0..8).map(|bit| event[at] ^ (1 << bit));
            for byte in flipped.chain(*b"\0\"\\{}[],:-9e\xff") {
                check(&[before, &[byte], after].concat());
            }
        }
    }
}

#[test]
fn an_event_cut_off_anywhere_is_an_error() {
    for event in events() {
        let event = event.trim_ascii_end();
        for length in 0..event.len() {
            assert!(Event::decode(&event[..length]).is_err());
        }
    }
}

#[test]
fn deeply_nested_json_overflows_no_stack() {
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        for depth in [100, 128, 1_000, 40_000] {
            let closed = format!("{}0{}", open.repeat(depth), close.repeat(depth));
            for text in [closed, open.repeat(depth)] {
                check(text.as_bytes());
                assert!(Event::decode(text.as_bytes()).is_err());
                for text in at_each_place(&text) {
                    check(text.as_bytes());
                }
            }
        }
    }
}

#[test]
fn unusual_and_nearly_valid_json_is_an_event_or_an_error() {
    let huge = "9".repeat(10_000);
    let long = format!(r#""{}""#, "a".repeat(MAX_EVENT_BYTES));
    for text in [
        "-0",
        "1e400",
        "-1e400",
        "1e-400",
        "0.1",
        "123456789.123456789e-300",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "01",
        "+1",
        "NaN",
        "Infinity",
        "0x10",
        &huge,
        &format!("0.{huge}"),
        &format!("1e{huge}"),
        &long,
        r#""\u0000""#,
        "\"\0\"",
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        r#""\ud83d\ude00""#,
        r#""\x""#,
        "\"\u{feff}\u{202e}\"",
        r#"{ "a": 1, "a": 2 }"#,
        r#"{ "": null, "\u0000": null }"#,
        r#"{ "$serde_json::private::Number": "1" }"#,
        r#"{ "$serde_json::private::RawValue": "1" }"#,
        "{ 1: 2 }",
        "[1,]",
        "'a'",
        "/* */ 1",
    ] {
        check(text.as_bytes());
        for text in at_each_place(text) {
            check(text.as_bytes());
        }
    }
}

#[test]
fn an_event_in_another_encoding_is_an_error() {
    let marked = [b"\xef\xbb\xbf", ORDER.as_bytes()].concat();
    let utf_16: Vec<u8> = ORDER.bytes().flat_map(|byte| [byte, 0]).collect();
    let mut latin_1 = ORDER.as_bytes().to_vec();
    latin_1[ORDER.find("order-service").unwrap()] = 0xe9;
    for bytes in [marked, utf_16, latin_1] {
        assert!(Event::decode(&bytes).is_err());
    }
}

/// One change of some bytes.
#[derive(Debug, Clone)]
enum Edit {
    Replace(Index, u8),
    Remove(Index, usize),
    /// Inserts a piece of JSON at another place.
    Insert(Index, &'static str),
    /// Repeats a part somewhere else: duplicate keys, nested envelopes.
    Repeat(Index, Index, usize),
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        let part = |from: &Index, size: usize| {
            let from = from.index(length + 1);
            from..(from + size).min(length)
        };
        match self {
            Self::Replace(..) if bytes.is_empty() => (),
            Self::Replace(at, byte) => bytes[at.index(length)] = *byte,
            Self::Remove(from, size) => drop(bytes.drain(part(from, *size))),
            Self::Insert(at, text) => {
                let at = at.index(length + 1);
                bytes.splice(at..at, text.bytes());
            }
            Self::Repeat(from, to, size) => {
                let repeated = bytes[part(from, *size)].to_vec();
                let to = to.index(length + 1);
                bytes.splice(to..to, repeated);
            }
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    const PIECES: [&str; 18] = [
        "null",
        "true",
        "[",
        "]",
        "{",
        "}",
        "\"",
        ",",
        ":",
        "\\u0000",
        "\\ud800",
        "-",
        "0",
        ".5",
        "e9",
        "9223372036854775808",
        "{\"a\":0}",
        "+23:59",
    ];
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
        (at(), 1..40_usize).prop_map(|(from, size)| Edit::Remove(from, size)),
        (at(), proptest::sample::select(&PIECES[..])).prop_map(|(at, text)| Edit::Insert(at, text)),
        (at(), at(), 1..80_usize).prop_map(|(from, to, size)| Edit::Repeat(from, to, size)),
    ]
}

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        check(&bytes);
    }

    #[test]
    fn no_text_makes_decoding_panic(text in any::<String>()) {
        for text in at_each_place(&text) {
            check(text.as_bytes());
        }
    }

    #[test]
    fn any_mutation_of_the_corpus_is_an_event_or_an_error(
        mut bytes in proptest::sample::select(corpus()),
        edits in proptest::collection::vec(edit(), 1..6),
    ) {
        for edit in edits {
            edit.apply(&mut bytes);
            check(&bytes);
        }
    }
}
