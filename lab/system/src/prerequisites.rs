//! What agora needs of a machine, whether it is there, and what provides it.
//!
//! Left out: providing it ([`crate::bring_up`]), and how it is shown (`xtask`).

use std::time::Duration;

use anyhow::Context;
use base::outcome::Failure;
use serde::Serialize;

use crate::{
    binaries,
    compose::Compose,
    engine::docker,
    engine_setup::{self, INSTALL, Plan},
    env_file::EnvFile,
    images, known_causes, kubectl, kubernetes, members, ports,
    process::Call,
    project::{Engine, Project},
};

/// A cold build leaves about 5 GB of objects and 1.5 GB of images; twice that is comfortable.
const DISK_NEEDED_KIB: u64 = 12 * 1024 * 1024;
/// What the containers may use together, and some for the compiler.
const MEMORY_NEEDED_BYTES: u64 = 3 * 1024 * 1024 * 1024;

/// One prerequisite and its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is.
    pub what: &'static str,
    /// Whether it is there.
    pub state: State,
    /// What was found, in words.
    pub detail: String,
    /// The command or step that repairs it.
    #[serde(rename = "mend")]
    pub repair: Option<String>,
}

/// Whether a prerequisite is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is there.
    Ok,
    /// Missing, but `up` works without it.
    Dispensable,
    /// Missing: `up` ends at once.
    Missing,
}

impl Check {
    fn ok(what: &'static str, detail: impl Into<String>) -> Self {
        Self {
            what,
            state: State::Ok,
            detail: detail.into(),
            repair: None,
        }
    }

    fn missing(what: &'static str, detail: impl Into<String>, repair: impl Into<String>) -> Self {
        Self {
            what,
            state: State::Missing,
            detail: detail.into(),
            repair: Some(repair.into()),
        }
    }

    fn dispensable(
        what: &'static str,
        detail: impl Into<String>,
        repair: impl Into<String>,
    ) -> Self {
        Self {
            what,
            state: State::Dispensable,
            detail: detail.into(),
            repair: Some(repair.into()),
        }
    }
}

/// Looks at all of them.
///
/// # Errors
/// When `.env` or the pins of the images can't be read.
pub fn examine(project: &Project) -> anyhow::Result<Vec<Check>> {
    let mut checks = vec![toolchain(project), disk(project)];
    let plan = engine_setup::plan(project)?;
    let runs = matches!(plan, Plan::Running(_));
    checks.push(engine(plan));
    if runs {
        checks.extend(engine_resources());
        if project.engine == Engine::Compose {
            checks.push(free_ports(project)?);
            checks.push(networks(project));
        }
    }
    if project.engine != Engine::Compose {
        checks.push(cluster(project));
    }
    let packages = packages(project);
    checks.push(compose(&packages)?);
    let recipes = recipes(packages, is_here("python3"));
    checks.extend(image_sources(registry(project)?, recipes));
    Ok(checks)
}

fn toolchain(project: &Project) -> Check {
    const WHAT: &str = "toolchain";
    let version = binaries::cargo(project).args(["--version"]).read();
    match version {
        Ok(version) => Check::ok(WHAT, version.trim()),
        Err(error) => Check::missing(
            WHAT,
            format!("{error:#}"),
            "install rustup from https://rustup.rs",
        ),
    }
}

fn disk(project: &Project) -> Check {
    const WHAT: &str = "disk";
    let free_kib = Call::new("df")
        .args(["-Pk", "."])
        .dir(&project.root)
        .read()
        .ok()
        .as_deref()
        .and_then(free_kib);
    match free_kib {
        Some(kib) if kib < DISK_NEEDED_KIB => Check::missing(
            WHAT,
            format!(
                "{} GiB free; a build from nothing wants {}",
                kib >> 20,
                DISK_NEEDED_KIB >> 20
            ),
            "make room: `cargo clean`, `docker image prune`",
        ),
        Some(kib) => Check::ok(WHAT, format!("{} GiB free", kib >> 20)),
        None => Check::dispensable(WHAT, "`df` can't say how much is free", "look yourself"),
    }
}

/// The fourth column of the second line of `df -Pk`.
fn free_kib(df: &str) -> Option<u64> {
    df.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()
}

/// The engine, or what `up` would do if it doesn't answer.
fn engine(plan: Plan) -> Check {
    const WHAT: &str = "engine";
    match plan {
        Plan::Running(version) => engine_version(&version),
        Plan::Start(starter) => Check::dispensable(
            WHAT,
            format!("doesn't run: `up` starts it (`{}`)", starter.command()),
            starter.command(),
        ),
        Plan::Install(starter) => Check::dispensable(
            WHAT,
            format!(
                "not installed: `up` installs it (`{INSTALL}`) and starts it (`{}`)",
                starter.command()
            ),
            INSTALL,
        ),
        Plan::ByHand { cause, next_step } => Check::missing(WHAT, cause, next_step),
    }
}

fn engine_version(version: &str) -> Check {
    const WHAT: &str = "engine";
    let mut numbers = version
        .split('.')
        .map(|number| number.parse::<u32>().unwrap_or_default());
    let (major, minor) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    if (major, minor) >= (20, 10) {
        Check::ok(WHAT, format!("Docker {version}"))
    } else {
        Check::missing(
            WHAT,
            format!("Docker {version} is too old"),
            "install Docker Engine 20.10 or newer",
        )
    }
}

fn engine_resources() -> Vec<Check> {
    let format = "{{.MemoryLimit}} {{.CgroupVersion}} {{.MemTotal}}";
    let text = docker(["info", "--format", format])
        .read()
        .unwrap_or_default();
    let mut words = text.split_whitespace();
    let limits = match (words.next(), words.next()) {
        (Some("true"), Some(version)) => Check::ok("memory limits", format!("cgroup v{version}")),
        _ => Check::dispensable(
            "memory limits",
            "the engine can't limit memory: the containers run without limits",
            "boot with `cgroup_enable=memory`",
        ),
    };
    let memory = match words.next().and_then(|total| total.parse::<u64>().ok()) {
        Some(total) if total < MEMORY_NEEDED_BYTES => Check::missing(
            "memory",
            format!(
                "{} MiB; the system and its build want {}",
                total >> 20,
                MEMORY_NEEDED_BYTES >> 20
            ),
            "give the machine, or Docker Desktop's, more memory",
        ),
        Some(total) => Check::ok(
            "memory",
            format!("{:.1} GiB", total as f64 / (1u64 << 30) as f64),
        ),
        None => Check::dispensable(
            "memory",
            "the engine doesn't say how much there is",
            "look yourself",
        ),
    };
    vec![limits, memory]
}

fn free_ports(project: &Project) -> anyhow::Result<Check> {
    const WHAT: &str = "ports";
    let settings = project.settings_from(&EnvFile::read(&project.env_file)?);
    let conflicts = ports::conflicts(&settings, &members::all(project)?)?;
    if conflicts.is_empty() {
        return Ok(Check::ok(WHAT, "free, or held by this system"));
    }
    let taken: Vec<String> = conflicts.iter().map(ToString::to_string).collect();
    let variables: Vec<String> = conflicts
        .iter()
        .map(|conflict| format!("{}=<port>", conflict.variable))
        .collect();
    Ok(Check::missing(
        WHAT,
        taken.join("; "),
        format!("`{} cargo xtask up`", variables.join(" ")),
    ))
}

/// Whether the engine has address ranges for the networks.
fn networks(project: &Project) -> Check {
    let asked = known_causes::require_subnets(project);
    let asked = asked.map(|()| "the engine has address ranges for them".to_owned());
    checked("networks", asked, "`docker network ls` shows them")
}

/// Whether the cluster answers, fits this kubectl, and takes images and the namespace.
fn cluster(project: &Project) -> Check {
    let asked = || {
        let target = kubectl::target(project)?.context("it isn't on Kubernetes")?;
        kubernetes::require_usable(&target)?;
        let is_there = kubernetes::is_anything_there(&target)?;
        Ok(format!(
            "{}, Kubernetes {}, namespace {} {}",
            target.context().unwrap_or("local"),
            target.version()?,
            target.namespace(),
            if is_there { "is agora's" } else { "is free" },
        ))
    };
    checked("cluster", asked(), "`kubectl get nodes` asks it by hand")
}

/// What was found, or the next step of the error; `otherwise` where it has none.
fn checked(what: &'static str, asked: anyhow::Result<String>, otherwise: &str) -> Check {
    match asked {
        Ok(found) => Check::ok(what, found),
        Err(error) => match error.downcast_ref::<Failure>() {
            Some(failure) => Check::missing(what, failure.cause.clone(), failure.next_step.clone()),
            None => Check::missing(what, format!("{error:#}"), otherwise),
        },
    }
}

/// Whether Debian's packages can be fetched here; otherwise why not.
fn packages(project: &Project) -> Result<(), String> {
    let script = project.root.join("images/fetch-deb.sh");
    let check = Call::new("bash")
        .args([script.as_os_str(), "--check".as_ref()])
        .output();
    match check {
        Ok(check) if check.status.success() => Ok(()),
        Ok(check) => Err(String::from_utf8_lossy(&check.stderr)
            .trim()
            .trim_start_matches("fetch-deb: ")
            .to_owned()),
        Err(error) => Err(format!("{error:#}")),
    }
}

fn is_here(tool: &str) -> bool {
    let version = Call::new(tool).args(["--version"]).output();
    version.is_ok_and(|version| version.status.success())
}

fn compose(packages: &Result<(), String>) -> anyhow::Result<Check> {
    const WHAT: &str = "compose";
    const NEXT_STEP: &str = "see https://docs.docker.com/compose/install/";
    Ok(match Compose::find()? {
        Some(compose) => Check::ok(
            WHAT,
            format!("{} ({})", compose.version, compose.command_line()),
        ),
        None => match packages {
            Ok(()) => Check::dispensable(
                WHAT,
                "Docker Compose V2 isn't here: `up` fetches it for this user alone",
                NEXT_STEP,
            ),
            Err(reason) => Check::missing(
                WHAT,
                format!("Docker Compose V2 isn't here and can't be fetched: {reason}"),
                NEXT_STEP,
            ),
        },
    })
}

/// Whether the registry (or its mirror) answers for the smallest image.
fn registry(project: &Project) -> anyhow::Result<Check> {
    const WHAT: &str = "registry";
    let upstream = images::upstream(project)?;
    let reference = upstream.get(images::SMALLEST).map_or("", String::as_str);
    let asked = docker(["manifest", "inspect", "--insecure", reference])
        .limit(Duration::from_secs(15))
        .output();
    let name = images::mirror().unwrap_or_else(|| "docker.io".to_owned());
    Ok(match asked {
        Ok(output) if output.status.success() => Check::ok(WHAT, format!("{name} answers")),
        _ => Check::missing(
            WHAT,
            format!("{name} doesn't give {reference}"),
            "name a mirror that does: `AGORA_IMAGE_REGISTRY=host:port cargo xtask up`",
        ),
    })
}

/// Whether the local recipes have what they need.
fn recipes(packages: Result<(), String>, has_python: bool) -> Check {
    const WHAT: &str = "local recipes";
    let python = (!has_python).then(|| "python3 is missing".to_owned());
    let missing: Vec<String> = packages.err().into_iter().chain(python).collect();
    if missing.is_empty() {
        return Check::ok(WHAT, "apt, dpkg, Debian's keyring and python3 are here");
    }
    let repair = "on Debian or Ubuntu: `sudo apt-get install apt dpkg debian-archive-keyring python3 python3-pip`";
    Check::missing(WHAT, missing.join("; "), repair)
}

/// One of the two is enough: with one of them the other is dispensable.
fn image_sources(registry: Check, recipes: Check) -> [Check; 2] {
    let mut sources = [registry, recipes];
    if sources.iter().any(|source| source.state == State::Ok) {
        for source in &mut sources {
            if source.state == State::Missing {
                source.state = State::Dispensable;
            }
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_name_all_that_they_lack() {
        let lacks_keyring = || Err("the keyring is missing".to_owned());
        assert_eq!(recipes(Ok(()), true).state, State::Ok);
        let lacks_both = recipes(lacks_keyring(), false);
        assert_eq!(lacks_both.state, State::Missing);
        assert_eq!(
            lacks_both.detail,
            "the keyring is missing; python3 is missing"
        );
        assert_eq!(
            recipes(lacks_keyring(), true).detail,
            "the keyring is missing"
        );
    }

    #[test]
    fn free_space_is_read_from_df() {
        let df =
            "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda 100 40 60 40% /\n";
        assert_eq!(free_kib(df), Some(60));
        assert_eq!(free_kib(""), None);
    }

    #[test]
    fn an_old_engine_is_missing() {
        assert_eq!(engine_version("19.03.15").state, State::Missing);
        assert_eq!(engine_version("20.10.24+dfsg1").state, State::Ok);
        assert_eq!(engine_version("28.0.1").state, State::Ok);
    }

    #[test]
    fn one_source_of_images_is_enough() {
        let good = || Check::ok("registry", "");
        let bad = || Check::missing("local recipes", "", "");
        assert_eq!(image_sources(good(), bad())[1].state, State::Dispensable);
        assert_eq!(image_sources(bad(), bad())[1].state, State::Missing);
    }
}
