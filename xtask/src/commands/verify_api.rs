//! `verify-api`: compares the API's answers through the gateway with its OpenAPI documents, with a property-based
//! fuzzer.
//!
//! It signs up test users and calls every operation of the documents, with generated requests that are valid and ones
//! that aren't. An undocumented status, content type, header or body is a violation, and so is a 5xx. Two answers are none: the
//! documented 503 of a service that rejects work for want of capacity, and the gateway's empty 400 to a path with an encoded
//! character that it refuses. The accounts, orders and purchases that it creates stay.
//!
//! Logging out is tried separately, with a token of its own. Left out: `positive_data_acceptance`, as a schema
//! can't say what exists, and `unsupported_method`, as the gateway answers 404 where it has no route.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::Context;
use base::{
    outcome::{self, Exit},
    progress::Step,
    test_user::TestUser,
};
use serde::{Deserialize, Serialize};
use system::{
    http::Client,
    interrupt::Interrupted,
    members,
    process::Call,
    project::{Project, new_run_id},
    random,
    schemathesis::{Run, Schemathesis, Violation},
    test_users,
};

use crate::output::{Format, print_json, progress, table};

/// The services that the gateway routes to.
const SERVICES: [system::Part; 3] = [
    system::Part::UserService,
    system::Part::OrderService,
    system::Part::InventoryService,
];
const CHECKS: [&str; 7] = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "ignored_auth",
];
const LOGOUT: &str = "/auth/logout";
/// Where `id` is a user.
const OWN_USER: [&str; 2] = ["/users/{id}", "/users/{id}/purchases"];
/// Where `id` is an order.
const OWN_ORDER: [&str; 2] = ["/orders/{id}", "/orders/{id}/cancel"];
/// Operations that need a password, which no generated request has: only refusals are tested.
const NEEDS_PASSWORD: [&str; 2] = ["POST /auth/login", "PUT /users/me/password"];
/// Made-up e-mail addresses are few: from the second run on a system, all of them have accounts. That signing up succeeds is seen
/// from the test users then, the form of the 201 on a fresh system alone.
const HAS_ACCOUNT: (&str, u16) = ("POST /auth/signup", 409);
/// Longer than the most examples can take.
const LIMIT: Duration = Duration::from_secs(30 * 60);
const TOKEN: &str = "AGORA_API_TOKEN";

/// Options of `verify-api`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Made-up requests for each operation, at most, besides those for the edges of what its document allows
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    examples: u32,
    /// Makes up the requests of an earlier run [default: random, printed]
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Holds the API against the documents in this folder (`<service>.json`), such as an earlier release's, instead of
    /// those that it serves
    #[arg(long, value_name = "FOLDER")]
    documents: Option<PathBuf>,
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    seed: u32,
    violations: Vec<Violation>,
    /// Operations of which next to nothing was seen: never called, never answered with a 2xx where requests can succeed, or always
    /// rejected for want of capacity.
    untried: Vec<String>,
    operations: Vec<Operation>,
}

#[derive(Debug, Serialize)]
struct Operation {
    operation: String,
    requests: usize,
    /// How often each status was answered.
    statuses: BTreeMap<u16, usize>,
}

/// A document, and the file where it is.
struct Document {
    service: system::Part,
    file: PathBuf,
    /// As the fuzzer calls them: `GET /users/`.
    operations: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    let members = members::running(project)?;
    let gateway = members::published_by(&members, system::Part::Traefik)?;
    let progress = progress();
    let fuzzer = progress.step("schemathesis", |step| {
        let fuzzer = Schemathesis::find_or_fetch(project, step)?;
        step.result(fuzzer.version.as_str());
        Ok(fuzzer)
    })?;
    let client = Client::new(&gateway);
    let folder = project.outputs().join("api").join(new_run_id()?);
    fs::create_dir_all(&folder)
        .with_context(|| format!("failed to create {}", folder.display()))?;
    let documents = progress.step("documents", |step| {
        let documents = documents(&client, options, &folder)?;
        step.result(format!("{} services", documents.len()));
        Ok(documents)
    })?;
    let seed = match options.seed {
        Some(seed) => seed,
        None => u32::from_str_radix(&random::hex(4)?, 16)?,
    };
    let mut all = Run::default();
    let mut said = String::new();
    for document in &documents {
        for part in parts(document) {
            let fuzz = Fuzz {
                fuzzer: &fuzzer,
                gateway: &gateway,
                folder: &folder,
                examples: options.examples,
                seed,
            };
            let user = test_users::sign_up(&client, "fuzzer", "fuzzer")?;
            let order = place_order(&client, &user)?;
            progress.step(&part.name, |step| {
                let (run, text) = fuzz.run(&part, &user, &order, step)?;
                said.push_str(&failures(&text));
                merge(&mut all, run);
                Ok(())
            })?;
        }
    }
    let wanted = documents.iter().flat_map(|document| &document.operations);
    let report = judge(all, seed, wanted);
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => {
            print!("{}", text(&report, &said));
            println!("all of it is in {}", folder.display());
        }
    }
    Ok(report.outcome)
}

/// The documents that are served, or those in the folder that was named; as files.
fn documents(
    client: &Client,
    options: &Options,
    folder: &std::path::Path,
) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for service in SERVICES {
        let name = format!("{service}.json");
        let text = match &options.documents {
            Some(given) if !given.join(&name).exists() => continue,
            Some(given) => {
                let file = given.join(&name);
                fs::read_to_string(&file)
                    .with_context(|| format!("failed to read {}", file.display()))?
            }
            None => {
                let answer = client.get(&format!("/openapi/{name}"), &[], &[])?;
                anyhow::ensure!(answer.status == 200, "{name}: {}", answer.shown());
                answer.body
            }
        };
        let file = folder.join(&name);
        fs::write(&file, &text).with_context(|| format!("failed to write {}", file.display()))?;
        documents.push(Document {
            service,
            operations: operations(&text).with_context(|| format!("{name} is no document"))?,
            file,
        });
    }
    if documents.is_empty() {
        return Err(outcome::usage(
            "there is no document to hold the API against",
            format!(
                "name a folder with one of `{}.json`",
                SERVICES.map(system::Part::name).join(".json`, `")
            ),
        ));
    }
    Ok(documents)
}

fn operations(document: &str) -> anyhow::Result<Vec<String>> {
    let document: serde_json::Value = serde_json::from_str(document)?;
    let paths = document["paths"].as_object().context("it has no paths")?;
    let mut operations = Vec::new();
    for (path, item) in paths {
        let methods = item.as_object().context("a path without operations")?;
        operations.extend(
            methods
                .keys()
                .map(|method| format!("{} {path}", method.to_uppercase())),
        );
    }
    Ok(operations)
}

/// The operations of a service that are called with one test user's token.
struct Part<'a> {
    name: String,
    document: &'a Document,
    selection: Vec<&'static str>,
}

/// All operations with generated values, then those with the test user's own id and order, which no generated value
/// would be, and logging out.
fn parts(document: &Document) -> Vec<Part<'_>> {
    let has = |path: &&str| {
        let mut operations = document.operations.iter();
        operations.any(|operation| operation.split(' ').nth(1) == Some(*path))
    };
    let part = |what: &str, option, paths: &[&'static str]| {
        let paths: Vec<_> = paths.iter().copied().filter(|path| has(path)).collect();
        (!paths.is_empty()).then(|| Part {
            name: format!("{}{what}", document.service),
            document,
            selection: paths.into_iter().flat_map(|path| [option, path]).collect(),
        })
    };
    let everything = part("", "--exclude-path", &[LOGOUT]).unwrap_or_else(|| Part {
        name: document.service.to_string(),
        document,
        selection: Vec::new(),
    });
    let own: Vec<_> = OWN_USER.into_iter().chain(OWN_ORDER).collect();
    let apart = [
        part(", one's own", "--include-path", &own),
        part(", logging out", "--include-path", &[LOGOUT]),
    ];
    [everything]
        .into_iter()
        .chain(apart.into_iter().flatten())
        .collect()
}

/// The settings of one run of the fuzzer.
struct Fuzz<'a> {
    fuzzer: &'a Schemathesis,
    gateway: &'a str,
    folder: &'a std::path::Path,
    examples: u32,
    seed: u32,
}

impl Fuzz<'_> {
    /// The result, and the fuzzer's output.
    fn run(
        &self,
        part: &Part<'_>,
        user: &TestUser,
        order: &str,
        step: &Step,
    ) -> anyhow::Result<(Run, String)> {
        let name = part.name.replace([' ', ','], "-");
        let file = |extension: &str| self.folder.join(format!("{name}.{extension}"));
        let settings = file("toml");
        let own = part.selection.first() == Some(&"--include-path");
        let own = own.then_some((user.id.as_str(), order));
        fs::write(&settings, configuration(own))
            .with_context(|| format!("failed to write {}", settings.display()))?;
        let (events, log) = (file("ndjson"), file("log"));
        let (seed, examples) = (self.seed.to_string(), self.examples.to_string());
        let url = format!("http://{}", self.gateway);
        let call: Call = self
            .fuzzer
            .call(["--config-file"])
            .args([
                settings.as_os_str(),
                "run".as_ref(),
                part.document.file.as_os_str(),
            ])
            .args(["--url", &url, "--checks", &CHECKS.join(",")])
            .args(["--max-examples", &examples, "--seed", &seed])
            // One at a time: what load does to the services is another question.
            .args([
                "--workers",
                "1",
                "--request-timeout",
                "20",
                "--max-redirects",
                "0",
            ])
            .args(["--continue-on-failure", "--warnings", "off"])
            .args(["--generation-database", "none", "--report", "ndjson"])
            .args(["--report-ndjson-path".as_ref(), events.as_os_str()])
            .args(&part.selection)
            .env(TOKEN, &user.token)
            // Where it keeps a cache of its own.
            .dir(self.folder)
            .limit(LIMIT);
        // It fails with what it found, which its events show.
        let failed = match call.logged(&log, |line| step.update(line)) {
            // Whatever it has found until then is not all that there is.
            Err(error) if error.is::<Interrupted>() => return Err(error),
            result => result.err(),
        };
        let run = fs::read_to_string(&events)
            .map_err(anyhow::Error::from)
            .and_then(|events| Run::read(&events));
        let run = match (run, failed) {
            (Ok(run), None) => run,
            (Ok(run), Some(_)) if run.errors.is_empty() && run.is_complete => run,
            (_, Some(error)) => return Err(error),
            (Err(error), None) => return Err(error),
        };
        let requests: usize = run.operations.values().flat_map(BTreeMap::values).sum();
        step.result(format!("{requests} requests"));
        Ok((run, fs::read_to_string(&log)?))
    }
}

/// An order of the user; its id.
fn place_order(client: &Client, user: &TestUser) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Accepted {
        order_id: String,
    }
    let authorization = format!("Bearer {}", user.token);
    let headers = [("authorization", authorization.as_str())];
    let answer = client.post("/orders/?product_id=99&quantity=1", &headers, None)?;
    anyhow::ensure!(answer.status == 202, "order: {}", answer.shown());
    Ok(answer.json::<Accepted>()?.order_id)
}

/// The fuzzer's settings, with the ids of a user and an order where those are to be asked for. The token is in its
/// environment: a file or a command line would tell it to others.
fn configuration(own: Option<(&str, &str)>) -> String {
    let mut text = format!("headers = {{ Authorization = \"Bearer ${{{TOKEN}}}\" }}\n");
    if let Some((user, order)) = own {
        let users = OWN_USER.into_iter().map(|path| (path, user));
        for (path, id) in users.chain(OWN_ORDER.into_iter().map(|path| (path, order))) {
            text.push_str(&format!(
                "\n[[operations]]\ninclude-path = \"{path}\"\nparameters = {{ id = \"{id}\" }}\n"
            ));
        }
    }
    text
}

fn merge(all: &mut Run, run: Run) {
    for (operation, statuses) in run.operations {
        let known = all.operations.entry(operation).or_default();
        for (status, count) in statuses {
            *known.entry(status).or_default() += count;
        }
    }
    for (operation, count) in run.rejections {
        *all.rejections.entry(operation).or_default() += count;
    }
    all.violations.extend(run.violations);
    all.errors.extend(run.errors);
}

/// The part of the fuzzer's output with its findings, each with the call that reproduces it.
fn failures(said: &str) -> String {
    let lines = said
        .lines()
        .skip_while(|line| !line.contains("= FAILURES ="));
    let mut text = String::new();
    for line in lines
        .skip(1)
        .take_while(|line| !line.contains("= SUMMARY ="))
    {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Whatever is not as documented is a failure; an operation that never succeeded, or was always rejected, shows next to nothing.
/// Pure.
fn judge<'a>(run: Run, seed: u32, wanted: impl Iterator<Item = &'a String>) -> Report {
    let succeeded = |operation: &String| {
        let statuses = run.operations.get(operation);
        let mut statuses = statuses.into_iter().flat_map(BTreeMap::keys);
        statuses.any(|&status| {
            (200..300).contains(&status) || (operation.as_str(), status) == HAS_ACCOUNT
        })
    };
    let answered = |operation: &String| {
        let statuses = run.operations.get(operation);
        let answers: usize = statuses.into_iter().flat_map(BTreeMap::values).sum();
        answers > run.rejections.get(operation).copied().unwrap_or_default()
    };
    let was_tried = |operation: &String| match NEEDS_PASSWORD.contains(&operation.as_str()) {
        true => answered(operation),
        false => succeeded(operation),
    };
    let untried: Vec<String> = wanted
        .filter(|operation| !was_tried(operation))
        .cloned()
        .collect();
    let outcome = if !run.violations.is_empty() {
        Exit::Failed
    } else if !untried.is_empty() {
        Exit::Inconclusive
    } else {
        Exit::Holds
    };
    let operations = run
        .operations
        .into_iter()
        .map(|(operation, statuses)| Operation {
            operation,
            requests: statuses.values().sum(),
            statuses,
        });
    Report {
        outcome,
        seed,
        violations: run.violations,
        untried,
        operations: operations.collect(),
    }
}

fn text(report: &Report, said: &str) -> String {
    let mut rows = table(["operation", "requests", "answers"]);
    for operation in &report.operations {
        let statuses = operation.statuses.iter();
        let statuses: Vec<_> = statuses
            .map(|(status, count)| format!("{count} × {status}"))
            .collect();
        rows.add_row([
            operation.operation.clone(),
            operation.requests.to_string(),
            statuses.join(", "),
        ]);
    }
    let requests: usize = report
        .operations
        .iter()
        .map(|operation| operation.requests)
        .sum();
    // Where all of the fuzzer's findings are left out, they would mislead.
    let said = if report.violations.is_empty() {
        ""
    } else {
        said
    };
    let mut text = format!("{rows}\n{said}");
    for violation in &report.violations {
        text.push_str(&format!(
            "not as documented: {}: {}\n",
            violation.operation, violation.title
        ));
    }
    for operation in &report.untried {
        text.push_str(&format!("not seen at work: {operation}\n"));
    }
    let word = report.outcome.word();
    text + &format!("{word}: {requests} requests, seed {}\n", report.seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(operations: &[(&str, u16)]) -> Run {
        let operations = operations
            .iter()
            .map(|(operation, status)| ((*operation).to_owned(), BTreeMap::from([(*status, 1)])));
        Run {
            operations: operations.collect(),
            ..Run::default()
        }
    }

    fn violation() -> Violation {
        Violation {
            operation: "GET /a".to_owned(),
            title: "Server error".to_owned(),
            detail: String::new(),
            request: "GET http://shop/a".to_owned(),
            status: Some(500),
        }
    }

    fn judged(run: Run) -> Report {
        let wanted = ["GET /a".to_owned(), "GET /b".to_owned()];
        judge(run, 7, wanted.iter())
    }

    #[test]
    fn a_violation_fails_and_what_never_succeeded_is_inconclusive() {
        let good = || run(&[("GET /a", 200), ("GET /b", 204)]);
        assert_eq!(judged(good()).outcome, Exit::Holds);
        for missing in [
            run(&[("GET /a", 200)]),
            run(&[("GET /a", 200), ("GET /b", 404)]),
        ] {
            let report = judged(missing);
            assert_eq!(report.outcome, Exit::Inconclusive);
            assert_eq!(report.untried, ["GET /b"]);
        }
        let mut bad = good();
        bad.violations.push(violation());
        let report = judged(bad);
        assert_eq!(report.outcome, Exit::Failed);
        assert!(text(&report, "").contains("GET /a: Server error"));
    }

    #[test]
    fn signing_up_succeeded_where_every_address_has_an_account() {
        let wanted = ["POST /auth/signup".to_owned(), "POST /b".to_owned()];
        let conflicts = run(&[("POST /auth/signup", 409), ("POST /b", 409)]);
        assert_eq!(judge(conflicts, 7, wanted.iter()).untried, ["POST /b"]);
    }

    #[test]
    fn an_operation_that_is_always_rejected_is_untried_also_where_it_never_succeeds() {
        let [operation, _] = NEEDS_PASSWORD.map(str::to_owned);
        let mut rejected = run(&[(&operation, 503)]);
        rejected.rejections.insert(operation.clone(), 1);
        let wanted = || [&operation].into_iter();
        assert_eq!(judge(rejected, 7, wanted()).untried, [operation.as_str()]);
        let refused = run(&[(&operation, 401)]);
        assert!(judge(refused, 7, wanted()).untried.is_empty());
    }

    #[test]
    fn the_fuzzers_findings_are_shown_only_beside_a_violation() {
        let found = "curl http://shop/%3F\n";
        let good = || run(&[("GET /a", 200), ("GET /b", 204)]);
        assert!(!text(&judged(good()), found).contains(found));
        let mut bad = good();
        bad.violations.push(violation());
        assert!(text(&judged(bad), found).contains(found));
    }

    #[test]
    fn findings_are_taken_from_between_the_headings() {
        let said = "x\n=== FAILURES ===\none\n  curl\n=== SUMMARY ===\ny\n";
        assert_eq!(failures(said), "one\n  curl\n");
        assert_eq!(failures("all is well"), "");
    }

    #[test]
    fn operations_are_called_as_the_fuzzer_calls_them() {
        let document = r#"{"paths":{"/a":{"get":{},"post":{}}}}"#;
        assert_eq!(operations(document).unwrap(), ["GET /a", "POST /a"]);
        assert!(operations("{}").is_err());
    }
}
