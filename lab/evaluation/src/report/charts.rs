//! Timelines as inline SVG: throughput, latency and backlog of an arm over the seconds of its load, with the fault
//! shaded. All arms of a trial have the same [`Scales`], so that what looks higher is higher.
//!
//! Left out: colours and font sizes, which the page (`page.html`) sets by class.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use records::evaluation::{Arm, Sample};

use super::{scale, template::escape};
use crate::numbers;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = WIDTH - 8.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = HEIGHT - 26.0;
/// Distances between ticks of an axis, at most.
const SECONDS_TICKS: f64 = 7.0;
const COUNT_TICKS: f64 = 4.0;
/// How long a chart goes on after the load, at most, as a multiple of the load.
const AFTERMATH: f64 = 3.0;
/// How far an axis goes beyond what is drawn: the shading is seen above it.
const HEADROOM: f64 = 1.05;
/// The lowest latency that is drawn as itself.
const LEAST_MS: f64 = 1.0;

/// Converts an arm's times to seconds of its load.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    zero: DateTime<Utc>,
}

impl Clock {
    /// Second 0 is the first of the measured load, or the arm's beginning where there was none.
    pub fn of(arm: &Arm) -> Self {
        let load = arm.load.as_ref();
        Self {
            zero: load.map_or(arm.started_at, |load| load.summary.measured_from),
        }
    }

    /// Seconds from second 0 on.
    pub fn seconds(self, at: DateTime<Utc>) -> f64 {
        (at - self.zero).as_seconds_f64()
    }

    /// The seconds from the fault's injection to its healing; `None` without a fault.
    pub fn fault(self, arm: &Arm) -> Option<(f64, f64)> {
        let fault = arm.fault.as_ref()?;
        let (from, to) = fault.injected_at.zip(fault.healed_at)?;
        Some((self.seconds(from), self.seconds(to)))
    }
}

/// When the last request was sent.
fn load_ends(arm: &Arm) -> f64 {
    let load = arm.load.as_ref();
    load.map_or(0.0, |load| load.timeline.len() as f64)
}

/// The axes that all arms of a trial share.
#[derive(Debug, Clone, PartialEq)]
pub struct Scales {
    /// The last second that is drawn.
    seconds: f64,
    /// The most requests in a second.
    requests: f64,
    /// The longest latency; a power of ten.
    latency_ms: f64,
    /// The most orders or events that wait.
    waiting: f64,
}

impl Scales {
    /// Axes that are as large as these arms need.
    pub fn of(arms: &[Arm]) -> Self {
        let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        let timeline = || {
            let loads = arms.iter().filter_map(|arm| arm.load.as_ref());
            loads.flat_map(|load| &load.timeline)
        };
        let loads_end = largest(&mut arms.iter().map(load_ends)).max(1.0);
        let heals = largest(
            &mut arms
                .iter()
                .filter_map(|arm| Some(Clock::of(arm).fault(arm)?.1)),
        );
        let moves = largest(&mut arms.iter().filter_map(last_move));
        let until = moves.max(heals).min(loads_end * AFTERMATH).max(loads_end);
        let requests = timeline().map(|second| (second.sent + second.not_sent) as f64);
        let latencies = timeline().filter_map(|second| second.p99_ms);
        let waiting = arms.iter().flat_map(|arm| &arm.samples);
        let waiting = waiting.map(|sample| sample.undecided.max(sample.unpublished) as f64);
        let longest: f64 = largest(&mut { latencies });
        Self {
            seconds: until.ceil(),
            requests: nice(largest(&mut { requests }).max(4.0) * HEADROOM),
            latency_ms: 10_f64.powf(longest.max(10.0).log10().ceil()),
            waiting: nice(largest(&mut { waiting }).max(4.0) * HEADROOM),
        }
    }

    fn x(&self, second: f64) -> f64 {
        LEFT + (second / self.seconds).clamp(0.0, 1.0) * (RIGHT - LEFT)
    }
}

/// When the last change of what waits was seen. What never ends waits for ever: that is no change.
fn last_move(arm: &Arm) -> Option<f64> {
    let pairs = arm.samples.windows(2);
    let mut moves = pairs.filter(|pair| waits(&pair[0]) != waits(&pair[1]));
    let last = moves.next_back()?;
    Some(Clock::of(arm).seconds(last[1].at) + 1.0)
}

fn waits(sample: &Sample) -> (u64, u64) {
    (sample.undecided, sample.unpublished)
}

/// The next larger round number.
fn nice(value: f64) -> f64 {
    let step = step(value, COUNT_TICKS);
    (value / step).ceil() * step
}

/// A round distance between ticks of whole numbers.
fn step(range: f64, ticks: f64) -> f64 {
    scale::step(range, ticks).max(1.0)
}

/// Requests a second, stacked: succeeded, failed, not sent.
pub fn throughput(id: &str, arm: &Arm, scales: &Scales) -> String {
    let timeline = arm.load.as_ref().map_or(&[][..], |load| &load.timeline);
    let y = linear(scales.requests);
    let (mut succeeded, mut failed, mut not_sent) = (String::new(), String::new(), String::new());
    for second in timeline {
        let from = f64::from(second.second);
        let (left, right) = (scales.x(from + 0.08), scales.x(from + 0.92));
        let mut below = 0_u64;
        for (path, count) in [
            (&mut succeeded, second.succeeded),
            (&mut failed, second.failed),
            (&mut not_sent, second.not_sent),
        ] {
            if count > 0 {
                let (bottom, top) = (y(below as f64), y((below + count) as f64));
                let _ = write!(
                    path,
                    "M{left:.1} {bottom:.1}V{top:.1}H{right:.1}V{bottom:.1}z"
                );
                below += count;
            }
        }
    }
    let mut chart = Chart::new(id, arm, scales, "Requests a second");
    chart.describe(&format!(
        "at most {} succeeded, {} failed and {} not sent in a second",
        timeline.iter().map(|s| s.succeeded).max().unwrap_or(0),
        timeline.iter().map(|s| s.failed).max().unwrap_or(0),
        timeline.iter().map(|s| s.not_sent).max().unwrap_or(0),
    ));
    chart.linear_axis(scales.requests);
    chart.path("succeeded", &succeeded);
    chart.path("failed", &failed);
    chart.path("not-sent", &not_sent);
    chart.hints(timeline.iter().map(|second| {
        let (sent, not_sent) = (second.sent, second.not_sent);
        let text = format!(
            "{sent} sent: {} succeeded, {} failed; {not_sent} not sent",
            second.succeeded, second.failed
        );
        (f64::from(second.second), text)
    }));
    chart.end()
}

/// Median and 99th percentile of each second's requests, on a logarithmic axis.
pub fn latency(id: &str, arm: &Arm, scales: &Scales) -> String {
    let timeline = arm.load.as_ref().map_or(&[][..], |load| &load.timeline);
    let decades = (scales.latency_ms / LEAST_MS).log10();
    let y = |ms: f64| {
        let part = (ms.max(LEAST_MS) / LEAST_MS).log10() / decades;
        BOTTOM - part.min(1.0) * (BOTTOM - TOP)
    };
    let points =
        |value: fn(&records::load::TimelineSecond) -> Option<f64>| -> Vec<Option<(f64, f64)>> {
            let point = |second: &records::load::TimelineSecond| {
                Some((scales.x(f64::from(second.second) + 0.5), y(value(second)?)))
            };
            timeline.iter().map(point).collect()
        };
    let (p50, p99) = (
        points(|second| second.p50_ms),
        points(|second| second.p99_ms),
    );
    let longest = timeline.iter().filter_map(|second| second.p99_ms);
    let longest = longest.fold(0.0, f64::max);

    let mut chart = Chart::new(id, arm, scales, "Latency");
    chart.describe(&format!(
        "the highest 99th percentile of a second is {}",
        numbers::value(longest, "ms")
    ));
    let mut decade = LEAST_MS;
    while decade <= scales.latency_ms * 1.01 {
        chart.tick(
            y(decade),
            &numbers::value(decade, "ms").replace(".0 s", " s"),
        );
        decade *= 10.0;
    }
    for (class, points) in [("p99", &p99), ("p50", &p50)] {
        chart.path(class, &line(points));
        chart.path(&format!("{class} dots"), &dots(points));
    }
    chart.hints(timeline.iter().filter_map(|second| {
        let (p50, p99) = second.p50_ms.zip(second.p99_ms)?;
        let text = format!(
            "p50 {}, p99 {}",
            numbers::value(p50, "ms"),
            numbers::value(p99, "ms")
        );
        Some((f64::from(second.second), text))
    }));
    chart.end()
}

/// Orders without an end and events that are not published, until all is settled.
pub fn backlog(id: &str, arm: &Arm, scales: &Scales) -> String {
    let clock = Clock::of(arm);
    let y = linear(scales.waiting);
    let seen: Vec<(f64, &Sample)> = arm
        .samples
        .iter()
        .map(|sample| (clock.seconds(sample.at), sample))
        .filter(|(second, _)| (-1.0..=scales.seconds).contains(second))
        .collect();
    let steps = |value: fn(&Sample) -> u64| {
        let mut path = String::new();
        let mut last = None;
        for (second, sample) in &seen {
            let (x, height) = (scales.x(*second), y(value(sample) as f64));
            if path.is_empty() {
                let _ = write!(path, "M{x:.1} {height:.1}");
            } else if last != Some(value(sample)) {
                let _ = write!(path, "H{x:.1}V{height:.1}");
            }
            last = Some(value(sample));
        }
        if let Some((second, _)) = seen.last() {
            let _ = write!(path, "H{:.1}", scales.x(*second));
        }
        path
    };
    let (undecided, unpublished) = (
        steps(|sample| sample.undecided),
        steps(|sample| sample.unpublished),
    );
    let most = |value: fn(&Sample) -> u64| arm.samples.iter().map(value).max().unwrap_or(0);

    let mut chart = Chart::new(id, arm, scales, "Backlog");
    chart.describe(&format!(
        "at most {} orders without an end and {} events not published",
        most(|sample| sample.undecided),
        most(|sample| sample.unpublished)
    ));
    chart.linear_axis(scales.waiting);
    if let (Some((first, _)), false) = (seen.first(), undecided.is_empty()) {
        let area = format!("{undecided}V{BOTTOM}H{:.1}z", scales.x(*first));
        chart.path("undecided area", &area);
    }
    chart.path("undecided", &undecided);
    chart.path("unpublished", &unpublished);
    let mut hinted = None;
    chart.hints(seen.iter().filter_map(|(at, sample)| {
        let second = at.floor();
        if hinted.replace(second) == Some(second) {
            return None;
        }
        let text = format!(
            "{} orders without an end, {} events not published",
            sample.undecided, sample.unpublished
        );
        Some((second, text))
    }));
    chart.end()
}

/// From a value to its height.
fn linear(largest: f64) -> impl Fn(f64) -> f64 {
    move |value| BOTTOM - (value / largest).min(1.0) * (BOTTOM - TOP)
}

/// A line through the points, interrupted where there is none.
fn line(points: &[Option<(f64, f64)>]) -> String {
    let mut path = String::new();
    let mut drawing = false;
    for point in points {
        if let Some((x, y)) = point {
            let command = if drawing { 'L' } else { 'M' };
            let _ = write!(path, "{command}{x:.1} {y:.1}");
        }
        drawing = point.is_some();
    }
    path
}

/// A dot at each point: lines of no length, with round caps.
fn dots(points: &[Option<(f64, f64)>]) -> String {
    let mut path = String::new();
    for (x, y) in points.iter().flatten() {
        let _ = write!(path, "M{x:.1} {y:.1}h0");
    }
    path
}

/// An SVG under construction: what all kinds have in common.
struct Chart<'a> {
    scales: &'a Scales,
    id: &'a str,
    title: String,
    description: String,
    fault: Option<(f64, f64)>,
    load_ends: f64,
    axes: String,
    data: String,
}

impl<'a> Chart<'a> {
    fn new(id: &'a str, arm: &Arm, scales: &'a Scales, what: &str) -> Self {
        Self {
            scales,
            id,
            title: format!("{what}, arm {}", arm.name),
            description: String::new(),
            fault: Clock::of(arm).fault(arm),
            load_ends: load_ends(arm),
            axes: String::new(),
            data: String::new(),
        }
    }

    fn describe(&mut self, text: &str) {
        let fault = self.fault.map_or_else(
            || "there was no fault".to_owned(),
            |(from, to)| format!("the fault was there from second {from:.1} to {to:.1}"),
        );
        self.description = format!("{text}; {fault}.");
    }

    fn linear_axis(&mut self, largest: f64) {
        let (y, step) = (linear(largest), step(largest, COUNT_TICKS));
        let mut value = 0.0;
        while value <= largest {
            self.tick(y(value), &numbers::value(value, ""));
            value += step;
        }
    }

    fn tick(&mut self, y: f64, label: &str) {
        let _ = write!(
            self.axes,
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/><text x=\"{}\" y=\"{y:.1}\" dy=\".32em\" \
             text-anchor=\"end\">{label}</text>",
            LEFT - 5.0
        );
    }

    fn path(&mut self, class: &str, d: &str) {
        if !d.is_empty() {
            let _ = write!(self.data, "<path class=\"{class}\" d=\"{d}\"/>");
        }
    }

    /// What is said of a second when the pointer rests on it.
    fn hints(&mut self, hints: impl Iterator<Item = (f64, String)>) {
        let width = self.scales.x(1.0) - self.scales.x(0.0);
        for (second, text) in hints.filter(|(second, _)| *second >= 0.0) {
            let _ = write!(
                self.data,
                "<path class=\"hint\" d=\"M{:.1} {TOP}h{width:.1}V{BOTTOM}h-{width:.1}z\"><title>second {second}: \
                 {text}</title></path>",
                self.scales.x(second),
            );
        }
    }

    fn end(self) -> String {
        let Self {
            scales,
            id,
            title,
            description,
            ..
        } = &self;
        let title = escape(title);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"{id}t {id}d\">\
             <title id=\"{id}t\">{title}</title><desc id=\"{id}d\">{}</desc>",
            escape(description)
        );
        if let Some((from, to)) = self.fault {
            let (left, right) = (scales.x(from), scales.x(to));
            // A fault of a moment is still to be seen.
            let width = (right - left).max(1.5);
            let _ = write!(
                svg,
                "<rect class=\"fault\" x=\"{left:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
                BOTTOM - TOP
            );
            // Where it would run out of the picture, it ends with the window instead.
            let (x, anchor) = if left > WIDTH * 0.6 {
                (right, "end")
            } else {
                (left, "start")
            };
            let _ = write!(
                svg,
                "<text class=\"fault-label\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"{anchor}\">fault \
                 {from:.1}–{to:.1} s</text>",
                TOP - 8.0
            );
        }
        svg.push_str(&self.axes);
        let step = step(scales.seconds, SECONDS_TICKS);
        let mut second = 0.0;
        while second <= scales.seconds {
            let x = scales.x(second);
            // Neither runs into the other axis nor out of the picture.
            let (unit, anchor) = if second == 0.0 {
                (" s", "start")
            } else if x > RIGHT - 8.0 {
                ("", "end")
            } else {
                ("", "middle")
            };
            let _ = write!(
                svg,
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{second}{unit}</text>",
                BOTTOM + 18.0
            );
            second += step;
        }
        if self.load_ends > 0.0 && self.load_ends + 0.5 < scales.seconds {
            let x = scales.x(self.load_ends);
            let _ = write!(
                svg,
                "<path class=\"load-end\" d=\"M{x:.1} {TOP}V{BOTTOM}\"/>"
            );
        }
        svg.push_str(&self.data);
        if let Some((from, to)) = self.fault {
            // Over the data: bars may hide the shading.
            let (left, right) = (scales.x(from), scales.x(to));
            let _ = write!(
                svg,
                "<path class=\"fault-edge\" d=\"M{left:.1} {BOTTOM}V{top}H{right:.1}V{BOTTOM}\"/>",
                top = TOP - 3.0
            );
        }
        let _ = write!(
            svg,
            "<path class=\"axis\" d=\"M{LEFT} {BOTTOM}H{RIGHT}\"/></svg>"
        );
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{Sketch, at};

    /// The value of an attribute of the first element with this class.
    fn attribute(svg: &str, class: &str, name: &str) -> f64 {
        let document = roxmltree::Document::parse(svg).expect("well-formed SVG");
        let mut nodes = document.descendants();
        let node = nodes.find(|node| node.attribute("class") == Some(class));
        let value = node.and_then(|node| node.attribute(name));
        value.and_then(|value| value.parse().ok()).expect(name)
    }

    #[test]
    fn the_fault_is_shaded_from_its_injection_to_its_healing() {
        let arm = Sketch::arm("off").fault(4.0, 7.0).seconds(14).build();
        let scales = Scales::of(std::slice::from_ref(&arm));
        for svg in [
            throughput("a", &arm, &scales),
            latency("b", &arm, &scales),
            backlog("c", &arm, &scales),
        ] {
            let per_second = (RIGHT - LEFT) / scales.seconds;
            let x = attribute(&svg, "fault", "x");
            let width = attribute(&svg, "fault", "width");
            assert!((x - (LEFT + 4.0 * per_second)).abs() < 0.1, "{x}");
            assert!((width - 3.0 * per_second).abs() < 0.1, "{width}");
            assert!(svg.contains("fault 4.0–7.0 s"), "{svg}");
        }
    }

    #[test]
    fn without_a_fault_nothing_is_shaded_and_without_a_load_nothing_breaks() {
        let mut arm = Sketch::arm("off").build();
        arm.fault = None;
        let scales = Scales::of(std::slice::from_ref(&arm));
        assert!(!throughput("a", &arm, &scales).contains("class=\"fault\""));
        arm.load = None;
        arm.samples.clear();
        let scales = Scales::of(std::slice::from_ref(&arm));
        for svg in [
            throughput("a", &arm, &scales),
            latency("b", &arm, &scales),
            backlog("c", &arm, &scales),
        ] {
            roxmltree::Document::parse(&svg).expect("well-formed SVG");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn arms_share_their_axes() {
        let small = Sketch::arm("off").rate(10).build();
        let large = Sketch::arm("on").rate(100).build();
        let scales = Scales::of(&[small.clone(), large]);
        assert!(scales.requests >= 100.0);
        let svg = throughput("a", &small, &scales);
        assert!(svg.contains(">100<"), "{svg}");
    }

    #[test]
    fn what_waits_for_ever_does_not_stretch_the_axis() {
        let mut arm = Sketch::arm("off").seconds(10).build();
        for second in 10..200 {
            arm.samples.push(Sample {
                at: at(f64::from(second)),
                decided: 300,
                undecided: 41,
                unpublished: 0,
            });
        }
        let scales = Scales::of(std::slice::from_ref(&arm));
        assert!(scales.seconds <= 30.0, "{}", scales.seconds);
    }

    #[test]
    fn the_name_of_an_arm_is_no_markup() {
        let mut arm = Sketch::arm("off").build();
        arm.name = "<script>".to_owned();
        let scales = Scales::of(std::slice::from_ref(&arm));
        assert!(!throughput("a", &arm, &scales).contains("<script>"));
    }

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!(nice(97.0), 100.0);
        assert_eq!(nice(41.0), 60.0);
        assert_eq!(nice(40.0), 40.0);
        assert_eq!(step(14.0, SECONDS_TICKS), 2.0);
    }
}
