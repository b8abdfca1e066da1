//! Compares the measured part of a run with its thresholds.

use records::load::ThresholdOutcome;

use crate::options::Options;
use crate::recorder::Tally;

/// One outcome per threshold; that of the error rate always exists. Requires at least one measured request.
pub(crate) fn judge(options: &Options, tally: &Tally) -> Vec<ThresholdOutcome> {
    [
        ("max-p95-ms", options.max_p95_ms, tally.latency().p95_ms),
        (
            "max-error-rate",
            Some(options.max_error_rate),
            tally.error_rate(),
        ),
    ]
    .into_iter()
    .filter_map(|(name, limit, actual)| Some(outcome(name, limit?, actual)))
    .collect()
}

fn outcome(name: &str, limit: f64, actual: f64) -> ThresholdOutcome {
    ThresholdOutcome {
        name: name.to_owned(),
        limit,
        actual,
        holds: actual <= limit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_holds_up_to_its_limit() {
        assert!(outcome("max-p95-ms", 250.0, 250.0).holds);
        assert!(!outcome("max-p95-ms", 250.0, 250.1).holds);
        assert!(outcome("max-error-rate", 0.0, 0.0).holds);
        assert!(!outcome("max-error-rate", 0.0, 0.001).holds);
    }
}
