//! The receiver as a process, with HTTP requests as Alertmanager sends them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use records::alerts::{History, Status};
use serde_json::{Value, json};
use ureq::Agent;

const BINARY: &str = env!("CARGO_BIN_EXE_alert-receiver");
const PATIENCE: Duration = Duration::from_secs(15);

/// A receiver on a free port; killed when dropped.
struct Receiver {
    child: Child,
    log: mpsc::Receiver<String>,
    addr: String,
    agent: Agent,
}

struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

impl Receiver {
    fn start() -> Self {
        let mut child = Command::new(BINARY)
            .env_clear()
            .env("HTTP_ADDR", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary can be started");
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let (sender, log) = mpsc::channel();
        // Read continuously: a full pipe would block the process.
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.for_each(|line| drop(sender.send(line)));
        });
        let line = log.recv_timeout(PATIENCE).expect("a first line");
        let line: Value = serde_json::from_str(&line).expect("log lines are JSON");
        assert_eq!(line["message"], "serving");
        assert_eq!(line["service"], "alert-receiver");
        let agent = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .new_agent();
        Self {
            addr: line["addr"].as_str().expect("an address").to_owned(),
            child,
            log,
            agent,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    fn notify(&self, body: &str) -> Answer {
        let request = self.agent.post(self.url("/webhook"));
        let request = request.header("content-type", "application/json");
        read(request.send(body))
    }

    fn notify_of(&self, alerts: &[Value]) {
        let answer = self.notify(&notification(alerts).to_string());
        assert_eq!((answer.status, &*answer.body), (204, ""));
    }

    fn get(&self, path: &str) -> Answer {
        read(self.agent.get(self.url(path)).call())
    }

    fn history(&self) -> History {
        let answer = self.get("/alerts");
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).expect("a history")
    }

    fn terminate(&self) {
        let sent = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        assert!(sent.expect("kill can be run").success());
    }

    #[expect(clippy::disallowed_methods, reason = "std has no wait with a bound")]
    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                return status;
            }
            assert!(Instant::now() < deadline, "the process doesn't end");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let mut answer = answer.expect("an answer");
    let content_type = answer.headers().get("content-type");
    Answer {
        status: answer.status().as_u16(),
        content_type: content_type.map_or_else(String::new, |value| {
            value.to_str().expect("text").to_owned()
        }),
        body: answer.body_mut().read_to_string().expect("a body"),
    }
}

/// As Alertmanager 0.28 sends it.
fn notification(alerts: &[Value]) -> Value {
    json!({
        "receiver": "history",
        "status": "firing",
        "alerts": alerts,
        "groupLabels": { "alertname": "TargetDown" },
        "commonLabels": { "alertname": "TargetDown" },
        "commonAnnotations": {},
        "externalURL": "http://alertmanager:9093",
        "version": "4",
        "groupKey": "{}:{alertname=\"TargetDown\"}",
        "truncatedAlerts": 0,
    })
}

fn alert(status: &str, job: &str, starts_at: &str, ends_at: &str) -> Value {
    json!({
        "status": status,
        "labels": { "alertname": "TargetDown", "severity": "critical", "job": job },
        "annotations": { "summary": "it gives no metrics", "runbook": "docs/runbook.md#targetdown" },
        "startsAt": starts_at,
        "endsAt": ends_at,
        "generatorURL": "http://prometheus:9090/graph",
        "fingerprint": "b1eeb41b8f7f8d5b",
    })
}

const NEVER: &str = "0001-01-01T00:00:00Z";
const EIGHT: &str = "2026-11-25T08:00:00.5Z";
const NINE: &str = "2026-11-25T09:00:00.5Z";

fn firing(job: &str) -> Value {
    alert("firing", job, EIGHT, NEVER)
}

fn resolved(job: &str) -> Value {
    alert("resolved", job, EIGHT, NINE)
}

#[track_caller]
fn is_a_problem(answer: &Answer, status: u16, kind: &str, detail: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(answer.content_type, "application/problem+json");
    let problem: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(problem["type"], format!("urn:agora:problem:{kind}"));
    assert_eq!(problem["status"], status);
    let text = problem["detail"].as_str().expect("a detail");
    assert!(text.contains(detail), "{text}");
    assert!(text.len() <= 400, "{text}");
}

#[test]
fn a_firing_and_a_resolved_alert_are_listed_oldest_first() {
    let before = Utc::now();
    let receiver = Receiver::start();
    let mut raw: Value = serde_json::from_str(&receiver.get("/alerts").body).expect("JSON");
    // The absence of alerts is significant from then on.
    let began: DateTime<Utc> =
        serde_json::from_value(raw["recording_since"].take()).expect("a time");
    assert!(before <= began && began <= Utc::now(), "{began}");
    let empty = json!({ "alerts": [], "dropped": 0, "recording_since": null });
    assert_eq!(raw, empty);

    receiver.notify_of(&[firing("traefik")]);
    receiver.notify_of(&[resolved("traefik")]);
    let history = receiver.history();
    let [began, over] = history.alerts.as_slice() else {
        panic!("{history:?}");
    };
    assert_eq!(
        (began.status, over.status),
        (Status::Firing, Status::Resolved)
    );
    assert_eq!((&*began.name, &*began.severity), ("TargetDown", "critical"));
    assert_eq!(began.labels["job"], "traefik");
    assert_eq!(began.annotations["runbook"], "docs/runbook.md#targetdown");
    assert_eq!(
        (began.starts_at, began.ends_at),
        (EIGHT.parse().unwrap(), None)
    );
    assert_eq!(over.ends_at, Some(NINE.parse().unwrap()));
    assert!(over.is_of_the_same(began) && began.received_at <= over.received_at);
}

#[test]
fn a_repetition_is_no_change() {
    let receiver = Receiver::start();
    for _ in 0..3 {
        receiver.notify_of(&[firing("traefik"), firing("rabbitmq")]);
    }
    assert_eq!(receiver.history().alerts.len(), 2);
    // Alertmanager repeats the whole group when one of its alerts resolves.
    receiver.notify_of(&[firing("traefik"), resolved("rabbitmq")]);
    receiver.notify_of(&[firing("traefik"), resolved("rabbitmq")]);
    let history = receiver.history();
    let received: Vec<_> = history
        .alerts
        .iter()
        .map(|a| (&*a.labels["job"], a.status))
        .collect();
    assert_eq!(
        received,
        [
            ("traefik", Status::Firing),
            ("rabbitmq", Status::Firing),
            ("rabbitmq", Status::Resolved)
        ]
    );
    // And it fires again.
    receiver.notify_of(&[alert("firing", "rabbitmq", NINE, NEVER)]);
    assert_eq!(receiver.history().alerts.len(), 4);
}

#[test]
fn an_invalid_notification_is_refused_with_the_reason() {
    let receiver = Receiver::start();
    let received = |alerts: Value| {
        let mut all = notification(&[]);
        all["alerts"] = alerts;
        all.to_string()
    };
    let mut another = notification(&[]);
    another["version"] = "5".into();
    let mut unknown = firing("traefik");
    unknown["status"] = "x".repeat(10_000).into();
    for (body, detail) in [
        (String::new(), "EOF"),
        ("firing".to_owned(), "expected"),
        ("{}".to_owned(), "missing field `version`"),
        (
            received(json!([{ "status": "firing" }])),
            "missing field `labels`",
        ),
        (received(json!([unknown])), "unknown variant `xxx"),
        (
            received(json!([alert("firing", "traefik", "yesterday", NEVER)])),
            "invalid characters",
        ),
        (another.to_string(), r#"its version is "5", expected "4""#),
    ] {
        is_a_problem(&receiver.notify(&body), 400, "malformed", detail);
    }
    let history = receiver.history();
    assert_eq!((history.alerts.len(), history.dropped), (0, 0));
    // And it goes on serving.
    receiver.notify_of(&[firing("traefik")]);
    assert_eq!(receiver.history().alerts.len(), 1);
}

#[test]
fn a_notification_of_more_than_a_mebibyte_is_refused() {
    let receiver = Receiver::start();
    let with = |length: usize| {
        let mut large = firing("traefik");
        large["annotations"]["summary"] = "x".repeat(length).into();
        notification(&[large]).to_string()
    };
    let frame = with(0).len();
    let too_large = with(1024 * 1024 - frame + 1);
    is_a_problem(
        &receiver.notify(&too_large),
        413,
        "too-large",
        "1048576 bytes",
    );
    let history = receiver.history();
    assert_eq!((history.alerts.len(), history.dropped), (0, 0));
    assert_eq!(receiver.notify(&with(1024 * 1024 - frame)).status, 204);
    assert_eq!(receiver.history().alerts.len(), 1);
}

#[test]
fn a_thousand_changes_are_kept_and_older_ones_counted() {
    let receiver = Receiver::start();
    for hundred in 0..11 {
        let jobs = (0..100).map(|number| firing(&format!("job-{}", hundred * 100 + number)));
        receiver.notify_of(&jobs.collect::<Vec<_>>());
    }
    let history = receiver.history();
    assert_eq!((history.alerts.len(), history.dropped), (1_000, 100));
    assert_eq!(history.alerts[0].labels["job"], "job-100");
    // Alerts that Alertmanager itself left out of a notification count as dropped too.
    let mut cut = notification(&[]);
    cut["truncatedAlerts"] = 7.into();
    assert_eq!(receiver.notify(&cut.to_string()).status, 204);
    assert_eq!(receiver.history().dropped, 107);
}

#[test]
fn since_leaves_out_earlier_changes() {
    let receiver = Receiver::start();
    receiver.notify_of(&[firing("traefik")]);
    receiver.notify_of(&[resolved("traefik")]);
    let second = receiver.history().alerts[1].received_at;
    let path = format!("/alerts?since={}", second.to_rfc3339().replace('+', "%2B"));
    let later: History = serde_json::from_str(&receiver.get(&path).body).expect("a history");
    assert_eq!(later.alerts.len(), 1);
    assert_eq!(later.alerts[0].status, Status::Resolved);
    is_a_problem(
        &receiver.get("/alerts?since=today"),
        400,
        "malformed",
        "since",
    );
}

#[test]
fn unknown_paths_and_methods_are_refused() {
    let receiver = Receiver::start();
    is_a_problem(&receiver.get("/"), 404, "not-found", "this path");
    is_a_problem(
        &receiver.get("/webhook"),
        405,
        "method-not-allowed",
        "this method",
    );
}

/// Running requests whose bodies never arrive, each on its own connection; answered with 408 after 5 s.
fn hang(receiver: &Receiver, count: usize) -> Vec<TcpStream> {
    const HEAD: &str = "POST /webhook HTTP/1.1\r\nHost: receiver\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    // Sent when the handler reads the body.
    const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
    let request = |_| {
        let mut stream = TcpStream::connect(&receiver.addr).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(HEAD.as_bytes()).expect("it reads");
        let mut received = [0; CONTINUE.len()];
        stream.read_exact(&mut received).expect("it reads the body");
        assert_eq!(received, CONTINUE.as_bytes());
        stream
    };
    (0..count).map(request).collect()
}

#[test]
fn beyond_eight_concurrent_requests_the_next_one_is_refused() {
    let receiver = Receiver::start();
    let mut hanging = hang(&receiver, 8);
    let received = receiver.notify(&notification(&[firing("traefik")]).to_string());
    is_a_problem(&received, 503, "busy", "8 other requests");
    is_a_problem(&receiver.get("/alerts"), 503, "busy", "8 other requests");
    // A busy receiver must still be healthy.
    assert_eq!(receiver.get("/healthz").status, 200);
    // A permit is released at the end of its request.
    hanging[0].write_all(b"{}").expect("it reads");
    let mut line = String::new();
    let answer = BufReader::new(&hanging[0]).read_line(&mut line);
    assert!(answer.is_ok() && line.contains("400"), "{line}");
    receiver.notify_of(&[firing("traefik")]);
}

#[test]
fn it_shuts_down_gracefully_on_sigterm() {
    let mut receiver = Receiver::start();
    // This leaves a connection open, as Alertmanager does.
    assert_eq!(receiver.get("/healthz").body, "alive\n");
    receiver.terminate();
    assert_eq!(receiver.ended().code(), Some(0));
    let last = receiver.log.iter().last();
    assert!(
        last.expect("a last line")
            .contains(r#""message":"stopped""#)
    );
}

#[test]
fn the_health_check_queries_the_running_process() {
    let receiver = Receiver::start();
    let check = |addr: &str| {
        let check = Command::new(BINARY)
            .arg("healthcheck")
            .env_clear()
            .env("HTTP_ADDR", addr)
            .output();
        check.expect("the binary can be started").status.code()
    };
    assert_eq!(check(&receiver.addr), Some(0));
    let addr = receiver.addr.clone();
    drop(receiver);
    assert_eq!(check(&addr), Some(1));
}

#[test]
fn an_invalid_address_is_refused_by_name() {
    let refused = Command::new(BINARY)
        .env_clear()
        .env("HTTP_ADDR", "8080")
        .output();
    let refused = refused.expect("the binary can be started");
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(
        text.contains("HTTP_ADDR") && text.contains("`8080`"),
        "{text}"
    );
}
