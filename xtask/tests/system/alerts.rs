//! Alerts in the running system: each comes when there is a reason, goes with it, and is notified of, all within the times
//! that `docs/runbook.md` gives. What a rule says is tested by `promtool`; here it is seen that the figures it asks for are
//! there, and that the news gets through.
//!
//! The slow ones run with `AGORA_TEST_ALERTS=all`, some half an hour: `AGORA_TEST_ALERTS=all cargo xtask test -- -p xtask
//! --test system alerts -- --nocapture` prints how long each took.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use shared_events::topology::ORDER_EVENTS;
use support::runbook::{Bounds, bounds};

use crate::{
    client::{TestUser, text},
    kills::{UNDER_WAY_WITHIN, placed_orders},
    load::RUN_ENDS_WITHIN,
    program::{EXIT_INTERRUPTED, Running},
    reconciliation::undecided,
    system::System,
    wait,
};

/// Asking takes its time; what counts is when the receiver was notified.
const ASKED_WITHIN: Duration = Duration::from_secs(15);
/// What Prometheus sees resolved is notified within this time, or was lost with an Alertmanager that was killed.
const NOTIFIED_WITHIN: Duration = Duration::from_secs(20);
/// A fault of an earlier test may be just over.
const AT_REST_WITHIN: Duration = Duration::from_secs(60);

/// The names of the alerts in these states.
fn in_state(system: &System, states: &[&str]) -> Vec<String> {
    let report = system.xtask(&["alerts", "--format", "json"]).json();
    let alerts = report["alerts"].as_array().expect("a list");
    let wanted = alerts
        .iter()
        .filter(|alert| states.iter().any(|state| alert["state"] == *state));
    wanted.map(|alert| text(alert, "name")).collect()
}

/// A notification that the receiver got.
#[derive(Debug, Clone)]
struct Notification {
    name: String,
    received_at: DateTime<Utc>,
    is_firing: bool,
    /// Alerts of one name, and one alert's episodes, differ in this.
    episode: String,
}

impl Notification {
    #[track_caller]
    fn read(change: &Value) -> Self {
        let received_at = text(change, "received_at").parse();
        Self {
            name: text(change, "name"),
            received_at: received_at.expect("a time"),
            is_firing: change["status"] == "firing",
            episode: format!("{} {}", change["labels"], change["starts_at"]),
        }
    }
}

/// The notifications since a time; all without one.
#[track_caller]
fn history(system: &System, since: Option<DateTime<Utc>>) -> Vec<Notification> {
    let seconds = since.map(|since| format!("{}s", (Utc::now() - since).num_seconds() + 2));
    let mut args = vec!["alerts", "--history", "--format", "json"];
    if let Some(seconds) = &seconds {
        args.extend(["--since", seconds]);
    }
    let report = system.xtask(&args).expect_code(0).json();
    let changes = report["changes"].as_array().expect("a list");
    let notifications = changes.iter().map(Notification::read);
    notifications
        .filter(|notification| since.is_none_or(|since| notification.received_at >= since))
        .collect()
}

/// The names of those that fire, according to the notifications.
fn open(notifications: &[Notification]) -> Vec<&str> {
    let mut episodes: BTreeMap<&str, &Notification> = BTreeMap::new();
    for notification in notifications {
        episodes.insert(&notification.episode, notification);
    }
    let open = episodes.values().filter(|last| last.is_firing);
    open.map(|last| &*last.name).collect()
}

#[track_caller]
fn bound(name: &str) -> Bounds {
    *bounds()
        .get(name)
        .unwrap_or_else(|| panic!("the runbook has no times for {name}"))
}

/// How long a time after another is; nothing for one before it.
fn after(time: DateTime<Utc>, begin: DateTime<Utc>) -> Duration {
    (time - begin).to_std().unwrap_or_default()
}

/// Waits until none of them is firing or about to, and that was notified.
#[track_caller]
fn at_rest(system: &System, names: &[&str]) {
    let concerned = |name: &str| names.contains(&name);
    let longest = names.iter().map(|name| bound(name).clears_within).max();
    let limit = longest.expect("some alerts") + AT_REST_WITHIN;
    let mut quiet_since = None;
    wait::until("alerts at rest", limit, || {
        let mut active = in_state(system, &["firing", "pending"]);
        active.retain(|name| concerned(name));
        if !active.is_empty() {
            quiet_since = None;
            return Err(format!("not at rest: {active:?}"));
        }
        let since = *quiet_since.get_or_insert_with(Instant::now);
        let notifications = history(system, None);
        let mut open = open(&notifications);
        open.retain(|name| concerned(name));
        if open.is_empty() || since.elapsed() > NOTIFIED_WITHIN {
            return Ok(());
        }
        Err(format!("not notified as resolved: {open:?}"))
    });
}

/// Waits for the notifications that all of them fire, within their time after the fault began.
#[track_caller]
fn fire(system: &System, names: &[&str], began: DateTime<Utc>) {
    for name in names {
        let bound = bound(name).fires_within;
        let left = bound.saturating_sub(after(Utc::now(), began)) + ASKED_WITHIN;
        let notified_at = wait::until(&format!("{name} to fire"), left, || {
            let notifications = history(system, Some(began));
            let first = notifications
                .iter()
                .find(|one| one.is_firing && one.name == *name);
            first
                .map(|one| one.received_at)
                .ok_or(format!("{notifications:?}"))
        });
        let took = after(notified_at, began);
        println!("{name} fired after {:.1} s", took.as_secs_f64());
        assert!(took <= bound, "{name}: {took:?}, expected {bound:?}");
    }
    let firing = in_state(system, &["firing"]);
    for name in names {
        assert!(firing.iter().any(|f| f == name), "{name}: {firing:?}");
    }
    system.xtask(&["alerts"]).expect_code(1);
}

/// Waits for the notifications that all of them cleared, within their time after the fault ended.
#[track_caller]
fn clear(system: &System, names: &[&str], began: DateTime<Utc>, ended: DateTime<Utc>) {
    for name in names {
        let bound = bound(name).clears_within;
        let left = bound.saturating_sub(after(Utc::now(), ended)) + ASKED_WITHIN;
        let notified_at = wait::until(&format!("{name} to clear"), left, || {
            let notifications = history(system, Some(began));
            let last = notifications.iter().rfind(|one| one.name == *name);
            match last {
                Some(last) if !open(&notifications).contains(name) => Ok(last.received_at),
                _ => Err(format!("{notifications:?}")),
            }
        });
        let took = after(notified_at, ended);
        println!("{name} cleared after {:.1} s", took.as_secs_f64());
        assert!(took <= bound, "{name}: {took:?}, expected {bound:?}");
    }
    let firing = in_state(system, &["firing"]);
    for name in names {
        assert!(firing.iter().all(|f| f != name), "{name}: {firing:?}");
    }
}

/// Whether the slow ones were asked for.
fn all_are_asked_for() -> bool {
    let asked = std::env::var("AGORA_TEST_ALERTS").unwrap_or_default();
    match asked.as_str() {
        "all" => true,
        "" => {
            eprintln!("left out: AGORA_TEST_ALERTS=all asks for it");
            false
        }
        other => panic!("AGORA_TEST_ALERTS: `{other}`, expected `all` or nothing"),
    }
}

/// Starts actions of a scenario that arrive whatever becomes of them, and waits until orders are placed.
#[track_caller]
fn load(system: &System, scenario: &str, arrivals: &str, run_time: &str) -> Running {
    let before = placed_orders(system);
    let load = system.start_xtask(&[
        "load",
        scenario,
        "--arrivals",
        arrivals,
        "--run-time",
        run_time,
        "--users",
        "5",
        // Requests fail, of course.
        "--max-error-rate",
        "1",
    ]);
    wait::until("orders of the run", UNDER_WAY_WITHIN, || {
        if placed_orders(system) > before {
            return Ok(());
        }
        load.expect_running();
        Err("none so far".to_owned())
    });
    load
}

/// Ends a load.
#[track_caller]
fn stop(load: Running) {
    load.expect_running();
    load.interrupt(RUN_ENDS_WITHIN)
        .expect_code(EXIT_INTERRUPTED);
}

#[test]
fn a_dead_letter_raises_an_alert_until_it_is_gone() {
    let system = System::take_turn();
    let expected = ["DeadLettersPresent"];
    at_rest(&system, &expected);
    let began = Utc::now();
    system.publish(ORDER_EVENTS, "order.placed.v1", "not an event");
    fire(&system, &expected, began);
    let report = system.xtask(&["alerts", "--format", "json"]).json();
    let alerts: &Vec<Value> = report["alerts"].as_array().expect("a list");
    let letters = alerts.iter().find(|a| a["name"] == "DeadLettersPresent");
    let letters = letters.expect("it is still firing");
    assert_eq!(letters["summary"], "dead letters in order_events.dead: 1");
    assert_eq!(letters["runbook"], "docs/runbook.md#deadletterspresent");
    let ended = Utc::now();
    system.purge_dead_letters();
    clear(&system, &expected, began, ended);
    let table = system.xtask(&["alerts", "--history", "--since", "10m"]);
    let table = table.expect_code(0).stdout;
    for part in ["DeadLettersPresent", "warning", "firing", "resolved"] {
        assert!(table.contains(part), "{part}: {table}");
    }
}

#[test]
fn a_consumer_that_is_away_raises_alerts_until_it_is_back() {
    let system = System::take_turn();
    let expected = ["NoConsumers", "TargetDown"];
    at_rest(&system, &expected);
    let began = Utc::now();
    let outage = system.kill("inventory-service");
    fire(&system, &expected, began);
    let ended = Utc::now();
    drop(outage);
    clear(&system, &expected, began, ended);
}

#[test]
fn an_event_that_nobody_takes_raises_an_alert_until_it_is_published() {
    let system = System::take_turn();
    let expected = ["OutboxStalled"];
    at_rest(&system, &expected);
    let ada = TestUser::new(&system.gateway);
    let outage = system.kill("rabbitmq");
    let began = Utc::now();
    ada.try_to_order(&system.gateway).expect_status(202);
    fire(&system, &expected, began);
    let ended = Utc::now();
    drop(outage);
    clear(&system, &expected, began, ended);
}

#[test]
fn a_history_that_cannot_be_read_is_no_empty_one() {
    let system = System::take_turn();
    let outage = system.kill("alert-receiver");
    let refused = system.xtask(&["alerts", "--history"]).expect_code(3);
    assert!(
        refused.stderr.contains("alert-receiver") && refused.stderr.contains("next: "),
        "{}",
        refused.account()
    );
    drop(outage);
    system.wait_until_healthy();
    system.xtask(&["alerts", "--history"]).expect_code(0);
}

/// More orders than may wait, in so many seconds: at 40 a second it takes half a minute.
const LAGGING: u64 = 1_000;
const LAGS_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn orders_that_pile_up_and_are_not_decided_raise_alerts_until_they_are() {
    if !all_are_asked_for() {
        return;
    }
    let system = System::take_turn();
    at_rest(&system, &["ConsumerLag", "OrdersStuck"]);
    let load = load(&system, "order", "40", "60s");
    let began = Utc::now();
    let outage = system.kill("inventory-service");
    wait::until("orders to pile up", LAGS_WITHIN, || {
        match undecided(&system) {
            count if count > LAGGING => Ok(()),
            count => Err(format!("{count} wait")),
        }
    });
    fire(&system, &["ConsumerLag"], Utc::now());
    fire(&system, &["OrdersStuck"], began);
    let ended = Utc::now();
    drop(outage);
    clear(&system, &["ConsumerLag", "OrdersStuck"], began, ended);
    load.end_within(RUN_ENDS_WITHIN).expect_code(0);
}

/// A prelude without a fault: a burn rate with nothing to burn would be easy to raise.
const GOOD: Duration = Duration::from_secs(60);

#[test]
fn requests_that_fail_raise_both_burn_rates_until_they_do_not() {
    if !all_are_asked_for() {
        return;
    }
    let system = System::take_turn();
    let expected = ["RequestsFailFast", "RequestsFail"];
    at_rest(&system, &expected);
    let load = load(&system, "order", "20", "30m");
    wait::pause(GOOD);
    let began = Utc::now();
    // The gateway asks it about every token: all requests fail, and none of them at a service's own counter.
    let outage = system.kill("user-service");
    fire(&system, &expected, began);
    drop(outage);
    system.wait_until_healthy();
    clear(&system, &expected, began, Utc::now());
    stop(load);
}

#[test]
fn requests_that_are_slow_raise_an_alert_until_they_are_not() {
    if !all_are_asked_for() {
        return;
    }
    let system = System::take_turn();
    let expected = ["RequestsSlow"];
    at_rest(&system, &expected);
    let load = load(&system, "mixed", "20", "30m");
    wait::pause(GOOD);
    let began = Utc::now();
    let lock = system.start_xtask(&["fault", "lock-table", "users", "users", "--for", "10m"]);
    fire(&system, &expected, began);
    lock.interrupt(RUN_ENDS_WITHIN)
        .expect_code(EXIT_INTERRUPTED);
    clear(&system, &expected, began, Utc::now());
    stop(load);
}

#[test]
fn spans_that_nobody_takes_raise_an_alert_until_somebody_does() {
    if !all_are_asked_for() {
        return;
    }
    let system = System::take_turn();
    let expected = ["SpansLost"];
    at_rest(&system, &expected);
    let load = load(&system, "order", "20", "30m");
    let began = Utc::now();
    let paused = system.pause("jaeger");
    fire(&system, &expected, began);
    let ended = Utc::now();
    drop(paused);
    clear(&system, &expected, began, ended);
    stop(load);
}

#[test]
fn a_catalogue_that_hangs_raises_an_alert_until_it_is_asked_again() {
    if !all_are_asked_for() {
        return;
    }
    let system = System::take_turn();
    let expected = ["BreakerOpen"];
    at_rest(&system, &expected);
    // A fifth of its actions are purchases, and another fifth the orders by which it is seen to run.
    let load = load(&system, "mixed", "40", "30m");
    let began = Utc::now();
    let paused = system.pause("product-service");
    fire(&system, &expected, began);
    let ended = Utc::now();
    drop(paused);
    clear(&system, &expected, began, ended);
    stop(load);
}

const QUIET: Duration = Duration::from_secs(10 * 60);

#[test]
fn ten_quiet_minutes_raise_no_alert() {
    if !all_are_asked_for() {
        return;
    }
    let system = System::take_turn();
    let bounds = bounds();
    let names: Vec<&str> = bounds.keys().map(String::as_str).collect();
    at_rest(&system, &names);
    let began = Utc::now();
    let load = load(&system, "order", "20", "30m");
    wait::pause(QUIET);
    let notifications = history(&system, Some(began));
    assert!(notifications.is_empty(), "{notifications:?}");
    assert_eq!(in_state(&system, &["firing"]), [""; 0]);
    stop(load);
}

/// The reading of a history is a judgement too: it is seen to tell an open alert from one that is over.
#[test]
fn an_alert_is_open_until_its_own_end_is_notified() {
    let notification = |second, is_firing, episode: &str| Notification {
        name: "TargetDown".to_owned(),
        received_at: DateTime::UNIX_EPOCH + TimeDelta::seconds(second),
        is_firing,
        episode: episode.to_owned(),
    };
    let mut all = vec![
        notification(1, true, "traefik 1"),
        notification(2, true, "rabbitmq 2"),
    ];
    assert_eq!(open(&all), ["TargetDown"; 2]);
    all.push(notification(3, false, "traefik 1"));
    assert_eq!(open(&all), ["TargetDown"]);
    all.push(notification(4, false, "rabbitmq 2"));
    assert_eq!(open(&all), [""; 0]);
    // It fires again.
    all.push(notification(5, true, "traefik 5"));
    assert_eq!(open(&all), ["TargetDown"]);
}
