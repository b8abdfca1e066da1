//! A service as a process: its log, its exit status, and how to stop it. With `AGORA_TEST_LOG` set (and `--nocapture`) its
//! log is printed between the test's own output.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{PATIENCE, series};

/// A running service; killed when dropped.
pub struct Process {
    child: Child,
    log: mpsc::UnboundedReceiver<String>,
    ops: SocketAddr,
}

impl Process {
    /// Starts a binary with these variables and no others, on a free HTTP port.
    pub fn start(binary: &str, variables: &[(&str, &str)]) -> Self {
        let ops = free_address();
        let mut child = command(binary, ops, variables)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary can be started");
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let (sender, log) = mpsc::unbounded_channel();
        let aloud = std::env::var_os("AGORA_TEST_LOG").is_some();
        // Read continuously: a full pipe would block the service.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if aloud {
                    eprintln!("{line}");
                }
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, log, ops }
    }

    /// The next log line, `None` once the log has ended; every line must be JSON.
    pub async fn log_line(&mut self) -> Option<Value> {
        let line = tokio::time::timeout(PATIENCE, self.log.recv())
            .await
            .unwrap_or_else(|_| panic!("no log line within {PATIENCE:?}"))?;
        Some(serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}")))
    }

    /// The next log line with this message.
    pub async fn logged(&mut self, message: &str) -> Value {
        while let Some(line) = self.log_line().await {
            if line["message"] == message {
                return line;
            }
        }
        panic!("the log ended without {message:?}");
    }

    /// Waits until it serves; returns its address.
    pub async fn serving(&mut self) -> SocketAddr {
        let line = self.logged("serving").await;
        let addr = line["addr"].as_str().expect("an address");
        addr.parse().expect("an address")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its ops port.
    pub fn ops(&self) -> SocketAddr {
        self.ops
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let sent = Command::new("kill")
            .args(["-TERM", &self.pid().to_string()])
            .status();
        assert!(sent.expect("kill can be run").success());
    }

    /// Its exit status, if it has exited.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be request")
    }

    /// Waits until it has exited.
    pub async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(status) = self.exited() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the process ends")
    }

    /// The answer of `/readyz`; `None` without an answer.
    pub async fn ready(&self) -> Option<(u16, Value)> {
        let answer = reqwest::get(format!("http://{}/readyz", self.ops))
            .await
            .ok()?;
        Some((answer.status().as_u16(), answer.json().await.ok()?))
    }

    /// The answer of `/metrics`.
    pub async fn metrics(&self) -> String {
        let request = async {
            let answer = reqwest::get(format!("http://{}/metrics", self.ops)).await?;
            answer.text().await
        };
        tokio::time::timeout(PATIENCE, request)
            .await
            .unwrap_or_else(|_| panic!("no answer of the ops port within {PATIENCE:?}"))
            .expect("the ops port answers")
    }

    /// The value of one series of `/metrics`, named as in the exposition; 0 when it is missing.
    pub async fn metric(&self, name: &str) -> f64 {
        series(&self.metrics().await, name).unwrap_or(0.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A binary with these variables and no others, not started yet.
pub fn command(binary: &str, ops: SocketAddr, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary);
    command
        .env_clear()
        .env("HTTP_ADDR", "127.0.0.1:0")
        .env("OPS_ADDR", ops.to_string())
        .envs(variables.iter().copied());
    command
}

/// An address that nobody listens on. Below the range of the system's ephemeral ports, so that no other program gets it
/// before the process does.
pub fn free_address() -> SocketAddr {
    const FIRST: u16 = 20_000;
    const PORTS: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = Uuid::new_v4().as_u128() as u16 % PORTS;
    NEXT.compare_exchange(0, start.max(1), Ordering::Relaxed, Ordering::Relaxed)
        .ok();
    for _ in 0..PORTS {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no port is free");
}
