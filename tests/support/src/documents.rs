//! Tables in the documents, and files, that are generated from the code: a test holds each against what is there, or writes it.
//!
//! Left out: what is in a table; the crate that declares the facts builds it.

use std::{
    env, fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

use crate::sources;

/// With this variable set, tests write the tables instead of comparing them.
const WRITE: &str = "AGORA_TEST_WRITE_DOCUMENTS";

/// One test at a time has a page: a page has several tables, and the tests of one program are threads of it.
static PAGES: Mutex<()> = Mutex::new(());

/// Compares a table in Markdown with the one in a page (a path from the repository's root) that has the same heading, its
/// first line; or writes it there.
///
/// # Panics
/// When the tables differ, or the page has none with this heading.
#[track_caller]
pub fn expect_table(page: &str, table: &str) {
    expect(page, None, table);
}

/// The same for one of several tables with this heading: the one in the section below a line such as `### Operate`.
///
/// # Panics
/// As [`expect_table`] does, also without such a section.
#[track_caller]
pub fn expect_table_below(page: &str, section: &str, table: &str) {
    expect(page, Some(section), table);
}

/// Compares a file (a path from the repository's root) that is generated as a whole; or writes it.
///
/// # Panics
/// When the file has another text.
#[track_caller]
pub fn expect_file(file: &str, text: &str) {
    let path = sources::root().join(file);
    if env::var_os(WRITE).is_some() {
        fs::write(&path, text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found, text,
        "{file} isn't what the code says; `{WRITE}=1 cargo test --workspace --lib --bins the_reference_has` writes it anew"
    );
}

#[track_caller]
fn expect(page: &str, section: Option<&str>, table: &str) {
    let path = sources::root().join(page);
    let write = env::var_os(WRITE).is_some();
    let Some(differing) = compare_or_write(&path, section, table, write) else {
        return;
    };
    panic!(
        "{page} isn't what the code says (first difference: {differing:?}); `{WRITE}=1 cargo test --workspace --lib --bins the_reference_has` writes it anew"
    );
}

/// The first line that differs from the page's; none once it is written.
#[track_caller]
fn compare_or_write(
    page: &Path,
    section: Option<&str>,
    table: &str,
    write: bool,
) -> Option<String> {
    let name = page.display();
    // What another test found in a page is no reason to leave this one out.
    let _alone = PAGES.lock().unwrap_or_else(PoisonError::into_inner);
    let document = fs::read_to_string(page).unwrap_or_else(|error| panic!("{name}: {error}"));
    let written = with_table(&document, section, table).unwrap_or_else(|| {
        let section = section.unwrap_or("the page");
        panic!("{name} has no table with this heading in {section}: {table}")
    });
    if written == document {
        return None;
    }
    if write {
        fs::write(page, written).unwrap_or_else(|error| panic!("{name}: {error}"));
        return None;
    }
    let differing = written.lines().find(|line| !document.contains(line));
    Some(differing.unwrap_or("a line that is gone").to_owned())
}

/// The document with this table in place of the one with the same heading, in a section or anywhere.
fn with_table(document: &str, section: Option<&str>, table: &str) -> Option<String> {
    let heading = table.lines().next()?;
    let (from, to) = match section {
        None => (0, document.len()),
        Some(section) => {
            let from = document.find(&format!("\n{section}\n"))? + 1 + section.len();
            let next = document[from..].find("\n#");
            (from, next.map_or(document.len(), |next| from + next))
        }
    };
    let begin = from + document[from..to].find(&format!("\n{heading}\n"))? + 1;
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
    fn of_tables_with_one_heading_the_sections_is_written() {
        let document = "# Page\n\n## One\n\n| a |\n|---|\n| 1 |\n\n## Two\n\n| a |\n|---|\n| 2 |\n\n## Three\n";
        let table = "| a |\n|---|\n| 3 |\n";
        let written = with_table(document, Some("## Two"), table).unwrap();
        assert_eq!(written, document.replace("| 2 |", "| 3 |"));
        for without in ["## Three", "## Four"] {
            assert_eq!(with_table(document, Some(without), table), None);
        }
    }

    #[test]
    fn tables_of_one_page_are_written_side_by_side() {
        const TABLES: usize = 8;
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("page.md");
        let table = |index, row| format!("| {index} |\n|---|\n| {row} |\n");
        let document = |row| -> String {
            let tables = (0..TABLES).map(|index| table(index, row));
            tables.map(|table| format!("\n{table}")).collect()
        };
        for round in 0..20 {
            fs::write(&page, document("before")).unwrap();
            std::thread::scope(|scope| {
                for index in 0..TABLES {
                    let (page, table) = (&page, table(index, "after"));
                    scope.spawn(move || compare_or_write(page, None, &table, true));
                }
            });
            let written = fs::read_to_string(&page).unwrap();
            assert_eq!(written, document("after"), "round {round}");
        }
        let differing = compare_or_write(&page, None, &table(0, "new"), false);
        assert_eq!(differing.as_deref(), Some("| new |"));
        let same = compare_or_write(&page, None, &table(0, "after"), false);
        assert_eq!(same, None);
    }

    #[test]
    fn a_table_takes_the_place_of_the_one_with_its_heading() {
        let document = "text\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n| c |\n|---|\n| 3 |\n";
        let table = "| a | b |\n|---|---|\n| 4 | 5 |\n| 6 | 7 |\n";
        let with_table = |document, table| with_table(document, None, table);
        let written = with_table(document, table).unwrap();
        assert_eq!(written, format!("text\n\n{table}\n| c |\n|---|\n| 3 |\n"));
        assert_eq!(with_table(written.as_str(), table).unwrap(), written);
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
