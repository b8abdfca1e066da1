//! `verify-dashboards`: asks everything that the Grafana dashboards ask, and finds the panels that would show nothing.
//!
//! Needs no Grafana: the queries are in the dashboards' files, and Prometheus answers them. Each is asked as Grafana
//! would when the dashboard is opened: over the time that it shows, with every value of its variables chosen. So it
//! wants a load run within that time. What Loki would be asked is asked where Loki runs; elsewhere `cargo xtask check`
//! looks at its structure. Left out: exemplars and links.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use base::{
    durations,
    outcome::{self, Exit},
};
use checks::{
    dashboards::{self, Dashboard, Language, Values},
    own_metrics::PREFIXES,
    promql,
};
use serde::{Deserialize, Serialize};
use system::{
    extras, files,
    http::Client,
    interrupt::{self, Interrupted},
    members::{self, Member},
    project::Project,
    prometheus::{Moment, Prometheus, SeriesCounts, Span},
};

use crate::output::{Format, print_json};

/// Metrics of other programs that are absent while nothing is wrong.
const ABSENT_WITHOUT_FAULT: [&str; 1] = ["ALERTS"];

/// Options of `verify-dashboards`.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(
    after_help = "Exit codes: 0 every panel shows something, 1 one doesn't, 3 the system isn't up."
)]
pub(crate) struct Options {
    /// The time that is asked for, until now [default: what each dashboard shows when it is opened, 15m]
    #[arg(long, value_name = "TIME", value_parser = durations::parse)]
    last: Option<Duration>,
}

/// The result as JSON; `xtask/schemas/dashboards.schema.json` describes it.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    dashboards: usize,
    panels: usize,
    queries: Vec<Asked>,
}

/// A query and its result.
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

/// The result of a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", content = "why", rename_all = "snake_case")]
enum Finding {
    /// It gives data.
    Data,
    /// It gives the fallback that the panel shows while nothing has happened.
    Quiet,
    /// It wasn't run: its data source isn't here.
    NotAsked,
    /// It gives nothing; with the reason.
    Empty(&'static str),
    /// It was refused; with the data source's message.
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
pub(crate) fn run(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    let members = members::running(project)?;
    let dashboards = dashboards::of_files(&files::read_all(
        &project.root.join(dashboards::FOLDER),
        "json",
    )?)?;
    let inquiry = Inquiry {
        prometheus: Prometheus::new(&members)?,
        loki: loki(&members),
        loki_is_silent: OnceCell::new(),
        names: OnceCell::new(),
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
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => report.print(),
    }
    Ok(report.outcome)
}

/// A client of Loki where it runs and can be reached: it publishes no port, so by its own address.
fn loki(members: &[Member]) -> Option<Client> {
    let (service, port) = extras::LOKI;
    members::direct_address(members, service, port)
        .ok()
        .map(|address| Client::new(&address))
}

/// The data sources.
struct Inquiry {
    prometheus: Prometheus,
    loki: Option<Client>,
    /// Why Loki gave no answer, once it didn't: it isn't asked again.
    loki_is_silent: OnceCell<String>,
    /// The names of all metrics, once they were read.
    names: OnceCell<BTreeSet<String>>,
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
            require_patience()?;
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
                require_patience()?;
                let (query, finding) = match values.fill_in(&query.expr) {
                    Err(why) => (query.expr.clone(), Finding::Refused(why)),
                    Ok(filled) => {
                        let span = if query.instant {
                            Span::At(now)
                        } else {
                            Span::Over(from, now, values.step.as_secs())
                        };
                        let finding = match query.language {
                            Language::PromQl => self.ask_prometheus(&filled, span, (from, now))?,
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

    fn ask_prometheus(
        &self,
        query: &str,
        span: Span,
        time: (Moment, Moment),
    ) -> anyhow::Result<Finding> {
        let finding = judge(self.prometheus.count_series(query, span)?);
        // A fallback gives data whatever it stands in for: said, so that nobody takes it for an answer.
        if finding == Finding::Data
            && let Some(question) = promql::without_fallback(query)
        {
            let alone = judge(self.prometheus.count_series(question, span)?);
            return match alone {
                Finding::Empty(_) => Ok(judge_silence(question, self.names(time)?)),
                other => Ok(other),
            };
        }
        Ok(finding)
    }

    /// The names of all metrics of that time.
    fn names(&self, (from, to): (Moment, Moment)) -> anyhow::Result<&BTreeSet<String>> {
        if let Some(names) = self.names.get() {
            return Ok(names);
        }
        let all = r#"{__name__=~".+"}"#;
        let names = self.prometheus.label_values(all, "__name__", from, to)?;
        let names = names.map_err(|why| {
            outcome::unavailable(
                format!("Prometheus doesn't say which metrics there are: {why}"),
                "`cargo xtask logs prometheus` shows its log",
            )
        })?;
        Ok(self.names.get_or_init(|| names.into_iter().collect()))
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
        if let Some(why) = self.loki_is_silent.get() {
            return Ok(Finding::Refused(why.clone()));
        }
        let answer = match loki.get("/loki/api/v1/query_range", &[], &parameters) {
            Ok(answer) => answer,
            // One that hangs is its panels' trouble, and none of the others'.
            Err(error) => {
                let why = self.loki_is_silent.get_or_init(|| format!("{error:#}"));
                return Ok(Finding::Refused(why.clone()));
            }
        };
        if answer.status != 200 {
            return Ok(Finding::Refused(answer.shown()));
        }
        Ok(match answer.json::<LokiAnswer>() {
            Ok(answer) => judge_lines(&answer),
            Err(error) => Finding::Refused(format!("{error:#}")),
        })
    }
}

/// Between two questions, of which there are a hundred.
fn require_patience() -> anyhow::Result<()> {
    if interrupt::requested() {
        return Err(Interrupted.into());
    }
    Ok(())
}

#[derive(Deserialize)]
struct LokiAnswer {
    data: LokiData,
}

#[derive(Deserialize)]
struct LokiData {
    result: Vec<serde::de::IgnoredAny>,
}

fn judge(answer: Result<SeriesCounts, String>) -> Finding {
    match answer {
        Err(why) => Finding::Refused(why),
        Ok(values) if values.series == 0 => {
            Finding::Empty("no series: the metric isn't there, or nothing fits its labels")
        }
        Ok(values) if values.with_numbers == 0 => {
            Finding::Empty("nothing but NaN: nothing of the kind happened in the shown time")
        }
        Ok(_) => Finding::Data,
    }
}

/// A query without data behind a fallback: nothing has happened, unless it names a metric that doesn't exist.
fn judge_silence(question: &str, names: &BTreeSet<String>) -> Finding {
    // Many of ours are there only once something happened; `xtask/tests/dashboards.rs` holds them against the code.
    let is_known = |name: &str| {
        names.contains(name)
            || ABSENT_WITHOUT_FAULT.contains(&name)
            || PREFIXES.iter().any(|ours| name.starts_with(ours))
    };
    if promql::metrics(question).into_iter().all(is_known) {
        Finding::Quiet
    } else {
        Finding::Empty("no such metric, whatever the fallback shows")
    }
}

fn judge_values(values: Result<Vec<String>, String>) -> Finding {
    match values {
        Err(why) => Finding::Refused(why),
        Ok(values) if values.is_empty() => Finding::Empty("there is nothing to choose from"),
        Ok(_) => Finding::Data,
    }
}

/// Missing lines are no defect of a panel: a healthy system logs no warnings.
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
    use std::{
        net::{Ipv4Addr, TcpListener},
        thread,
    };

    use super::*;
    use support::schema::violations;

    fn values(series: usize, with_numbers: usize) -> Result<SeriesCounts, String> {
        Ok(SeriesCounts {
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
        assert_eq!(judge(values(2, 1)), Finding::Data);
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
        for empty in [values(0, 0), values(3, 0)] {
            assert_eq!(judge(empty).exit(), Exit::Failed);
        }
        assert_eq!(judge_values(Ok(Vec::new())).exit(), Exit::Failed);
    }

    #[test]
    fn a_misspelt_metric_behind_a_fallback_is_not_quiet() {
        let names = ["traefik_service_requests_total".to_owned()].into();
        let silence = |question| judge_silence(question, &names);
        for quiet in [
            r#"sum by (code) (increase(traefik_service_requests_total{code=~"5.."}[5m]))"#,
            r#"count(ALERTS{alertstate="firing"})"#,
            "sum(rate(agora_retries_total[20s]))",
        ] {
            assert_eq!(silence(quiet), Finding::Quiet, "{quiet}");
        }
        for misspelt in [
            r#"sum by (code) (increase(traefik_service_request_total{code=~"5.."}[5m]))"#,
            "sum(traefik_service_requests_total) / sum(traefik_requests)",
        ] {
            assert_eq!(silence(misspelt).exit(), Exit::Failed, "{misspelt}");
        }
    }

    #[test]
    fn a_loki_that_gives_no_answer_fails_its_own_panels_only() {
        // It takes the connection and hangs up without a word.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let silent = thread::spawn(move || drop(listener.accept().unwrap()));
        let inquiry = Inquiry {
            prometheus: Prometheus::at(&address),
            loki: Some(Client::new(&address)),
            loki_is_silent: OnceCell::new(),
            names: OnceCell::new(),
        };
        let first = inquiry.ask_loki("{a=\"b\"}", 0.0, 1.0).unwrap();
        assert_eq!(first.exit(), Exit::Failed);
        silent.join().unwrap();
        // Nobody listens any more, and nobody asks.
        assert_eq!(inquiry.ask_loki("{a=\"b\"}", 0.0, 1.0).unwrap(), first);
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
