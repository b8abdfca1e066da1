//! Facts about the parts of a system, and where two lists of them differ.
//!
//! Left out: where facts come from ([`crate::compose`], [`crate::kubernetes`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use regex::Regex;

/// What a description says, by part and subject: `("user-service", "environment BCRYPT_COST")` → `12`.
pub type Facts = BTreeMap<(String, String), String>;

/// A difference that is meant. Both values are stated, so that a change of either is noticed.
#[derive(Debug, Clone, Copy)]
pub struct Meant {
    /// The parts that it applies to.
    pub parts: &'static [&'static str],
    /// The facts' subject.
    pub subject: &'static str,
    /// What compose.yaml has.
    pub compose: Option<&'static str>,
    /// What the manifests have.
    pub kubernetes: Option<&'static str>,
    /// Why they differ.
    pub reason: &'static str,
}

/// A value is shown up to this many characters: a file's contents are a value, too.
const SHOWN: usize = 60;

/// The addresses in variables and configuration files, as pairs of host and port.
pub fn addresses(facts: &Facts) -> BTreeSet<(String, String)> {
    let texts = facts.iter().filter(|((_, subject), _)| {
        subject.starts_with("environment ") || subject.starts_with("file ")
    });
    texts.flat_map(|(_, text)| addresses_in(text)).collect()
}

/// The same in one text.
pub fn addresses_in(text: &str) -> BTreeSet<(String, String)> {
    let found = ADDRESS.captures_iter(text);
    found
        .map(|found| (found[1].to_owned(), found[2].to_owned()))
        .collect()
}

static ADDRESS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\b([a-z][a-z-]*):(\d{2,5})\b").expect("a regular expression"));

/// The differences that aren't meant, and the meant ones that there are not, in words.
pub fn differences(compose: &Facts, kubernetes: &Facts, meant: &[Meant]) -> Vec<String> {
    let expected: BTreeMap<(&str, &str), &Meant> = meant
        .iter()
        .flat_map(|meant| {
            meant
                .parts
                .iter()
                .map(move |part| ((*part, meant.subject), meant))
        })
        .collect();
    let of_facts = compose.keys().chain(kubernetes.keys());
    let subjects: BTreeSet<(&str, &str)> = of_facts
        .map(|(part, subject)| (part.as_str(), subject.as_str()))
        .chain(expected.keys().copied())
        .collect();
    let mut found = Vec::new();
    for (part, subject) in subjects {
        let key = (part.to_owned(), subject.to_owned());
        let values = [compose, kubernetes].map(|facts| facts.get(&key).map(String::as_str));
        let stated = expected
            .get(&(part, subject))
            .map(|meant| [meant.compose, meant.kubernetes]);
        let [in_compose, in_kubernetes] = values.map(shown);
        match stated {
            Some(stated) if stated == values => {}
            None if values[0] == values[1] => {}
            Some(_) => found.push(format!(
                "{part}: {subject}: {in_compose} in compose.yaml and {in_kubernetes} in deploy/kubernetes isn't the \
                 difference that is meant"
            )),
            None => found.push(format!(
                "{part}: {subject}: {in_compose} in compose.yaml, {in_kubernetes} in deploy/kubernetes"
            )),
        }
    }
    found
}

fn shown(value: Option<&str>) -> String {
    let Some(value) = value else {
        return "nothing".to_owned();
    };
    let start: String = value.chars().take(SHOWN).collect();
    let more = if start == value { "" } else { "…" };
    format!("{start:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(values: &[(&str, &str)]) -> Facts {
        let fact = |(subject, value): &(&str, &str)| {
            (("a".to_owned(), (*subject).to_owned()), (*value).to_owned())
        };
        values.iter().map(fact).collect()
    }

    const MEANT: Meant = Meant {
        parts: &["a"],
        subject: "x",
        compose: Some("1"),
        kubernetes: Some("2"),
        reason: "a test",
    };

    #[test]
    fn a_difference_is_named_with_both_values() {
        let found = differences(
            &facts(&[("x", "1"), ("y", "1")]),
            &facts(&[("x", "2")]),
            &[],
        );
        assert_eq!(
            found,
            [
                "a: x: \"1\" in compose.yaml, \"2\" in deploy/kubernetes",
                "a: y: \"1\" in compose.yaml, nothing in deploy/kubernetes"
            ]
        );
    }

    #[test]
    fn a_meant_difference_is_none_and_its_absence_is_one() {
        let found = |compose, kubernetes| {
            let (compose, kubernetes) = (facts(&[("x", compose)]), facts(&[("x", kubernetes)]));
            differences(&compose, &kubernetes, &[MEANT]).len()
        };
        assert_eq!(found("1", "2"), 0);
        assert_eq!(
            [found("1", "1"), found("2", "2"), found("1", "3")],
            [1, 1, 1]
        );
    }
}
