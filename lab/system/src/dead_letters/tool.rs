//! Runs `dead-letters`, the tool that moves dead letters, for a moment in a container that reaches the broker.
//!
//! The laboratory links no AMQP client, and the management API can take messages out of a queue, but neither wait for a
//! confirm nor give back those that weren't meant. Left out: reading dead letters ([`super::Reader`]).

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use base::outcome::{self, Exit};
use serde::Serialize;
use shared_events::dead_letters::{Report, Selection};

use crate::{
    Part,
    compose::Compose,
    engine, health,
    kubectl::{self, Target},
    kubernetes,
    members::Member,
    project::{Project, Settings},
    service_images,
};

/// A full queue takes some minutes.
const LIMIT: Duration = Duration::from_secs(60 * 60);
const SERVICE: Part = Part::DeadLetters;

/// What the tool does with dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Send them to the queue that they died from.
    Replay,
    /// Remove them.
    Purge,
}

impl Task {
    fn argument(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Purge => "purge",
        }
    }

    /// What was done to a dead letter, as a participle.
    pub fn done(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Purge => "removed",
        }
    }
}

/// One call of the tool.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// What to do with the selected messages.
    pub task: Task,
    /// The dead-letter queue.
    pub queue: &'a str,
    /// Which messages of the queue are meant.
    pub selection: &'a Selection,
    /// The most messages; all where it is `None`.
    pub limit: Option<usize>,
    /// Whether to report only what would be done.
    pub dry_run: bool,
}

/// The tool, ready to be run.
pub struct Tool<'a> {
    by: RunBy<'a>,
}

/// What runs the tool.
enum RunBy<'a> {
    Compose {
        project: &'a Project,
        compose: Compose,
        settings: Settings,
    },
    Kubernetes(Arc<Target>),
}

impl<'a> Tool<'a> {
    /// Checks that the tool can be run; an error says what is missing.
    pub fn new(project: &'a Project, members: &[Member]) -> anyhow::Result<Self> {
        let is_broker = |member: &&Member| member.service == Part::RabbitMq;
        let mut broker = members.iter().find(is_broker).cloned();
        health::ask(broker.as_mut_slice())?;
        if broker.as_ref().is_none_or(|broker| !broker.is_healthy()) {
            let condition = broker.map_or_else(|| "not started".to_owned(), |it| it.condition());
            return Err(outcome::unavailable(
                format!("rabbitmq is {condition}"),
                "`cargo xtask up` starts what is stopped; `cargo xtask status` shows everything",
            ));
        }
        if let Some(target) = kubectl::target(project)? {
            return Ok(Self {
                by: RunBy::Kubernetes(target),
            });
        }
        let compose = Compose::find()?.ok_or_else(|| {
            outcome::unavailable(
                "Docker Compose V2 is missing",
                "`cargo xtask up` fetches it",
            )
        })?;
        if engine::image(&service_images::tag(SERVICE))?.is_none() {
            return Err(outcome::unavailable(
                format!("the image {} isn't here", service_images::tag(SERVICE)),
                "`cargo xtask up` builds it",
            ));
        }
        Ok(Self {
            by: RunBy::Compose {
                project,
                compose,
                settings: project.settings()?,
            },
        })
    }

    /// Runs the tool; returns its report and its exit code. Its messages go to standard error.
    pub fn run(&self, order: &Order<'_>) -> anyhow::Result<(Report, Exit)> {
        let (project, compose, settings) = match &self.by {
            RunBy::Kubernetes(target) => return run_as_pod(target, order),
            RunBy::Compose {
                project,
                compose,
                settings,
            } => (project, compose, settings),
        };
        let run = ["run", "--rm", "--no-deps", "-T", SERVICE.name()];
        let call = compose
            .call(project, settings, run)
            .args(arguments(order))
            // Not a line for each container that comes and goes.
            .env("COMPOSE_PROGRESS", "quiet")
            .limit(LIMIT);
        let (text, code) = call.read_beside_stderr()?;
        let report = serde_json::from_str(&text).with_context(|| {
            let code = code.map_or_else(|| "by a signal".to_owned(), |code| code.to_string());
            format!("`{SERVICE}` ended ({code}) without a report")
        })?;
        Ok((report, Exit::from_code(code)))
    }
}

/// A pod's log has both streams; the report is a line of its own.
fn run_as_pod(target: &Target, order: &Order<'_>) -> anyhow::Result<(Report, Exit)> {
    let (written, exit) = kubernetes::run_tool(target, SERVICE, &arguments(order), LIMIT)?;
    let report = written
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str(line).ok());
    let report = report
        .with_context(|| format!("`{SERVICE}` ended without a report: {}", written.trim()))?;
    Ok((report, exit))
}

fn arguments(order: &Order<'_>) -> Vec<String> {
    let Selection {
        reason,
        event_type,
        id,
        older_than,
        younger_than,
    } = order.selection;
    let seconds = |age: &Option<Duration>| age.map(|age| age.as_secs().to_string());
    let options = [
        ("--queue", Some(order.queue.to_owned())),
        ("--reason", reason.clone()),
        ("--type", event_type.clone()),
        ("--id", id.clone()),
        ("--older-than-seconds", seconds(older_than)),
        ("--younger-than-seconds", seconds(younger_than)),
        ("--limit", order.limit.map(|limit| limit.to_string())),
    ];
    let given = options
        .into_iter()
        // In one piece: a value may begin with a dash.
        .filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    [order.task.argument().to_owned()]
        .into_iter()
        .chain(given)
        .chain(order.dry_run.then(|| "--dry-run".to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tool_is_told_every_condition() {
        let selection = Selection {
            reason: Some("-odd".to_owned()),
            event_type: Some("t".to_owned()),
            id: Some("0193".to_owned()),
            older_than: Some(Duration::from_secs(600)),
            younger_than: Some(Duration::from_secs(3_600)),
        };
        let mut order = Order {
            task: Task::Replay,
            queue: "order_events.dead",
            selection: &selection,
            limit: Some(5),
            dry_run: true,
        };
        assert_eq!(
            arguments(&order),
            [
                "replay",
                "--queue=order_events.dead",
                "--reason=-odd",
                "--type=t",
                "--id=0193",
                "--older-than-seconds=600",
                "--younger-than-seconds=3600",
                "--limit=5",
                "--dry-run"
            ]
        );
        let everything = Selection::default();
        order = Order {
            task: Task::Purge,
            selection: &everything,
            limit: None,
            dry_run: false,
            ..order
        };
        assert_eq!(arguments(&order), ["purge", "--queue=order_events.dead"]);
    }
}
