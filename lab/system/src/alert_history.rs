//! A client of the project's `alert-receiver`: which alerts fired and were resolved.
//!
//! Left out: which alerts fire now; that is Prometheus's ([`crate::prometheus`]).

use base::outcome;
use chrono::{DateTime, SecondsFormat, Utc};
use records::alerts::{HISTORY_PATH, History};

use crate::{
    Part,
    http::Client,
    members::{self, Member},
};

const RECEIVER: Part = Part::AlertReceiver;

/// A client of the project's receiver.
#[derive(Debug)]
pub struct AlertReceiver {
    client: Client,
}

impl AlertReceiver {
    /// The receiver among these containers.
    pub fn new(members: &[Member]) -> anyhow::Result<Self> {
        Ok(Self {
            client: Client::new(&members::published_by(members, RECEIVER)?),
        })
    }

    /// The changes that it was notified of from `since` on; `None` asks for all that it has.
    pub fn history(&self, since: Option<DateTime<Utc>>) -> anyhow::Result<History> {
        let since = since.map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true));
        let query: Vec<(&str, &str)> = since.iter().map(|time| ("since", &**time)).collect();
        let answer = self.client.get(HISTORY_PATH, &[], &query)?;
        if answer.status != 200 {
            return Err(outcome::unavailable(
                format!("{RECEIVER} refuses: {}", answer.shown()),
                format!("`cargo xtask logs {RECEIVER}` says why"),
            ));
        }
        answer.json()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Ipv4Addr, TcpListener},
        thread,
    };

    use super::*;
    use base::outcome::Exit;

    /// A receiver that gives one answer; what it was asked is the other value.
    fn answering(
        status: &'static str,
        body: &'static str,
    ) -> (AlertReceiver, thread::JoinHandle<String>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )
            .unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let client = Client::new(&address);
        (AlertReceiver { client }, asked)
    }

    #[test]
    fn it_is_asked_for_what_came_since() {
        let (receiver, asked) = answering(
            "200 OK",
            r#"{"alerts":[],"dropped":3,"recording_since":"2026-11-25T07:00:00Z"}"#,
        );
        let since = "2026-11-25T08:00:00+00:00".parse().unwrap();
        assert_eq!(receiver.history(Some(since)).unwrap().dropped, 3);
        let asked = asked.join().unwrap();
        assert!(
            asked.starts_with("GET /alerts?since=2026-11-25T08"),
            "{asked}"
        );
        // A `+` would arrive as a space.
        assert!(!asked.lines().next().unwrap().contains('+'), "{asked}");
    }

    #[test]
    fn a_refusal_is_no_history() {
        let (receiver, _asked) = answering("400 Bad Request", r#"{"detail":"no time"}"#);
        let error = receiver.history(None).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Unavailable);
        assert!(error.to_string().contains("no time"), "{error}");
    }
}
