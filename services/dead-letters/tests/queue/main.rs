//! The tool with a real broker: which messages it moves, which it keeps, and the state after an interruption.

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod broker;
mod killed;
mod purge;
mod refused;
mod replay;

use dead_letters::{Options, Task};
use shared_events::dead_letters::Selection;
use shared_events::topology::ORDER_EVENTS;

/// All messages of `order_events.dead`.
fn all(task: Task) -> Options {
    Options {
        task,
        topology: ORDER_EVENTS,
        selection: Selection::default(),
        limit: None,
        dry_run: false,
    }
}

/// Those with this reason.
fn with_reason(task: Task, reason: &str) -> Options {
    Options {
        selection: Selection {
            reason: Some(reason.to_owned()),
            ..Selection::default()
        },
        ..all(task)
    }
}
