//! The benchmark's measurements, compared within each round: other load on the machine affects the arms of a round alike.

use std::fmt::{self, Write as _};

/// The required throughput of the whole relative to the gateway's in front of services that do no work: for a gateway with
/// processor time of its own, as in a cluster. On shared processors the ratio is lower by what user-service and its
/// database need of them; that one is shown, too.
pub const REQUIRED_RATIO: f64 = 0.85;

/// The path of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm {
    /// The gateway, user-service as the auth service, and user-service.
    Real,
    /// The gateway, and trivial-service as both of them.
    Trivial,
    /// The gateway without the auth hop (`AGORA_PATTERN_FORWARD_AUTH=off`), and user-service.
    RealOpen,
    /// Likewise, and trivial-service.
    TrivialOpen,
    /// Like [`Arm::Real`], with a gateway that may use a fixed part of a processor (`compose.bench.yaml`), so that the
    /// gateway limits the throughput.
    RealBounded,
    /// Likewise, and trivial-service.
    TrivialBounded,
}

/// The number of arms.
pub const ARMS: usize = Arm::ALL.len();

impl Arm {
    /// In the order of the table.
    pub const ALL: [Self; 6] = [
        Self::Real,
        Self::Trivial,
        Self::RealOpen,
        Self::TrivialOpen,
        Self::RealBounded,
        Self::TrivialBounded,
    ];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Real => "auth hop, user-service",
            Self::Trivial => "auth hop, trivial-service",
            Self::RealOpen => "no auth hop, user-service",
            Self::TrivialOpen => "no auth hop, trivial-service",
            Self::RealBounded => "gateway bounded, user-service",
            Self::TrivialBounded => "gateway bounded, trivial-service",
        }
    }

    /// Whether the gateway calls the auth service.
    pub fn asks(self) -> bool {
        !matches!(self, Self::RealOpen | Self::TrivialOpen)
    }
}

/// The measurements of one arm in one round.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Answers per second.
    pub per_second: f64,
    /// The median latency, in milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile of the latency, in milliseconds.
    pub p99_ms: f64,
}

/// A measurement over several rounds: the median, the lowest and the highest.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// The median.
    pub median: f64,
    lowest: f64,
    highest: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Self {
            median,
            lowest: sorted[0],
            highest: sorted[sorted.len() - 1],
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(2);
        let (median, lowest, highest) = (self.median, self.lowest, self.highest);
        write!(
            f,
            "{median:.decimals$} ({lowest:.decimals$} to {highest:.decimals$})"
        )
    }
}

/// All rounds, at least one; in each the arms by [`Arm::ALL`].
#[derive(Debug)]
pub struct Comparison(Vec<[Run; ARMS]>);

impl Comparison {
    /// `None` without a round.
    pub fn of(rounds: Vec<[Run; ARMS]>) -> Option<Self> {
        (!rounds.is_empty()).then_some(Self(rounds))
    }

    /// A measurement of one arm.
    pub fn measurement(&self, arm: Arm, measurement: impl Fn(&Run) -> f64) -> Spread {
        Spread::of(self.0.iter().map(|round| measurement(&round[arm as usize])))
    }

    /// A measurement of one arm divided by another's in the same round.
    pub fn ratio(&self, arm: Arm, to: Arm, measurement: impl Fn(&Run) -> f64) -> Spread {
        let ratio = |round: &[Run; ARMS]| {
            measurement(&round[arm as usize]) / measurement(&round[to as usize])
        };
        Spread::of(self.0.iter().map(ratio))
    }

    /// The throughput of the whole relative to the gateway's in front of services that do no work: with a gateway that has
    /// processor time of its own.
    pub fn share(&self) -> Spread {
        self.ratio(Arm::RealBounded, Arm::TrivialBounded, |run| run.per_second)
    }

    /// Likewise, on shared processors.
    pub fn shared(&self) -> Spread {
        self.ratio(Arm::Real, Arm::Trivial, |run| run.per_second)
    }

    /// Whether the required ratio is reached.
    pub fn holds(&self) -> bool {
        self.share().median >= REQUIRED_RATIO
    }

    /// The table, the ratio and the cost of the auth hop.
    pub fn describe(&self) -> String {
        let mut text = format!(
            "{:<32} {:>24} {:>22} {:>22}\n",
            "median (lowest to highest)", "requests a second", "p50, ms", "p99, ms"
        );
        for arm in Arm::ALL {
            let (name, rate) = (arm.name(), self.measurement(arm, |run| run.per_second));
            let (p50, p99) = (
                self.measurement(arm, |run| run.p50_ms),
                self.measurement(arm, |run| run.p99_ms),
            );
            // Padding needs a string.
            let (rate, p50, p99) = (format!("{rate:.0}"), p50.to_string(), p99.to_string());
            let _ = writeln!(text, "{name:<32} {rate:>24} {p50:>22} {p99:>22}");
        }
        let _ = writeln!(
            text,
            "\nthroughput relative to the gateway before a trivial auth service and backend: {}; required {REQUIRED_RATIO}\n\
             the same with gateway, services and database on shared processor time: {}",
            self.share(),
            self.shared()
        );
        for (what, with, without) in [
            ("before user-service", Arm::Real, Arm::RealOpen),
            ("before trivial-service", Arm::Trivial, Arm::TrivialOpen),
        ] {
            let _ = writeln!(
                text,
                "cost of the auth hop {what}: requests a second x {}, p50 x {}, p99 x {}",
                self.ratio(with, without, |run| run.per_second),
                self.ratio(with, without, |run| run.p50_ms),
                self.ratio(with, without, |run| run.p99_ms),
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round in which the arms reach these request rates.
    fn round(per_second: [f64; ARMS]) -> [Run; ARMS] {
        per_second.map(|per_second| Run {
            per_second,
            p50_ms: 32_000.0 / per_second,
            p99_ms: 64_000.0 / per_second,
        })
    }

    /// Rounds in which the bounded arms reach these rates, and the others 800, 1,000, 1,600 and 2,000.
    fn comparison(bounded: &[[f64; 2]]) -> Comparison {
        let round =
            |[real, trivial]: [f64; 2]| round([800.0, 1_000.0, 1_600.0, 2_000.0, real, trivial]);
        Comparison::of(bounded.iter().copied().map(round).collect()).unwrap()
    }

    #[test]
    fn a_ratio_below_the_requirement_does_not_hold() {
        assert!(comparison(&[[850.0, 1_000.0]]).holds());
        assert!(!comparison(&[[849.0, 1_000.0]]).holds());
        assert!(Comparison::of(Vec::new()).is_none());
    }

    #[test]
    fn arms_are_compared_within_a_round_and_the_median_counts() {
        // Other load in the second round, and on one arm alone in the third.
        let comparison = comparison(&[[900.0, 1_000.0], [90.0, 100.0], [100.0, 1_000.0]]);
        assert!(comparison.holds());
        assert_eq!(comparison.share().to_string(), "0.90 (0.10 to 0.90)");
        let text = comparison.describe();
        for measurement in [
            "backend: 0.90 (0.10 to 0.90); required 0.85",
            "processor time: 0.80 (0.80 to 0.80)",
            "before trivial-service: requests a second x 0.50 (0.50 to 0.50), p50 x 2.00",
        ] {
            assert!(text.contains(measurement), "{text}");
        }
        let rates = comparison.measurement(Arm::TrivialBounded, |run| run.per_second);
        assert_eq!(format!("{rates:.0}"), "1000 (100 to 1000)");
    }

    #[test]
    fn for_an_even_number_of_rounds_the_median_is_the_mean_of_the_middle_two() {
        let comparison = comparison(&[[800.0, 1_000.0], [900.0, 1_000.0]]);
        assert_eq!(comparison.share().to_string(), "0.85 (0.80 to 0.90)");
    }
}
