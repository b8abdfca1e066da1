//! The record: changes of alerts in the order of arrival, without repetitions, bounded in number and in bytes.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use records::alerts::{Change, History};

/// The maximum number of changes.
const LIMIT: usize = 1_000;
/// The maximum memory of their labels and annotations together, in bytes: those of a single change may fill a request.
const LIMIT_BYTES: usize = 4 * 1024 * 1024;
/// The approximate overhead of a label or an annotation.
const PAIR_BYTES: usize = 100;

/// The received changes. At a limit the oldest is dropped, and counted.
#[derive(Debug)]
pub(crate) struct Record {
    changes: VecDeque<Change>,
    bytes: usize,
    dropped: u64,
    began_at: DateTime<Utc>,
}

impl Record {
    /// An empty record that starts at this time.
    pub(crate) fn new(began_at: DateTime<Utc>) -> Self {
        Self {
            changes: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            began_at,
        }
    }

    /// Adds a change unless it is a repetition; returns whether it was new. A repetition of a dropped change counts as new.
    pub(crate) fn add(&mut self, change: Change) -> bool {
        if self.changes.iter().any(|known| known.repeats(&change)) {
            return false;
        }
        self.bytes += size(&change);
        self.changes.push_back(change);
        while self.changes.len() > LIMIT || self.bytes > LIMIT_BYTES {
            let Some(oldest) = self.changes.pop_front() else {
                break;
            };
            self.bytes -= size(&oldest);
            self.dropped += 1;
        }
        true
    }

    /// Counts changes that were never received.
    pub(crate) fn add_missed(&mut self, count: u64) {
        self.dropped = self.dropped.saturating_add(count);
    }

    /// The changes received at this time or later; all of them without a time.
    pub(crate) fn since(&self, time: Option<DateTime<Utc>>) -> History {
        let selected = |change: &&Change| time.is_none_or(|time| change.received_at >= time);
        History {
            alerts: self.changes.iter().filter(selected).cloned().collect(),
            dropped: self.dropped,
            recording_since: self.began_at,
        }
    }
}

/// What counts against [`LIMIT_BYTES`].
fn size(change: &Change) -> usize {
    let pairs = change.labels.iter().chain(&change.annotations);
    pairs
        .map(|(name, value)| name.len() + value.len() + PAIR_BYTES)
        .sum()
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use records::alerts::Status;

    use super::*;

    fn change(number: i64, summary: &str) -> Change {
        let time = DateTime::UNIX_EPOCH + TimeDelta::seconds(number);
        Change {
            received_at: time,
            status: Status::Firing,
            name: "TargetDown".to_owned(),
            severity: "critical".to_owned(),
            labels: [("alertname".to_owned(), "TargetDown".to_owned())].into(),
            annotations: [("summary".to_owned(), summary.to_owned())].into(),
            starts_at: time,
            ends_at: None,
        }
    }

    #[test]
    fn the_oldest_change_is_dropped_when_there_are_too_many() {
        let mut record = Record::new(DateTime::UNIX_EPOCH);
        for number in 0..1_003 {
            assert!(record.add(change(number, "")));
        }
        let history = record.since(None);
        assert_eq!((history.alerts.len(), history.dropped), (1_000, 3));
        assert_eq!(history.alerts[0].received_at.timestamp(), 3);
    }

    #[test]
    fn the_oldest_change_is_dropped_when_they_are_too_large() {
        let mut record = Record::new(DateTime::UNIX_EPOCH);
        let text = "x".repeat(1_000_000);
        for number in 0..10 {
            assert!(record.add(change(number, &text)));
        }
        let history = record.since(None);
        assert_eq!((history.alerts.len(), history.dropped), (4, 6));
        assert_eq!(history.alerts[3].received_at.timestamp(), 9);
    }

    #[test]
    fn a_resolved_alert_does_not_repeat_its_firing() {
        let mut record = Record::new(DateTime::UNIX_EPOCH);
        let firing = change(1, "");
        let mut resolved = firing.clone();
        resolved.status = Status::Resolved;
        resolved.ends_at = Some(DateTime::UNIX_EPOCH + TimeDelta::seconds(9));
        assert!(record.add(firing.clone()));
        assert!(record.add(resolved.clone()));
        // However much later it is repeated, and whatever the values in its annotations.
        for mut again in [firing, resolved] {
            again.received_at += TimeDelta::hours(1);
            again.annotations.clear();
            assert!(!record.add(again));
        }
        // It fired again.
        assert!(record.add(change(20, "")));
    }

    #[test]
    fn earlier_changes_are_left_out() {
        let mut record = Record::new(DateTime::UNIX_EPOCH);
        for number in 0..3 {
            record.add(change(number, ""));
        }
        let from = DateTime::UNIX_EPOCH + TimeDelta::seconds(1);
        let times = |history: History| {
            let times = history.alerts.iter().map(|c| c.received_at.timestamp());
            times.collect::<Vec<_>>()
        };
        assert_eq!(times(record.since(Some(from))), [1, 2]);
        assert_eq!(times(record.since(None)), [0, 1, 2]);
    }
}
