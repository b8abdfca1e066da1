//! `dlq`: looking at dead letters. They stay where they are.

use clap::Subcommand;

use crate::{
    dead_letters::{self, DeadLetter, READ_LIMIT, Reader},
    engine,
    outcome::{self, Exit},
    output::{Format, FormatOption, print_json, table},
    project::Project,
};

/// How much of each body a list reads, in bytes: enough for an event's id and type.
const LIST_PAYLOAD_LIMIT_BYTES: usize = 2_048;
/// How much of a body is shown, in bytes.
const PEEK_PAYLOAD_LIMIT_BYTES: usize = 16_384;

/// What can be done with dead letters.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Options {
    /// List dead letters
    List(ListOptions),
    /// Show one dead letter with its headers and its body
    Peek(PeekOptions),
}

/// What `dlq list` can be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ListOptions {
    /// Only this queue
    #[arg(long)]
    queue: Option<String>,
    /// Only letters with this reason, e.g. `unreadable`
    #[arg(long)]
    reason: Option<String>,
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// At most this many
    #[arg(long, default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    format: FormatOption,
}

/// What `dlq peek` can be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PeekOptions {
    /// The letter's number in `dlq list`, or at least the first 8 characters of its id
    letter: String,
    #[command(flatten)]
    format: FormatOption,
}

impl Options {
    /// The form of the result.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::List(options) => options.format.format,
            Self::Peek(options) => options.format.format,
        }
    }
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options) -> anyhow::Result<Exit> {
    let containers = engine::running_system(project)?;
    let reader = Reader::new(project, &containers)?;
    match options {
        Options::List(options) => list(&reader, options),
        Options::Peek(options) => peek(&reader, options),
    }
}

/// All letters that are read, in a stable order: their numbers are what `peek` takes.
fn letters(reader: &Reader, payload_limit_bytes: usize) -> anyhow::Result<Vec<DeadLetter>> {
    let mut letters = Vec::new();
    for queue in dead_letters::queues() {
        letters.extend(
            reader
                .read(&queue, READ_LIMIT, payload_limit_bytes)?
                .letters,
        );
    }
    Ok(letters)
}

fn list(reader: &Reader, options: &ListOptions) -> anyhow::Result<Exit> {
    if let Some(queue) = &options.queue
        && !dead_letters::queues().contains(queue)
    {
        return Err(outcome::usage(
            format!("there is no dead-letter queue `{queue}`"),
            format!(
                "the dead-letter queues are {}",
                dead_letters::queues().join(", ")
            ),
        ));
    }
    let letters = letters(reader, LIST_PAYLOAD_LIMIT_BYTES)?;
    let selected: Vec<(usize, &DeadLetter)> = (1..)
        .zip(&letters)
        .filter(|(_, letter)| options.selects(letter))
        .take(options.limit)
        .collect();
    if options.format.format == Format::Json {
        print_json(
            &selected
                .iter()
                .map(|(_, letter)| letter)
                .collect::<Vec<_>>(),
        )?;
        return Ok(Exit::Holds);
    }
    let mut rows = table([
        "",
        "queue",
        "id",
        "type",
        "reason",
        "attempts",
        "failed at",
        "error",
    ]);
    for (number, letter) in &selected {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        rows.add_row([
            number.to_string(),
            letter.queue.clone(),
            or_dash(letter.id.clone()),
            or_dash(letter.event_type.clone()),
            letter.reason.clone(),
            or_dash(letter.attempts.map(|attempts| attempts.to_string())),
            or_dash(
                letter
                    .failed_at
                    .map(|time| time.format("%F %T").to_string()),
            ),
            or_dash(letter.error.clone()),
        ]);
    }
    println!("{rows}");
    println!("{} shown of {} read", selected.len(), letters.len());
    Ok(Exit::Holds)
}

impl ListOptions {
    fn selects(&self, letter: &DeadLetter) -> bool {
        self.queue
            .as_ref()
            .is_none_or(|queue| *queue == letter.queue)
            && self
                .reason
                .as_ref()
                .is_none_or(|reason| *reason == letter.reason)
            && self
                .event_type
                .as_deref()
                .is_none_or(|event_type| Some(event_type) == letter.event_type.as_deref())
    }
}

fn peek(reader: &Reader, options: &PeekOptions) -> anyhow::Result<Exit> {
    let letters = letters(reader, PEEK_PAYLOAD_LIMIT_BYTES)?;
    let letter = find(&letters, &options.letter).ok_or_else(|| {
        outcome::failed(
            format!("there is no dead letter `{}`", options.letter),
            "`cargo xtask dlq list` shows their numbers and ids",
        )
    })?;
    if options.format.format == Format::Json {
        print_json(letter)?;
        return Ok(Exit::Holds);
    }
    println!("queue        {}", letter.queue);
    println!("routing key  {}", letter.routing_key);
    println!("reason       {}", letter.reason);
    if let Some(error) = &letter.error {
        println!("error        {error}");
    }
    println!("headers");
    for (name, value) in &letter.headers {
        println!("  {name}: {value}");
    }
    println!("body ({} bytes)", letter.payload_bytes);
    match serde_json::from_str::<serde_json::Value>(&letter.payload) {
        Ok(json) => println!("{}", serde_json::to_string_pretty(&json)?),
        Err(_) => println!("{}", letter.payload.escape_debug()),
    }
    if letter.payload_bytes > PEEK_PAYLOAD_LIMIT_BYTES {
        println!("(cut after {PEEK_PAYLOAD_LIMIT_BYTES} bytes)");
    }
    Ok(Exit::Holds)
}

/// Fewer characters than this are a letter's number, not the beginning of its id.
const SHORTEST_ID: usize = 8;

fn find<'a>(letters: &'a [DeadLetter], wanted: &str) -> Option<&'a DeadLetter> {
    if wanted.len() >= SHORTEST_ID {
        return letters
            .iter()
            .find(|letter| letter.id.as_ref().is_some_and(|id| id.starts_with(wanted)));
    }
    letters.get(wanted.parse::<usize>().ok()?.checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(id: &str, reason: &str) -> DeadLetter {
        DeadLetter {
            queue: "order_events.dead".to_owned(),
            id: Some(id.to_owned()),
            event_type: None,
            reason: reason.to_owned(),
            error: None,
            attempts: None,
            routing_key: String::new(),
            failed_at: None,
            headers: serde_json::Map::new(),
            payload_bytes: 0,
            payload: String::new(),
        }
    }

    #[test]
    fn a_letter_is_found_by_number_and_by_the_beginning_of_its_id() {
        let letters = [
            letter("01950000-a", "unreadable"),
            letter("01960000-b", "rejected"),
        ];
        assert_eq!(
            find(&letters, "2").unwrap().id.as_deref(),
            Some("01960000-b")
        );
        assert_eq!(
            find(&letters, "01950000").unwrap().id.as_deref(),
            Some("01950000-a")
        );
        assert!(find(&letters, "0").is_none());
        assert!(find(&letters, "3").is_none());
    }
}
