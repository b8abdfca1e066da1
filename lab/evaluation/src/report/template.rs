//! What the pages have in common: their style, how they are made from a template, and the sign of a verdict.
//!
//! A template escapes everything that comes from the evidence; only charts, which escape their own texts, and `prose` are
//! inserted as markup. Left out: what is on a page ([`super::html`], [`super::history`]).

use anyhow::Context;
use chrono::{DateTime, Utc};
use minijinja::{
    Environment, UndefinedBehavior,
    value::{Serde, Value},
};
use serde::Serialize;

use crate::measurement::Outcome;

/// The style of every page.
pub(super) const STYLE: &str = include_str!("style.css");
/// The largest size of a page, so that it can be sent around.
const MAX_BYTES: usize = 1_900_000;

/// Renders a page with as much on it as is small enough: `of` makes one that has at most so many of everything.
pub(super) fn render<T: Serialize>(
    name: &str,
    template: &str,
    most: usize,
    of: impl Fn(usize) -> T,
) -> anyhow::Result<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_filter("prose", prose);
    environment.add_global("style", STYLE);
    environment
        .add_template(name, template)
        .with_context(|| format!("the template {name}"))?;
    let template = environment.get_template(name)?;
    let mut drawn = most;
    loop {
        let page = template
            .render(Serde(&of(drawn)))
            .context("failed to make the page")?;
        if page.len() <= MAX_BYTES || drawn <= 1 {
            return Ok(page);
        }
        drawn /= 2;
    }
}

/// Text as markup, in which only `backticks` have a meaning: code.
fn prose(text: &str) -> Value {
    let escaped = escape(text);
    let parts: Vec<&str> = escaped.split('`').collect();
    // As many closing ones as opening ones, or they are just characters.
    if parts.len().is_multiple_of(2) {
        return Value::from_safe_string(escaped);
    }
    let mut html = String::with_capacity(escaped.len());
    for (number, part) in parts.into_iter().enumerate() {
        if number % 2 == 1 {
            html.push_str("<code>");
            html.push_str(part);
            html.push_str("</code>");
        } else {
            html.push_str(part);
        }
    }
    Value::from_safe_string(html)
}

/// Text in the content of an element or between the double quotes of an attribute.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// A verdict's sign, word and colour.
#[derive(Debug, Serialize)]
pub(super) struct Badge {
    class: &'static str,
    mark: &'static str,
    word: &'static str,
}

impl Badge {
    pub(super) fn of(outcome: Outcome) -> Self {
        Self {
            class: class(outcome),
            mark: outcome.mark(),
            word: outcome.word(),
        }
    }
}

/// A verdict's name in the style.
pub(super) fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Upheld => "upheld",
        Outcome::Refuted => "refuted",
        Outcome::Inconclusive => "inconclusive",
        Outcome::NotJudged => "not-judged",
    }
}

/// A time to the minute.
pub(super) fn minute(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}
