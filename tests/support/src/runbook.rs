//! How long each alert may take, as `docs/runbook.md` promises it: what people read is what the tests hold alerts to.

use std::{collections::BTreeMap, fs, time::Duration};

use crate::sources::root;

/// What the runbook's table says of one alert.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// From the fault's beginning until it is told that the alert fires.
    pub fires_within: Duration,
    /// From the fault's end until it is told that it cleared.
    pub clears_within: Duration,
}

/// The table, by alert.
///
/// # Panics
/// When it is not there, or a row has another form.
pub fn bounds() -> BTreeMap<String, Bounds> {
    let path = root().join("docs/runbook.md");
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let bounds: BTreeMap<String, Bounds> = text.lines().filter_map(row).collect();
    assert!(bounds.len() > 5, "{}: {bounds:?}", path.display());
    bounds
}

/// ``| `TargetDown` | 60 s | 45 s | … |``
fn row(line: &str) -> Option<(String, Bounds)> {
    let mut cells = line.strip_prefix("| `")?.split(" | ");
    let name = cells.next()?.strip_suffix('`')?;
    let mut bound = || duration(cells.next().unwrap_or_default());
    let bounds = Bounds {
        fires_within: bound(),
        clears_within: bound(),
    };
    Some((name.to_owned(), bounds))
}

/// `60 s`, and as rules have it: `30s`, `1m`.
///
/// # Panics
/// At any other form.
pub fn duration(text: &str) -> Duration {
    let number = text.trim_end_matches(|last: char| !last.is_ascii_digit());
    let seconds: u64 = match text[number.len()..].trim() {
        "s" => 1,
        "m" => 60,
        unit => panic!("no duration: {text:?} has the unit {unit:?}"),
    };
    let number: u64 = number
        .parse()
        .unwrap_or_else(|error| panic!("no duration: {text:?}: {error}"));
    Duration::from_secs(number * seconds)
}
