//! Output on the terminal: progress of long work on standard error, results on standard output.
//!
//! Left out: what is shown; commands decide that.

use std::{
    cell::Cell,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use base::progress::{Display, Progress, StepDisplay, spell};
use clap::{
    ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use comfy_table::{ContentArrangement, LineStyle, Table, presets};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use terminal::one_line;

/// How often a long step prints its state where there is no spinner.
const HEARTBEAT: Duration = Duration::from_secs(20);
const MAX_UPDATE_CHARS: usize = 100;

/// The narrowest terminal that tables are fitted to.
const NARROWEST_COLUMNS: u16 = 60;

/// The form of a result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON document on standard output, nothing else.
    Json,
}

/// Reads one of the values by its name; help shows each with its explanation.
pub(crate) fn one_of<T: Copy + Send + Sync + 'static>(
    values: &'static [T],
    name: fn(T) -> &'static str,
    help: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    let possible = values
        .iter()
        .map(|value| PossibleValue::new(name(*value)).help(help(*value)));
    PossibleValuesParser::new(possible).try_map(move |text| {
        let found = values.iter().find(|value| name(**value) == text);
        found.copied().ok_or("not one of the values")
    })
}

/// Prints a line that a program wrote to its standard output.
pub(crate) fn print_stdout(line: &str) {
    println!("{line}");
}

/// Prints a line that a program wrote to its standard error.
pub(crate) fn print_stderr(line: &str) {
    eprintln!("{line}");
}

/// Prints a value as JSON on standard output.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// An empty table in the house's look.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()))
        .set_header(header);
    // Some terminals say that they have no columns at all: wrapping to that would stack single letters.
    if table
        .width()
        .is_some_and(|columns| columns >= NARROWEST_COLUMNS)
    {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

/// Progress on standard error: spinners on a terminal, plain lines elsewhere.
pub(crate) fn progress() -> Progress {
    Progress::new(Steps {
        bars: io::stderr().is_terminal().then(MultiProgress::new),
    })
}

struct Steps {
    bars: Option<MultiProgress>,
}

impl Display for Steps {
    fn begin(&self, name: &str) -> Box<dyn StepDisplay> {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(
                ProgressStyle::with_template("{spinner} {prefix}  {wide_msg}").unwrap_or_else(
                    |_| {
                        // A template that doesn't parse costs the looks, nothing else.
                        ProgressStyle::default_spinner()
                    },
                ),
            );
            bar.set_prefix(one_line(name).into_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Box::new(Shown {
            name: name.to_owned(),
            bar,
            started: Instant::now(),
            said_at: Cell::new(Instant::now()),
        })
    }
}

struct Shown {
    name: String,
    bar: Option<ProgressBar>,
    started: Instant,
    said_at: Cell<Instant>,
}

impl StepDisplay for Shown {
    fn say(&self, text: &str) {
        self.said_at.set(Instant::now());
        self.line(&format!("  {}: {text}", self.name));
    }

    fn update(&self, text: &str) {
        // A compiler's or an engine's line may fill screens.
        let text: String = text.trim().chars().take(MAX_UPDATE_CHARS).collect();
        let text = one_line(&text).into_owned();
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None if self.said_at.get().elapsed() > HEARTBEAT => {
                self.say(&format!("{text} ({})", spell(self.started.elapsed())));
            }
            None => {}
        }
    }

    fn end(&self, ok: bool, result: &str) {
        let mark = if ok { "✓" } else { "✗" };
        let gap = if result.is_empty() { "" } else { ": " };
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.line(&format!(
            "{mark} {}{gap}{result} ({})",
            self.name,
            spell(self.started.elapsed())
        ));
    }
}

impl Shown {
    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}
