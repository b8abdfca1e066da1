//! Evidence made by hand, and what the reports say of it.

use std::collections::BTreeMap;

use base::outcome::Exit;
use chrono::{DateTime, TimeDelta, Utc};
use records::{
    evaluation::{
        Arm, Configuration, Design, Evaluation, FORMAT, FaultEffect, FaultEvidence, FiredAlert,
        Hop, InForce, LoadEvidence, Measure, NoiseRecord, Profile, Reconciliation, Sabotage,
        Sample, Steadiness, StepTime, Telemetry, Trial, Versions,
    },
    load::{LatencySummary, LoadModel, OrderCount, RunSummary, TimelineSecond},
};
use support::schema;
use system::project::Project;

use super::{
    compare::{Change, Comparison},
    history::{self, ExperimentHistory, History},
    html, junit, list, markdown,
};
use crate::{
    conclusion::{
        Conclusion,
        tests::{consumers, noise},
    },
    experiment::{Experiment, Model, Observed},
    experiments,
    measurement::Outcome,
    statistics::{noise::between_medians, pairs::LEVEL},
    store::{EvaluationFolder, write_history},
};

/// A second of the load that all sketches share.
pub(crate) fn at(second: f64) -> DateTime<Utc> {
    let zero: DateTime<Utc> = "2026-11-23T21:14:07Z".parse().expect("a time");
    zero + TimeDelta::milliseconds((second * 1_000.0).round() as i64)
}

/// An arm in a few words: what isn't said is as in a run without any harm.
#[derive(Debug, Clone)]
pub(crate) struct Sketch {
    name: String,
    seconds: u32,
    rate: u64,
    fault: (f64, f64),
    observed: bool,
    /// Of the requests under the fault, the part that fails.
    failing: f64,
    /// Latency under the fault.
    slow_ms: f64,
    /// Orders decided a second, at most.
    decided_per_second: f64,
    lost: usize,
    doubled: usize,
    held: usize,
    dead: u64,
    patterns_off: Vec<String>,
    replicas: BTreeMap<String, u32>,
    description: String,
    proof: String,
    noise: u64,
}

impl Sketch {
    pub(crate) fn arm(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            seconds: 14,
            rate: 40,
            fault: (3.4, 6.4),
            observed: true,
            failing: 0.0,
            slow_ms: 0.0,
            decided_per_second: 400.0,
            lost: 0,
            doubled: 0,
            held: 0,
            dead: 0,
            patterns_off: Vec::new(),
            replicas: BTreeMap::new(),
            description: "the containers of rabbitmq are killed".to_owned(),
            proof: "the container is `exited`, its last exit code is 137".to_owned(),
            noise: 7,
        }
    }

    pub(crate) fn fault(self, from: f64, to: f64) -> Self {
        Self {
            fault: (from, to),
            ..self
        }
    }

    pub(crate) fn seconds(self, seconds: u32) -> Self {
        Self { seconds, ..self }
    }

    pub(crate) fn rate(self, rate: u64) -> Self {
        Self { rate, ..self }
    }

    pub(crate) fn slow(self, slow_ms: f64) -> Self {
        Self { slow_ms, ..self }
    }

    fn lost(self, lost: usize) -> Self {
        Self { lost, ..self }
    }

    fn proof(self, observed: bool, proof: &str) -> Self {
        Self {
            observed,
            proof: proof.to_owned(),
            ..self
        }
    }

    /// Small differences that stay the same from call to call.
    fn wobble(&self, second: u64) -> f64 {
        let mixed = (second + 1)
            .wrapping_mul(self.noise.wrapping_mul(2_654_435_761) | 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 40) as f64 / f64::from(1 << 24)
    }

    fn timeline(&self) -> Vec<TimelineSecond> {
        let second = |second: u32| {
            let part = (self.fault.1.min(f64::from(second) + 1.0)
                - self.fault.0.max(f64::from(second)))
            .clamp(0.0, 1.0);
            let failed = (self.rate as f64 * part * self.failing).round() as u64;
            let wobble = self.wobble(u64::from(second));
            let p50 = 3.1 + 2.0 * wobble + part * self.slow_ms * 0.6;
            let p99 = p50 * (2.2 + 3.0 * wobble) + part * self.slow_ms;
            TimelineSecond {
                second,
                sent: self.rate,
                succeeded: self.rate - failed,
                failed,
                not_sent: 0,
                p50_ms: Some(p50),
                p99_ms: Some(p99),
                max_ms: Some(p99 * 1.3),
            }
        };
        (0..self.seconds).map(second).collect()
    }

    /// What is decided stands still under the fault and catches up after it.
    fn samples(&self, succeeded: u64) -> Vec<Sample> {
        let (mut decided, mut samples) = (0.0_f64, Vec::new());
        let most = succeeded.saturating_sub(self.lost as u64) as f64;
        for half in -2..i64::from(self.seconds) * 2 + 60 {
            let second = half as f64 / 2.0;
            let placed = (second.clamp(0.0, f64::from(self.seconds)) * self.rate as f64)
                .min(succeeded as f64);
            let under = (self.fault.0..self.fault.1).contains(&second);
            if !under {
                decided = (decided + self.decided_per_second / 2.0)
                    .min(placed.min(most))
                    .max(decided);
            }
            let undecided = placed - decided;
            samples.push(Sample {
                at: at(second),
                decided: decided as u64,
                undecided: undecided as u64,
                unpublished: if under && self.lost == 0 {
                    undecided as u64
                } else {
                    0
                },
            });
            if second > f64::from(self.seconds) && decided >= most {
                break;
            }
        }
        samples
    }

    pub(crate) fn build(&self) -> Arm {
        let timeline = self.timeline();
        let sum = |count: fn(&TimelineSecond) -> u64| timeline.iter().map(count).sum::<u64>();
        let (sent, succeeded, failed) = (sum(|s| s.sent), sum(|s| s.succeeded), sum(|s| s.failed));
        let largest = timeline.iter().filter_map(|s| s.p99_ms).fold(0.0, f64::max);
        let samples = self.samples(succeeded);
        let end = samples.last().map_or(at(20.0), |sample| sample.at);
        let ids = |count: usize, salt: u64| -> Vec<String> {
            (0..count)
                .map(|n| format!("0192f3c1-7a{salt:02x}-7b21-9c{n:02x}-5d1e8f{n:06x}"))
                .collect()
        };
        let lost = ids(self.lost, 1);
        let hop = |name: &str, count: Option<u64>, missing: &[String]| Hop {
            name: name.to_owned(),
            count,
            missing: missing.iter().take(Hop::NAMED).cloned().collect(),
        };
        let arrived = succeeded - lost.len() as u64;
        let steadiness = |waited_ms| Steadiness {
            reached: true,
            waited_ms,
            measures: [
                ("containers", "all healthy", "9 of 9"),
                ("messages in all queues", "0", "0"),
                ("events not published", "0", "0"),
                (
                    "an order through the gateway",
                    "decided within 5 s",
                    "41 ms",
                ),
            ]
            .map(|(what, tolerance, found)| Measure {
                what: what.to_owned(),
                tolerance: tolerance.to_owned(),
                found: found.to_owned(),
                holds: true,
            })
            .into(),
        };
        let without_outbox = self.patterns_off.iter().any(|name| name == "outbox");
        Arm {
            name: self.name.clone(),
            configuration: Configuration {
                patterns_off: if self.patterns_off.is_empty() {
                    BTreeMap::new()
                } else {
                    let patterns = self.patterns_off.clone();
                    [
                        ("order-service".to_owned(), patterns.clone()),
                        ("inventory-service".to_owned(), patterns),
                    ]
                    .into()
                },
                signing_keys: [].into(),
                replicas: self.replicas.clone(),
                overrides: BTreeMap::new(),
            },
            started_at: at(-6.0),
            finished_at: end + TimeDelta::seconds(2),
            steady_before: Some(steadiness(840)),
            load: Some(LoadEvidence {
                summary: RunSummary {
                    workers: 1,
                    run_id: "20261123-211407-order".to_owned(),
                    scenario: "order".to_owned(),
                    seed: 4_711,
                    model: LoadModel::Open {
                        arrivals_per_second: self.rate as usize,
                        max_in_flight: 500,
                        users: 20,
                    },
                    started_at: at(-2.0),
                    measured_from: at(0.0),
                    finished_at: at(f64::from(self.seconds)),
                    requests: Vec::new(),
                    measured: sent as usize,
                    failed: failed as usize,
                    not_sent: 0,
                    requests_per_second: self.rate as f64,
                    latency: LatencySummary {
                        p50_ms: 3.9 + self.wobble(99),
                        p95_ms: 12.0,
                        p99_ms: largest,
                        max_ms: largest * 1.3,
                    },
                    orders: OrderCount {
                        tried: sent,
                        accepted: succeeded,
                    },
                    thresholds: Vec::new(),
                },
                timeline,
                routes: Vec::new(),
            }),
            fault: Some(FaultEvidence {
                description: self.description.clone(),
                injected_at: Some(at(self.fault.0)),
                healed_at: Some(at(self.fault.1)),
                in_force: Some(InForce {
                    from: at(self.fault.0),
                    until: at(self.fault.1),
                    decided: 0,
                }),
                effect: FaultEffect {
                    observed: self.observed,
                    proof: self.proof.clone(),
                },
            }),
            settled_after_ms: Some(
                ((end - at(f64::from(self.seconds))).num_milliseconds()).unsigned_abs(),
            ),
            samples,
            reconciliation: Some(Reconciliation {
                promised: succeeded,
                unpromised: 0,
                cancellations: 0,
                hops: vec![
                    hop("order row", Some(succeeded), &[]),
                    hop(
                        "outbox row, published",
                        (!without_outbox).then_some(arrived),
                        if without_outbox { &[] } else { &lost },
                    ),
                    hop("inbox of inventory-service", Some(arrived), &lost),
                    hop("stock movement", Some(arrived), &lost),
                    hop("end of the order", Some(arrived), &lost),
                ],
                statuses: [
                    ("confirmed".to_owned(), arrived),
                    ("pending".to_owned(), lost.len() as u64),
                ]
                .into(),
                lost,
                doubled: ids(self.doubled, 2),
                held: ids(self.held, 3),
                dead_letters: if self.dead > 0 {
                    [("retries_exhausted".to_owned(), self.dead)].into()
                } else {
                    BTreeMap::new()
                },
                ..Reconciliation::default()
            }),
            steady_after: Some(steadiness(2_310)),
            telemetry: None,
            alerts: None,
            attacks: None,
            steps: Vec::new(),
            failure: None,
        }
    }
}

/// A repetition of an experiment.
pub(crate) fn trial(experiment: &str, repetition: u32, arms: &[Sketch]) -> Trial {
    Trial {
        experiment: experiment.to_owned(),
        repetition,
        seed: 4_711 + u64::from(repetition),
        arms: arms.iter().map(Sketch::build).collect(),
    }
}

/// An evaluation of these trials.
pub(crate) fn evaluation(trials: Vec<Trial>) -> Evaluation {
    Evaluation {
        format: FORMAT,
        run: "20261123-211358".to_owned(),
        project: None,
        command: "cargo xtask evaluate --repeat 3 --seed 4711".to_owned(),
        seed: 4_711,
        sabotage: None,
        design: Design::Pattern,
        profile: Profile::Default,
        planned: Vec::new(),
        noise: Vec::new(),
        found: None,
        started_at: at(-9.0),
        finished_at: at(31.0 * 60.0),
        versions: Versions {
            agora: "f4ea5e7c21b0-dirty".to_owned(),
            engine: "docker 28.2.2".to_owned(),
            cores: 2,
            memory_bytes: 8_322_000_000,
            images: [
                ("order-service", "agora/order-service:dev"),
                ("inventory-service", "agora/inventory-service:dev"),
                ("rabbitmq", "agora-local/rabbitmq:4.1"),
                ("postgres", "agora-local/postgres:17"),
            ]
            .map(|(service, image)| (service.to_owned(), image.to_owned()))
            .into(),
        },
        trials,
    }
}

/// Off and on of the outbox: orders lost without it.
fn outbox(repetition: u32, off: usize, on: usize) -> Trial {
    trial(
        "outbox",
        repetition,
        &[Sketch::arm("off").lost(off), Sketch::arm("on").lost(on)],
    )
}

fn conclude(trials: Vec<Trial>) -> Conclusion {
    Conclusion::of(&evaluation(trials)).expect("known experiments")
}

/// Evidence as a run of everything leaves it, more or less.
fn realistic() -> Evaluation {
    let sketch = |experiment: &Experiment, repetition: u32, number: usize| {
        let plan = &experiment.arms[number];
        let rate = match experiment.load.model {
            Model::Open {
                arrivals_per_second,
            } => u64::from(arrivals_per_second),
            Model::Closed { .. } => 160,
        };
        let jitter = f64::from(repetition) * 0.31;
        let from = experiment.fault.after.as_secs_f64() + jitter;
        let lasts = experiment.fault.lasts.as_secs_f64().max(6.0);
        let mut sketch = Sketch::arm(plan.name)
            .seconds(experiment.load.run_time.as_secs() as u32)
            .rate(rate)
            .fault(from, from + lasts);
        sketch.patterns_off = plan
            .patterns_off
            .iter()
            .map(|it| it.name().to_owned())
            .collect();
        sketch.replicas = plan
            .replicas
            .iter()
            .map(|(s, n)| (s.to_string(), *n))
            .collect();
        sketch.noise = u64::from(repetition) * 31 + number as u64 + experiment.name.len() as u64;
        let off = number == 0;
        let extra = repetition as usize * 3;
        match experiment.name {
            "outbox" => {
                sketch.slow_ms = if off { 900.0 } else { 4.0 };
                sketch.lost = if off { 101 + extra } else { 0 };
            }
            "inbox" => {
                sketch.description = "50 events of order_events are published a second time".into();
                sketch.proof = "50 were redelivered, 50 of them reached the queue".into();
                sketch.doubled = if off { 50 } else { 0 };
            }
            "retry" => {
                sketch.description = "somebody holds the table `stock` of `inventory`".into();
                sketch.proof = "31 statements were waiting for the lock".into();
                sketch.dead = if off { 57 + extra as u64 } else { 0 };
                sketch.lost = if off { 57 + extra } else { 0 };
            }
            "dead_letter" => {
                sketch.description = "12 unreadable messages come into order_events".into();
                sketch.proof = "12 were taken by the queue".into();
                sketch.lost = if off { 241 + extra } else { 0 };
                sketch.dead = if off { 0 } else { 12 };
            }
            "confirms" => {
                sketch.description = "the queue order_events loses its binding".into();
                if repetition == 2 {
                    sketch.observed = false;
                    sketch.proof = "the binding was there again before any event came: 0 of 0 \
                                    publications were returned <by the broker>"
                        .into();
                } else {
                    sketch.proof = "121 publications found no queue".into();
                    sketch.lost = if off { 118 } else { 0 };
                }
            }
            "graceful_shutdown" => {
                sketch.description =
                    "the two containers of order-service are restarted, one after \
                                      the other"
                        .into();
                sketch.proof = "2 of 2 containers have another start time".into();
                sketch.failing = if off { 0.03 } else { 0.0 };
                sketch.slow_ms = 35.0;
            }
            "saga" => {
                sketch.description = "the processes of inventory-service stand still".into();
                sketch.proof = "the container is `paused`".into();
                sketch.held = if off {
                    61 + extra
                } else {
                    usize::from(repetition == 3)
                };
            }
            "trace_propagation" => {
                sketch.description = "somebody holds the table `stock` of `inventory`".into();
                sketch.proof = "31 statements were waiting for the lock".into();
            }
            "telemetry_loss" => {
                sketch.description = "jaeger is paused".into();
                sketch.proof = "the container is `paused`".into();
                sketch.failing = if off { 0.4 } else { 0.0 };
            }
            "deadline" | "circuit_breaker" => {
                sketch.description = "product-service is paused".into();
                sketch.proof = "the container is `paused`".into();
                sketch.failing = if off { 0.3 } else { 0.0 };
            }
            "client_load_balancing" => {
                sketch.description = "one of two containers of product-service is paused".into();
                sketch.proof = "the container is `paused`".into();
                sketch.failing = if off { 0.8 } else { 0.0 };
            }
            "load_shedding" | "rate_limit" => {
                sketch.description = "postgres gets 90 thousandths of a core".into();
                sketch.proof = "postgres was throttled 138 times".into();
                sketch.failing = if off { 0.6 } else { 0.7 };
            }
            "alerting" => {
                sketch.description = "inventory-service is killed".into();
                sketch.proof = "the container is `exited`".into();
            }
            _ => {
                sketch.description = "inventory-service gets 30 thousandths of a core".into();
                sketch.proof = "its processes were throttled in 68 of 70 periods".into();
                sketch.fault = (0.0, 0.0);
                sketch.decided_per_second = [22.0, 43.0, 78.0][number];
            }
        }
        let mut arm = sketch.build();
        if experiment.name == "competing_consumers"
            && let Some(fault) = &mut arm.fault
        {
            fault.injected_at = Some(at(from));
            fault.healed_at = Some(at(from + lasts));
        }
        if matches!(experiment.observed, Observed::Traces) {
            let broken = u64::from(off) * 300;
            arm.telemetry = Some(Telemetry {
                traces: 300,
                whole: 300 - broken,
                missing: BTreeMap::from([("no span of inventory-service".to_owned(), broken)]),
                spans: BTreeMap::from([("sent".to_owned(), 5_200), ("failed".to_owned(), 410)]),
                most_memory_bytes: Some(14_000_000),
            });
        }
        if matches!(experiment.observed, Observed::Alerts { .. }) {
            let names: &[&str] = match plan.name {
                "quiet" => &[],
                "broker" => &["TargetDown", "OutboxStalled"],
                _ => &["TargetDown", "NoConsumers"],
            };
            let told = |second: f64| (!off).then(|| at(second));
            let fired = names.iter().map(|name| FiredAlert {
                name: (*name).to_owned(),
                notified_at: told(from + 38.0),
                resolved_at: told(from + lasts + 12.0),
            });
            arm.alerts = Some(fired.collect());
            if plan.fault_of(experiment).is_none() {
                arm.fault = None;
            }
        }
        arm
    };
    let mut trials = Vec::new();
    for repetition in 1..=3 {
        for experiment in experiments::ALL {
            trials.push(Trial {
                experiment: experiment.name.to_owned(),
                repetition,
                seed: 4_711 * u64::from(repetition),
                arms: (0..experiment.arms.len())
                    .map(|number| sketch(experiment, repetition, number))
                    .collect(),
            });
        }
    }
    evaluation(trials)
}

/// A project in a folder of its own.
fn project(folder: &std::path::Path) -> Project {
    let mut project = Project::discover().expect("tests run in the repository");
    project.root = folder.to_owned();
    project.name = "agora-sketch".to_owned();
    project
}

#[test]
fn harm_without_and_none_with_is_upheld_and_one_refutation_refutes() {
    let upheld = conclude(vec![outbox(1, 41, 0), outbox(2, 38, 0)]);
    assert_eq!(upheld.outcome, Exit::Holds);
    assert_eq!(upheld.experiments[0].outcome, Outcome::Upheld);

    let refuted = conclude(vec![outbox(1, 41, 0), outbox(2, 38, 1)]);
    assert_eq!(refuted.outcome, Exit::Failed);
    let reason = &refuted.experiments[0].reason;
    assert!(reason.contains("in 1 of 2 repetitions"), "{reason}");
    assert!(reason.contains("repetition 2"), "{reason}");

    let unsure = conclude(vec![outbox(1, 41, 0), outbox(2, 0, 0)]);
    assert_eq!(unsure.outcome, Exit::Inconclusive);
    assert_eq!(conclude(Vec::new()).outcome, Exit::Inconclusive);
}

#[test]
fn measurements_come_with_their_spread_over_the_repetitions() {
    let conclusion = conclude(vec![outbox(1, 41, 0), outbox(2, 38, 0), outbox(3, 44, 0)]);
    let lost = &conclusion.experiments[0].measurements[0];
    assert_eq!(lost.name, "orders lost");
    assert!(lost.decisive);
    let off = lost.arms[0].spread.expect("measured");
    assert_eq!((off.median, off.min, off.max), (41.0, 38.0, 44.0));
    let effect = lost.effect.as_ref().expect("both arms were measured");
    assert_eq!(effect.difference.median, -41.0);
    assert_eq!(effect.ratio, None, "nothing is left of it");
}

#[test]
fn an_arm_that_was_not_run_has_no_value_and_nothing_is_concluded() {
    let mut short = outbox(1, 41, 0);
    short.arms.truncate(1);
    let conclusion = conclude(vec![short]);
    assert_eq!(conclusion.outcome, Exit::Inconclusive);
    let lost = &conclusion.experiments[0].measurements[0];
    assert_eq!(lost.arms[1].values, [None]);
    assert_eq!(lost.effect, None);
}

#[test]
fn an_unknown_experiment_is_named() {
    let evaluation = evaluation(vec![trial("telepathy", 1, &[Sketch::arm("off")])]);
    let error = Conclusion::of(&evaluation).unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Unavailable);
    assert!(error.to_string().contains("telepathy"), "{error}");
}

#[test]
fn nothing_from_the_evidence_becomes_markup() {
    let evil = "<script>alert('x')</script> & \"quotes\" | pipes `ticks`\nand lines";
    let mut evaluation = evaluation(vec![trial(
        "outbox",
        1,
        &[Sketch::arm("off").proof(false, evil), Sketch::arm("on")],
    )]);
    evaluation.command = evil.to_owned();
    evaluation.versions.agora = evil.to_owned();
    let arm = &mut evaluation.trials[0].arms[0];
    arm.reconciliation.as_mut().expect("a reconciliation").lost = vec![evil.to_owned()];
    let conclusion = Conclusion::of(&evaluation).unwrap();

    let page = html::page(&evaluation, &conclusion).unwrap();
    assert!(!page.contains("<script"), "a script in the page");
    assert!(page.contains("&lt;script&gt;"));

    let xml = junit::document(&evaluation, &conclusion);
    let document = roxmltree::Document::parse(&xml).expect("well-formed XML");
    let error = document
        .descendants()
        .find(|node| node.has_tag_name("error"));
    let message = error.and_then(|error| error.attribute("message"));
    assert!(
        message.is_some_and(|message| message.contains(evil)),
        "{xml}"
    );

    let summary = markdown::summary(&conclusion);
    // Between backticks nothing is markup.
    let outside: String = summary.split('`').step_by(2).collect();
    assert!(!outside.contains("<script"), "{summary}");
    let row = summary.lines().find(|line| line.contains("| outbox |"));
    let row = row.expect("a row for the outbox");
    assert_eq!(row.replace("\\|", "").matches('|').count(), 6, "{row}");
}

#[test]
fn the_page_has_everything_and_needs_nothing() {
    let evaluation = realistic();
    let conclusion = Conclusion::of(&evaluation).unwrap();
    let page = html::page(&evaluation, &conclusion).unwrap();
    for experiment in &conclusion.experiments {
        assert!(page.contains(&format!(
            "<section class=\"card\" id=\"{}\"",
            experiment.name
        )));
    }
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
    for outside in ["http://", "https://", "src=", "@import", "url(", "<script"] {
        assert!(!page.contains(outside), "the page has {outside}");
    }
    // Three timelines for each arm of each repetition that is drawn: as many as the page has room for.
    let once = evaluation
        .trials
        .iter()
        .filter(|trial| trial.repetition == 1);
    let charts = 3 * once.map(|trial| trial.arms.len()).sum::<usize>();
    let repetitions: Vec<usize> = (1..=3).map(|drawn| drawn * charts).collect();
    assert!(repetitions.contains(&page.matches("<svg viewBox").count()));
    assert_eq!(
        page.matches("<svg ").count(),
        page.matches("</svg>").count()
    );
    // Every id once: labels point at them.
    let ids: Vec<&str> = page
        .split(" id=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let unique: std::collections::BTreeSet<&&str> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len());
}

#[test]
fn a_page_of_many_repetitions_stays_small_and_says_what_it_leaves_out() {
    let once = realistic();
    let mut evaluation = once.clone();
    for repetition in 4..=20 {
        let again = once.trials.iter().filter(|trial| trial.repetition == 1);
        let again = again.cloned().map(|trial| Trial {
            repetition,
            ..trial
        });
        evaluation.trials.extend(again);
    }
    let conclusion = Conclusion::of(&evaluation).unwrap();
    let page = html::page(&evaluation, &conclusion).unwrap();
    // Of which a browser shows the first experiments at once.
    let most = 105_000 * experiments::ALL.len();
    assert!(page.len() < most, "{} bytes", page.len());
    assert!(page.contains("more repetitions are in evidence.json"));
}

#[test]
fn one_run_says_that_it_knows_no_spread() {
    let single = evaluation(vec![outbox(1, 41, 0)]);
    let conclusion = Conclusion::of(&single).unwrap();
    let page = html::page(&single, &conclusion).unwrap();
    assert!(page.contains("one run: no spread is known"));
    assert!(markdown::summary(&conclusion).contains("one run: no spread is known"));

    let twice = evaluation(vec![outbox(1, 41, 0), outbox(2, 38, 0)]);
    let conclusion = Conclusion::of(&twice).unwrap();
    let page = html::page(&twice, &conclusion).unwrap();
    assert!(!page.contains("one run: no spread is known"));
    assert!(page.contains("38–41"));
}

#[test]
fn junit_fails_what_is_refuted_and_errs_on_what_is_open() {
    let evaluation = realistic();
    let conclusion = Conclusion::of(&evaluation).unwrap();
    let xml = junit::document(&evaluation, &conclusion);
    let document = roxmltree::Document::parse(&xml).expect("well-formed XML");
    let count = |tag: &str| {
        let nodes = document.descendants();
        nodes.filter(|node| node.has_tag_name(tag)).count()
    };
    let cases: Vec<Outcome> = conclusion
        .experiments
        .iter()
        .flat_map(|experiment| {
            let trials = experiment.trials.iter().map(|trial| trial.outcome);
            trials.chain(experiment.effects.iter().map(|effect| effect.outcome))
        })
        .collect();
    let cases_with = |outcome| cases.iter().filter(|case| **case == outcome).count();
    let declared = experiments::ALL.iter().map(|it| it.effects.len());
    assert_eq!(count("testsuite"), experiments::ALL.len());
    assert_eq!(
        count("testcase"),
        3 * experiments::ALL.len() + declared.sum::<usize>()
    );
    assert_eq!(count("failure"), cases_with(Outcome::Refuted));
    assert_eq!(count("error"), cases_with(Outcome::Inconclusive));
    assert_eq!(count("skipped"), cases_with(Outcome::NotJudged));
    assert!(count("failure") > 0 && count("error") > 0);
    assert_eq!(
        document.root_element().attribute("failures"),
        Some(count("failure").to_string().as_str())
    );
}

#[test]
fn markdown_has_a_row_for_each_experiment() {
    let conclusion = Conclusion::of(&realistic()).unwrap();
    let summary = markdown::summary(&conclusion);
    for experiment in &conclusion.experiments {
        // An underscore inside a word is no markup.
        let row = format!("| {} | {} |", experiment.name, experiment.outcome.word());
        assert_eq!(summary.matches(&row).count(), 1, "{summary}");
    }
}

fn schema(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("a schema is JSON")
}

#[test]
fn the_json_of_a_comparison_is_as_its_schema_says_and_the_schema_can_refuse() {
    let schema = schema(include_str!(
        "../../../../xtask/schemas/comparison.schema.json"
    ));
    let judged = |trials| Conclusion::of(&evaluation(trials)).unwrap();
    let all = Conclusion::of(&realistic()).unwrap();
    let mut short = outbox(1, 41, 0);
    short.arms.truncate(1);
    for (before, after) in [
        (&all, &all),
        (&all, &judged(Vec::new())),
        (&judged(vec![outbox(1, 41, 0)]), &judged(vec![short])),
    ] {
        let mut document = serde_json::to_value(Comparison::of(before, after, &[], Some(0.2)))
            .expect("it is JSON");
        let found = schema::violations(&schema, &document);
        assert_eq!(found, Vec::<String>::new());
        document["before"]["agora"] = 7.into();
        assert_eq!(schema::violations(&schema, &document).len(), 1);
    }
}

#[test]
fn the_json_of_the_list_is_as_its_schema_says_and_the_schema_can_refuse() {
    let schema = schema(include_str!(
        "../../../../xtask/schemas/experiments.schema.json"
    ));
    let mut document = serde_json::to_value(list::entries()).expect("it is JSON");
    let found = schema::violations(&schema, &document);
    assert_eq!(found, Vec::<String>::new());
    document[0]["counts"] = serde_json::json!([]);
    assert_eq!(schema::violations(&schema, &document).len(), 1);
}

#[test]
fn the_json_is_as_its_schema_says_and_the_schema_can_refuse() {
    let schema = schema(include_str!(
        "../../../../xtask/schemas/evaluation.schema.json"
    ));
    let refused = |document: &serde_json::Value| schema::violations(&schema, document);
    let mut sabotaged = realistic();
    sabotaged.sabotage = Some(Sabotage::WithholdFault);
    let mut short = outbox(1, 41, 0);
    short.arms.truncate(1);
    for evaluation in [
        realistic(),
        sabotaged,
        evaluation(vec![short]),
        evaluation(Vec::new()),
    ] {
        let document = serde_json::to_value(Conclusion::of(&evaluation).unwrap()).unwrap();
        assert_eq!(refused(&document), Vec::<String>::new());
    }

    let document = serde_json::to_value(Conclusion::of(&realistic()).unwrap()).unwrap();
    for (pointer, tampered) in [
        ("/format", serde_json::json!(1)),
        ("/outcome", serde_json::json!("fine")),
        ("/seed", serde_json::json!(-1)),
        ("/started_at", serde_json::json!("yesterday")),
        ("/experiments/0/outcome", serde_json::json!("proven")),
        ("/experiments/0/trials", serde_json::json!([])),
        ("/experiments/0/figures/0/better", serde_json::json!("up")),
        (
            "/experiments/0/figures/0/arms/0/spread/median",
            serde_json::json!("41"),
        ),
        (
            "/experiments/1/figures/0/effect/difference",
            serde_json::json!(null),
        ),
    ] {
        let mut document = document.clone();
        *document.pointer_mut(pointer).expect(pointer) = tampered;
        assert!(!refused(&document).is_empty(), "{pointer}");
    }
    let mut document = document;
    document["experiments"][0]["note"] = "one more field".into();
    assert!(!refused(&document).is_empty());
}

#[test]
fn a_regression_is_beyond_tolerance_and_spread_and_in_the_wrong_direction() {
    let run = |lost: [usize; 3]| {
        let trials = (1..)
            .zip(lost)
            .map(|(repetition, on)| outbox(repetition, 60, on));
        conclude(trials.collect())
    };
    let worse = |before: &Conclusion, after: &Conclusion, tolerance| -> Vec<String> {
        Comparison::of(before, after, &[], Some(tolerance)).regressions
    };
    let (good, bad) = (run([0, 0, 0]), run([0, 3, 0]));
    let comparison = Comparison::of(&good, &bad, &[], Some(0.2));
    assert_eq!(comparison.outcome, Exit::Failed);
    assert_eq!(
        comparison.regressions.len(),
        1,
        "{:?}",
        comparison.regressions
    );
    assert!(comparison.regressions[0].contains("upheld before, refuted now"));
    assert_eq!(
        Comparison::of(&bad, &good, &[], Some(0.2)).outcome,
        Exit::Holds
    );
    assert_eq!(
        Comparison::of(&good, &good, &[], Some(0.0)).outcome,
        Exit::Holds
    );

    // Both refuted, so that only the measurement can tell.
    let lost = |regressions: &[String]| regressions.iter().any(|said| said.contains("orders lost"));
    assert!(lost(&worse(&run([10, 11, 12]), &run([20, 21, 22]), 0.2)));
    assert!(
        !lost(&worse(&run([10, 11, 12]), &run([20, 21, 22]), 1.0)),
        "within the tolerance"
    );
    assert!(
        !lost(&worse(&run([10, 11, 21]), &run([20, 21, 22]), 0.2)),
        "within the spread"
    );
    assert!(
        !lost(&worse(&run([20, 21, 22]), &run([10, 11, 12]), 0.2)),
        "better"
    );
}

#[test]
fn single_values_may_differ_as_single_pairs_do_and_medians_less() {
    let change = |speed: u64, runs: usize| {
        let run = |speed| Conclusion::of(&consumers(&vec![(40, speed); runs])).unwrap();
        // The floor of six pairs is 5 %, single ones differ by 3 % (one standard deviation).
        let comparison = Comparison::of(&run(60), &run(speed), &[noise(1.05)], None);
        let mut measurements = comparison.experiments[0].measurements.iter();
        let speed = measurements.find(|it| it.name == "orders decided under the CPU limit");
        let speed = speed.unwrap();
        (speed.change.word(), (100.0 * speed.tolerance).round())
    };
    assert_eq!(change(57, 1), ("same", 8.0));
    assert_eq!(change(50, 1), ("WORSE", 8.0));
    assert_eq!(change(57, 6), ("WORSE", 4.0));
}

#[test]
fn measurements_that_are_judged_by_noise_share_the_error() {
    let run = |runs: usize| Conclusion::of(&consumers(&vec![(40, 60); runs])).unwrap();
    let tolerance = |runs: usize, noise: &[NoiseRecord], asked: Option<f64>| {
        let comparison = Comparison::of(&run(runs), &run(runs), noise, asked);
        let mut measurements = comparison.experiments[0].measurements.iter();
        let speed = measurements.find(|it| it.name == "orders decided under the CPU limit");
        let judged = comparison.experiments[0].measurements.iter();
        let judged = judged.filter(|it| it.change != Change::NotJudged).count();
        (speed.unwrap().tolerance, judged)
    };
    let one = [noise(1.05)];
    let all: Vec<NoiseRecord> = run(1).experiments[0]
        .measurements
        .iter()
        .map(|measurement| NoiseRecord {
            measurement: measurement.name.clone(),
            ..noise(1.05)
        })
        .collect();
    // Of single values only one is judged, however many have a noise that is known.
    let (alone, judged) = tolerance(1, &all, None);
    assert_eq!((alone, judged), (tolerance(1, &one, None).0, 1));
    // Of six all are that have a better direction, and they share the error.
    let (alone, judged) = tolerance(6, &one, None);
    assert!(judged > 2, "{judged}");
    let (shared, _) = tolerance(6, &all, None);
    let level = LEVEL / judged as f64;
    let expected = between_medians(0.03, 6, 6, 6, level) - 1.0;
    assert!(shared > alone && (shared - expected).abs() < 1e-12);
    assert_eq!(tolerance(6, &all, Some(0.5)).0, 0.5);
}

#[test]
fn a_comparison_says_what_differs_and_compares_only_what_both_have() {
    let before = conclude(vec![outbox(1, 41, 0)]);
    let mut other = evaluation(vec![trial(
        "inbox",
        1,
        &[Sketch::arm("off"), Sketch::arm("on")],
    )]);
    other.seed = 12;
    other.versions.agora = "0123456".to_owned();
    let after = Conclusion::of(&other).unwrap();
    let comparison = Comparison::of(&before, &after, &[], Some(0.2));
    assert_eq!(comparison.outcome, Exit::Inconclusive);
    let said = comparison.differences.join("\n");
    for expected in [
        "seed: 4711 before, 12 now",
        "agora: f4ea5e7c21b0-dirty before, 0123456 now",
        "outbox is only in the earlier run",
        "inbox is only in the later run",
        "one run: no spread is known",
    ] {
        assert!(said.contains(expected), "{expected} is not in\n{said}");
    }
}

#[test]
fn a_run_is_found_again_and_bad_evidence_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let none = EvaluationFolder::find(&project, "latest").unwrap_err();
    assert_eq!(Exit::of(&none), Exit::Unavailable);

    let evaluation = realistic();
    let run = EvaluationFolder::new(&project, &evaluation.run);
    run.write_evidence(&project, &evaluation).unwrap();
    run.write_evidence(&project, &evaluation).unwrap();
    let files = || std::fs::read_dir(&run.path).unwrap().count();
    assert_eq!(files(), 1, "no half-written file is left");
    let conclusion = Conclusion::of(&evaluation).unwrap();
    run.write_reports(&evaluation, &conclusion).unwrap();
    assert_eq!(files(), 5);

    let path = format!("{}/", run.path.display());
    for name in ["latest", &evaluation.run, &path] {
        let found = EvaluationFolder::find(&project, name).unwrap();
        assert!(found.evidence().unwrap() == evaluation, "{name}");
    }

    let evidence = run.path.join("evidence.json");
    let refused = |text: &str| {
        std::fs::write(&evidence, text).unwrap();
        let error = EvaluationFolder::find(&project, "latest")
            .unwrap()
            .evidence()
            .unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Unavailable);
        error.to_string()
    };
    assert!(refused("{\"format\": 1, ").contains("is damaged"));
    assert!(refused("{\"format\": 1}").contains("is damaged"));
    let newer = refused("{\"format\": 3, \"nobody\": \"knows\"}");
    assert!(
        newer.contains("has the format 3, this version judges 1 to 2"),
        "{newer}"
    );
    assert!(refused("{}").contains("has the format none"));
}

/// Pairs of arms with one consumer and with two, in both orders, with the times of their steps.
fn pairs(count: usize) -> Evaluation {
    let pairs = [(40, 60), (41, 60), (40, 63), (38, 60), (42, 62), (40, 58)];
    let mut evaluation = consumers(&pairs[..count]);
    for trial in &mut evaluation.trials {
        let later = usize::from(trial.repetition % 2 == 1);
        trial.arms[later].started_at += TimeDelta::seconds(100);
        trial.arms[later].finished_at += TimeDelta::seconds(100);
        let times = [8_200, 2_900, 23_000, 31_000, 1_400, 6_300];
        let steps = [
            "configure",
            "steady",
            "load",
            "settle",
            "reconcile",
            "restore",
        ];
        for (arm, part) in trial.arms.iter_mut().zip([1, 2]) {
            let steps = steps.iter().zip(times);
            arm.steps = steps
                .map(|(step, took_ms)| StepTime {
                    step: (*step).to_owned(),
                    took_ms: took_ms / if *step == "settle" { part } else { 1 },
                })
                .collect();
        }
    }
    evaluation
}

#[test]
fn the_page_has_a_row_for_each_effect_and_a_dot_for_each_run() {
    for count in [1, 3, 6] {
        let evaluation = pairs(count);
        let conclusion = Conclusion::of(&evaluation).unwrap();
        let page = html::page(&evaluation, &conclusion).unwrap();
        let plots = page.matches("<svg class=\"row\"").count();
        assert!(plots >= conclusion.experiments[0].effects.len());
        assert_eq!(page.matches("<circle class=\"run\"").count(), plots * count);
        assert!(page.contains("class=\"noise\""), "the noise floor is drawn");
        assert_eq!(page.contains("class=\"interval "), count == 6);
        // Each run has its place in the evidence, and the order of its arms.
        for run in 0..count {
            assert!(page.contains(&format!("<code>trials[{run}]</code>")));
            assert!(page.contains(&format!("id=\"competing_consumers-{}\"", run + 1)));
        }
        assert!(page.contains("1 → 2"));
        assert_eq!(page.contains("Effect of the position"), count > 1);
        assert!(page.contains("Time of the steps"));
    }
}

#[test]
fn a_claim_without_ratios_has_no_plot_and_its_sentence_can_be_quoted() {
    let evaluation = evaluation(vec![outbox(1, 41, 0)]);
    let mut conclusion = Conclusion::of(&evaluation).unwrap();
    conclusion.experiments[0]
        .measurements
        .retain(|measurement| measurement.name == "orders lost");
    let page = html::page(&evaluation, &conclusion).unwrap();
    assert!(!page.contains("class=\"forest\"") && !page.contains("Time of the steps"));
    assert!(page.contains("class=\"quote\""));
    assert!(page.contains("at 95 % it fails in at most 95 % of all"));
    let quote = &conclusion.experiments[0].quote;
    assert!(
        quote.contains("in 0 of 1 run, in which with it 560 orders were accepted;"),
        "{quote}"
    );
}

/// A run a day of the outbox and of the consumers; the outbox loses more without it from the sixth on.
fn ten_runs() -> Vec<Conclusion> {
    let run = |day: usize| {
        let mut trials = vec![outbox(1, if day < 5 { 40 } else { 90 } + day % 3, 0)];
        let rate = 57 + 2 * (day as u64 % 4);
        let consumers = consumers(&[(40, rate)]);
        trials.extend(consumers.trials);
        let mut evaluation = evaluation(trials);
        evaluation.noise = consumers.noise;
        evaluation.run = format!("202611{:02}-211358-0a1b", day + 1);
        evaluation.started_at = at(86_400.0 * day as f64);
        evaluation.versions.agora = format!("f4ea5e7c21b{}", day / 3);
        evaluation
    };
    let mut evaluations: Vec<Evaluation> = (0..10).map(run).collect();
    let mut quick = evaluations[9].clone();
    quick.profile = Profile::Quick;
    quick.trials.truncate(1);
    let mut sabotaged = evaluations[9].clone();
    sabotaged.sabotage = Some(Sabotage::BreakPattern);
    let mut same_arms = evaluations[9].clone();
    same_arms.design = Design::SameArms;
    let mut elsewhere = evaluations[9].clone();
    elsewhere.versions.cores = 8;
    elsewhere.versions.engine = "docker 27.5.1".to_owned();
    evaluations.insert(5, elsewhere);
    evaluations.extend([quick, sabotaged, same_arms]);
    let conclusions = evaluations.iter().map(Conclusion::of);
    conclusions.collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_jump_in_ten_runs_is_one_change() {
    let history = History::of(&ten_runs(), 1);
    let titles: Vec<String> = history
        .experiments
        .iter()
        .map(ExperimentHistory::title)
        .collect();
    assert_eq!(
        titles,
        ["outbox", "outbox, profile quick", "competing_consumers"]
    );
    assert_eq!(
        history.left_out.describe().as_deref(),
        Some("1 sabotaged, 1 A/A, 1 on another machine, 1 unreadable for this version")
    );
    let outbox = &history.experiments[0];
    assert_eq!(
        (outbox.runs.len(), history.experiments[1].runs.len()),
        (10, 1)
    );
    let lost = &outbox.series[0];
    assert_eq!(lost.name, "orders lost");
    let changes = &lost.lines[0].changes;
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0].run, "20261106-211358-0a1b");
    assert_eq!((changes[0].before, changes[0].after), (41.0, 91.0));
    assert_eq!(lost.lines[1].changes, []);
    assert_eq!(outbox.changes().len(), 1);
    let faster = &history.experiments[2].series[0];
    assert!(faster.is_ratio && faster.bound.is_some());
    assert_eq!(faster.noise_floor, Some(1.05));
    assert_eq!(faster.lines[0].values.len(), 10);

    let page = history::page(&history).unwrap().replace("&#x2f;", "/");
    assert_eq!(page.matches("class=\"change\"").count(), 1);
    assert!(page.contains("Matteson and James 2014"));
    assert!(page.contains("20261106-211358-0a1b/report.html#outbox"));
    assert!(page.contains("class=\"noise noise1\""));
    // A dot for each value that was measured.
    let lines = || {
        let series = history.experiments.iter().flat_map(|it| &it.series);
        series.flat_map(|series| &series.lines)
    };
    let values = lines().flat_map(|line| &line.values).flatten().count();
    assert_eq!(page.matches("<circle ").count(), values);
    for outside in ["http", "src=", "@import", "url(", "<script"] {
        assert!(!page.contains(outside), "the page has {outside}");
    }
    assert_eq!(
        history
            .only(&["competing_consumers".to_owned()])
            .experiments
            .len(),
        1
    );
}

#[test]
fn a_history_of_hundreds_of_runs_stays_small_and_says_what_it_leaves_out() {
    let run = Conclusion::of(&realistic()).unwrap();
    let history = History::of(&vec![run; 500], 0);
    let page = history::page(&history).unwrap();
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
    assert!(page.contains("older runs are in"));
    assert!(!page.contains("NaN") && !page.contains("inf\""));
}

#[test]
fn nothing_of_a_run_becomes_markup_in_its_history() {
    let mut runs = ten_runs();
    runs.truncate(1);
    runs[0].versions.engine = "<script>\"&".to_owned();
    let evil = "<script>\"&";
    runs[0].versions.agora = evil.to_owned();
    runs[0].run = evil.to_owned();
    runs[0].experiments[0].measurements[0].name = evil.to_owned();
    runs[0].experiments[0].measurements[0].arms[0].arm = evil.to_owned();
    let page = history::page(&History::of(&runs, 0)).unwrap();
    assert!(!page.contains("<script"), "a script in the page");
    assert!(page.contains("&lt;script&gt;"));
}

#[test]
fn the_json_of_a_history_is_as_its_schema_says_and_the_schema_can_refuse() {
    let schema = schema(include_str!(
        "../../../../xtask/schemas/history.schema.json"
    ));
    let refused = |document: &serde_json::Value| schema::violations(&schema, document);
    for history in [
        History::of(&ten_runs(), 1),
        History::of(&[Conclusion::of(&realistic()).unwrap()], 0),
        History::of(&[], 0),
    ] {
        let document = serde_json::to_value(history).unwrap();
        assert_eq!(refused(&document), Vec::<String>::new());
    }
    let document = serde_json::to_value(History::of(&ten_runs(), 1)).unwrap();
    for (pointer, tampered) in [
        ("/format", serde_json::json!(2)),
        ("/left_out/sabotaged", serde_json::json!(-1)),
        ("/experiments/0/quick", serde_json::json!("no")),
        ("/experiments/0/runs/0/outcome", serde_json::json!("fine")),
        (
            "/experiments/0/runs/0/started_at",
            serde_json::json!("ever"),
        ),
        ("/experiments/0/runs/0/profile", serde_json::json!("slow")),
        ("/experiments/0/series/0/lines", serde_json::json!([])),
        ("/experiments/0/series/0/better", serde_json::json!("up")),
        (
            "/experiments/0/series/0/lines/0/values/0",
            serde_json::json!("41"),
        ),
        (
            "/experiments/0/series/0/lines/0/changes/0/p",
            serde_json::json!(2),
        ),
    ] {
        let mut document = document.clone();
        *document.pointer_mut(pointer).expect(pointer) = tampered;
        assert_eq!(refused(&document).len(), 1, "{pointer}");
    }
}

#[test]
#[ignore = "writes a page to look at: AGORA_SKETCH names the folder"]
fn sketch_a_page() {
    let folder = std::env::var("AGORA_SKETCH").expect("AGORA_SKETCH");
    let project = project(folder.as_ref());
    for (name, evaluation) in [
        ("six", pairs(6)),
        ("pairs", {
            let mut six = pairs(6);
            let others = realistic().trials.into_iter();
            let others = others.filter(|trial| trial.experiment != "competing_consumers");
            six.trials.extend(others);
            six.noise = vec![noise(1.08)];
            six
        }),
        ("three", realistic()),
        ("once", {
            let mut once = realistic();
            once.trials.retain(|trial| trial.repetition == 1);
            once
        }),
    ] {
        let run = EvaluationFolder::new(&project, name);
        run.write_evidence(&project, &evaluation).unwrap();
        let conclusion = Conclusion::of(&evaluation).unwrap();
        run.write_reports(&evaluation, &conclusion).unwrap();
    }
    write_history(&project, &History::of(&ten_runs(), 1)).unwrap();
}
