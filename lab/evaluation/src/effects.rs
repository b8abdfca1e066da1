//! Magnitude claims: declared effects, decided over pairs of runs.
//!
//! Left out: the statistics ([`crate::statistics`]), and which trials count ([`crate::conclusion`]).

use records::evaluation::{Design, Evaluation, NoiseRecord, Ratio};
use serde::{Deserialize, Serialize};

use super::{
    experiment::{DeclaredEffect, Experiment, Kind},
    measurement::Outcome,
    numbers::{self, ratio},
    statistics::{
        decision::{self, Bound, Decided, Decision, Why},
        pairs::{Certainty, FEWEST, Interval, LEVEL},
        power,
        sequential::Looks,
    },
    verdict::Verdict,
};

/// What pairs of runs say about a declared effect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EffectConclusion {
    /// The measurement's name.
    pub measurement: String,
    /// What is divided by what, in words.
    pub of: String,
    /// Which ratio it is, and so what its noise floor lies around.
    pub ratio: Ratio,
    /// How large the ratio must be.
    pub bound: Bound,
    /// Why it must be that large.
    pub declared_because: String,
    /// The ratios, one for each pair that counts.
    pub ratios: Vec<f64>,
    /// The exact interval of their mean, which decides; `None` for fewer than six pairs.
    pub interval: Option<Interval>,
    /// The probability of pairs at least as far from the bound, if the true ratio were the bound.
    pub p: Option<f64>,
    /// The bootstrap-t interval of their mean at 95 %; `None` for fewer than six pairs.
    pub certainty: Option<Certainty>,
    /// How far noise alone takes this ratio on this machine, as a factor: from 1 between arms, from its mean where it is the last
    /// arm's own; `None` where it was not measured.
    pub noise_floor: Option<f64>,
    /// How many pairs are needed to decide it, where that is open; `None` also where the noise is unknown or too large.
    pub pairs_needed: Option<u32>,
    /// The outcome.
    pub outcome: Outcome,
    /// What it rests on, in words.
    pub reason: String,
}

/// What all effects of an experiment are judged with.
pub(crate) struct Judging<'a> {
    noise: &'a [NoiseRecord],
    design: Design,
    /// Looks that share the error; `None` for a single decision at the end.
    looks: Option<Looks>,
    /// Whether the pairs are shown without a judgement.
    shown_only: bool,
}

impl<'a> Judging<'a> {
    /// For an experiment of which there are so many trials.
    pub(crate) fn of(evaluation: &'a Evaluation, experiment: &Experiment, trials: usize) -> Self {
        let mut planned = evaluation.planned.iter();
        let planned = planned.find(|planned| planned.name == experiment.name);
        let in_looks = planned.filter(|planned| planned.until_decided);
        Self {
            noise: &evaluation.noise,
            design: evaluation.design,
            looks: in_looks.and_then(|planned| Looks::until(planned.repetitions as usize)),
            shown_only: match (experiment.kind, evaluation.design) {
                // Its runs decide it; a few pairs of them are no claim that was open.
                (Kind::Safety, Design::Pattern) => trials < FEWEST,
                _ => trials <= 1,
            },
        }
    }

    /// Judges an effect by the verdicts of the trials that count.
    pub(crate) fn effect(
        &self,
        experiment: &Experiment,
        effect: &DeclaredEffect,
        verdicts: &[&Verdict],
    ) -> EffectConclusion {
        // Also what can't be divided: it leaves the effect open.
        let all: Vec<f64> = verdicts
            .iter()
            .filter_map(|verdict| ratio_of(effect, verdict))
            .collect();
        let ratios: Vec<f64> = all.iter().copied().filter(|it| it.is_finite()).collect();
        let noise = find(
            self.noise,
            experiment.name,
            effect.measurement,
            effect.ratio,
        );
        let floor = match self.design {
            // It is what such a run measures: the interval alone has to show that nothing is there.
            Design::SameArms => Some(1.0),
            Design::Pattern => noise.map(|noise| noise.factor),
        };
        let decision = match &self.looks {
            Some(looks) => looks.decide(&all, effect.bound, floor),
            None => decision::decide(&all, effect.bound, floor, LEVEL),
        };
        let outcome = match (self.design, decision.decided) {
            _ if self.shown_only => Outcome::NotJudged,
            (Design::SameArms, decided) => same_arms(effect, decided),
            (Design::Pattern, Decided::Beyond) => Outcome::Upheld,
            (Design::Pattern, Decided::Short) => Outcome::Refuted,
            (Design::Pattern, Decided::Open) => Outcome::Inconclusive,
        };
        // A simulation: only where it says what to do next.
        let needed = noise
            .filter(|_| outcome == Outcome::Inconclusive)
            .and_then(|noise| {
                let effects = experiment.effects.len();
                power::pairs_needed(effect.bound, noise.log_deviation, noise.factor, effects)
            });
        let needed = needed.and_then(|pairs| u32::try_from(pairs).ok());
        let seen = seen(&ratios, &decision);
        let reason = format!(
            "{seen}, declared {}{}",
            declared(effect.bound),
            match (outcome, self.design) {
                (Outcome::NotJudged, _) => String::new(),
                (_, Design::SameArms) => ": a false alarm, as these arms are equal".to_owned(),
                _ => because(decision.why, ratios.len(), floor, needed),
            }
        );
        EffectConclusion {
            measurement: effect.measurement.to_owned(),
            of: divided(experiment, effect.ratio),
            ratio: effect.ratio,
            bound: effect.bound,
            declared_because: effect.reason.to_owned(),
            interval: decision.interval,
            p: decision.p,
            certainty: decision.certainty,
            noise_floor: noise.map(|noise| noise.factor),
            pairs_needed: needed,
            outcome,
            reason,
            ratios,
        }
    }
}

impl EffectConclusion {
    /// What it says, with the name of the measurement.
    pub fn sentence(&self) -> String {
        format!("{}: {}", self.measurement, self.reason)
    }

    /// The geometric mean of the ratios; `None` without a ratio, and where one has no logarithm.
    pub(crate) fn mean(&self) -> Option<f64> {
        let logs = self.ratios.iter().map(|ratio| ratio.ln());
        let mean = logs.sum::<f64>() / self.ratios.len() as f64;
        mean.is_finite().then(|| mean.exp())
    }
}

/// Between equal arms an improvement is a false alarm, and so is what breaks a margin; all else is only measured. A ratio that
/// the pattern has by itself doesn't compare the arms.
fn same_arms(effect: &DeclaredEffect, decided: Decided) -> Outcome {
    let alarm = if effect.bound.is_margin() {
        Decided::Short
    } else {
        Decided::Beyond
    };
    if effect.ratio == Ratio::BetweenArms && decided == alarm {
        Outcome::Refuted
    } else {
        Outcome::NotJudged
    }
}

/// The noise of a ratio of a measurement of an experiment; the last one of several.
pub fn find<'a>(
    noise: &'a [NoiseRecord],
    experiment: &str,
    measurement: &str,
    ratio: Ratio,
) -> Option<&'a NoiseRecord> {
    let mut backwards = noise.iter().rev();
    backwards.find(|it| {
        it.experiment == experiment && it.measurement == measurement && it.ratio == ratio
    })
}

/// `None` where one of the arms has no value.
fn ratio_of(effect: &DeclaredEffect, verdict: &Verdict) -> Option<f64> {
    let mut measurements = verdict.measurements.iter();
    let measured = measurements.find(|it| it.name == effect.measurement)?;
    let with = measured.values.last()?.value?;
    match effect.ratio {
        Ratio::WithPattern => Some(with),
        Ratio::BetweenArms => Some(with / measured.values.first()?.value?),
    }
}

fn divided(experiment: &Experiment, ratio: Ratio) -> String {
    match (ratio, experiment.arms) {
        (Ratio::BetweenArms, [from, .., to]) => format!("`{}` / `{}`", to.name, from.name),
        (_, arms) => arms
            .last()
            .map_or_else(String::new, |to| format!("`{}`", to.name)),
    }
}

/// A bound in words: `at least ×1.15`.
pub fn declared(bound: Bound) -> String {
    match bound {
        Bound::AtLeast(least) => format!("at least {}", ratio(least)),
        Bound::AtMost(most) => format!("at most {}", ratio(most)),
    }
}

fn seen(ratios: &[f64], decision: &Decision) -> String {
    match (ratios, decision.certainty.zip(decision.interval)) {
        ([], _) => "no pair counts".to_owned(),
        ([only], _) => format!("{} in one pair", ratio(*only)),
        (_, Some((certainty, interval))) => format!(
            "{} in {} pairs ({}: {} to {})",
            ratio(certainty.mean),
            // Of the look that decided; there may be later ones, for another effect.
            decision.pairs,
            confidence(decision.level),
            ratio(interval.low),
            ratio(interval.high)
        ),
        (_, None) => {
            let each: Vec<String> = ratios.iter().map(|it| ratio(*it)).collect();
            format!("{} in {} pairs", each.join(", "), ratios.len())
        }
    }
}

/// `95 %`, or with more digits where looks share the error: `99.3 %`.
fn confidence(level: f64) -> String {
    let percent = 100.0 * (1.0 - level);
    let digits = usize::from((percent - percent.round()).abs() > 0.01);
    format!("{percent:.digits$} %")
}

/// Why it was decided or not, after what was declared.
fn because(why: Why, pairs: usize, floor: Option<f64>, needed: Option<u32>) -> String {
    let floor = floor.map_or_else(|| numbers::NONE.to_owned(), ratio);
    match why {
        Why::IntervalBeyondBound => format!("; noise floor {floor}"),
        Why::IntervalShortOfBound => "; the interval excludes it".to_owned(),
        Why::IntervalReachesBound => match needed {
            Some(needed) if needed as usize > pairs => {
                format!(", which is in the interval: {needed} pairs are needed")
            }
            _ => ", which is in the interval".to_owned(),
        },
        Why::WithinNoise | Why::NoiseAsLargeAsMargin => {
            format!(": noise alone goes as far here, the noise floor is {floor}")
        }
        Why::NoNoiseFloor => {
            ": the noise of this machine is unknown, `cargo xtask evaluate --aa` measures it"
                .to_owned()
        }
        Why::TooFewPairs { needed: fewest } => {
            let fewest = needed.map_or(fewest, |needed| fewest.max(needed as usize));
            let noun = if pairs == 1 {
                "pair decides"
            } else {
                "pairs decide"
            };
            format!(": {pairs} {noun} nothing, {fewest} are needed")
        }
        Why::TooManyPairs { most } => {
            format!(": {pairs} pairs are more than the {most} that are counted")
        }
        Why::UnusableRatio => ": a ratio of 0 or without a limit decides nothing".to_owned(),
        Why::UnusableQuestion => ": the declared effect can't be decided".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_arms_raise_an_alarm_by_an_improvement_and_by_a_broken_margin_only() {
        let effect = |bound, ratio| DeclaredEffect {
            measurement: "orders decided",
            ratio,
            bound,
            reason: "",
        };
        let improvement = effect(Bound::AtLeast(1.15), Ratio::BetweenArms);
        let margin = effect(Bound::AtLeast(0.7), Ratio::BetweenArms);
        let own = effect(Bound::AtMost(3.0), Ratio::WithPattern);
        for (effect, decided, expected) in [
            (improvement, Decided::Beyond, Outcome::Refuted),
            (improvement, Decided::Short, Outcome::NotJudged),
            (margin, Decided::Beyond, Outcome::NotJudged),
            (margin, Decided::Short, Outcome::Refuted),
            (own, Decided::Beyond, Outcome::NotJudged),
            (own, Decided::Short, Outcome::NotJudged),
            (margin, Decided::Open, Outcome::NotJudged),
        ] {
            assert_eq!(
                same_arms(&effect, decided),
                expected,
                "{effect:?} {decided:?}"
            );
        }
    }
}
