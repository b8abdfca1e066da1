//! A small blocking HTTP client for addresses on this machine: every request has a deadline, no proxy and no
//! redirect is followed, and a status is an answer, never an error.
//!
//! Left out: TLS, and retries.

use std::{io, time::Duration};

use anyhow::{Context, anyhow};
use base::outcome;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::Agent;

const LIMIT: Duration = Duration::from_secs(10);
/// The most of a body that is read, in bytes.
const BODY_LIMIT_BYTES: u64 = 64 * 1024 * 1024;
/// How much of a body an error repeats, in characters.
const SHOWN_BODY: usize = 400;

/// A client of one server.
#[derive(Debug, Clone)]
pub struct Client {
    agent: Agent,
    base: String,
}

/// Headers of a request, by name and value.
pub type Headers<'a> = &'a [(&'a str, &'a str)];

/// An answer: its status and its body.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

impl Client {
    /// A client of the server at `authority`: `host:port`, with `user:password@` before it where asked for.
    pub fn new(authority: &str) -> Self {
        let agent = Agent::config_builder()
            .timeout_global(Some(LIMIT))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build()
            .new_agent();
        Self {
            agent,
            base: format!("http://{authority}"),
        }
    }

    /// Sends a GET.
    pub fn get(
        &self,
        path: &str,
        headers: Headers<'_>,
        query: &[(&str, &str)],
    ) -> anyhow::Result<Answer> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.read(request.query_pairs(query.iter().copied()).call())
    }

    /// Sends a POST with a JSON body, or an empty one.
    pub fn post(
        &self,
        path: &str,
        headers: Headers<'_>,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.read(match body {
            Some(body) => request.send_json(body),
            None => request.send_empty(),
        })
    }

    /// Sends a DELETE.
    pub fn delete(&self, path: &str, headers: Headers<'_>) -> anyhow::Result<Answer> {
        let mut request = self.agent.delete(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.read(request.call())
    }

    fn read(
        &self,
        response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> anyhow::Result<Answer> {
        let mut response = response.map_err(|error| self.no_answer(&error))?;
        let status = response.status().as_u16();
        let body = response
            .body_mut()
            .with_config()
            .limit(BODY_LIMIT_BYTES)
            .read_to_string()
            .with_context(|| format!("the answer of {} broke off", self.address()))?;
        Ok(Answer { status, body })
    }

    fn no_answer(&self, error: &ureq::Error) -> anyhow::Error {
        let address = self.address();
        match error {
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                outcome::unavailable(
                    format!("nothing listens on {address}"),
                    "start the system with `cargo xtask up`",
                )
            }
            ureq::Error::Timeout(_) => outcome::unavailable(
                format!("{address} gave no answer within {} s", LIMIT.as_secs()),
                "`cargo xtask status` shows what isn't healthy",
            ),
            error => outcome::unavailable(
                format!("{address} gave no answer: {error}"),
                "`cargo xtask status` shows what isn't healthy",
            ),
        }
    }

    /// The server's address, without a password.
    fn address(&self) -> &str {
        let authority = self.base.trim_start_matches("http://");
        authority.rsplit('@').next().unwrap_or(authority)
    }
}

/// A name as one segment of a path: everything that means something there, `/` and `%` included, is escaped.
pub fn segment(name: &str) -> String {
    let escaped = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    name.bytes().map(escaped).collect()
}

impl Answer {
    /// The body as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_str(&self.body)
            .map_err(|error| anyhow!("unexpected answer ({error}): {}", self.shown()))
    }

    /// Status and the beginning of the body, for errors.
    pub fn shown(&self) -> String {
        let body: String = self.body.trim().chars().take(SHOWN_BODY).collect();
        let more = if body.len() < self.body.trim().len() {
            "…"
        } else {
            ""
        };
        format!("{} {body}{more}", self.status)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use base::outcome::{Exit, Failure};

    #[test]
    fn a_closed_port_is_a_system_that_is_not_up() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let client = Client::new(&format!("agora:secret@{address}"));
        let error = client.get("/", &[], &[]).unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert_eq!(failure.exit, Exit::Unavailable);
        assert_eq!(failure.cause, format!("nothing listens on {address}"));
    }

    #[test]
    fn a_name_stays_one_segment_of_a_path() {
        assert_eq!(
            segment("172.19.0.5:1 -> a/b%23"),
            "172.19.0.5%3A1%20-%3E%20a%2Fb%2523"
        );
    }

    #[test]
    fn a_long_body_is_shown_in_part() {
        let answer = Answer {
            status: 500,
            body: "x".repeat(1_000),
        };
        assert!(answer.shown().ends_with("x…"));
        assert!(answer.shown().len() < 500);
    }
}
