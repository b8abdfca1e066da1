//! A forest plot: each declared effect and each measurement with a ratio on one logarithmic axis, with its mean, its interval,
//! every run, the declared bound and the noise floor.
//!
//! Each row is an SVG of its own, whose places are parts of its width: it fits any width, and its texts keep their size.
//! Left out: colours, which the page's style sets by class, and what the intervals are ([`crate::statistics`]).

use std::fmt::Write;

use records::evaluation::Ratio;
use serde::Serialize;

use super::{
    scale::{Scale, WHOLE_FLOOR, ratio_tick},
    template::{self, Badge, escape},
};
use crate::{
    conclusion::{ExperimentConclusion, MeasurementSummary},
    effects::{EffectConclusion, declared},
    measurement::Better,
    numbers,
    statistics::{decision::Bound, pairs},
};

/// The most ticks that have room on a telephone.
const TICKS: usize = 6;
/// Heights in a row: of the interval, of the runs, and of all.
const INTERVAL_Y: f64 = 13.0;
const RUNS_Y: f64 = 31.0;
const HEIGHT: f64 = 44.0;
/// Runs with almost the same ratio lie beside each other.
const OFFSETS: [f64; 5] = [0.0, -4.0, 4.0, -8.0, 8.0];

/// The plot of an experiment.
#[derive(Debug, Serialize)]
pub(super) struct Forest {
    rows: Vec<Row>,
    axis: String,
    /// Which marks it has: the legend explains no others.
    has_interval: bool,
    has_bound: bool,
    has_floor: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// What is divided by what, and what is asked of it.
    of: String,
    svg: String,
    /// The same in numbers.
    text: String,
    badge: Option<Badge>,
}

/// What is drawn in a row.
struct Line<'a> {
    name: &'a str,
    of: String,
    text: String,
    declared: Option<&'a EffectConclusion>,
    /// The ratio of each run that counts, with the run's number where it is known.
    runs: Vec<(Option<u32>, f64)>,
    /// Mean and interval.
    estimate: Option<(f64, f64, f64)>,
    noise: Option<Noise>,
}

/// How far noise alone takes a ratio.
#[derive(Clone, Copy)]
struct Noise {
    /// The noise floor, a factor of at least 1.
    floor: f64,
    /// What it lies around: 1 between arms, else the ratio's mean, as its fault has an effect each time.
    around: f64,
}

impl Noise {
    /// `None` where the floor isn't known, or what it lies around.
    fn of(floor: Option<f64>, around: Option<f64>) -> Option<Self> {
        let (floor, around) = floor.zip(around)?;
        Some(Self { floor, around })
    }
}

/// The plot of an experiment; `None` where nothing has a ratio.
pub(super) fn of(experiment: &ExperimentConclusion) -> Option<Forest> {
    let lines = lines(experiment);
    if lines.iter().all(|line| line.runs.is_empty()) {
        return None;
    }
    let scale = Scale::of_ratios(lines.iter().flat_map(Line::ratios));
    Some(Forest {
        axis: axis(&scale),
        has_interval: lines.iter().any(|line| line.estimate.is_some()),
        has_bound: lines.iter().any(|line| line.declared.is_some()),
        has_floor: lines.iter().any(|line| line.noise.is_some()),
        rows: lines.iter().map(|line| line.row(&scale)).collect(),
    })
}

fn lines(experiment: &ExperimentConclusion) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = experiment
        .effects
        .iter()
        .map(|effect| Line::declared(experiment, effect))
        .collect();
    for measurement in &experiment.measurements {
        let Some(effect) = &measurement.effect else {
            continue;
        };
        let ratios = measurement.ratios();
        // What was declared of the same ratio says it already.
        let said = experiment
            .effects
            .iter()
            .any(|declared| declared.measurement == measurement.name && declared.ratios == ratios);
        if said || effect.ratio.is_none() || ratios.is_empty() {
            continue;
        }
        lines.push(Line::measured(experiment, measurement, &ratios));
    }
    lines
}

impl<'a> Line<'a> {
    fn declared(experiment: &'a ExperimentConclusion, effect: &'a EffectConclusion) -> Self {
        let mut measurements = experiment.measurements.iter();
        let measurement = measurements.find(|it| it.name == effect.measurement);
        Self {
            name: &effect.measurement,
            of: format!("{}, declared {}", effect.of, declared(effect.bound)),
            text: effect.reason.clone(),
            declared: Some(effect),
            runs: numbered(experiment, measurement, &effect.ratios),
            estimate: effect
                .certainty
                .zip(effect.interval)
                .map(|(certainty, interval)| (certainty.mean, interval.low, interval.high)),
            noise: Noise::of(
                effect.noise_floor,
                match effect.ratio {
                    Ratio::BetweenArms => Some(1.0),
                    Ratio::WithPattern => effect.mean(),
                },
            ),
        }
    }

    fn measured(
        experiment: &'a ExperimentConclusion,
        measurement: &'a MeasurementSummary,
        ratios: &[f64],
    ) -> Self {
        let certainty = measurement.effect.as_ref().and_then(|it| it.certainty);
        let arms = measurement.arms.iter().map(|arm| arm.arm.as_str());
        let arms: Vec<&str> = arms.collect();
        let better = match measurement.better {
            Better::Less => ", less is better",
            Better::More => ", more is better",
            Better::Neither => "",
        };
        Self {
            name: &measurement.name,
            of: match arms.as_slice() {
                [from, .., to] => format!("`{to}` / `{from}`{better}"),
                _ => String::new(),
            },
            text: certainty.map_or_else(
                || without_interval(ratios),
                |it| {
                    format!(
                        "{} in {} pairs (95 %: {} to {})",
                        numbers::ratio(it.mean),
                        ratios.len(),
                        numbers::ratio(it.low),
                        numbers::ratio(it.high)
                    )
                },
            ),
            declared: None,
            runs: numbered(experiment, Some(measurement), ratios),
            estimate: certainty.map(|it| (it.mean, it.low, it.high)),
            noise: Noise::of(measurement.noise_floor, Some(1.0)),
        }
    }

    /// All that must have a place on the axis. A large noise floor need not: its ends may be beyond.
    fn ratios(&self) -> impl Iterator<Item = f64> {
        let runs = self.runs.iter().map(|(_, ratio)| *ratio);
        let estimate = self.estimate.iter();
        let estimate = estimate.flat_map(|(mean, low, high)| [*mean, *low, *high]);
        let bound = self.declared.iter().map(|effect| effect.bound.ratio());
        let noise = self.noise.iter().flat_map(|noise| {
            let floor = noise.floor.min(WHOLE_FLOOR);
            [noise.around / floor, noise.around * floor]
        });
        runs.chain(estimate).chain(bound).chain(noise)
    }

    fn row(&self, scale: &Scale) -> Row {
        Row {
            name: self.name.to_owned(),
            of: self.of.clone(),
            svg: self.svg(scale),
            text: self.text.clone(),
            badge: self.declared.map(|effect| Badge::of(effect.outcome)),
        }
    }

    fn svg(&self, scale: &Scale) -> String {
        let mut svg = format!(
            "<svg class=\"row\" role=\"img\" aria-label=\"{}: {}{}\">",
            escape(self.name),
            escape(&self.text),
            match self.noise {
                Some(noise) => format!("; noise floor {}", numbers::ratio(noise.floor)),
                None => String::new(),
            }
        );
        if let Some(Noise { floor, around }) = self.noise {
            let (left, right) = (scale.part(around / floor), scale.part(around * floor));
            let _ = write!(
                svg,
                "<rect class=\"noise\" x=\"{}\" y=\"0\" width=\"{}\" height=\"{HEIGHT}\"><title>noise floor {}: noise alone \
                 goes as far from {}</title></rect>",
                percent(left),
                percent(right - left),
                numbers::ratio(floor),
                numbers::ratio(around)
            );
        }
        svg.push_str(&grid(scale, HEIGHT));
        if let Some(effect) = self.declared {
            svg.push_str(&bound(effect.bound, scale));
        }
        if let Some((mean, low, high)) = self.estimate {
            let class = self
                .declared
                .map_or("measured", |it| template::class(it.outcome));
            let (from, to) = (percent(scale.part(low)), percent(scale.part(high)));
            let _ = write!(
                svg,
                "<g class=\"interval {class}\"><title>{}: {} to {}</title>\
                 <line x1=\"{from}\" x2=\"{to}\" y1=\"{INTERVAL_Y}\" y2=\"{INTERVAL_Y}\"/>",
                numbers::ratio(mean),
                numbers::ratio(low),
                numbers::ratio(high)
            );
            for end in [from, to] {
                let _ = write!(
                    svg,
                    "<line x1=\"{end}\" x2=\"{end}\" y1=\"{}\" y2=\"{}\"/>",
                    INTERVAL_Y - 4.0,
                    INTERVAL_Y + 4.0
                );
            }
            let _ = write!(
                svg,
                "<svg class=\"mark\" x=\"{}\" y=\"{INTERVAL_Y}\" width=\"1\" height=\"1\"><path d=\"M-6 0L0 -6L6 0L0 6z\"/></svg></g>",
                percent(scale.part(mean))
            );
        }
        for (number, (repetition, ratio)) in self.runs.iter().enumerate() {
            let of = repetition.map_or_else(
                || "a run".to_owned(),
                |repetition| format!("repetition {repetition}"),
            );
            let _ = write!(
                svg,
                "<circle class=\"run{}\" cx=\"{}\" cy=\"{}\" r=\"4\"><title>{of}: {}</title></circle>",
                if scale.has(*ratio) { "" } else { " beyond" },
                percent(scale.part(*ratio)),
                RUNS_Y + OFFSETS[number % OFFSETS.len()],
                if *ratio == 0.0 {
                    "0, beyond the axis".to_owned()
                } else {
                    numbers::ratio(*ratio)
                }
            );
        }
        svg.push_str("</svg>");
        svg
    }
}

/// The ratios of runs with too few of them for an interval.
fn without_interval(ratios: &[f64]) -> String {
    let (low, high) = (
        ratios.iter().copied().fold(f64::INFINITY, f64::min),
        ratios.iter().copied().fold(0.0, f64::max),
    );
    match ratios.len() {
        1 => format!("{} in one pair", numbers::ratio(low)),
        pairs if pairs < pairs::FEWEST => format!(
            "{} to {} in {pairs} pairs; an interval takes {}",
            numbers::ratio(low),
            numbers::ratio(high),
            pairs::FEWEST
        ),
        pairs => format!(
            "{} to {} in {pairs} pairs",
            numbers::ratio(low),
            numbers::ratio(high)
        ),
    }
}

/// Each ratio with the number of the repetition that it is from, as far as that is known.
fn numbered(
    experiment: &ExperimentConclusion,
    measurement: Option<&MeasurementSummary>,
    ratios: &[f64],
) -> Vec<(Option<u32>, f64)> {
    let numbers: Vec<u32> = measurement
        .and_then(|measurement| {
            let [from, .., to] = measurement.arms.as_slice() else {
                return None;
            };
            let values = from.values.iter().zip(&to.values).zip(&measurement.counts);
            let both = values.zip(&experiment.trials);
            let both =
                both.filter(|(((from, to), counts), _)| **counts && from.is_some() && to.is_some());
            Some(both.map(|(_, trial)| trial.repetition).collect())
        })
        .unwrap_or_default();
    let known = numbers.len() == ratios.len();
    let numbered = ratios.iter().enumerate();
    numbered
        .map(|(index, ratio)| (known.then(|| numbers[index]), *ratio))
        .collect()
}

/// A line at each tick, and a stronger one at 1; the ticks' labels are shown where rows are apart.
fn grid(scale: &Scale, height: f64) -> String {
    let mut lines = String::new();
    for tick in scale.ticks(TICKS) {
        let class = if tick == 1.0 { "no-effect" } else { "grid" };
        let x = percent(scale.part(tick));
        let _ = write!(
            lines,
            "<line class=\"{class}\" x1=\"{x}\" x2=\"{x}\" y1=\"0\" y2=\"{height}\"/>"
        );
    }
    let _ = write!(
        lines,
        "<g class=\"ticks\">{}</g>",
        labels(scale, height + 13.0)
    );
    lines
}

fn labels(scale: &Scale, y: f64) -> String {
    let mut labels = String::new();
    for tick in scale.ticks(TICKS) {
        let part = scale.part(tick);
        // None runs out of the picture.
        let anchor = match part {
            part if part < 0.05 => "start",
            part if part > 0.95 => "end",
            _ => "middle",
        };
        let _ = write!(
            labels,
            "<text x=\"{}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>",
            percent(part),
            ratio_tick(tick)
        );
    }
    labels
}

/// The declared bound, and the side on which it is fulfilled.
fn bound(bound: Bound, scale: &Scale) -> String {
    let x = percent(scale.part(bound.ratio()));
    let arrow = match bound {
        Bound::AtLeast(_) => "M0 0h9m-3 -3l3 3l-3 3",
        Bound::AtMost(_) => "M0 0h-9m3 -3l-3 3l3 3",
    };
    format!(
        "<g class=\"bound\"><title>declared {}</title><line x1=\"{x}\" x2=\"{x}\" y1=\"0\" y2=\"{HEIGHT}\"/>\
         <svg class=\"mark\" x=\"{x}\" y=\"{}\" width=\"1\" height=\"1\"><path d=\"{arrow}\"/></svg></g>",
        declared(bound),
        HEIGHT - 4.0
    )
}

fn axis(scale: &Scale) -> String {
    format!(
        "<svg class=\"axis\" aria-hidden=\"true\">{}</svg>",
        labels(scale, 14.0)
    )
}

fn percent(part: f64) -> String {
    format!("{:.2}%", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conclusion::{
        Conclusion,
        tests::{consumers, noise},
    };

    fn conclusion(pairs: &[(u64, u64)], floor: Option<f64>) -> Conclusion {
        let mut evaluation = consumers(pairs);
        evaluation.noise = floor.map(noise).into_iter().collect();
        Conclusion::of(&evaluation).expect("a known experiment")
    }

    fn plot(pairs: &[(u64, u64)], floor: Option<f64>) -> Forest {
        of(&conclusion(pairs, floor).experiments[0]).expect("a ratio")
    }

    const SIX: [(u64, u64); 6] = [(40, 60), (41, 60), (40, 62), (39, 60), (42, 62), (40, 61)];

    /// The place of the only element of this class, in percent.
    fn place(svg: &str, class: &str, attribute: &str) -> f64 {
        let document = roxmltree::Document::parse(svg).expect("well-formed SVG");
        let mut nodes = document.descendants();
        let node = nodes.find(|node| node.attribute("class") == Some(class));
        let node = node.unwrap_or_else(|| panic!("{class} in {svg}"));
        let mut inside = node.descendants();
        let value = inside.find_map(|node| node.attribute(attribute));
        let value = value.and_then(|value| value.strip_suffix('%'));
        value.and_then(|value| value.parse().ok()).expect(attribute)
    }

    #[test]
    fn each_run_is_a_dot_and_each_effect_has_a_row() {
        for pairs in [&SIX[..1], &SIX[..3], &SIX] {
            let forest = plot(pairs, Some(1.05));
            assert!(forest.has_bound);
            for row in &forest.rows {
                assert_eq!(
                    row.svg.matches("<circle ").count(),
                    pairs.len(),
                    "{}",
                    row.name
                );
            }
            let declared: Vec<&Row> = forest
                .rows
                .iter()
                .filter(|row| row.badge.is_some())
                .collect();
            assert_eq!(declared.len(), 1);
            assert_eq!(declared[0].name, "orders decided under the CPU limit");
            let again = forest
                .rows
                .iter()
                .filter(|row| row.name == declared[0].name);
            assert_eq!(again.count(), 1, "a row says the same twice");
            assert_eq!(
                declared[0].svg.contains("class=\"interval"),
                pairs.len() >= 6
            );
            assert!(
                declared[0]
                    .svg
                    .contains("<title>repetition 1: ×1.50</title>")
            );
        }
    }

    #[test]
    fn the_noise_floor_is_shaded_around_1_and_only_where_it_is_known() {
        let svg = &plot(&SIX, Some(1.1)).rows[0].svg;
        let (left, width) = (place(svg, "noise", "x"), place(svg, "noise", "width"));
        let one = place(svg, "no-effect", "x1");
        assert!(
            (left + width / 2.0 - one).abs() < 0.02,
            "{left} {width} {one}"
        );
        let forest = plot(&SIX, None);
        assert!(!forest.has_floor && !forest.rows[0].svg.contains("class=\"noise\""));
    }

    #[test]
    fn the_noise_of_a_ratio_that_the_last_arm_has_by_itself_is_shaded_around_its_mean() {
        let mut conclusion = conclusion(&SIX, Some(1.1));
        conclusion.experiments[0].effects[0].ratio = Ratio::WithPattern;
        let forest = of(&conclusion.experiments[0]).expect("a ratio");
        let svg = &forest.rows[0].svg;
        let (left, width) = (place(svg, "noise", "x"), place(svg, "noise", "width"));
        let (one, run) = (place(svg, "no-effect", "x1"), place(svg, "run", "cx"));
        let middle = left + width / 2.0;
        // The first pair, ×1.50, is almost the mean.
        assert!(
            (middle - run).abs() < (run - one) / 10.0,
            "{middle} {run} {one}"
        );
        assert!(svg.contains("noise alone goes as far from ×1.5"), "{svg}");
        assert!(forest.has_floor);
    }

    #[test]
    fn the_declared_bound_lies_between_no_effect_and_a_larger_one() {
        let svg = &plot(&SIX, Some(1.05)).rows[0].svg;
        let (one, bound, mean) = (
            place(svg, "no-effect", "x1"),
            place(svg, "bound", "x1"),
            place(svg, "run", "cx"),
        );
        assert!(one < bound && bound < mean, "{one} {bound} {mean}");
        assert!(svg.contains("declared at least ×1.15"));
    }

    #[test]
    fn names_are_no_markup_and_a_ratio_of_0_stays_in_the_picture() {
        let mut conclusion = conclusion(&SIX, Some(1.05));
        let effect = &mut conclusion.experiments[0].effects[0];
        effect.measurement = "<script>\"&".to_owned();
        effect.ratios[0] = 0.0;
        let forest = of(&conclusion.experiments[0]).expect("a ratio");
        let svg = &forest.rows[0].svg;
        roxmltree::Document::parse(svg).expect("well-formed SVG");
        assert!(!svg.contains("<script>") && svg.contains("0, beyond the axis"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn without_any_ratio_there_is_no_plot() {
        let mut conclusion = conclusion(&[(0, 0)], None);
        conclusion.experiments[0].measurements.truncate(1);
        assert!(of(&conclusion.experiments[0]).is_none());
    }
}
