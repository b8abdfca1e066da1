//! Decodes any bytes as every type of event. The invariants are in `tests/event-invariants`; a test checks them on
//! the stable compiler too (`cargo test -p shared-events --test any_bytes`).
//!
//! To search for longer, with `cargo install cargo-fuzz` and a nightly compiler, from the repository's root:
//!
//! ```text
//! mkdir -p fuzz/corpus/decode_event
//! cargo +nightly fuzz run decode_event fuzz/corpus/decode_event fuzz/seeds shared-events/tests/golden \
//!     -- -max_total_time=60
//! ```
//!
//! libFuzzer writes its findings to the first folder and only reads the others. A counterexample is written to
//! `fuzz/artifacts`: move it to `fuzz/seeds`, where the test uses it from then on.
//!
//! Left out: inputs over libFuzzer's 4 KiB. Larger ones are in the test.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| event_invariants::check(bytes));
