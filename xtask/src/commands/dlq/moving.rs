//! `dlq replay` and `dlq purge`: dead letters sent again, or removed.

use base::outcome::{self, Exit};
use chrono::{DateTime, TimeDelta, Utc};
use clap::builder::RangedU64ValueParser;
use serde::Serialize;
use shared_events::{dead_letters::Report, topology::INBOX_WINDOW};
use system::{
    dead_letters::tool::{Order, Task, Tool},
    members,
    project::Project,
};

use super::filters::Filters;
use crate::output::{Format, print_json};

/// Options of both.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Choice {
    #[command(flatten)]
    filters: Filters,
    /// Every dead letter; without any condition this has to be said
    #[arg(long, conflicts_with_all = ["reason", "event_type", "id", "older_than", "younger_than"])]
    all: bool,
    /// At most this many, from the front of each queue
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    limit: Option<usize>,
    /// Only say how many it would be
    #[arg(long)]
    dry_run: bool,
}

/// Options of `dlq replay`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ReplayOptions {
    #[command(flatten)]
    pub(crate) choice: Choice,
    /// Also dead letters that are older than what consumers remember: one that was applied may be applied again
    #[arg(long)]
    beyond_inbox_window: bool,
}

/// Options of `dlq purge`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PurgeOptions {
    #[command(flatten)]
    pub(crate) choice: Choice,
}

/// The result as JSON.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Summary {
    outcome: Exit,
    task: Task,
    dry_run: bool,
    /// How many messages were selected, over all queues.
    selected: usize,
    /// How many of them were moved, over all queues.
    done: usize,
    queues: Vec<Report>,
}

/// Sends dead letters again.
pub(crate) fn replay(
    project: &Project,
    options: &ReplayOptions,
    format: Format,
) -> anyhow::Result<Exit> {
    let choice = &options.choice;
    let tool = choice.tool(project)?;
    if choice.dry_run || options.beyond_inbox_window {
        let done = choice.ask(Task::Replay, &tool, choice.dry_run)?;
        return tell(&done, format);
    }
    // First a look at all of them: refused later, some would be on their way already.
    let look = choice.ask(Task::Replay, &tool, true)?;
    if look.outcome != Exit::Holds {
        return tell(&look, format);
    }
    require_within_inbox_window(oldest(&look.queues), Utc::now())?;
    tell(&choice.ask(Task::Replay, &tool, false)?, format)
}

/// Removes dead letters.
pub(crate) fn purge(
    project: &Project,
    options: &PurgeOptions,
    format: Format,
) -> anyhow::Result<Exit> {
    let choice = &options.choice;
    let tool = choice.tool(project)?;
    tell(&choice.ask(Task::Purge, &tool, choice.dry_run)?, format)
}

/// The earliest time of a first failure in these reports.
fn oldest<'a>(queues: impl IntoIterator<Item = &'a Report>) -> Option<DateTime<Utc>> {
    queues
        .into_iter()
        .filter_map(|queue| queue.oldest_first_failed_at.or(queue.oldest_failed_at))
        .min()
}

/// Refuses dead letters that are older than the inbox window: a consumer knows an applied event by its id, and forgets
/// ids after the window.
fn require_within_inbox_window(
    oldest: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> anyhow::Result<()> {
    let days = INBOX_WINDOW.as_secs() / (24 * 60 * 60);
    let window = TimeDelta::from_std(INBOX_WINDOW).unwrap_or(TimeDelta::MAX);
    match oldest {
        Some(oldest) if now - oldest > window => Err(outcome::failed(
            format!(
                "handling the oldest of these dead letters first failed on {}, and consumers remember for {days} days which events they \
                 applied: if this one was applied after all, it would be applied a second time. Nothing was replayed",
                oldest.format("%F %T UTC")
            ),
            format!(
                "leave it out (`--younger-than {days}d`, or `--id` where it died again since), or look at it (`cargo \
                 xtask dlq list`, `dlq peek`: x-agora-first-failed-at) and say `--beyond-inbox-window`"
            ),
        )),
        _ => Ok(()),
    }
}

impl Choice {
    /// The tool, once it is clear which dead letters are meant.
    fn tool<'a>(&self, project: &'a Project) -> anyhow::Result<Tool<'a>> {
        self.require_a_word()?;
        Tool::new(project, &members::running(project)?)
    }

    /// Refuses a call without any condition that doesn't say `--all`.
    fn require_a_word(&self) -> anyhow::Result<()> {
        if self.all || !self.filters.are_absent() {
            return Ok(());
        }
        Err(outcome::usage(
            "which dead letters? There is no condition",
            "give at least one of --queue, --reason, --type, --id, --older-than and --younger-than, or --all",
        ))
    }

    /// Runs the tool for one queue after the other, until one fails or the limit is reached.
    fn ask(&self, task: Task, tool: &Tool<'_>, dry_run: bool) -> anyhow::Result<Summary> {
        let selection = self.filters.selection();
        let mut summary = Summary {
            outcome: Exit::Holds,
            task,
            dry_run,
            selected: 0,
            done: 0,
            queues: Vec::new(),
        };
        for queue in self.filters.queues() {
            let limit = self
                .limit
                .map(|limit| limit.saturating_sub(summary.selected));
            if limit == Some(0) || summary.outcome != Exit::Holds {
                break;
            }
            let (report, exit) = tool.run(&Order {
                task,
                queue: &queue,
                selection: &selection,
                limit,
                dry_run,
            })?;
            summary.outcome = exit;
            summary.selected += report.selected;
            summary.done += report.done;
            summary.queues.push(report);
        }
        Ok(summary)
    }
}

fn tell(summary: &Summary, format: Format) -> anyhow::Result<Exit> {
    match format {
        Format::Json => print_json(summary)?,
        Format::Text => {
            for report in &summary.queues {
                println!("{}", line(summary, report));
            }
            println!("{}", closing(summary));
        }
    }
    Ok(summary.outcome)
}

fn line(summary: &Summary, report: &Report) -> String {
    let Report {
        queue,
        examined,
        selected,
        done,
        kept,
        ..
    } = report;
    if summary.dry_run {
        return format!("{queue}: {selected} selected of {examined} looked at");
    }
    let word = summary.task.done();
    format!("{queue}: {done} {word} of {selected} selected, {kept} of {examined} looked at stay")
}

fn closing(summary: &Summary) -> String {
    let (selected, done) = (letters(summary.selected), letters(summary.done));
    if summary.outcome != Exit::Holds {
        return format!(
            "{}: {done} {}; what wasn't is still dead. Repair what it says above and run it again.",
            summary.outcome.word(),
            summary.task.done()
        );
    }
    match (summary.selected, summary.dry_run, summary.task) {
        (0, ..) => {
            "No dead letter meets the conditions: `cargo xtask dlq list` shows what there is."
                .to_owned()
        }
        (_, true, task) => format!("{selected} would be {}; nothing was changed.", task.done()),
        (_, _, Task::Replay) => format!(
            "{done} replayed into the queue that each came from. One that fails again is dead again: `cargo \
             xtask verify-dlq --settled` tells."
        ),
        (_, _, Task::Purge) => format!("{done} removed for good."),
    }
}

fn letters(count: usize) -> String {
    match count {
        1 => "1 dead letter".to_owned(),
        _ => format!("{count} dead letters"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: ReplayOptions,
    }

    fn choice(args: &[&str]) -> Result<Choice, clap::Error> {
        let line = Line::try_parse_from(["xtask"].iter().chain(args))?;
        Ok(line.options.choice)
    }

    #[test]
    fn all_dead_letters_of_all_queues_have_to_be_asked_for() {
        let error = choice(&["--limit", "5"])
            .unwrap()
            .require_a_word()
            .unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert!(error.to_string().contains("--all"), "{error}");
        assert!(choice(&["--all"]).unwrap().require_a_word().is_ok());
        assert!(choice(&["--id", "0193"]).unwrap().require_a_word().is_ok());
        let queue = ["--queue", "order_events.dead", "--all"];
        assert!(choice(&queue).unwrap().require_a_word().is_ok());
        // Which of the two was meant?
        assert!(choice(&["--all", "--id", "0193"]).is_err());
        assert!(choice(&["--all", "--limit", "0"]).is_err());
    }

    #[test]
    fn a_letter_older_than_the_inboxes_remember_is_refused_with_the_reason() {
        let now = Utc::now();
        let window = TimeDelta::from_std(INBOX_WINDOW).unwrap();
        assert!(require_within_inbox_window(None, now).is_ok());
        assert!(require_within_inbox_window(Some(now - window), now).is_ok());
        let older = Some(now - window - TimeDelta::seconds(1));
        let error = require_within_inbox_window(older, now).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Failed);
        let text = error.to_string();
        for part in [
            "7 days",
            "a second time",
            "--younger-than 7d",
            "--beyond-inbox-window",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn what_counts_is_the_first_failure_of_a_letter_and_not_its_last_death() {
        let now = Utc::now();
        let report = |first| Report {
            queue: "order_events.dead".to_owned(),
            examined: 1,
            selected: 1,
            done: 0,
            kept: 1,
            dry_run: true,
            interrupted: false,
            oldest_failed_at: Some(now),
            oldest_first_failed_at: first,
        };
        let long_ago = now - TimeDelta::days(9);
        assert_eq!(
            oldest([&report(Some(long_ago)), &report(None)]),
            Some(long_ago)
        );
        // A tool of before doesn't tell.
        assert_eq!(oldest([&report(None)]), Some(now));
    }

    fn summary(task: Task, dry_run: bool, done: usize) -> Summary {
        Summary {
            outcome: Exit::Holds,
            task,
            dry_run,
            selected: 3,
            done,
            queues: Vec::new(),
        }
    }

    #[test]
    fn the_last_sentence_says_what_was_done_and_what_to_do_next() {
        let text = closing(&summary(Task::Replay, false, 3));
        assert!(
            text.starts_with("3 dead letters replayed") && text.contains("verify-dlq"),
            "{text}"
        );
        let text = closing(&summary(Task::Purge, true, 0));
        assert!(text.contains("would be removed"), "{text}");
        let mut failed = summary(Task::Replay, false, 1);
        failed.outcome = Exit::Failed;
        assert!(
            closing(&failed).starts_with("FAILED: 1 dead letter replayed"),
            "{}",
            closing(&failed)
        );
        let none = Summary {
            selected: 0,
            ..summary(Task::Purge, false, 0)
        };
        assert!(closing(&none).contains("dlq list"));
    }
}
