//! Runs other programs: each call has a time limit, ends on Ctrl-C, and its process group ends with this process.
//!
//! After SIGKILL this process can end nothing: a program that would then run for long is started with
//! [`Call::while_we_live`].
//!
//! Left out: signals to this process ([`crate::interrupt`]).

use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Seek, SeekFrom},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Output},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use base::outcome;
use duct::Expression;
use signal_hook::consts::SIGPIPE;

use crate::interrupt::{self, Groups, Interrupted};

/// How often a running call is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long a program may take to end after it was asked to, before it is killed.
const TERMINATION_GRACE: Duration = Duration::from_secs(15);
/// A longer line is passed on in parts: nobody has to keep it.
const LONGEST_LINE_BYTES: u64 = 256 * 1024;
/// How many lines of a failed program's output an error repeats.
const TAIL_LINES: usize = 25;

/// A program to run.
#[derive(Debug, Clone)]
pub struct Call {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    env_removed: Vec<OsString>,
    dir: Option<PathBuf>,
    limit: Duration,
    first_output_limit: Option<Duration>,
    end_signal: &'static str,
    input: Input,
}

/// What a program reads from its standard input.
#[derive(Clone, PartialEq, Eq)]
enum Input {
    Nothing,
    /// This text.
    Text(String),
    /// Nothing, and its end only when this process ends.
    WhileWeLive,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            // It may be a secret.
            Self::Text(_) => "Text",
            Self::WhileWeLive => "WhileWeLive",
        })
    }
}

impl Call {
    /// A call of `program`, with a limit of a minute.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            env_removed: Vec::new(),
            dir: None,
            limit: Duration::from_secs(60),
            first_output_limit: None,
            end_signal: "-TERM",
            input: Input::Nothing,
        }
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable for the child alone.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Keeps a variable of this process from the child.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env_removed.push(name.as_ref().to_owned());
        self
    }

    /// Runs in this folder.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Ends the program after this time.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Ends a [`Call::logged`] program that wrote nothing for this long after its start.
    pub(crate) fn first_output_within(mut self, limit: Duration) -> Self {
        self.first_output_limit = Some(limit);
        self
    }

    /// Ends it with SIGINT instead of SIGTERM, for programs that write their results then.
    pub fn ended_by_sigint(mut self) -> Self {
        self.end_signal = "-INT";
        self
    }

    /// Gives it a standard input that ends with this process, even with a killed one. It has to look there.
    pub fn while_we_live(mut self) -> Self {
        self.input = Input::WhileWeLive;
        self
    }

    /// Gives it this text on its standard input: no argument and no file then holds it.
    pub(crate) fn reading(mut self, text: String) -> Self {
        self.input = Input::Text(text);
        self
    }

    /// Starts it and doesn't wait: it runs until what is returned is dropped, or this process ends. Its output goes to the file
    /// `log`.
    pub(crate) fn start(&self, log: &Path) -> anyhow::Result<Background> {
        let file = log_file(log)?;
        // A program that doesn't look at its standard input ends with a shell that does.
        let script = r#"exec 3<&0
            "$0" "$@" </dev/null 3<&- & program=$!
            { cat <&3 >/dev/null; kill $program; } & watcher=$!
            wait $program; code=$?
            kill $watcher; exit $code"#;
        let under_shell = Self {
            program: "sh".into(),
            args: ["-c".into(), script.into(), self.program.clone()]
                .into_iter()
                .chain(self.args.iter().cloned())
                .collect(),
            input: Input::WhileWeLive,
            ..self.clone()
        };
        let expression = under_shell.expression();
        let expression = expression.stderr_to_stdout().stdout_file(file);
        under_shell.started(&expression).map(Background)
    }

    /// Runs it and returns its output and status, successful or not.
    pub fn output(&self) -> anyhow::Result<Output> {
        self.supervise(&self.expression().stdout_capture().stderr_capture(), |_| {
            Ok(())
        })
    }

    /// Runs it and returns its standard output; a failure is an error with the end of its output.
    pub fn read(&self) -> anyhow::Result<String> {
        let output = self.output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(anyhow!(
                "`{}` failed ({}): {}",
                self,
                output.status,
                tail(said.trim(), TAIL_LINES)
            ));
        }
        String::from_utf8(output.stdout)
            .with_context(|| format!("`{self}` wrote something that isn't UTF-8"))
    }

    /// Runs it with its standard error on this process's own; returns its standard output and its exit code, `None`
    /// after a signal.
    pub(crate) fn read_beside_stderr(&self) -> anyhow::Result<(String, Option<i32>)> {
        let output = self.supervise(&self.expression().stdout_capture(), |_| Ok(()))?;
        let text = String::from_utf8(output.stdout)
            .with_context(|| format!("`{self}` wrote something that isn't UTF-8"))?;
        Ok((text, output.status.code()))
    }

    /// Runs it with its output on this process's own and returns its exit code; `None` after a signal.
    pub fn run_visibly(&self) -> anyhow::Result<Option<i32>> {
        code_unless_unread(self.supervise(&self.expression(), |_| Ok(()))?.status)
    }

    /// Runs it with each line that it writes to standard output and to standard error given to one of these. Returns
    /// its exit code; `None` after a signal.
    pub fn run_by_line(
        &self,
        on_stdout: impl Fn(&str) + Send,
        on_stderr: impl Fn(&str) + Send,
    ) -> anyhow::Result<Option<i32>> {
        let (out, out_end) = io::pipe()?;
        let (err, err_end) = io::pipe()?;
        thread::scope(|scope| {
            scope.spawn(move || each_line(out, on_stdout));
            scope.spawn(move || each_line(err, on_stderr));
            let expression = self.expression().stdout_file(out_end).stderr_file(err_end);
            let output = self.supervise(&expression, |_| Ok(()));
            // The readers see the end once all that could write has let go.
            drop(expression);
            code_unless_unread(output?.status)
        })
    }

    /// Runs it with all output in the file `log`, each new line also given to `on_line`.
    pub fn logged(&self, log: &Path, mut on_line: impl FnMut(&str)) -> anyhow::Result<()> {
        let file = log_file(log)?;
        let mut lines = Follower {
            file: File::open(log)?,
            position: 0,
            partial: String::new(),
        };
        let mut quiet = true;
        let output = self.supervise(
            &self.expression().stderr_to_stdout().stdout_file(file),
            |running| {
                lines.new_lines(|line| {
                    quiet = false;
                    on_line(line);
                })?;
                match self.first_output_limit {
                    Some(limit) if quiet && running > limit => {
                        Err(anyhow!("`{self}` said nothing for {} s", limit.as_secs()))
                    }
                    _ => Ok(()),
                }
            },
        )?;
        lines.new_lines(&mut on_line)?;
        if output.status.success() {
            return Ok(());
        }
        let said = std::fs::read_to_string(log).unwrap_or_default();
        Err(outcome::failed(
            format!(
                "`{self}` failed ({}):\n{}",
                output.status,
                tail(said.trim(), TAIL_LINES)
            ),
            format!("read all of it in {}", log.display()),
        ))
    }

    fn expression(&self) -> Expression {
        let mut expression = duct::cmd(&self.program, &self.args);
        // What is nearer to the command wins: a variable that is set here stays, even if this process's own is
        // to be removed.
        for (name, value) in &self.env {
            expression = expression.env(name, value);
        }
        for name in &self.env_removed {
            expression = expression.env_remove(name);
        }
        if let Some(dir) = &self.dir {
            expression = expression.dir(dir);
        }
        expression
    }

    /// Starts `expression` in a process group of its own, so that a Ctrl-C on the terminal reaches this
    /// process alone, which then ends the whole group in its own order.
    fn supervise(
        &self,
        expression: &Expression,
        mut tick: impl FnMut(Duration) -> anyhow::Result<()>,
    ) -> anyhow::Result<Output> {
        let started = Instant::now();
        let mut running = self.started(expression)?;
        loop {
            if let Some(output) = running
                .handle
                .wait_timeout(TICK)
                .with_context(|| format!("failed to wait for `{self}`"))?
            {
                running.over = true;
                // The second Ctrl-C kills it, and this process is about to end.
                if output.status.signal().is_some() && interrupt::requested() {
                    return Err(Interrupted.into());
                }
                return Ok(output.clone());
            }
            if interrupt::requested() {
                return Err(Interrupted.into());
            }
            if started.elapsed() > self.limit {
                return Err(anyhow!(
                    "`{self}` did not end within {} s",
                    self.limit.as_secs()
                ));
            }
            tick(started.elapsed())?;
        }
    }

    fn started(&self, expression: &Expression) -> anyhow::Result<Running> {
        if interrupt::requested() {
            return Err(Interrupted.into());
        }
        let (expression, life) = self.with_input(expression)?;
        let handle = expression
            .unchecked()
            .before_spawn(|command| {
                command.process_group(0);
                Ok(())
            })
            .start()
            .map_err(|error| self.not_started(&error))?;
        Ok(Running {
            groups: Groups::of(handle.pids()),
            handle,
            end_signal: self.end_signal,
            over: false,
            _life: life,
        })
    }

    /// With its standard input, and what keeps that open.
    fn with_input(&self, expression: &Expression) -> io::Result<(Expression, Option<PipeWriter>)> {
        Ok(match &self.input {
            Input::Nothing => (expression.stdin_null(), None),
            Input::Text(text) => (expression.stdin_bytes(text.as_str()), None),
            Input::WhileWeLive => {
                let (input, life) = io::pipe()?;
                (expression.stdin_file(input), Some(life))
            }
        })
    }

    fn not_started(&self, error: &std::io::Error) -> anyhow::Error {
        let program = self.program.to_string_lossy();
        if error.kind() == std::io::ErrorKind::NotFound {
            outcome::unavailable(
                format!("`{program}` is not installed"),
                "`cargo xtask doctor` lists what is needed and how to get it",
            )
        } else {
            anyhow!("failed to start `{program}`: {error}")
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program.to_string_lossy())?;
        for arg in &self.args {
            write!(f, " {}", arg.to_string_lossy())?;
        }
        Ok(())
    }
}

/// The last `count` lines of a text.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The file for a program's output, new and empty.
fn log_file(log: &Path) -> anyhow::Result<File> {
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("failed to create {}", folder.display()))?;
    }
    File::create(log).with_context(|| format!("failed to create {}", log.display()))
}

/// A program that nobody waits for.
pub(crate) struct Background(Running);

impl Background {
    /// Whether it still runs.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.0.handle.try_wait(), Ok(None))
    }
}

/// A program that runs. Dropping it ends its whole process group, politely first, then for good: whatever error or
/// panic ends this process's interest in it, it doesn't go on by itself.
struct Running {
    handle: duct::Handle,
    groups: Groups,
    end_signal: &'static str,
    over: bool,
    /// The other end of its standard input.
    _life: Option<PipeWriter>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        for (signal, grace) in [
            (self.end_signal, TERMINATION_GRACE),
            ("-KILL", Duration::from_secs(5)),
        ] {
            self.groups.signal(signal);
            if matches!(self.handle.wait_timeout(grace), Ok(Some(_))) {
                return;
            }
        }
    }
}

/// The exit code; the end of this process where the program ended because nobody reads what they write.
fn code_unless_unread(status: ExitStatus) -> anyhow::Result<Option<i32>> {
    if status.signal() == Some(SIGPIPE) {
        interrupt::closed();
        return Err(Interrupted.into());
    }
    Ok(status.code())
}

/// Reads to the end, whatever becomes of the lines: else whoever writes them would wait.
fn each_line(from: PipeReader, mut on_line: impl FnMut(&str)) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = from
            .by_ref()
            .take(LONGEST_LINE_BYTES)
            .read_until(b'\n', &mut line);
        // Nothing more can be read after an error either.
        if !matches!(read, Ok(1..)) {
            return;
        }
        let text = String::from_utf8_lossy(&line);
        on_line(text.strip_suffix('\n').unwrap_or(&text));
    }
}

/// Reads what another process appends to a file.
struct Follower {
    file: File,
    position: u64,
    partial: String,
}

impl Follower {
    fn new_lines(&mut self, mut on_line: impl FnMut(&str)) -> anyhow::Result<()> {
        let mut fresh = Vec::new();
        self.file.seek(SeekFrom::Start(self.position))?;
        self.position += self.file.read_to_end(&mut fresh)? as u64;
        self.partial.push_str(&String::from_utf8_lossy(&fresh));
        while let Some(end) = self.partial.find('\n') {
            let line: String = self.partial.drain(..=end).collect();
            if !line.trim().is_empty() {
                on_line(line.trim_end());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_over_its_limit_is_ended_with_its_children() {
        let started = Instant::now();
        let call = Call::new("sh")
            .args(["-c", "sleep 30 & sleep 30"])
            .limit(Duration::from_millis(200));
        let error = call.output().unwrap_err().to_string();
        assert!(error.contains("did not end within"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_program_in_the_background_ends_with_the_interest_in_it_or_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let start = |script: &str| Call::new("sh").args(["-c", script]).start(&log).unwrap();
        let until = |what: &str, is_so: &dyn Fn() -> bool| {
            let limit = Duration::from_secs(10);
            let so = crate::wait::until(limit, TICK, || Ok(is_so().then_some(())));
            assert!(so.unwrap().is_some(), "{what}");
        };
        let short = start("echo said; exit 3");
        until("ends by itself", &|| !short.is_running());
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "said\n");

        let long = start("echo $$; exec sleep 60");
        let pid = || std::fs::read_to_string(&log).unwrap().trim().to_owned();
        until("says its id", &|| !pid().is_empty());
        let process = Path::new("/proc").join(pid());
        assert!(long.is_running() && process.is_dir());
        drop(long);
        until("ends with the interest", &|| !process.is_dir());
    }

    #[test]
    fn a_program_does_not_outlive_an_interest_that_ends_in_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let (pid, log) = (folder.path().join("pid"), folder.path().join("log"));
        let script = format!("echo $$ >{}; echo started; sleep 30", pid.display());
        let call = Call::new("sh").args(["-c", &script]);
        let logged = std::panic::catch_unwind(|| call.logged(&log, |_| panic!("seen")));
        assert!(logged.is_err());
        let pid = std::fs::read_to_string(pid).unwrap();
        let still_there = duct::cmd!("kill", "-0", pid.trim()).stderr_null().run();
        assert!(still_there.is_err());
    }

    #[test]
    fn a_program_that_is_tied_to_this_process_has_an_input_that_stays_open() {
        let call = Call::new("sh")
            .args(["-c", "cat; echo over"])
            .limit(Duration::from_millis(300));
        let error = call.clone().while_we_live().read().unwrap_err().to_string();
        assert!(error.contains("did not end within"), "{error}");
        assert_eq!(call.read().unwrap().trim(), "over");
    }

    #[test]
    fn a_variable_that_is_set_stays_where_this_process_own_is_removed() {
        let call = Call::new("sh")
            .args(["-c", "echo $AGORA_SET"])
            .env("AGORA_SET", "here")
            .env_remove("AGORA_SET");
        assert_eq!(call.read().unwrap().trim(), "here");
    }

    #[test]
    fn a_failed_program_is_reported_with_what_it_said() {
        let error = Call::new("sh")
            .args(["-c", "echo no such luck >&2; exit 3"])
            .read()
            .unwrap_err()
            .to_string();
        assert!(error.contains("no such luck"), "{error}");
    }

    #[test]
    fn a_missing_program_is_an_unavailable_tool() {
        let error = Call::new("agora-no-such-program").read().unwrap_err();
        let failure = error.downcast_ref::<outcome::Failure>().unwrap();
        assert_eq!(failure.exit, outcome::Exit::Unavailable);
    }

    #[test]
    fn a_logged_program_gives_its_lines_as_they_come() {
        let folder = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        let call = Call::new("sh").args(["-c", "echo one; echo two >&2"]);
        call.logged(&folder.path().join("deep/log"), |line| {
            seen.push(line.to_owned())
        })
        .unwrap();
        assert_eq!(seen, ["one", "two"]);
    }

    #[test]
    fn a_program_that_must_speak_up_soon_is_ended_when_it_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let call = Call::new("sleep")
            .args(["30"])
            .first_output_within(Duration::from_millis(150));
        let error = call
            .logged(&folder.path().join("log"), |_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains("said nothing"), "{error}");
    }

    #[test]
    fn a_tail_keeps_the_last_lines() {
        assert_eq!(tail("a\nb\nc", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }
}
