//! `verify-dlq`: how many dead letters there are, why, and how old they are.

use std::time::Duration;

use chrono::Utc;

use crate::{
    dead_letters::{self, READ_LIMIT, Reader, Verdict},
    engine,
    outcome::Exit,
    output::{Format, FormatOption, print_json, spell, table},
    project::Project,
};

/// How much of each body is read, in bytes: enough for an event's id and type.
const PAYLOAD_LIMIT_BYTES: usize = 2_048;

/// What `verify-dlq` can be told.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Options {
    /// How many dead letters there should be, over all queues
    #[arg(long, value_name = "N", default_value_t)]
    expect: usize,
    #[command(flatten)]
    pub(crate) format: FormatOption,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: Options) -> anyhow::Result<Exit> {
    let containers = engine::running_system(project)?;
    let reader = Reader::new(project, &containers)?;
    let contents = dead_letters::queues()
        .iter()
        .map(|queue| reader.read(queue, READ_LIMIT, PAYLOAD_LIMIT_BYTES))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let verdict = dead_letters::judge(&contents, options.expect, Utc::now());
    match options.format.format {
        Format::Json => print_json(&verdict)?,
        Format::Text => print_text(&verdict),
    }
    Ok(verdict.outcome)
}

fn print_text(verdict: &Verdict) {
    let mut queues = table(["queue", "dead letters", "reasons"]);
    for (queue, count) in &verdict.queues {
        let reasons = verdict.reasons.get(queue).into_iter().flatten();
        let reasons: Vec<String> = reasons
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        queues.add_row([queue.clone(), count.to_string(), reasons.join(", ")]);
    }
    println!("{queues}");
    if verdict.examined < verdict.total {
        println!(
            "Reasons and ages are those of {} letters; the count is exact.",
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
            letter.id.as_deref().unwrap_or("(no id)"),
            letter.event_type.as_deref().unwrap_or("(no type)"),
            letter.reason,
            letter.error.as_deref().unwrap_or("(no error text)")
        );
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
