//! A minimal HTTP client, because it shares the processor with the system that it measures.
//!
//! What a benchmark can't go on without, it panics on. Left out: what is asked, and how often.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on panics")]

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The deadline of an answer; only a defect exceeds it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Posts JSON to `HOST:PORT`, once; the answer's JSON. Any answer but a success is a panic.
pub async fn post(gateway: &str, path: &str, body: &Value) -> Value {
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: agora\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = Connection::open(gateway).await;
    let (status, answer) = connection.ask(&request).await;
    assert!(status.contains(" 20"), "POST {path}: {status}");
    serde_json::from_slice(answer).expect("JSON")
}

/// A connection that is kept open.
pub struct Connection {
    stream: BufReader<TcpStream>,
    line: String,
    body: Vec<u8>,
}

impl Connection {
    /// Opens one to `HOST:PORT`.
    pub async fn open(address: &str) -> Self {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await;
        let stream = stream
            .unwrap_or_else(|_| panic!("no connection to {address} within {PATIENCE:?}"))
            .unwrap_or_else(|error| panic!("no connection to {address}: {error}"));
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::new(stream),
            line: String::new(),
            body: Vec::new(),
        }
    }

    /// Sends a request with its empty line and body; the answer's status line and body.
    pub async fn ask(&mut self, request: &str) -> (String, &[u8]) {
        self.stream.write_all(request.as_bytes()).await.unwrap();
        let (mut status, mut length) = (String::new(), 0);
        loop {
            self.line.clear();
            let read = self.stream.read_line(&mut self.line).await.unwrap();
            assert!(read > 0, "the gateway closed the connection");
            if status.is_empty() {
                status.clone_from(&self.line);
                continue;
            }
            let header = self.line.trim_end();
            if header.is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body).await.unwrap();
        (status, &self.body)
    }
}
