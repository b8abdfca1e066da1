//! `check`: formatting, lints, docs, dependency policy, the trace store's stand-in, configuration files, dashboards, words and
//! links.
//! All steps run, whatever fails.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use base::{
    outcome::{self, Exit},
    progress::Step,
};
use checks::{
    alloy,
    dashboards::{self, Dashboard, Language},
    links::Documents,
    logql, words,
};
use serde::Serialize;
use serde_json::json;
use system::{
    binaries, configuration, env_file::EnvFile, extras, files, images, interrupt::Interrupted,
    process::Call, project::Project,
};

use crate::output::{Format, print_json, progress, table};

const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Files that only programs without a local image read: here at least their YAML is read.
const YAML: [&str; 3] = [
    "observability/loki/loki.yaml",
    "observability/grafana/provisioning/dashboards/agora.yaml",
    dashboards::DATA_SOURCES,
];
const ALLOY: &str = "observability/alloy/config.alloy";

/// Options of `check`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Only this check, by its name in the result; can be given several times
    #[arg(long, value_name = "CHECK")]
    only: Vec<String>,
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    checks: Vec<Checked>,
}

#[derive(Debug, Serialize)]
struct Checked {
    name: &'static str,
    #[serde(flatten)]
    result: CheckResult,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", content = "detail", rename_all = "snake_case")]
enum CheckResult {
    Passed,
    /// A tool isn't here; says how to get it.
    Skipped(String),
    Failed(String),
}

/// A check: its name, and its function, which returns the reason if it was skipped.
type Check = (
    &'static str,
    fn(&Project, &Step) -> anyhow::Result<Option<String>>,
);

const CHECKS: [Check; 15] = [
    ("formatting", formatting),
    ("lints", lints),
    ("jaeger's stand-in", stand_in),
    ("docs", docs),
    ("dependency policy", dependency_policy),
    ("compose files", compose_files),
    ("prometheus configuration", prometheus_configuration),
    ("prometheus rule tests", prometheus_rule_tests),
    ("alertmanager configuration", alertmanager_configuration),
    ("words", retired_words),
    ("links", links_of_documents),
    ("shell scripts", shell_scripts),
    ("dashboards", dashboard_files),
    ("dashboard queries", dashboard_queries),
    ("loki, alloy, grafana", optional_parts),
];

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options, format: Format) -> anyhow::Result<Exit> {
    let chosen = chosen(&options.only)?;
    let progress = progress();
    let mut checks = Vec::new();
    for (name, check) in chosen {
        let result = progress.step(name, |step| {
            let skipped = check(project, step)?;
            if skipped.is_some() {
                step.result("skipped");
            }
            Ok(skipped)
        });
        let result = match result {
            Ok(None) => CheckResult::Passed,
            Ok(Some(reason)) => CheckResult::Skipped(reason),
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => {
                eprintln!("{error:#}");
                CheckResult::Failed(format!("{error:#}"))
            }
        };
        checks.push(Checked { name, result });
    }
    let failed = checks
        .iter()
        .any(|check| matches!(check.result, CheckResult::Failed(_)));
    let report = Report {
        outcome: if failed { Exit::Failed } else { Exit::Holds },
        checks,
    };
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => print_text(&report),
    }
    Ok(report.outcome)
}

/// The checks of these names; all of them where none is named.
fn chosen(only: &[String]) -> anyhow::Result<Vec<Check>> {
    let names = CHECKS.map(|(name, _)| name);
    if let Some(unknown) = only.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(outcome::usage(
            format!("there is no check `{unknown}`"),
            format!("the checks are `{}`", names.join("`, `")),
        ));
    }
    let wanted = |(name, _): &Check| only.is_empty() || only.iter().any(|only| only == name);
    Ok(CHECKS.into_iter().filter(wanted).collect())
}

fn print_text(report: &Report) {
    let mut rows = table(["check", "result", ""]);
    for check in &report.checks {
        let (result, detail) = match &check.result {
            CheckResult::Passed => ("passed", ""),
            CheckResult::Skipped(reason) => ("skipped", reason.as_str()),
            CheckResult::Failed(detail) => ("FAILED", detail.lines().next().unwrap_or("")),
        };
        rows.add_row([check.name, result, detail]);
    }
    println!("{rows}");
}

fn logged(
    project: &Project,
    step: &Step,
    name: &str,
    call: Call,
) -> anyhow::Result<Option<String>> {
    call.limit(LIMIT)
        .logged(&project.log(&format!("check-{name}")), |line| {
            step.update(line)
        })?;
    Ok(None)
}

fn formatting(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    logged(
        project,
        step,
        "fmt",
        binaries::cargo(project).args(["fmt", "--all", "--check"]),
    )
}

fn lints(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let args = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "--deny",
        "warnings",
    ];
    logged(project, step, "clippy", binaries::cargo(project).args(args))
}

/// Formatting, lints and tests of the one crate that isn't part of the workspace and stands in for something: what is
/// below `images/` is built on machines without a registry alone, and would rot elsewhere.
fn stand_in(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let manifest = ["--manifest-path", "images/jaeger/Cargo.toml"];
    let clippy = ["--all-targets", "--locked", "--", "--deny", "warnings"];
    let target = project.cargo_target().join("images-jaeger");
    for (command, args) in [
        ("fmt", &["--check"] as &[&str]),
        ("clippy", &clippy),
        ("test", &["--locked"]),
    ] {
        let call = binaries::cargo(project)
            .args([command])
            .args(manifest)
            .args(args)
            // as images/build.sh has it: apart from the workspace's, which has other features of the same crates
            .env("CARGO_TARGET_DIR", &target);
        logged(project, step, &format!("stand-in-{command}"), call)?;
    }
    Ok(None)
}

fn docs(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let call = binaries::cargo(project).args(["doc", "--workspace", "--no-deps", "--locked"]);
    logged(
        project,
        step,
        "doc",
        call.env("RUSTDOCFLAGS", "--deny warnings"),
    )
}

fn dependency_policy(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let deny = || binaries::cargo(project).args(["deny"]);
    if !deny()
        .args(["--version"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        return Ok(Some(
            "cargo-deny isn't here: `cargo install --locked cargo-deny`".to_owned(),
        ));
    }
    logged(project, step, "deny", deny().args(["check"]))
}

/// The extensions of files in which retired words are looked for.
const TEXTS: [&str; 8] = ["html", "json", "md", "proto", "rs", "sh", "yaml", "yml"];
/// Folders in which they aren't: build output, and recorded evidence.
const NOT_OURS: [&str; 3] = ["target", "fixtures", "golden"];

/// The repository's own files with these extensions, by their path from its root.
fn texts(root: &Path, extensions: &[&str]) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let mut texts = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let extension = path.extension().unwrap_or_default();
            if entry.file_type()?.is_dir() {
                if !NOT_OURS.iter().any(|other| name == *other) && name != ".git" {
                    folders.push(path);
                }
            } else if extensions.iter().any(|it| extension == *it) {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("failed to read {}", path.display()))?;
                texts.insert(path.strip_prefix(root)?.to_owned(), text);
            }
        }
    }
    Ok(texts)
}

fn links_of_documents(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let exists = |path: &Path| project.root.join(path).exists();
    let documents = Documents::new(texts(&project.root, &["md"])?, &exists);
    step.result(format!("{} links", documents.count()));
    let wrong = documents.wrong();
    if wrong.is_empty() {
        return Ok(None);
    }
    Err(outcome::failed(
        wrong.join("\n"),
        "correct the link, link the page, or shorten it",
    ))
}

fn retired_words(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let list = project.root.join(words::LIST);
    let list =
        fs::read_to_string(&list).with_context(|| format!("failed to read {}", list.display()))?;
    let retired = words::read(&list)?;
    let (mut uses, mut read) = (Vec::new(), 0);
    for (path, text) in texts(&project.root, &TEXTS)? {
        uses.extend(words::uses(&retired, &path.to_string_lossy(), &text));
        read += 1;
    }
    step.result(format!("{} retired words, {read} files", retired.len()));
    if uses.is_empty() {
        return Ok(None);
    }
    uses.sort_unstable();
    Err(outcome::failed(
        uses.join("\n"),
        format!("{} has the words and what stands for each now", words::LIST),
    ))
}

/// Why Compose's files and other YAML can't be checked.
const NO_COMPOSE: &str = "Docker Compose V2, which reads YAML, isn't here: `cargo xtask doctor`";

/// Checks Compose's files with upstream images and throwaway secrets, not with .env: they must be valid by themselves.
fn compose_files(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    for system in [project.clone(), project.for_tests()] {
        let system = system.with_env_file(project.outputs().join("check/.env"));
        let mut file = EnvFile::read(&system.env_file)?;
        file.complete(&[])?;
        // With the parts that `up` starts only where it can pull them.
        let references = images::upstream(project)?.into_iter();
        for (name, reference) in references.chain(extras::upstream(project)?) {
            file.set(name, &reference);
        }
        file.save()?;
        let settings = system.settings_from(&file);
        let Some(call) = configuration::composition_check(&system, &settings)? else {
            return Ok(Some(NO_COMPOSE.to_owned()));
        };
        logged(project, step, "compose", call)?;
    }
    Ok(None)
}

fn prometheus_configuration(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let args = ["check", "config", "/etc/prometheus/prometheus.yml"];
    in_image(project, step, &PROMTOOL, "prometheus", &args)
}

fn prometheus_rule_tests(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let args = ["test", "rules", "/etc/prometheus/tests/agora.yml"];
    in_image(project, step, &PROMTOOL, "prometheus", &args)
}

fn alertmanager_configuration(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let args = [
        "check-config",
        "/etc/alertmanager/alerting-on.yml",
        "/etc/alertmanager/alerting-off.yml",
    ];
    in_image(project, step, &AMTOOL, "alertmanager", &args)
}

/// A program of an image, which a setting names.
struct Tool {
    program: &'static str,
    image: &'static str,
}

const PROMTOOL: Tool = Tool {
    program: "promtool",
    image: "AGORA_IMAGE_PROMETHEUS",
};
const AMTOOL: Tool = Tool {
    program: "amtool",
    image: "AGORA_IMAGE_ALERTMANAGER",
};

/// Runs a tool of an image that `up` has brought here, on the folder `observability/<name>`.
fn in_image(
    project: &Project,
    step: &Step,
    tool: &Tool,
    name: &str,
    args: &[&str],
) -> anyhow::Result<Option<String>> {
    let folder = project.root.join("observability").join(name);
    in_image_on(project, step, tool, &folder, name, args)
}

/// Runs a tool of an image on any folder, which the tool finds at `/etc/<name>`.
fn in_image_on(
    project: &Project,
    step: &Step,
    tool: &Tool,
    folder: &Path,
    name: &str,
    args: &[&str],
) -> anyhow::Result<Option<String>> {
    let Tool { program, image } = tool;
    let file = EnvFile::read(&project.env_file)?;
    let reference = file.get(image).unwrap_or_default();
    let Some(call) = images::tool(reference, program, folder, &format!("/etc/{name}"))? else {
        return Ok(Some(format!(
            "the image with {program} isn't here: `cargo xtask up` brings it"
        )));
    };
    logged(project, step, program, call.args(args))
}

fn shell_scripts(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let mut scripts = vec![project.root.join(".ci/run")];
    for folder in ["images", "observability"] {
        collect_scripts(&project.root.join(folder), &mut scripts)?;
    }
    scripts.retain(|script| script.is_file());
    for script in &scripts {
        logged(
            project,
            step,
            "bash",
            Call::new("bash").args([Path::new("-n"), script]),
        )?;
    }
    step.result(format!("{} read", scripts.len()));
    Ok(None)
}

fn collect_scripts(folder: &Path, scripts: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("failed to read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect_scripts(&path, scripts)?;
        } else if path.extension().is_some_and(|extension| extension == "sh") {
            scripts.push(path);
        }
    }
    Ok(())
}

/// Checks that the files are dashboards with all that a panel needs, and that their LogQL is well formed.
fn dashboard_files(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let dashboards = dashboards::of_files(&files::read_all(
        &project.root.join(dashboards::FOLDER),
        "json",
    )?)?;
    let sources = read(project, dashboards::DATA_SOURCES)?;
    let mut defects = dashboards::defects(&dashboards, &sources);
    let questions = questions(&dashboards, Language::LogQl, &mut defects);
    for (place, query) in &questions {
        defects.extend(logql::defect(query).map(|why| format!("{place}: {why}: {query}")));
    }
    step.result(format!(
        "{} dashboards, {} LogQL queries",
        dashboards.len(),
        questions.len()
    ));
    none_of(defects)
}

/// Checks that their other queries are PromQL: promtool reads them as the rules of a file.
fn dashboard_queries(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let mut defects = Vec::new();
    let dashboards = dashboards::of_files(&files::read_all(
        &project.root.join(dashboards::FOLDER),
        "json",
    )?)?;
    let questions = questions(&dashboards, Language::PromQl, &mut defects);
    none_of(defects)?;
    let folder = project.outputs().join("check/dashboards");
    fs::create_dir_all(&folder)
        .with_context(|| format!("failed to create {}", folder.display()))?;
    let file = folder.join("queries.yml");
    fs::write(&file, rule_file(&questions))
        .with_context(|| format!("failed to write {}", file.display()))?;
    let args = ["check", "rules", "/etc/dashboards/queries.yml"];
    let skipped = in_image_on(project, step, &PROMTOOL, &folder, "dashboards", &args)?;
    step.result(format!("{} read", questions.len()));
    Ok(skipped)
}

/// Checks the optional parts' configuration as far as that is possible without their programs.
fn optional_parts(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let text = read(project, ALLOY)?;
    let alloy = alloy::defects(&text).into_iter();
    none_of(alloy.map(|defect| format!("{ALLOY}: {defect}")).collect())?;
    for path in YAML {
        // Compose reads whatever stands below an `x-` as YAML, and so spares xtask a parser.
        let file = project.outputs().join("check/yaml.yaml");
        let folder = file.parent().context("a file has a folder")?;
        fs::create_dir_all(folder)
            .with_context(|| format!("failed to create {}", folder.display()))?;
        fs::write(&file, as_extension(&read(project, path)?))
            .with_context(|| format!("failed to write {}", file.display()))?;
        let Some(call) = configuration::yaml_check(&file)? else {
            return Ok(Some(NO_COMPOSE.to_owned()));
        };
        logged(project, step, "yaml", call).with_context(|| format!("{path} isn't YAML"))?;
    }
    step.result("structure and YAML alone: their programs aren't asked");
    Ok(None)
}

/// Every query in a language, as its place and its text with variables filled in; an unknown variable is a defect.
fn questions(
    dashboards: &[Dashboard],
    language: Language,
    defects: &mut Vec<String>,
) -> Vec<(String, String)> {
    let mut questions = Vec::new();
    for dashboard in dashboards {
        let all = |name: &str| (name.to_owned(), ".+".to_owned());
        let variables = dashboard
            .variables
            .iter()
            .map(|variable| all(&variable.name));
        let values = dashboards::Values::of(dashboard.window, variables.collect());
        for panel in &dashboard.panels {
            let place = format!("{}: `{}`", dashboard.file, panel.title);
            for query in panel
                .queries
                .iter()
                .filter(|query| query.language == language)
            {
                match values.fill_in(&query.expr) {
                    Ok(filled) => questions.push((place.clone(), filled)),
                    Err(why) => defects.push(format!("{place}: {why}")),
                }
            }
        }
    }
    questions
}

/// A file of recording rules, which promtool reads: JSON is YAML. The record's name carries the place, as promtool
/// repeats it in its errors.
fn rule_file(questions: &[(String, String)]) -> String {
    let rules: Vec<_> = questions
        .iter()
        .enumerate()
        .map(|(number, (place, query))| {
            let place: String = place
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
                .collect();
            json!({ "record": format!("{place}:{number}"), "expr": query })
        })
        .collect();
    json!({ "groups": [{ "name": "dashboards", "rules": rules }] }).to_string()
}

/// A Compose file with a YAML document below an `x-` key, where Compose parses and ignores it.
fn as_extension(yaml: &str) -> String {
    let mut file = "services: { none: { image: none } }\nx-checked:\n".to_owned();
    for line in yaml.lines() {
        file.push_str(&format!("  {line}\n"));
    }
    file
}

fn read(project: &Project, path: &str) -> anyhow::Result<String> {
    fs::read_to_string(project.root.join(path)).with_context(|| format!("failed to read {path}"))
}

fn none_of(defects: Vec<String>) -> anyhow::Result<Option<String>> {
    if defects.is_empty() {
        return Ok(None);
    }
    Err(outcome::failed(
        defects.join("\n"),
        "correct the files that are named",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_chosen_by_its_name_and_an_unknown_one_is_refused_with_those_there_are() {
        let names = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
            chosen(&only).map(|checks| checks.iter().map(|(name, _)| *name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap().len(), CHECKS.len());
        assert_eq!(names(&["dashboards"]).unwrap(), ["dashboards"]);
        let error = names(&["dashbords"]).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert!(error.to_string().contains("`dashboards`"), "{error}");
    }

    #[test]
    fn a_rule_carries_the_place_of_its_query() {
        let question = (
            "service.json: `Time, 99 %`".to_owned(),
            "up{a=\"b\"}".to_owned(),
        );
        let file: serde_json::Value = serde_json::from_str(&rule_file(&[question])).unwrap();
        let rule = &file["groups"][0]["rules"][0];
        assert_eq!(rule["record"], "service_json___Time__99___:0");
        assert_eq!(rule["expr"], "up{a=\"b\"}");
    }
}
