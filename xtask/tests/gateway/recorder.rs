//! A small HTTP server that remembers every request as it came over the wire.
//!
//! It reads what the gateway sends and no more: one request a connection, and no chunked bodies, because
//! the gateway passes a body on only after it has read all of it.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use crate::client;

/// A request as it arrived.
#[derive(Debug)]
pub(crate) struct Request {
    /// The request line and the headers, each with its line end.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// Names and values of the headers, in the order and the spelling in which they came.
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

    fn read(stream: &TcpStream) -> io::Result<Option<Self>> {
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            // The gateway may open a connection in reserve and never use it.
            if reader.read_line(&mut head)? == 0 {
                return Ok(None);
            }
        }
        let mut request = Self {
            head,
            body: Vec::new(),
        };
        let length = request.header("Content-Length").unwrap_or("0");
        let length = length.parse().map_err(io::Error::other)?;
        request.body.resize(length, 0);
        reader.read_exact(&mut request.body)?;
        Ok(Some(request))
    }
}

/// The server. It serves until the test's process ends.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Recorder {
    /// Starts one that gives each request the answer of `answer`, with status line and headers.
    pub(crate) fn start(answer: fn(&Request) -> String) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let recorder = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
        };
        let requests = Arc::clone(&recorder.requests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let requests = Arc::clone(&requests);
                thread::spawn(move || serve(&stream?, &requests, answer));
            }
        });
        recorder
    }

    /// One that isn't there: connections to it are refused.
    pub(crate) fn absent() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            requests: Arc::default(),
        }
    }

    /// What arrived since the last call.
    pub(crate) fn take(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    /// The only request since the last call.
    pub(crate) fn take_one(&self) -> Request {
        let [request] = self.take().try_into().expect("not exactly one request");
        request
    }
}

fn serve(
    mut stream: &TcpStream,
    requests: &Mutex<Vec<Request>>,
    answer: fn(&Request) -> String,
) -> io::Result<()> {
    client::bound(stream)?;
    if let Some(request) = Request::read(stream)? {
        let answer = answer(&request);
        // Recorded before it is answered: whoever has the answer finds the request here.
        requests.lock().unwrap().push(request);
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// An answer that ends its connection.
pub(crate) fn answer(status: &str, headers: &[&str], body: &str) -> String {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
