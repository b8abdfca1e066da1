//! `check`: formatting, lints, docs, dependency policy, configuration files. All steps run, whatever fails.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use serde::Serialize;

use crate::{
    binaries,
    compose::Compose,
    engine,
    env_file::EnvFile,
    images,
    interrupt::Interrupted,
    outcome::Exit,
    output::{Format, FormatOption, Progress, Step, print_json, table},
    process::Call,
    project::Project,
};

const LIMIT: Duration = Duration::from_secs(30 * 60);

/// What `check` can be told.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) format: FormatOption,
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

/// A check: its name, and what it does. `Some` is the reason why it was skipped.
type Check = (
    &'static str,
    fn(&Project, &Step) -> anyhow::Result<Option<String>>,
);

const CHECKS: [Check; 10] = [
    ("formatting", formatting),
    ("lints", lints),
    ("jaeger's stand-in", stand_in),
    ("docs", docs),
    ("dependency policy", dependency_policy),
    ("compose files", compose_files),
    ("prometheus configuration", prometheus_configuration),
    ("prometheus rule tests", prometheus_rule_tests),
    ("alertmanager configuration", alertmanager_configuration),
    ("shell scripts", shell_scripts),
];

/// Runs the command.
pub(crate) fn run(project: &Project, options: Options) -> anyhow::Result<Exit> {
    let progress = Progress::new();
    let mut checks = Vec::new();
    for (name, check) in CHECKS {
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
    match options.format.format {
        Format::Json => print_json(&report)?,
        Format::Text => print_text(&report),
    }
    Ok(report.outcome)
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

/// The files must stand by themselves: checked with upstream images and throwaway secrets, not with .env.
fn compose_files(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let Some(compose) = Compose::find()? else {
        return Ok(Some(
            "Docker Compose V2 isn't here: `cargo xtask doctor`".to_owned(),
        ));
    };
    for system in [project.clone(), project.for_tests()] {
        let system = system.with_env_file(project.outputs().join("check/.env"));
        let mut file = EnvFile::read(&system.env_file)?;
        file.complete(&[])?;
        for (name, reference) in images::upstream(project)? {
            file.set(name, &reference);
        }
        file.save()?;
        let call = compose.call(&system, &system.settings_from(&file), ["config", "--quiet"]);
        logged(project, step, "compose", call)?;
    }
    Ok(None)
}

fn prometheus_configuration(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let args = ["check", "config", "/etc/prometheus/prometheus.yml"];
    in_image(
        project,
        step,
        "prometheus",
        "promtool",
        "AGORA_IMAGE_PROMETHEUS",
        &args,
    )
}

fn prometheus_rule_tests(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let args = ["test", "rules", "/etc/prometheus/tests/agora.yml"];
    in_image(
        project,
        step,
        "prometheus",
        "promtool",
        "AGORA_IMAGE_PROMETHEUS",
        &args,
    )
}

fn alertmanager_configuration(project: &Project, step: &Step) -> anyhow::Result<Option<String>> {
    let args = ["check-config", "/etc/alertmanager/alertmanager.yml"];
    in_image(
        project,
        step,
        "alertmanager",
        "amtool",
        "AGORA_IMAGE_ALERTMANAGER",
        &args,
    )
}

/// Runs a tool of an image that `up` has brought here, on the folder `observability/<name>`.
fn in_image(
    project: &Project,
    step: &Step,
    name: &str,
    tool: &str,
    image: &str,
    args: &[&str],
) -> anyhow::Result<Option<String>> {
    let file = EnvFile::read(&project.env_file)?;
    let reference = file.get(image).unwrap_or_default();
    if reference.is_empty() || engine::image(reference)?.is_none() {
        return Ok(Some(format!(
            "the image with {tool} isn't here: `cargo xtask up` brings it"
        )));
    }
    let folder = project.root.join("observability").join(name);
    let volume = format!("{}:/etc/{name}:ro", folder.display());
    let call = engine::docker([
        "run",
        "--rm",
        "--network",
        "none",
        "--volume",
        &volume,
        "--entrypoint",
        tool,
        reference,
    ]);
    logged(project, step, tool, call.args(args))
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
