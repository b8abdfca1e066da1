//! How a dead letter is chosen among others, in one place: `cargo xtask dlq list` looks at letters through
//! the broker's management API, and the `dead-letters` tool moves them over AMQP; both have to mean the same
//! ones.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// What a letter is chosen by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The event's id, where it can be read.
    pub id: Option<String>,
    /// The event's type, where it can be read.
    pub event_type: Option<String>,
    /// Why it is dead.
    pub reason: Option<String>,
    /// When it was called dead.
    pub failed_at: Option<DateTime<Utc>>,
}

/// Which letters are meant: those that meet every condition that is set. An empty selection means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The reason, as it stands in the header.
    pub reason: Option<String>,
    /// The event's type.
    pub event_type: Option<String>,
    /// The beginning of the event's id.
    pub id: Option<String>,
    /// Dead for at least so long.
    pub older_than: Option<Duration>,
    /// Dead for less than so long.
    pub younger_than: Option<Duration>,
}

impl Selection {
    /// Whether a letter is meant. What a letter doesn't tell meets no condition.
    pub fn selects(&self, letter: &Facts, now: DateTime<Utc>) -> bool {
        let equal =
            |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        let age = letter
            .failed_at
            .map(|failed_at| (now - failed_at).to_std().unwrap_or_default());
        equal(&self.reason, &letter.reason)
            && equal(&self.event_type, &letter.event_type)
            && self
                .id
                .as_ref()
                .is_none_or(|start| letter.id.as_ref().is_some_and(|id| id.starts_with(start)))
            && self
                .older_than
                .is_none_or(|least| age.is_some_and(|age| age >= least))
            && self
                .younger_than
                .is_none_or(|most| age.is_some_and(|age| age < most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(now: DateTime<Utc>) -> Facts {
        Facts {
            id: Some("01938f7a-6f8a".to_owned()),
            event_type: Some("agora.order.placed.v1".to_owned()),
            reason: Some("unreadable".to_owned()),
            failed_at: Some(now - Duration::from_secs(60)),
        }
    }

    #[test]
    fn every_condition_has_to_be_met() {
        let now = Utc::now();
        let with = |change: fn(&mut Selection)| {
            let mut selection = Selection::default();
            change(&mut selection);
            selection.selects(&letter(now), now)
        };
        assert!(with(|_| ()));
        assert!(with(|all| all.reason = Some("unreadable".to_owned())));
        assert!(!with(|all| all.reason = Some("rejected".to_owned())));
        assert!(!with(|all| all.event_type = Some("agora.order".to_owned())));
        assert!(with(|all| all.id = Some("01938f7a".to_owned())));
        assert!(!with(|all| all.id = Some("0193ffff".to_owned())));
        assert!(with(|all| all.older_than = Some(Duration::from_secs(60))));
        assert!(!with(|all| all.older_than = Some(Duration::from_secs(61))));
        assert!(with(|all| all.younger_than = Some(Duration::from_secs(61))));
        assert!(!with(|all| {
            all.reason = Some("unreadable".to_owned());
            all.younger_than = Some(Duration::from_secs(60));
        }));
    }

    #[test]
    fn what_a_letter_does_not_tell_meets_no_condition() {
        let selection = Selection {
            older_than: Some(Duration::ZERO),
            ..Selection::default()
        };
        assert!(!selection.selects(&Facts::default(), Utc::now()));
        assert!(Selection::default().selects(&Facts::default(), Utc::now()));
    }
}
