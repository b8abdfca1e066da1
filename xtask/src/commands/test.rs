//! `test`: every test, on systems of its own that are brought up before and removed after.
//!
//! They are the compose projects `agora-test` and `agora-test-2` (the project's own name with `-test`), with secrets and
//! free ports of their own; one that people use beside them stays as it is. The system tests share them out among
//! themselves; all other tests use the first. `--fast` runs what needs no system, and starts none.

use std::{env, thread, time::Duration};

use base::{outcome::Exit, progress::Progress};
use serde_json::{Value, json};
use system::{
    Part, binaries, engine_setup,
    env_file::EnvFile,
    members::{self, Member},
    project::{PORTS, Project},
    take_down,
};

use crate::{commands::up, confirm, output::progress};

const LIMIT: Duration = Duration::from_secs(60 * 60);

/// How many systems the whole suite has: its system tests wait most of the time. With a third one on two cores, some of
/// them would measure the others' load.
const SYSTEMS: usize = 2;

/// Test targets that need no system, besides the unit tests.
const WITHOUT_A_SYSTEM: [&str; 16] = [
    "alerts",
    "any_bytes",
    "boundaries",
    "command_line",
    "contract",
    "dashboards",
    "documents",
    "endings",
    "kubernetes",
    "links",
    "own_kubeconfig",
    "process",
    "recorded",
    "reference",
    "run",
    "telemetry_links",
];

/// Options of `test`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Only tests whose names contain one of these
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Only tests that need no system: rules, contracts, documents
    #[arg(long, conflicts_with_all = ["keep", "cargo_args"])]
    fast: bool,
    /// Leave the test systems running
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    consent: up::Consent,
    /// Passed on to `cargo test`, e.g. `-- --package order-service`
    #[arg(last = true)]
    cargo_args: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(project: &Project, options: &Options) -> anyhow::Result<Exit> {
    let args = arguments(options);
    if options.fast {
        let cargo = binaries::cargo(project).args(args);
        return exit(cargo.limit(LIMIT).run_visibly()?);
    }
    // Who names tests waits for few of them, and less for one system than for two.
    let is_whole = options.names.is_empty() && options.cargo_args.is_empty();
    let systems = TestSystems {
        count: if is_whole { SYSTEMS } else { 1 },
        keep: options.keep,
        consent: options.consent,
        // The published ports: tests stop containers and start them again.
        address: members::address,
    };
    systems.run_cargo(project, |_, _| Ok(threads()), args)
}

/// One thread more than there are cores, unless somebody chose: tests wait for the system more often than they compute.
fn threads() -> Variables {
    const THREADS: &str = "RUST_TEST_THREADS";
    let cores = thread::available_parallelism().map_or(1, usize::from);
    match env::var_os(THREADS) {
        Some(_) => Variables::new(),
        None => vec![(THREADS, (cores + 1).to_string())],
    }
}

/// Cargo's arguments.
fn arguments(options: &Options) -> Vec<&str> {
    let mut args = vec!["test", "--locked", "--no-fail-fast"];
    args.extend(whole_workspace_unless_narrowed(&options.cargo_args));
    if options.fast {
        args.extend(["--lib", "--bins"]);
        args.extend(WITHOUT_A_SYSTEM.iter().flat_map(|test| ["--test", test]));
    }
    args.extend(options.cargo_args.iter().map(String::as_str));
    if !options.names.is_empty() {
        // The test program takes several names, cargo one.
        let separated = options.cargo_args.iter().any(|arg| arg == "--");
        args.extend((!separated).then_some("--"));
        args.extend(options.names.iter().map(String::as_str));
    }
    args
}

fn exit(code: Option<i32>) -> anyhow::Result<Exit> {
    Ok(if code == Some(0) {
        Exit::Holds
    } else {
        Exit::Failed
    })
}

/// Variables for cargo's environment.
pub(crate) type Variables = Vec<(&'static str, String)>;

/// A function that finds the address of a service's port.
pub(crate) type Address = fn(&[Member], Part, u16) -> anyhow::Result<String>;

/// The systems that tests or benchmarks run on.
#[derive(Debug)]
pub(crate) struct TestSystems {
    /// How many there are, [`SYSTEMS`] at most.
    pub(crate) count: usize,
    /// Whether they are left running.
    pub(crate) keep: bool,
    /// Whether an engine may be installed for them.
    pub(crate) consent: up::Consent,
    /// How the first one's parts are reached.
    pub(crate) address: Address,
}

impl TestSystems {
    /// Starts the systems, runs cargo with the first one's addresses in the environment, and removes them. `beside` starts
    /// what else is needed beside the first, and returns variables for that.
    pub(crate) fn run_cargo<'a>(
        &self,
        project: &Project,
        beside: impl FnOnce(&Project, &Progress) -> anyhow::Result<Variables>,
        cargo_args: impl IntoIterator<Item = &'a str>,
    ) -> anyhow::Result<Exit> {
        let systems: Vec<Project> = (1..=self.count)
            .map(|number| project.nth_for_tests(number))
            .collect();
        let progress = progress();
        engine_setup::provide(project, || confirm::install(self.consent.yes), &progress)?;
        let result = self.run_on(project, &systems, beside, cargo_args, &progress);
        if self.keep {
            for system in &systems {
                eprintln!(
                    "the test system `{}` keeps running; its settings are in {}",
                    system.name,
                    system.env_file.display()
                );
            }
            return result;
        }
        // Whatever happened, Ctrl-C included.
        let removed = progress.step("removing the test systems", |_| take_all_down(&systems));
        let exit = result?;
        removed?;
        Ok(exit)
    }

    fn run_on<'a>(
        &self,
        project: &Project,
        systems: &[Project],
        beside: impl FnOnce(&Project, &Progress) -> anyhow::Result<Variables>,
        cargo_args: impl IntoIterator<Item = &'a str>,
        progress: &Progress,
    ) -> anyhow::Result<Exit> {
        let mut variables = Variables::new();
        // What an earlier run left behind, if it was killed. It may have had more systems than this one, and each takes
        // processor time from every measurement.
        for number in 1..=SYSTEMS {
            let left_over = project.nth_for_tests(number);
            if take_down::is_anything_there(&left_over)? {
                progress.step("removing an earlier test system", |_| {
                    take_down::take_down(&left_over, true)
                })?;
            }
        }
        for (index, system) in systems.iter().enumerate() {
            prepare_env_file(system)?;
            let members = up::Options::default().bring_up(system, progress)?;
            if index == 0 {
                variables = environment(system, &members, self.address)?;
            }
        }
        let [first, ..] = systems else {
            anyhow::bail!("no test system was asked for");
        };
        variables.extend(beside(first, progress)?);
        let system =
            |system: &Project| json!({ "project": system.name, "env_file": system.env_file });
        let all: Vec<Value> = systems.iter().map(system).collect();
        variables.push(("AGORA_TEST_SYSTEMS", json!(all).to_string()));
        let mut cargo = binaries::cargo(project).args(cargo_args);
        for (name, value) in variables {
            cargo = cargo.env(name, value);
        }
        exit(cargo.limit(LIMIT).run_visibly()?)
    }
}

/// Removes all of them, also after one that resists; the first error.
fn take_all_down(systems: &[Project]) -> anyhow::Result<()> {
    let results: Vec<anyhow::Result<()>> = systems
        .iter()
        .map(|system| take_down::take_down(system, true))
        .collect();
    results.into_iter().collect()
}

/// Ports are any free ones; secrets come with `up`.
pub(crate) fn prepare_env_file(system: &Project) -> anyhow::Result<()> {
    let mut file = EnvFile::read(&system.env_file)?;
    for port in &PORTS {
        file.set(port.variable, "0");
    }
    file.save()
}

/// Cargo ignores `--package` beside `--workspace`.
fn whole_workspace_unless_narrowed(cargo_args: &[String]) -> &'static [&'static str] {
    let narrowed = cargo_args
        .iter()
        .any(|arg| arg.starts_with("-p") || arg.starts_with("--package"));
    if narrowed { &[] } else { &["--workspace"] }
}

/// The variables for tests and benchmarks on one system: addresses of its parts with their passwords, and its settings.
fn environment(
    system: &Project,
    members: &[Member],
    address: Address,
) -> anyhow::Result<Variables> {
    let settings = system.settings()?;
    let postgres = settings.require("AGORA_POSTGRES_PASSWORD")?;
    let rabbitmq = settings.require("AGORA_RABBITMQ_PASSWORD")?;
    let at = |service, port| address(members, service, port);
    let mut variables = vec![
        (
            "AGORA_TEST_DATABASE_URL",
            format!(
                "postgres://postgres:{postgres}@{}/postgres",
                at(Part::Postgres, 5432)?
            ),
        ),
        (
            "AGORA_TEST_AMQP_URL",
            format!("amqp://agora:{rabbitmq}@{}", at(Part::RabbitMq, 5672)?),
        ),
        (
            "AGORA_TEST_RABBITMQ_API",
            format!("http://agora:{rabbitmq}@{}", at(Part::RabbitMq, 15672)?),
        ),
        ("AGORA_TEST_ENV_FILE", system.env_file.display().to_string()),
    ];
    // Published nowhere: there only where this machine has a way to containers, and only the benchmark asks for it.
    if let Some(store) = members::own_address(members, Part::Jaeger, 4317) {
        variables.push(("AGORA_TEST_OTLP_URL", format!("http://{store}")));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// Targets whose tests ask the test system, or an engine.
    const ON_THE_SYSTEM: [&str; 10] = [
        "api",
        "cluster",
        "crash_points",
        "gateway",
        "older_volumes",
        "out_of_order",
        "patterns_off",
        "queue",
        "saga_recovery",
        "system",
    ];

    /// The names of the test targets below a folder with packages.
    fn targets(packages: &Path) -> BTreeSet<String> {
        let mut targets = BTreeSet::new();
        for package in fs::read_dir(packages).unwrap() {
            let tests = package.unwrap().path().join("tests");
            if tests.join("main.rs").is_file() {
                let package = tests.parent().unwrap().file_name().unwrap();
                targets.insert(package.to_string_lossy().into_owned());
                continue;
            }
            for test in fs::read_dir(&tests).into_iter().flatten() {
                let test = test.unwrap().path();
                if test.extension().is_some_and(|rs| rs == "rs") || test.join("main.rs").is_file() {
                    let name = test.file_stem().unwrap();
                    targets.insert(name.to_string_lossy().into_owned());
                }
            }
        }
        targets
    }

    #[test]
    fn every_test_target_is_known_to_need_a_system_or_none() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let folders = ["", "lab", "services", "tests", "benches"];
        let found: BTreeSet<String> = folders
            .iter()
            .flat_map(|folder| targets(&root.join(folder)))
            .collect();
        let known = WITHOUT_A_SYSTEM.iter().chain(&ON_THE_SYSTEM);
        let known: BTreeSet<String> = known.map(|name| (*name).to_owned()).collect();
        assert_eq!(found, known);
    }

    #[test]
    fn the_script_of_the_ci_takes_every_test_system_down() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let script = fs::read_to_string(Path::new(root).join(".ci/run")).unwrap();
        let project = Project::at(root.into(), "agora-ci");
        let suffixes: Vec<String> = (1..=SYSTEMS)
            .map(|number| project.nth_for_tests(number).name)
            .map(|name| name["agora-ci-".len()..].to_owned())
            .collect();
        let line = format!("for test in {}; do", suffixes.join(" "));
        assert!(script.contains(&line), "{line}");
    }

    #[test]
    fn names_come_behind_what_is_passed_on() {
        let options = |names: &[&str], cargo_args: &[&str], fast| Options {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            fast,
            keep: false,
            consent: up::Consent::default(),
            cargo_args: cargo_args.iter().map(|arg| (*arg).to_owned()).collect(),
        };
        let always = ["test", "--locked", "--no-fail-fast"];
        let args = |options: &Options| arguments(options)[always.len()..].join(" ");
        assert_eq!(args(&options(&[], &[], false)), "--workspace");
        assert_eq!(
            args(&options(&["a", "b"], &[], false)),
            "--workspace -- a b"
        );
        let narrowed = options(&["a"], &["-p", "x", "--", "--nocapture"], false);
        assert_eq!(args(&narrowed), "-p x -- --nocapture a");
        let fast = options(&["a"], &[], true);
        assert!(args(&fast).starts_with("--workspace --lib --bins --test alerts"));
        assert!(args(&fast).ends_with("--test telemetry_links -- a"));
    }
}
