//! The stored runs of a machine over time: of each experiment the decisive measurements and the declared effects, and where they changed.
//!
//! Runs with the quick profile are a history of their own: their loads may be shorter. Runs that were sabotaged, and A/A runs,
//! say nothing of a pattern, and runs on another machine than the last one would look like a change; they are counted and
//! left out.
//!
//! Left out: reading them ([`crate::history`]), how the charts look (`trend`), and the terminal's form (`xtask`).

mod trend;

use chrono::{DateTime, Utc};
use records::evaluation::{Design, Machine, Profile, Ratio};
use serde::Serialize;

use super::{
    html::PAGE_FILE,
    template::{self, Badge, minute},
};
use crate::{
    conclusion::{Conclusion, ExperimentConclusion, MeasurementSummary},
    effects::{EffectConclusion, declared},
    experiment::Kind,
    experiments,
    measurement::{Better, Outcome},
    numbers::{self, NONE},
    statistics::{Spread, change_points, decision::Bound, pairs},
};

const TEMPLATE: &str = include_str!("history.html");
/// The version of the form.
pub const FORMAT: u32 = 1;
/// How a change is found, with its source.
pub const METHOD: &str = "E-divisive (Matteson and James 2014) on ranks, tested by permutations";
/// Among how many runs, the last ones, changes are looked for: the time for it grows with their square.
pub const SEARCHED: usize = 200;
/// The most runs of an experiment on the page.
const MOST_RUNS: usize = SEARCHED;

/// The history of the runs on one machine: that of the last run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct History {
    /// The version of this form: [`FORMAT`].
    pub format: u32,
    /// How changes were found.
    pub method: &'static str,
    /// The error of that method: of lines without a change, each searched by itself, this part seems to have one.
    pub level: f64,
    /// Runs that are stored and have no part in it.
    pub left_out: LeftOut,
    /// In the order in which experiments are run.
    pub experiments: Vec<ExperimentHistory>,
}

/// How many runs have no part in a history, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Something was broken on purpose.
    pub sabotaged: usize,
    /// A/A: every arm ran as shipped.
    pub same_arms: usize,
    /// They were made on another machine than the last run.
    pub other_machine: usize,
    /// This version can't judge them.
    pub unreadable: usize,
}

/// All runs of an experiment with loads of the same profile.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExperimentHistory {
    /// The experiment's name.
    pub name: String,
    /// Whether it is of the runs with the quick profile.
    pub quick: bool,
    /// Whether single runs decide its claim.
    pub kind: Kind,
    /// The oldest first.
    pub runs: Vec<Run>,
    /// The declared effects, each with its measurement after it; then the other decisive measurements.
    pub series: Vec<Series>,
}

/// A run of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// The run's id.
    pub run: String,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// The repository's commit.
    pub agora: String,
    /// The container engine's version.
    pub engine: String,
    /// How many cores the engine had.
    pub cores: u32,
    /// How much memory the engine had.
    pub memory_bytes: u64,
    /// How thorough it was.
    pub profile: Profile,
    /// How often the experiment was run in it.
    pub repetitions: usize,
    /// The verdict on the experiment.
    pub outcome: Outcome,
}

/// A measurement or a declared effect over the runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// The measurement's name.
    pub name: String,
    /// The unit of the values; empty for counts and ratios.
    pub unit: String,
    /// Whether the values are ratios: those of a declared effect, as the geometric mean of a run's pairs. Else they are
    /// medians over a run's repetitions.
    pub is_ratio: bool,
    /// In which direction it gets better.
    pub better: Better,
    /// How large the ratio must be.
    pub bound: Option<Bound>,
    /// How far noise alone takes a ratio, as a factor, as the last run that knew it has it.
    pub noise_floor: Option<f64>,
    /// Whether the noise floor lies around 1, as that of a ratio of two arms does. Else it lies around the median of all runs.
    #[serde(skip)]
    pub is_between_arms: bool,
    /// One for each arm; of an effect, a single one.
    pub lines: Vec<Line>,
}

/// The values of one arm, or of a ratio.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// The arm, or what is divided by what.
    pub of: String,
    /// One for each run; `None` where it wasn't measured.
    pub values: Vec<Option<f64>>,
    /// Where they changed, the first change first.
    pub changes: Vec<Change>,
}

/// From one run on, the values differ from those before.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The index of the first run after the change.
    pub at: usize,
    /// That run's id.
    pub run: String,
    /// The probability of a change that stands out as much, if the runs of the part that is split here were in a random order.
    pub p: f64,
    /// The median from the change before it, if any, to this one.
    pub before: f64,
    /// The median from this change to the next one, if any.
    pub after: f64,
}

impl History {
    /// The history of conclusions, the oldest first, and of as many runs that can't be judged.
    pub fn of(conclusions: &[Conclusion], unreadable: usize) -> Self {
        let machine = conclusions.last().map(|last| last.versions.machine());
        let is_here = |it: &&Conclusion| {
            let here = machine.as_ref();
            here.is_some_and(|here| it.versions.machine().is_like(here))
        };
        let here: Vec<&Conclusion> = conclusions.iter().filter(is_here).collect();
        let count = |which: fn(&Conclusion) -> bool| here.iter().filter(|it| which(it)).count();
        let experiments = experiments::ALL.iter().flat_map(|experiment| {
            let of = |quick| ExperimentHistory::of(&here, experiment.name, quick);
            [of(false), of(true)].into_iter().flatten()
        });
        Self {
            format: FORMAT,
            method: METHOD,
            level: pairs::LEVEL,
            left_out: LeftOut {
                sabotaged: count(|it| it.sabotage.is_some()),
                same_arms: count(|it| it.sabotage.is_none() && it.design == Design::SameArms),
                other_machine: conclusions.len() - here.len(),
                unreadable,
            },
            experiments: experiments.collect(),
        }
    }

    /// That of these experiments alone.
    pub fn only(mut self, names: &[String]) -> Self {
        self.experiments
            .retain(|experiment| names.contains(&experiment.name));
        self
    }
}

impl LeftOut {
    /// Why runs have no part in it, in words: `2 sabotaged, 1 A/A`; `None` where all have.
    pub fn describe(self) -> Option<String> {
        let reasons = [
            (self.sabotaged, "sabotaged"),
            (self.same_arms, "A/A"),
            (self.other_machine, "on another machine"),
            (self.unreadable, "unreadable for this version"),
        ];
        let said = reasons.iter().filter(|(count, _)| *count > 0);
        let said: Vec<String> = said.map(|(count, why)| format!("{count} {why}")).collect();
        (!said.is_empty()).then(|| said.join(", "))
    }
}

impl ExperimentHistory {
    /// `None` where no such run has a part in it.
    fn of(conclusions: &[&Conclusion], name: &str, quick: bool) -> Option<Self> {
        let runs: Vec<(&Conclusion, &ExperimentConclusion)> = conclusions
            .iter()
            .copied()
            .filter(|it| it.sabotage.is_none() && it.design == Design::Pattern)
            .filter(|it| (it.profile == Profile::Quick) == quick)
            .filter_map(|it| {
                let mut experiments = it.experiments.iter();
                Some((it, experiments.find(|experiment| experiment.name == name)?))
            })
            .collect();
        // Its measurements and effects are those of the last run: earlier ones may lack some.
        let (_, last) = runs.last()?;
        let views: Vec<Run> = runs.iter().map(|(run, it)| Run::of(run, it)).collect();
        let effects = last
            .effects
            .iter()
            .map(|effect| effect_series(effect, &runs));
        let decisive = last.measurements.iter().filter(|it| it.decisive);
        let measured = decisive.map(|measurement| measurement_series(measurement, &runs));
        let mut series: Vec<Series> = effects.collect();
        for measured in measured {
            // What an effect is the ratio of stands beside it.
            let effect = series.iter().position(|it| it.name == measured.name);
            series.insert(effect.map_or(series.len(), |effect| effect + 1), measured);
        }
        for line in series.iter_mut().flat_map(|series| &mut series.lines) {
            line.changes = changes(&line.values, &views);
        }
        Some(Self {
            name: name.to_owned(),
            quick,
            kind: last.kind,
            runs: views,
            series,
        })
    }

    /// The experiment's name, with what tells its runs from others.
    pub fn title(&self) -> String {
        if self.quick {
            format!("{}, profile quick", self.name)
        } else {
            self.name.clone()
        }
    }

    /// The changes in sentences.
    pub fn changes(&self) -> Vec<String> {
        let mut said = Vec::new();
        for series in &self.series {
            for line in &series.lines {
                for change in &line.changes {
                    said.push(format!(
                        "{} ({}): {} before, {} from run {} on, p {:.4}",
                        series.name,
                        line.of,
                        series.value(change.before),
                        series.value(change.after),
                        change.run,
                        change.p
                    ));
                }
            }
        }
        said
    }
}

impl Run {
    fn of(conclusion: &Conclusion, experiment: &ExperimentConclusion) -> Self {
        let versions = &conclusion.versions;
        Self {
            run: conclusion.run.clone(),
            started_at: conclusion.started_at,
            agora: versions.agora.clone(),
            engine: versions.engine.clone(),
            cores: versions.cores,
            memory_bytes: versions.memory_bytes,
            profile: conclusion.profile,
            repetitions: experiment.repetitions(),
            outcome: experiment.outcome,
        }
    }

    fn machine(&self) -> Machine {
        Machine {
            cores: self.cores,
            memory_bytes: self.memory_bytes,
            engine: self.engine.clone(),
        }
    }
}

impl Series {
    /// The measurement's name, with what tells a ratio from it.
    pub fn title(&self) -> String {
        if self.is_ratio {
            format!("{}, ratio", self.name)
        } else {
            self.name.clone()
        }
    }

    /// A value as it is written.
    pub fn value(&self, value: f64) -> String {
        if self.is_ratio {
            numbers::ratio(value)
        } else {
            numbers::value(value, &self.unit)
        }
    }

    /// The values of a run in all lines: `41 → 0`.
    pub fn cell(&self, run: usize) -> String {
        let lines = self.lines.iter().map(|line| {
            let value = line.values.get(run).copied().flatten();
            value.map_or_else(|| NONE.to_owned(), |value| self.value(value))
        });
        lines.collect::<Vec<_>>().join(" → ")
    }

    /// What its values are: `off → on`, `on / off`.
    pub fn of(&self) -> String {
        let lines = self.lines.iter().map(|line| line.of.as_str());
        lines.collect::<Vec<_>>().join(" → ")
    }
}

impl Line {
    /// What the noise floor lies around: 1 for a ratio of two arms, else the median of all runs; `None` where that has no factor.
    pub(super) fn middle(&self, is_between_arms: bool) -> Option<f64> {
        if is_between_arms {
            return Some(1.0);
        }
        let spread = Spread::of(self.values.iter().flatten().copied())?;
        (spread.median > 0.0).then_some(spread.median)
    }
}

fn effect_series(
    effect: &EffectConclusion,
    runs: &[(&Conclusion, &ExperimentConclusion)],
) -> Series {
    let same = |experiment: &ExperimentConclusion| {
        let mut effects = experiment.effects.iter();
        let of =
            |it: &&EffectConclusion| it.measurement == effect.measurement && it.of == effect.of;
        effects.find(of).cloned()
    };
    let seen: Vec<Option<EffectConclusion>> = runs.iter().map(|(_, it)| same(it)).collect();
    let floors = seen.iter().rev().flatten();
    Series {
        name: effect.measurement.clone(),
        unit: String::new(),
        is_ratio: true,
        better: match effect.bound {
            Bound::AtLeast(_) => Better::More,
            Bound::AtMost(_) => Better::Less,
        },
        bound: Some(effect.bound),
        noise_floor: floors.filter_map(|effect| effect.noise_floor).next(),
        is_between_arms: effect.ratio == Ratio::BetweenArms,
        lines: vec![Line {
            // Names of arms in it are code on the page and on a terminal alike.
            of: effect.of.replace('`', ""),
            values: seen.iter().map(|effect| effect.as_ref()?.mean()).collect(),
            changes: Vec::new(),
        }],
    }
}

fn measurement_series(
    measurement: &MeasurementSummary,
    runs: &[(&Conclusion, &ExperimentConclusion)],
) -> Series {
    let seen: Vec<Option<&MeasurementSummary>> = runs
        .iter()
        .map(|(_, experiment)| {
            let mut measurements = experiment.measurements.iter();
            measurements.find(|it| it.name == measurement.name && it.unit == measurement.unit)
        })
        .collect();
    let median = |measurement: &MeasurementSummary, arm: &str| {
        let arm = measurement.arms.iter().find(|it| it.arm == arm)?;
        Some(arm.spread?.median).filter(|median| median.is_finite())
    };
    let floors = seen.iter().rev().flatten();
    Series {
        name: measurement.name.clone(),
        unit: measurement.unit.clone(),
        is_ratio: false,
        better: measurement.better,
        bound: None,
        noise_floor: floors.filter_map(|it| it.noise_floor).next(),
        is_between_arms: false,
        lines: measurement
            .arms
            .iter()
            .map(|arm| Line {
                of: arm.arm.clone(),
                values: seen.iter().map(|it| median((*it)?, &arm.arm)).collect(),
                changes: Vec::new(),
            })
            .collect(),
    }
}

fn changes(values: &[Option<f64>], runs: &[Run]) -> Vec<Change> {
    let first = values.len().saturating_sub(SEARCHED);
    let searched = values.iter().skip(first);
    let searched: Vec<f64> = searched.map(|it| it.unwrap_or(f64::NAN)).collect();
    let mut found = change_points::find(&searched, pairs::LEVEL);
    for change in &mut found {
        change.at += first;
    }
    let median = |from: usize, to: usize| {
        Spread::of(values[from..to].iter().flatten().copied()).map(|spread| spread.median)
    };
    found
        .iter()
        .enumerate()
        .filter_map(|(number, change)| {
            let earlier = number
                .checked_sub(1)
                .map_or(first, |earlier| found[earlier].at);
            let later = found.get(number + 1).map_or(values.len(), |later| later.at);
            Some(Change {
                at: change.at,
                run: runs[change.at].run.clone(),
                p: change.p,
                before: median(earlier, change.at)?,
                after: median(change.at, later)?,
            })
        })
        .collect()
}

/// The page for people: one file without external resources and without a script. Runs that don't fit are only in the JSON.
pub fn page(history: &History) -> anyhow::Result<String> {
    let runs = history.experiments.iter().map(|it| it.runs.len());
    let most = runs.max().unwrap_or(0).min(MOST_RUNS);
    template::render("history.html", TEMPLATE, most, |shown| {
        Page::of(history, shown)
    })
}

#[derive(Serialize)]
struct Page<'a> {
    method: &'static str,
    percent: String,
    fewest: usize,
    searched: usize,
    left_out: Option<String>,
    /// Whether some chart has a noise floor.
    has_floor: bool,
    experiments: Vec<ExperimentView<'a>>,
}

#[derive(Serialize)]
struct ExperimentView<'a> {
    id: String,
    title: String,
    claim: &'static str,
    badge: Badge,
    since: String,
    count: usize,
    left_out: usize,
    /// That of all runs.
    machine: String,
    changes: Vec<String>,
    charts: Vec<ChartView>,
    headings: Vec<String>,
    /// The newest first.
    runs: Vec<RunView<'a>>,
}

#[derive(Serialize)]
struct ChartView {
    name: String,
    /// What is asked of it.
    asked: String,
    legend: Vec<String>,
    svg: String,
}

#[derive(Serialize)]
struct RunView<'a> {
    run: &'a str,
    /// Relative to the page.
    page: String,
    agora: &'a str,
    profile: &'static str,
    repetitions: usize,
    badge: Badge,
    values: Vec<String>,
    /// Whether something changed with it.
    changed: bool,
}

impl<'a> Page<'a> {
    fn of(history: &'a History, shown: usize) -> Self {
        let experiments = history.experiments.iter();
        let mut series = history.experiments.iter().flat_map(|it| &it.series);
        Self {
            method: history.method,
            percent: format!("{:.0}", history.level * 100.0),
            fewest: change_points::FEWEST,
            searched: SEARCHED,
            left_out: history.left_out.describe(),
            has_floor: series.any(|series| series.noise_floor.is_some()),
            experiments: experiments
                .map(|it| ExperimentView::of(it, shown.max(1)))
                .collect(),
        }
    }
}

impl<'a> ExperimentView<'a> {
    fn of(history: &'a ExperimentHistory, shown: usize) -> Self {
        let id = if history.quick {
            format!("{}-quick", history.name)
        } else {
            history.name.clone()
        };
        let first = history.runs.len().saturating_sub(shown);
        let changed = |run: usize| {
            let lines = history.series.iter().flat_map(|series| &series.lines);
            let mut changes = lines.flat_map(|line| &line.changes);
            changes.any(|change| change.at == run)
        };
        let latest = history
            .runs
            .last()
            .map_or(Outcome::NotJudged, |run| run.outcome);
        Self {
            title: history.title(),
            claim: experiments::find(&history.name).map_or("", |it| it.claim),
            badge: Badge::of(latest),
            since: history
                .runs
                .first()
                .map_or_else(String::new, |run| minute(run.started_at)),
            count: history.runs.len(),
            left_out: first,
            machine: history
                .runs
                .last()
                .map_or_else(String::new, |run| run.machine().to_string()),
            changes: history.changes(),
            charts: history
                .series
                .iter()
                .enumerate()
                .map(|(number, series)| ChartView {
                    name: series.title(),
                    asked: match series.bound {
                        Some(bound) => format!("declared {}", declared(bound)),
                        None => match series.better {
                            Better::Less => "less is better".to_owned(),
                            Better::More => "more is better".to_owned(),
                            Better::Neither => String::new(),
                        },
                    },
                    legend: series.lines.iter().map(|line| line.of.clone()).collect(),
                    svg: trend::chart(&format!("{id}-{number}"), series, &history.runs, first),
                })
                .collect(),
            headings: history
                .series
                .iter()
                .map(|series| format!("{}: {}", series.title(), series.of()))
                .collect(),
            runs: history
                .runs
                .iter()
                .enumerate()
                .skip(first)
                .rev()
                .map(|(index, run)| RunView::of(history, index, run, changed(index)))
                .collect(),
            id,
        }
    }
}

impl<'a> RunView<'a> {
    fn of(history: &'a ExperimentHistory, index: usize, run: &'a Run, changed: bool) -> Self {
        Self {
            run: &run.run,
            page: format!("{}/{PAGE_FILE}#{}", run.run, history.name),
            agora: &run.agora,
            profile: run.profile.option(),
            repetitions: run.repetitions,
            badge: Badge::of(run.outcome),
            values: history
                .series
                .iter()
                .map(|series| series.cell(index))
                .collect(),
            changed,
        }
    }
}
