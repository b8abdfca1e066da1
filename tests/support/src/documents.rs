//! Tables in the documents that are generated from the code: a test holds each against its page, or writes it.
//!
//! Left out: what is in a table; the crate that declares the facts builds it.

use std::{env, fs};

use crate::sources;

/// With this variable set, tests write the tables instead of comparing them.
const WRITE: &str = "AGORA_TEST_WRITE_DOCUMENTS";

/// Compares a table in Markdown with the one in a page (a path from the repository's root) that has the same heading, its
/// first line; or writes it there.
///
/// # Panics
/// When the tables differ, or the page has none with this heading.
#[track_caller]
pub fn expect_table(page: &str, table: &str) {
    let path = sources::root().join(page);
    let document = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{page}: {error}"));
    let written = with_table(&document, table)
        .unwrap_or_else(|| panic!("{page} has no table with this heading: {table}"));
    if env::var_os(WRITE).is_some() {
        fs::write(&path, written).unwrap_or_else(|error| panic!("{page}: {error}"));
        return;
    }
    let differing = written.lines().find(|line| !document.contains(line));
    assert!(
        written == document,
        "{page} isn't what the code says (first difference: {differing:?}); `{WRITE}=1 cargo test --workspace --lib --bins the_reference_has` writes it anew"
    );
}

/// The document with this table in place of the one with the same heading.
fn with_table(document: &str, table: &str) -> Option<String> {
    let heading = table.lines().next()?;
    let begin = document.find(&format!("\n{heading}\n"))? + 1;
    let rows = document[begin..]
        .lines()
        .take_while(|line| line.starts_with('|'));
    let end = begin + rows.map(|row| row.len() + 1).sum::<usize>();
    let rest = document.get(end..).unwrap_or_default();
    Some([&document[..begin], table, rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_the_one_with_its_heading() {
        let document = "text\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n| c |\n|---|\n| 3 |\n";
        let table = "| a | b |\n|---|---|\n| 4 | 5 |\n| 6 | 7 |\n";
        let written = with_table(document, table).unwrap();
        assert_eq!(written, format!("text\n\n{table}\n| c |\n|---|\n| 3 |\n"));
        assert_eq!(with_table(&written, table).unwrap(), written);
        // At the document's end.
        let last = "| c |\n|---|\n";
        assert!(
            with_table(document, last)
                .unwrap()
                .ends_with("\n\n| c |\n|---|\n")
        );
        assert_eq!(with_table(document, "| d |\n|---|\n"), None);
    }
}
