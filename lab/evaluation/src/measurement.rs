//! The measurements of an experiment's arms, and the outcomes that an experiment can have.
//!
//! Left out: how an outcome follows from measurements ([`crate::verdict`]).

use records::evaluation::Arm;
use serde::{Deserialize, Serialize};

/// The outcome of a trial, or of an experiment over its repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The claim held, and without the pattern the harm was observed.
    Upheld,
    /// The claim did not hold.
    Refuted,
    /// The evidence decides nothing.
    Inconclusive,
    /// Nothing was to be decided: of a magnitude claim one pair of runs was shown, or one run of several is a part of it.
    NotJudged,
}

impl Outcome {
    /// Every value.
    pub const ALL: [Self; 4] = [
        Self::Upheld,
        Self::Refuted,
        Self::Inconclusive,
        Self::NotJudged,
    ];

    /// A single character for tables.
    pub fn mark(self) -> &'static str {
        match self {
            Self::Upheld => "✓",
            Self::Refuted => "✗",
            Self::Inconclusive => "?",
            Self::NotJudged => "·",
        }
    }

    /// The outcome in words.
    pub fn word(self) -> &'static str {
        match self {
            Self::Upheld => "upheld",
            Self::Refuted => "refuted",
            Self::Inconclusive => "inconclusive",
            Self::NotJudged => "not judged",
        }
    }

    /// Over several: one refutation refutes, and only unanimity upholds. What wasn't judged has no part in it; without
    /// anything else nothing was judged.
    pub fn over(outcomes: impl IntoIterator<Item = Self>) -> Self {
        let outcomes: Vec<Self> = outcomes.into_iter().collect();
        if outcomes.contains(&Self::Refuted) {
            Self::Refuted
        } else if outcomes.is_empty() || outcomes.contains(&Self::Inconclusive) {
            Self::Inconclusive
        } else if outcomes.contains(&Self::Upheld) {
            Self::Upheld
        } else {
            Self::NotJudged
        }
    }
}

/// One quantity over all arms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// The measurement's name, e.g. `orders lost`.
    pub name: String,
    /// The unit: `ms`, `/s`, `%`, …; empty for counts.
    pub unit: String,
    /// Whether a smaller value is better, a larger one, or neither.
    pub better: Better,
    /// Whether the verdict rests on it; the others are its context.
    pub decisive: bool,
    /// The values, in the order of the arms.
    pub values: Vec<Value>,
}

/// Which direction of a measurement is the good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Less is better.
    Less,
    /// More is better.
    More,
    /// Neither; it is context.
    Neither,
}

/// A measurement's value in one arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    /// The arm's name.
    pub arm: String,
    /// The value; `None` where it could not be measured.
    pub value: Option<f64>,
}

impl Measurement {
    /// Measures a quantity in every arm.
    pub fn of(
        name: &str,
        unit: &str,
        better: Better,
        arms: &[Arm],
        measure: impl Fn(&Arm) -> Option<f64>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            better,
            decisive: false,
            values: arms
                .iter()
                .map(|arm| Value {
                    arm: arm.name.clone(),
                    value: measure(arm),
                })
                .collect(),
        }
    }

    /// The same quantity as one that the verdict rests on.
    pub fn decisive(self) -> Self {
        Self {
            decisive: true,
            ..self
        }
    }
}
