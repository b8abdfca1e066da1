//! Any bytes, read as every event there is. What has to hold is `tests/event-invariants`, which a
//! test runs on the stable compiler too (`cargo test -p shared-events --test any_bytes`).
//!
//! To look for longer, with `cargo install cargo-fuzz` and a nightly compiler, from the repository's root:
//!
//! ```text
//! mkdir -p fuzz/corpus/decode_event
//! cargo +nightly fuzz run decode_event fuzz/corpus/decode_event fuzz/seeds shared-events/tests/golden \
//!     -- -max_total_time=60
//! ```
//!
//! libFuzzer writes what it finds to the first folder and only reads the others. A counterexample lands in
//! `fuzz/artifacts`: move it to `fuzz/seeds`, where the test finds it from then on.
//!
//! Left out: inputs over libFuzzer's 4 KiB. Larger ones are in the test.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| event_invariants::check(bytes));
