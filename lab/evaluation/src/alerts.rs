//! Which alerts fired in an arm, by Prometheus, and which were notified, by the receiver of Alertmanager's
//! notifications.
//!
//! Left out: whether they should have; the experiment judges that.

use std::time::{Duration, Instant};

use base::outcome;
use chrono::{DateTime, Utc};
use records::{
    alerts::{Change, History, Status},
    evaluation::FiredAlert,
};
use system::{
    alert_history::AlertReceiver,
    interrupt::Interrupted,
    prometheus::{AlertState, Prometheus},
    running::RunningSystem,
    wait,
};

/// Twice the longest time, 90 s, that the runbook allows an alert to clear that a fault of the experiments can raise.
const CLEARED_WITHIN: Duration = Duration::from_secs(180);
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The longest time, 330 s, that the runbook allows any alert to clear, and some more.
const QUIET_WITHIN: Duration = Duration::from_secs(360);

/// How much longer than [`alert firing`](AlertState::Firing) a notification is waited for: Alertmanager's `group_wait` of 1 s, an
/// interval of 5 s after which it tries again, and some more.
const NOTIFIED_AFTER_FIRING: Duration = Duration::from_secs(8);

/// Whether all alerts of a fault were seen, so that it may be healed.
pub(crate) struct Raised {
    prometheus: Prometheus,
    receiver: AlertReceiver,
    names: Vec<&'static str>,
    since: DateTime<Utc>,
    all_fire_since: Option<Instant>,
    next_look: Instant,
}

impl Raised {
    /// Looks for these alerts, from `since` on.
    pub(crate) fn new(
        system: &RunningSystem<'_>,
        names: Vec<&'static str>,
        since: DateTime<Utc>,
    ) -> anyhow::Result<Self> {
        let members = system.members()?;
        Ok(Self {
            prometheus: Prometheus::new(&members)?,
            receiver: AlertReceiver::new(&members)?,
            names,
            since,
            all_fire_since: None,
            next_look: Instant::now(),
        })
    }

    /// Whether all of them fire and were notified, or have fired for so long that no notification comes any more. A look that
    /// fails sees nothing: without a better one the fault lasts as long as planned.
    pub(crate) fn were_seen(&mut self) -> anyhow::Result<bool> {
        if Instant::now() < self.next_look {
            return Ok(false);
        }
        self.next_look = Instant::now() + LOOK_INTERVAL;
        match self.look() {
            Err(error) if !error.is::<Interrupted>() => Ok(false),
            seen => seen,
        }
    }

    fn look(&mut self) -> anyhow::Result<bool> {
        let alerts = self.prometheus.alerts()?;
        let fires = |name: &&str| {
            let mut firing = alerts.iter().filter(|it| it.state == AlertState::Firing);
            firing.any(|alert| alert.labels.get("alertname").is_some_and(|it| it == name))
        };
        if !self.names.iter().all(fires) {
            return Ok(false);
        }
        let since = *self.all_fire_since.get_or_insert_with(Instant::now);
        let notified = fired(&self.receiver.history(Some(self.since))?.alerts);
        let was_notified = |name: &&str| notified.iter().any(|alert| alert.name == **name);
        Ok(self.names.iter().all(was_notified) || since.elapsed() > NOTIFIED_AFTER_FIRING)
    }
}

/// Waits until no alert fires: one from before the arm would be taken for a false alarm.
pub(crate) fn wait_until_nothing_fires(system: &RunningSystem<'_>) -> anyhow::Result<()> {
    let prometheus = Prometheus::new(&system.members()?)?;
    let mut fires = String::new();
    let quiet = wait::until(QUIET_WITHIN, LOOK_INTERVAL, || {
        let alerts = prometheus.alerts()?;
        let firing = alerts.iter().find(|one| one.state == AlertState::Firing);
        fires = firing
            .and_then(|one| one.labels.get("alertname").cloned())
            .unwrap_or_default();
        Ok(firing.is_none().then_some(()))
    })?;
    quiet.ok_or_else(|| {
        outcome::failed(
            format!("{fires} fires before anything was done"),
            "`cargo xtask alerts` says what it is about; repair that first",
        )
    })
}

/// Waits until no alert fires and the receiver was notified of every resolution; returns the alerts that fired since
/// `since`. One that fired twice is returned twice.
pub(crate) fn fired_since(
    system: &RunningSystem<'_>,
    since: DateTime<Utc>,
) -> anyhow::Result<Vec<FiredAlert>> {
    let members = system.members()?;
    let (prometheus, receiver) = (Prometheus::new(&members)?, AlertReceiver::new(&members)?);
    let quiet = wait::until(CLEARED_WITHIN, LOOK_INTERVAL, || {
        let firing = prometheus.alerts()?;
        if firing.iter().any(|alert| alert.state == AlertState::Firing) {
            return Ok(None);
        }
        let history = receiver.history(Some(since))?;
        require_record(&history, since)?;
        let fired = fired(&history.alerts);
        Ok(fired
            .iter()
            .all(|alert| alert.resolved_at.is_some())
            .then_some(fired))
    })?;
    let mut fired = quiet.ok_or_else(|| {
        outcome::failed(
            "alerts still fire, or are not notified as resolved",
            "`cargo xtask alerts` shows which",
        )
    })?;
    for name in fired_by_prometheus(&prometheus, since)? {
        if fired.iter().all(|alert| alert.name != name) {
            fired.push(FiredAlert {
                name,
                notified_at: None,
                resolved_at: None,
            });
        }
    }
    Ok(fired)
}

/// Fails where the receiver was restarted meanwhile: it would look like one without notifications.
fn require_record(history: &History, since: DateTime<Utc>) -> anyhow::Result<()> {
    anyhow::ensure!(
        history.recording_since <= since,
        "the alert receiver was started at {}, and has lost earlier notifications",
        history.recording_since
    );
    Ok(())
}

/// The alerts that the receiver was notified of, one for each time that an alert fired.
fn fired(changes: &[Change]) -> Vec<FiredAlert> {
    let mut fired: Vec<(&Change, FiredAlert)> = Vec::new();
    for change in changes {
        match change.status {
            Status::Firing => fired.push((
                change,
                FiredAlert {
                    name: change.name.clone(),
                    notified_at: Some(change.received_at),
                    resolved_at: None,
                },
            )),
            Status::Resolved => {
                let same = fired
                    .iter_mut()
                    .find(|(first, _)| first.is_of_the_same(change));
                // A resolution without its alert: that fired before the arm.
                if let Some((_, alert)) = same {
                    alert.resolved_at = Some(change.received_at);
                }
            }
        }
    }
    fired.into_iter().map(|(_, alert)| alert).collect()
}

fn fired_by_prometheus(
    prometheus: &Prometheus,
    since: DateTime<Utc>,
) -> anyhow::Result<Vec<String>> {
    let now = prometheus.now()?;
    let seconds = (now - since.timestamp_millis() as f64 / 1_000.0).ceil();
    let query =
        format!("max by (alertname) (max_over_time(ALERTS{{alertstate=\"firing\"}}[{seconds}s]))");
    let fired = prometheus.query(&query, now)?;
    Ok(fired
        .iter()
        .map(|sample| sample.label("alertname").to_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn change(status: Status, job: &str, second: u32) -> Change {
        let at = |second| DateTime::from_timestamp(i64::from(second), 0).unwrap();
        Change {
            received_at: at(second),
            status,
            name: "TargetDown".to_owned(),
            severity: "critical".to_owned(),
            labels: BTreeMap::from([("job".to_owned(), job.to_owned())]),
            annotations: BTreeMap::new(),
            starts_at: at(1),
            ends_at: None,
        }
    }

    #[test]
    fn a_receiver_that_started_anew_has_no_say() {
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        let history = History {
            alerts: Vec::new(),
            dropped: 0,
            recording_since: at(10),
        };
        assert!(require_record(&history, at(10)).is_ok());
        let error = require_record(&history, at(9)).unwrap_err().to_string();
        assert!(error.contains("was started"), "{error}");
    }

    #[test]
    fn what_fired_and_what_is_resolved_are_distinguished_by_their_labels() {
        let changes = [
            change(Status::Resolved, "before", 5),
            change(Status::Firing, "a", 10),
            change(Status::Firing, "b", 11),
            change(Status::Resolved, "b", 20),
        ];
        let fired: Vec<_> = fired(&changes)
            .into_iter()
            .map(|alert| (alert.notified_at, alert.resolved_at))
            .collect();
        let at = |second| DateTime::from_timestamp(second, 0);
        assert_eq!(fired, [(at(10), None), (at(11), at(20))]);
    }
}
