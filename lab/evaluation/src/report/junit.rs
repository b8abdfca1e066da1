//! A conclusion as JUnit XML, as CI systems read it: a suite for each experiment, a case for each repetition. A refuted
//! claim is a failure; an inconclusive one is an error and not a skip, which many systems show as green. Only what wasn't to be
//! judged is skipped. A magnitude claim has a case of its own for each declared effect.
//!
//! Left out: measurements that no verdict rests on.

use std::fmt::Write;

use records::evaluation::Evaluation;

use super::markdown::harm;
use crate::{
    conclusion::{Conclusion, ExperimentConclusion, TrialVerdict},
    effects::declared,
    measurement::Outcome,
};

/// The whole document.
pub fn document(evaluation: &Evaluation, conclusion: &Conclusion) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let seconds = (conclusion.finished_at - conclusion.started_at).as_seconds_f64();
    let _ = writeln!(
        xml,
        "<testsuites name=\"agora evaluation {}\" {} time=\"{seconds:.3}\">",
        escape(&conclusion.run),
        counts(conclusion.experiments.iter().flat_map(cases))
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
        counts(cases(experiment)),
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
        outcome(xml, trial.outcome, &trial.reason, &experiment.refuted_by);
        xml.push_str("    </testcase>\n");
    }
    for effect in &experiment.effects {
        let _ = writeln!(
            xml,
            "    <testcase classname=\"evaluate.{}\" name=\"{}, {}\" time=\"0.000\">",
            escape(&experiment.name),
            escape(&effect.measurement),
            escape(&declared(effect.bound)),
        );
        outcome(xml, effect.outcome, &effect.reason, &experiment.refuted_by);
        xml.push_str("    </testcase>\n");
    }
    let _ = writeln!(
        xml,
        "    <system-out>{}</system-out>",
        escape(&harm(experiment))
    );
    xml.push_str("  </testsuite>\n");
}

/// The outcome of each case of an experiment.
fn cases(experiment: &ExperimentConclusion) -> impl Iterator<Item = Outcome> {
    let trials = experiment.trials.iter().map(|trial| trial.outcome);
    trials.chain(experiment.effects.iter().map(|effect| effect.outcome))
}

/// What a case came to.
fn outcome(xml: &mut String, outcome: Outcome, reason: &str, refuted_by: &str) {
    let tag = match outcome {
        Outcome::Upheld | Outcome::NotJudged => None,
        Outcome::Refuted => Some("failure"),
        Outcome::Inconclusive => Some("error"),
    };
    if let Some(tag) = tag {
        let _ = writeln!(
            xml,
            "      <{tag} type=\"{}\" message=\"{}\">Refuted by: {}.</{tag}>",
            outcome.word(),
            escape(reason),
            escape(refuted_by),
        );
        return;
    }
    if outcome == Outcome::NotJudged {
        xml.push_str("      <skipped message=\"shown and not judged\"/>\n");
    }
    let _ = writeln!(xml, "      <system-out>{}</system-out>", escape(reason));
}

fn counts(outcomes: impl Iterator<Item = Outcome>) -> String {
    let (mut tests, mut failures, mut errors, mut skipped) = (0, 0, 0, 0);
    for outcome in outcomes {
        tests += 1;
        failures += u32::from(outcome == Outcome::Refuted);
        errors += u32::from(outcome == Outcome::Inconclusive);
        skipped += u32::from(outcome == Outcome::NotJudged);
    }
    format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\"")
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
