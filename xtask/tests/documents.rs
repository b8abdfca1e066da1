//! What people read who know no Rust: the OpenAPI documents and the help texts. Both are made of doc comments, in which a
//! link or a path of rustdoc is right, and out of place there.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;
use support::sources::{root, texts};

/// Whether a text has what only rustdoc understands: a link to code, or a path of Rust.
fn has_rust(text: &str) -> bool {
    let code = text.split('`').skip(1).step_by(2);
    let paths = ["crate", "self", "super"].map(|start| format!("({start}::"));
    // A plain link of Markdown leads to a page or to a heading.
    let links = text.split("](").skip(1);
    text.contains("[`")
        || text.contains("`]")
        || code.into_iter().any(|code| code.contains("::"))
        || paths.iter().any(|path| text.contains(path))
        || links
            .into_iter()
            .any(|to| !["http", "/", "#"].iter().any(|start| to.starts_with(start)))
}

/// All that a document says in words, each with where it is.
fn prose(value: &Value, place: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let place = format!("{place}/{name}");
                match value.as_str() {
                    Some(text) if ["summary", "description", "title"].contains(&name.as_str()) => {
                        found.push((place, text.to_owned()));
                    }
                    _ => prose(value, &place, found),
                }
            }
        }
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                prose(item, &format!("{place}/{number}"), found);
            }
        }
        _ => {}
    }
}

/// A command's help, and below it those of its subcommands.
fn help(command: &[String], found: &mut Vec<(String, String)>) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(command)
        .arg("--help")
        .output()
        .expect("xtask runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let listed = text
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    // A description may go on in the next line, further to the right.
    let names: BTreeSet<String> = listed
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect();
    found.push((format!("xtask {} --help", command.join(" ")), text));
    for name in names {
        help(&[command, &[name]].concat(), found);
    }
}

#[test]
fn the_openapi_documents_have_no_rust_in_them() {
    let mut said = Vec::new();
    for (path, text) in texts(&root().join("docs/openapi"), "json") {
        let document: Value = serde_json::from_str(&text).expect("a document");
        prose(&document, &path.display().to_string(), &mut said);
    }
    assert!(said.len() > 50, "{said:#?}");
    said.retain(|(_, text)| has_rust(text));
    assert!(said.is_empty(), "{said:#?}");
}

#[test]
fn the_help_texts_have_no_rust_in_them() {
    let mut said = Vec::new();
    help(&[], &mut said);
    assert!(said.len() > 40, "{}", said.len());
    said.retain(|(_, text)| has_rust(text));
    assert!(said.is_empty(), "{said:#?}");
}

#[test]
fn rust_is_told_from_prose() {
    for text in [
        "within [`EFFECTIVE_WITHIN`](crate::revocations::EFFECTIVE_WITHIN).",
        "see [`Order`]",
        "see [the order](super::Order)",
        "an `Option::None`",
        "see [orders](Order)",
    ] {
        assert!(has_rust(text), "{text}");
    }
    for text in [
        "`price_as_of`, at most `CATALOG_MAX_STALE_SECONDS` ago",
        "see [the standard](https://www.rfc-editor.org/rfc/rfc9457) [default: 10]",
        "ratios such as 1:2",
    ] {
        assert!(!has_rust(text), "{text}");
    }
}
