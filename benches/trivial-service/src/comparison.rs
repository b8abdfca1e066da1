//! The benchmark's figures, compared within each round: a machine that does something else meanwhile disturbs the arms of
//! a round alike.

use std::fmt::{self, Write as _};

/// What is wanted of the whole, as a share of what the gateway does when nobody behind it has anything to do: of a gateway
/// with processor time of its own, as it has in a cluster. On processors that all share, the share is lower by whatever
/// user-service and its database need of them, however fast they are; that one is shown, too.
pub const BAR: f64 = 0.85;

/// What a request goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm {
    /// The gateway, user-service as the auth service, and user-service.
    Real,
    /// The gateway, and trivial-service as both of them.
    Trivial,
    /// The gateway that asks nobody (`AGORA_PATTERN_FORWARD_AUTH=off`), and user-service.
    RealOpen,
    /// Likewise, and trivial-service.
    TrivialOpen,
    /// As [`Arm::Real`], with a gateway that may use a fixed part of a processor (`compose.bench.yaml`), so that it is the
    /// gateway that limits the throughput.
    RealBounded,
    /// Likewise, and trivial-service.
    TrivialBounded,
}

/// How many arms there are.
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

    /// As it stands in the table.
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

    /// Whether the gateway asks who the request is from.
    pub fn asks(self) -> bool {
        !matches!(self, Self::RealOpen | Self::TrivialOpen)
    }
}

/// What one arm did in one round.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Answers a second.
    pub per_second: f64,
    /// What half of the requests took at most, in milliseconds.
    pub p50_ms: f64,
    /// What all but a hundredth of them took at most, in milliseconds.
    pub p99_ms: f64,
}

/// Figures of several rounds: the median, with the lowest and the highest.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// The one in the middle.
    pub median: f64,
    lowest: f64,
    highest: f64,
}

impl Spread {
    fn of(figures: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.collect();
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

/// All rounds, one at least; in each the arms by [`Arm::ALL`].
#[derive(Debug)]
pub struct Comparison(Vec<[Run; ARMS]>);

impl Comparison {
    /// `None` without a round.
    pub fn of(rounds: Vec<[Run; ARMS]>) -> Option<Self> {
        (!rounds.is_empty()).then_some(Self(rounds))
    }

    /// One arm's figure.
    pub fn figure(&self, arm: Arm, figure: impl Fn(&Run) -> f64) -> Spread {
        Spread::of(self.0.iter().map(|round| figure(&round[arm as usize])))
    }

    /// One arm's figure over another one's in the same round.
    pub fn ratio(&self, arm: Arm, to: Arm, figure: impl Fn(&Run) -> f64) -> Spread {
        let ratio =
            |round: &[Run; ARMS]| figure(&round[arm as usize]) / figure(&round[to as usize]);
        Spread::of(self.0.iter().map(ratio))
    }

    /// What the whole does of what the gateway does when nobody behind it has anything to do: with a gateway that has its
    /// own processor time.
    pub fn share(&self) -> Spread {
        self.ratio(Arm::RealBounded, Arm::TrivialBounded, |run| run.per_second)
    }

    /// Likewise, on processors that all share.
    pub fn shared(&self) -> Spread {
        self.ratio(Arm::Real, Arm::Trivial, |run| run.per_second)
    }

    /// Whether that is what is wanted.
    pub fn holds(&self) -> bool {
        self.share().median >= BAR
    }

    /// The table, the share and the price of the auth hop.
    pub fn describe(&self) -> String {
        let mut text = format!(
            "{:<32} {:>24} {:>22} {:>22}\n",
            "median (lowest to highest)", "requests a second", "p50, ms", "p99, ms"
        );
        for arm in Arm::ALL {
            let (name, rate) = (arm.name(), self.figure(arm, |run| run.per_second));
            let (p50, p99) = (
                self.figure(arm, |run| run.p50_ms),
                self.figure(arm, |run| run.p99_ms),
            );
            // Padding wants a text.
            let (rate, p50, p99) = (format!("{rate:.0}"), p50.to_string(), p99.to_string());
            let _ = writeln!(text, "{name:<32} {rate:>24} {p50:>22} {p99:>22}");
        }
        let _ = writeln!(
            text,
            "\nshare of what the gateway does before a trivial auth and a trivial backend: {}; wanted {BAR}\n\
             the same where gateway, services and database take each other's processor time: {}",
            self.share(),
            self.shared()
        );
        for (what, with, without) in [
            ("before user-service", Arm::Real, Arm::RealOpen),
            ("before trivial-service", Arm::Trivial, Arm::TrivialOpen),
        ] {
            let _ = writeln!(
                text,
                "price of the auth hop {what}: requests a second x {}, p50 x {}, p99 x {}",
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

    /// A round in which the arms do so many requests a second.
    fn round(per_second: [f64; ARMS]) -> [Run; ARMS] {
        per_second.map(|per_second| Run {
            per_second,
            p50_ms: 32_000.0 / per_second,
            p99_ms: 64_000.0 / per_second,
        })
    }

    /// Rounds in which the bounded arms do so many, and the others 800, 1,000, 1,600 and 2,000.
    fn comparison(bounded: &[[f64; 2]]) -> Comparison {
        let round =
            |[real, trivial]: [f64; 2]| round([800.0, 1_000.0, 1_600.0, 2_000.0, real, trivial]);
        Comparison::of(bounded.iter().copied().map(round).collect()).unwrap()
    }

    #[test]
    fn less_than_is_wanted_does_not_hold() {
        assert!(comparison(&[[850.0, 1_000.0]]).holds());
        assert!(!comparison(&[[849.0, 1_000.0]]).holds());
        assert!(Comparison::of(Vec::new()).is_none());
    }

    #[test]
    fn arms_are_compared_within_a_round_and_the_middle_one_counts() {
        // The machine was busy in the second round, and slow for one arm alone in the third.
        let comparison = comparison(&[[900.0, 1_000.0], [90.0, 100.0], [100.0, 1_000.0]]);
        assert!(comparison.holds());
        assert_eq!(comparison.share().to_string(), "0.90 (0.10 to 0.90)");
        let text = comparison.describe();
        for figure in [
            "backend: 0.90 (0.10 to 0.90); wanted 0.85",
            "processor time: 0.80 (0.80 to 0.80)",
            "before trivial-service: requests a second x 0.50 (0.50 to 0.50), p50 x 2.00",
        ] {
            assert!(text.contains(figure), "{text}");
        }
        let rates = comparison.figure(Arm::TrivialBounded, |run| run.per_second);
        assert_eq!(format!("{rates:.0}"), "1000 (100 to 1000)");
    }

    #[test]
    fn of_an_even_number_of_rounds_it_is_the_mean_of_the_two_in_the_middle() {
        let comparison = comparison(&[[800.0, 1_000.0], [900.0, 1_000.0]]);
        assert_eq!(comparison.share().to_string(), "0.85 (0.80 to 0.90)");
    }
}
