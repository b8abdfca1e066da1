//! `dlq`: single dead letters. `list` and `peek` read them through the management API and leave them where they are;
//! `replay` and `purge` move them.
//!
//! Left out: a verdict on their number, see `verify-dlq`.

mod filters;
mod moving;

use base::outcome::{self, Exit};
use chrono::Utc;
use clap::Subcommand;
use shared_events::dead_letters::BODY_BEGINNING_BYTES;
use system::{
    dead_letters::{self, DeadLetter, READ_LIMIT, READ_LIMIT_BYTES, Reader},
    members,
    project::Project,
};
use terminal::one_line;

use self::{
    filters::Filters,
    moving::{PurgeOptions, ReplayOptions},
};
use crate::output::{Format, print_json, table};

/// How much of a body is shown, in bytes.
const PEEK_PAYLOAD_LIMIT_BYTES: usize = 16_384;

/// What can be done with dead letters.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Options {
    /// List dead letters
    List(ListOptions),
    /// Show one dead letter with its headers and its body
    Peek(PeekOptions),
    /// Send dead letters again, to the queue that each came from
    Replay(ReplayOptions),
    /// Remove dead letters for good
    Purge(PurgeOptions),
}

/// Options of `dlq list`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ListOptions {
    #[command(flatten)]
    filters: Filters,
    /// At most this many
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

/// Options of `dlq peek`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PeekOptions {
    /// The dead letter's number in `dlq list`, or at least the first 8 characters of its id [default: the first that
    /// meets the conditions]
    letter: Option<String>,
    #[command(flatten)]
    filters: Filters,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    match options {
        Options::List(options) => list(&reader(project)?, options, format),
        Options::Peek(options) => peek(&reader(project)?, options, format),
        Options::Replay(options) => moving::replay(project, options, format),
        Options::Purge(options) => moving::purge(project, options, format),
    }
}

fn reader(project: &Project) -> anyhow::Result<Reader> {
    Reader::new(project, &members::running(project)?)
}

/// The dead letters of all queues, in a stable order.
struct Letters {
    /// Those that were read. `peek` takes their numbers, which don't depend on conditions.
    letters: Vec<DeadLetter>,
    /// How many there are, whether or not they were read.
    total: usize,
}

impl Letters {
    fn read(reader: &Reader, payload_limit_bytes: usize) -> anyhow::Result<Self> {
        let mut all = Self {
            letters: Vec::new(),
            total: 0,
        };
        for queue in dead_letters::queues() {
            let content = reader.read(&queue, READ_LIMIT, payload_limit_bytes)?;
            all.total += content.count;
            all.letters.extend(content.letters);
        }
        Ok(all)
    }

    /// The dead letters that meet the conditions, with their numbers.
    fn selected(&self, filters: &Filters) -> Vec<(usize, &DeadLetter)> {
        let (queues, selection, now) = (filters.queues(), filters.selection(), Utc::now());
        let meets = |letter: &DeadLetter| {
            queues.contains(&letter.queue) && selection.selects(&letter.facts(), now)
        };
        (1..)
            .zip(&self.letters)
            .filter(|(_, letter)| meets(letter))
            .collect()
    }
}

fn list(reader: &Reader, options: &ListOptions, format: Format) -> anyhow::Result<Exit> {
    let letters = Letters::read(reader, BODY_BEGINNING_BYTES)?;
    let mut selected = letters.selected(&options.filters);
    selected.truncate(options.limit);
    if format == Format::Json {
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
        let or_dash = |text: Option<String>| {
            text.map_or_else(|| "-".to_owned(), |text| one_line(&text).into_owned())
        };
        rows.add_row([
            number.to_string(),
            letter.queue.clone(),
            or_dash(letter.id.clone()),
            or_dash(letter.event_type.clone()),
            one_line(letter.reason()).into_owned(),
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
    let (shown, read) = (selected.len(), letters.letters.len());
    println!("{shown} shown of {read} read");
    if read < letters.total {
        println!(
            "There are {} dead letters: of each queue the first {READ_LIMIT} are read, or {} MiB of them.",
            letters.total,
            READ_LIMIT_BYTES >> 20
        );
    }
    Ok(Exit::Holds)
}

fn peek(reader: &Reader, options: &PeekOptions, format: Format) -> anyhow::Result<Exit> {
    let letters = Letters::read(reader, PEEK_PAYLOAD_LIMIT_BYTES)?;
    let selected = letters.selected(&options.filters);
    let letter = match &options.letter {
        Some(wanted) => find(&selected, wanted),
        None => selected.first().map(|(_, letter)| *letter),
    };
    let letter = letter.ok_or_else(|| {
        let wanted = options.letter.as_ref();
        outcome::failed(
            wanted.map_or_else(
                || "there is no such dead letter".to_owned(),
                |wanted| format!("there is no dead letter `{wanted}`"),
            ),
            "`cargo xtask dlq list` shows their numbers and ids",
        )
    })?;
    if format == Format::Json {
        print_json(letter)?;
        return Ok(Exit::Holds);
    }
    println!("queue        {}", letter.queue);
    println!("routing key  {}", one_line(&letter.routing_key));
    println!("reason       {}", one_line(letter.reason()));
    if let Some(error) = &letter.error {
        println!("error        {}", one_line(error));
    }
    println!("headers");
    for (name, value) in &letter.headers {
        println!("  {}: {value}", one_line(name));
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

/// Fewer characters than this are a dead letter's number, not the beginning of its id.
const SHORTEST_ID: usize = 8;

fn find<'a>(letters: &[(usize, &'a DeadLetter)], wanted: &str) -> Option<&'a DeadLetter> {
    let begins = |letter: &DeadLetter| letter.id.as_ref().is_some_and(|id| id.starts_with(wanted));
    let number = wanted.parse::<usize>().ok();
    letters
        .iter()
        .find(|(position, letter)| match wanted.len() {
            SHORTEST_ID.. => begins(letter),
            _ => number == Some(*position),
        })
        .map(|(_, letter)| *letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(id: &str, reason: &str) -> DeadLetter {
        DeadLetter {
            queue: "order_events.dead".to_owned(),
            id: Some(id.to_owned()),
            event_type: None,
            reason: Some(reason.to_owned()),
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
        let all: Vec<_> = (1..).zip(&letters).collect();
        let id = |wanted: &str| find(&all, wanted).and_then(|letter| letter.id.as_deref());
        assert_eq!(id("2"), Some("01960000-b"));
        assert_eq!(id("01950000"), Some("01950000-a"));
        assert_eq!(id("0"), None);
        assert_eq!(id("3"), None);
    }

    #[test]
    fn conditions_leave_the_numbers_as_they_are() {
        let letters = Letters {
            letters: vec![
                letter("01950000-a", "unreadable"),
                letter("01960000-b", "rejected"),
            ],
            total: 2,
        };
        assert_eq!(letters.selected(&Filters::default()).len(), 2);
        let rejected = Filters::with_reason("rejected");
        let selected = letters.selected(&rejected);
        assert_eq!(selected, [(2, &letters.letters[1])]);
        assert!(find(&selected, "1").is_none());
    }
}
