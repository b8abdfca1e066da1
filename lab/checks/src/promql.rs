//! Which metrics a PromQL query names, and whether it has a fallback, without Prometheus: by brackets, quotes and
//! words.
//!
//! Left out: whether it is PromQL at all, which promtool checks.

use std::collections::BTreeSet;

/// The query without its fallback, an `or vector(0)` or the like, which answers while nothing has happened; `None` for
/// a query without one.
pub fn without_fallback(expr: &str) -> Option<&str> {
    let mut depth = 0_i32;
    let mut quoted = false;
    let mut last_or = None;
    for (at, c) in expr.char_indices() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '{' | '[' => depth += 1,
            ')' | '}' | ']' => depth -= 1,
            'o' if depth == 0 && expr[at..].starts_with("or ") && expr[..at].ends_with(' ') => {
                last_or = Some(at);
            }
            _ => {}
        }
    }
    let (before, fallback) = expr.split_at(last_or?);
    fallback.contains("vector(0)").then(|| before.trim())
}

/// The metrics that a PromQL query is about: the names that are neither functions, nor words of the language, nor
/// labels.
pub fn metrics(expr: &str) -> BTreeSet<&str> {
    const WORDS: [&str; 7] = ["and", "bool", "offset", "on", "or", "unless", "atan2"];
    const LABELS_FOLLOW: [&str; 6] = [
        "by",
        "group_left",
        "group_right",
        "ignoring",
        "on",
        "without",
    ];
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut metrics = BTreeSet::new();
    let mut rest = expr;
    while let Some(c) = rest.chars().next() {
        let end = match c {
            '"' => rest[1..].find('"').map(|end| end + 2),
            '{' => behind_braces(rest),
            '[' => rest.find(']').map(|end| end + 1),
            c if is_name(c) => Some(rest.find(|c| !is_name(c)).unwrap_or(rest.len())),
            c => Some(c.len_utf8()),
        };
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.trim_start();
        if !is_name(c) || c.is_ascii_digit() {
            continue;
        }
        if LABELS_FOLLOW.contains(&word) && rest.starts_with('(') {
            rest = rest.split_once(')').map_or("", |(_, after)| after);
            continue;
        }
        let next = rest.split(|c| !is_name(c)).next().unwrap_or_default();
        let is_function = rest.starts_with('(') || matches!(next, "by" | "without");
        if !is_function && !WORDS.contains(&word) && !LABELS_FOLLOW.contains(&word) {
            metrics.insert(word);
        }
    }
    metrics
}

/// Where the label matchers at the beginning of this text end.
fn behind_braces(text: &str) -> Option<usize> {
    let mut quoted = false;
    let mut ends = text.char_indices().filter(|(_, c)| {
        quoted ^= *c == '"';
        *c == '}' && !quoted
    });
    ends.next().map(|(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fallback_is_told_from_the_question() {
        let asked = [
            ("sum(a) or vector(0)", Some("sum(a)")),
            (
                r#"a{b="x or y"} or on() label_replace(vector(0), "b", "none", "", "")"#,
                Some(r#"a{b="x or y"}"#),
            ),
            ("sum(a or vector(0))", None),
            ("a or b", None),
            ("a", None),
        ];
        for (expr, before) in asked {
            assert_eq!(without_fallback(expr), before, "{expr}");
        }
    }

    #[test]
    fn the_metrics_of_a_query_are_found() {
        let cases: [(&str, &[&str]); 6] = [
            ("up", &["up"]),
            (
                r#"sum by (code) (rate(a:b_total{code=~"5..", x="}"}[5m])) / on(job) group_left(y) c > 0.5"#,
                &["a:b_total", "c"],
            ),
            (
                "histogram_quantile(0.99, sum(rate(d_bucket[1m])) by (le)) >= 0",
                &["d_bucket"],
            ),
            (
                r#"label_replace(e, "a", "b", "c", "d") or on() vector(0) unless f offset 5m"#,
                &["e", "f"],
            ),
            (r#"{__name__="g"}"#, &[]),
            ("time() - h", &["h"]),
        ];
        for (expr, expected) in cases {
            let found: Vec<&str> = metrics(expr).into_iter().collect();
            assert_eq!(found, expected, "{expr}");
        }
    }
}
