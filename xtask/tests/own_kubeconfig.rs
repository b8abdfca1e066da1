//! The user's own kubeconfig is used only for a context that was named, and a namespace that agora didn't make is left alone.
//!
//! The API server is one of this test, which answers kubectl's questions and counts them. Left out: a real cluster
//! (`cluster`).

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
};

const EXIT_USAGE: i32 = 2;
const EXIT_UNAVAILABLE: i32 = 3;
const CONTEXT: &str = "production";
/// Commands that work on Kubernetes, those that change something first.
const COMMANDS: [&[&str]; 24] = [
    &["up"],
    &["down", "--volumes"],
    &["demo"],
    &["load"],
    &["evaluate", "inbox"],
    &["fault", "lock-table", "inventory", "stock"],
    &["heal"],
    &["scale", "order-service", "2"],
    &["rollout", "order-service"],
    &["keys", "list"],
    &["dlq", "list"],
    &["orders", "stuck"],
    &["outbox", "parked"],
    &["status"],
    &["logs"],
    &["smoke"],
    &["attack"],
    &["alerts"],
    &["verify-api"],
    &["verify-dashboards"],
    &["verify-dlq"],
    &["verify-ledger"],
    &["verify-metrics"],
    &["verify-traces"],
];

/// An API server with one namespace, to which somebody applied the manifests by hand.
struct ApiServer {
    address: String,
    /// Method and path of each request.
    requests: Arc<Mutex<Vec<String>>>,
}

impl ApiServer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        // Until the test's process ends.
        thread::spawn(move || {
            for connection in listener.incoming() {
                let seen = Arc::clone(&seen);
                thread::spawn(move || serve(connection.unwrap(), &seen));
            }
        });
        Self { address, requests }
    }

    fn kubeconfig(&self, folder: &Path) -> String {
        let path = folder.join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: {CONTEXT}\n\
             clusters: [{{name: c, cluster: {{server: \"http://{}\"}}}}]\n\
             users: [{{name: u, user: {{}}}}]\n\
             contexts: [{{name: {CONTEXT}, context: {{cluster: c, user: u}}}}]\n",
            self.address
        );
        fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    }

    fn seen(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Answers requests until the client leaves.
fn serve(connection: TcpStream, seen: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let mut writer = connection;
    loop {
        let mut line = String::new();
        if !matches!(reader.read_line(&mut line), Ok(1..)) {
            return;
        }
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap().to_owned());
        seen.lock().unwrap().push(format!("{method} {path}"));
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
            if header.trim().is_empty() {
                break;
            }
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).unwrap();
        let (status, body) = answer(path.split('?').next().unwrap());
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(path: &str) -> (&'static str, &'static str) {
    let body = match path {
        "/api" => r#"{"kind":"APIVersions","versions":["v1"]}"#,
        "/apis" => r#"{"kind":"APIGroupList","apiVersion":"v1","groups":[]}"#,
        "/api/v1" => {
            r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"v1","resources":[
            {"name":"namespaces","singularName":"namespace","namespaced":false,"kind":"Namespace","verbs":["get","delete"]}]}"#
        }
        "/api/v1/namespaces/agora" => {
            r#"{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"agora","labels":{"app.kubernetes.io/part-of":"agora"}}}"#
        }
        _ => {
            return (
                "404 Not Found",
                r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":404,"reason":"NotFound","message":"no"}"#,
            );
        }
    };
    ("200 OK", body)
}

/// Runs a command with this kubeconfig as the user's own, and returns its exit code and what it said.
fn run(args: &[&str], kubeconfig: &str, home: &Path) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(args)
        // One without a local cluster.
        .env("AGORA_PROJECT", "agora-kubeconfig-test")
        .env("AGORA_ENV_FILE", home.join("env"))
        .env("AGORA_ENGINE", "kubernetes")
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", home)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [stdout, stderr].concat();
    (status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn has_kubectl() -> bool {
    let version = Command::new("kubectl")
        .args(["version", "--client"])
        .output();
    version.is_ok_and(|output| output.status.success())
}

#[test]
fn without_a_named_context_the_users_own_cluster_is_not_asked() {
    let server = ApiServer::start();
    let home = tempfile::tempdir().unwrap();
    let kubeconfig = server.kubeconfig(home.path());
    for command in COMMANDS {
        let (code, said) = run(command, &kubeconfig, home.path());
        assert_eq!(code, Some(EXIT_UNAVAILABLE), "{command:?}: {said}");
        assert!(said.contains("no local cluster"), "{command:?}: {said}");
    }
    assert_eq!(server.seen(), [""; 0]);
    // One that isn't for Kubernetes doesn't take Compose's system instead.
    let (code, said) = run(&["bench", "--only", "gateway"], &kubeconfig, home.path());
    assert_eq!(code, Some(EXIT_USAGE), "{said}");
    assert!(said.contains("doesn't know Kubernetes"), "{said}");
}

#[test]
fn a_namespace_of_others_is_left_alone() {
    if !has_kubectl() {
        println!("SKIPPED: there is no kubectl");
        return;
    }
    let server = ApiServer::start();
    let home = tempfile::tempdir().unwrap();
    let kubeconfig = server.kubeconfig(home.path());
    for command in COMMANDS {
        let command = [command, &["--context", CONTEXT]].concat();
        let (code, said) = run(&command, &kubeconfig, home.path());
        assert_eq!(code, Some(EXIT_USAGE), "{command:?}: {said}");
        assert!(said.contains("somebody else's"), "{command:?}: {said}");
    }
    let seen = server.seen();
    // So the other test could fail, too.
    let asked = |path: &str| seen.iter().any(|request| request.contains(path));
    assert!(asked("GET /api/v1/namespaces/agora"), "{seen:?}");
    let changes = seen.iter().find(|request| !request.starts_with("GET "));
    assert_eq!(changes, None, "{seen:?}");

    let unknown = ["status", "--context", "elsewhere"];
    let (code, said) = run(&unknown, &kubeconfig, home.path());
    assert_eq!(code, Some(EXIT_USAGE), "{said}");
    assert!(said.contains("it has production"), "{said}");
}
