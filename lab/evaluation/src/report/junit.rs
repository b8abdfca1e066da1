//! A conclusion as JUnit XML, as CI systems read it: a suite for each experiment, a case for each repetition. A refuted
//! claim is a failure; an inconclusive one is an error and not a skip, which many systems show as green.
//!
//! Left out: measurements that no verdict rests on.

use std::fmt::Write;

use records::evaluation::Evaluation;

use super::markdown::harm;
use crate::{
    conclusion::{Conclusion, ExperimentConclusion, TrialVerdict},
    measurement::Outcome,
};

/// The whole document.
pub fn document(evaluation: &Evaluation, conclusion: &Conclusion) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let trials = conclusion.experiments.iter().flat_map(|e| &e.trials);
    let seconds = (conclusion.finished_at - conclusion.started_at).as_seconds_f64();
    let _ = writeln!(
        xml,
        "<testsuites name=\"agora evaluation {}\" {} time=\"{seconds:.3}\">",
        escape(&conclusion.run),
        counts(trials)
    );
    for experiment in &conclusion.experiments {
        suite(&mut xml, evaluation, experiment);
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn suite(xml: &mut String, evaluation: &Evaluation, experiment: &ExperimentConclusion) {
    let seconds = |trial: &TrialVerdict| seconds(evaluation, &experiment.name, trial.repetition);
    let _ = writeln!(
        xml,
        "  <testsuite name=\"{}\" {} time=\"{:.3}\">",
        escape(&experiment.name),
        counts(experiment.trials.iter()),
        experiment.trials.iter().map(seconds).sum::<f64>(),
    );
    for trial in &experiment.trials {
        let _ = writeln!(
            xml,
            "    <testcase classname=\"evaluate.{}\" name=\"{} (repetition {}, seed {})\" time=\"{:.3}\">",
            escape(&experiment.name),
            escape(&experiment.claim),
            trial.repetition,
            trial.seed,
            seconds(trial),
        );
        let tag = match trial.outcome {
            Outcome::Upheld => None,
            Outcome::Refuted => Some("failure"),
            Outcome::Inconclusive => Some("error"),
        };
        match tag {
            Some(tag) => {
                let _ = writeln!(
                    xml,
                    "      <{tag} type=\"{}\" message=\"{}\">Refuted by: {}.</{tag}>",
                    trial.outcome.word(),
                    escape(&trial.reason),
                    escape(&experiment.refuted_by),
                );
            }
            None => {
                let _ = writeln!(
                    xml,
                    "      <system-out>{}</system-out>",
                    escape(&trial.reason)
                );
            }
        }
        xml.push_str("    </testcase>\n");
    }
    let _ = writeln!(
        xml,
        "    <system-out>{}</system-out>",
        escape(&harm(experiment))
    );
    xml.push_str("  </testsuite>\n");
}

fn counts<'a>(trials: impl Iterator<Item = &'a TrialVerdict>) -> String {
    let (mut tests, mut failures, mut errors) = (0, 0, 0);
    for trial in trials {
        tests += 1;
        failures += u32::from(trial.outcome == Outcome::Refuted);
        errors += u32::from(trial.outcome == Outcome::Inconclusive);
    }
    format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"0\"")
}

/// How long a trial's arms took.
fn seconds(evaluation: &Evaluation, experiment: &str, repetition: u32) -> f64 {
    let mut trials = evaluation.trials.iter();
    let trial =
        trials.find(|trial| trial.experiment == experiment && trial.repetition == repetition);
    let arms = trial.into_iter().flat_map(|trial| &trial.arms);
    arms.map(|arm| (arm.finished_at - arm.started_at).as_seconds_f64())
        .sum()
}

/// Text for content and attributes; characters that XML 1.0 can't hold are replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' | '\r' => {
                let _ = write!(escaped, "&#{};", u32::from(character));
            }
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}
