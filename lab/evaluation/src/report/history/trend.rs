//! A measurement over the stored runs as inline SVG: a dot for each run, a line for each arm, the noise floor shaded, and
//! where it changed.
//!
//! Runs have equal distances, whenever they were made. Left out: colours and font sizes, which the page's style sets by
//! class, and what a change is ([`crate::statistics::change_points`]).

use std::fmt::Write;

use super::{Line, Run, Series};
use crate::report::{
    scale::{Scale, WHOLE_FLOOR, ratio_tick},
    template::escape,
};
use crate::{effects::declared, numbers, statistics::decision::Bound};

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 176.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = WIDTH - 10.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = HEIGHT - 26.0;
/// Ticks of the axis of values, at most.
const TICKS: usize = 5;
/// Arms that differ by more than this factor share a logarithmic axis: on another the smaller one would be flat.
const FLAT: f64 = 20.0;
/// The width of a change's label, where texts are largest.
const LABEL: f64 = 170.0;
/// How many lines the style has colours for.
const COLOURS: usize = 4;

/// The chart of a series, from the run with the index `first` on.
pub(super) fn chart(id: &str, series: &Series, runs: &[Run], first: usize) -> String {
    let shown: Vec<f64> = series
        .lines
        .iter()
        .flat_map(|line| line.values.iter().skip(first).flatten().copied())
        .collect();
    let scale = if series.is_ratio {
        let bound = series.bound.map(Bound::ratio);
        let floor = series.noise_floor.map(|floor| floor.min(WHOLE_FLOOR));
        let middles = series.lines.iter();
        let middles = middles.filter_map(|line| line.middle(series.is_between_arms));
        let noise = middles.flat_map(|middle| {
            let ends = floor.map(|floor| [middle / floor, middle * floor]);
            ends.into_iter().flatten()
        });
        Scale::of_ratios(shown.iter().copied().chain(bound).chain(noise))
    } else {
        Scale::of_values(&shown, FLAT, TICKS as f64 - 1.0)
    };
    let chart = Chart {
        scale,
        series,
        runs,
        first,
    };
    chart.svg(id)
}

struct Chart<'a> {
    scale: Scale,
    series: &'a Series,
    runs: &'a [Run],
    /// The index of the first run that is shown.
    first: usize,
}

impl Chart<'_> {
    /// The colour of a line. The first one is that of the arm without the pattern, which a single line is not.
    fn colour(&self, line: usize) -> usize {
        match self.series.lines.len() {
            1 => 1,
            _ => line % COLOURS,
        }
    }

    fn count(&self) -> usize {
        self.runs.len().saturating_sub(self.first)
    }

    /// The place of the left edge of a run's share of the width.
    fn edge(&self, run: usize) -> f64 {
        let shown = run.saturating_sub(self.first) as f64;
        LEFT + (RIGHT - LEFT) * shown / self.count().max(1) as f64
    }

    fn x(&self, run: usize) -> f64 {
        f64::midpoint(self.edge(run), self.edge(run + 1))
    }

    fn y(&self, value: f64) -> f64 {
        BOTTOM - self.scale.part(value) * (BOTTOM - TOP)
    }

    fn svg(&self, id: &str) -> String {
        let name = escape(&self.series.name);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"{id}t {id}d\">\
             <title id=\"{id}t\">{name}, by run</title><desc id=\"{id}d\">{}</desc>",
            escape(&self.description())
        );
        self.noise(&mut svg);
        self.axes(&mut svg);
        if let Some(bound) = self.series.bound {
            let y = self.y(bound.ratio());
            let _ = write!(
                svg,
                "<path class=\"bound\" d=\"M{LEFT} {y:.1}H{RIGHT}\"><title>declared {}</title></path>",
                declared(bound)
            );
        }
        self.changes(&mut svg);
        for (number, line) in self.series.lines.iter().enumerate() {
            self.line(&mut svg, self.colour(number), line);
        }
        self.hints(&mut svg);
        svg.push_str("</svg>");
        svg
    }

    fn description(&self) -> String {
        let lines = self.series.lines.iter().map(|line| {
            let known = line.values.iter().skip(self.first).flatten().count();
            let last = line.values.iter().rev().flatten().next();
            let last = last.map_or_else(|| numbers::NONE.to_owned(), |it| self.series.value(*it));
            let changes = match line.changes.len() {
                0 => "no change".to_owned(),
                1 => "one change".to_owned(),
                more => format!("{more} changes"),
            };
            format!("{}: {known} runs, the last {last}, {changes}", line.of)
        });
        lines.collect::<Vec<_>>().join("; ")
    }

    /// Around 1 for a ratio of two arms; else around the median of each line.
    fn noise(&self, svg: &mut String) {
        let Some(floor) = self.series.noise_floor else {
            return;
        };
        for (number, line) in self.series.lines.iter().enumerate() {
            let Some(middle) = line.middle(self.series.is_between_arms) else {
                continue;
            };
            let (top, bottom) = (self.y(middle * floor), self.y(middle / floor));
            let _ = write!(
                svg,
                "<rect class=\"noise noise{}\" x=\"{LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                self.colour(number),
                RIGHT - LEFT,
                (bottom - top).max(1.0)
            );
        }
    }

    fn axes(&self, svg: &mut String) {
        for tick in self.scale.ticks(TICKS) {
            let y = self.y(tick);
            let (class, label) = if self.series.is_ratio {
                let class = if tick == 1.0 { "no-effect" } else { "grid" };
                (class, ratio_tick(tick))
            } else {
                ("grid", numbers::value(tick, &self.series.unit))
            };
            let _ = write!(
                svg,
                "<path class=\"{class}\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/><text x=\"{}\" y=\"{y:.1}\" dy=\".32em\" \
                 text-anchor=\"end\">{}</text>",
                LEFT - 5.0,
                escape(&label)
            );
        }
        let _ = write!(svg, "<path class=\"axis\" d=\"M{LEFT} {BOTTOM}H{RIGHT}\"/>");
        let day = |run: &Run| run.started_at.format("%Y-%m-%d").to_string();
        let y = BOTTOM + 18.0;
        if let (Some(first), Some(last)) = (self.runs.get(self.first), self.runs.last()) {
            let _ = write!(svg, "<text x=\"{LEFT}\" y=\"{y}\">{}</text>", day(first));
            if self.count() > 1 {
                let _ = write!(
                    svg,
                    "<text x=\"{RIGHT}\" y=\"{y}\" text-anchor=\"end\">{}</text>",
                    day(last)
                );
            }
        }
        // Where the version changed.
        let mut versions = String::new();
        for run in self.first + 1..self.runs.len() {
            if self.runs[run].agora != self.runs[run - 1].agora {
                let _ = write!(versions, "M{:.1} {BOTTOM}v5", self.edge(run));
            }
        }
        if !versions.is_empty() {
            let _ = write!(svg, "<path class=\"axis\" d=\"{versions}\"/>");
        }
    }

    fn changes(&self, svg: &mut String) {
        let lines = self.series.lines.iter();
        let mut places: Vec<usize> = lines
            .flat_map(|line| line.changes.iter().map(|change| change.at))
            .filter(|at| *at > self.first)
            .collect();
        places.sort_unstable();
        places.dedup();
        let mut labelled_to = 0.0;
        for at in places {
            let x = self.edge(at);
            let _ = write!(
                svg,
                "<path class=\"change\" d=\"M{x:.1} {}V{BOTTOM}\"/>",
                TOP - 3.0
            );
            // Where it would run out of the picture, it ends with the line instead.
            let (from, anchor) = if x > WIDTH * 0.6 {
                (x - LABEL, "end")
            } else {
                (x, "start")
            };
            // Each change is in words besides: none is lost where two labels have no room.
            if from < labelled_to {
                continue;
            }
            labelled_to = from + LABEL;
            let _ = write!(
                svg,
                "<text class=\"change-label\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"{anchor}\">changed {}</text>",
                TOP - 8.0,
                self.runs[at].started_at.format("%m-%d %H:%M")
            );
        }
    }

    fn line(&self, svg: &mut String, colour: usize, line: &Line) {
        let mut path = String::new();
        let mut dots = String::new();
        let mut drawing = false;
        for (run, value) in line.values.iter().enumerate().skip(self.first) {
            if let Some(value) = value {
                let (x, y) = (self.x(run), self.y(*value));
                let command = if drawing { 'L' } else { 'M' };
                let _ = write!(path, "{command}{x:.1} {y:.1}");
                let _ = write!(dots, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\"/>");
            }
            drawing = value.is_some();
        }
        let _ = write!(
            svg,
            "<g class=\"line line{colour}\"><path d=\"{path}\"/>{dots}</g>"
        );
    }

    /// What is said of a run when the pointer rests on it.
    fn hints(&self, svg: &mut String) {
        for (index, run) in self.runs.iter().enumerate().skip(self.first) {
            let values = self.series.lines.iter().map(|line| {
                let value = line.values.get(index).copied().flatten();
                let value =
                    value.map_or_else(|| numbers::NONE.to_owned(), |it| self.series.value(it));
                format!("{} {value}", line.of)
            });
            let values: Vec<String> = values.collect();
            let (left, right) = (self.edge(index), self.edge(index + 1));
            let _ = write!(
                svg,
                "<path class=\"hint\" d=\"M{left:.1} {TOP}H{right:.1}V{BOTTOM}H{left:.1}z\"><title>{}: {}, {} ({})</title></path>",
                escape(&run.run),
                escape(&values.join(", ")),
                run.outcome.word(),
                escape(&run.agora)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        measurement::{Better, Outcome},
        report::{history::Change, tests::at},
    };

    fn series(changes: &[usize]) -> (Series, Vec<Run>) {
        let run = |index: usize| Run {
            run: format!("run-{index}"),
            started_at: at(86_400.0 * index as f64),
            agora: "f4ea5e7".to_owned(),
            engine: "1".to_owned(),
            cores: 2,
            memory_bytes: 1 << 33,
            profile: records::evaluation::Profile::Default,
            repetitions: 1,
            outcome: Outcome::Upheld,
        };
        let change = |at: &usize| Change {
            at: *at,
            run: format!("run-{at}"),
            p: 0.01,
            before: 1.0,
            after: 2.0,
        };
        let series = Series {
            name: "orders lost".to_owned(),
            unit: String::new(),
            is_ratio: false,
            better: Better::Less,
            bound: None,
            noise_floor: Some(1.2),
            is_between_arms: false,
            lines: vec![Line {
                of: "off".to_owned(),
                values: (0..20)
                    .map(|run| (run != 4).then(|| f64::from(run)))
                    .collect(),
                changes: changes.iter().map(change).collect(),
            }],
        };
        (series, (0..20).map(run).collect())
    }

    #[test]
    fn a_dot_for_each_value_and_a_gap_where_there_is_none() {
        let (series, runs) = series(&[]);
        let svg = chart("a", &series, &runs, 0);
        roxmltree::Document::parse(&svg).expect("well-formed SVG");
        assert_eq!(svg.matches("<circle ").count(), 19);
        let line = svg.split("<g class=\"line").nth(1).expect("a line");
        let path = line.split('"').nth(2).expect("a path");
        assert_eq!(path.matches('M').count(), 2, "{path}");
        assert!(svg.contains("class=\"noise "));
        // The last five alone.
        let svg = chart("a", &series, &runs, 15);
        assert_eq!(svg.matches("<circle ").count(), 5);
    }

    #[test]
    fn the_noise_of_a_ratio_is_shaded_around_1_only_where_arms_are_compared() {
        let (mut series, runs) = series(&[]);
        series.is_ratio = true;
        series.lines[0].values = vec![Some(2.0); runs.len()];
        for is_between_arms in [true, false] {
            series.is_between_arms = is_between_arms;
            let svg = chart("a", &series, &runs, 0);
            let document = roxmltree::Document::parse(&svg).expect("well-formed SVG");
            let number = |tag: &str, attribute: &str| -> f64 {
                let mut nodes = document.descendants();
                let node = nodes.find(|node| node.has_tag_name(tag)).expect(tag);
                let value = node.attribute(attribute).expect(attribute);
                value.parse().expect("a number")
            };
            let top = number("rect", "y");
            let noise = top..top + number("rect", "height");
            let run = number("circle", "cy");
            assert_eq!(noise.contains(&run), !is_between_arms, "{noise:?} {run}");
        }
    }

    #[test]
    fn labels_of_changes_never_lie_on_each_other() {
        let (series, runs) = series(&[2, 3, 19]);
        let svg = chart("a", &series, &runs, 0);
        assert_eq!(svg.matches("class=\"change\"").count(), 3);
        assert_eq!(svg.matches("class=\"change-label\"").count(), 2);
    }
}
