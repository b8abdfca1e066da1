//! Checks the structure of a LogQL query without Loki: brackets and quotes are closed, stream selectors have a matcher
//! that selects, and pipeline stages exist.
//!
//! Left out: types. Loki may still refuse a query that passes here. Source:
//! <https://grafana.com/docs/loki/latest/query/>.

/// Stages after `|`, other than label filters.
const STAGES: [&str; 11] = [
    "decolorize",
    "drop",
    "json",
    "keep",
    "label_format",
    "line_format",
    "logfmt",
    "pattern",
    "regexp",
    "unpack",
    "unwrap",
];

/// Filters of lines: what they are compared with follows as a string.
const LINE_FILTERS: [&str; 6] = ["|=", "|~", "|>", "!=", "!~", "!>"];

/// Of matchers and label filters; the longer ones first.
const COMPARISONS: [&str; 9] = ["=~", "!~", "!=", ">=", "<=", "==", "=", ">", "<"];

/// The query's first defect, in a sentence; `None` when there is none.
pub fn defect(query: &str) -> Option<String> {
    Reader { rest: query }.query().err()
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    /// Walks over everything; looks closely only at selectors and the pipelines behind them.
    fn query(mut self) -> Result<(), String> {
        let mut open: Vec<char> = Vec::new();
        let mut selectors = 0;
        loop {
            self.skip_space();
            let Some(c) = self.rest.chars().next() else {
                break;
            };
            match c {
                '{' => {
                    self.selector()?;
                    self.pipeline()?;
                    selectors += 1;
                }
                '(' | '[' => {
                    open.push(c);
                    self.advance(1);
                }
                ')' | ']' => {
                    let matching = if c == ')' { '(' } else { '[' };
                    if open.pop() != Some(matching) {
                        return Err(format!("`{c}` closes nothing"));
                    }
                    self.advance(1);
                }
                '}' => return Err("`}` closes nothing".to_owned()),
                '"' | '`' => {
                    self.string()?;
                }
                '|' => {
                    return Err(format!(
                        "a pipeline without a stream selector: `{}`",
                        self.shown()
                    ));
                }
                _ => self.advance(c.len_utf8()),
            }
        }
        match open.pop() {
            Some(c) => Err(format!("`{c}` is never closed")),
            None if selectors == 0 => Err("there is no stream selector".to_owned()),
            None => Ok(()),
        }
    }

    /// `{name="value", …}`.
    fn selector(&mut self) -> Result<(), String> {
        self.advance(1);
        let mut selects = false;
        loop {
            self.skip_space();
            if self.take("}") {
                break;
            }
            let name = self
                .word()
                .ok_or_else(|| format!("expected a label at `{}`", self.shown()))?;
            self.skip_space();
            let comparison = self.comparison(&["=~", "!~", "!=", "="]);
            let comparison = comparison
                .ok_or_else(|| format!("`{name}` is compared by none of =, !=, =~, !~"))?;
            self.skip_space();
            let value = self.string()?;
            // Loki refuses a selector that would take every stream there is.
            selects |= match comparison {
                "=" => !value.is_empty(),
                "=~" => !["", ".*"].contains(&value),
                _ => false,
            };
            self.skip_space();
            if !self.take(",") && !self.rest.starts_with('}') {
                return Err(format!("expected `,` or `}}` at `{}`", self.shown()));
            }
        }
        if selects {
            Ok(())
        } else {
            Err("a stream selector needs a matcher that doesn't fit everything".to_owned())
        }
    }

    /// Line filters, stages and label filters, as many as there are.
    fn pipeline(&mut self) -> Result<(), String> {
        loop {
            self.skip_space();
            if let Some(filter) = LINE_FILTERS
                .iter()
                .find(|filter| self.rest.starts_with(**filter))
            {
                self.advance(filter.len());
                self.skip_space();
                self.string()
                    .map_err(|why| format!("the line filter `{filter}` needs a string: {why}"))?;
                // Alternatives: `|= "a" or "b"`.
                self.skip_space();
                while self.rest.starts_with("or ") {
                    self.advance(3);
                    self.skip_space();
                    self.string()?;
                    self.skip_space();
                }
            } else if self.take("|") {
                self.skip_space();
                self.stage()?;
            } else {
                return Ok(());
            }
        }
    }

    /// What follows a `|`: a known stage with whatever it takes, or a label filter.
    fn stage(&mut self) -> Result<(), String> {
        let grouped = self.rest.starts_with('(');
        if grouped {
            self.advance(1);
            self.skip_space();
        }
        let name = self
            .word()
            .ok_or_else(|| format!("expected a stage at `{}`", self.shown()))?;
        self.skip_space();
        if self.comparison(&COMPARISONS).is_none() && (grouped || !STAGES.contains(&name)) {
            return Err(format!("there is no stage `{name}`"));
        }
        self.arguments(grouped)
    }

    /// Up to where the next stage begins or the pipeline ends; what is quoted may hold anything.
    fn arguments(&mut self, grouped: bool) -> Result<(), String> {
        let mut depth = u32::from(grouped);
        loop {
            self.skip_space();
            let Some(c) = self.rest.chars().next() else {
                return if depth == 0 {
                    Ok(())
                } else {
                    Err("`(` is never closed".to_owned())
                };
            };
            match c {
                '"' | '`' => {
                    self.string()?;
                    continue;
                }
                '(' => depth += 1,
                ')' if depth == 0 => return Ok(()),
                ')' => depth -= 1,
                '|' | '[' if depth == 0 => return Ok(()),
                '{' | '}' => return Err(format!("`{c}` has no place in a pipeline")),
                _ => {}
            }
            self.advance(c.len_utf8());
        }
    }

    fn comparison(&mut self, among: &[&'static str]) -> Option<&'static str> {
        let found = among.iter().find(|known| self.rest.starts_with(**known))?;
        self.advance(found.len());
        Some(found)
    }

    /// A quoted string; its content as written.
    fn string(&mut self) -> Result<&'a str, String> {
        let quote = self.rest.chars().next().filter(|c| ['"', '`'].contains(c));
        let quote = quote.ok_or_else(|| format!("expected a string at `{}`", self.shown()))?;
        let mut escaped = false;
        for (at, c) in self.rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' if quote == '"' => escaped = true,
                _ if c == quote => {
                    let content = &self.rest[1..at];
                    self.advance(at + 1);
                    return Ok(content);
                }
                _ => {}
            }
        }
        Err(format!("a string has no end: `{}`", self.shown()))
    }

    fn word(&mut self) -> Option<&'a str> {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    fn take(&mut self, text: &str) -> bool {
        let taken = self.rest.strip_prefix(text);
        self.rest = taken.unwrap_or(self.rest);
        taken.is_some()
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn advance(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn shown(&self) -> String {
        self.rest.chars().take(20).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_queries_pass() {
        for query in [
            r#"{service="order-service"}"#,
            r#"{service=~".+", level=~"warn|error"}"#,
            r#"{ service = "a" , level != "debug" } |= "x" or "y" | json | trace_id = "abc" | line_format "{{.message}} | }""#,
            r#"{a="b"} |~ `\d+{2}` != "}" | logfmt | (status >= 500 or took > 10s) and level="error""#,
            r#"sum by (service) (count_over_time({service=~"a|b"} | json | level="ERROR" [5m])) > 0"#,
            r#"topk(3, sum(rate({a="b"} | unwrap took [1m])) by (service)) / sum(rate({a="b"}[1m]))"#,
            r#"{a="b"} | label_format x="{{.y}}", z=w | drop x, y | keep z"#,
            r#"{a="\"}{"}"#,
        ] {
            assert_eq!(defect(query), None, "{query}");
        }
    }

    #[test]
    fn what_loki_would_refuse_is_named() {
        for (query, expected) in [
            ("", "no stream selector"),
            ("sum(rate(x[1m]))", "no stream selector"),
            ("{}", "matcher"),
            (r#"{a=~".*"}"#, "matcher"),
            (r#"{a!="b"}"#, "matcher"),
            (r#"{a="b""#, "expected `,` or `}`"),
            (r#"{a="b" c="d"}"#, "expected `,` or `}`"),
            (r#"{a="b}"#, "no end"),
            (r#"{a=b}"#, "expected a string"),
            (r#"{a>"b"}"#, "compared by none"),
            (r#"{="b"}"#, "expected a label"),
            (r#"{a="b"} | jsn"#, "no stage `jsn`"),
            (r#"{a="b"} | json | | x="y""#, "expected a stage"),
            (r#"{a="b"} |= x"#, "line filter"),
            (r#"{a="b"} | (x = 1"#, "never closed"),
            (r#"{a="b"} | json } "#, "no place"),
            (r#"sum(rate({a="b"}[1m])"#, "never closed"),
            (r#"rate({a="b"}[1m]))"#, "closes nothing"),
            (r#"rate({a="b"}[1m)"#, "closes nothing"),
            (r#"{a="b"}}"#, "closes nothing"),
            (r#"| json"#, "without a stream selector"),
        ] {
            let found = defect(query).unwrap_or_default();
            assert!(found.contains(expected), "{query}: {found}");
        }
    }
}
