//! How commands end that somebody or something ends before their time: by a signal, or because nobody reads what they
//! write. And what reaches the terminal of what others wrote. A program takes the engine's place here.

#![expect(
    clippy::unwrap_used,
    reason = "a test that fails here has nothing more to say"
)]

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// A program that is told to end has 15 s before it is killed.
const ENDED_WITHIN: Duration = Duration::from_secs(10);
/// The engine's answer doesn't come.
const NEVER: &str =
    r#"echo $$ >"$(dirname "$0")/pids"; sleep 300 & echo $! >>"$(dirname "$0")/pids"; wait"#;
/// The same, and it doesn't want to end.
const STUBBORN: &str =
    r#"trap '' TERM INT HUP; echo $$ >"$(dirname "$0")/pids"; sleep 300; sleep 300"#;

/// A folder with a program that is called `docker`.
struct Engine {
    folder: TempDir,
}

impl Engine {
    fn that(does: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("docker");
        fs::write(&program, format!("#!/bin/sh\n{does}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn xtask(&self, args: &[&str]) -> Command {
        let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
        self.in_place(xtask.args(args));
        xtask
    }

    fn in_place(&self, xtask: &mut Command) {
        let path = std::env::var("PATH").unwrap();
        xtask
            .env("PATH", format!("{}:{path}", self.folder.path().display()))
            .env("AGORA_PROJECT", "agora-nobody")
            // The one of this machine is nobody's to start here.
            .env("AGORA_ENGINE_SETUP", "never")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }

    /// The processes that were started in the engine's place.
    fn pids(&self) -> Vec<String> {
        let pids = fs::read_to_string(self.folder.path().join("pids")).unwrap_or_default();
        pids.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn wait_until_asked(&self) {
        wait_until("the engine is asked", || {
            let pids = fs::read_to_string(self.folder.path().join("pids")).unwrap_or_default();
            pids.ends_with('\n')
        });
    }

    #[track_caller]
    fn expect_gone(&self) {
        let pids = self.pids();
        assert!(!pids.is_empty());
        for pid in pids {
            // One whose parent has gone is a zombie until somebody looks after it.
            wait_until("a child is gone", || !is_alive(&pid));
        }
    }
}

fn is_alive(pid: &str) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(pid).join("status"));
    status.is_ok_and(|status| !status.contains("\nState:\tZ"))
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < ENDED_WITHIN, "in vain: {what}");
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two looks of a bounded wait"
)]
fn pause() {
    thread::sleep(Duration::from_millis(20));
}

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

#[track_caller]
fn end(child: &mut Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > ENDED_WITHIN {
            child.kill().unwrap();
            panic!("it did not end");
        }
        pause();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn whatever_asks_a_command_to_end_its_children_are_gone_then() {
    for (signal, code) in [("-INT", 130), ("-HUP", 129), ("-TERM", 143), ("-QUIT", 131)] {
        let engine = Engine::that(NEVER);
        let mut status = engine.xtask(&["status"]).spawn().unwrap();
        engine.wait_until_asked();
        send(signal, &status);
        assert_eq!(end(&mut status).code(), Some(code), "{signal}");
        engine.expect_gone();
    }
}

/// The kernel and the shell each send one.
#[test]
fn a_terminal_that_is_closed_is_no_second_ctrl_c() {
    let engine = Engine::that(NEVER);
    let mut status = engine.xtask(&["status"]).spawn().unwrap();
    engine.wait_until_asked();
    send("-HUP", &status);
    send("-HUP", &status);
    assert_eq!(end(&mut status).code(), Some(129));
    let mut said = String::new();
    status
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(said.ends_with("interrupted\n"), "it broke off: {said}");
    engine.expect_gone();
}

#[test]
fn the_second_ctrl_c_waits_for_nobody_and_leaves_nobody() {
    let engine = Engine::that(STUBBORN);
    let mut status = engine.xtask(&["status"]).spawn().unwrap();
    engine.wait_until_asked();
    send("-INT", &status);
    // Two at once may arrive as one.
    wait_until("the second one is heeded", || {
        send("-INT", &status);
        pause();
        status.try_wait().unwrap().is_some()
    });
    assert_eq!(end(&mut status).code(), Some(130));
    engine.expect_gone();
}

#[test]
fn a_command_under_nohup_goes_on_without_its_terminal() {
    let engine = Engine::that(NEVER);
    let mut status = Command::new("sh");
    status.args([
        "-c",
        "trap '' HUP; exec \"$0\" status",
        env!("CARGO_BIN_EXE_xtask"),
    ]);
    engine.in_place(&mut status);
    let mut status = status.spawn().unwrap();
    engine.wait_until_asked();
    send("-HUP", &status);
    send("-TERM", &status);
    assert_eq!(
        end(&mut status).code(),
        Some(143),
        "what counts is the SIGTERM"
    );
    engine.expect_gone();
}

#[test]
fn what_others_wrote_is_shown_without_what_a_terminal_obeys() {
    let engine = Engine::that(r"printf '\033]0;owned\007\302\233 lost\r\n' >&2; exit 1");
    let output = engine.xtask(&["status"]).output().unwrap();
    let said = text(&output.stderr);
    assert!(
        said.contains(r"\u001b]0;owned\u0007\u009b lost"),
        "{said:?}"
    );
    assert!(
        !said.contains(['\u{1b}', '\u{7}', '\u{9b}', '\r']),
        "{said:?}"
    );
    let output = engine
        .xtask(&["status", "--format", "json"])
        .output()
        .unwrap();
    let said = text(&output.stdout);
    assert!(
        !said.contains(['\u{1b}', '\u{7}', '\u{9b}', '\r']),
        "{said:?}"
    );
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let error = report["error"].as_str().unwrap();
    assert!(
        error.contains("\u{1b}]0;owned\u{7}\u{9b} lost"),
        "{error:?}"
    );
}

/// Commands that write a result where no system runs.
const SPEAKING: [&[&str]; 5] = [
    &["fault", "list"],
    &["fault", "list", "--format", "json"],
    &["evaluate", "list"],
    &["check", "--only", "dashboards"],
    &["--help"],
];

fn nobody_reads() -> io::PipeWriter {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    writer
}

fn writing_to(args: &[&str], out: impl Into<Stdio>) -> Output {
    let engine = Engine::that("exit 1");
    let mut xtask = engine.xtask(args);
    xtask
        .stdout(out)
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap()
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    for args in SPEAKING {
        let output = writing_to(args, nobody_reads());
        let said = text(&output.stderr);
        assert!(
            matches!(output.status.code(), Some(0 | 141)),
            "{args:?}: {said}"
        );
        for word in ["panicked", "error", "ipe", "interrupted"] {
            assert!(!said.contains(word), "{args:?}: {said}");
        }
    }
    // What went wrong before keeps its exit code.
    let failed = writing_to(&["status", "--format", "json"], nobody_reads());
    assert_eq!(failed.status.code(), Some(3), "{}", text(&failed.stderr));
    let deaf = Engine::that("exit 1")
        .xtask(&["status", "--format", "json"])
        .stdout(nobody_reads())
        .stderr(nobody_reads())
        .status();
    assert_eq!(deaf.unwrap().code(), Some(3));
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = writing_to(&["fault", "list"], full);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("No space left"), "{said}");
}

#[test]
fn only_settings_of_ours_have_to_be_text() {
    let bytes = OsStr::from_bytes(b"80\xff");
    let folder = tempfile::tempdir().unwrap();
    let env_file: PathBuf = folder.path().join(".env");
    let up = |variable: &str| {
        Engine::that("exit 1")
            .xtask(&["up"])
            .env("AGORA_ENV_FILE", &env_file)
            .env(variable, bytes)
            .env(OsStr::from_bytes(b"JUNK\xff"), "")
            .output()
            .unwrap()
    };
    let other = up("JUNK");
    assert_eq!(other.status.code(), Some(3), "{}", text(&other.stderr));
    for ours in ["AGORA_HTTP_PORT", "AGORA_PROJECT"] {
        let refused = up(ours);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("{ours}: ")), "{said}");
    }
}
