//! `verify-dashboards`: asks everything that the Grafana dashboards ask, and finds the panels that would show nothing.
//!
//! Needs no Grafana: the queries are in the dashboards' files, and Prometheus answers them. Each is asked as Grafana
//! would when the dashboard is opened: over the time that it shows, with every value of its variables chosen. So it
//! wants a load run within that time. What Loki would be asked is asked where Loki runs; elsewhere `cargo xtask check`
//! looks at its structure. Left out: exemplars and links.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    dashboards::{self, Dashboard, Language, Values},
    durations,
    engine::{self, Container},
    extras,
    http::Client,
    outcome::{self, Exit},
    output::{Format, FormatOption, print_json},
    project::Project,
    prometheus::{Figures, Moment, Prometheus, Span},
};

/// What `verify-dashboards` can be told.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(
    after_help = "Exit codes: 0 every panel shows something, 1 one doesn't, 3 the system isn't up."
)]
pub(crate) struct Options {
    /// The time that is asked for, until now [default: what each dashboard shows when it is opened, 15m]
    #[arg(long, value_name = "TIME", value_parser = durations::parse)]
    last: Option<Duration>,
    #[command(flatten)]
    pub(crate) format: FormatOption,
}

/// The result as JSON; `xtask/schemas/dashboards.schema.json` describes it.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    dashboards: usize,
    panels: usize,
    queries: Vec<Asked>,
}

/// A query and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Asked {
    /// The file's name.
    dashboard: String,
    /// The panel's heading, or the variable as `$name`.
    panel: String,
    /// As it was asked, variables filled in.
    query: String,
    #[serde(flatten)]
    finding: Finding,
}

/// What came of a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", content = "why", rename_all = "snake_case")]
enum Finding {
    /// It gives data.
    Data,
    /// It gives what the panel shows while nothing has happened.
    Quiet,
    /// Nobody here could be asked.
    NotAsked,
    /// It gives nothing.
    Empty(&'static str),
    /// It can't be answered.
    Refused(String),
}

impl Finding {
    fn exit(&self) -> Exit {
        match self {
            Self::Data | Self::Quiet | Self::NotAsked => Exit::Holds,
            Self::Empty(_) | Self::Refused(_) => Exit::Failed,
        }
    }
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options) -> anyhow::Result<Exit> {
    let containers = engine::running_system(project)?;
    let dashboards = dashboards::read_all(&project.root)?;
    let inquiry = Inquiry {
        prometheus: Prometheus::new(&containers)?,
        loki: loki(&containers),
    };
    let now = inquiry.prometheus.now()?;
    let mut queries = Vec::new();
    for dashboard in &dashboards {
        let window = options.last.unwrap_or(dashboard.window);
        queries.extend(inquiry.ask_all(dashboard, window, now)?);
    }
    let report = Report {
        outcome: Exit::worst(queries.iter().map(|asked| asked.finding.exit())),
        dashboards: dashboards.len(),
        panels: dashboards
            .iter()
            .map(|dashboard| dashboard.panels.len())
            .sum(),
        queries,
    };
    match options.format.format {
        Format::Json => print_json(&report)?,
        Format::Text => report.print(),
    }
    Ok(report.outcome)
}

/// A client of Loki where it runs and can be reached: it publishes no port, so by its own address.
fn loki(containers: &[Container]) -> Option<Client> {
    let (service, port) = extras::LOKI;
    engine::direct_address(containers, service, port)
        .ok()
        .map(|address| Client::new(&address))
}

/// Those who are asked.
struct Inquiry {
    prometheus: Prometheus,
    loki: Option<Client>,
}

impl Inquiry {
    fn ask_all(
        &self,
        dashboard: &Dashboard,
        window: Duration,
        now: Moment,
    ) -> anyhow::Result<Vec<Asked>> {
        let mut asked = Vec::new();
        let mut variables = BTreeMap::new();
        let from = now - window.as_secs_f64();
        for variable in &dashboard.variables {
            let (series, label) = dashboards::label_values(&variable.query).ok_or_else(|| {
                outcome::failed(
                    format!(
                        "{}: the variable {} isn't label_values(metric, label)",
                        dashboard.file, variable.name
                    ),
                    "`cargo xtask check` looks at every dashboard's file",
                )
            })?;
            let values = self.prometheus.label_values(series, label, from, now)?;
            // All of them, as Grafana's own "All" does.
            let all = values.as_ref().map(|values| values.join("|"));
            variables.insert(
                variable.name.clone(),
                format!("({})", all.unwrap_or_default()),
            );
            asked.push(Asked {
                dashboard: dashboard.file.clone(),
                panel: format!("${}", variable.name),
                query: variable.query.clone(),
                finding: judge_values(values),
            });
        }
        let values = Values::of(window, variables);
        for panel in &dashboard.panels {
            for query in &panel.queries {
                let (query, finding) = match values.fill_in(&query.expr) {
                    Err(why) => (query.expr.clone(), Finding::Refused(why)),
                    Ok(filled) => {
                        let span = if query.instant {
                            Span::At(now)
                        } else {
                            Span::Over(from, now, values.step.as_secs())
                        };
                        let finding = match query.language {
                            Language::PromQl => self.ask_prometheus(&filled, span)?,
                            Language::LogQl => self.ask_loki(&filled, from, now)?,
                        };
                        (filled, finding)
                    }
                };
                asked.push(Asked {
                    dashboard: dashboard.file.clone(),
                    panel: panel.title.clone(),
                    query,
                    finding,
                });
            }
        }
        Ok(asked)
    }

    fn ask_prometheus(&self, query: &str, span: Span) -> anyhow::Result<Finding> {
        let finding = judge(self.prometheus.figures(query, span)?);
        // A fallback gives data whatever it stands in for: said, so that nobody takes it for an answer.
        if finding == Finding::Data
            && let Some(question) = dashboards::without_fallback(query)
        {
            let alone = judge(self.prometheus.figures(question, span)?);
            return Ok(match alone {
                Finding::Empty(_) => Finding::Quiet,
                other => other,
            });
        }
        Ok(finding)
    }

    fn ask_loki(&self, query: &str, from: Moment, to: Moment) -> anyhow::Result<Finding> {
        let Some(loki) = &self.loki else {
            return Ok(Finding::NotAsked);
        };
        let nanoseconds = |moment: Moment| format!("{:.0}", moment * 1e9);
        let (start, end) = (nanoseconds(from), nanoseconds(to));
        let parameters = [
            ("query", query),
            ("start", &start),
            ("end", &end),
            ("limit", "1"),
        ];
        let answer = loki.get("/loki/api/v1/query_range", &[], &parameters)?;
        if answer.status != 200 {
            return Ok(Finding::Refused(answer.shown()));
        }
        let answer: LokiAnswer = answer.json()?;
        Ok(judge_lines(&answer))
    }
}

#[derive(Deserialize)]
struct LokiAnswer {
    data: LokiData,
}

#[derive(Deserialize)]
struct LokiData {
    result: Vec<serde::de::IgnoredAny>,
}

fn judge(answer: Result<Figures, String>) -> Finding {
    match answer {
        Err(why) => Finding::Refused(why),
        Ok(figures) if figures.series == 0 => {
            Finding::Empty("no series: the metric isn't there, or nothing fits its labels")
        }
        Ok(figures) if figures.with_numbers == 0 => {
            Finding::Empty("nothing but NaN: nothing of the kind happened in the shown time")
        }
        Ok(_) => Finding::Data,
    }
}

fn judge_values(values: Result<Vec<String>, String>) -> Finding {
    match values {
        Err(why) => Finding::Refused(why),
        Ok(values) if values.is_empty() => Finding::Empty("there is nothing to choose from"),
        Ok(_) => Finding::Data,
    }
}

/// Lines that nobody wrote are no fault of a panel: the warnings of a healthy system.
fn judge_lines(answer: &LokiAnswer) -> Finding {
    if answer.data.result.is_empty() {
        Finding::Quiet
    } else {
        Finding::Data
    }
}

impl Report {
    fn print(&self) {
        for asked in &self.queries {
            let finding = match &asked.finding {
                Finding::Data | Finding::Quiet | Finding::NotAsked => continue,
                Finding::Empty(why) => format!("EMPTY: {why}"),
                Finding::Refused(why) => format!("REFUSED: {why}"),
            };
            println!("{}: {}", asked.dashboard, asked.panel);
            println!("  {finding}\n  {}", asked.query);
        }
        if self.outcome != Exit::Holds {
            println!(
                "A panel is empty for want of traffic, too: `cargo xtask load` first, or a longer `--last`."
            );
        }
        let quiet = self
            .queries
            .iter()
            .filter(|asked| asked.finding == Finding::Quiet);
        let mut quiet: Vec<&str> = quiet.map(|asked| asked.panel.as_str()).collect();
        quiet.dedup();
        if !quiet.is_empty() {
            println!("Nothing happened that would show on: {}.", quiet.join(", "));
        }
        println!("{}", self.summary());
    }

    /// The verdict and the counts in a line.
    fn summary(&self) -> String {
        let count = |wanted: fn(&Finding) -> bool| {
            self.queries
                .iter()
                .filter(|asked| wanted(&asked.finding))
                .count()
        };
        let red = count(|finding| finding.exit() != Exit::Holds);
        let quiet = count(|finding| *finding == Finding::Quiet);
        let not_asked = count(|finding| *finding == Finding::NotAsked);
        let mut summary = format!(
            "{}: {} queries of {} panels on {} dashboards: {} give data",
            self.outcome.word(),
            self.queries.len(),
            self.panels,
            self.dashboards,
            count(|finding| *finding == Finding::Data),
        );
        for (count, what) in [
            (red, "don't"),
            (quiet, "show that nothing happened"),
            (not_asked, "were not asked: no Loki here"),
        ] {
            if count > 0 {
                summary.push_str(&format!(", {count} {what}"));
            }
        }
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::report::schema_check::violations;

    fn figures(series: usize, with_numbers: usize) -> Result<Figures, String> {
        Ok(Figures {
            series,
            with_numbers,
        })
    }

    fn report(findings: Vec<Finding>) -> Report {
        let queries = findings.into_iter().map(|finding| Asked {
            dashboard: "overview.json".to_owned(),
            panel: "Requests".to_owned(),
            query: "up".to_owned(),
            finding,
        });
        let queries: Vec<Asked> = queries.collect();
        Report {
            outcome: Exit::worst(queries.iter().map(|asked| asked.finding.exit())),
            dashboards: 1,
            panels: 2,
            queries,
        }
    }

    #[test]
    fn a_query_that_gives_a_number_holds() {
        assert_eq!(judge(figures(2, 1)), Finding::Data);
        assert_eq!(judge_values(Ok(vec!["a".to_owned()])), Finding::Data);
    }

    #[test]
    fn a_broken_query_fails_with_what_prometheus_says() {
        let finding = judge(Err("parse error: unexpected end of input".to_owned()));
        assert_eq!(finding.exit(), Exit::Failed);
        assert!(matches!(finding, Finding::Refused(why) if why.contains("parse error")));
        assert_eq!(judge_values(Err("x".to_owned())).exit(), Exit::Failed);
    }

    #[test]
    fn a_query_that_gives_nothing_fails() {
        for empty in [figures(0, 0), figures(3, 0)] {
            assert_eq!(judge(empty).exit(), Exit::Failed);
        }
        assert_eq!(judge_values(Ok(Vec::new())).exit(), Exit::Failed);
    }

    #[test]
    fn lines_that_nobody_wrote_fail_nothing() {
        let lines = |json| judge_lines(&serde_json::from_str(json).unwrap());
        assert_eq!(
            lines(r#"{"data":{"resultType":"streams","result":[]}}"#),
            Finding::Quiet
        );
        assert_eq!(
            lines(r#"{"data":{"resultType":"streams","result":[{}]}}"#),
            Finding::Data
        );
    }

    #[test]
    fn the_summary_counts_what_holds_and_what_does_not() {
        let all = report(vec![Finding::Data, Finding::Quiet, Finding::NotAsked]);
        assert_eq!(
            all.summary(),
            "holds: 3 queries of 2 panels on 1 dashboards: 1 give data, 1 show that nothing happened, \
             1 were not asked: no Loki here"
        );
        let red = report(vec![
            Finding::Data,
            Finding::Empty("x"),
            Finding::Refused("y".to_owned()),
        ]);
        assert_eq!(red.outcome, Exit::Failed);
        assert!(
            red.summary().ends_with("1 give data, 2 don't"),
            "{}",
            red.summary()
        );
    }

    #[test]
    fn the_json_is_as_its_schema_says_and_the_schema_can_refuse() {
        let schema = include_str!("../../schemas/dashboards.schema.json");
        let schema = serde_json::from_str(schema).unwrap();
        let refused = Finding::Refused("y".to_owned());
        let all = vec![
            Finding::Data,
            Finding::Quiet,
            Finding::NotAsked,
            Finding::Empty("x"),
            refused,
        ];
        let mut json = serde_json::to_value(report(all)).unwrap();
        assert_eq!(violations(&schema, &json), [""; 0]);
        json["queries"][0]["finding"] = "perhaps".into();
        assert_eq!(violations(&schema, &json).len(), 1);
    }

    #[test]
    fn the_json_says_what_came_of_each_query() {
        let json = serde_json::to_value(report(vec![Finding::Data, Finding::Empty("x")])).unwrap();
        assert_eq!(json["outcome"], "failed");
        assert_eq!(json["queries"][0]["finding"], "data");
        assert_eq!(json["queries"][1]["finding"], "empty");
        assert_eq!(json["queries"][1]["why"], "x");
    }
}
