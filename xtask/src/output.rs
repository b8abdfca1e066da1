//! What people see: progress of long work on standard error, results on standard output.

use std::{
    cell::{Cell, RefCell},
    io::IsTerminal,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, LineStyle, Table, presets};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use terminal::one_line;

/// How often a long step says where it is when nobody watches a spinner.
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

/// The option that every judging command has.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct FormatOption {
    /// The result's form; progress goes to standard error either way
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
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

/// A duration as people say it: `340 ms`, `3.2 s`, `4 min 10 s`, `3 h 05 min`, `9 d 04 h`.
pub(crate) fn spell(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match duration.as_millis() {
        0..1_000 => format!("{} ms", duration.as_millis()),
        1_000..60_000 => format!("{:.1} s", duration.as_secs_f64()),
        60_000..3_600_000 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3_600_000..86_400_000 => format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Shows steps: spinners on a terminal, plain lines elsewhere.
#[derive(Debug)]
pub(crate) struct Progress {
    bars: Option<MultiProgress>,
}

impl Progress {
    /// Looks whether standard error is a terminal.
    pub(crate) fn new() -> Self {
        Self {
            bars: std::io::stderr().is_terminal().then(MultiProgress::new),
        }
    }

    /// Runs one step and shows how it went and how long it took.
    pub(crate) fn step<T>(
        &self,
        name: &str,
        work: impl FnOnce(&Step) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let step = self.begin(name);
        let result = work(&step);
        step.end(result.is_ok());
        result
    }

    fn begin(&self, name: &str) -> Step {
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
        Step {
            name: name.to_owned(),
            bar,
            started: Instant::now(),
            said_at: Cell::new(Instant::now()),
            result: RefCell::default(),
        }
    }
}

/// One step under way.
#[derive(Debug)]
pub(crate) struct Step {
    name: String,
    bar: Option<ProgressBar>,
    started: Instant,
    said_at: Cell<Instant>,
    result: RefCell<String>,
}

impl Step {
    /// Says something worth a line of its own.
    pub(crate) fn say(&self, text: &str) {
        self.said_at.set(Instant::now());
        self.line(&format!("  {}: {text}", self.name));
    }

    /// Shows where the step is; away from a terminal only now and then.
    pub(crate) fn update(&self, text: &str) {
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

    /// What the line at the step's end says besides its name and time.
    pub(crate) fn result(&self, text: impl Into<String>) {
        self.result.replace(text.into());
    }

    fn end(&self, ok: bool) {
        let mark = if ok { "✓" } else { "✗" };
        let result = self.result.take();
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

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_spelled_in_the_unit_that_fits() {
        assert_eq!(spell(Duration::from_millis(340)), "340 ms");
        assert_eq!(spell(Duration::from_millis(3_240)), "3.2 s");
        assert_eq!(spell(Duration::from_secs(250)), "4 min 10 s");
        assert_eq!(spell(Duration::from_secs(3 * 3_600 + 5 * 60)), "3 h 05 min");
        assert_eq!(
            spell(Duration::from_secs(9 * 86_400 + 4 * 3_600)),
            "9 d 04 h"
        );
    }
}
