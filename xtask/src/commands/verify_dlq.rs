//! `verify-dlq`: how many dead letters there are, why, how old they are, and how many messages may still become one.
//!
//! Left out: single dead letters, see `dlq`.

use std::time::{Duration, Instant};

use base::{outcome::Exit, progress::spell};
use chrono::Utc;
use shared_events::{dead_letters::BODY_BEGINNING_BYTES, topology::RETRY_TIERS};
use system::{
    dead_letters::{self, COUNTS_LAG, Expectation, READ_LIMIT, Reader, Verdict},
    members,
    project::Project,
    wait,
};
use terminal::one_line;

use crate::output::{Format, print_json, table};

/// How often the statistics are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);
/// Handling on the way from tier to tier, and the looks themselves.
const SLACK: Duration = Duration::from_secs(14);

/// Options of `verify-dlq`.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Options {
    /// How many dead letters there should be, over all queues
    #[arg(long, value_name = "N", default_value_t)]
    expect: usize,
    /// Wait until no message is on its way or waits in a retry tier any more, at most 45 s
    #[arg(long)]
    settled: bool,
}

impl Options {
    /// No dead letters, and none to come.
    pub(crate) fn settled() -> Self {
        Self {
            settled: true,
            ..Self::default()
        }
    }
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: Options, format: Format) -> anyhow::Result<Exit> {
    let members = members::running(project)?;
    let reader = Reader::new(project, &members)?;
    // Before the dead letters: what dies in between is counted twice, and not overlooked.
    let waiting = if options.settled {
        settle(&reader)?
    } else {
        reader.waiting()?
    };
    let contents = dead_letters::queues()
        .iter()
        .map(|queue| reader.read(queue, READ_LIMIT, BODY_BEGINNING_BYTES))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let expectation = Expectation {
        dead: options.expect,
        settled: options.settled,
    };
    let verdict = dead_letters::judge(&contents, waiting, expectation, Utc::now());
    match format {
        Format::Json => print_json(&verdict)?,
        Format::Text => print_text(&verdict),
    }
    Ok(verdict.outcome)
}

/// Waits until the queues and their retry tiers stay empty for longer than the counts may be old; how many
/// messages are there in the end.
fn settle(reader: &Reader) -> anyhow::Result<usize> {
    let tiers: Duration = RETRY_TIERS.iter().map(|tier| tier.delay).sum();
    let mut waiting = 0;
    let mut calm_since = None;
    wait::until(tiers + SLACK, LOOK_INTERVAL, || {
        waiting = reader.waiting()?;
        if waiting > 0 {
            calm_since = None;
            return Ok(None);
        }
        let since = *calm_since.get_or_insert_with(Instant::now);
        Ok((since.elapsed() > COUNTS_LAG).then_some(()))
    })?;
    Ok(waiting)
}

fn print_text(verdict: &Verdict) {
    let mut queues = table(["queue", "dead letters", "reasons"]);
    for (queue, count) in &verdict.queues {
        let reasons = verdict.reasons.get(queue).into_iter().flatten();
        let reasons: Vec<String> = reasons
            .map(|(reason, count)| format!("{} {count}", one_line(reason)))
            .collect();
        queues.add_row([queue.clone(), count.to_string(), reasons.join(", ")]);
    }
    println!("{queues}");
    if verdict.examined < verdict.total {
        println!(
            "Reasons and ages are those of {} dead letters; the count is exact.",
            verdict.examined
        );
    }
    if let Some(age) = verdict.oldest_age_seconds {
        println!(
            "The oldest has lain there for {}.",
            spell(Duration::from_secs(age))
        );
    }
    for letter in &verdict.samples {
        println!(
            "  {} {} {}: {}",
            one_line(letter.id.as_deref().unwrap_or("(no id)")),
            one_line(letter.event_type.as_deref().unwrap_or("(no type)")),
            one_line(letter.reason()),
            one_line(letter.error.as_deref().unwrap_or("(no error text)"))
        );
    }
    println!("under way in queues and retry tiers: {}", verdict.waiting);
    if verdict.outcome == Exit::Inconclusive {
        println!("They may still become dead letters, and didn't settle in time: look again.");
    }
    println!(
        "{}: {} dead letters, {} expected",
        verdict.outcome.word(),
        verdict.total,
        verdict.expected
    );
    if verdict.outcome != Exit::Holds && verdict.total > 0 {
        println!("`cargo xtask dlq list` shows them, `cargo xtask dlq peek 1` shows one in full.");
    }
}
