//! Retired words: the vocabulary that code, output and documents no longer use, as the list in
//! `docs/reference/retired-words.txt` has it.
//!
//! Left out: reading files. The caller gives path and text. A phrase that a line break divides isn't found.

use anyhow::Context;
use base::outcome;
use regex_lite::Regex;

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
        pattern: Regex::new(pattern)?,
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
    let of_path: Vec<&Retired> = of_path.collect();
    let mut uses = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // What was recorded under an old name is read by it.
        if line.contains("serde(rename") {
            continue;
        }
        for word in &of_path {
            if let Some(found) = word.pattern.find(line) {
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
