//! `evaluate` on the running system: a claim is upheld, refuted once its pattern is broken, and neither without its
//! fault; one that is ended restores what it found, and one that is killed is made good by `heal`.

use std::time::Duration;

use ::evaluation::store::EvaluationFolder;
use ::system::project::Project;
use chrono::Utc;
use records::evaluation::Evaluation;
use serde_json::Value;
use support::sources;

use crate::{
    program::{EXIT_INTERRUPTED, Running},
    reconciliation,
    system::System,
    wait,
};

/// An experiment takes a minute and a half; this is for busy machines.
const OVER_WITHIN: Duration = Duration::from_secs(8 * 60);
const STEP_WITHIN: Duration = Duration::from_secs(120);
/// A configuration that was under way is waited for.
const HEALED_WITHIN: Duration = Duration::from_secs(5 * 60);

/// Chooses which experiments are broken on purpose; all of them take half an hour.
const EXPERIMENTS: &str = "AGORA_TEST_EXPERIMENTS";
/// How often an evaluation is killed.
const KILLS: &str = "AGORA_TEST_KILLS";

/// A seed by which `confirms` and `dead_letter` begin with the arm without the pattern, and one by which they begin with the other.
const OFF_FIRST: &str = "--seed=4";
const ON_FIRST: &str = "--seed=2";

fn chosen(variable: &str, default: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| default.to_owned())
}

/// Evaluates the experiments; the conclusion.
#[track_caller]
fn evaluate(system: &System, experiments: &[&str], options: &[&str], code: i32) -> Value {
    let args = [&["evaluate"], experiments, options, &["--format", "json"]].concat();
    let ended = system.start_xtask(&args).end_within(OVER_WITHIN);
    eprintln!("{}", ended.stderr);
    ended.expect_code(code).json()
}

#[track_caller]
fn expect_outcomes(conclusion: &Value, outcome: &str) {
    let experiments = conclusion["experiments"].as_array().expect("experiments");
    assert!(!experiments.is_empty());
    for experiment in experiments {
        println!("{}: {}", experiment["name"], experiment["reason"]);
        assert_eq!(experiment["outcome"], outcome, "{experiment:#}");
    }
}

#[test]
fn a_claim_is_upheld_refuted_when_its_pattern_is_broken_and_open_without_its_fault() {
    let system = System::take_turn();
    let experiments = chosen(EXPERIMENTS, "confirms");
    for experiment in experiments.split(' ') {
        let experiment = [experiment];
        // In either order of the arms.
        expect_outcomes(&evaluate(&system, &experiment, &[ON_FIRST], 0), "upheld");
        let broken = ["--sabotage", "break-pattern", OFF_FIRST];
        expect_outcomes(&evaluate(&system, &experiment, &broken, 1), "refuted");
        let withheld = ["--sabotage", "withhold-fault", ON_FIRST];
        expect_outcomes(
            &evaluate(&system, &experiment, &withheld, 4),
            "inconclusive",
        );
    }
    // It leaves nothing behind, for those who come after it.
    system.xtask(&["verify-dlq", "--settled"]).expect_code(0);
    as_it_was(&system);
}

#[test]
fn an_evaluation_that_is_killed_at_any_moment_is_made_good_by_heal() {
    let system = System::take_turn();
    let kills: u64 = chosen(KILLS, "2").parse().expect("a number");
    for kill in 0..kills {
        let evaluation = system.start_xtask(&["evaluate", "dead_letter", OFF_FIRST]);
        wait_until_changed(&system, &evaluation);
        // Another moment each time, all over the arm without the pattern.
        wait::pause(Duration::from_millis(500 + 12_000 * kill / kills.max(2)));
        evaluation.expect_running();
        evaluation.kill(STEP_WITHIN);
        let healed = system.start_xtask(&["heal"]).end_within(HEALED_WITHIN);
        println!("kill {}: {}", kill + 1, healed.expect_code(0).stdout);
        as_it_was(&system);
    }
    system.xtask(&["verify-dlq", "--settled"]).expect_code(0);
}

#[test]
fn a_killed_evaluation_is_resumed_and_no_arm_is_there_twice() {
    let system = System::take_turn();
    let run = ["evaluate", "confirms", "--repeat", "2", OFF_FIRST];
    let kills: u64 = chosen(KILLS, "1").parse().expect("a number");
    let begun = Utc::now();
    let mut evaluation = system.start_xtask(&run);
    let first = || {
        // Not another run's from before.
        let evidence = evidence(&system).filter(|it| it.started_at >= begun)?;
        let mut trials = evidence.trials.into_iter();
        trials.next().filter(|trial| trial.arms.len() == 2)
    };
    wait::until("a whole trial", OVER_WITHIN, || {
        evaluation.expect_running();
        first().map(|_| ()).ok_or_else(|| "not yet".to_owned())
    });
    let before = first();
    for kill in 0..kills {
        wait_until_changed(&system, &evaluation);
        // Another moment each time, within what one trial takes.
        wait::pause(Duration::from_millis(500 + 40_000 * kill / kills));
        evaluation.kill(STEP_WITHIN);
        evaluation = system.start_xtask(&["evaluate", "resume", "latest"]);
    }
    evaluation.end_within(OVER_WITHIN).expect_code(0);
    let judged = ["evaluate", "judge", "latest", "--format", "json"];
    let conclusion = system.xtask(&judged).expect_code(0).json();
    let trials = conclusion["experiments"][0]["trials"].as_array();
    let repetitions: Vec<_> = trials.expect("trials").iter().collect();
    let repetitions: Vec<_> = repetitions.iter().map(|it| &it["repetition"]).collect();
    assert_eq!(repetitions, [1, 2]);
    let after = evidence(&system).expect("evidence").trials;
    assert_eq!(
        after.first(),
        before.as_ref(),
        "a whole trial was run again"
    );
    for trial in after {
        let arms: Vec<_> = trial.arms.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(arms, ["off", "on"]);
    }
    as_it_was(&system);
    // Nothing is left to be done.
    let again = ["evaluate", "resume", "latest"];
    let again = system.start_xtask(&again).end_within(STEP_WITHIN);
    again.expect_code(0);
}

#[test]
fn an_evaluation_has_the_system_alone_and_ctrl_c_restores_what_it_found() {
    let system = System::take_turn();
    let evaluation = system.start_xtask(&["evaluate", "confirms", OFF_FIRST]);
    wait_until_changed(&system, &evaluation);
    let refused = system.xtask(&["heal"]).expect_code(3);
    assert!(refused.stderr.contains("under way"), "{}", refused.stderr);
    evaluation
        .interrupt(STEP_WITHIN)
        .expect_code(EXIT_INTERRUPTED);
    as_it_was(&system);
    system.xtask(&["verify-dlq", "--settled"]).expect_code(0);
}

/// What the system's last evaluation has on disk.
fn evidence(system: &System) -> Option<Evaluation> {
    let project = Project::at(sources::root(), system.project());
    let folder = EvaluationFolder::find(&project, "latest").ok()?;
    folder.evidence().ok()
}

/// The evaluation has begun to change the system once a service runs without the pattern.
#[track_caller]
fn wait_until_changed(system: &System, evaluation: &Running) {
    wait::until("an arm without the pattern", STEP_WITHIN, || {
        evaluation.expect_running();
        match patterns_off(system) {
            off if off.is_empty() => Err("every pattern is on".to_owned()),
            _ => Ok(()),
        }
    });
}

fn patterns_off(system: &System) -> Vec<Value> {
    let status = system.xtask(&["status", "--format", "json"]).json();
    let services = status["services"].as_array().expect("services");
    let off = services
        .iter()
        .filter_map(|service| service["patterns_off"].as_array());
    off.flatten().cloned().collect()
}

/// Healthy at once, all patterns on, and orders are confirmed.
#[track_caller]
fn as_it_was(system: &System) {
    system.xtask(&["status"]).expect_code(0);
    assert_eq!(patterns_off(system), [""; 0]);
    reconciliation::an_order_is_confirmed(system);
}
