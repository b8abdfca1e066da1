//! The options that select dead letters.
//!
//! Left out: matching (`shared_events::dead_letters::Selection`).

use std::time::Duration;

use base::durations;
use clap::builder::NonEmptyStringValueParser;
use shared_events::dead_letters::Selection;
use system::dead_letters;

/// The options that choose dead letters; all of them have to be met.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Filters {
    /// Only this dead-letter queue [default: all of them]
    #[arg(long, value_parser = dead_letter_queue)]
    queue: Option<String>,
    /// Only dead letters with this reason, e.g. `unreadable`
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    reason: Option<String>,
    /// Only events of this type, e.g. `agora.order.placed.v1`
    #[arg(long = "type", value_name = "TYPE", value_parser = NonEmptyStringValueParser::new())]
    event_type: Option<String>,
    /// Only events whose id begins so
    #[arg(long, value_name = "BEGINNING", value_parser = NonEmptyStringValueParser::new())]
    id: Option<String>,
    /// Only those that have been dead letters for at least this long: 30s, 10m, 1h, 7d
    #[arg(long, value_name = "AGE", value_parser = durations::parse)]
    older_than: Option<Duration>,
    /// Only those that have been dead letters for less than this
    #[arg(long, value_name = "AGE", value_parser = durations::parse)]
    younger_than: Option<Duration>,
}

fn dead_letter_queue(name: &str) -> Result<String, String> {
    let queues = dead_letters::queues();
    if queues.iter().any(|queue| queue == name) {
        return Ok(name.to_owned());
    }
    Err(format!("the dead-letter queues are {}", queues.join(", ")))
}

impl Filters {
    /// The queues to look at.
    pub(crate) fn queues(&self) -> Vec<String> {
        match &self.queue {
            Some(queue) => vec![queue.clone()],
            None => dead_letters::queues(),
        }
    }

    /// Which of their dead letters.
    pub(crate) fn selection(&self) -> Selection {
        Selection {
            reason: self.reason.clone(),
            event_type: self.event_type.clone(),
            id: self.id.clone(),
            older_than: self.older_than,
            younger_than: self.younger_than,
        }
    }

    /// Without a condition: all dead letters of all queues.
    pub(crate) fn are_absent(&self) -> bool {
        self.queue.is_none() && self.selection() == Selection::default()
    }
}

#[cfg(test)]
impl Filters {
    pub(crate) fn with_reason(reason: &str) -> Self {
        Self {
            reason: Some(reason.to_owned()),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        filters: Filters,
    }

    fn filters(args: &[&str]) -> Result<Filters, clap::Error> {
        let line = Line::try_parse_from(["xtask"].iter().chain(args))?;
        Ok(line.filters)
    }

    #[test]
    fn each_option_is_a_condition() {
        assert!(filters(&[]).unwrap().are_absent());
        for args in [
            ["--queue", "inventory_events.dead"],
            ["--reason", "rejected"],
            ["--type", "agora.order.placed.v1"],
            ["--id", "0193"],
            ["--older-than", "10m"],
            ["--younger-than", "1h"],
        ] {
            assert!(!filters(&args).unwrap().are_absent(), "{args:?}");
        }
        let chosen = filters(&["--older-than", "10m", "--younger-than", "1h"]).unwrap();
        assert_eq!(
            chosen.selection().older_than,
            Some(Duration::from_secs(600))
        );
        assert_eq!(
            chosen.selection().younger_than,
            Some(Duration::from_secs(3_600))
        );
        assert_eq!(chosen.queues(), dead_letters::queues());
    }

    #[test]
    fn a_condition_without_content_and_an_unknown_queue_are_refused() {
        for args in [
            ["--queue", "order_events"],
            ["--id", ""],
            ["--reason", ""],
            ["--older-than", "soon"],
        ] {
            assert!(filters(&args).is_err(), "{args:?}");
        }
        let error = filters(&["--queue", "orders.dead"])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("order_events.dead, inventory_events.dead"),
            "{error}"
        );
    }
}
