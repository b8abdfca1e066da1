//! The command line: its options, and their checks before anything is sent.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono::Utc;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use records::{load::LoadModel, scenario::Scenario};
use reqwest::Url;

use crate::share::{MOST_WORKERS, Share};

/// Generates load on agora through its gateway.
///
/// Exit codes: 0 the run holds, 1 a threshold failed, 2 wrong usage, 3 the gateway doesn't answer or
/// the run couldn't be prepared or recorded, 4 the run was interrupted.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub(crate) struct Options {
    /// What the users do.
    #[arg(value_parser = scenarios())]
    pub(crate) scenario: Scenario,

    /// The gateway, e.g. http://127.0.0.1:80.
    #[arg(long, value_parser = parse_base_url)]
    pub(crate) base_url: Url,

    /// Another address of the same gateway, e.g. 127.0.0.1:8081, for connections that none of those before accepts; may be repeated.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) other_address: Vec<SocketAddr>,

    /// The run's own folder; must not contain a run yet.
    #[arg(long)]
    pub(crate) out_dir: PathBuf,

    /// Names the run and its users: lower-case letters, digits and dashes; must not have been used before.
    /// [default: the time and four random digits]
    #[arg(long, value_parser = parse_run_id)]
    pub(crate) run_id: Option<String>,

    /// Concurrent users, 1 to 10000; in the open model the accounts that actions use in turn.
    #[arg(long, default_value_t = 10, value_parser = |s: &str| parse_between(s, 1, 10_000))]
    pub(crate) users: usize,

    /// How long users are active, or actions arrive, e.g. 30s, 5m or 1h; requests in flight then still finish.
    #[arg(long, default_value = "30s", value_parser = parse_run_time)]
    pub(crate) run_time: Duration,

    /// The maximum of requests per second over all users. [default: no limit]
    #[arg(long, value_name = "REQ_PER_S", value_parser = |s: &str| parse_between(s, 1, 1_000_000))]
    pub(crate) rate_limit: Option<usize>,

    /// The open model: this many actions of the scenario arrive per second, 1 to 10000, whether the system keeps up or not,
    /// and latency counts from their scheduled times. [default: the closed model]
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "rate_limit")]
    #[arg(value_parser = |s: &str| parse_between(s, 1, 10_000))]
    pub(crate) arrivals: Option<usize>,

    /// The maximum of concurrent actions in the open model, 1 to 100000; arrivals beyond it are not sent, and count as
    /// failed.
    #[arg(long, value_name = "N", default_value_t = 500, requires = "arrivals")]
    #[arg(value_parser = |s: &str| parse_between(s, 1, 100_000))]
    pub(crate) max_in_flight: usize,

    /// The seed of an earlier run, to repeat its choices. [default: random, printed]
    #[arg(long)]
    pub(crate) seed: Option<u64>,

    /// Threshold: the 95th percentile of the response time, in milliseconds.
    #[arg(long, value_name = "MS", value_parser = parse_positive)]
    pub(crate) max_p95_ms: Option<f64>,

    /// Threshold: the fraction of requests that may fail, 0 to 1.
    #[arg(long, value_name = "FRACTION", value_parser = parse_fraction, default_value = "0")]
    pub(crate) max_error_rate: f64,

    /// Send orders without an `Idempotency-Key`: then nothing on the way may retry them.
    #[arg(long)]
    pub(crate) no_idempotency_keys: bool,

    /// The number of processes that generate the load, 1 to 16: each has a part of the users, the arrivals and the limits,
    /// and all begin at the same moment. Their records become one.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = |s: &str| parse_between(s, 1, MOST_WORKERS))]
    pub(crate) workers: usize,

    /// Be one of several workers, with this part of the users, the arrivals and the limits. For `--workers` alone.
    #[arg(
        long,
        value_name = "PART/OF",
        conflicts_with = "workers",
        requires = "begin_when_told",
        hide = true
    )]
    pub(crate) share: Option<Share>,

    /// Once the users are signed up, make a file `ready` in the run's folder, and begin at the moment (RFC 3339) that is then
    /// read as a line from standard input. For xtask and `--workers`.
    #[arg(
        long,
        conflicts_with = "workers",
        requires = "while_stdin_open",
        hide = true
    )]
    pub(crate) begin_when_told: bool,

    /// End the run, like Ctrl-C, when standard input is closed: its parent process is gone then.
    #[arg(long)]
    pub(crate) while_stdin_open: bool,
}

impl Options {
    /// Parses the command line; on an error, exits the process with a message.
    pub(crate) fn read() -> Self {
        let options = Self::parse();
        if let Err(error) = options.check() {
            error.exit();
        }
        options
    }

    /// The checks that clap can't express.
    fn check(&self) -> Result<(), clap::Error> {
        if !self.other_address.is_empty() && self.first_address().is_none() {
            return Err(Self::command().error(
                ErrorKind::ArgumentConflict,
                "--other-address needs an address in --base-url too: http://IP:PORT",
            ));
        }
        if self.scenario.groups().is_some() && (self.arrivals.is_none() || self.users < 2) {
            return Err(Self::command().error(
                ErrorKind::ArgumentConflict,
                format!(
                    "`{}` needs --arrivals, and two --users or more",
                    self.scenario
                ),
            ));
        }
        let workers = self.share.map_or(self.workers, Share::of);
        if self.scenario.groups().is_some() && workers > 1 {
            return Err(Self::command().error(
                ErrorKind::ArgumentConflict,
                format!("`{}` has one greedy user, and one worker", self.scenario),
            ));
        }
        let least = [
            ("--users", Some(self.users)),
            ("--rate-limit", self.rate_limit),
            ("--arrivals", self.arrivals),
            ("--max-in-flight", self.arrivals.map(|_| self.max_in_flight)),
        ];
        for (option, value) in least {
            if value.is_some_and(|value| value < workers) {
                return Err(Self::command().error(
                    ErrorKind::ValueValidation,
                    format!("{option} must be at least --workers: each worker has its part of it"),
                ));
            }
        }
        if self.arrivals.is_some() && !self.users.is_multiple_of(workers) {
            return Err(Self::command().error(
                ErrorKind::ValueValidation,
                "--users must be a multiple of --workers in the open model: else some users would act more often than others",
            ));
        }
        Ok(())
    }

    /// The address in the base URL; `None` where that has a name.
    fn first_address(&self) -> Option<SocketAddr> {
        let ip = self.base_url.host_str()?.parse().ok()?;
        Some(SocketAddr::new(ip, self.base_url.port_or_known_default()?))
    }

    /// Every address of the gateway, where there are several: in the order in which a connection is tried.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        if self.other_address.is_empty() {
            return Vec::new();
        }
        let first = self.first_address().into_iter();
        first.chain(self.other_address.iter().copied()).collect()
    }

    /// What this process does of the run.
    pub(crate) fn share(&self) -> Share {
        self.share.unwrap_or(Share::WHOLE)
    }

    /// The chosen model.
    pub(crate) fn model(&self) -> LoadModel {
        match self.arrivals {
            None => LoadModel::Closed {
                users: self.users,
                rate_limit: self.rate_limit,
            },
            Some(arrivals_per_second) => LoadModel::Open {
                arrivals_per_second,
                max_in_flight: self.max_in_flight,
                users: self.users,
            },
        }
    }
}

/// The scenarios by their names, explained in the help.
fn scenarios() -> impl TypedValueParser<Value = Scenario> {
    let possible = Scenario::ALL
        .iter()
        .map(|scenario| PossibleValue::new(scenario.name()).help(scenario.explanation()));
    PossibleValuesParser::new(possible).try_map(|name| name.parse::<Scenario>())
}

/// A new name for each run: accounts can't be signed up twice.
pub(crate) fn new_run_id() -> String {
    let now = Utc::now().format("%Y%m%d-%H%M%S");
    format!("{now}-{:04x}", rand::random::<u16>())
}

/// Short enough to type again.
pub(crate) fn new_seed() -> u64 {
    u64::from(rand::random::<u32>())
}

fn parse_base_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if url.scheme() != "http" || url.path() != "/" || url.query().is_some() {
        return Err("expected http://HOST[:PORT]".to_owned());
    }
    Ok(url)
}

/// The run id becomes part of an e-mail address, whose local part ends at 64 characters.
fn parse_run_id(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=40).contains(&text.len()) && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 40 lower-case letters, digits and dashes".to_owned())
    }
}

fn parse_run_time(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
    let expected =
        || "expected a number of seconds, minutes or hours up to 24h: 30s, 5m, 1h".to_owned();
    let unit = text.chars().next_back().ok_or_else(expected)?;
    let seconds_per_unit = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        _ => return Err(expected()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| expected())?;
    let run_time = Duration::from_secs(count.saturating_mul(seconds_per_unit));
    if run_time.is_zero() || run_time > LONGEST {
        return Err(expected());
    }
    Ok(run_time)
}

fn parse_between(text: &str, least: usize, most: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from {least} to {most}")),
    }
}

fn parse_positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if f64::is_finite(number) && number > 0.0 => Ok(number),
        _ => Err("expected a number above 0".to_owned()),
    }
}

fn parse_fraction(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_times_have_a_unit_and_a_bound() {
        assert_eq!(parse_run_time("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_run_time("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_run_time("24h"), Ok(Duration::from_secs(86_400)));
        for refused in [
            "",
            "s",
            "30",
            "0s",
            "25h",
            "-1s",
            "1.5m",
            "9é",
            "99999999999999999999h",
        ] {
            assert!(parse_run_time(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn run_ids_fit_into_an_email_address() {
        assert!(parse_run_id("20261122-094841-3f2a").is_ok());
        assert!(parse_run_id(&new_run_id()).is_ok());
        for refused in ["", "Upper", "dot.ted", "sp ace", &"x".repeat(41)] {
            assert!(parse_run_id(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn the_base_url_is_the_gateway_alone() {
        assert!(parse_base_url("http://127.0.0.1:8080").is_ok());
        for refused in [
            "127.0.0.1:80",
            "https://localhost",
            "http://localhost/orders",
            "ftp://x",
        ] {
            assert!(parse_base_url(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn fractions_and_limits_are_bounded() {
        assert!(parse_fraction("0").is_ok() && parse_fraction("1").is_ok());
        assert!(parse_fraction("1.01").is_err() && parse_fraction("NaN").is_err());
        assert!(parse_positive("0").is_err() && parse_positive("inf").is_err());
        assert!(parse_between("0", 1, 10).is_err() && parse_between("11", 1, 10).is_err());
    }

    fn parse(given: &[&str]) -> Result<Options, clap::error::ErrorKind> {
        let always = [
            "loadtest",
            "order",
            "--base-url=http://localhost",
            "--out-dir=x",
        ];
        Options::try_parse_from(always.iter().chain(given)).map_err(|error| error.kind())
    }

    #[test]
    fn arrivals_choose_the_open_model() {
        let closed = parse(&["--rate-limit=20"]).map(|options| options.model());
        assert_eq!(
            closed,
            Ok(LoadModel::Closed {
                users: 10,
                rate_limit: Some(20)
            })
        );
        let open = parse(&["--arrivals=50", "--users=3"]).map(|options| options.model());
        assert_eq!(
            open,
            Ok(LoadModel::Open {
                arrivals_per_second: 50,
                max_in_flight: 500,
                users: 3
            })
        );
    }

    #[test]
    fn the_open_models_options_are_bounded_and_its_own() {
        use clap::error::ErrorKind::{ArgumentConflict, MissingRequiredArgument, ValueValidation};
        assert!(parse(&["--arrivals=1", "--max-in-flight=1"]).is_ok());
        assert!(parse(&["--arrivals=10000"]).is_ok());
        for (refused, kind) in [
            (&["--arrivals=0"][..], ValueValidation),
            (&["--arrivals=10001"], ValueValidation),
            (&["--arrivals=1", "--max-in-flight=0"], ValueValidation),
            (&["--arrivals=1", "--rate-limit=1"], ArgumentConflict),
            (&["--max-in-flight=5"], MissingRequiredArgument),
        ] {
            assert_eq!(parse(refused).err(), Some(kind), "{refused:?}");
        }
    }

    /// Whether options that can be parsed go together.
    fn is_allowed(scenario: &str, given: &[&str]) -> bool {
        let always = [
            "loadtest",
            scenario,
            "--base-url=http://localhost",
            "--out-dir=x",
        ];
        let options = Options::try_parse_from(always.iter().chain(given)).expect("it parses");
        options.check().is_ok()
    }

    #[test]
    fn each_worker_has_a_part_of_everything() {
        let check = |given: &[&str]| is_allowed("order", given);
        assert!(check(&["--workers=10"]));
        assert!(check(&["--workers=5", "--arrivals=5", "--max-in-flight=5"]));
        for refused in [
            &["--workers=11"][..],
            &["--workers=4", "--arrivals=40"],
            &["--share=11/11", "--begin-when-told", "--while-stdin-open"],
            &["--workers=4", "--rate-limit=3"],
            &["--workers=5", "--arrivals=3"],
            &["--workers=5", "--arrivals=5", "--max-in-flight=3"],
        ] {
            assert!(!check(refused), "{refused:?}");
        }
        assert!(
            parse(&["--share=1/2"]).is_err(),
            "nobody says when it begins"
        );
    }

    #[test]
    fn the_greedy_scenario_needs_several_users_and_the_open_model() {
        let check = |given: &[&str]| is_allowed("greedy", given);
        assert!(check(&["--arrivals=10"]));
        assert!(!check(&[]) && !check(&["--arrivals=10", "--users=1"]));
    }
}
