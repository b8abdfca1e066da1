//! A small HTTP server that remembers every request as it came over the wire.
//!
//! It understands what the gateway sends and no more: one request a connection, and no chunked bodies,
//! because the gateway reads a body to its end before it passes it on.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use crate::client;

/// A request as it arrived.
#[derive(Debug)]
pub(crate) struct Request {
    /// The request line and the headers, each with its line end.
    pub(crate) head: String,
    /// As many bytes as `Content-Length` says.
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// Names and values of the headers, in the spelling and the order in which they came.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.head.lines().skip(1);
        lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name, value.trim()))
    }

    /// The value of the first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// `None` when the connection ends without one: the gateway may open connections in reserve.
    fn read(stream: &TcpStream) -> io::Result<Option<Self>> {
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(None);
            }
        }
        let body = Vec::new();
        let mut request = Self { head, body };
        let length = request.header("Content-Length").unwrap_or("0");
        let length = length.parse().map_err(io::Error::other)?;
        request.body.resize(length, 0);
        reader.read_exact(&mut request.body)?;
        Ok(Some(request))
    }
}

/// The server. It serves until the process of the test ends.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    requests: Receiver<Request>,
    /// Kept by one that never accepts.
    _hanging: Option<TcpListener>,
}

impl Recorder {
    /// Starts one that gives each request what `answer` makes.
    pub(crate) fn start(answer: fn(&Request) -> String) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no free port");
        let address = listener.local_addr().expect("a listener has an address");
        let (recorder, requests) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let recorder = recorder.clone();
                thread::spawn(move || serve(&stream?, &recorder, answer));
            }
        });
        Self {
            address,
            requests,
            _hanging: None,
        }
    }

    /// One like a paused process: the kernel takes connections and requests, and nobody answers.
    pub(crate) fn hanging() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no free port");
        Self {
            address: listener.local_addr().expect("a listener has an address"),
            requests: mpsc::channel().1,
            _hanging: Some(listener),
        }
    }

    /// One that isn't there: connections to it are refused.
    pub(crate) fn absent() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            requests: mpsc::channel().1,
            _hanging: None,
        }
    }

    /// What arrived since the last call.
    pub(crate) fn take(&self) -> Vec<Request> {
        self.requests.try_iter().collect()
    }

    /// What arrived since the last call, which has to be one request.
    pub(crate) fn take_one(&self) -> Request {
        let [request] = self.take().try_into().expect("not one request");
        request
    }
}

fn serve(
    mut stream: &TcpStream,
    recorder: &Sender<Request>,
    answer: fn(&Request) -> String,
) -> io::Result<()> {
    client::bound(stream)?;
    if let Some(request) = Request::read(stream)? {
        let answer = answer(&request);
        // Before the answer, so that whoever has the answer finds the request. The test may be over.
        let _ = recorder.send(request);
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// No answer: the connection ends, as it does when a process is killed.
pub(crate) const BROKEN_OFF: &str = "";

/// An answer, after which the connection ends.
pub(crate) fn answer(status: &str, headers: &[&str], body: &str) -> String {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
