//! What runs in which a claim held say about runs that nobody made.

/// The error that a bound allows.
const ERROR: f64 = 0.05;

/// At 95 %, the most of all runs in which the claim fails, where it failed in none of these: the exact (Clopper–Pearson)
/// upper bound for 0 of `runs`. It is about runs, each of which is one trial; about orders it says nothing, as the orders of
/// a run fail together.
pub fn fails_in_at_most(runs: u32) -> f64 {
    1.0 - ERROR.powf(1.0 / f64::from(runs.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_runs_say_more() {
        // scipy 1.14: binomtest(0, n, alternative="less").proportion_ci(0.95, method="exact").high
        for (runs, bound) in [(1, 0.95), (3, 0.631_597), (10, 0.258_866), (59, 0.049_508)] {
            assert!((fails_in_at_most(runs) - bound).abs() < 1e-6, "{runs}");
        }
    }
}
