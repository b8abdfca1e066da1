//! The report as a page for people: one file without external resources and without a script.
//!
//! Left out: how it looks (`page.html` and `style.css`, see `template`).

use std::collections::BTreeMap;

use base::progress::spell;
use chrono::{DateTime, Utc};
use records::evaluation::{
    Arm, Configuration, Design, Evaluation, FiredAlert, Hop, Measure, Profile, Reconciliation,
    Sabotage, Steadiness, Trial, Versions,
};
use serde::Serialize;

use super::{
    charts::{self, Clock, Scales},
    forest::{self, Forest},
    list,
    runs::{self, PositionView, RunView, StepTimes},
    template::{self, Badge, minute},
};
use crate::{
    conclusion::{Conclusion, ExperimentConclusion, MeasurementSummary, TrialVerdict},
    experiment::Kind,
    experiments,
    measurement::{Better, Outcome},
    numbers::{self, NONE},
    statistics::Spread,
};

/// The page's file in the folder of its run.
pub const PAGE_FILE: &str = "report.html";
const TEMPLATE: &str = include_str!("page.html");
/// The most ids in one list.
const NAMED: usize = Hop::NAMED;

/// The whole page. Repetitions that don't fit are only in `evidence.json`.
pub fn page(evaluation: &Evaluation, conclusion: &Conclusion) -> anyhow::Result<String> {
    let experiments = conclusion.experiments.iter();
    let most = experiments.map(ExperimentConclusion::repetitions).max();
    template::render("page.html", TEMPLATE, most.unwrap_or(0), |drawn| {
        Page::of(evaluation, conclusion, drawn)
    })
}

#[derive(Serialize)]
struct Page<'a> {
    run: &'a str,
    tally: String,
    started: String,
    duration: String,
    seed: u64,
    sabotage: Option<&'static str>,
    same_arms: bool,
    profile: &'static str,
    command: &'a str,
    judge: String,
    versions: Vec<(&'static str, String)>,
    images: &'a BTreeMap<String, String>,
    single: bool,
    no_spread: &'static str,
    experiments: Vec<ExperimentView<'a>>,
}

#[derive(Serialize)]
struct ExperimentView<'a> {
    name: &'a str,
    badge: Badge,
    /// What decides such a claim.
    kind: &'static str,
    claim: &'a str,
    refuted_by: &'a str,
    harm: &'static str,
    /// Why each declared effect must be as large as that.
    declared: Vec<String>,
    reason: &'a str,
    quote: &'a str,
    arms: Vec<String>,
    confounders: Vec<String>,
    headlines: Vec<Headline<'a>>,
    measurements: Vec<MeasurementView<'a>>,
    /// The heading of the column of effects.
    against: String,
    forest: Option<Forest>,
    repetitions: usize,
    runs: Vec<RunView<'a>>,
    first_arms: String,
    /// What the position changes in what decides, in a phrase.
    position: Option<String>,
    positions: Vec<PositionView<'a>>,
    steps: Option<StepTimes>,
    trials: Vec<TrialView>,
    /// How many repetitions are not drawn.
    left_out: usize,
    repeat: String,
}

/// A decisive measurement, large.
#[derive(Serialize)]
struct Headline<'a> {
    name: &'a str,
    values: Vec<HeadlineValue>,
}

#[derive(Serialize)]
struct HeadlineValue {
    arm: String,
    value: String,
    range: Option<String>,
    /// `bad`, `good`, or nothing.
    class: &'static str,
}

#[derive(Serialize)]
struct MeasurementView<'a> {
    name: &'a str,
    values: Vec<String>,
    effect: String,
    /// `bad` or `good` where all of several repetitions agree on it, else nothing.
    class: &'static str,
}

#[derive(Serialize)]
struct TrialView {
    section: String,
    repetition: u32,
    badge: Badge,
    arms: Vec<String>,
    charts: Vec<ChartRow>,
    numbers: Vec<NumbersTable>,
    /// What was done and found, a value for each arm.
    done: Vec<FactRow>,
    promises: Vec<FactRow>,
    missing: Vec<Missing>,
    /// The steady states of the arms, in a phrase.
    steadiness: &'static str,
    steady: Vec<SteadyView>,
}

#[derive(Serialize)]
struct ChartRow {
    class: &'static str,
    name: &'static str,
    legend: Vec<(&'static str, &'static str)>,
    cells: Vec<ChartCell>,
}

#[derive(Serialize)]
struct ChartCell {
    arm: String,
    svg: String,
}

#[derive(Serialize)]
struct NumbersTable {
    arm: String,
    rows: Vec<[String; 8]>,
}

#[derive(Serialize)]
struct FactRow {
    what: String,
    /// One for each arm, or a single one that is the same in all of them.
    values: Vec<Fact>,
}

#[derive(Serialize, PartialEq)]
struct Fact {
    text: String,
    /// `bad`, `good`, or nothing.
    class: &'static str,
}

#[derive(Serialize)]
struct Missing {
    what: String,
    ids: Vec<String>,
    more: usize,
}

#[derive(Serialize)]
struct SteadyView {
    when: String,
    said: String,
    measures: Vec<Measure>,
}

impl<'a> Page<'a> {
    fn of(evaluation: &'a Evaluation, conclusion: &'a Conclusion, drawn: usize) -> Self {
        let duration = conclusion.finished_at - conclusion.started_at;
        Self {
            run: &conclusion.run,
            tally: conclusion.tally(),
            started: minute(conclusion.started_at),
            duration: spell(duration.to_std().unwrap_or_default()),
            seed: conclusion.seed,
            sabotage: conclusion.sabotage.map(Sabotage::describe),
            same_arms: conclusion.design == Design::SameArms,
            profile: conclusion.profile.option(),
            command: &conclusion.command,
            judge: format!("cargo xtask evaluate judge {}", conclusion.run),
            versions: versions(&conclusion.versions),
            images: &conclusion.versions.images,
            single: conclusion.experiments.iter().any(|e| e.repetitions() == 1),
            no_spread: numbers::NO_SPREAD,
            experiments: conclusion
                .experiments
                .iter()
                .map(|experiment| ExperimentView::of(evaluation, conclusion, experiment, drawn))
                .collect(),
        }
    }
}

fn versions(versions: &Versions) -> Vec<(&'static str, String)> {
    let gibibytes = versions.memory_bytes as f64 / f64::from(1 << 30);
    vec![
        ("agora", versions.agora.clone()),
        ("engine", versions.engine.clone()),
        (
            "machine",
            format!("{} cores, {gibibytes:.1} GiB of memory", versions.cores),
        ),
    ]
}

impl<'a> ExperimentView<'a> {
    fn of(
        evaluation: &'a Evaluation,
        conclusion: &Conclusion,
        experiment: &'a ExperimentConclusion,
        drawn: usize,
    ) -> Self {
        let repetitions = experiment.repetitions();
        let arms: Vec<String> = experiment
            .measurements
            .first()
            .map(|measurement| measurement.arms.iter().map(|arm| arm.arm.clone()).collect())
            .unwrap_or_default();
        // The one that decided comes first: it is what the reason speaks of.
        let mut trials: Vec<&TrialVerdict> = experiment.trials.iter().collect();
        let deciding = experiment.deciding().map(|trial| trial.repetition);
        trials.sort_by_key(|trial| Some(trial.repetition) != deciding);
        trials.truncate(drawn.max(1));
        let trials: Vec<TrialView> = trials
            .into_iter()
            .filter_map(|verdict| {
                let trial = evaluation.trials.iter().find(|trial| {
                    trial.experiment == experiment.name && trial.repetition == verdict.repetition
                })?;
                Some(TrialView::of(trial, verdict.outcome))
            })
            .collect();
        let drawn: Vec<u32> = trials.iter().map(|trial| trial.repetition).collect();
        let steps = runs::step_times(evaluation, experiment, &arms);
        let plan = experiments::find(&experiment.name);
        Self {
            name: &experiment.name,
            badge: Badge::of(experiment.outcome),
            kind: match experiment.kind {
                Kind::Safety => "safety claim: each run decides",
                Kind::Magnitude => "magnitude claim: only pairs of runs decide",
            },
            claim: &experiment.claim,
            refuted_by: &experiment.refuted_by,
            harm: plan.map_or("", |plan| plan.harm),
            confounders: plan.map_or_else(Vec::new, list::confounders),
            declared: plan.map_or_else(Vec::new, list::effects),
            reason: &experiment.reason,
            quote: &experiment.quote,
            against: match arms.as_slice() {
                [from, .., to] => format!("{to} against {from}"),
                _ => String::new(),
            },
            arms,
            headlines: experiment
                .measurements
                .iter()
                .filter(|measurement| measurement.decisive)
                .map(Headline::of)
                .collect(),
            measurements: experiment
                .measurements
                .iter()
                .map(MeasurementView::of)
                .collect(),
            forest: forest::of(experiment),
            repetitions,
            runs: runs::views(evaluation, experiment, &drawn),
            first_arms: runs::first_arms(evaluation, &experiment.name),
            position: runs::position(experiment),
            positions: runs::positions(experiment),
            steps,
            left_out: repetitions - trials.len(),
            trials,
            repeat: repeat(conclusion, experiment),
        }
    }
}

/// The command for this experiment alone.
fn repeat(conclusion: &Conclusion, experiment: &ExperimentConclusion) -> String {
    let mut command = format!(
        "cargo xtask evaluate {} --repeat {} --seed {}",
        experiment.name,
        experiment.repetitions(),
        conclusion.seed
    );
    if conclusion.design == Design::SameArms {
        command.push_str(" --aa");
    } else if conclusion.profile == Profile::Quick {
        command.push_str(" --profile quick");
    }
    if let Some(sabotage) = conclusion.sabotage {
        command.push_str(" --sabotage ");
        command.push_str(sabotage.option());
    }
    command
}

impl<'a> Headline<'a> {
    fn of(measurement: &'a MeasurementSummary) -> Self {
        let values = measurement.arms.iter().map(|arm| HeadlineValue {
            arm: arm.arm.clone(),
            value: arm.spread.map_or_else(
                || NONE.to_owned(),
                |spread| numbers::value(spread.median, &measurement.unit),
            ),
            range: arm.spread.and_then(|spread| {
                numbers::range(&spread, |value| numbers::value(value, &measurement.unit))
            }),
            class: match arm.spread {
                Some(spread) if measurement.better == Better::Less && spread.max > 0.0 => "bad",
                Some(_) if measurement.better == Better::Less => "good",
                _ => "",
            },
        });
        Self {
            name: &measurement.name,
            values: values.collect(),
        }
    }
}

impl<'a> MeasurementView<'a> {
    fn of(measurement: &'a MeasurementSummary) -> Self {
        let values = measurement.arms.iter();
        let values = values.map(|arm| numbers::spread(arm.spread.as_ref(), &measurement.unit));
        let difference = measurement.effect.as_ref().map(|effect| effect.difference);
        Self {
            name: &measurement.name,
            values: values.collect(),
            effect: numbers::effect(measurement.effect.as_ref(), &measurement.unit),
            class: match difference {
                Some(difference) if difference.count > 1 => {
                    direction(measurement.better, &difference)
                }
                _ => "",
            },
        }
    }
}

fn direction(better: Better, difference: &Spread) -> &'static str {
    let (more, less) = (difference.min > 0.0, difference.max < 0.0);
    match better {
        Better::Less if less => "good",
        Better::More if more => "good",
        Better::Less if more => "bad",
        Better::More if less => "bad",
        _ => "",
    }
}

impl TrialView {
    fn of(trial: &Trial, outcome: Outcome) -> Self {
        let arms = &trial.arms;
        Self {
            section: runs::section(&trial.experiment, trial.repetition),
            repetition: trial.repetition,
            badge: Badge::of(outcome),
            arms: arms.iter().map(|arm| arm.name.clone()).collect(),
            charts: chart_rows(trial),
            numbers: arms.iter().map(numbers_table).collect(),
            done: done(arms),
            promises: promises(arms),
            missing: arms.iter().flat_map(missing).collect(),
            steadiness: if arms.iter().all(stayed_steady) {
                "reached before and after, in each arm"
            } else {
                "not reached everywhere"
            },
            steady: arms.iter().flat_map(steady).collect(),
        }
    }
}

/// A kind of chart: its class, its name, a legend of classes and names, and the function that draws it.
type ChartKind = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    fn(&str, &Arm, &Scales) -> String,
);

fn chart_rows(trial: &Trial) -> Vec<ChartRow> {
    let scales = Scales::of(&trial.arms);
    let rows: [ChartKind; 3] = [
        (
            "throughput",
            "Requests a second",
            &[
                ("succeeded", "succeeded"),
                ("failed", "failed"),
                ("not-sent", "not sent"),
            ],
            charts::throughput,
        ),
        (
            "latency",
            "Latency, by the second in which the request was due",
            &[("p50", "median"), ("p99", "99th percentile")],
            charts::latency,
        ),
        (
            "backlog",
            "Backlog",
            &[
                ("undecided", "orders without an end"),
                ("unpublished", "events not published"),
            ],
            charts::backlog,
        ),
    ];
    rows.into_iter()
        .map(|(class, name, legend, draw)| ChartRow {
            class,
            name,
            legend: legend.to_vec(),
            cells: trial
                .arms
                .iter()
                .enumerate()
                .map(|(number, arm)| {
                    let id = format!("{}-{}-{class}-{number}", trial.experiment, trial.repetition);
                    ChartCell {
                        arm: arm.name.clone(),
                        svg: draw(&id, arm, &scales),
                    }
                })
                .collect(),
        })
        .collect()
}

/// The charts' numbers: a row a second; after the load only where something changed.
fn numbers_table(arm: &Arm) -> NumbersTable {
    let clock = Clock::of(arm);
    let timeline = arm.load.as_ref().map_or(&[][..], |load| &load.timeline);
    let last = arm.samples.last().map(|sample| clock.seconds(sample.at));
    let seconds = timeline
        .len()
        .max(last.map_or(0, |last| last.max(0.0) as usize + 1));
    let ms = |value: Option<f64>| {
        value.map_or_else(|| NONE.to_owned(), |value| numbers::value(value, "ms"))
    };
    let mut rows: Vec<[String; 8]> = Vec::new();
    for second in 0..seconds {
        let end = second as f64 + 1.0;
        let mut samples = arm.samples.iter();
        let sample = samples.rfind(|sample| clock.seconds(sample.at) < end);
        let waits = sample.map_or([NONE.to_owned(), NONE.to_owned()], |sample| {
            [sample.undecided.to_string(), sample.unpublished.to_string()]
        });
        let [undecided, unpublished] = waits;
        let row = match timeline.get(second) {
            Some(sent) => [
                second.to_string(),
                sent.succeeded.to_string(),
                sent.failed.to_string(),
                sent.not_sent.to_string(),
                ms(sent.p50_ms),
                ms(sent.p99_ms),
                undecided,
                unpublished,
            ],
            None => {
                let none = || NONE.to_owned();
                let second = second.to_string();
                [
                    second,
                    none(),
                    none(),
                    none(),
                    none(),
                    none(),
                    undecided,
                    unpublished,
                ]
            }
        };
        let same = rows.last().is_some_and(|last| last[1..] == row[1..]);
        if !same || second < timeline.len() {
            rows.push(row);
        }
    }
    NumbersTable {
        arm: arm.name.clone(),
        rows,
    }
}

fn fact(text: impl Into<String>) -> Fact {
    Fact {
        text: text.into(),
        class: "",
    }
}

fn judged(text: impl Into<String>, good: bool) -> Fact {
    Fact {
        text: text.into(),
        class: if good { "good" } else { "bad" },
    }
}

/// A longer text, in bytes, is not repeated for each arm that has it.
const LONG: usize = 24;

/// A row with a value of each arm; `None` when no arm has one.
fn row(what: &str, arms: &[Arm], say: impl Fn(&Arm) -> Option<Fact>) -> Option<FactRow> {
    let values: Vec<Option<Fact>> = arms.iter().map(say).collect();
    if values.iter().all(Option::is_none) {
        return None;
    }
    let values = values
        .into_iter()
        .map(|value| value.unwrap_or_else(|| fact(NONE)));
    let mut values: Vec<Fact> = values.collect();
    let alike = values.windows(2).all(|pair| pair[0] == pair[1]);
    // A number in the first column alone would look as if the others had none.
    if alike && values[0].text.len() > LONG {
        values.truncate(1);
    }
    Some(FactRow {
        what: what.to_owned(),
        values,
    })
}

/// What was done to each arm, and whether it can be trusted.
fn done(arms: &[Arm]) -> Vec<FactRow> {
    let rows = [
        row("configuration", arms, |arm| {
            Some(fact(configuration(&arm.configuration, arms)))
        }),
        row("position", arms, |arm| {
            let before = arms
                .iter()
                .filter(|other| other.started_at < arm.started_at);
            let position = before.count() + 1;
            (arms.len() > 1).then(|| fact(format!("{position} of {}", arms.len())))
        }),
        row("steps", arms, |arm| {
            let steps = arm.steps.iter();
            let seconds = |ms: u64| ms as f64 / 1_000.0;
            let steps = steps.map(|it| format!("{} {:.1} s", it.step, seconds(it.took_ms)));
            let steps: Vec<String> = steps.collect();
            (!steps.is_empty()).then(|| fact(steps.join(", ")))
        }),
        row("load", arms, |arm| {
            let load = arm.load.as_ref()?;
            let (summary, seconds) = (&load.summary, load.timeline.len());
            Some(fact(format!(
                "scenario `{}` for {seconds} s: {}",
                summary.scenario, summary.model
            )))
        }),
        row("requests", arms, |arm| {
            let summary = &arm.load.as_ref()?.summary;
            let mut said = format!("{} sent, {} failed", summary.measured, summary.failed);
            if summary.not_sent > 0 {
                said.push_str(&format!(", {} not sent", summary.not_sent));
            }
            Some(fact(said))
        }),
        row("fault", arms, |arm| {
            let fault = arm.fault.as_ref()?;
            let when = Clock::of(arm).fault(arm).map_or_else(
                || ": withheld".to_owned(),
                |(from, to)| format!(", from second {from:.1} to {to:.1}"),
            );
            Some(self::fact(format!("{}{when}", fault.description)))
        }),
        row("did it take effect?", arms, |arm| {
            let effect = &arm.fault.as_ref()?.effect;
            let word = if effect.observed { "yes" } else { "no" };
            Some(judged(format!("{word}: {}", effect.proof), effect.observed))
        }),
        row("traces", arms, |arm| {
            let seen = arm.telemetry.as_ref()?;
            let lacks = seen.missing.iter();
            let lacks = lacks.map(|(what, traces)| format!("; {traces}: {what}"));
            Some(fact(format!(
                "{} of {} whole{}",
                seen.whole,
                seen.traces,
                lacks.collect::<String>()
            )))
        }),
        row("spans", arms, |arm| {
            let spans = arm.telemetry.as_ref()?.spans.iter();
            let spans = spans.map(|(outcome, count)| format!("{count} {outcome}"));
            Some(fact(spans.collect::<Vec<_>>().join(", ")))
        }),
        row("alerts", arms, |arm| {
            let fired = arm.alerts.as_ref()?;
            let fired: Vec<String> = fired.iter().map(alert).collect();
            Some(fact(if fired.is_empty() {
                "none fired".to_owned()
            } else {
                fired.join("; ")
            }))
        }),
        row("settled", arms, |arm| {
            arm.load.as_ref()?;
            Some(match arm.settled_after_ms {
                Some(ms) => fact(format!(
                    "{} after the load",
                    numbers::value(ms as f64, "ms")
                )),
                None => judged("never, as long as was waited", false),
            })
        }),
        row("broke off", arms, |arm| {
            arm.failure.as_ref().map(|why| judged(why, false))
        }),
    ];
    rows.into_iter().flatten().collect()
}

fn alert(fired: &FiredAlert) -> String {
    let time = |at: DateTime<Utc>| at.format("%H:%M:%S").to_string();
    match (fired.notified_at, fired.resolved_at) {
        (None, _) => format!("{}: no notification", fired.name),
        (Some(told), None) => format!("{} from {}, not resolved", fired.name, time(told)),
        (Some(told), Some(over)) => {
            format!("{} from {} to {}", fired.name, time(told), time(over))
        }
    }
}

/// What an arm runs without or with, and the overrides in which it differs from another arm.
fn configuration(configuration: &Configuration, arms: &[Arm]) -> String {
    let off = configuration
        .patterns_off
        .iter()
        .filter(|(_, patterns)| !patterns.is_empty())
        .map(|(service, patterns)| format!("{service} without {}", patterns.join(", ")));
    let replicas = configuration.replicas.iter();
    let replicas = replicas.map(|(service, count)| format!("{service} ×{count}"));
    let overrides = configuration.overrides.iter().filter(|(name, value)| {
        let mut others = arms
            .iter()
            .map(|arm| arm.configuration.overrides.get(*name));
        others.any(|other| other != Some(value))
    });
    let overrides = overrides.map(|(name, value)| format!("{name}={value}"));
    let differs: Vec<String> = off.chain(replicas).chain(overrides).collect();
    if differs.is_empty() {
        "everything as shipped".to_owned()
    } else {
        differs.join("; ")
    }
}

/// The reconciled ledger: hop by hop, then its differences.
fn promises(arms: &[Arm]) -> Vec<FactRow> {
    let mut rows = vec![row("orders promised to clients", arms, |arm| {
        Some(fact(arm.reconciliation.as_ref()?.promised.to_string()))
    })];
    let reconciliation = || arms.iter().filter_map(|arm| arm.reconciliation.as_ref());
    let mut hops: Vec<&str> = Vec::new();
    for hop in reconciliation().flat_map(|reconciliation| &reconciliation.hops) {
        if !hops.contains(&hop.name.as_str()) {
            hops.push(&hop.name);
        }
    }
    for name in hops {
        rows.push(row(name, arms, |arm| {
            let hop = arm
                .reconciliation
                .as_ref()?
                .hops
                .iter()
                .find(|hop| hop.name == name)?;
            Some(match (hop.count, hop.missing.len()) {
                (None, _) => fact("no such station"),
                (Some(count), 0) => fact(count.to_string()),
                (Some(count), missing) => {
                    let least = if missing >= Hop::NAMED {
                        "at least "
                    } else {
                        ""
                    };
                    judged(format!("{count} ({least}{missing} missing)"), false)
                }
            })
        }));
    }
    let mut ends: Vec<&str> = reconciliation()
        .flat_map(|reconciliation| reconciliation.statuses.keys().map(String::as_str))
        .collect();
    ends.sort_unstable();
    ends.dedup();
    for status in ends {
        rows.push(row(&format!("orders that are {status}"), arms, |arm| {
            let statuses = &arm.reconciliation.as_ref()?.statuses;
            Some(fact(statuses.get(status).unwrap_or(&0).to_string()))
        }));
    }
    rows.push(row("stored, but no client was promised", arms, |arm| {
        let count = arm.reconciliation.as_ref()?.unpromised;
        Some(fact(count.to_string()))
    }));
    if reconciliation().any(|reconciliation| reconciliation.cancellations > 0) {
        rows.push(row("cancellations promised to clients", arms, |arm| {
            Some(fact(arm.reconciliation.as_ref()?.cancellations.to_string()))
        }));
    }
    if reconciliation().any(|reconciliation| reconciliation.indeterminate > 0) {
        rows.push(row("requests that may have happened", arms, |arm| {
            let found = arm.reconciliation.as_ref()?;
            let happened = found.indeterminate_stored.map_or_else(
                || "they may have happened".to_owned(),
                |stored| format!("{stored} of them happened"),
            );
            Some(fact(format!("{}; {happened}", found.indeterminate)))
        }));
    }
    let mut nowhere = Vec::new();
    for category in Reconciliation::CATEGORIES {
        if reconciliation().all(|found| category.orders(found).is_empty()) {
            nowhere.push(category.meaning);
            continue;
        }
        rows.push(row(category.meaning, arms, |arm| {
            let count = category.orders(arm.reconciliation.as_ref()?).len();
            Some(judged(count.to_string(), count == 0))
        }));
    }
    rows.push(row("dead letters", arms, |arm| {
        let letters = &arm.reconciliation.as_ref()?.dead_letters;
        let said: Vec<String> = letters
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        Some(fact(if said.is_empty() {
            "0".to_owned()
        } else {
            said.join(", ")
        }))
    }));
    if reconciliation().next().is_some() && !nowhere.is_empty() {
        rows.push(row("in no arm", arms, |_| Some(fact(nowhere.join("; ")))));
    }
    rows.into_iter().flatten().collect()
}

/// The ids of each kind of difference that isn't empty.
fn missing(arm: &Arm) -> Vec<Missing> {
    let Some(reconciliation) = &arm.reconciliation else {
        return Vec::new();
    };
    let hops = reconciliation.hops.iter();
    let hops = hops.map(|hop| (format!("did not come to: {}", hop.name), &hop.missing[..]));
    let wrong = reconciliation.wrong().into_iter();
    let wrong = wrong.map(|(category, orders)| (category.meaning.to_owned(), orders));
    hops.chain(wrong)
        .filter(|(_, ids)| !ids.is_empty())
        .map(|(what, ids)| Missing {
            what: format!("{}: {what}", arm.name),
            ids: ids.iter().take(NAMED).cloned().collect(),
            more: ids.len().saturating_sub(NAMED),
        })
        .collect()
}

fn stayed_steady(arm: &Arm) -> bool {
    let reached = |steadiness: &Option<Steadiness>| steadiness.as_ref().is_some_and(|s| s.reached);
    reached(&arm.steady_before) && reached(&arm.steady_after)
}

/// The steady state before and after, as far as it was measured.
fn steady(arm: &Arm) -> Vec<SteadyView> {
    let view = |when: &str, steadiness: &Option<Steadiness>| {
        let steadiness = steadiness.as_ref()?;
        let waited = numbers::value(steadiness.waited_ms as f64, "ms");
        Some(SteadyView {
            when: format!("{}, {when}", arm.name),
            said: if steadiness.reached {
                format!("steady after {waited}")
            } else {
                format!("not steady within {waited}")
            },
            measures: steadiness.measures.clone(),
        })
    };
    let before = view("before the load", &arm.steady_before);
    let after = view("after restoring", &arm.steady_after);
    before.into_iter().chain(after).collect()
}
