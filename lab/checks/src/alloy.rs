//! Checks the structure of an Alloy configuration without Alloy: brackets and quotes are closed, a block's name is
//! unique, and a component exists that another one refers to.
//!
//! Left out: the names and types of a component's arguments, which only Alloy knows. Source of the syntax:
//! <https://grafana.com/docs/alloy/latest/get-started/configuration-syntax/>.

use std::collections::BTreeSet;

/// Namespaces of components: an expression that begins with one of them refers to a component.
const NAMESPACES: [&str; 5] = ["discovery", "local", "loki", "otelcol", "prometheus"];

/// The defects of a configuration, a sentence each; empty when there is none.
pub fn defects(text: &str) -> Vec<String> {
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
        let text = include_str!("../../../observability/alloy/config.alloy");
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

    const CONFIGURATION: &str = include_str!("../../../observability/alloy/config.alloy");

    /// What becomes of one line on its way through the stages.
    #[derive(Default)]
    struct Entry<'a> {
        service: &'a str,
        line: &'a str,
        /// What stages took out of the line, for later ones.
        extracted: Option<String>,
        /// The label.
        level: Option<String>,
    }

    /// The tokens between the brackets that open at the first of these, and those behind.
    fn block<'t, 'a>(tokens: &'t [Token<'a>]) -> (&'t [Token<'a>], &'t [Token<'a>]) {
        let mut depth = 0;
        for (at, token) in tokens.iter().enumerate() {
            match token {
                Token::Punctuation('{') => depth += 1,
                Token::Punctuation('}') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return (&tokens[1..at], &tokens[at + 1..]);
            }
        }
        panic!("a block has no end");
    }

    /// The text that stands behind `name =`, if it does.
    fn assigned(tokens: &[Token<'_>], name: &str) -> Option<String> {
        let found = tokens.windows(3).find_map(|three| match three {
            [
                Token::Name(found),
                Token::Punctuation('='),
                Token::Text(text),
            ] if *found == name => Some(*text),
            _ => None,
        });
        found.map(|text| text.replace("\\\"", "\"").replace("\\\\", "\\"))
    }

    /// The stages that deal with the level, in the order of the file; any other stage is a failure, as it may do so
    /// too.
    fn run<'a>(mut tokens: &[Token<'_>], entry: &mut Entry<'a>) {
        while let [first, rest @ ..] = tokens {
            let Token::Name(name) = first else {
                tokens = rest;
                continue;
            };
            let Some(stage) = name.strip_prefix("stage.") else {
                tokens = rest;
                continue;
            };
            let (inner, after) = block(rest);
            tokens = after;
            match stage {
                "json" => {
                    let line: Option<serde_json::Value> = serde_json::from_str(entry.line).ok();
                    let level = line.and_then(|line| Some(line["level"].as_str()?.to_owned()));
                    entry.extracted = level.or(entry.extracted.take());
                }
                "logfmt" => {
                    let found = regex("(?:^| )level=([^ ]+)").captures(entry.line);
                    let level = found.map(|found| found[1].to_owned());
                    entry.extracted = level.or(entry.extracted.take());
                }
                "template" => {
                    assert!(
                        assigned(inner, "template")
                            .unwrap()
                            .contains("ToLower .Value")
                    );
                    entry.extracted = entry.extracted.take().map(|level| level.to_lowercase());
                }
                "labels" => {
                    assert_eq!(assigned(inner, "level").as_deref(), Some(""));
                    entry.level = entry.extracted.clone().or(entry.level.take());
                }
                "static_labels" => entry.level = assigned(inner, "level"),
                "match" if selects(&assigned(inner, "selector").unwrap(), entry) => {
                    run(inner, entry);
                }
                "match" | "structured_metadata" => {}
                _ => panic!("what does stage.{stage} make of the level?"),
            }
        }
    }

    /// `{service="postgres"} |~ "expression"`; Loki anchors what labels are compared with.
    fn selects(selector: &str, entry: &Entry<'_>) -> bool {
        assert_eq!(crate::logql::defect(selector), None, "{selector}");
        let form = regex(r#"^\{service=~?"([^"]*)"\}(?: \|~ "([^"\\]*)")?$"#);
        let parts = form.captures(selector).expect(selector);
        regex(&format!("^(?:{})$", &parts[1])).is_match(entry.service)
            && parts
                .get(2)
                .is_none_or(|line| regex(line.as_str()).is_match(entry.line))
    }

    fn regex(expression: &str) -> regex::Regex {
        regex::Regex::new(expression).unwrap()
    }

    fn level(service: &str, line: &str) -> Option<String> {
        let tokens = tokens(CONFIGURATION).unwrap();
        let process = tokens
            .iter()
            .position(|token| *token == Token::Name("loki.process"))
            .unwrap();
        let mut entry = Entry {
            service,
            line,
            ..Entry::default()
        };
        run(block(&tokens[process + 2..]).0, &mut entry);
        entry.level
    }

    /// Lines as the programs wrote them.
    #[test]
    fn every_programs_line_has_a_level() {
        for (service, line, expected) in [
            (
                "order-service",
                r#"{"level":"WARN","message":"event lost"}"#,
                "warn",
            ),
            (
                "traefik",
                r#"{"level":"info","msg":"","RequestMethod":"GET","TraceId":"4bf9"}"#,
                "info",
            ),
            (
                "jaeger",
                r#"{"level":"error","ts":"2026-11-28T20:05:37Z","msg":"no room"}"#,
                "error",
            ),
            (
                "prometheus",
                "ts=2026-11-28T20:05:37.001Z caller=main.go:623 level=warn msg=\"level=error\"",
                "warn",
            ),
            (
                "alertmanager",
                "time=2026-11-28T20:06:23.376Z level=ERROR source=coordinator.go:117 msg=\"Loading failed\"",
                "error",
            ),
            (
                "grafana",
                "logger=settings t=2026-11-28T20:05:37Z level=warn msg=\"deprecated\"",
                "warn",
            ),
            (
                "postgres",
                "2026-11-28 20:05:38.652 UTC [1] LOG:  starting PostgreSQL 17.12 (Debian 17.12-0+deb13u1)",
                "info",
            ),
            (
                "postgres",
                "waiting for server to start....2026-11-28 20:05:38.465 UTC [22] LOG:  starting PostgreSQL 17.12",
                "info",
            ),
            (
                "postgres",
                "waiting for server to start....2026-11-28 20:05:38.465 UTC [22] FATAL:  no room",
                "error",
            ),
            (
                "postgres",
                "2026-11-28 20:05:46.528 UTC [42] ERROR:  relation \"nowhere\" does not exist at character 15",
                "error",
            ),
            (
                "postgres",
                "2026-11-28 20:05:46.528 UTC [42] STATEMENT:  select 'UTC [1] ERROR:  ' from nowhere",
                "info",
            ),
            (
                "postgres",
                "2026-11-28 20:05:46.607 UTC [49] WARNING:  there is already a transaction in progress",
                "warn",
            ),
            (
                "postgres",
                "2026-11-28 20:05:46.705 UTC [56] FATAL:  password authentication failed for user \"postgres\"",
                "error",
            ),
            (
                "postgres",
                "2026-11-28 20:05:46.705 UTC [56] PANIC:  could not write to file",
                "error",
            ),
            ("postgres", "\tb' from nowhere2", "info"),
            (
                "postgres",
                "performing post-bootstrap initialization ... ok",
                "info",
            ),
            (
                "rabbitmq",
                "2026-11-28 20:05:40.450177+00:00 [info] <0.216.0>  Starting RabbitMQ 4.0.5 on Erlang 27.3.4.1 [jit]",
                "info",
            ),
            (
                "rabbitmq",
                "  Starting broker...2026-11-28 20:05:40.451358+00:00 [info] <0.216.0> ",
                "info",
            ),
            (
                "rabbitmq",
                "2026-11-28 20:05:39.903370+00:00 [notice] <0.45.0> Application syslog exited with reason: [error] <x>",
                "info",
            ),
            (
                "rabbitmq",
                "2026-11-28 20:05:41.136840+00:00 [warning] <0.549.0> Message store: rebuilding indices from scratch",
                "warn",
            ),
            (
                "rabbitmq",
                "2026-11-28 20:06:08.791190+00:00 [error] <0.738.0>  two",
                "error",
            ),
            (
                "rabbitmq",
                "2026-11-28 20:06:08.791433+00:00 [critical] <0.738.0> c",
                "error",
            ),
            (
                "rabbitmq",
                "  ##########  Licensed under the MPL 2.0. Website: https://rabbitmq.com",
                "info",
            ),
        ] {
            assert_eq!(
                level(service, line).as_deref(),
                Some(expected),
                "{service}: {line}"
            );
        }
        // What isn't the form that a program writes is given no level that nobody stated.
        assert_eq!(level("order-service", "Error: no such file"), None);
    }

    #[test]
    fn the_labels_that_the_comment_names_are_those_that_are_set() {
        let mut labels = BTreeSet::new();
        let tokens = tokens(CONFIGURATION).unwrap();
        for (at, token) in tokens.iter().enumerate() {
            match token {
                Token::Name("target_label") => {
                    labels.extend(assigned(&tokens[at..at + 3], "target_label"));
                }
                Token::Name("stage.labels" | "stage.static_labels") => {
                    let (inner, _) = block(&tokens[at + 1..]);
                    let names = inner.iter().filter_map(|token| match token {
                        Token::Name(name) if *name != "values" => Some((*name).to_owned()),
                        _ => None,
                    });
                    labels.extend(names);
                }
                _ => {}
            }
        }
        assert_eq!(Vec::from_iter(&labels), ["level", "service"]);
        let comment = CONFIGURATION.lines().next().unwrap();
        assert!(comment.contains("(service, level)"), "{comment}");
    }
}
