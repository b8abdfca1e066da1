//! Running xtask and docker: each call has a time limit, and what it wrote is part of every complaint about it.

use std::{env, ffi::OsString, path::Path, process::Output, time::Duration};

use duct::{Expression, Handle};
use serde_json::Value;

/// Enough for every call that doesn't put load on the system.
const LIMIT: Duration = Duration::from_secs(60);
/// xtask ends the load generator within 15 s once it is asked to end.
const END_WITHIN: Duration = Duration::from_secs(20);
/// As a shell has it: 128 and the number of SIGINT.
pub(crate) const EXIT_INTERRUPTED: i32 = 130;
/// The same of SIGHUP.
pub(crate) const EXIT_HUNG_UP: i32 = 129;

/// A program and its arguments.
pub(crate) struct Call {
    expression: Expression,
    what: String,
}

impl Call {
    /// A program on this machine.
    pub(crate) fn new<'a>(program: &str, args: impl IntoIterator<Item = &'a str>) -> Self {
        let args: Vec<&str> = args.into_iter().collect();
        Self {
            what: format!("`{program} {}`", args.join(" ")),
            expression: duct::cmd(program, args),
        }
    }

    /// The xtask binary, pointed at one system and untouched by this machine's own settings.
    pub(crate) fn xtask(project: &str, env_file: &Path, args: &[&str]) -> Self {
        Self::xtask_with(&[], project, env_file, args)
    }

    /// The same, with settings in its environment.
    pub(crate) fn xtask_with(
        settings: &[(&str, &str)],
        project: &str,
        env_file: &Path,
        args: &[&str],
    ) -> Self {
        let call = Self::new(env!("CARGO_BIN_EXE_xtask"), args.iter().copied());
        // The test systems run services of the same build.
        let environment = env::vars_os().filter(|(name, _)| {
            name == "AGORA_BUILD" || !name.to_string_lossy().starts_with("AGORA_")
        });
        let system = [
            (OsString::from("AGORA_PROJECT"), project.into()),
            (OsString::from("AGORA_ENV_FILE"), env_file.into()),
        ];
        let settings = settings
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Self {
            expression: call
                .expression
                .full_env(environment.chain(system).chain(settings)),
            ..call
        }
    }

    /// The xtask binary before a reader that goes after it has read so many lines; the exit code of xtask is what is
    /// written.
    pub(crate) fn xtask_before_a_reader(
        lines: usize,
        project: &str,
        env_file: &Path,
        args: &[&str],
    ) -> Self {
        let script = format!("\"$@\" | head -n {lines} >/dev/null; echo ${{PIPESTATUS[0]}}");
        let xtask = ["-c", &script, "bash", env!("CARGO_BIN_EXE_xtask")];
        let call = Self::new("bash", xtask.into_iter().chain(args.iter().copied()));
        Self {
            expression: call
                .expression
                .env("AGORA_PROJECT", project)
                .env("AGORA_ENV_FILE", env_file),
            ..call
        }
    }

    /// Runs it; it has a minute.
    #[track_caller]
    pub(crate) fn run(self) -> Ended {
        self.start().end_within(LIMIT)
    }

    /// Runs it where nothing may panic, which is in every drop: a panic during another one aborts all tests. It has a minute,
    /// too; whatever goes wrong, a failure of its own included, is the error.
    pub(crate) fn try_run(self) -> Result<Ended, String> {
        let ended = self.try_start()?.try_end_within(LIMIT)?;
        match ended.code {
            Some(0) => Ok(ended),
            _ => Err(ended.account()),
        }
    }

    /// Starts it.
    #[track_caller]
    pub(crate) fn start(self) -> Running {
        match self.try_start() {
            Ok(running) => running,
            Err(complaint) => panic!("{complaint}"),
        }
    }

    fn try_start(self) -> Result<Running, String> {
        let Self { expression, what } = self;
        let handle = expression
            .stdin_null()
            .stdout_capture()
            .stderr_capture()
            .unchecked()
            .start()
            .map_err(|error| format!("{what} can't be started: {error}"))?;
        Ok(Running { handle, what })
    }
}

/// Runs `docker` and returns what it wrote.
#[track_caller]
pub(crate) fn docker<'a>(args: impl IntoIterator<Item = &'a str>) -> String {
    Call::new("docker", args).run().expect_code(0).stdout
}

/// A program under way; asked to end when the test ends before it.
pub(crate) struct Running {
    handle: Handle,
    what: String,
}

impl Running {
    /// Whether it ended, or can't be asked: waiting for its end says why.
    pub(crate) fn is_over(&self) -> bool {
        !matches!(self.handle.try_wait(), Ok(None))
    }

    /// Panics with what it wrote when it is over already.
    #[track_caller]
    pub(crate) fn expect_running(&self) {
        if let Ok(Some(output)) = self.handle.try_wait() {
            panic!(
                "over too early: {}",
                Ended::new(&self.what, output).account()
            );
        }
    }

    /// Kills it: it has no say in how it ends.
    #[track_caller]
    pub(crate) fn kill(self, limit: Duration) -> Ended {
        self.end_by("-KILL", limit)
    }

    /// Presses Ctrl-C, and waits for its end.
    #[track_caller]
    pub(crate) fn interrupt(self, limit: Duration) -> Ended {
        self.end_by("-INT", limit)
    }

    /// Closes its terminal, and waits for its end.
    #[track_caller]
    pub(crate) fn hang_up(self, limit: Duration) -> Ended {
        self.end_by("-HUP", limit)
    }

    #[track_caller]
    fn end_by(self, signal: &str, limit: Duration) -> Ended {
        for pid in self.handle.pids() {
            Call::new("kill", [signal, &pid.to_string()])
                .run()
                .expect_code(0);
        }
        self.end_within(limit)
    }

    /// Waits for its end, whatever that is: for clearing up, where nothing may panic.
    pub(crate) fn let_end(self, limit: Duration) {
        let _ = self.handle.wait_timeout(limit);
    }

    /// Waits for its end; panics when that doesn't come in time.
    #[track_caller]
    pub(crate) fn end_within(self, limit: Duration) -> Ended {
        match self.try_end_within(limit) {
            Ok(ended) => ended,
            Err(complaint) => panic!("{complaint}"),
        }
    }

    fn try_end_within(self, limit: Duration) -> Result<Ended, String> {
        match self.handle.wait_timeout(limit) {
            Ok(Some(output)) => Ok(Ended::new(&self.what, output)),
            Ok(None) => {
                let limit = limit.as_secs();
                Err(format!("{} did not end within {limit} s", self.what))
            }
            Err(error) => Err(format!("{} can't be waited for: {error}", self.what)),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_over() {
            return;
        }
        for pid in self.handle.pids() {
            // A program that ended by itself meanwhile is just as well.
            let _ = duct::cmd!("kill", pid.to_string()).stderr_null().run();
        }
        let _ = self.handle.wait_timeout(END_WITHIN);
    }
}

/// A program that ended.
pub(crate) struct Ended {
    /// `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    what: String,
}

impl Ended {
    fn new(what: &str, output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            what: what.to_owned(),
        }
    }

    /// Passes it on when it ended with this code.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.account());
        self
    }

    /// Its standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.account()))
    }

    /// What ran and what it wrote.
    pub(crate) fn account(&self) -> String {
        format!(
            "{} ended with {:?}\nstdout: {}\nstderr: {}",
            self.what, self.code, self.stdout, self.stderr
        )
    }
}
