//! The dead-letter tool, replaying every message of `order_events.dead`, with its crash point compiled in.

use std::process::ExitCode;

use dead_letters::{Options, Task};
use shared_events::dead_letters::Selection;
use shared_events::topology::ORDER_EVENTS;
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    chassis::arm_crash_points();
    let url = std::env::var("AMQP_URL").unwrap_or_default();
    let options = Options {
        task: Task::Replay,
        topology: ORDER_EVENTS,
        selection: Selection::default(),
        limit: None,
        dry_run: false,
    };
    match dead_letters::run(&options, &url, CancellationToken::new()).await {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
