//! Schemathesis, a property-based API fuzzer: found in the cache or fetched from PyPI for this user alone, and its
//! report.
//!
//! The result of a run is read from its events (NDJSON). Left out: which requests are made, and the verdict
//! (`verify-api`).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use base::{outcome, progress::Step};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use records::load::OVERLOADED;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{process::Call, project::Project};

/// The pinned packages, each with its version and hashes.
const REQUIREMENTS: &str = "xtask/schemathesis/requirements.txt";
/// The Debian package and suite that hold pip as a wheel, for a Python without it.
const PIP_PACKAGE: [&str; 2] = ["python3-pip-whl", "bookworm"];
const HOW_TO_GET_IT: &str = "install Python 3.11 or newer with pip, make PyPI reachable (pip's own settings count), then run this again";
/// The title of a violation that is a 5xx.
const SERVER_ERROR: &str = "Server error";
/// What the gateway's configuration refuses in a path: the name under `encodedCharacters`, and the code.
const REFUSED_IN_PATHS: [(&str, &str); 7] = [
    ("allowEncodedSlash", "%2F"),
    ("allowEncodedBackSlash", "%5C"),
    ("allowEncodedNullCharacter", "%00"),
    ("allowEncodedSemicolon", "%3B"),
    ("allowEncodedPercent", "%25"),
    ("allowEncodedQuestionMark", "%3F"),
    ("allowEncodedHash", "%23"),
];
const FETCH_LIMIT: Duration = Duration::from_secs(300);

/// A Schemathesis that answers.
#[derive(Debug, Clone)]
pub struct Schemathesis {
    packages: PathBuf,
    /// The version, as it prints it.
    pub version: String,
}

impl Schemathesis {
    /// Finds it in the cache, or fetches it there; nothing is installed system-wide.
    pub fn find_or_fetch(project: &Project, step: &Step) -> anyhow::Result<Self> {
        let requirements = project.root.join(REQUIREMENTS);
        let pinned = fs::read(&requirements)
            .with_context(|| format!("failed to read {}", requirements.display()))?;
        // Other versions are another folder.
        let digest = format!("{:x}", Sha256::digest(pinned));
        let packages = Project::cache()?.join(format!("schemathesis-{}", &digest[..12]));
        if let Some(found) = Self::at(&packages) {
            return Ok(found);
        }
        step.say("Schemathesis isn't here: fetching it from PyPI for this user alone");
        fetch(project, &requirements, &packages, step).map_err(|error| {
            outcome::unavailable(
                format!("Schemathesis is missing and can't be fetched: {error:#}"),
                HOW_TO_GET_IT,
            )
        })?;
        Self::at(&packages).ok_or_else(|| {
            outcome::unavailable(
                format!(
                    "the fetched {} isn't a working Schemathesis",
                    packages.display()
                ),
                HOW_TO_GET_IT,
            )
        })
    }

    fn at(packages: &Path) -> Option<Self> {
        let found = Self {
            packages: packages.to_owned(),
            version: String::new(),
        };
        let said = packages
            .is_dir()
            .then(|| found.call(["--version"]).read().ok())??;
        let version = said.trim().rsplit(' ').next()?.to_owned();
        Some(Self { version, ..found })
    }

    /// A call with these arguments.
    pub fn call<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Call {
        Call::new("python3")
            .args(["-m", "schemathesis.cli", "--no-color"])
            .args(args)
            .env("PYTHONPATH", &self.packages)
            // Neither this machine's own settings nor its packages.
            .env("PYTHONNOUSERSITE", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("COLUMNS", "120")
    }
}

fn fetch(
    project: &Project,
    requirements: &Path,
    packages: &Path,
    step: &Step,
) -> anyhow::Result<()> {
    let fresh = packages.with_extension(format!("new-{}", std::process::id()));
    let pip = pip(project, &fresh, step)?;
    let unpacked = fresh.join("packages");
    let quiet = [
        "install",
        "--disable-pip-version-check",
        "--no-warn-script-location",
        "--root-user-action=ignore",
        "--only-binary=:all:",
        "--require-hashes",
    ];
    let fetched = Call::new("python3")
        .args(&pip)
        .args(quiet)
        .args([Path::new("--requirement"), requirements])
        .args([Path::new("--target"), &unpacked])
        .limit(FETCH_LIMIT)
        .logged(&project.log("schemathesis"), |line| step.update(line));
    // Moved into place in one piece, so that a fetch cut short never looks like a whole one.
    let moved = fetched.and_then(|()| {
        let _ = fs::remove_dir_all(packages);
        fs::rename(&unpacked, packages)
            .with_context(|| format!("failed to create {}", packages.display()))
    });
    let _ = fs::remove_dir_all(&fresh);
    moved
}

/// How pip is called: this Python's own, or straight out of its wheel.
fn pip(project: &Project, folder: &Path, step: &Step) -> anyhow::Result<Vec<String>> {
    let own = vec!["-m".to_owned(), "pip".to_owned()];
    let found = Call::new("python3")
        .args(&own)
        .args(["--version"])
        .output()?;
    if found.status.success() {
        return Ok(own);
    }
    let [package, suite] = PIP_PACKAGE;
    let script = project.root.join("images/fetch-deb.sh");
    Call::new("bash")
        .args([
            script.as_os_str(),
            package.as_ref(),
            suite.as_ref(),
            folder.as_os_str(),
        ])
        .limit(FETCH_LIMIT)
        .logged(&project.log("schemathesis-pip"), |line| step.update(line))?;
    let wheels = folder.join("usr/share/python-wheels");
    let wheel = fs::read_dir(&wheels)
        .with_context(|| format!("failed to read {}", wheels.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("pip-") && name.ends_with(".whl")
        })
        .with_context(|| format!("no pip in {}", wheels.display()))?;
    Ok(vec![wheel.join("pip").to_string_lossy().into_owned()])
}

/// The result of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// How often each operation (`GET /users/`) was answered with which status.
    pub operations: BTreeMap<String, BTreeMap<u16, usize>>,
    /// Answers that are not as documented, each kind once for an operation. Left out: that a rejection for want of capacity is a
    /// 5xx, and what the gateway refuses before any route, which no document describes.
    pub violations: Vec<Violation>,
    /// How often a service rejected each operation for want of capacity; among [`Run::operations`] too.
    pub rejections: BTreeMap<String, usize>,
    /// Whether all was sent that was to be: Schemathesis ends with a failure after what it found, and also after a fault of its own.
    pub is_complete: bool,
    /// Errors that kept it from sending requests.
    pub errors: Vec<String>,
}

/// An answer that is not as documented.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// The operation's method and path.
    pub operation: String,
    /// The kind of violation, as Schemathesis names it.
    pub title: String,
    /// What is wrong, in words.
    pub detail: String,
    /// The request's method and address.
    pub request: String,
    /// The answer's status; `None` without an answer.
    pub status: Option<u16>,
}

#[derive(Debug, Deserialize)]
struct End {
    stop_reason: String,
}

#[derive(Debug, Deserialize)]
struct Scenario {
    recorder: Recorder,
}

#[derive(Debug, Default, Deserialize)]
struct Recorder {
    #[serde(default)]
    cases: BTreeMap<String, Case>,
    #[serde(default)]
    checks: BTreeMap<String, Vec<Check>>,
    #[serde(default)]
    interactions: BTreeMap<String, Interaction>,
    #[serde(default)]
    label: String,
}

#[derive(Debug, Deserialize)]
struct Case {
    value: CaseValue,
}

#[derive(Debug, Deserialize)]
struct CaseValue {
    method: String,
    path: String,
}

#[derive(Debug, Deserialize)]
struct Check {
    failure_info: Option<FailureInfo>,
}

#[derive(Debug, Deserialize)]
struct FailureInfo {
    failure: Failure,
}

#[derive(Debug, Deserialize)]
struct Failure {
    title: String,
    message: String,
}

#[derive(Debug, Deserialize)]
struct Interaction {
    request: Request,
    /// None came.
    response: Option<Response>,
}

impl Interaction {
    /// Whether it is the gateway's empty 400 to a path with an encoded character that it refuses.
    fn is_refused_before_any_route(&self) -> bool {
        let path = self.request.uri.split('?').next().unwrap_or_default();
        let path = path.to_ascii_uppercase();
        let is_empty = |answer: &Response| answer.body().is_some_and(|body| body.is_empty());
        self.response
            .as_ref()
            .is_some_and(|answer| answer.status_code == 400 && is_empty(answer))
            && REFUSED_IN_PATHS.iter().any(|(_, code)| path.contains(code))
    }
}

#[derive(Debug, Deserialize)]
struct Request {
    method: String,
    uri: String,
}

#[derive(Debug, Deserialize)]
struct Response {
    status_code: u16,
    content: Option<Content>,
}

#[derive(Debug, Deserialize)]
struct Content {
    #[serde(rename = "$base64")]
    base64: String,
}

impl Response {
    /// Whether a service rejected the request for want of capacity, as its documents say it may.
    fn is_rejection(&self) -> bool {
        let body = self.body().unwrap_or_default();
        self.status_code == 503 && String::from_utf8_lossy(&body).contains(OVERLOADED)
    }

    /// `None` where it can't be read.
    fn body(&self) -> Option<Vec<u8>> {
        BASE64_STANDARD.decode(&self.content.as_ref()?.base64).ok()
    }
}

impl Run {
    /// Reads a run's events.
    ///
    /// # Errors
    /// When a line is none of them.
    pub fn read(events: &str) -> anyhow::Result<Self> {
        let mut run = Self::default();
        for line in events.lines() {
            let event: BTreeMap<String, Value> = serde_json::from_str(line)
                .context("Schemathesis wrote an event that is no JSON")?;
            for (kind, content) in event {
                match kind.as_str() {
                    "ScenarioFinished" => {
                        let scenario = Scenario::deserialize(content)
                            .context("Schemathesis wrote a scenario of an unknown form")?;
                        run.add(scenario.recorder);
                    }
                    "EngineFinished" => {
                        let end = End::deserialize(content)
                            .context("Schemathesis ended in an unknown form")?;
                        run.is_complete = end.stop_reason == "completed";
                    }
                    "NonFatalError" | "FatalError" => run.errors.push(content.to_string()),
                    _ => {}
                }
            }
        }
        Ok(run)
    }

    fn add(&mut self, recorder: Recorder) {
        for (id, interaction) in &recorder.interactions {
            let case = recorder.cases.get(id).map(|case| &case.value);
            // Stateful scenarios go through several operations, and unspecified methods are asked for, too.
            let operation = case.map_or_else(
                || recorder.label.clone(),
                |case| format!("{} {}", case.method, case.path),
            );
            let status = interaction
                .response
                .as_ref()
                .map(|answer| answer.status_code);
            if let Some(status) = status {
                let statuses = self.operations.entry(operation.clone()).or_default();
                *statuses.entry(status).or_default() += 1;
            }
            let response = interaction.response.as_ref();
            let is_rejection = response.is_some_and(Response::is_rejection);
            if is_rejection {
                *self.rejections.entry(operation.clone()).or_default() += 1;
            }
            let checks = recorder.checks.get(id).into_iter().flatten();
            for failure in checks.filter_map(|check| check.failure_info.as_ref()) {
                let title = &failure.failure.title;
                if interaction.is_refused_before_any_route()
                    || title == SERVER_ERROR && is_rejection
                {
                    continue;
                }
                let known = |known: &Violation| {
                    (&known.operation, &known.title, known.status) == (&operation, title, status)
                };
                if self.violations.iter().any(known) {
                    continue;
                }
                self.violations.push(Violation {
                    operation: operation.clone(),
                    title: title.clone(),
                    detail: failure.failure.message.clone(),
                    request: format!("{} {}", interaction.request.method, interaction.request.uri),
                    status,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = include_str!("../../../xtask/schemathesis/events.ndjson");

    #[test]
    fn a_recorded_run_is_read() {
        let run = Run::read(EVENTS).unwrap();
        assert_eq!(run.operations["GET /a"], BTreeMap::from([(200, 1)]));
        assert_eq!(run.operations["GET /b"], BTreeMap::from([(500, 1)]));
        let found: Vec<_> = run
            .violations
            .iter()
            .map(|violation| (violation.operation.as_str(), violation.title.as_str()))
            .collect();
        assert!(
            found.contains(&("GET /a", "Response violates schema")),
            "{found:?}"
        );
        assert!(found.contains(&("GET /b", "Server error")), "{found:?}");
        assert!(run.errors.is_empty());
    }

    #[test]
    fn an_empty_400_is_the_gateways_only_where_the_path_holds_what_it_refuses() {
        let is_violation = |path: &str, body: &str| {
            let events = EVENTS
                .replace("/b\"", &format!("/{path}\""))
                .replace(r#""status_code":500"#, r#""status_code":400"#)
                .replace("e30=", body);
            let run = Run::read(&events).unwrap();
            let mut found = run.violations.into_iter();
            found.any(|violation| violation.status == Some(400))
        };
        assert!(is_violation("b", "") && is_violation("b?%3f", ""));
        assert!(is_violation("%3f", "e30=") && is_violation("%3f", "no base64"));
        assert!(!is_violation("%3f", "") && !is_violation("a%5Cb", ""));
    }

    #[test]
    fn what_the_gateway_refuses_in_paths_is_in_its_configuration() {
        let configuration = include_str!("../../../observability/traefik/traefik.yaml");
        let refused = configuration
            .lines()
            .filter_map(|line| line.trim().strip_suffix(": false"))
            .filter(|name| name.starts_with("allowEncoded"));
        assert!(refused.eq(REFUSED_IN_PATHS.map(|(name, _)| name)));
    }

    #[test]
    fn a_run_that_was_cut_short_is_not_complete() {
        assert!(Run::read(EVENTS).unwrap().is_complete);
        let crashed = EVENTS.replace(r#""stop_reason":"completed""#, r#""stop_reason":"error""#);
        let killed = EVENTS.trim_end().rsplit_once('\n').unwrap().0;
        for events in [crashed.as_str(), killed] {
            assert!(!Run::read(events).unwrap().is_complete);
        }
    }

    #[test]
    fn only_a_5xx_that_says_so_is_a_rejection() {
        let answered_500 = r#""status_code":500"#;
        assert!(EVENTS.contains(answered_500));
        let found = |problem: &str| {
            let content = BASE64_STANDARD.encode(format!(r#"{{"type":"{problem}"}}"#));
            let events = EVENTS
                .replace(answered_500, r#""status_code":503"#)
                .replace("e30=", &content);
            let run = Run::read(&events).unwrap();
            assert_eq!(run.operations["GET /b"], BTreeMap::from([(503, 1)]));
            let is_rejection = problem == OVERLOADED;
            assert_eq!(run.rejections.contains_key("GET /b"), is_rejection);
            let mut found = run.violations.into_iter();
            found
                .any(|violation| violation.operation == "GET /b" && violation.title == SERVER_ERROR)
        };
        assert!(found("urn:agora:problem:unavailable"));
        assert!(!found(OVERLOADED));
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        assert!(Run::read("Traceback").is_err());
        assert!(Run::read(r#"{"ScenarioFinished":{}}"#).is_err());
        let run = Run::read(r#"{"FatalError":{"exception":"no schema"}}"#).unwrap();
        assert_eq!(run.errors.len(), 1);
    }
}
