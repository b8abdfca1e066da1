//! The structure of an Alloy configuration, looked at without Alloy: brackets and quotes that close, blocks that are
//! named once, and components that are there when another one refers to them.
//!
//! It doesn't know what a component's arguments are called: that is Alloy's own to say. Source of the syntax:
//! <https://grafana.com/docs/alloy/latest/get-started/configuration-syntax/>.

use std::collections::BTreeSet;

/// Namespaces of components: an expression that begins with one of them refers to a component.
const NAMESPACES: [&str; 5] = ["discovery", "local", "loki", "otelcol", "prometheus"];

/// What is wrong with the configuration, each in a sentence.
pub(crate) fn defects(text: &str) -> Vec<String> {
    let tokens = match tokens(text) {
        Ok(tokens) => tokens,
        Err(why) => return vec![why],
    };
    let mut defects = unbalanced(&tokens);
    let mut defined = BTreeSet::new();
    let mut depth = 0_i32;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Punctuation('{' | '[' | '(') => depth += 1,
            Token::Punctuation('}' | ']' | ')') => depth -= 1,
            // At the top a name begins a block: `loki.write "loki" {`, `logging {`.
            Token::Name(name) if depth == 0 => {
                let label = match tokens.get(at + 1) {
                    Some(Token::Text(label)) => format!(".{label}"),
                    _ => String::new(),
                };
                if !defined.insert(format!("{name}{label}")) {
                    defects.push(format!("there are two blocks `{name}{label}`"));
                }
            }
            _ => {}
        }
    }
    for token in &tokens {
        if let Token::Name(name) = token
            && !defined.contains(*name)
            && let Some(component) = referred(name)
            && !defined.contains(component)
        {
            defects.push(format!(
                "`{name}` refers to `{component}`, which isn't there"
            ));
        }
    }
    defects
}

/// `loki.write.loki` of `loki.write.loki.receiver`; `None` for anything but an export of a component.
fn referred(name: &str) -> Option<&str> {
    let (component, _export) = name.rsplit_once('.')?;
    let namespace = component.split('.').next()?;
    // `loki.write` with its label apart is a block's own name.
    (NAMESPACES.contains(&namespace) && component.matches('.').count() >= 2).then_some(component)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Name(&'a str),
    /// A string's content, as written.
    Text(&'a str),
    Punctuation(char),
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
        } else if rest.starts_with("/*") {
            rest = rest.split_once("*/").ok_or("a comment has no end")?.1;
        } else if c == '"' {
            let end = string_end(rest).ok_or_else(|| {
                format!(
                    "a string has no end: `{}`",
                    rest.lines().next().unwrap_or(rest)
                )
            })?;
            tokens.push(Token::Text(&rest[1..end]));
            rest = &rest[end + 1..];
        } else if c.is_ascii_alphabetic() || c == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_.".contains(c));
            let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
            tokens.push(Token::Name(name));
            rest = after;
        } else {
            tokens.push(Token::Punctuation(c));
            rest = &rest[c.len_utf8()..];
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

/// Where a string that begins the text ends: at a quote that no backslash escapes, on the same line.
fn string_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at),
            _ => {}
        }
    }
    None
}

fn unbalanced(tokens: &[Token<'_>]) -> Vec<String> {
    let mut open = Vec::new();
    for token in tokens {
        let Token::Punctuation(c) = token else {
            continue;
        };
        let opening = match c {
            '{' | '[' | '(' => {
                open.push(*c);
                continue;
            }
            '}' => '{',
            ']' => '[',
            ')' => '(',
            _ => continue,
        };
        if open.pop() != Some(opening) {
            return vec![format!("`{c}` closes nothing")];
        }
    }
    open.pop()
        .map(|c| format!("`{c}` is never closed"))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#"
        // a comment with a { and a "
        logging { level = "warn" }
        discovery.docker "all" { host = "unix:///x" } /* { */
        loki.source.docker "all" {
          targets    = discovery.docker.all.targets
          forward_to = [loki.write.out.receiver]
        }
        loki.write "out" { endpoint { url = "http://x/{\"a\"}" } }
    "#;

    #[test]
    fn the_configuration_of_the_repository_has_no_defects() {
        let text = include_str!("../../observability/alloy/config.alloy");
        assert_eq!(defects(text), [""; 0]);
        assert_eq!(defects(SOUND), [""; 0]);
    }

    #[test]
    fn every_defect_is_named() {
        let broken = |from: &str, to: &str| {
            assert!(SOUND.contains(from), "{from}");
            defects(&SOUND.replacen(from, to, 1)).join("; ")
        };
        for (found, expected) in [
            (
                broken("loki.write.out.receiver", "loki.write.in.receiver"),
                "`loki.write.in`, which isn't there",
            ),
            (
                broken(
                    "discovery.docker.all.targets",
                    "discovery.docker.al.targets",
                ),
                "`discovery.docker.al`",
            ),
            (
                broken("loki.write \"out\"", "discovery.docker \"all\""),
                "two blocks `discovery.docker.all`",
            ),
            (broken("receiver]", "receiver"), "closes nothing"),
            (broken("endpoint {", "endpoint"), "closes nothing"),
            (broken("logging {", "logging { {"), "never closed"),
            (broken("\"warn\"", "\"warn"), "a string has no end"),
            (broken("*/", ""), "a comment has no end"),
        ] {
            assert!(found.contains(expected), "{expected}: {found}");
        }
    }
}
