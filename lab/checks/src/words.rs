//! Retired words: the vocabulary that code, output and documents no longer use, as the list in
//! `docs/reference/retired-words.txt` has it. Identifiers are split into their words first: `old_word`, `OldWord` and
//! `OLD_WORD` are uses of `old word`.
//!
//! Left out: reading files. The caller gives path and text. A phrase that a line break divides isn't found.

use anyhow::Context;
use base::outcome;
use regex_lite::{Regex, RegexBuilder};

/// The list, below the repository's root.
pub const LIST: &str = "docs/reference/retired-words.txt";

/// A retired word.
#[derive(Debug)]
pub struct Retired {
    pattern: Regex,
    /// Prefixes of the paths that it applies to, from the repository's root; `.` is every path.
    paths: Vec<String>,
    /// What to write in its place.
    instead: String,
}

/// Reads a list: each line is a regular expression, path prefixes (divided by spaces) and the replacement, divided by
/// tabs. Empty lines and comments (`#`) are skipped.
///
/// # Errors
/// When a line has another form; the error names its number.
pub fn read(list: &str) -> anyhow::Result<Vec<Retired>> {
    let lines = list.lines().enumerate();
    let entries = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    entries
        .map(|(number, line)| entry(line).with_context(|| format!("{LIST}:{}", number + 1)))
        .collect()
}

fn entry(line: &str) -> anyhow::Result<Retired> {
    let mut parts = line.split('\t').map(str::trim);
    let (Some(pattern), Some(paths), Some(instead), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(outcome::failed(
            "expected three parts with tabs between them",
            "write `pattern<TAB>paths<TAB>what to write instead`",
        ));
    };
    Ok(Retired {
        pattern: RegexBuilder::new(pattern).multi_line(true).build()?,
        paths: paths.split_whitespace().map(str::to_owned).collect(),
        instead: instead.to_owned(),
    })
}

/// Each use of a retired word in a file, as `path:line: word: write … instead`.
pub fn uses(retired: &[Retired], path: &str, text: &str) -> Vec<String> {
    let of_path = retired.iter().filter(|word| {
        let mut paths = word.paths.iter();
        paths.any(|prefix| prefix == "." || path.starts_with(prefix))
    });
    // A search costs more to begin than to go on: most words are nowhere in the file, which one search shows.
    let identifiers = split_identifiers(text);
    let in_file =
        of_path.filter(|word| word.pattern.is_match(text) || word.pattern.is_match(&identifiers));
    let in_file: Vec<&Retired> = in_file.collect();
    if in_file.is_empty() {
        return Vec::new();
    }
    let mut uses = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // What was recorded under an old name is read by it.
        if line.contains("serde(rename") {
            continue;
        }
        let identifiers = split_identifiers(line);
        for word in &in_file {
            let found = word.pattern.find(line);
            if let Some(found) = found.or_else(|| word.pattern.find(&identifiers)) {
                uses.push(format!(
                    "{path}:{}: `{}`: write {} instead",
                    number + 1,
                    found.as_str(),
                    word.instead
                ));
            }
        }
    }
    uses
}

/// The identifiers of several words in a text, each as its words in lower case, on a line of its own.
fn split_identifiers(text: &str) -> String {
    let mut split = String::new();
    for name in text.split(|c: char| !c.is_alphanumeric() && c != '_') {
        let has_words = name.contains('_') || name.chars().skip(1).any(char::is_uppercase);
        if !has_words {
            continue;
        }
        let mut letters = name.chars().peekable();
        let mut last = '_';
        while let Some(letter) = letters.next() {
            // `OldWord` and `HTTPServer`: a capital after a small letter, or before one.
            let begins_word = letter.is_uppercase()
                && (!last.is_uppercase() || letters.peek().is_some_and(|next| next.is_lowercase()));
            if begins_word && last != '_' {
                split.push(' ');
            }
            match letter {
                '_' => split.push(' '),
                _ => split.extend(letter.to_lowercase()),
            }
            last = letter;
        }
        split.push('\n');
    }
    split
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = "# a comment\n\n\\bwhilst\\b\tlab/ docs/\teffect\n";

    #[test]
    fn a_retired_word_is_found_where_it_applies_and_nowhere_else() {
        let words = read(WORDS).unwrap();
        assert_eq!(
            uses(&words, "lab/a.rs", "fine\nno whilst\n"),
            ["lab/a.rs:2: `whilst`: write effect instead"]
        );
        assert!(uses(&words, "lab/a.rs", "whilstly").is_empty());
        assert!(uses(&words, "xtask/a.rs", "whilst").is_empty());
        assert!(uses(&words, "lab/a.rs", "#[serde(rename = \"whilst\")]").is_empty());
    }

    #[test]
    fn a_retired_word_is_found_in_every_spelling_of_an_identifier() {
        let words = read("\\b[Oo]ld word\\b\t.\tnew\n").unwrap();
        for found in [
            "an.old_word = 1",
            "OldWord {",
            "const AN_OLD_WORD: u8",
            "anOldWord(1)",
            "HTTPOldWord",
            "fn it_is_old_word_by_word() {",
        ] {
            let uses = uses(&words, "lab/a.rs", found);
            assert_eq!(
                uses,
                ["lab/a.rs:1: `old word`: write new instead"],
                "{found}"
            );
        }
        for fine in [
            "old wordy",
            "cold_word",
            "old_words",
            "old, word",
            "Old(Word)",
        ] {
            assert!(uses(&words, "lab/a.rs", fine).is_empty(), "{fine}");
        }
    }

    #[test]
    fn a_line_of_another_form_is_refused_by_its_number() {
        for wrong in ["whilst\tlab/", "(\tlab/\teffect"] {
            let error = read(&format!("# a comment\n{wrong}")).unwrap_err();
            assert!(
                format!("{error:#}").contains("retired-words.txt:2"),
                "{error:#}"
            );
        }
    }
}
