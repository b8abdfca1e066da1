//! Axes: where a value is on them, and their ticks.
//!
//! Left out: what is drawn on them ([`super::charts`], [`super::forest`], [`super::trend`]).

/// How much of an axis is beyond what is drawn, on each side.
const MARGIN: f64 = 0.06;
/// The least range of a logarithmic axis, as a ratio: equal values lie in its middle.
const LEAST_RANGE: f64 = 1.2;
/// A range in which steps of equal size are easier to read than 1, 2, 5.
const NARROW: f64 = 4.0;
/// A noise floor up to this factor is seen to its ends, however small the effects are.
pub(super) const WHOLE_FLOOR: f64 = 2.0;
/// How far an axis goes on which everything is 0.
const NOTHING: f64 = 3.0;
/// What is a whole number but for this is one.
const FINEST: f64 = 1e-9;

/// An axis from a least to a greatest value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    /// A logarithmic axis of ratios; 1 is on it. What isn't above 0 and finite has no place.
    pub(super) fn of_ratios(ratios: impl IntoIterator<Item = f64>) -> Self {
        Self::logarithmic(ratios.into_iter().chain([1.0]))
    }

    /// An axis of values with these; one that isn't finite has no place. Logarithmic where all are above 0 and some
    /// `factor` times as large as others, else with 0 on it.
    pub(super) fn of_values(values: &[f64], factor: f64, ticks: f64) -> Self {
        let finite = || values.iter().copied().filter(|value| value.is_finite());
        let (low, high) = (finite().fold(0.0, f64::min), finite().fold(0.0, f64::max));
        let least = finite().fold(f64::INFINITY, f64::min);
        if least > 0.0 && least.is_finite() && high / least > factor {
            return Self::logarithmic(finite());
        }
        // Where everything is 0, there is still an axis.
        let high = if low == high { NOTHING } else { high };
        let range = (high - low) * (1.0 + MARGIN);
        let step = step(range, ticks);
        Self {
            low: (low / step).floor() * step,
            high: ((low + range) / step).ceil() * step,
            logarithmic: false,
        }
    }

    fn logarithmic(values: impl Iterator<Item = f64>) -> Self {
        let values = values.filter(|value| *value > 0.0 && value.is_finite());
        let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let (low, high) = (low.ln(), high.ln());
        let range = (high - low).max(LEAST_RANGE.ln());
        let beyond = (range - (high - low)) / 2.0 + range * MARGIN;
        Self {
            low: (low - beyond).exp(),
            high: (high + beyond).exp(),
            logarithmic: true,
        }
    }

    /// Whether it has a place for this value.
    pub(super) fn has(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// The place of a value, from 0 to 1; beyond its ends, the end.
    pub(super) fn part(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        part.clamp(0.0, 1.0)
    }

    /// Round values on it, `most` or fewer; of a logarithmic axis with 1 on it, 1 is one of them.
    pub(super) fn ticks(&self, most: usize) -> Vec<f64> {
        if !self.logarithmic || self.high / self.low < NARROW {
            let mut size = step(self.high - self.low, most as f64);
            loop {
                let ticks = self.multiples(size);
                if ticks.len() <= most {
                    return ticks;
                }
                size = step(size * 1.01, 1.0);
            }
        }
        let exponents = || self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let within = |ticks: Vec<f64>| -> Vec<f64> {
            ticks.into_iter().filter(|tick| self.has(*tick)).collect()
        };
        for mantissas in [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]] {
            let ticks = exponents().flat_map(|exponent| {
                let decade = decade(exponent);
                mantissas.iter().map(move |mantissa| mantissa * decade)
            });
            let ticks = within(ticks.collect());
            if (2..=most).contains(&ticks.len()) {
                return ticks;
            }
        }
        let every = exponents().count().div_ceil(most.max(1)).max(1) as i32;
        let ticks = exponents().filter(|exponent| exponent % every == 0);
        within(ticks.map(decade).collect())
    }

    fn multiples(&self, size: f64) -> Vec<f64> {
        let (first, last) = (
            (self.low / size - FINEST).ceil() as i64,
            (self.high / size + FINEST).floor() as i64,
        );
        // Divided, not multiplied: a tenth of 3 is written 0.3.
        let per_one = (1.0 / size).round();
        (first..=last)
            .map(|number| {
                if size < 1.0 && per_one > 0.0 && (per_one * size - 1.0).abs() < FINEST {
                    number as f64 / per_one
                } else {
                    number as f64 * size
                }
            })
            .collect()
    }
}

/// A power of ten, as it is written.
fn decade(exponent: i32) -> f64 {
    if exponent < 0 {
        1.0 / 10_f64.powi(-exponent)
    } else {
        10_f64.powi(exponent)
    }
}

/// A round distance between ticks.
pub(super) fn step(range: f64, ticks: f64) -> f64 {
    let rough = range / ticks;
    let power = 10_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    let step = steps.into_iter().find(|step| *step >= rough);
    step.unwrap_or(rough)
}

/// A tick of an axis of ratios: `×0.5`, `×1`, `×20`.
pub(super) fn ratio_tick(ratio: f64) -> String {
    // Enough digits for the ticks of any axis, and none that says nothing.
    let digits = (2.0 - ratio.log10().floor()).clamp(0.0, 12.0) as usize;
    let written = format!("{ratio:.digits$}");
    let short = if written.contains('.') {
        written.trim_end_matches('0').trim_end_matches('.')
    } else {
        &written
    };
    format!("×{short}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logarithmic_axis_has_1_and_equal_distances_for_equal_factors() {
        let scale = Scale::of_ratios([0.25, 4.0]);
        assert!((scale.part(1.0) - 0.5).abs() < 1e-9);
        let distance = |from, to| scale.part(to) - scale.part(from);
        assert!((distance(0.5, 1.0) - distance(1.0, 2.0)).abs() < 1e-9);
        // Without a ratio, too.
        assert!((Scale::of_ratios([]).part(1.0) - 0.5).abs() < 1e-9);
        assert!(!Scale::of_ratios([2.0]).has(0.0));
        assert_eq!(Scale::of_ratios([0.0, f64::INFINITY]).part(0.0), 0.0);
    }

    #[test]
    fn ticks_are_round_few_and_have_1() {
        let written = |ratios: &[f64]| -> Vec<String> {
            let scale = Scale::of_ratios(ratios.iter().copied());
            scale.ticks(6).into_iter().map(ratio_tick).collect()
        };
        assert_eq!(
            written(&[1.15, 1.5]),
            ["×1", "×1.1", "×1.2", "×1.3", "×1.4", "×1.5"]
        );
        assert_eq!(written(&[0.1, 1.0]), ["×0.1", "×0.2", "×0.5", "×1"]);
        assert_eq!(
            written(&[0.001, 100.0]),
            ["×0.001", "×0.01", "×0.1", "×1", "×10", "×100"]
        );
        for ratios in [
            [0.97, 1.02],
            [0.999, 1.001],
            [1e-9, 1e9],
            [0.4, 30.0],
            [0.02, 1.1],
        ] {
            let ticks = written(&ratios);
            assert!((2..=6).contains(&ticks.len()), "{ticks:?}");
            assert!(ticks.contains(&"×1".to_owned()), "{ticks:?}");
        }
    }

    #[test]
    fn values_that_differ_a_lot_have_a_logarithmic_axis_and_others_begin_at_0() {
        assert!(Scale::of_values(&[4.0, 3_000.0], 50.0, 4.0).logarithmic);
        let counts = Scale::of_values(&[0.0, 41.0], 50.0, 4.0);
        assert_eq!((counts.low, counts.high), (0.0, 60.0));
        assert_eq!(counts.ticks(5), [0.0, 20.0, 40.0, 60.0]);
        let nothing = Scale::of_values(&[0.0, f64::NAN], 50.0, 4.0);
        assert!(nothing.part(0.0) == 0.0 && nothing.high > 0.0);
        let negative = Scale::of_values(&[-3.0, 5.0], 50.0, 4.0);
        assert!(negative.has(-3.0) && negative.has(5.0) && negative.ticks(5).contains(&0.0));
    }
}
