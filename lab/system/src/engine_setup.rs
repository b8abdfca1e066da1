//! Provides the container engine on a machine where none runs: starts one that is installed, or installs it first where
//! that may be done (Debian and Ubuntu, as root).
//!
//! An engine that agora started keeps running after the command; `down --engine` stops it, and stops no other.
//! Left out: engines elsewhere. Where `DOCKER_HOST` or a context names one, that choice is never replaced.

use std::{
    env,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use base::{
    outcome,
    progress::{Progress, Step},
};
use serde::{Deserialize, Serialize};

use crate::{
    engine,
    env_file::EnvFile,
    host, interrupt,
    process::{Call, tail},
    project::Project,
    wait,
};

/// Set to `never`, nothing is started or installed.
const SETTING: &str = "AGORA_ENGINE_SETUP";
/// What `apt-get` installs.
const PACKAGE: &str = "docker.io";
/// The command that installs an engine, as people type it.
pub const INSTALL: &str = "apt-get install docker.io";
/// How long the engine may take from its start until it answers: 3 s on an idle machine, more where it has containers
/// to start again.
const ANSWERS_WITHIN: Duration = Duration::from_secs(90);
/// How long it may take from SIGTERM until its process is gone: it gives each container 10 s or more of its own.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// How long another agora command may take to do the same.
const SOMEBODY_ELSE_WITHIN: Duration = Duration::from_secs(600);
/// The limit of each of the two calls of `apt-get`.
const APT_LIMIT: Duration = Duration::from_secs(600);
const TICK: Duration = Duration::from_millis(300);
const LOG_LINES: usize = 8;

/// What `up` does to have an engine on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: an engine of this version answers.
    Running(String),
    /// Start the engine that is installed.
    Start(Starter),
    /// Install an engine, then start it.
    Install(Starter),
    /// Nothing: people have to provide an engine themselves.
    ByHand {
        /// What is missing.
        cause: String,
        /// The commands that provide it.
        next_step: String,
    },
}

/// How the engine is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Starter {
    /// systemd, as the unit `docker`.
    Systemd,
    /// `dockerd` in the background, in a session of its own.
    Dockerd,
}

impl Starter {
    /// The command that does the same, as people type it.
    pub fn command(self) -> &'static str {
        match self {
            Self::Systemd => "systemctl start docker",
            Self::Dockerd => "dockerd &",
        }
    }
}

/// What the plan is made from.
#[derive(Debug, Clone)]
struct Facts {
    /// The engine's version, or what the client printed instead.
    answer: Result<String, String>,
    /// The user's own choice of an engine, e.g. `DOCKER_HOST=tcp://…`.
    chosen: Option<String>,
    /// `AGORA_ENGINE_SETUP` doesn't forbid it.
    allowed: bool,
    /// Client and daemon are installed.
    installed: bool,
    root: bool,
    linux: bool,
    /// systemd is the init system, so that it starts services.
    systemd: bool,
    /// Debian or Ubuntu.
    debian: bool,
}

impl Facts {
    fn look(project: &Project) -> anyhow::Result<Self> {
        let answer = match host::version() {
            Ok(version) => Ok(version),
            Err(error) if error.is::<interrupt::Interrupted>() => return Err(error),
            Err(error) => Err(match error.downcast_ref::<outcome::Failure>() {
                Some(failure) => failure.cause.clone(),
                None => format!("{error:#}"),
            }),
        };
        Ok(Self {
            answer,
            chosen: chosen(),
            allowed: is_allowed(project)?,
            installed: runs("docker", "--version") && runs("dockerd", "--version"),
            root: Call::new("id")
                .args(["-u"])
                .read()
                .is_ok_and(|id| id.trim() == "0"),
            linux: cfg!(target_os = "linux"),
            // As sd_booted(3) finds out.
            systemd: Path::new("/run/systemd/system").is_dir(),
            debian: fs::read_to_string("/etc/os-release").is_ok_and(|text| is_debian(&text)),
        })
    }

    fn plan(self) -> Plan {
        let said = match self.answer {
            Ok(version) => return Plan::Running(version),
            Err(ref said) => said.clone(),
        };
        let by_hand = |cause: String, next_step: String| Plan::ByHand { cause, next_step };
        if let Some(chosen) = &self.chosen {
            return by_hand(
                format!("{said} ({chosen})"),
                "start the engine that it names, or unset it to use this machine's own".to_owned(),
            );
        }
        if said.contains("permission denied") {
            return by_hand(
                said,
                "add yourself to the group `docker` (`sudo usermod -aG docker $USER`) and log in again"
                    .to_owned(),
            );
        }
        let starter = if self.systemd {
            Starter::Systemd
        } else {
            Starter::Dockerd
        };
        let commands = self.commands(starter);
        if !self.allowed {
            return by_hand(
                format!("{said}; {SETTING}=never keeps agora from providing one"),
                commands,
            );
        }
        match (self.installed, self.linux && self.root, self.debian) {
            (true, true, _) => Plan::Start(starter),
            (false, true, true) => Plan::Install(starter),
            _ => by_hand(said, commands),
        }
    }

    /// The commands that provide an engine, as people type them.
    fn commands(&self, starter: Starter) -> String {
        let start = starter.command();
        match (self.linux, self.installed, self.debian) {
            (true, true, _) => format!("start it: `sudo {start}`"),
            (true, false, true) => {
                format!("install and start it: `sudo {INSTALL}`, `sudo {start}`")
            }
            (true, false, false) => format!(
                "install Docker Engine as https://docs.docker.com/engine/install/ describes, then `sudo {start}`"
            ),
            (false, ..) => {
                "install and start Docker Desktop (https://docs.docker.com/desktop/), or another engine that `docker` reaches"
                    .to_owned()
            }
        }
    }
}

/// What `up` would do now.
pub fn plan(project: &Project) -> anyhow::Result<Plan> {
    Ok(Facts::look(project)?.plan())
}

/// Provides an engine that answers. Before an installation `confirm` is asked, which refuses it with an error; nothing
/// is reported where an engine runs.
pub fn provide(
    project: &Project,
    confirm: impl FnOnce() -> anyhow::Result<()>,
    progress: &Progress,
) -> anyhow::Result<()> {
    match plan(project)? {
        Plan::Running(_) => return Ok(()),
        Plan::ByHand { cause, next_step } => return Err(outcome::unavailable(cause, next_step)),
        Plan::Start(_) => {}
        Plan::Install(_) => {
            confirm()?;
        }
    }
    progress.step("container engine", |step| {
        let _alone = Alone::wait(step)?;
        // Anew: another command may have provided it in the meantime.
        let (starter, installs) = match plan(project)? {
            Plan::Running(version) => {
                step.result(version);
                return Ok(());
            }
            Plan::ByHand { cause, next_step } => {
                return Err(outcome::unavailable(cause, next_step));
            }
            Plan::Start(starter) => (starter, false),
            Plan::Install(starter) => (starter, true),
        };
        if installs {
            install(project, step)?;
        }
        start(starter, step)
    })
}

fn install(project: &Project, step: &Step) -> anyhow::Result<()> {
    step.say(&format!("installing {PACKAGE}"));
    let apt = |args: &[&str], log: &str| {
        Call::new("apt-get")
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .limit(APT_LIMIT)
            .logged(&project.log(log), |line| step.update(line))
    };
    if let Err(error) = apt(&["update"], "engine-apt-update") {
        if error.is::<interrupt::Interrupted>() {
            return Err(error);
        }
        // One of several sources that doesn't answer fails it, although the package may be in the others.
        step.say(&format!(
            "the package lists could not all be updated: {error:#}"
        ));
    }
    apt(&["install", "--yes", PACKAGE], "engine-apt-install").map_err(|error| {
        if error.is::<interrupt::Interrupted>() {
            return error;
        }
        outcome::unavailable(
            format!("{PACKAGE} can't be installed: {error:#}"),
            "install Docker Engine as https://docs.docker.com/engine/install/ describes, then run this again",
        )
    })
}

fn start(starter: Starter, step: &Step) -> anyhow::Result<()> {
    step.say(&format!("starting the engine: `{}`", starter.command()));
    match starter {
        Starter::Systemd => start_by_systemd()?,
        Starter::Dockerd => start_dockerd()?,
    }
    step.result("started; `cargo xtask down --engine` stops it");
    Ok(())
}

fn start_by_systemd() -> anyhow::Result<()> {
    Call::new("systemctl")
        .args(["start", "docker"])
        .limit(ANSWERS_WITHIN)
        .read()
        .map_err(|error| {
            not_started(format!("{error:#}"), "`journalctl --unit docker` says why")
        })?;
    Started::Systemd {
        invocation: systemd_invocation()?,
    }
    .record()?;
    await_answer(
        || Ok(None),
        || "`journalctl --unit docker` says more".to_owned(),
    )
}

fn start_dockerd() -> anyhow::Result<()> {
    let log = state_folder()?.join("dockerd.log");
    let log_end = || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        let end = tail(said.trim(), LOG_LINES);
        format!("its log, {}, ends with:\n{end}", log.display())
    };
    if let Some(Started::Dockerd { .. }) = Started::running()? {
        // Never a second one beside it: the new one would take its bridge and its record.
        return await_answer(|| Ok(None), log_end);
    }
    let mut dockerd = spawn_dockerd(&log)?;
    let pid = dockerd.id();
    // Before it answers: this command may be killed meanwhile.
    if let Some(start_ticks) = start_ticks(pid) {
        Started::Dockerd { pid, start_ticks }.record()?;
    }
    let answered = await_answer(
        || {
            let ended = dockerd.try_wait()?;
            // dockerd's own guard against a second one: the first is about to answer, so this goes on waiting.
            let beside_another =
                || fs::read_to_string(&log).is_ok_and(|said| is_beside_another(&said));
            Ok(ended
                .filter(|_| !beside_another())
                .map(|status| format!("`dockerd` ended ({status}); {}", log_end())))
        },
        log_end,
    );
    if answered.is_err() {
        interrupt::set_aside(|| end(pid));
        match fs::remove_file(record_file()?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            // One that ended at once has none.
            _ => {}
        }
    }
    answered
}

fn not_started(cause: String, hint: &str) -> anyhow::Error {
    outcome::unavailable(
        cause,
        format!(
            "{hint}; start an engine yourself and try again ({SETTING}=never keeps agora from doing it)"
        ),
    )
}

fn spawn_dockerd(log: &Path) -> anyhow::Result<Child> {
    // The one before, in case somebody wants to know why it ended.
    if log.exists() {
        fs::rename(log, log.with_extension("log.old"))?;
    }
    let output =
        File::create(log).with_context(|| format!("failed to create {}", log.display()))?;
    // A session of its own: neither Ctrl-C nor a terminal that closes ends it.
    Command::new("setsid")
        .arg("dockerd")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .context("failed to start `setsid dockerd`")
}

/// Whether `dockerd` refused to start because another one runs, by the messages of version 20.10 and later.
fn is_beside_another(log: &str) -> bool {
    log.contains("is still running") || log.contains("ensure docker is not running")
}

/// Waits until the engine answers. `ended` says why it can't any more, `more` what is known where it simply doesn't.
fn await_answer(
    mut ended: impl FnMut() -> anyhow::Result<Option<String>>,
    more: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    let answered = wait::until(ANSWERS_WITHIN, TICK, || {
        match host::version() {
            Ok(_) => return Ok(Some(Ok(()))),
            Err(error) if error.is::<interrupt::Interrupted>() => return Err(error),
            Err(_) => {}
        }
        Ok(ended()?.map(Err))
    })?;
    let cause = match answered {
        Some(Ok(())) => return Ok(()),
        Some(Err(why)) => why,
        None => format!(
            "the engine was started and doesn't answer within {} s; {}",
            ANSWERS_WITHIN.as_secs(),
            more()
        ),
    };
    Err(not_started(cause, "remove the cause"))
}

/// An engine that agora started, and how it is known again.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
enum Started {
    /// systemd gives each run of a unit an id.
    Systemd { invocation: String },
    /// A process id alone may have been reused: with the time of the process's start, in clock ticks since the machine
    /// booted (proc(5), `starttime`), it is unique.
    Dockerd { pid: u32, start_ticks: u64 },
}

impl Started {
    fn record(&self) -> anyhow::Result<()> {
        let path = record_file()?;
        fs::write(&path, serde_json::to_vec(self)?)
            .with_context(|| format!("failed to write {}", path.display()))
    }

    /// The running engine, if agora started it.
    fn running() -> anyhow::Result<Option<Self>> {
        let path = record_file()?;
        let started: Self = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("failed to read {}", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("failed to read {}", path.display()));
            }
        };
        let runs = match &started {
            Self::Systemd { invocation } => {
                !invocation.is_empty() && systemd_invocation()? == *invocation
            }
            Self::Dockerd {
                pid,
                start_ticks: recorded,
            } => start_ticks(*pid) == Some(*recorded),
        };
        Ok(runs.then_some(started))
    }
}

/// Stops the engine if agora started it and it runs no container; `step` reports what was done.
pub fn stop(step: &Step) -> anyhow::Result<()> {
    let Some(started) = Started::running()? else {
        step.result("not started by agora: left as it is");
        return Ok(());
    };
    if let Some(chosen) = chosen() {
        step.result(format!(
            "{chosen} names another engine: both are left as they are"
        ));
        return Ok(());
    }
    let running = engine::docker(["ps", "--format", "{{.Names}}"]).read()?;
    let running: Vec<&str> = running.lines().collect();
    if !running.is_empty() {
        return Err(outcome::failed(
            format!("the engine runs other containers: {}", running.join(", ")),
            "stop them first; the engine keeps running",
        ));
    }
    match started {
        Started::Systemd { .. } => {
            // The socket would start it again with the next call.
            Call::new("systemctl")
                .args(["stop", "docker.socket", "docker.service"])
                .limit(ENDS_WITHIN)
                .read()?;
        }
        Started::Dockerd { pid, .. } => {
            if !end(pid) {
                return Err(outcome::failed(
                    format!(
                        "dockerd (process {pid}) did not end within {} s",
                        ENDS_WITHIN.as_secs()
                    ),
                    format!(
                        "its log is {}",
                        state_folder()?.join("dockerd.log").display()
                    ),
                ));
            }
        }
    }
    fs::remove_file(record_file()?)?;
    step.result("stopped");
    Ok(())
}

/// Ends a process with SIGTERM and waits until it is gone; whether it is.
fn end(pid: u32) -> bool {
    let Some(ticks) = start_ticks(pid) else {
        return true;
    };
    // One that ended in this moment makes `kill` fail: that's what was wanted.
    let _ = Call::new("kill").args(["-TERM", &pid.to_string()]).output();
    let gone = wait::until(ENDS_WITHIN, TICK, || {
        Ok((start_ticks(pid) != Some(ticks)).then_some(()))
    });
    matches!(gone, Ok(Some(())))
}

/// When the process was started; `None` when it is gone, or ended and nobody asked for its exit code yet.
fn start_ticks(pid: u32) -> Option<u64> {
    start_ticks_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 3 and 22 of `/proc/PID/stat` (proc(5)), counted from behind the name, which may contain anything.
fn start_ticks_in(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let ticks = fields.nth(18)?.parse().ok()?;
    (state != "Z").then_some(ticks)
}

fn systemd_invocation() -> anyhow::Result<String> {
    let said = Call::new("systemctl")
        .args(["show", "docker", "--property", "InvocationID", "--value"])
        .read()?;
    Ok(said.trim().to_owned())
}

/// The lock of the command that provides the engine, for this user: all clones use the one engine.
#[derive(Debug)]
struct Alone {
    _lock: File,
}

impl Alone {
    fn wait(step: &Step) -> anyhow::Result<Self> {
        let path = state_folder()?.join("lock");
        let lock =
            File::create(&path).with_context(|| format!("failed to open {}", path.display()))?;
        let taken = wait::until(SOMEBODY_ELSE_WITHIN, TICK, || match lock.try_lock() {
            Ok(()) => Ok(Some(())),
            Err(TryLockError::WouldBlock) => {
                step.update("another command provides it");
                Ok(None)
            }
            Err(TryLockError::Error(error)) => Err(error.into()),
        })?;
        match taken {
            Some(()) => Ok(Self { _lock: lock }),
            None => Err(outcome::unavailable(
                "another command has been providing the container engine for ten minutes",
                "wait for its end, or end it with Ctrl-C",
            )),
        }
    }
}

/// Where the engine's log and what is known of it are kept: for this user, as all clones use the one engine.
fn state_folder() -> anyhow::Result<PathBuf> {
    let folder = Project::cache()?.join("engine");
    fs::create_dir_all(&folder)
        .with_context(|| format!("failed to create {}", folder.display()))?;
    Ok(folder)
}

fn record_file() -> anyhow::Result<PathBuf> {
    Ok(state_folder()?.join("started.json"))
}

fn is_allowed(project: &Project) -> anyhow::Result<bool> {
    let settings = project.settings_from(&EnvFile::read(&project.env_file)?);
    match settings.get(SETTING) {
        None | Some("" | "auto") => Ok(true),
        Some("never") => Ok(false),
        Some(other) => Err(outcome::usage(
            format!("{SETTING}: `{other}` is not known"),
            "expected `auto` (start or install an engine where that is needed) or `never`",
        )),
    }
}

/// The engine that the user chose, as the client reads it.
fn chosen() -> Option<String> {
    let variable = |name: &str| {
        let value = env::var_os(name).filter(|value| !value.is_empty())?;
        Some(format!("{name}={}", value.to_string_lossy()))
    };
    let context = variable("DOCKER_CONTEXT");
    if context.as_deref() == Some("DOCKER_CONTEXT=default") {
        // It comes before the one that `docker context use` wrote.
        return variable("DOCKER_HOST");
    }
    variable("DOCKER_HOST").or(context).or_else(|| {
        let folder = env::var_os("DOCKER_CONFIG").map_or_else(
            || env::var_os("HOME").map(|home| Path::new(&home).join(".docker")),
            |folder| Some(PathBuf::from(folder)),
        )?;
        let text = fs::read_to_string(folder.join("config.json")).ok()?;
        chosen_context(&text).map(|name| format!("the context `{name}`"))
    })
}

/// The context that `docker context use` wrote, unless it is this machine's own engine.
fn chosen_context(config: &str) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        current_context: Option<String>,
    }
    let config: Config = serde_json::from_str(config).ok()?;
    config
        .current_context
        .filter(|name| !name.is_empty() && name != "default")
}

/// Whether os-release(5) tells of Debian or Ubuntu themselves: what their derivatives package is not known here.
fn is_debian(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID="))
        .any(|id| matches!(id.trim_matches(['"', '\'']), "debian" | "ubuntu"))
}

fn runs(program: &str, argument: &str) -> bool {
    Call::new(program)
        .args([argument])
        .limit(Duration::from_secs(15))
        .output()
        .is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Debian machine without an engine, as root.
    fn bare() -> Facts {
        Facts {
            answer: Err("`docker` is not installed".to_owned()),
            chosen: None,
            allowed: true,
            installed: false,
            root: true,
            linux: true,
            systemd: false,
            debian: true,
        }
    }

    fn next_step(facts: Facts) -> String {
        match facts.plan() {
            Plan::ByHand { next_step, .. } => next_step,
            other => panic!("{other:?} where nothing may be done"),
        }
    }

    #[test]
    fn what_is_installed_is_started_and_what_is_not_is_installed_first() {
        assert_eq!(bare().plan(), Plan::Install(Starter::Dockerd));
        let installed = Facts {
            installed: true,
            ..bare()
        };
        assert_eq!(installed.clone().plan(), Plan::Start(Starter::Dockerd));
        let systemd = Facts {
            systemd: true,
            ..installed.clone()
        };
        assert_eq!(systemd.plan(), Plan::Start(Starter::Systemd));
        let answers = Facts {
            answer: Ok("20.10.24".to_owned()),
            ..installed
        };
        assert_eq!(answers.plan(), Plan::Running("20.10.24".to_owned()));
    }

    #[test]
    fn where_nothing_may_be_done_the_commands_are_named() {
        let never = Facts {
            allowed: false,
            ..bare()
        };
        assert!(next_step(never).contains("apt-get install docker.io"));
        let not_root = Facts {
            root: false,
            ..bare()
        };
        assert!(next_step(not_root.clone()).contains("sudo apt-get install docker.io"));
        let only_stopped = Facts {
            installed: true,
            systemd: true,
            ..not_root
        };
        assert!(next_step(only_stopped).contains("sudo systemctl start docker"));
        let fedora = Facts {
            debian: false,
            ..bare()
        };
        assert!(next_step(fedora).contains("docs.docker.com/engine/install"));
        let mac = Facts {
            linux: false,
            debian: false,
            ..bare()
        };
        assert!(next_step(mac).contains("Docker Desktop"));
        let no_right = Facts {
            answer: Err("permission denied while trying to connect".to_owned()),
            installed: true,
            ..bare()
        };
        assert!(next_step(no_right).contains("usermod"));
    }

    #[test]
    fn an_engine_that_the_user_chose_is_never_replaced() {
        for chosen in ["DOCKER_HOST=tcp://10.0.0.1:2375", "the context `desktop`"] {
            let facts = Facts {
                chosen: Some(chosen.to_owned()),
                installed: true,
                ..bare()
            };
            match facts.plan() {
                Plan::ByHand { cause, .. } => assert!(cause.contains(chosen), "{cause}"),
                other => panic!("{other:?} instead of {chosen}"),
            }
        }
    }

    #[test]
    fn a_context_counts_as_chosen_unless_it_is_the_default() {
        assert_eq!(
            chosen_context(r#"{"auths":{},"currentContext":"remote"}"#).as_deref(),
            Some("remote")
        );
        assert_eq!(chosen_context(r#"{"currentContext":"default"}"#), None);
        assert_eq!(chosen_context("{}"), None);
    }

    #[test]
    fn debian_and_ubuntu_are_known_by_their_id() {
        assert!(is_debian("NAME=\"Debian GNU/Linux\"\nID=debian\n"));
        assert!(is_debian("ID=\"ubuntu\"\nID_LIKE=debian\n"));
        assert!(!is_debian("ID=fedora\n"));
        assert!(!is_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
    }

    #[test]
    fn a_process_is_known_by_the_time_of_its_start() {
        let stat = |state| {
            format!("7 (a) b) {state} 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 8421 17 3")
        };
        assert_eq!(start_ticks_in(&stat("S")), Some(8421));
        assert_eq!(start_ticks_in(&stat("Z")), None);
        assert_eq!(start_ticks_in(""), None);
        assert!(start_ticks(std::process::id()).is_some());
    }
}
