//! The engine's set-up from outside, and what an earlier command left in it, on machines whose engine is a script.

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use super::stderr;

/// A machine on which `docker` and `dockerd` are scripts, so that no test touches a real engine.
struct Machine {
    folder: tempfile::TempDir,
    /// Its own, as a project's system is set up by one command at a time.
    project: &'static str,
}

impl Machine {
    /// With an engine that is installed and doesn't run.
    fn with_stopped_engine(project: &'static str) -> Self {
        let machine = Self::bare(project);
        machine.install("docker");
        machine.install("dockerd");
        machine
    }

    /// Without an engine; `apt-get install` provides one.
    fn bare(project: &'static str) -> Self {
        let machine = Self {
            project,
            folder: tempfile::tempdir().unwrap(),
        };
        for folder in ["bin", "packages", "cache", "home"] {
            fs::create_dir(machine.path(folder)).unwrap();
        }
        let up = machine.path("up").display().to_string();
        let bin = machine.path("bin").display().to_string();
        let packages = machine.path("packages").display().to_string();
        machine.script(
            "packages/docker",
            &format!(
                r#"case "$1" in --version) exit 0;; esac
for hang in {bin}/../hang1 {bin}/../hang2; do
    [ ! -e $hang ] || {{ rm $hang; echo "Cannot connect to the Docker daemon" >&2; exit 1; }}
done
[ -e {up} ] || {{ echo "Cannot connect to the Docker daemon" >&2; exit 1; }}
case "$1" in
version) echo 99.1;;
compose) echo 2.40.0;;
ps) [ -z "$FAIL_AT_PS" ] || {{ echo "far enough" >&2; exit 1; }};;
esac"#
            ),
        );
        machine.script(
            "packages/dockerd",
            &format!(
                r#"case "$1" in --version) exit 0;; esac
trap 'rm -f {up}; exit 0' TERM
echo "$$" >> {bin}/../starts
touch {up}
sleep 60 & wait"#
            ),
        );
        // Where systemd is the init system it is asked to start the engine.
        machine.script(
            "bin/systemctl",
            &format!(
                r#"case "$1" in
start) touch {up};;
stop) rm -f {up};;
show) [ ! -e {up} ] || echo 0123456789abcdef;;
esac"#
            ),
        );
        machine.script(
            "bin/apt-get",
            &format!(
                r#"case "$1" in
install) echo "$@" >> {packages}/log; cp {packages}/docker {packages}/dockerd {bin};;
esac"#
            ),
        );
        machine.script("bin/id", "echo 0");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn install(&self, program: &str) {
        fs::copy(
            self.path("packages").join(program),
            self.path("bin").join(program),
        )
        .unwrap();
    }

    /// Runs xtask on it. Everything that `up` does after its first question to the engine is left out.
    fn xtask(&self, args: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
        self.in_place(&mut xtask);
        xtask
            .args(args)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .expect("failed to start xtask")
    }

    /// Runs xtask on it, on a terminal on which this is typed; returns what stands there in the end.
    fn on_a_terminal(&self, args: &str, typed: &str) -> String {
        let xtask = format!("'{}' {args}", env!("CARGO_BIN_EXE_xtask"));
        let mut terminal = Command::new("/usr/bin/script");
        terminal.args(["--quiet", "--command", &xtask, "/dev/null"]);
        self.in_place(&mut terminal);
        let mut terminal = terminal
            .env("FAIL_AT_PS", "1")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("failed to start script");
        let mut input = terminal.stdin.take().unwrap();
        input.write_all(typed.as_bytes()).unwrap();
        drop(input);
        let shown = terminal.wait_with_output().unwrap();
        String::from_utf8_lossy(&shown.stdout).into_owned()
    }

    /// Has a command find this machine's programs, and none of the real one's but the basic ones.
    fn in_place(&self, command: &mut Command) {
        // The basic tools, without an engine that this machine may really have.
        let tools = self.path("tools");
        if !tools.exists() {
            fs::create_dir(&tools).unwrap();
            for tool in [
                "bash", "cat", "cp", "df", "kill", "rm", "setsid", "sh", "sleep", "touch",
            ] {
                let found = ["/usr/bin", "/bin"]
                    .map(|folder| Path::new(folder).join(tool))
                    .into_iter()
                    .find(|path| path.exists());
                std::os::unix::fs::symlink(found.expect(tool), tools.join(tool)).unwrap();
            }
        }
        command
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT")
            .env_remove("DOCKER_CONFIG")
            .env_remove("AGORA_ENGINE_SETUP")
            .env("HOME", self.path("home"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("AGORA_ENV_FILE", self.path(".env"))
            .env("AGORA_PROJECT", self.project)
            .env(
                "PATH",
                std::env::join_paths([self.path("bin"), tools]).unwrap(),
            );
    }

    fn engine_runs(&self) -> bool {
        self.path("up").exists()
    }
}

#[test]
fn an_engine_that_does_not_run_is_started_and_only_that_one_is_stopped() {
    let machine = Machine::with_stopped_engine("agora-nobody-2");
    let doctor = machine.xtask(&["doctor"], &[]);
    assert!(
        String::from_utf8_lossy(&doctor.stdout).contains("`up` starts it"),
        "{doctor:?}"
    );
    assert!(!machine.engine_runs(), "doctor only looks");

    let up = machine.xtask(&["up"], &[("FAIL_AT_PS", "1")]);
    assert!(
        stderr(&up).contains("✓ container engine: started"),
        "{}",
        stderr(&up)
    );
    assert!(stderr(&up).contains("far enough"), "{}", stderr(&up));
    assert!(machine.engine_runs(), "it keeps running after `up`");
    // Another `up` finds it running.
    let again = machine.xtask(&["up"], &[("FAIL_AT_PS", "1")]);
    assert!(
        !stderr(&again).contains("container engine:"),
        "{}",
        stderr(&again)
    );

    let down = machine.xtask(&["down"], &[]);
    assert_eq!(down.status.code(), Some(0), "{}", stderr(&down));
    assert!(machine.engine_runs(), "`down` alone leaves it");
    let down = machine.xtask(&["down", "--engine"], &[]);
    assert_eq!(down.status.code(), Some(0), "{}", stderr(&down));
    assert!(!machine.engine_runs(), "{}", stderr(&down));

    // One that somebody else started.
    fs::write(machine.path("up"), "").unwrap();
    let down = machine.xtask(&["down", "--engine"], &[]);
    assert_eq!(down.status.code(), Some(0), "{}", stderr(&down));
    assert!(
        stderr(&down).contains("not started by agora"),
        "{}",
        stderr(&down)
    );
    assert!(machine.engine_runs());
}

#[test]
fn an_engine_that_hangs_is_waited_for_and_no_second_one_is_started() {
    let machine = Machine::with_stopped_engine("agora-nobody-6");
    machine.xtask(&["up"], &[("FAIL_AT_PS", "1")]);
    // It is asked once whether it runs, and once more when nobody else can start it any more.
    for hang in ["hang1", "hang2"] {
        fs::write(machine.path(hang), "").unwrap();
    }
    let up = machine.xtask(&["up"], &[("FAIL_AT_PS", "1")]);
    assert!(!machine.path("hang2").exists(), "{}", stderr(&up));
    assert!(stderr(&up).contains("far enough"), "{}", stderr(&up));
    let starts = fs::read_to_string(machine.path("starts")).unwrap();
    assert_eq!(starts.lines().count(), 1, "{}", stderr(&up));
    let down = machine.xtask(&["down", "--engine"], &[]);
    assert_eq!(down.status.code(), Some(0), "{}", stderr(&down));
    assert!(!machine.engine_runs(), "it is still known as agora's");
}

/// Whether this is a distribution on which an engine is installed.
fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let mut lines = release.lines();
    lines.any(|line| ["ID=debian", "ID=ubuntu"].contains(&line.replace('"', "").as_str()))
}

#[test]
fn a_machine_without_an_engine_gets_one_where_it_may() {
    let machine = Machine::bare("agora-nobody-1");
    let up = machine.xtask(&["up"], &[("FAIL_AT_PS", "1")]);
    if !is_debian() {
        assert_eq!(up.status.code(), Some(3), "{}", stderr(&up));
        assert!(stderr(&up).contains("docs.docker.com"), "{}", stderr(&up));
        return;
    }
    // It says so first, asks nobody without a terminal, and does both.
    assert!(
        stderr(&up).contains("no container engine is installed"),
        "{}",
        stderr(&up)
    );
    let installed = fs::read_to_string(machine.path("packages/log")).unwrap();
    assert_eq!(installed.trim(), "install --yes docker.io");
    assert!(machine.engine_runs(), "{}", stderr(&up));
    machine.xtask(&["down", "--engine"], &[]);
    assert!(!machine.engine_runs());
}

#[test]
fn on_a_terminal_consent_is_asked_for_unless_it_was_given_beforehand() {
    if !is_debian() {
        return;
    }
    for (args, typed, is_installed) in [
        ("up", "n\n", false),
        ("up", "y\n", true),
        ("up --yes", "", true),
    ] {
        let machine = Machine::bare("agora-nobody-8");
        let shown = machine.on_a_terminal(args, typed);
        assert!(
            shown.contains("no container engine is installed"),
            "{shown}"
        );
        let is_asked = shown.contains("Install it now?");
        assert_eq!(is_asked, !args.contains("--yes"), "{args}: {shown}");
        assert_eq!(
            machine.path("packages/log").exists(),
            is_installed,
            "{args}: {shown}"
        );
        assert_eq!(machine.engine_runs(), is_installed, "{args}: {shown}");
        machine.xtask(&["down", "--engine"], &[]);
        assert!(!machine.engine_runs());
    }
}

#[test]
fn nothing_is_provided_where_the_user_forbade_it_or_chose_another_engine() {
    let machine = Machine::with_stopped_engine("agora-nobody-3");
    for (name, value, expected) in [
        ("AGORA_ENGINE_SETUP", "never", "AGORA_ENGINE_SETUP=never"),
        ("DOCKER_HOST", "tcp://127.0.0.1:1", "tcp://127.0.0.1:1"),
        ("DOCKER_CONTEXT", "elsewhere", "DOCKER_CONTEXT=elsewhere"),
    ] {
        let up = machine.xtask(&["up"], &[(name, value)]);
        assert_eq!(up.status.code(), Some(3), "{name}: {}", stderr(&up));
        assert!(stderr(&up).contains(expected), "{name}: {}", stderr(&up));
        assert!(!machine.engine_runs(), "{name}");
    }
    let typing_error = machine.xtask(&["up"], &[("AGORA_ENGINE_SETUP", "nevr")]);
    assert_eq!(typing_error.status.code(), Some(2));
    assert!(!machine.engine_runs());
    let down = machine.xtask(&["down"], &[("AGORA_ENGINE_SETUP", "never")]);
    assert_eq!(down.status.code(), Some(3), "{}", stderr(&down));
}

#[test]
fn an_engine_that_ends_at_once_is_shown_with_the_end_of_its_log() {
    let machine = Machine::with_stopped_engine("agora-nobody-4");
    if Path::new("/run/systemd/system").is_dir() {
        // systemd keeps the log there.
        return;
    }
    machine.script(
        "bin/dockerd",
        r#"case "$1" in --version) exit 0;; esac
echo "no space left on device"; exit 1"#,
    );
    let up = machine.xtask(&["up"], &[]);
    assert_eq!(up.status.code(), Some(3), "{}", stderr(&up));
    assert!(
        stderr(&up).contains("no space left on device"),
        "{}",
        stderr(&up)
    );
}

#[test]
fn a_run_on_one_system_removes_the_second_one_of_a_killed_run() {
    let machine = Machine::with_stopped_engine("agora-nobody-7");
    machine.script(
        "bin/docker",
        r#"case "$1 $2" in
"version "*) echo 99.1;;
"volume ls") case "$*" in *=agora-nobody-7-test-2) echo left-over;; esac;;
"volume inspect") echo '[{"Name": "left-over", "Labels": null}]';;
"volume rm") echo "far enough: $3" >&2; exit 1;;
esac"#,
    );
    let test = machine.xtask(&["test", "a_name"], &[]);
    let said = stderr(&test);
    assert!(said.contains("removing an earlier test system"), "{said}");
    assert!(said.contains("far enough: left-over"), "{said}");
}
